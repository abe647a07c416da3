// Package live is a whole Rhumb world as people run it: every pod, agent and
// director a process of the one binary, with certificates, keys and
// configuration in files, to be killed, stopped and restarted.
package live

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/rhumb-lb/rhumb/deploy/example"
	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/simulations/client"
	"github.com/rhumb-lb/rhumb/simulations/layout"
	"github.com/rhumb-lb/rhumb/simulations/process"
)

// Options are what a world is made from.
type Options struct {
	// Bin is the binary that all processes run.
	Bin string
	// Dir is an existing folder for keys, configuration, state and logs.
	Dir    string
	Layout layout.Layout
}

// World is a world of processes. Make it with [New], end it with [World.End].
type World struct {
	opts      Options
	directors []*process.Process
	agents    []*process.Process
	pods      [][]*process.Process // by region
	client    *client.Client
	failed    chan *process.Stray // ends that nobody asked for
}

// New writes the files of a world and starts its processes. What has started
// when it fails is ended again. Taken addresses are a [layout.ErrTaken].
func New(ctx context.Context, o Options) (*World, error) {
	if err := errors.Join(o.Layout.Check(), o.Layout.TryAll(ctx)); err != nil {
		return nil, err
	}
	w := &World{opts: o, client: client.New(o.Layout), failed: make(chan *process.Stray, (layout.PodsPerRegion+1)*len(layout.Places)+layout.Directors)}
	if err := errors.Join(w.writeConfigs(), w.writeKeys(ctx)); err != nil {
		return nil, err
	}
	w.makeProcesses()
	for _, p := range w.all() {
		if err := p.Start(); err != nil {
			return nil, errors.Join(err, w.End(ctx))
		}
	}
	return w, nil
}

// NewAnywhere makes a world on a random /16 that is free, whatever o says of it.
func NewAnywhere(ctx context.Context, o Options) (*World, error) {
	const attempts = 20 // of 254 networks
	for attempt := 1; ; attempt++ {
		o.Layout = layout.Random()
		w, err := New(ctx, o)
		if err == nil || attempt == attempts || !errors.Is(err, layout.ErrTaken) {
			return w, err
		}
	}
}

// hostAt is an address of the example in its text, but for networks.
var hostAt = regexp.MustCompile(`\b127\.0(\.\d+\.\d+\b[^/])`)

// writeConfigs copies the example's files, moved to the layout's network.
func (w *World) writeConfigs() error {
	if w.opts.Layout.Port != layout.Default().Port {
		return errors.New("a world of processes has the example's ports; only its network can be moved")
	}
	b := w.opts.Layout.Net.Addr().As4()
	return fs.WalkDir(example.Files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := fs.ReadFile(example.Files, name)
		if err != nil {
			return err
		}
		moved := hostAt.ReplaceAllString(string(text), fmt.Sprintf("127.%d$1", b[1]))
		return os.WriteFile(filepath.Join(w.opts.Dir, name), []byte(moved), 0o600)
	})
}

// writeKeys makes the fleet's keys by the commands that people use.
func (w *World) writeKeys(ctx context.Context) error {
	commands := [][]string{{"keygen", "fleet"}, {"keygen", "gossip"}}
	for d := range layout.Directors {
		commands = append(commands, []string{"keygen", "director", layout.DirectorName(d)})
	}
	for r, p := range layout.Places {
		at := w.opts.Layout.Gateway(r)
		commands = append(commands, []string{"keygen", "region", string(p.ID), "--endpoint", fmt.Sprintf("http://%s=%s", at, at.Addr())})
	}
	for _, args := range commands {
		if err := process.Run(ctx, w.opts.Dir, w.opts.Bin, args...); err != nil {
			return err
		}
	}
	return nil
}

func (w *World) makeProcesses() {
	l := w.opts.Layout
	for d := range layout.Directors {
		w.directors = append(w.directors, w.daemon("director", layout.DirectorName(d)))
	}
	for r, p := range layout.Places {
		w.agents = append(w.agents, w.daemon("agent", string(p.ID)))
		var pods []*process.Process
		for k := range layout.PodsPerRegion {
			args := []string{"pod", "--name", layout.PodName(p.ID, k), "--listen", l.PodHTTP(r, k).String(), "--metrics-listen", l.PodMetrics(r, k).String(),
				"--grpc", l.PodGRPC(r, k).String(), "--openai", l.PodOpenAI(r, k).String()}
			for _, m := range p.Models {
				args = append(args, "--model", m)
			}
			pods = append(pods, w.process(layout.PodName(p.ID, k), args...))
		}
		w.pods = append(w.pods, pods)
	}
}

func (w *World) daemon(role, name string) *process.Process {
	return w.process(name, role, "-c", w.path(name+".yaml"))
}

func (w *World) process(name string, args ...string) *process.Process {
	return &process.Process{Name: name, Bin: w.opts.Bin, Args: args, Log: w.path(name + ".log"), Failed: w.fail}
}

func (w *World) path(name string) string { return filepath.Join(w.opts.Dir, name) }

// fail keeps ends that nobody asked for, at most one of each process.
func (w *World) fail(s *process.Stray) {
	select {
	case w.failed <- s:
	default:
	}
}

// all are the processes in the order in which they start: pods first.
func (w *World) all() []*process.Process {
	var out []*process.Process
	for _, pods := range w.pods {
		out = append(out, pods...)
	}
	return append(append(out, w.directors...), w.agents...)
}

// End ends all processes, the agents first, as a careful operator would. What
// does not end in time is killed and named.
func (w *World) End(ctx context.Context) error {
	w.client.Close()
	ctx = context.WithoutCancel(ctx)
	var errs []error
	for _, group := range [][]*process.Process{w.agents, w.directors, w.all()} {
		var g errgroup.Group
		for _, p := range group {
			_, _ = p.Signal(continued, false) // one that is stopped can't end
			g.Go(func() error { return p.Stop(ctx) })
		}
		errs = append(errs, g.Wait())
	}
	return errors.Join(append(errs, w.strayed())...)
}

// strayed is the error of a process that ended by itself, if any did.
func (w *World) strayed() error {
	select {
	case err := <-w.failed:
		return err
	default:
		return nil
	}
}

// region is the index of a region.
func region(id regions.ID) int {
	for r, p := range layout.Places {
		if p.ID == id {
			return r
		}
	}
	panic("no region " + id)
}

// Welcome prints what runs where and what to try.
func (w *World) Welcome(out io.Writer) {
	l := w.opts.Layout
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(out, format+"\n", args...) }
	say("A Rhumb world of %d processes runs on this machine. Keys, configuration, state and logs: %s\n", len(w.all()), w.opts.Dir)
	for _, p := range w.all() {
		say("  pid %-8d %s %s", p.PID(), filepath.Base(p.Bin), strings.Join(p.Args, " "))
	}
	say("\nAsk as a client in London; kill -9 or kill -STOP a process and ask again:")
	say("  dig @%s -p %d %s A +subnet=%s +short", l.DNS(0).Addr(), l.DNS(0).Port(), layout.Zone, regions.Unit(client.Homes[0].Addr))
	say("  curl -s http://%s/api/v1/regions", l.Admin(0))
	say("\nA process that ends is started again after %v. Ctrl-C ends the world.", reviveAfter)
}
