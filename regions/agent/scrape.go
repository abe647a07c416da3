package agent

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/triton"
)

const (
	// scrapeEvery is how often pods' metrics are read. Triton renews its GPU gauges
	// every 2 s, and who scales or alerts by them looks every 15 s.
	scrapeEvery = 5 * time.Second

	// scrapeTime bounds one scrape: a page is there within milliseconds, also on a
	// GPU that is full. A round in which some pods hang ends before the next.
	scrapeTime = 2 * time.Second

	// scrapesAtOnce bounds the connections of a round. 64 pods can hang and the round
	// still ends in time; with more of them the others are read less often.
	scrapesAtOnce = 32

	// scrapeStale is the age at which a page no longer says how a pod does: two
	// scrapes may fail, the third is due.
	scrapeStale = 15 * time.Second
)

// scraper keeps the newest metrics of each pod that has a metrics address.
type scraper struct {
	client *triton.Client
	now    func() time.Time
	log    *slog.Logger
	failed prometheus.Counter
	news   chan struct{} // holds one wake-up: there are new pods

	mu   sync.Mutex
	pods map[regions.PodID]*scraped // guarded by mu
}

// scraped is a pod and what its last good page said.
type scraped struct {
	pod     regions.Pod
	at      time.Time // of the page; zero before the first
	page    triton.Metrics
	failing bool
}

func newScraper(client *triton.Client, now func() time.Time, log *slog.Logger, registry *prometheus.Registry) *scraper {
	s := &scraper{client: client, now: now, log: log, news: make(chan struct{}, 1), pods: map[regions.PodID]*scraped{}}
	m := newPodMetrics(s.readings)
	s.failed = m.failed
	registry.MustRegister(m)
	return s
}

// setPods replaces the set of pods. Of a known ID at another address nothing is
// known.
func (s *scraper) setPods(pods []regions.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := make(map[regions.PodID]*scraped, len(pods))
	for _, pod := range pods {
		if pod.Metrics == (netip.AddrPort{}) {
			continue
		}
		if old := s.pods[pod.ID]; old != nil && old.pod.Metrics == pod.Metrics {
			old.pod = pod
			next[pod.ID] = old
		} else {
			next[pod.ID] = &scraped{pod: pod}
			wake(s.news)
		}
	}
	s.pods = next
}

// run scrapes all pods each scrapeEvery, and new ones at once, until ctx is done.
func (s *scraper) run(ctx context.Context) error {
	tick := time.NewTicker(scrapeEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.news:
			s.round(ctx, func(x *scraped) bool { return x.at.IsZero() })
		case <-tick.C:
			s.round(ctx, func(*scraped) bool { return true })
		}
	}
}

// round scrapes each pod that is due once.
func (s *scraper) round(ctx context.Context, due func(*scraped) bool) {
	var g errgroup.Group
	g.SetLimit(scrapesAtOnce)
	for _, x := range s.those(due) {
		g.Go(func() error {
			s.scrape(ctx, x)
			return nil
		})
	}
	_ = g.Wait() // none fails
}

func (s *scraper) those(due func(*scraped) bool) []*scraped {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*scraped
	for _, x := range s.pods {
		if due(x) {
			out = append(out, x)
		}
	}
	return out
}

func (s *scraper) scrape(ctx context.Context, x *scraped) {
	within, cancel := context.WithTimeout(ctx, scrapeTime)
	defer cancel()
	s.mu.Lock()
	pod := x.pod
	s.mu.Unlock()
	page, err := s.client.Metrics(within, pod.Metrics)
	if ctx.Err() != nil {
		return // the agent ends
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	was := x.failing
	x.failing = err != nil
	switch {
	case x.failing:
		s.failed.Inc()
		if !was {
			s.log.Warn("pod's metrics can't be read", "pod", pod.ID, "error", err)
		}
		return
	case was:
		s.log.Info("pod's metrics can be read again", "pod", pod.ID)
	}
	x.page, x.at = page, s.now()
}

// reading is what is known of a pod's metrics.
type reading struct {
	pod     regions.PodID
	gpus    int
	busy    float64 // mean utilisation of the GPUs
	pending map[regions.ModelName]int64
}

// readings are those of the pods that are there and whose page is fresh. A model
// is one that discovery says the pod may serve, whatever the page has.
func (s *scraper) readings() []reading {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []reading
	for id, x := range s.pods {
		if x.at.IsZero() || now.Sub(x.at) > scrapeStale {
			continue
		}
		r := reading{pod: id, gpus: x.page.GPUs, busy: x.page.Utilization, pending: map[regions.ModelName]int64{}}
		for name, m := range x.page.Models {
			if m.Pending >= 0 && slices.ContainsFunc(x.pod.Models, func(p regions.PodModel) bool { return p.Name == name }) {
				r.pending[name] = m.Pending
			}
		}
		out = append(out, r)
	}
	return out
}
