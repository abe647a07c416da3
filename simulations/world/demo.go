package world

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Demo runs a world for people: it prints where everything is and what to try,
// then what it sees as things change, until ctx is done. With check it runs the
// tour instead and ends after it.
func Demo(ctx context.Context, l Layout, check bool, out io.Writer, log *slog.Logger) error {
	var mu sync.Mutex
	begun := time.Now()
	tell := func(line string) {
		mu.Lock()
		defer mu.Unlock()
		_, _ = fmt.Fprintf(out, "%8.2f s  %s\n", time.Since(begun).Seconds(), line)
	}
	o := Options{Layout: l, Logger: log}
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
			w.Watch(parts, tell)
			return nil
		}
		defer cancel()
		return w.Check(parts, out)
	})
	return g.Wait()
}
