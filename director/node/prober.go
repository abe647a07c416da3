package node

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
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
	log  *slog.Logger
	wake func() // called after a result that may change a verdict

	mu      sync.Mutex
	results map[regions.ID]*director.Probe
}

type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

func newProber(dial dialFunc, log *slog.Logger, wake func()) *prober {
	return &prober{dial: dial, log: log, wake: wake, results: map[regions.ID]*director.Probe{}}
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

func (p *prober) probe(ctx context.Context, id regions.ID, at regions.Endpoint) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	err := p.ask(ctx, at)
	if errors.Is(ctx.Err(), context.Canceled) {
		return // the director stops: no finding
	}
	p.record(id, err)
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
		conn = tls.Client(conn, &tls.Config{ServerName: at.Host})
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
