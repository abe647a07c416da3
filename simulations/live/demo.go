package live

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/rhumb-lb/rhumb/simulations/layout"
)

// Task is what to do with a world before it ends.
type Task struct {
	// Check runs the tour; Failover, if above zero, loses a region so many times.
	// With neither the world runs until ctx is done.
	Check    bool
	Failover int
}

// Demo makes a world of processes of this binary, does the task with it and ends
// it. Its folder is removed again, unless something went wrong: then the error
// names it, for the logs in it.
func Demo(ctx context.Context, at layout.Layout, task Task, out io.Writer) error {
	bin, err := os.Executable()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "rhumb-world-")
	if err != nil {
		return err
	}
	w, err := New(ctx, Options{Bin: bin, Dir: dir, Layout: at})
	if err == nil {
		err = errors.Join(w.do(ctx, task, out), w.End(ctx))
	}
	if err != nil {
		return fmt.Errorf("%w\n(configuration and logs are in %s)", err, dir)
	}
	return os.RemoveAll(dir)
}

func (w *World) do(ctx context.Context, task Task, out io.Writer) error {
	switch {
	case task.Check:
		return w.Check(ctx, out)
	case task.Failover > 0:
		return w.Failover(ctx, task.Failover, out)
	}
	if err := w.Ready(ctx); err != nil {
		return err
	}
	w.Welcome(out)
	return w.attend(ctx, out)
}

// reviveAfter is how long a process that ended by itself, or by a visitor's kill,
// stays away: long enough to see what its loss does, and that it is noticed.
const reviveAfter = 10 * time.Second

// attend starts processes that ended again until ctx is done, as Kubernetes would.
func (w *World) attend(ctx context.Context, out io.Writer) error {
	revive := time.NewTimer(0)
	defer revive.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case gone := <-w.failed:
			_, _ = fmt.Fprintf(out, "%s ended (%s); it is started again in %v\n", gone.Name, gone.State, reviveAfter)
			revive.Reset(reviveAfter)
		case <-revive.C:
			for _, p := range w.all() {
				if p.PID() != 0 {
					continue
				}
				if err := p.Start(); err != nil {
					return err
				}
				_, _ = fmt.Fprintf(out, "%s runs again, pid %d\n", p.Name, p.PID())
			}
		}
	}
}
