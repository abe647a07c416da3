package agent

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/pool"
	"github.com/rhumb-lb/rhumb/regions/probe"
	"github.com/rhumb-lb/rhumb/regions/signals"
	"github.com/rhumb-lb/rhumb/regions/triton"
)

// Canary says how often a pod whose requests don't show that it serves is asked to
// generate one token, and from what text. Every 0 asks for none.
type Canary struct {
	Every time.Duration
	Text  string
}

// assembleAskers makes what asks the pods: probes, canaries and signals.
func (a *Agent) assembleAskers() {
	o := &a.opts
	client := triton.DefaultOptions()
	client.Dial = o.Dial
	asker := triton.New(client)
	client.Timeout = 0 // a canary waits for as long as the probes say

	probes := probe.DefaultOptions()
	probes.Policy.Canary = o.Canary.Every
	probes.Canary = &canary{client: triton.New(client), text: o.Canary.Text, log: a.log}
	probes.Logger, probes.Registry = a.log, o.Registry
	probes.OnChange = a.podChanged
	probes.OnSuspect = a.pool.SetSuspect
	a.runner = probe.NewRunner(probes, prober{asker})

	heard := signals.DefaultOptions()
	heard.Learn, heard.Slots = !o.FixedSlots, pool.DefaultOptions().DefaultSlots
	heard.InFlight, heard.OnFacts = a.inFlight, a.learned
	heard.Now, heard.Logger, heard.Registry = o.Now, a.log, o.Registry
	a.signals = signals.New(heard, asker)
}

// inFlight is how many requests each pod has.
func (a *Agent) inFlight() map[regions.PodID]int {
	out := map[regions.PodID]int{}
	for _, p := range a.pool.Pods() {
		out[p.ID] += p.InFlight
	}
	return out
}

// learned takes what is known of a pod and model beyond whether it serves.
func (a *Agent) learned(pod regions.PodID, model regions.ModelName, facts regions.Facts) {
	a.pool.Learn(a.opts.Now(), pod, model, facts)
}

// ended takes how a request on a pod ended. Who waits for a slot waits at the
// gateway, or inside of the pod by its own word.
func (a *Agent) ended(now time.Time, r pool.Result) {
	a.signals.Observe(now, r.Pod, r.Model, r.InFlight+1, r.Ahead+a.proxy.Waiting()[r.Model], r.Outcome)
}

// loaded takes what a pod says of its load beside an answer.
func (a *Agent) loaded(pod regions.PodID, model regions.ModelName, report string) {
	a.signals.Heard(pod, model, report, a.opts.Now())
}

// prober probes pods by Triton's word on the model.
type prober struct{ client *triton.Client }

// Probe implements probe.Prober.
func (p prober) Probe(ctx context.Context, pod regions.Pod, model regions.ModelName) regions.Observation {
	sight, took, _ := p.client.ModelReady(ctx, pod.HTTP, model)
	return regions.Observation{Pod: pod.ID, Model: model, Sight: sight, Took: took}
}

// canary has pods generate a token.
type canary struct {
	client *triton.Client
	text   string
	log    *slog.Logger
	warned sync.Map // models of which it was said that no canary can be made
	good   sync.Map // models whose canaries some pod has answered well
}

// Probe implements probe.Prober.
func (c *canary) Probe(ctx context.Context, pod regions.Pod, model regions.ModelName) regions.Observation {
	sight, took, err := c.client.Canary(ctx, pod.HTTP, model, c.text)
	if sight == regions.SawReady {
		c.good.Store(model, true)
	}
	if refused, ok := errors.AsType[*triton.StatusError](err); ok && refused.Status == http.StatusBadRequest {
		// Triton answers so to a question that it can't take, and also for a backend
		// that has died. A question that another pod has taken is the former no more.
		if _, good := c.good.Load(model); good {
			sight = regions.SawNotReady
		}
	}
	if sight == 0 && ctx.Err() == nil {
		// Once for each model: what it lacks it lacks on all pods.
		if _, said := c.warned.LoadOrStore(model, true); !said {
			c.log.Warn("a canary says nothing of a pod", "pod", pod.ID, "model", model, "error", err)
		}
	}
	return regions.Observation{Pod: pod.ID, Model: model, Sight: sight, Took: took}
}
