package attrition

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rhumb-lb/rhumb/simulations/process"
)

// ready waits until the agent has all pods.
func (r *region) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		n, err := r.taking(ctx)
		if err == nil && n == r.opts.Pods {
			return nil
		}
		select {
		case s := <-r.strays:
			return s
		case <-ctx.Done():
			return fmt.Errorf("%d of %d pods are ready: %w", n, r.opts.Pods, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// taking is how many pods take requests.
func (r *region) taking(ctx context.Context) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.admin.String()+"/api/v1/models", nil)
	if err != nil {
		return 0, err
	}
	res, err := (&http.Client{Timeout: time.Second}).Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = res.Body.Close() }()
	var models []struct {
		Pods int `json:"pods_taking"`
	}
	if err := json.NewDecoder(res.Body).Decode(&models); err != nil || len(models) != 1 {
		return 0, fmt.Errorf("%d models: %w", len(models), err)
	}
	return models[0].Pods, nil
}

// run takes pods away while clients stream.
func (r *region) run(ctx context.Context) (Report, error) {
	if err := r.ready(ctx); err != nil {
		return Report{}, err
	}
	begun := time.Now()
	c, err := newClients(r.opts, r.gateway)
	if err != nil {
		return Report{}, err
	}
	defer c.close()
	faults, over := context.WithTimeout(ctx, r.opts.For)
	defer over()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.run(ctx, faults.Done()) })
	gone := 0
	g.Go(func() (err error) {
		gone, err = r.attrite(faults)
		over()
		return err
	})
	err = g.Wait()
	report := c.report
	report.Gone, report.Took = gone, time.Since(begun)
	return report, err
}

// attrite takes one pod after another away until faults is done, and gives each back
// later.
func (r *region) attrite(faults context.Context) (int, error) {
	var back errgroup.Group
	tick := time.NewTicker(r.opts.Every)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-faults.Done():
			return n, back.Wait()
		case <-tick.C:
		}
		p := r.pods[n%len(r.pods)]
		_, _ = fmt.Fprintf(r.progress, "%s: %s\n", r.opts.Fault, p.Name)
		give, err := r.take(p)
		if err != nil {
			return n, err
		}
		back.Go(give)
	}
}

// take takes a pod away, and gives what gives it back.
func (r *region) take(p *process.Process) (giveBack func() error, err error) {
	switch r.opts.Fault {
	case "kill":
		return func() error {
			time.Sleep(r.opts.Back)
			return p.Start()
		}, p.Kill()
	case "term":
		ended, err := p.Signal(syscall.SIGTERM, true)
		return func() error {
			<-ended
			time.Sleep(r.opts.Back)
			return p.Start()
		}, err
	case "stop":
		_, err := p.Signal(syscall.SIGSTOP, false)
		return func() error {
			time.Sleep(r.opts.Every - r.opts.Every/4)
			_, err := p.Signal(syscall.SIGCONT, false)
			return err
		}, err
	default:
		return nil, fmt.Errorf("no fault %q; there are kill, term and stop", r.opts.Fault)
	}
}

// clients keep a number of streams open.
type clients struct {
	opts   Options
	ask    asker
	mu     sync.Mutex
	report Report // guarded by mu until run has returned
}

// run keeps the streams open until done, and waits for those that are open then.
func (c *clients) run(ctx context.Context, done <-chan struct{}) error {
	var all sync.WaitGroup
	for i := range c.opts.Streams {
		all.Go(func() {
			// They begin one by one, so that they are at every part of their lives.
			each := time.Duration(c.opts.Tokens) * c.opts.InterToken
			select {
			case <-time.After(each * time.Duration(i) / time.Duration(c.opts.Streams)):
			case <-done:
				return
			}
			for n := 0; ctx.Err() == nil; n++ {
				select {
				case <-done:
					return
				default:
				}
				c.note(c.ask.ask(ctx, fmt.Sprintf("client %d asks for the %dth time", i, n), c.opts.Tokens))
			}
		})
	}
	all.Wait()
	return nil
}

// note takes the end of a stream into the report.
func (c *clients) note(a answer, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := &c.report
	r.Streams++
	if a.resumed {
		r.Resumed++
	}
	r.Slowest = max(r.Slowest, a.pause)
	switch {
	case a.typed:
		r.Typed++
	case err != nil:
		r.Errors++
	case a.text != a.want:
		r.Wrong++
		err = fmt.Errorf("got %q, want %q", a.text, a.want)
	default:
		return
	}
	if len(r.First) < 5 && err != nil {
		r.First = append(r.First, err)
	}
}
