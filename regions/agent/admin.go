package agent

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/admin"
	"github.com/rhumb-lb/rhumb/regions/signals"
)

// adminPod is a pod in the admin API. What the pod does not say of itself is left
// out.
type adminPod struct {
	ID       string `json:"id"`
	Model    string `json:"model"`
	State    string `json:"state"`
	InFlight int    `json:"in_flight"`
	Slots    int    `json:"slots"`
	Source   string `json:"slots_source,omitempty"`
	Learned  int    `json:"slots_learned,omitempty"`
	Served   uint64 `json:"served"`
	Failed   uint64 `json:"failed"`

	Waiting *int     `json:"waiting,omitempty"`
	Active  *int     `json:"active,omitempty"`
	KV      *float64 `json:"kv_cache,omitempty"` // from 0 to 1
	Age     *float64 `json:"metrics_age_seconds,omitempty"`
	Version uint32   `json:"version,omitempty"`
	Config  string   `json:"config,omitempty"` // hash of the model's configuration
}

// adminPods are the pods of the pool with what is known of them beside it.
func (a *Agent) adminPods() []adminPod {
	out := []adminPod{}
	for _, p := range a.pool.Pods() {
		row := adminPod{
			ID: string(p.ID), Model: string(p.Model), State: p.State.String(),
			InFlight: p.InFlight, Slots: p.Slots, Served: p.Served, Failed: p.Failed,
		}
		if r, known := a.signals.Reading(p.ID, p.Model); known {
			row.add(&r)
		}
		out = append(out, row)
	}
	return out
}

func (p *adminPod) add(r *signals.Reading) {
	f := &r.Facts
	p.Source, p.Learned = r.SlotsSource(), r.Learned
	if f.Waiting >= 0 {
		p.Waiting = &f.Waiting
	}
	if f.Active >= 0 {
		p.Active = &f.Active
	}
	if r.Full >= 0 {
		full := float64(r.Full) / float64(regions.Whole)
		p.KV = &full
	}
	if r.Age >= 0 {
		age := r.Age.Seconds()
		p.Age = &age
	}
	if f.Fingerprint != (regions.Fingerprint{}) {
		p.Version, p.Config = f.Fingerprint.Version, fmt.Sprintf("%016x", f.Fingerprint.ConfigHash)
	}
}

// adminModel is a model in the admin API.
type adminModel struct {
	Name       string  `json:"name"`
	Pods       int     `json:"pods_taking"`
	SlotsMilli int64   `json:"slots_milli"`
	InFlight   uint32  `json:"in_flight"`
	Queued     uint32  `json:"queued"`
	WaitMS     float64 `json:"wait_ms"`
	TTFTMS     float64 `json:"ttft_ms"`
}

func (a *Agent) adminMux() *admin.Mux {
	m := admin.NewMux(a.opts.Registry, a.check, a.log)
	m.Handle("GET /api/v1/pods", func(*http.Request) (any, error) { return a.adminPods(), nil })
	m.Handle("GET /api/v1/models", func(*http.Request) (any, error) {
		out := []adminModel{}
		for _, s := range a.pool.Models(a.opts.Now(), nil) {
			out = append(out, adminModel{string(s.Name), s.Pods.Taking(), int64(s.Slots), s.InFlight, s.Queued,
				float64(s.Wait) / 1000, float64(s.TTFT) / 1000})
		}
		return out, nil
	})
	m.Handle("GET /api/v1/drain", func(*http.Request) (any, error) { return a.drain.Load(), nil })
	m.Handle("POST /api/v1/drain", func(r *http.Request) (any, error) {
		var in struct {
			Draining *bool  `json:"draining"`
			Reason   string `json:"reason"`
		}
		if err := admin.Read(r, &in); err != nil {
			return nil, err
		}
		if in.Draining == nil {
			return nil, admin.Invalid(`want {"draining": true|false, "reason": "..."}`)
		}
		if *in.Draining && in.Reason == "" {
			return nil, admin.Invalid("a drain needs a reason, so that others know whom to ask")
		}
		a.Drain(*in.Draining, in.Reason)
		return a.drain.Load(), nil
	})
	return m
}

// check is the daemon's own state: it runs until it is told to end. Whether
// the region serves is another question, answered by /v2/health/ready.
func (a *Agent) check() error {
	if at := a.stopped.Load(); at != 0 {
		return errors.New("stopping since " + time.Unix(0, at).UTC().Format(time.RFC3339))
	}
	return nil
}
