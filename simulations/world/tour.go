package world

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"slices"
	"time"

	"github.com/rhumb-lb/rhumb/director"
	"github.com/rhumb-lb/rhumb/regions"
)

// patience bounds each wait of the tour: several times what is promised, so that
// a slow machine does not fail it. The times are printed, not judged.
const patience = 20 * time.Second

// tour visits a running world and checks what it promises.
type tour struct {
	w      *World
	l      Layout
	client *http.Client
}

// step is one stop of the tour; it says in a few words what it saw.
type step struct {
	name string
	run  func(*tour, context.Context) (string, error)
}

var steps = []step{
	{"the world is up: both directors see three regions", (*tour).up},
	{"asked from three continents, both directors, UDP and TCP", (*tour).continents},
	{"a completion through the redirect, streamed", (*tour).streamed},
	{"a pod crashes under 50 generate and 50 generate_stream", (*tour).crashed},
	{"a region becomes a black hole", (*tour).darkened},
	{"and comes back", (*tour).healed},
	{"a region is killed", (*tour).killed},
	{"and is brought back", (*tour).healed},
	{"every pod of a region crashes, its agent does not", (*tour).emptied},
	{"and they are brought back", (*tour).healed},
	{"a region is drained under a stream", (*tour).drained},
	{"and undrained", (*tour).undrained},
	{"a model that lives in two regions only", (*tour).scarce},
	{"all regions are killed", (*tour).allLost},
	{"all regions are drained", (*tour).allDrained},
	{"a storm between members only: 100 ms delay, 10 % loss", (*tour).stormy},
}

// Check runs the tour on a running world and reports to out: each step with its
// time. The error joins the steps that failed.
func (w *World) Check(ctx context.Context, out io.Writer) error {
	t := &tour{w: w, l: w.opts.Layout, client: newClient()}
	defer t.client.CloseIdleConnections()
	var failed []error
	begun := time.Now()
	for i, s := range steps {
		at := time.Now()
		saw, err := s.run(t, ctx)
		mark := "ok    "
		if err != nil {
			mark, saw = "FAILED", err.Error()
			failed = append(failed, fmt.Errorf("%s: %w", s.name, err))
		}
		_, _ = fmt.Fprintf(out, "%2d  %s %6.2f s  %s\n               %s\n", i+1, mark, time.Since(at).Seconds(), s.name, saw)
		if ctx.Err() != nil {
			return errors.Join(append(failed, ctx.Err())...)
		}
	}
	_, _ = fmt.Fprintf(out, "%d of %d steps passed in %.1f s\n", len(steps)-len(failed), len(steps), time.Since(begun).Seconds())
	return errors.Join(failed...)
}

// until waits until cond holds, asking every 50 ms; cond's last error says why
// it never did.
func until(ctx context.Context, cond func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		err := cond()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited for up to %v: %w", patience, err)
		case <-tick.C:
		}
	}
}

// settled is nil when every director's table has every region in the wanted
// state, with pods for all of its models.
func (w *World) settled(want func(regions.ID) director.State) error {
	for d, n := range w.directors {
		t := n.Table()
		for _, p := range places {
			have := t.Place(p.id)
			if have == nil || have.Verdict.State != want(p.id) {
				return fmt.Errorf("%s does not see %s %s", directorName(d), p.id, want(p.id))
			}
			for _, m := range p.models {
				if want(p.id) == director.Ready && !fits(t, regions.ModelName(m), p.id) {
					return fmt.Errorf("%s sees no pod of %s for %s", directorName(d), p.id, m)
				}
			}
		}
	}
	return nil
}

func fits(t *director.Table, m regions.ModelName, id regions.ID) bool {
	s := t.Services[m]
	for i, p := range t.Regions {
		if p.ID == id {
			return s != nil && s.Supply[i].Tier == director.Fit
		}
	}
	return false
}

func allReady(regions.ID) director.State { return director.Ready }

// Ready waits until both directors see all of the world.
func (w *World) Ready(ctx context.Context) error {
	return until(ctx, func() error { return w.settled(allReady) })
}

func (t *tour) up(ctx context.Context) (string, error) {
	return "three regions, nine pods, two directors", t.w.Ready(ctx)
}

// everywhere asks both directors over both transports for a name, and fails
// unless all say the same region.
func (t *tour) everywhere(ctx context.Context, name string, from home, want regions.ID) error {
	for d := range directors {
		for _, tcp := range []bool{false, true} {
			got, err := t.l.ask(ctx, d, tcp, name, from)
			if err != nil {
				return err
			}
			if got != want {
				return fmt.Errorf("%s sends %s to %s for %s, want %s", directorName(d), from.name, got, name, want)
			}
		}
	}
	return nil
}

func (t *tour) continents(ctx context.Context) (string, error) {
	saw := ""
	for _, h := range homes {
		if err := t.everywhere(ctx, Zone, h, h.nearest); err != nil {
			return "", err
		}
		if err := t.referred(ctx, h, h.nearest); err != nil {
			return "", err
		}
		saw += fmt.Sprintf("%s → %s   ", h.name, h.nearest)
	}
	return saw, nil
}

// referred fails unless both directors redirect to the region.
func (t *tour) referred(ctx context.Context, from home, want regions.ID) error {
	for d := range directors {
		got, err := t.l.redirected(ctx, d, t.client, from)
		if err != nil {
			return err
		}
		if got != want {
			return fmt.Errorf("%s redirects %s to %s, want %s", directorName(d), from.name, got, want)
		}
	}
	return nil
}

// whole fails unless all of a completion comes from the region.
func (t *tour) whole(ctx context.Context, base string, q question, want regions.ID) error {
	g, err := generate(ctx, t.client, base, q, nil)
	if err == nil && g.region != want {
		err = fmt.Errorf("answered by %q, want %s", g.region, want)
	}
	if err != nil {
		return fmt.Errorf("%s from %s by %s: %w", q.model, q.from.name, base, err)
	}
	return nil
}

func (t *tour) streamed(ctx context.Context) (string, error) {
	const tokens = 8
	s, err := t.w.site(victim)
	if err != nil {
		return "", err
	}
	fresh := newClient()
	defer fresh.CloseIdleConnections()
	for _, again := range []bool{false, true} {
		var hops []hop
		completed, running := done(s, "llama"), false
		g, err := generate(traced(ctx, &hops), fresh, t.l.redirectURL(0), question{model: "llama", tokens: tokens, from: homes[0]}, func() {
			running = done(s, "llama") == completed
		})
		switch {
		case err != nil:
			return "", err
		case g.region != victim:
			return "", fmt.Errorf("answered by %s, want %s", g.region, victim)
		case !running:
			return "", errors.New("the first event came after the last was made")
		}
		if want := []hop{{t.l.Redirect(0).String(), again}, {t.l.Gateway(s.index).String(), again}}; !slices.Equal(hops, want) {
			return "", fmt.Errorf("went over %v, want %v", hops, want)
		}
		if err := until(ctx, func() error { return idle(s) }); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%d events, the first before the last was made; twice, over the same two connections", tokens), nil
}

// hop is a connection that a request went over.
type hop struct {
	to     string
	reused bool
}

// traced notes the connections over which a request goes, and goes on where it is
// redirected.
func traced(ctx context.Context, hops *[]hop) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(c httptrace.GotConnInfo) {
		*hops = append(*hops, hop{c.Conn.RemoteAddr().String(), c.Reused})
	}})
}

// done is how many requests for a model a region's pods have completed.
func done(s *site, model string) int64 {
	var n int64
	for _, p := range s.pods {
		n += p.Stats(model).Completed
	}
	return n
}

// idle is nil when no request is on the region's pods.
func idle(s *site) error {
	for _, p := range s.pods {
		for _, m := range s.models {
			if n := p.Stats(m).InFlight; n > 0 {
				return fmt.Errorf("%d requests in flight in %s", n, s.id)
			}
		}
	}
	return nil
}

func (t *tour) scarce(ctx context.Context) (string, error) {
	// From Tokyo, Dublin is nearer than Ashburn by 1,300 km over the pole.
	tokyo, want := homes[1], regions.ID("eu-west")
	if err := t.everywhere(ctx, "mistral."+Zone, tokyo, want); err != nil {
		return "", err
	}
	// Who asks Tokyo's gateway all the same is forwarded one hop.
	if err := t.whole(ctx, t.l.gatewayURL(2), question{model: "mistral", tokens: 4, from: tokyo}, want); err != nil {
		return "", err
	}
	return "mistral from Tokyo → eu-west by DNS, and by one hop from ap-northeast's gateway", nil
}
