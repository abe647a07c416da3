package slots_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/slots"
)

// epoch is where the tests' time begins.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

const ms = time.Millisecond

// request is one that was served.
func request(inFlight, ahead, prompt int, ttft time.Duration) slots.Observation {
	return slots.Observation{InFlight: inFlight, Ahead: ahead, Outcome: regions.Outcome{
		End: regions.EndServed, TTFT: ttft, Took: ttft + time.Second, SawBytes: true, Prompt: prompt,
	}}
}

// TestStep follows the estimate of a pod over time.
func TestStep(t *testing.T) {
	const size, larger = 1000, 3000
	type step struct {
		after time.Duration
		times int
		obs   slots.Observation
		want  int
	}
	base := step{0, 3, request(2, 0, size, 100*ms), 8}
	fails := request(8, 0, size, 2*time.Second)
	fails.Outcome.End = regions.EndPodError
	leaves := request(8, 1, size, 100*ms)
	leaves.Outcome.End = regions.EndClientGone
	silent := request(8, 0, size, 0)
	for _, c := range []struct {
		name  string
		prior slots.Prior
		steps []step
	}{
		{"a full pod that answers at once has more slots", slots.Prior{Slots: 8, Assumed: true}, []step{
			base, {0, 7, request(8, 1, size, 250*ms), 8}, {0, 1, request(8, 1, size, 250*ms), 9}, {0, 7, request(9, 4, size, 100*ms), 9}, {0, 1, request(9, 4, size, 100*ms), 10},
		}},
		{"not if nobody waits", slots.Prior{Slots: 8, Assumed: true}, []step{base, {0, 100, request(8, 0, size, 100*ms), 8}}},
		{"not while there is a free slot", slots.Prior{Slots: 8, Assumed: true}, []step{base, {0, 100, request(7, 3, size, 100*ms), 8}}},
		{"nor without a baseline of that size", slots.Prior{Slots: 8, Assumed: true}, []step{
			base, {0, 2, request(2, 0, larger, 300*ms), 8}, {0, 100, request(9, 1, larger, 100*ms), 8},
		}},
		{"of which the first are one", slots.Prior{Slots: 8, Assumed: true}, []step{
			{0, 3, request(8, 1, size, 100*ms), 8}, {0, 7, request(8, 1, size, 100*ms), 8}, {0, 1, request(8, 1, size, 100*ms), 9},
		}},
		{"and one that was slow is mended", slots.Prior{Slots: 8, Assumed: true}, []step{
			{0, 3, request(8, 0, size, 2*time.Second), 8}, {0, 100, request(8, 0, size, 100*ms), 8}, {0, 8, request(8, 0, size, time.Second), 7},
		}},
		{"a wait with a slot to be had is one slot fewer", slots.Prior{Slots: 8, Assumed: true}, []step{
			base, {0, 7, request(8, 0, size, 500*ms), 8}, {0, 1, request(8, 0, size, 500*ms), 7}, {0, 8, request(6, 0, size, 500*ms), 6},
		}},
		{"a wait without one says nothing", slots.Prior{Slots: 8, Assumed: true}, []step{base, {0, 100, request(20, 12, size, 5*time.Second), 8}}},
		{"between soon and late nothing moves", slots.Prior{Slots: 8, Assumed: true}, []step{base, {0, 100, request(8, 1, size, 251*ms), 8}, {0, 100, request(8, 1, size, 499*ms), 8}}},
		{"six of eight must agree", slots.Prior{Slots: 8, Assumed: true}, []step{
			base, {0, 3, request(8, 1, size, 300*ms), 8}, {0, 5, request(8, 1, size, 100*ms), 8},
			{0, 2, request(8, 1, size, 300*ms), 8}, {0, 6, request(8, 1, size, 100*ms), 9},
		}},
		{"never below half", slots.Prior{Slots: 8, Assumed: true}, []step{base, {0, 100, request(4, 0, size, 100*ms), 8}, {0, 200, request(5, 0, size, time.Second), 4}}},
		{"nor above twice what an operator said", slots.Prior{Slots: 8}, []step{base, {0, 1000, request(30, 1, size, 100*ms), 16}}},
		{"but above what was assumed", slots.Prior{Slots: 8, Assumed: true}, []step{base, {0, 10000, request(2000, 1, size, 100*ms), 1024}}},
		{"what proved too high is tried again after a minute", slots.Prior{Slots: 8, Assumed: true}, []step{
			base, {0, 8, request(8, 1, size, 100*ms), 9}, {0, 8, request(9, 1, size, time.Second), 8},
			{59 * time.Second, 100, request(8, 1, size, 100*ms), 8}, {time.Second, 8, request(8, 1, size, 100*ms), 9},
		}},
		{"meanwhile it comes back to just below", slots.Prior{Slots: 64, Assumed: true}, []step{
			{0, 3, request(2, 0, size, 100*ms), 64}, {0, 8, request(64, 0, size, time.Second), 60},
			{time.Second, 100, request(64, 1, size, 100*ms), 63},
		}},
		{"a pod that fails or is silent teaches nothing", slots.Prior{Slots: 8, Assumed: true}, []step{base, {0, 100, fails, 8}, {0, 100, silent, 8}, {0, 100, request(0, 5, size, 100*ms), 8}}},
		{"a client that leaves has had its first token", slots.Prior{Slots: 8, Assumed: true}, []step{base, {0, 8, leaves, 9}}},
		{"one slow answer does not make others look fast", slots.Prior{Slots: 8, Assumed: true}, []step{
			base, {0, 1, request(1, 0, size, time.Minute), 8}, {0, 8, request(8, 0, size, 700*ms), 7},
		}},
		{"a pod of no slots has one", slots.Prior{}, []step{{0, 3, request(1, 0, 0, 100*ms), 1}, {0, 8, request(2, 1, 0, 100*ms), 2}, {0, 8, request(2, 0, 0, 9*time.Second), 1}}},
	} {
		s, now, p := slots.Start(c.prior), epoch, slots.DefaultPolicy()
		if s.Learned() {
			t.Errorf("%s: learnt from nothing", c.name)
		}
		for i, st := range c.steps {
			now = now.Add(st.after)
			for range st.times {
				s = p.Step(s, st.obs, now)
			}
			if s.Slots() != st.want {
				t.Errorf("%s: step %d: %d slots, want %d", c.name, i, s.Slots(), st.want)
			}
		}
	}
}

// anyRequest draws what can be observed.
func anyRequest(t *rapid.T) slots.Observation {
	o := request(rapid.IntRange(-1, 80).Draw(t, "in flight"), rapid.IntRange(0, 2).Draw(t, "ahead"),
		rapid.SampledFrom([]int{-1, 0, 100, 5000, 1 << 40}).Draw(t, "prompt"), time.Duration(rapid.IntRange(-1, 1000).Draw(t, "ttft"))*ms)
	o.Outcome.End = regions.End(rapid.IntRange(0, 6).Draw(t, "end"))
	if rapid.Bool().Draw(t, "served") {
		o.Outcome.End = regions.EndServed
	}
	return o
}

// anyState draws one that can be reached.
func anyState(t *rapid.T) (slots.State, time.Time) {
	p, now := slots.DefaultPolicy(), epoch
	p.Window = 2 // so that few requests go far
	s := slots.Start(slots.Prior{Slots: rapid.IntRange(1, 40).Draw(t, "prior"), Assumed: rapid.Bool().Draw(t, "assumed")})
	for range rapid.IntRange(0, 200).Draw(t, "requests") {
		now = now.Add(time.Duration(rapid.IntRange(0, 20).Draw(t, "pause")) * time.Second)
		s = p.Step(s, anyRequest(t), now)
	}
	return s, now
}

// TestBounds: whatever is observed, the estimate is never below half of the prior
// nor above its bound, and moves by one at most upwards.
func TestBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, now := anyState(t)
		most := 2 * s.Prior().Slots
		if s.Prior().Assumed {
			most = slots.DefaultPolicy().Most
		}
		if s.Slots() < max(1, s.Prior().Slots/2) || s.Slots() > most {
			t.Fatalf("%d slots of %+v", s.Slots(), s.Prior())
		}
		next := slots.DefaultPolicy().Step(s, anyRequest(t), now)
		if next.Slots() > s.Slots()+1 || next.Slots() < s.Slots()-max(1, s.Slots()/16) {
			t.Fatalf("from %d to %d slots", s.Slots(), next.Slots())
		}
		if (next.Slots() != s.Slots()) && !next.Learned() {
			t.Fatal("a step that was not learnt")
		}
	})
}

// TestSlowerIsNotMore: a request that was answered later never makes for more
// slots, and one that had more others beside it never for fewer.
func TestSlowerIsNotMore(t *testing.T) {
	p := slots.DefaultPolicy()
	p.Window = 2
	rapid.Check(t, func(t *rapid.T) {
		s, now := anyState(t)
		o := anyRequest(t)
		slower := o
		slower.Outcome.TTFT += time.Duration(rapid.IntRange(0, 3000).Draw(t, "slower")) * ms
		if o.Outcome.TTFT <= 0 {
			return // no answer is neither soon nor late
		}
		if fast, slow := p.Step(s, o, now).Slots(), p.Step(s, slower, now).Slots(); slow > fast {
			t.Fatalf("%v: %d slots; %v: %d slots", o.Outcome.TTFT, fast, slower.Outcome.TTFT, slow)
		}
		crowded := o
		crowded.InFlight += rapid.IntRange(0, 40).Draw(t, "more")
		if o.InFlight > s.Slots()/2 && o.InFlight > 1 && o.Ahead > 0 {
			if few, many := p.Step(s, o, now).Slots(), p.Step(s, crowded, now).Slots(); many < few {
				t.Fatalf("with %d in flight: %d slots; with %d: %d slots", o.InFlight, few, crowded.InFlight, many)
			}
		}
	})
}

// TestFindsTheSlotsOfAPod: from an assumption of 8, with clients who always want
// more than the pod has, the estimate comes to the pod's slots and stays there.
func TestFindsTheSlotsOfAPod(t *testing.T) {
	for _, truth := range []int{8, 32, 64} {
		for seed := range uint64(3) {
			t.Run(fmt.Sprintf("%d slots, seed %d", truth, seed), func(t *testing.T) {
				low, high := within(truth)
				pod := newSimulation(truth, seed)
				pod.clients = func(time.Duration) int { return 2 * truth }
				found := time.Duration(-1)
				pod.run(30*time.Minute, func(at time.Duration, learned int) {
					switch {
					case learned >= low && found < 0:
						found = at
					case found >= 0 && (learned < low || learned > high):
						t.Errorf("%d slots after %v", learned, at)
					}
				})
				t.Logf("found after %v, at the end %d slots", found.Round(time.Second), pod.state.Slots())
				if found < 0 || found > 8*time.Minute {
					t.Errorf("found after %v", found)
				}
			})
		}
	}
}

// TestIdlePodIsNotLearned: without anybody who waits there is nothing to learn.
func TestIdlePodIsNotLearned(t *testing.T) {
	pod := newSimulation(64, 1)
	pod.clients = func(time.Duration) int { return 6 }
	pod.run(10*time.Minute, func(time.Duration, int) {})
	if pod.state.Slots() != 8 || pod.state.Learned() {
		t.Errorf("%d slots", pod.state.Slots())
	}
}

// TestWithoutAQueueAtTheGateway: where all that comes goes to the pod, a load that
// comes and goes teaches its slots from below, and never many more than it has.
func TestWithoutAQueueAtTheGateway(t *testing.T) {
	for _, truth := range []int{8, 32, 64} {
		low, high := within(truth)
		pod := newSimulation(truth, 7)
		pod.open = true
		pod.clients = func(at time.Duration) int { // from a tenth to three halves, over 10 min
			phase := float64(at%(10*time.Minute)) / float64(10*time.Minute)
			return int(float64(truth) * (.1 + 1.4*phase))
		}
		pod.run(time.Hour, func(at time.Duration, learned int) {
			if learned > high {
				t.Errorf("%d slots: learnt %d after %v", truth, learned, at)
			}
		})
		t.Logf("%d slots: learnt %d", truth, pod.state.Slots())
		if pod.state.Slots() < low {
			t.Errorf("%d slots: learnt %d after an hour", truth, pod.state.Slots())
		}
	}
}

// within is how far an estimate may be off: an eighth, and one.
func within(truth int) (low, high int) { return truth - truth/8 - 1, truth + truth/8 + 1 }

// simulation is a pod and those who want something of it, in virtual time.
type simulation struct {
	truth   int // slots
	clients func(at time.Duration) int
	open    bool // all that comes goes to the pod
	rng     *rand.Rand
	policy  slots.Policy
	state   slots.State

	now      time.Duration
	asking   int // clients with a request
	waiting  int // of these, at the gateway
	inFlight int // of these, on the pod
	queue    []*sequence
	running  []*sequence
}

// sequence is a request on the pod.
type sequence struct {
	obs     slots.Observation
	claimed time.Duration
	ends    time.Duration
}

func newSimulation(truth int, seed uint64) *simulation {
	return &simulation{
		truth: truth, rng: rand.New(rand.NewPCG(seed, uint64(truth))), policy: slots.DefaultPolicy(),
		state: slots.Start(slots.Prior{Slots: 8, Assumed: true}),
	}
}

// run lets time pass in steps of 5 ms and tells the estimate each second. Clients
// come one after the other, within the first minute.
func (s *simulation) run(until time.Duration, tell func(at time.Duration, learned int)) {
	const tick = 5 * ms
	for ; s.now < until; s.now += tick {
		wanted := s.clients(s.now)
		if s.now < time.Minute {
			wanted = int(int64(wanted) * int64(s.now) / int64(time.Minute))
		}
		for ; s.asking < wanted; s.asking++ {
			s.waiting++
		}
		for s.waiting > 0 && (s.open || s.inFlight < s.state.Slots()) {
			s.claim()
		}
		s.work()
		if s.now%time.Second == 0 {
			tell(s.now, s.state.Slots())
		}
	}
}

// claim gives the pod a request of some 400 to 16,000 bytes.
func (s *simulation) claim() {
	s.waiting--
	s.inFlight++
	ahead := s.waiting
	if s.open {
		ahead = max(0, s.inFlight-s.state.Slots())
	}
	s.queue = append(s.queue, &sequence{
		obs: request(s.inFlight, ahead, 400<<s.rng.IntN(6), 0), claimed: s.now,
	})
}

// work ends what is over and begins what there are slots for. A prompt is read at
// 20 bytes per ms, slower by up to a half in a full batch; a generation is of 2 to
// 18 s.
func (s *simulation) work() {
	kept := s.running[:0]
	for _, q := range s.running {
		if q.ends > s.now {
			kept = append(kept, q)
			continue
		}
		s.inFlight--
		s.asking--
		s.state = s.policy.Step(s.state, q.obs, epoch.Add(s.now))
	}
	s.running = kept
	for len(s.queue) > 0 && len(s.running) < s.truth {
		q := s.queue[0]
		s.queue = s.queue[1:]
		batch := 1 + .5*float64(len(s.running))/float64(s.truth)
		read := 20*ms + time.Duration(float64(q.obs.Outcome.Prompt)/20*batch*(.7+.6*s.rng.Float64())*float64(ms))
		q.obs.Outcome.TTFT = s.now - q.claimed + read
		q.ends = s.now + read + 2*time.Second + time.Duration(s.rng.Int64N(int64(16*time.Second)))
		s.running = append(s.running, q)
	}
}
