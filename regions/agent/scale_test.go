package agent

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/discovery"
	"github.com/rhumb-lb/rhumb/regions/regionstest"
	"github.com/rhumb-lb/rhumb/regions/scale"
)

// demands are what a registry gives as demand, by model; empty if it gives none.
func demands(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Error(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		if f.GetName() == "rhumb_scale_demand_slots" {
			for _, m := range f.GetMetric() {
				out[m.GetLabel()[0].GetValue()] = m.GetGauge().GetValue()
			}
		}
	}
	return out
}

// wants waits until a site's demand for llama is as given.
func (s *site) wants(slots float64) {
	s.t.Helper()
	regionstest.Eventually(s.t, patience, func() bool {
		got, ok := demands(s.t, s.opts.Registry)["llama"]
		return ok && got == slots
	}, fmt.Sprintf("%s has a demand of %v slots", s.opts.Region, slots))
}

// TestDemandOfARegion has clients of two regions, one of which loses its pods:
// each region's demand stays that of its own clients, wherever they are served.
func TestDemandOfARegion(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	us := m.start(m.options("us-east", "llama"))
	eu := m.start(m.options("eu-west", "llama"))
	const forever = 100_000 // tokens
	open := func(s *site, n int) (end func()) {
		t.Helper()
		var all []*stream
		for i := range n {
			x, err := s.open("llama", fmt.Sprint(s.opts.Region, i), forever)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, x)
		}
		return func() {
			for _, x := range all {
				_ = x.res.Body.Close()
			}
		}
	}
	us.wants(0)
	eu.wants(0)
	endEU := open(eu, 4)
	endUS := open(us, 3)
	us.wants(3)
	eu.wants(4)
	endUS()
	us.wants(0)

	for _, p := range us.pods {
		p.Crash()
	}
	regionstest.Eventually(t, patience, func() bool { return !us.ready() }, "us-east has no pod left")
	row := rowFrom("us-east", "llama", eu.target(8))
	row.Table = 1
	m.sends(us, row)
	endUS = open(us, 5)
	us.wants(5)
	eu.wants(4)
	// They are on the pods of eu-west all the same.
	var busy uint32
	for _, model := range eu.pool.Models(time.Now(), nil) {
		busy += model.InFlight + model.Queued
	}
	if busy != 9 {
		t.Errorf("%d requests in eu-west, want 4 of its own and 5 of us-east", busy)
	}
	endUS()
	us.wants(0)
	eu.wants(4)
	endEU()
	eu.wants(0)
	if in := eu.proxy.SpilledIn(); len(in) != 0 {
		t.Errorf("counted as from elsewhere to the end: %v", in)
	}
}

// silent is a source that never tells anything.
type silent struct{}

// Run implements discovery.Source.
func (silent) Run(ctx context.Context, _ func([]regions.Pod)) error {
	<-ctx.Done()
	return nil
}

// TestDemandIsAbsentWhileUnknown: no series, rather than zero, before the first
// count, while a source of pods has not told, and when the counts are old.
func TestDemandIsAbsentWhileUnknown(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	o, _ := m.options("us-east", "llama")
	o.Sources = []discovery.Source{silent{}, silent{}}
	o.Linger = 0
	a, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	none := func(when string) {
		t.Helper()
		if got := demands(t, o.Registry); len(got) != 0 {
			t.Errorf("%s: %v", when, got)
		}
	}
	none("before it runs")
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	regionstest.Eventually(t, patience, func() bool { return a.facts.Load() != nil }, "the agent counts")
	none("before a source has told")
	a.found(0, nil)
	a.nudge()
	before := time.Now()
	regionstest.Eventually(t, patience, func() bool { return a.facts.Load().At.After(before) }, "it counts again")
	none("before the other source has told")
	a.found(1, nil)
	regionstest.Eventually(t, patience, func() bool { return len(demands(t, o.Registry)) == 1 }, "there is a demand")
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}

	// The counts stand still from here on.
	at := a.facts.Load().At
	for age, want := range map[time.Duration]int{0: 1, scale.MaxAge: 1, scale.MaxAge + 1: 0} {
		registry := prometheus.NewRegistry()
		registry.MustRegister(&demand{facts: a.facts.Load, now: func() time.Time { return at.Add(age) }})
		if got := demands(t, registry); len(got) != want {
			t.Errorf("%v after the last count: %v", age, got)
		}
	}
}

// TestDemandOfThoseWhoWait: a region without a pod, and without another region to send
// its clients to, still says what they want.
func TestDemandOfThoseWhoWait(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	s := m.start(m.options("eu-west", "llama"))
	for _, p := range s.pods {
		p.Crash()
	}
	regionstest.Eventually(t, patience, func() bool { return !s.ready() }, "no pod is left")
	ctx, leave := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	for range 3 {
		clients.Go(func() {
			r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url("/v2/models/llama/generate"), strings.NewReader(question("q", 1)))
			if err != nil {
				t.Error(err)
				return
			}
			if res, err := s.client.Do(r); err == nil {
				_ = res.Body.Close()
			}
		})
	}
	s.wants(3)
	leave()
	clients.Wait()
	s.wants(0)
}

// TestDemandWithoutPods: a region that has no pod, and knows no other region, wants one
// for each request that waits for it or could not.
func TestDemandWithoutPods(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	o, _ := m.options("us-east", "llama")
	finds(t, &o, nil)
	o.Admit.Bound = 3
	s := m.start(o, nil)
	s.wants(0)
	asking, stop := context.WithCancel(t.Context())
	defer stop()
	var clients sync.WaitGroup
	for range 3 {
		clients.Go(func() {
			req, err := http.NewRequestWithContext(asking, http.MethodPost, s.url("/v2/models/llama/generate"), strings.NewReader(question("q", 3)))
			if err != nil {
				t.Error(err)
				return
			}
			if res, err := s.client.Do(req); err == nil {
				_ = res.Body.Close()
				t.Errorf("answered with %s", res.Status)
			}
		})
	}
	s.wants(3)
	for range 2 {
		if res, text, err := s.do(http.MethodPost, s.url("/v2/models/llama/generate"), question("q", 3)); err != nil || res.StatusCode != http.StatusServiceUnavailable {
			t.Fatalf("one too many: %v %s", err, text)
		}
	}
	s.wants(5)
	stop()
	clients.Wait()
	s.wants(2)
	s.wants(0) // nobody has asked for ten seconds
}
