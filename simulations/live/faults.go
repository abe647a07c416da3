package live

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"syscall"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/simulations/client"
	"github.com/rhumb-lb/rhumb/simulations/layout"
	"github.com/rhumb-lb/rhumb/simulations/process"
)

// continued lets a stopped process go on.
const continued = syscall.SIGCONT

// crew are the processes of a region: its agent and its pods.
func (w *World) crew(id regions.ID) []*process.Process {
	r := region(id)
	return append([]*process.Process{w.agents[r]}, w.pods[r]...)
}

// Kill kills -9 all of a region.
func (w *World) Kill(id regions.ID) error {
	var errs []error
	for _, p := range w.crew(id) {
		errs = append(errs, p.Kill())
	}
	return errors.Join(errs...)
}

// Freeze stops all of a region by SIGSTOP: connections are still made, by the
// kernel, and nothing answers.
func (w *World) Freeze(id regions.ID) error {
	var errs []error
	for _, p := range w.crew(id) {
		_, err := p.Signal(syscall.SIGSTOP, false)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Heal starts and lets go on whatever does not run of a world, and waits until
// both directors see all of it.
func (w *World) Heal(ctx context.Context) error {
	for _, p := range w.all() {
		if err := p.Start(); err != nil {
			return err
		}
		if _, err := p.Signal(continued, false); err != nil {
			return err
		}
	}
	return w.Ready(ctx)
}

// Ready waits until both directors see every region ready with all of its pods.
func (w *World) Ready(ctx context.Context) error {
	err := client.Until(ctx, func() error {
		for d := range layout.Directors {
			if err := w.complete(ctx, d); err != nil {
				return fmt.Errorf("%s: %w", layout.DirectorName(d), err)
			}
		}
		return nil
	})
	return errors.Join(err, w.strayed())
}

// seen is a region in a director's admin API.
type seen struct {
	ID     regions.ID `json:"id"`
	State  string     `json:"state"`
	Models []struct {
		Name string `json:"name"`
		Pods int    `json:"pods_taking"`
	} `json:"models"`
}

// complete is nil when a director sees all of the world.
func (w *World) complete(ctx context.Context, d int) error {
	if err := get(ctx, w.opts.Layout.Admin(d), "/healthz", nil); err != nil {
		return err
	}
	var have []seen
	if err := get(ctx, w.opts.Layout.Admin(d), "/api/v1/regions", &have); err != nil {
		return err
	}
	if len(have) != len(layout.Places) {
		return fmt.Errorf("it sees %d regions, want %d", len(have), len(layout.Places))
	}
	for _, s := range have {
		if s.State != "ready" || len(s.Models) != len(layout.Places[region(s.ID)].Models) {
			return fmt.Errorf("%s is %s with %d models", s.ID, s.State, len(s.Models))
		}
		for _, m := range s.Models {
			if m.Pods != layout.PodsPerRegion {
				return fmt.Errorf("%s has %d pods for %s, want %d", s.ID, m.Pods, m.Name, layout.PodsPerRegion)
			}
		}
	}
	return nil
}

// get reads a value of an admin API, or only that all is well if into is nil.
func get(ctx context.Context, at netip.AddrPort, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+at.String()+path, http.NoBody)
	if err != nil {
		return err
	}
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", resp.Status, body)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(body, into)
}
