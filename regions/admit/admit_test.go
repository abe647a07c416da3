package admit_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/admit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const llama = regions.ModelName("llama")

// desk is an admission to a number of places, in a bubble of synctest.
type desk struct {
	t  *testing.T
	a  *admit.Admission
	in sync.WaitGroup

	mu    sync.Mutex
	free  int
	order []string     // names in the order in which they got a place
	lines []admit.Line // as each of them saw it
	errs  map[string]error
}

func newDesk(t *testing.T, free int, tune func(*admit.Options)) *desk {
	o := admit.DefaultOptions()
	if tune != nil {
		tune(&o)
	}
	return &desk{t: t, a: admit.New(o), free: free, errs: map[string]error{}}
}

// try takes a place if one is free.
func (d *desk) try(name string) admit.Try {
	return func(_ time.Time, line admit.Line) admit.Verdict {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.free == 0 {
			return admit.Wait
		}
		d.free--
		d.order, d.lines = append(d.order, name), append(d.lines, line)
		return admit.Done
	}
}

// come has a request enter, and waits until it is in or in line.
func (d *desk) come(name string, req regions.Request) {
	d.enter(d.t.Context(), name, req, d.try(name))
}

func (d *desk) enter(ctx context.Context, name string, req regions.Request, try admit.Try) {
	req.Model = llama
	since := time.Now()
	d.in.Go(func() {
		err := d.a.Enter(ctx, req, since, try)
		d.mu.Lock()
		defer d.mu.Unlock()
		d.errs[name] = err
	})
	synctest.Wait()
}

// release frees places.
func (d *desk) release(n int) {
	d.mu.Lock()
	d.free += n
	d.mu.Unlock()
	d.a.Free(llama)
	synctest.Wait()
}

func (d *desk) wantOrder(want ...string) {
	d.t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if !slices.Equal(d.order, want) {
		d.t.Errorf("places went to %v, want %v", d.order, want)
	}
}

// refusal is the error that a request ended with.
func (d *desk) refusal(name string) *admit.RefusedError {
	d.t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	var refused *admit.RefusedError
	if !errors.As(d.errs[name], &refused) {
		d.t.Fatalf("%s ended with %v, want a refusal", name, d.errs[name])
	}
	return refused
}

// pass lets the bubble's time go on.
func pass(d time.Duration) { <-time.After(d) }

func TestFirstComeFirstServedByClass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, 1, nil)
		d.come("a", regions.Request{})
		d.come("b", regions.Request{})
		pass(time.Millisecond)
		d.come("low", regions.Request{Class: regions.ClassLow})
		pass(time.Millisecond)
		d.come("c", regions.Request{})
		pass(time.Millisecond)
		d.come("high", regions.Request{Class: regions.ClassHigh})
		d.wantOrder("a")
		if got := d.a.Waiting()[llama]; got != 4 {
			t.Errorf("%d wait, want 4", got)
		}
		d.release(3)
		d.wantOrder("a", "high", "b", "c")
		d.release(1)
		d.wantOrder("a", "high", "b", "c", "low")
		d.in.Wait()
	})
}

// TestNobodyIsOvertaken: a newcomer that finds a free place and others in line does not
// take it from them.
func TestNobodyIsOvertaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, 0, nil)
		d.come("a", regions.Request{})
		d.mu.Lock()
		d.free = 1 // and nobody was told
		d.mu.Unlock()
		d.come("b", regions.Request{})
		d.wantOrder()
		pass(admit.DefaultOptions().Poll) // found out all the same
		synctest.Wait()
		d.wantOrder("a")
		d.release(1)
		d.in.Wait()
	})
}

// TestWhoComesBackKeepsItsPlace: a request that lost its pod is served by when it came.
func TestWhoComesBackKeepsItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, 0, nil)
		came := time.Now()
		pass(time.Second)
		d.come("young", regions.Request{})
		d.in.Go(func() {
			if err := d.a.Enter(t.Context(), regions.Request{Model: llama}, came, d.try("old")); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		d.release(2)
		d.wantOrder("old", "young")
		d.in.Wait()
	})
}

func TestWhoCannotTakeWhatIsFreeIsPassed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, 0, nil)
		picky := true
		d.enter(t.Context(), "picky", regions.Request{Frontend: regions.GRPC}, func(now time.Time, line admit.Line) admit.Verdict {
			if d.mu.Lock(); picky {
				d.mu.Unlock()
				return admit.Pass
			}
			d.mu.Unlock()
			return d.try("picky")(now, line)
		})
		d.come("b", regions.Request{})
		d.come("c", regions.Request{})
		d.release(1)
		d.wantOrder("b")
		d.mu.Lock()
		picky = false
		d.mu.Unlock()
		d.release(2)
		d.wantOrder("b", "picky", "c")
		d.in.Wait()
	})
}

// TestNobodyIsStarved: many who can take nothing of what is free, of the same kind or each of
// its own, stand before nobody else, who may come later.
func TestNobodyIsStarved(t *testing.T) {
	for name, request := range map[string]regions.Request{
		"calls":   {Frontend: regions.GRPC},
		"resumes": {Same: regions.Fingerprint{Version: 7}},
		"retries": {Tried: []regions.PodID{"a"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDesk(t, 0, nil)
				ctx, leave := context.WithCancel(t.Context())
				tries := 0
				for i := range 100 {
					d.enter(ctx, fmt.Sprint("stuck ", i), request, func(time.Time, admit.Line) admit.Verdict {
						tries++
						return admit.Pass
					})
				}
				d.come("b", regions.Request{})
				tries = 0
				d.release(1)
				d.wantOrder("b")
				if tries > 2*16 {
					t.Errorf("%d tries for a release", tries)
				}
				d.release(1)
				d.come("c", regions.Request{}) // there is room
				d.wantOrder("b", "c")
				leave()
				d.in.Wait()
			})
		})
	}
}

func TestWaitsEndInTime(t *testing.T) {
	for name, tt := range map[string]struct {
		asked, want time.Duration
	}{
		"by default":           {0, 30 * time.Second},
		"as asked":             {2 * time.Second, 2 * time.Second},
		"more than is allowed": {time.Hour, 10 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDesk(t, 0, nil)
				begun := time.Now()
				d.come("a", regions.Request{MaxWait: tt.asked})
				d.in.Wait()
				if got := time.Since(begun); got != tt.want {
					t.Errorf("waited for %v, want %v", got, tt.want)
				}
				if why := d.refusal("a").Reason; why != admit.Late {
					t.Errorf("refused for %v, want %v", why, admit.Late)
				}
				d.release(1)
				d.wantOrder() // it is not tried any more
			})
		})
	}
}

func TestWhoLeavesGivesUpItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, 0, nil)
		ctx, leave := context.WithCancel(t.Context())
		d.enter(ctx, "a", regions.Request{}, d.try("a"))
		d.come("b", regions.Request{})
		leave()
		synctest.Wait()
		if err := d.errs["a"]; !errors.Is(err, context.Canceled) {
			t.Errorf("a ended with %v", err)
		}
		d.release(1)
		d.wantOrder("b")
		d.in.Wait()
	})
}

func TestTheLineIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, 0, func(o *admit.Options) { o.Bound = 3 })
		for _, name := range []string{"a", "b", "c"} {
			pass(time.Millisecond)
			d.come(name, regions.Request{})
		}
		d.come("d", regions.Request{})
		if why := d.refusal("d").Reason; why != admit.Full {
			t.Errorf("d was refused for %v, want %v", why, admit.Full)
		}
		d.come("low", regions.Request{Class: regions.ClassLow})
		if why := d.refusal("low").Reason; why != admit.Full {
			t.Errorf("low was refused for %v, want %v", why, admit.Full)
		}
		d.come("high", regions.Request{Class: regions.ClassHigh})
		if why := d.refusal("c").Reason; why != admit.Crowded {
			t.Errorf("c was refused for %v, want %v", why, admit.Crowded)
		}
		d.release(3)
		d.wantOrder("high", "a", "b")
		d.in.Wait()
	})
}

// TestRetryAfterIsByTheDrainRate: a line that moves by two a second tells the one who
// can't wait how long all before it take.
func TestRetryAfterIsByTheDrainRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, 0, func(o *admit.Options) { o.Bound = 20 })
		for i := range 20 {
			d.come(fmt.Sprint(i), regions.Request{MaxWait: time.Minute})
		}
		for range 10 {
			pass(500 * time.Millisecond)
			d.release(1)
		}
		for i := range 10 {
			d.come(fmt.Sprint(20+i), regions.Request{MaxWait: time.Minute})
		}
		d.come("one too many", regions.Request{MaxWait: time.Minute})
		// 20 at two a second, and up to a fifth more lest all come back at once.
		if got := d.refusal("one too many").RetryAfter; got < 10*time.Second || got > 12*time.Second {
			t.Errorf("told to come back in %v, want 10 to 12 s", got)
		}
		d.come("in a hurry", regions.Request{Class: regions.ClassHigh, MaxWait: time.Millisecond})
		d.mu.Lock()
		if d.errs["in a hurry"] != nil {
			t.Errorf("nobody is ahead of the higher class, and yet it ended with %v", d.errs["in a hurry"])
		}
		d.mu.Unlock()
		d.release(30)
		d.come("late", regions.Request{})
		d.in.Wait()
	})
}

// TestWhoWouldWaitForTooLongIsToldAtOnce spares both sides the wait.
func TestWhoWouldWaitForTooLongIsToldAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, 0, nil)
		for i := range 20 {
			d.come(fmt.Sprint(i), regions.Request{})
		}
		for range 4 {
			pass(time.Second)
			d.release(1)
		}
		begun := time.Now()
		d.come("patient", regions.Request{MaxWait: 20 * time.Second})
		d.come("impatient", regions.Request{MaxWait: 10 * time.Second})
		if why := d.refusal("impatient").Reason; why != admit.Late || time.Since(begun) != 0 {
			t.Errorf("refused for %v after %v, want %v at once", why, time.Since(begun), admit.Late)
		}
		d.release(17)
		d.in.Wait()
		if d.errs["patient"] != nil {
			t.Error(d.errs["patient"])
		}
	})
}

// TestOverflowHasTwoThresholds: a line is too long above half a second of wait, until
// it is below a tenth.
// TestTroubleIsForgotten: how slowly a line moved does not keep out a burst after a calm.
func TestTroubleIsForgotten(t *testing.T) {
	for _, c := range []struct {
		calm    time.Duration
		refused int
	}{{20 * time.Second, 24}, {31 * time.Second, 0}} {
		synctest.Test(t, func(t *testing.T) {
			d := newDesk(t, 0, nil)
			for i := range 5 {
				d.come(fmt.Sprint("old", i), regions.Request{})
			}
			for range 5 { // one each 2.4 s, so that the 13th waits for 30 s
				pass(2400 * time.Millisecond)
				d.release(1)
			}
			d.in.Wait()
			pass(c.calm)
			for i := range 40 {
				d.come(fmt.Sprint("new", i), regions.Request{})
			}
			for range 40 { // 4 s in all
				pass(100 * time.Millisecond)
				d.release(1)
			}
			d.in.Wait()
			refused := 0
			for i := range 40 {
				if d.errs[fmt.Sprint("new", i)] != nil {
					refused++
				}
			}
			if refused != c.refused {
				t.Errorf("after %v: refused %d of 40, want %d", c.calm, refused, c.refused)
			}
		})
	}
}

func TestOverflowHasTwoThresholds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, 0, nil)
		for i := range 40 {
			d.come(fmt.Sprint(i), regions.Request{})
		}
		// Ten a second: 40 wait for 4 s, the last five for half a second.
		for range 40 {
			pass(100 * time.Millisecond)
			d.release(1)
		}
		d.in.Wait()
		for i, line := range d.lines {
			// Too long once four have shown how fast it moves, and still with the last in
			// line, who would wait for a tenth.
			if line.Overflow != (i > 3) {
				t.Errorf("%d: overflow %v with %d in line", i, line.Overflow, line.Waiting)
			}
		}
		pass(time.Minute)
		d.come("later", regions.Request{})
		d.release(1)
		d.in.Wait()
		if last := d.lines[len(d.lines)-1]; last.Overflow {
			t.Errorf("a single request in line is an overflow: %+v", last)
		}
	})
}

func TestALineOfNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, 1, func(o *admit.Options) { o.Bound = 0 })
		d.come("a", regions.Request{})
		d.come("b", regions.Request{Class: regions.ClassHigh})
		d.wantOrder("a")
		if why := d.refusal("b").Reason; why != admit.Full {
			t.Errorf("b was refused for %v, want %v", why, admit.Full)
		}
	})
}

// TestRefusedLately: who could not wait counts for ten seconds, and who waited in
// vain, or came from another region, does not.
func TestRefusedLately(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, 0, func(o *admit.Options) { o.Bound = 2 })
		counts := func(want int) {
			t.Helper()
			if got := d.a.Refused(); got[llama] != want || len(got) > 1 {
				t.Errorf("refused lately: %v, want %d", got, want)
			}
		}
		pass := func(d time.Duration) { <-time.After(d) }
		d.come("waits in vain", regions.Request{MaxWait: 20 * time.Second})
		d.come("waits too", regions.Request{MaxWait: 20 * time.Second})
		counts(0)
		d.come("one too many", regions.Request{})
		counts(1)
		d.come("from elsewhere", regions.Request{From: "us-east"})
		counts(1)
		pass(5 * time.Second)
		d.come("in a hurry", regions.Request{MaxWait: time.Second})
		counts(2)
		d.come("of a higher class", regions.Request{Class: regions.ClassHigh})
		counts(3)
		pass(4 * time.Second)
		counts(3)
		pass(time.Second)
		counts(2)
		pass(5 * time.Second)
		counts(0)
		pass(time.Hour)
		counts(0)
		d.in.Wait()
	})
}
