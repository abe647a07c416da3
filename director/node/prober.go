package node

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/rhumb-lb/rhumb/director"
	"github.com/rhumb-lb/rhumb/regions"
)

const (
	// probeEvery is how often each region's endpoint is probed: with two failures
	// in a row and the timeout below, a region that went dark is known after
	// 1.7 s at most, before its fourth status is missed.
	probeEvery = 500 * time.Millisecond

	// probeTimeout bounds one probe. A fresh connection and a request are two
	// round trips, and no two places on earth are more than 350 ms apart on a
	// path that works.
	probeTimeout = 700 * time.Millisecond

	probePath = "/v2/health/ready"
)

// prober probes the endpoints of all regions, each by a request on a connection
// of its own: an old connection can outlive the listener that accepted it. Any
// HTTP answer counts, a refusal too: it says that the region can be reached, and
// what it can serve is in its status.
type prober struct {
	client *http.Client
	log    *slog.Logger
	wake   func() // called after a result that may change a verdict

	mu      sync.Mutex
	results map[regions.ID]*director.Probe
}

type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

func newProber(dial dialFunc, log *slog.Logger, wake func()) *prober {
	return &prober{
		client: &http.Client{
			Transport:     &http.Transport{DialContext: dial, DisableKeepAlives: true, MaxResponseHeaderBytes: 16 << 10},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		log: log, wake: wake, results: map[regions.ID]*director.Probe{},
	}
}

// all is what the probes say of every region so far.
func (p *prober) all() []director.Probe {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]director.Probe, 0, len(p.results))
	for _, r := range p.results {
		out = append(out, *r)
	}
	return out
}

// run probes each region that regionsOf names, every probeEvery, until ctx ends.
// A probe does not wait for the one before it: a dark region would else be
// probed only every 700 ms.
func (p *prober) run(ctx context.Context, regionsOf func() []regions.Region) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		for _, r := range regionsOf() {
			if len(r.Endpoints) > 0 {
				wg.Go(func() { p.probe(ctx, r.ID, r.Endpoints[0].URL()+probePath) })
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (p *prober) probe(ctx context.Context, id regions.ID, url string) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	err := p.ask(ctx, url)
	if ctx.Err() != nil && context.Cause(ctx) == context.Canceled {
		return // the director stops: no finding
	}
	p.record(id, err)
}

func (p *prober) ask(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 4<<10))
	return err
}

func (p *prober) record(id regions.ID, err error) {
	p.mu.Lock()
	r := p.results[id]
	if r == nil {
		r = &director.Probe{Region: id}
		p.results[id] = r
	}
	if err == nil {
		r.Failed, r.Answered = 0, r.Answered+1
	} else {
		r.Failed, r.Answered = r.Failed+1, 0
	}
	failed, answered := r.Failed, r.Answered
	p.mu.Unlock()
	if err != nil && failed == 1 {
		p.log.Info("endpoint does not answer", "region", id, "error", err)
	}
	if failed == 2 || answered == 1 || answered == 2 {
		p.wake()
	}
}
