package live

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/rhumb-lb/rhumb/dnsserver/dnstest"
	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/simulations/client"
	"github.com/rhumb-lb/rhumb/simulations/layout"
	"github.com/rhumb-lb/rhumb/simulations/process"
)

// step is one stop of the tour; it says in a few words what it saw.
type step struct {
	name string
	run  func(*World, context.Context) (string, error)
}

var steps = []step{
	{"the processes are up: both directors see all regions and pods", (*World).up},
	{"asked from three continents, both directors, UDP and TCP", (*World).continents},
	{"a completion through the redirect, streamed", (*World).streamed},
	{"kill -9 of a pod under ten streams; it is started again", (*World).podKilled},
	{"kill -9 of an agent; it is started again", (*World).agentKilled},
	{"SIGSTOP of an agent; SIGCONT", (*World).agentStopped},
	{"SIGTERM of an agent under a stream; it is started again", (*World).agentEnded},
	{"kill -9 of a region; it is started again", (*World).regionKilled},
	{"kill -9 of a director; it is started again", (*World).directorKilled},
	{"kill -9 of everything but the pods; one director starts, with its state file alone", (*World).alone},
	{"a director starts with an empty disk beside the other", (*World).empty},
	{"a new configuration by SIGHUP, and a broken one", (*World).reloaded},
}

// Check runs the tour and reports to out: each step with its time. The error
// joins the steps that failed.
func (w *World) Check(ctx context.Context, out io.Writer) error {
	var failed []error
	begun := time.Now()
	for i, s := range steps {
		at := time.Now()
		saw, err := s.run(w, ctx)
		mark := "ok    "
		if err != nil {
			mark, saw = "FAILED", err.Error()
			failed = append(failed, fmt.Errorf("%s: %w", s.name, err))
		}
		_, _ = fmt.Fprintf(out, "%2d  %s %6.2f s  %s\n               %s\n", i+1, mark, time.Since(at).Seconds(), s.name, saw)
		if err := ctx.Err(); err != nil {
			return errors.Join(append(failed, err)...)
		}
	}
	_, _ = fmt.Fprintf(out, "%d of %d steps passed in %.1f s\n", len(steps)-len(failed), len(steps), time.Since(begun).Seconds())
	return errors.Join(failed...)
}

func (w *World) up(ctx context.Context) (string, error) {
	return fmt.Sprintf("%d processes", len(w.all())), w.Ready(ctx)
}

func (w *World) continents(ctx context.Context) (string, error) {
	saw := ""
	for _, h := range client.Homes {
		if err := client.Until(ctx, func() error { return w.sent(ctx, h) }); err != nil {
			return "", err
		}
		saw += fmt.Sprintf("%s → %s   ", h.Name, h.Nearest)
	}
	return saw, nil
}

// sent is nil when both directors send a client to its nearest region, by DNS
// over both transports and by redirect.
func (w *World) sent(ctx context.Context, from client.Home) error {
	for d := range layout.Directors {
		for _, tcp := range []bool{false, true} {
			if got, err := w.client.Ask(ctx, d, tcp, layout.Zone, from); err != nil || got != from.Nearest {
				return errors.Join(fmt.Errorf("%s sends %s to %q by DNS, want %s", layout.DirectorName(d), from.Name, got, from.Nearest), err)
			}
		}
		if got, err := w.client.Redirected(ctx, d, from); err != nil || got != from.Nearest {
			return errors.Join(fmt.Errorf("%s redirects %s to %q, want %s", layout.DirectorName(d), from.Name, got, from.Nearest), err)
		}
	}
	return nil
}

// home waits until London is sent to the victim.
func (w *World) home(ctx context.Context) error {
	return client.Until(ctx, func() error { return w.sent(ctx, client.Homes[0]) })
}

// healed brings back what does not run.
func (w *World) healed(ctx context.Context) error { return errors.Join(w.Heal(ctx), w.home(ctx)) }

func (w *World) streamed(ctx context.Context) (string, error) {
	const tokens = 8
	first := time.Time{}
	got, err := w.client.Generate(ctx, w.opts.Layout.RedirectURL(0), client.Question{Model: "llama", Tokens: tokens, From: client.Homes[0]}, func() { first = time.Now() })
	if err != nil {
		return "", err
	}
	// A token takes 20 ms and more. The first event must have come before the last
	// was made.
	if spread := time.Since(first); got.Region != client.Victim || spread < tokens/2*20*time.Millisecond {
		return "", fmt.Errorf("%d events from %s within %v of the first: not streamed", got.Events, got.Region, spread)
	}
	return fmt.Sprintf("%d events, one by one", got.Events), nil
}

// long is a stream of London's that outlasts a fault: 4 s and more.
var long = client.Question{Model: "llama", Tokens: 200, From: client.Homes[0]}

func (w *World) podKilled(ctx context.Context) (string, error) {
	const streams = 10
	r := region(client.Victim)
	var under []*client.Stream
	for range streams {
		s, err := w.client.Open(ctx, w.opts.Layout.GatewayURL(r), long)
		if err != nil {
			return "", err
		}
		under = append(under, s)
	}
	victim, has, err := w.busiest(ctx, r)
	if err != nil {
		return "", err
	}
	if err := w.pods[r][victim].Kill(); err != nil {
		return "", err
	}
	for _, s := range under {
		if err := s.Wait(ctx); err != nil {
			return "", err
		}
		if s.Err != nil {
			return "", fmt.Errorf("a stream was cut with its pod: %w", s.Err)
		}
	}
	if _, err := w.client.Generate(ctx, w.opts.Layout.GatewayURL(r), client.Question{Model: "llama", Tokens: 4, From: client.Homes[0]}, nil); err != nil {
		return "", fmt.Errorf("after the loss of one pod: %w", err)
	}
	return fmt.Sprintf("all %d whole; %d were on that pod, and went on at another", streams, has), w.healed(ctx)
}

// busiest is the pod of a region with the most requests in flight, and how many.
func (w *World) busiest(ctx context.Context, r int) (pod, inFlight int, err error) {
	var pods []struct {
		ID       string `json:"id"`
		InFlight int    `json:"in_flight"`
	}
	if err := get(ctx, w.opts.Layout.AgentAdmin(r), "/api/v1/pods", &pods); err != nil {
		return 0, 0, err
	}
	sum := make([]int, layout.PodsPerRegion)
	for _, p := range pods { // once for each of its models
		for k := range sum {
			if p.ID == layout.PodName(layout.Places[r].ID, k) {
				sum[k] += p.InFlight
			}
		}
	}
	for k, n := range sum {
		if n > inFlight {
			pod, inFlight = k, n
		}
	}
	if inFlight == 0 {
		return 0, 0, errors.New("no pod has a stream")
	}
	return pod, inFlight, nil
}

// lost strikes and says how long new answers named the victim, then heals.
func (w *World) lost(ctx context.Context, strike func() error) (string, error) {
	took, err := w.client.Failover(ctx, strike)
	if err != nil {
		return "", err
	}
	saw := "new answers to " + client.Heir + " after"
	for _, m := range took {
		saw += fmt.Sprintf(" %.2f s (%s)", m.After.Seconds(), m.By)
	}
	got, err := w.client.Generate(ctx, w.opts.Layout.RedirectURL(1), client.Question{Model: "llama", Tokens: 4, From: client.Homes[0]}, nil)
	if err != nil || got.Region != client.Heir {
		return "", errors.Join(fmt.Errorf("a completion came from %q, want %s", got.Region, client.Heir), err)
	}
	at := time.Now()
	if err := w.healed(ctx); err != nil {
		return "", err
	}
	return saw + fmt.Sprintf("\n               back after %.2f s", time.Since(at).Seconds()), nil
}

func (w *World) agentKilled(ctx context.Context) (string, error) {
	return w.lost(ctx, w.agents[region(client.Victim)].Kill)
}

func (w *World) agentStopped(ctx context.Context) (string, error) {
	return w.lost(ctx, func() error {
		_, err := w.agents[region(client.Victim)].Signal(syscall.SIGSTOP, false)
		return err
	})
}

func (w *World) regionKilled(ctx context.Context) (string, error) {
	return w.lost(ctx, func() error { return w.Kill(client.Victim) })
}

func (w *World) agentEnded(ctx context.Context) (string, error) {
	r := region(client.Victim)
	s, err := w.client.Open(ctx, w.opts.Layout.GatewayURL(r), long)
	if err != nil {
		return "", err
	}
	at := time.Now()
	if err := w.agents[r].Stop(ctx); err != nil {
		return "", err
	}
	took := time.Since(at)
	if err := s.Wait(ctx); err != nil {
		return "", err
	}
	if s.Err != nil {
		return "", fmt.Errorf("the stream under way: %w", s.Err)
	}
	return fmt.Sprintf("the stream under way was whole; the agent ended after %.1f s", took.Seconds()), w.healed(ctx)
}

// query asks a director's name server for an address without judging the answer.
func (w *World) query(ctx context.Context, d int, name string) (dnstest.Reply, error) {
	return dnstest.Ask(ctx, dnstest.Query{Server: w.opts.Layout.DNS(d), Name: name, Subnet: regions.Unit(client.Homes[0].Addr)})
}

// answers waits until a director answers a name with an address, and says how
// long that took.
func (w *World) answers(ctx context.Context, d int, name string) (time.Duration, error) {
	at := time.Now()
	err := client.Until(ctx, func() error {
		_, err := w.client.Ask(ctx, d, false, name, client.Homes[0])
		return err
	})
	return time.Since(at), err
}

func (w *World) directorKilled(ctx context.Context) (string, error) {
	if err := w.directors[0].Kill(); err != nil {
		return "", err
	}
	if err := w.sentBy(ctx, 1); err != nil {
		return "", err
	}
	if err := w.directors[0].Start(); err != nil {
		return "", err
	}
	took, err := w.answers(ctx, 0, layout.Zone)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("the other answered; started again it answered after %.2f s", took.Seconds()), w.healed(ctx)
}

// sentBy is nil when one director sends London to the victim.
func (w *World) sentBy(ctx context.Context, d int) error {
	got, err := w.client.Ask(ctx, d, false, layout.Zone, client.Homes[0])
	if err == nil && got != client.Victim {
		err = fmt.Errorf("%s sends London to %s, want %s", layout.DirectorName(d), got, client.Victim)
	}
	return err
}

// alone restarts one director with nothing but its file: no other director and no
// agent is there. It must answer, for the names that it learnt too.
func (w *World) alone(ctx context.Context) (string, error) {
	for _, p := range append(append([]*process.Process{}, w.directors...), w.agents...) {
		if err := p.Kill(); err != nil {
			return "", err
		}
	}
	if err := w.directors[0].Start(); err != nil {
		return "", err
	}
	took, err := w.answers(ctx, 0, "mistral."+layout.Zone)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("it answered a learnt name after %.2f s", took.Seconds()), w.healed(ctx)
}

// empty starts a director without its file while it is asked for a learnt name:
// it may be silent or fail, but must not deny the name.
func (w *World) empty(ctx context.Context) (string, error) {
	if err := w.directors[1].Kill(); err != nil {
		return "", err
	}
	if err := os.Remove(w.path(layout.DirectorName(1) + ".state")); err != nil {
		return "", err
	}
	if err := w.directors[1].Start(); err != nil {
		return "", err
	}
	var unready int
	at := time.Now()
	asking, giveUp := context.WithCancel(ctx)
	defer giveUp()
	err := client.Until(asking, func() error {
		short, cancel := context.WithTimeout(asking, 200*time.Millisecond)
		defer cancel()
		reply, err := w.query(short, 1, "mistral."+layout.Zone)
		switch {
		case err != nil:
			unready++
			return err
		case reply.Rcode == "NOERROR" && len(reply.Addrs) > 0:
			return nil
		case reply.Rcode == "SERVFAIL":
			unready++
			return errors.New("SERVFAIL")
		default:
			giveUp() // once is too often
			return fmt.Errorf("it denied a name that exists: %s with %d addresses", reply.Rcode, len(reply.Addrs))
		}
	})
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("silent for %d queries, then answered a learnt name after %.2f s; never denied it", unready, time.Since(at).Seconds()), w.healed(ctx)
}

// reloaded changes a static record of the first director, then breaks its file.
func (w *World) reloaded(ctx context.Context) (string, error) {
	path := w.path(layout.DirectorName(0) + ".yaml")
	old, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	swap := func(text, want string) error {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return err
		}
		if _, err := w.directors[0].Signal(syscall.SIGHUP, false); err != nil {
			return err
		}
		return client.Until(ctx, func() error { return w.says(ctx, want) })
	}
	renewed := strings.Replace(string(old), "all is well", "all is new", 1)
	if err := swap(renewed, "all is new"); err != nil {
		return "", err
	}
	if err := swap(strings.Replace(renewed, "zone:", "zoen:", 1), "all is new"); err != nil {
		return "", err
	}
	err = client.Until(ctx, func() error {
		if said := w.directors[0].LastWords(); !strings.Contains(said, "zoen") {
			return fmt.Errorf("it does not say what is wrong: %s", said)
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	return "the new record was served; the broken file was refused by name and line, and the record stayed", swap(string(old), "all is well")
}

// says is nil when the first director's static record has the text.
func (w *World) says(ctx context.Context, want string) error {
	reply, err := dnstest.Ask(ctx, dnstest.Query{Server: w.opts.Layout.DNS(0), Name: "status." + layout.Zone, Type: "TXT"})
	if err != nil {
		return err
	}
	if got := strings.Join(reply.TXT, " "); got != want {
		return fmt.Errorf("the record says %q, want %q", got, want)
	}
	return nil
}
