package node

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/director/redirect"
	"github.com/rhumb-lb/rhumb/regions"
)

func TestRedirect(t *testing.T) {
	drained := func(r *rig) { r.everybody(func(s *regions.Status) { s.Draining = true }) }
	lost := func(r *rig) {
		for id := range r.reports {
			r.probe(id, 2, 0)
		}
		r.now = r.now.Add(time.Hour)
	}
	for _, c := range []struct {
		what     string
		do       func(*rig)
		model    regions.ModelName
		client   string // empty: not known
		region   regions.ID
		degraded bool
		err      error
	}{
		{what: "nearest", model: "llama", client: "81.2.69.1", region: "eu-west"},
		{what: "nearest to another", model: "llama", client: "8.8.8.8", region: "us-east"},
		{what: "nearest that has the model", model: "mistral", client: "133.242.0.1", region: "eu-west"},
		{what: "no model named", model: regions.Apex, client: "81.2.69.1", region: "eu-west"},
		{what: "unknown model", model: "gpt", client: "81.2.69.1", err: redirect.ErrUnknownModel},
		{what: "models are not labels", model: "LLAMA", client: "81.2.69.1", err: redirect.ErrUnknownModel},
		{what: "one is drained", do: func(r *rig) { r.say("eu-west", func(s *regions.Status) { s.Draining = true }) },
			model: "llama", client: "81.2.69.1", region: "us-east"},
		{what: "all are drained", do: drained, model: "llama", client: "81.2.69.1", err: redirect.ErrBarred},
		{what: "all are drained, no model named", do: drained, model: regions.Apex, client: "81.2.69.1", err: redirect.ErrBarred},
		{what: "all are drained, unknown model", do: drained, model: "gpt", client: "81.2.69.1", err: redirect.ErrUnknownModel},
		{what: "all are lost", do: lost, model: "llama", client: "81.2.69.1", region: "eu-west", degraded: true},
	} {
		t.Run(c.what, func(t *testing.T) {
			r := three(t)
			r.everybody(func(s *regions.Status) { s.Models[0].InFlight, s.Models[0].Queued = 0, 0 })
			a := r.answers()
			if c.do != nil {
				c.do(r)
			}
			r.after(planEvery)
			choice, err := a.Redirect(c.model, c.model != regions.Apex, netip.MustParseAddr(c.client))
			if !errors.Is(err, c.err) || choice.Region != c.region || choice.Degraded != c.degraded {
				t.Fatalf("got %+v, %v; want region %q, %v", choice, err, c.region, c.err)
			}
			counted := r.demand.now(r.now).Cells[c.model]
			if (len(counted) == 1) != (err == nil) {
				t.Errorf("counted as demand: %v", counted)
			}
			if err != nil {
				return
			}
			if len(choice.ID) != 16 || choice.Endpoint.Host != string(c.region)+".example.com" {
				t.Errorf("choice %+v", choice)
			}
			// DNS says the same.
			answer, _, _ := a.Lookup("llama.inference.test.", from(c.client))
			if c.model == "llama" && first(answer) != r.reports[c.region].Status.Endpoints[0].Addrs[0].String() {
				t.Errorf("DNS says %s", first(answer))
			}
		})
	}
}

func TestRedirectOfNobody(t *testing.T) {
	a := three(t).answers()
	choice, err := a.Redirect("llama", true, netip.Addr{})
	if err != nil || choice.Region == "" {
		t.Errorf("a client without an address gets %+v, %v", choice, err)
	}
}

func TestRedirectBeforeTheFirstSync(t *testing.T) {
	a := newRig(t, Host{"chat", "llama"}).answers()
	if _, err := a.Redirect("llama", true, british.Addr()); !errors.Is(err, redirect.ErrNotReady) {
		t.Errorf("got %v", err)
	}
}

func TestLabelsOfTheRedirector(t *testing.T) {
	a := three(t, Host{"chat", "llama"}, Host{"api", regions.Apex}).answers()
	for label, want := range map[string]regions.ModelName{"chat": "llama", "mistral": "mistral", "api": regions.Apex} {
		if got, ok := a.label(label); !ok || got != want {
			t.Errorf("%s is %q, %v", label, got, ok)
		}
	}
	for _, label := range []string{"llama", "route", "region", "gpt", ""} {
		if got, ok := a.label(label); ok {
			t.Errorf("%q is %q", label, got)
		}
	}
}
