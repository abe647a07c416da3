package world

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/simulations/client"
	"github.com/rhumb-lb/rhumb/simulations/layout"
)

// Demo runs a world for people: it prints where everything is and what to try,
// then what it sees as things change, until ctx is done. With check it runs the
// tour instead and ends after it.
func Demo(ctx context.Context, o Options, check bool, out io.Writer) error {
	var mu sync.Mutex
	begun := time.Now()
	tell := func(line string) {
		mu.Lock()
		defer mu.Unlock()
		_, _ = fmt.Fprintf(out, "%8.2f s  %s\n", time.Since(begun).Seconds(), line)
	}
	if !check {
		o.Tell = func(e Event) { tell(e.Line()) }
	}
	w, err := New(ctx, o)
	if err != nil {
		return err
	}
	if !check {
		w.Welcome(out)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g, parts := errgroup.WithContext(ctx)
	g.Go(func() error { return w.Run(parts) })
	g.Go(func() error {
		if !check {
			if err := w.Ready(parts); err == nil {
				tell("both directors answer")
			}
			w.Watch(parts, tell)
			return nil
		}
		defer cancel()
		return w.Check(parts, out)
	})
	return g.Wait()
}

// Welcome prints what runs where and what to try.
func (w *World) Welcome(out io.Writer) {
	l := w.opts.Layout
	move := ""
	if l.Net != layout.Default().Net {
		move += " --net " + l.Net.String()
	}
	if l.Port != layout.Default().Port {
		move += fmt.Sprintf(" --port %d", l.Port)
	}
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(out, format+"\n", args...) }
	say("A Rhumb world runs on this machine: zone %s, %d regions, %d directors.\n", layout.Zone, len(layout.Places), layout.Directors)
	for i, p := range layout.Places {
		say("  %-13s gateway %-22s %d pods serving %v", p.ID, l.Gateway(i), layout.PodsPerRegion, p.Models)
	}
	for d := range layout.Directors {
		say("  %-13s DNS %s, redirect %s, admin http://%s", layout.DirectorName(d), l.DNS(d), l.Redirect(d), l.Admin(d))
	}
	if at, ok := l.DNS6(); ok {
		say("  %-13s DNS %s too", layout.DirectorName(0), at)
	}
	say("\nAsk as a client in London, Tokyo, California:")
	for _, h := range client.Homes {
		say("  dig @%s -p %d %s A +subnet=%s +short", l.DNS(0).Addr(), l.DNS(0).Port(), layout.Zone, regions.Unit(h.Addr))
	}
	say("Why there:")
	say("  dig @%s -p %d _why.%s TXT +subnet=%s +short", l.DNS(1).Addr(), l.DNS(1).Port(), layout.Zone, regions.Unit(client.Homes[0].Addr))
	say("Stream a completion from the nearest region:")
	say(`  curl -sN -L -H 'X-Forwarded-For: %s' http://%s/v2/models/llama/generate_stream -d '{"text_input":"hi","parameters":{"stream":true,"max_tokens":8}}'`, client.Homes[0].Addr, l.Redirect(0))
	say("Play with it, from another terminal:")
	say("  bin/rhumb demo%s lose eu-west      (or: crash, darken, heal, drain, undrain, weather)", move)
	say("\nWhat the directors see from here on (Ctrl-C ends the world):")
}

// Line is an event in one line for people.
func (e Event) Line() string {
	if e.Before == 0 {
		return fmt.Sprintf("%s hears of %s: %s", e.Director, e.Region, e.State)
	}
	return fmt.Sprintf("%s: %s was %s, is %s (%s)", e.Director, e.Region, e.Before, e.State, e.Reason)
}

// watchEvery is how often pods are counted for who watches.
const watchEvery = 200 * time.Millisecond

// Watch tells when the number of pods that take requests changes
// anywhere, as the first director sees it, until ctx is done.
func (w *World) Watch(ctx context.Context, tell func(string)) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	seen := map[regions.ID]map[regions.ModelName]int{}
	for {
		for _, r := range w.directors[0].Regions() {
			was := seen[r.ID]
			if was == nil {
				was = map[regions.ModelName]int{}
				seen[r.ID] = was
			}
			for _, m := range r.Models {
				if n, known := was[m.Name]; known && n != m.Pods.Taking() {
					tell(fmt.Sprintf("%s: pods for %s in %s: %d, were %d", layout.DirectorName(0), m.Name, r.ID, m.Pods.Taking(), n))
				}
				was[m.Name] = m.Pods.Taking()
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
