package node

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/rhumb-lb/rhumb/director"
	"github.com/rhumb-lb/rhumb/regions"
)

const (
	// probeEvery is how often each region's endpoint is probed: with two failures
	// in a row and the timeout below, a region that went dark is known after
	// 2.2 s at most, when its fourth status is missed.
	probeEvery = 500 * time.Millisecond

	// probeTimeout bounds one probe. A fresh connection, TLS and a request are
	// three round trips, no two places on earth are more than 350 ms apart on a
	// path that works, and the rest is for a busy machine.
	probeTimeout = 1200 * time.Millisecond

	probePath = "/v2/health/ready"

	// maxProbeAnswer bounds what is read of an answer, in bytes. Its status line
	// would do.
	maxProbeAnswer = 16 << 10
)

// prober probes the endpoints of all regions, each by a request on a connection
// of its own: an old connection can outlive the listener that accepted it. Any
// HTTP answer counts, a refusal too: it says that the region can be reached, and
// what it can serve is in its status.
type prober struct {
	dial dialFunc
	tls  *tls.Config // nil trusts the system's roots
	log  *slog.Logger
	wake func() // called after a result that may change a verdict

	mu      sync.Mutex
	results map[regions.ID]*finding
}

// finding is what the probes say of a region. Probes overlap: one that was begun
// earlier says nothing any more after a later one has ended.
type finding struct {
	director.Probe
	newest time.Time // when the newest probe that has ended began
}

type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

func newProber(dial dialFunc, trust *tls.Config, log *slog.Logger, wake func()) *prober {
	return &prober{dial: dial, tls: trust, log: log, wake: wake, results: map[regions.ID]*finding{}}
}

// all is what the probes say of every region so far.
func (p *prober) all() []director.Probe {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]director.Probe, 0, len(p.results))
	for _, r := range p.results {
		out = append(out, r.Probe)
	}
	return out
}

// run probes each region that regionsOf names, every probeEvery, until ctx ends.
// A probe does not wait for the one before it: a dark region would else be
// probed only every 1.2 s. What is known of a region ends with the region.
func (p *prober) run(ctx context.Context, regionsOf func() []regions.Region) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		all := regionsOf()
		p.forget(all)
		for _, r := range all {
			if len(r.Endpoints) > 0 {
				wg.Go(func() { p.probe(ctx, r.ID, r.Endpoints[0]) })
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// forget drops what is known of regions that are not there any more.
func (p *prober) forget(all []regions.Region) {
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.DeleteFunc(p.results, func(id regions.ID, _ *finding) bool {
		return !slices.ContainsFunc(all, func(r regions.Region) bool { return r.ID == id })
	})
}

func (p *prober) probe(ctx context.Context, id regions.ID, at regions.Endpoint) {
	began := time.Now() // orders probes, decides nothing
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	err := p.ask(ctx, at)
	if errors.Is(ctx.Err(), context.Canceled) {
		return // the director stops: no finding
	}
	p.record(id, began, err)
}

// ask asks once. The exchange is written out, instead of through http.Transport,
// because that goes on connecting when a request is given up: a dark region would
// gather two minutes' worth of connections under way.
func (p *prober) ask(ctx context.Context, at regions.Endpoint) error {
	conn, err := p.dial(ctx, "tcp", at.HostPort())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	// The past as a deadline ends reads and writes at once.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if at.Scheme == "https" {
		trust := &tls.Config{}
		if p.tls != nil {
			trust = p.tls.Clone()
		}
		trust.ServerName = at.Host
		conn = tls.Client(conn, trust)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.URL()+probePath, nil)
	if err != nil {
		return err
	}
	req.Close = true
	if err := req.Write(conn); err != nil {
		return fmt.Errorf("send the probe: %w", err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(io.LimitReader(conn, maxProbeAnswer)), req)
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	return resp.Body.Close()
}

func (p *prober) record(id regions.ID, began time.Time, err error) {
	p.mu.Lock()
	r := p.results[id]
	if r == nil {
		r = &finding{Probe: director.Probe{Region: id}}
		p.results[id] = r
	}
	if began.Before(r.newest) {
		p.mu.Unlock()
		return
	}
	r.newest = began
	if err == nil {
		r.Failed, r.Answered, r.Ever = 0, r.Answered+1, true
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
