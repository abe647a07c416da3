package agent

import (
	"context"
	"flag"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/proxy"
	"github.com/rhumb-lb/rhumb/regions/regionstest"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest"
)

var claimRuns = flag.Int("claims", 1, "how often each pod is lost in TestTimeToTheLastClaim")

// claims is how many requests a pod was ever given.
func (s *site) claims(pod regions.PodID) (n uint64) {
	for _, p := range s.pool.Pods() {
		if p.ID == pod {
			n += p.Served + p.Failed + uint64(p.InFlight)
		}
	}
	return n
}

// TestTimeToTheLastClaim loses pods under load and tells how long they were still
// given requests. It asserts that they cease to be, and prints how soon.
func TestTimeToTheLastClaim(t *testing.T) {
	m := newMembers(t)
	m.slots = 100
	s := m.start(m.options("eu-west", "llama"))
	ctx, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	clients.Go(func() {
		// A third of what the pods could do, and room on each for more than comes in a
		// second: no pod is full before it is found out.
		for tick := time.NewTicker(10 * time.Millisecond); ; {
			select {
			case <-ctx.Done():
				tick.Stop()
				return
			case <-tick.C:
			}
			clients.Go(func() {
				// A pod that is lost cuts some.
				_, _, _ = s.do(http.MethodPost, s.url("/v2/models/llama/generate"), question("q", 20))
			})
		}
	})
	defer clients.Wait()
	defer stop()
	for name, lose := range map[string]struct{ lose, back func(*tritontest.Pod) }{
		"killed": {(*tritontest.Pod).Crash, func(p *tritontest.Pod) {
			if err := p.Start(t.Context()); err != nil {
				t.Error(err)
			}
		}},
		"black hole": {func(p *tritontest.Pod) { p.Hang(true) }, func(p *tritontest.Pod) { p.Hang(false) }},
	} {
		var took []time.Duration
		for run := range *claimRuns {
			id := s.pool.Pods()[run%len(s.pods)].ID
			pod := s.pods[run%len(s.pods)]
			regionstest.Eventually(t, patience, func() bool { return s.pool.Models(time.Now(), nil)[0].Pods.Ready == 3 }, "all pods are ready")
			lose.lose(pod)
			begun, last, seen := time.Now(), time.Now(), s.claims(id)
			for look := time.NewTicker(time.Millisecond); time.Since(last) < 2*time.Second; <-look.C {
				if n := s.claims(id); n != seen {
					last, seen = time.Now(), n
				}
			}
			took = append(took, last.Sub(begun))
			lose.back(pod)
		}
		slices.Sort(took)
		t.Logf("%s %d times: the last claim after min %v, median %v, max %v", name, len(took),
			took[0].Round(time.Millisecond), took[len(took)/2].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond))
	}
}

// TestTimeToTheFirstForward loses all pods of a region under load and tells when the
// first request was answered by another region.
func TestTimeToTheFirstForward(t *testing.T) {
	m := newMembers(t)
	eu, us := m.start(m.options("eu-west", "llama")), m.start(m.options("us-east", "llama"))
	m.sends(us, rowFrom("us-east", "llama", eu.target(100)))
	var took []time.Duration
	for range *claimRuns {
		regionstest.Eventually(t, patience, func() bool { return us.pool.Models(time.Now(), nil)[0].Pods.Ready == 3 }, "all pods are ready")
		for _, p := range us.pods {
			p.Crash()
		}
		begun := time.Now()
		regionstest.Eventually(t, patience, func() bool {
			res, _, err := us.do(http.MethodPost, us.url("/v2/models/llama/generate"), question("q", 1))
			return err == nil && res.StatusCode == http.StatusOK && res.Header.Get(proxy.RegionHeader) == "eu-west"
		}, "a request is answered by the other region")
		took = append(took, time.Since(begun))
		for _, p := range us.pods {
			if err := p.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	slices.Sort(took)
	t.Logf("all pods gone %d times: the first answer of another region after min %v, median %v, max %v", len(took),
		took[0].Round(time.Millisecond), took[len(took)/2].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond))
}
