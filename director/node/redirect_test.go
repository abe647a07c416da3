package node

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/director/redirect"
	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/regionstest"
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
			d, err := a.Decide(c.model, c.model != regions.Apex, netip.MustParseAddr(c.client))
			if !errors.Is(err, c.err) || err == nil && (d.Candidates[0].Region != c.region || d.AllLost != c.degraded) {
				t.Fatalf("got %+v, %v; want region %q, %v", d, err, c.region, c.err)
			}
			counted := r.demand.now(r.now).Cells[c.model]
			if (len(counted) == 1) != (err == nil) {
				t.Errorf("counted as demand: %v", counted)
			}
			if err != nil {
				return
			}
			if len(d.ID) != 16 || d.Candidates[0].Endpoints[0].Host != string(c.region)+".example.com" {
				t.Errorf("decision %+v", d)
			}
			// DNS says the same.
			answer, _, _ := a.Lookup("llama.inference.test.", from(c.client))
			if c.model == "llama" && first(answer) != r.reports[c.region].Status.Endpoints[0].Addrs[0].String() {
				t.Errorf("DNS says %s", first(answer))
			}
		})
	}
}

// program is what /v1/route answers, as far as programs go by it.
type program struct {
	Error, Decision, Cell, Degraded string
	Client                          string
	TTL                             int
	Endpoints                       []struct{ Region, URL, State, Reason string }
}

// asks asks a redirector of the rig's world as a client would.
func (r *rig) asks(a *answerer, path, client string) *http.Response {
	r.tb.Helper()
	o := redirect.DefaultOptions()
	o.Zone, o.Location, o.Decider, o.Labels = "inference.test", redirect.ByEndpoint, a, a.label
	o.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	h, err := redirect.New(o)
	if err != nil {
		r.tb.Fatal(err)
	}
	s := httptest.NewServer(h)
	r.tb.Cleanup(s.Close)
	req, err := http.NewRequest(http.MethodGet, s.URL+path, http.NoBody)
	if err != nil {
		r.tb.Fatal(err)
	}
	req.Header.Set("X-Forwarded-For", client)
	c := s.Client()
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	res, err := c.Do(req)
	if err != nil {
		r.tb.Fatal(err)
	}
	r.tb.Cleanup(func() { _ = res.Body.Close() })
	return res
}

// TestOneMind asks for the same thing by redirect, as a program and by DNS, while
// regions come and go: all three say the same, in the status that fits.
func TestOneMind(t *testing.T) {
	drain := func(s *regions.Status) { s.Draining = true }
	silence := func(r *rig, ids ...regions.ID) {
		for _, id := range ids {
			r.probe(id, 2, 0)
		}
		r.now = r.now.Add(time.Hour)
	}
	for _, c := range []struct {
		what   string
		do     func(*rig)
		model  string
		status int // of the route API; a redirect's is 307 for 200
		ranked []string
		lost   bool
		retry  bool
	}{
		{what: "all is well", model: "llama", status: 200, ranked: []string{"eu-west ready", "us-east ready", "ap-northeast ready"}},
		{what: "of two regions with the model", model: "mistral", status: 200, ranked: []string{"eu-west ready", "us-east ready"}},
		{what: "one is drained", do: func(r *rig) { r.say("eu-west", drain) }, model: "llama", status: 200, ranked: []string{"us-east ready", "ap-northeast ready"}},
		{what: "all are drained", do: func(r *rig) { r.everybody(drain) }, model: "llama", status: 503, retry: true},
		{what: "all that have the model are drained", do: func(r *rig) { r.say("eu-west", drain); r.say("us-east", drain) }, model: "mistral", status: 503, retry: true},
		{what: "one is drained, all others are lost", do: func(r *rig) {
			r.say("eu-west", drain)
			silence(r, "us-east", "ap-northeast")
			r.say("eu-west", nil)
		}, model: "llama", status: 200, ranked: []string{"us-east lost", "ap-northeast lost"}, lost: true},
		{what: "all are lost", do: func(r *rig) { silence(r, "eu-west", "us-east", "ap-northeast") }, model: "llama", status: 200,
			ranked: []string{"eu-west lost", "us-east lost", "ap-northeast lost"}, lost: true},
		{what: "no region ever had the model", model: "gpt", status: 404},
		{what: "all are lost, and none had the model", do: func(r *rig) { silence(r, "eu-west", "us-east", "ap-northeast") }, model: "gpt", status: 404},
	} {
		t.Run(c.what, func(t *testing.T) {
			r := three(t)
			r.everybody(func(s *regions.Status) { s.Models[0].InFlight, s.Models[0].Queued = 0, 0 })
			a := r.answers()
			if c.do != nil {
				c.do(r)
			}
			r.after(planEvery)
			res := r.asks(a, "/v1/route?model="+c.model, "81.2.69.1")
			var got program
			if err := json.NewDecoder(res.Body).Decode(&got); err != nil || res.StatusCode != c.status || (res.Header.Get("Retry-After") != "") != c.retry {
				t.Fatalf("%s %v: %+v, %v", res.Status, res.Header, got, err)
			}
			to := r.asks(a, "/v2/models/"+c.model+"/generate", "81.2.69.1")
			if want := map[int]int{200: 307, 404: 404, 503: 503}[c.status]; to.StatusCode != want || (to.Header.Get("Retry-After") != "") != c.retry {
				t.Errorf("the redirect is a %s, want %d", to.Status, want)
			}
			degraded := map[bool]string{true: "all-lost"}[c.lost]
			if res.Header.Get("Rhumb-Degraded") != degraded || to.Header.Get("Rhumb-Degraded") != degraded || got.Degraded != degraded {
				t.Errorf("degraded: %v, %v, %q; want %q", res.Header, to.Header, got.Degraded, degraded)
			}
			var ranked []string
			for _, e := range got.Endpoints {
				ranked = append(ranked, e.Region+" "+e.State)
			}
			if !slices.Equal(ranked, c.ranked) {
				t.Errorf("ranked %q, want %q", ranked, c.ranked)
			}
			if c.status != http.StatusOK {
				return
			}
			if got.Client != "81.2.69.0/24" || got.Cell == "" || got.TTL != 20 || got.Endpoints[0].Reason == "" {
				t.Errorf("got %+v", got)
			}
			if location := to.Header.Get("Location"); location != got.Endpoints[0].URL+"/v2/models/"+c.model+"/generate" || to.Header.Get("Rhumb-Decision") != got.Decision {
				t.Errorf("redirected to %s by %s, ranked first is %s by %s", location, to.Header.Get("Rhumb-Decision"), got.Endpoints[0].URL, got.Decision)
			}
			answer, _, _ := a.Lookup(c.model+".inference.test.", from("81.2.69.1"))
			if want := r.reports[regions.ID(got.Endpoints[0].Region)].Status.Endpoints[0].Addrs[0].String(); first(answer) != want {
				t.Errorf("DNS says %s, want %s", first(answer), want)
			}
			if counted := r.demand.now(r.now).Cells[regions.ModelName(c.model)]; len(counted) != 1 {
				t.Errorf("counted as demand: %v", counted)
			}
		})
	}
}

func TestRouteBeforeTheFirstSync(t *testing.T) {
	r := newRig(t, Host{"chat", "llama"})
	a := r.answers()
	for _, path := range []string{"/v1/route?model=llama", "/v1/route?model=gpt", "/v2/models/llama/generate"} {
		if res := r.asks(a, path, "81.2.69.1"); res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" {
			t.Errorf("%s: %s %v", path, res.Status, res.Header)
		}
	}
}

// The token for asking for others is the admin API's, and changes with it.
func TestRouteTokenFollowsReload(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	o := m.options()
	d := m.director(o)
	m.agent("eu-west", dublin, serves("llama", 24, 2))
	regionstest.Eventually(t, patience, func() bool { return d.Ready() == nil && len(d.Table().Regions) == 1 }, "the region is in the table")
	asks := func(token string) int {
		res, _ := get(t, d.redirectURL()+"/v1/route?model=llama&client=8.8.8.8", "Authorization", "Bearer "+token)
		return res.StatusCode
	}
	if got := asks("one"); got != http.StatusForbidden {
		t.Errorf("without a token set: %d", got)
	}
	for _, token := range []string{"one", "two", ""} {
		o.Admin.Token = token
		if err := d.Reload(o); err != nil {
			t.Fatal(err)
		}
		for _, said := range []string{"one", "two", "three"} {
			want := http.StatusUnauthorized
			switch token {
			case said:
				want = http.StatusOK
			case "":
				want = http.StatusForbidden
			}
			if got := asks(said); got != want {
				t.Errorf("with the token %q set, %q is answered with %d, want %d", token, said, got, want)
			}
		}
	}
}

func TestRedirectOfNobody(t *testing.T) {
	a := three(t).answers()
	d, err := a.Decide("llama", true, netip.Addr{})
	if err != nil || d.Candidates[0].Region == "" || d.Client.Cell != regions.UnknownCell {
		t.Errorf("a client without an address gets %+v, %v", d, err)
	}
}

func TestRedirectBeforeTheFirstSync(t *testing.T) {
	a := newRig(t, Host{"chat", "llama"}).answers()
	if _, err := a.Decide("llama", true, british.Addr()); !errors.Is(err, redirect.ErrNotReady) {
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

// TestRedirectProtocols: over HTTP/1.1 and over HTTP/2 with prior knowledge the
// answer comes before the body was taken.
func TestRedirectProtocols(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	d := m.director(m.options())
	for proto, choose := range map[string]func(*http.Protocols){
		"HTTP/1.1": func(p *http.Protocols) { p.SetHTTP1(true) },
		"HTTP/2.0": func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) },
	} {
		way := &http.Transport{Protocols: new(http.Protocols)}
		choose(way.Protocols)
		body, rest := io.Pipe()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, d.redirectURL()+"/v2/models/llama/generate", body)
		if err != nil {
			t.Fatal(err)
		}
		res, err := way.RoundTrip(r)
		if err != nil {
			t.Fatalf("%s: %v", proto, err)
		}
		if res.Proto != proto || res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" {
			t.Errorf("%s: %s %s %v", proto, res.Proto, res.Status, res.Header)
		}
		_ = res.Body.Close()
		_ = rest.Close()
		way.CloseIdleConnections()
	}
}
