package agent

import (
	"context"
	"flag"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/regions/pool"
	"github.com/rhumb-lb/rhumb/regions/proxy"
	"github.com/rhumb-lb/rhumb/regions/regionstest"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest"
)

var claimRuns = flag.Int("claims", 1, "how often each loss happens in the tests TestTimeTo, each time in a new region")

// claims is how many requests a pod was ever given.
func claims(p pool.PodInfo) uint64 { return p.Served + p.Failed + uint64(p.InFlight) }

// load asks a site 100 times a second until stop is called. What goes wrong is no error:
// a pod that is lost cuts some.
func (s *site) load(tokens int, answered func(*http.Response)) (stop func()) {
	ctx, cancel := context.WithCancel(s.t.Context())
	var clients sync.WaitGroup
	clients.Go(func() {
		for tick := time.NewTicker(10 * time.Millisecond); ; {
			select {
			case <-ctx.Done():
				tick.Stop()
				return
			case <-tick.C:
			}
			clients.Go(func() {
				res, _, err := s.do(http.MethodPost, s.url("/v2/models/llama/generate"), question("q", tokens))
				if err == nil && res.StatusCode == http.StatusOK {
					answered(res)
				}
			})
		}
	})
	regionstest.Eventually(s.t, patience, func() bool {
		return !slices.ContainsFunc(s.pool.Pods(), func(p pool.PodInfo) bool { return p.Served == 0 })
	}, "all pods have served")
	// What follows is at no certain time after a probe, of which there are two a second.
	<-time.After(rand.N(500 * time.Millisecond))
	return func() {
		cancel()
		clients.Wait()
	}
}

// lastClaim loses a pod under load, and is how long it was still given requests.
func (s *site) lastClaim(k int, lose func(*tritontest.Pod)) time.Duration {
	// A third of what the pods could do, and room on each for more than comes in two
	// seconds: no pod is full before it is found out.
	var answers atomic.Int64
	stop := s.load(20, func(*http.Response) { answers.Add(1) })
	var lost sync.WaitGroup
	defer func() {
		lost.Wait()
		s.pods[k].Heal() // it holds some of the clients
		stop()
	}()
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	seen, begun := claims(s.pool.Pods()[k]), time.Now()
	lost.Go(func() { lose(s.pods[k]) })
	last, had := begun, answers.Load()
	// It has been asked for the last time if it is out, and the others go on without it.
	for out := false; !out || time.Since(last) < time.Second/2 || answers.Load()-had < 10; <-look.C {
		p := s.pool.Pods()[k]
		out = !p.State.Takes()
		if n := claims(p); n != seen {
			last, seen, had = time.Now(), n, answers.Load()
		}
		if time.Since(begun) > patience {
			s.t.Fatalf("after %v the pod is %s, and was given a request %v ago", patience, p.State, time.Since(last))
		}
	}
	return last.Sub(begun)
}

// tellSpread prints how long something took.
func tellSpread(t *testing.T, what string, took []time.Duration) {
	t.Helper()
	if slices.Sort(took); len(took) > 0 {
		t.Logf("%s after min %v, median %v, max %v (%d times)", what, took[0].Round(time.Millisecond),
			took[len(took)/2].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond), len(took))
	}
}

// TestTimeToTheLastClaim loses pods under load and tells how long they were still
// given requests. It asserts that they cease to be, and prints how soon. Each run has a
// region of its own: a pod that was lost before is given more time to come back.
func TestTimeToTheLastClaim(t *testing.T) {
	hang := func(p *tritontest.Pod) { p.Hang(true) }
	for name, c := range map[string]struct {
		balance string
		lose    func(*tritontest.Pod)
	}{
		"killed":     {"least-connections", (*tritontest.Pod).Crash},
		"black hole": {"least-connections", hang},
		// Here the requests that it holds do not keep others away.
		"black hole in turn": {"round-robin", hang},
	} {
		var took []time.Duration
		for run := range *claimRuns {
			t.Run(name+" "+strconv.Itoa(run), func(t *testing.T) {
				m := newMembers(t)
				m.slots = 100
				o, pods := m.options("eu-west", "llama")
				o.Balance = c.balance
				took = append(took, m.start(o, pods).lastClaim(run%len(pods), c.lose))
			})
		}
		tellSpread(t, name+": the last claim", took)
	}
}

// TestTimeToTheFirstForward loses all pods of a region under load and tells when the
// first request was answered by another region.
func TestTimeToTheFirstForward(t *testing.T) {
	var took []time.Duration
	for run := range *claimRuns {
		t.Run(strconv.Itoa(run), func(t *testing.T) {
			m := newMembers(t)
			eu, us := m.start(m.options("eu-west", "llama")), m.start(m.options("us-east", "llama"))
			m.sends(us, rowFrom("us-east", "llama", eu.target(100)))
			forwarded := make(chan time.Time, 1)
			stop := us.load(1, func(res *http.Response) {
				if res.Header.Get(proxy.RegionHeader) == "eu-west" {
					select {
					case forwarded <- time.Now():
					default:
					}
				}
			})
			defer stop()
			begun := time.Now()
			for _, p := range us.pods {
				p.Crash()
			}
			select {
			case at := <-forwarded:
				took = append(took, at.Sub(begun))
			case <-time.After(patience):
				t.Error("no request is answered by the other region")
			}
		})
	}
	tellSpread(t, "all pods gone: the first answer of another region", took)
}
