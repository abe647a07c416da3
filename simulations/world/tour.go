package world

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http/httptrace"
	"slices"
	"time"

	"github.com/rhumb-lb/rhumb/director"
	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/simulations/client"
	"github.com/rhumb-lb/rhumb/simulations/layout"
)

// tour visits a running world and checks what it promises.
type tour struct {
	w      *World
	l      layout.Layout
	client *client.Client
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
	t := &tour{w: w, l: w.opts.Layout, client: client.New(w.opts.Layout)}
	defer t.client.Close()
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

// settled is nil when every director's table has every region in the wanted
// state, with pods for all of its models.
func (w *World) settled(want func(regions.ID) director.State) error {
	for d, n := range w.directors {
		if err := n.Ready(); err != nil {
			return fmt.Errorf("%s: %w", layout.DirectorName(d), err)
		}
		t := n.Table()
		for _, p := range layout.Places {
			have := t.Place(p.ID)
			if have == nil || have.Verdict.State != want(p.ID) {
				return fmt.Errorf("%s does not see %s %s", layout.DirectorName(d), p.ID, want(p.ID))
			}
			for _, m := range p.Models {
				if want(p.ID) == director.Ready && !fits(t, regions.ModelName(m), p.ID) {
					return fmt.Errorf("%s sees no pod of %s for %s", layout.DirectorName(d), p.ID, m)
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
	return client.Until(ctx, func() error { return w.settled(allReady) })
}

func (t *tour) up(ctx context.Context) (string, error) {
	return "three regions, nine pods, two directors", t.w.Ready(ctx)
}

// everywhere asks both directors over both transports for a name, and fails
// unless all say the same region.
func (t *tour) everywhere(ctx context.Context, name string, from client.Home, want regions.ID) error {
	for d := range layout.Directors {
		for _, tcp := range []bool{false, true} {
			got, err := t.client.Ask(ctx, d, tcp, name, from)
			if err != nil {
				return err
			}
			if got != want {
				return fmt.Errorf("%s sends %s to %s for %s, want %s", layout.DirectorName(d), from.Name, got, name, want)
			}
		}
	}
	return nil
}

func (t *tour) continents(ctx context.Context) (string, error) {
	saw := ""
	for _, h := range client.Homes {
		if err := t.everywhere(ctx, layout.Zone, h, h.Nearest); err != nil {
			return "", err
		}
		if err := t.referred(ctx, h, h.Nearest); err != nil {
			return "", err
		}
		saw += fmt.Sprintf("%s → %s   ", h.Name, h.Nearest)
	}
	return saw, nil
}

// referred fails unless both directors redirect to the region.
func (t *tour) referred(ctx context.Context, from client.Home, want regions.ID) error {
	for d := range layout.Directors {
		got, err := t.client.Redirected(ctx, d, from)
		if err != nil {
			return err
		}
		if got != want {
			return fmt.Errorf("%s redirects %s to %s, want %s", layout.DirectorName(d), from.Name, got, want)
		}
	}
	return nil
}

// whole fails unless all of a completion comes from the region.
func (t *tour) whole(ctx context.Context, base string, q client.Question, want regions.ID) error {
	g, err := t.client.Generate(ctx, base, q, nil)
	if err == nil && g.Region != want {
		err = fmt.Errorf("answered by %q, want %s", g.Region, want)
	}
	if err != nil {
		return fmt.Errorf("%s from %s by %s: %w", q.Model, q.From.Name, base, err)
	}
	return nil
}

func (t *tour) streamed(ctx context.Context) (string, error) {
	const tokens = 8
	s, err := t.w.site(client.Victim)
	if err != nil {
		return "", err
	}
	fresh := client.New(t.l)
	defer fresh.Close()
	for _, again := range []bool{false, true} {
		var hops []hop
		completed, running := done(s, "llama"), false
		g, err := fresh.Generate(traced(ctx, &hops), t.l.RedirectURL(0), client.Question{Model: "llama", Tokens: tokens, From: client.Homes[0]}, func() {
			running = done(s, "llama") == completed
		})
		switch {
		case err != nil:
			return "", err
		case g.Region != client.Victim:
			return "", fmt.Errorf("answered by %s, want %s", g.Region, client.Victim)
		case !running:
			return "", errors.New("the first event came after the last was made")
		}
		if want := []hop{{t.l.Redirect(0).String(), again}, {t.l.Gateway(s.index).String(), again}}; !slices.Equal(hops, want) {
			return "", fmt.Errorf("went over %v, want %v", hops, want)
		}
		if err := client.Until(ctx, func() error { return idle(s) }); err != nil {
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
		for _, m := range s.Models {
			if n := p.Stats(m).InFlight; n > 0 {
				return fmt.Errorf("%d requests in flight in %s", n, s.ID)
			}
		}
	}
	return nil
}

func (t *tour) scarce(ctx context.Context) (string, error) {
	// From Tokyo, Dublin is nearer than Ashburn by 1,300 km over the pole.
	tokyo, want := client.Homes[1], regions.ID("eu-west")
	if err := t.everywhere(ctx, "mistral."+layout.Zone, tokyo, want); err != nil {
		return "", err
	}
	// Who asks Tokyo's gateway all the same is forwarded one hop.
	if err := t.whole(ctx, t.l.GatewayURL(2), client.Question{Model: "mistral", Tokens: 4, From: tokyo}, want); err != nil {
		return "", err
	}
	return "mistral from Tokyo → eu-west by DNS, and by one hop from ap-northeast's gateway", nil
}
