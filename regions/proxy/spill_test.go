package proxy_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/proxy"
	"github.com/rhumb-lb/rhumb/regions/regionstest"
)

// elsewhere gives out the same regions in turn and notes how it went there.
type elsewhere struct {
	mu    sync.Mutex
	urls  []string
	asked int
	open  int
	ends  []regions.Outcome
	knows bool
}

func (e *elsewhere) Knows(regions.ModelName) bool   { return e.knows }
func (e *elsewhere) HasPeer(region regions.ID) bool { return region == "there" }

func (e *elsewhere) Spill(_ time.Time, _ regions.Request, _ bool) (proxy.SpillLease, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.urls) == 0 {
		return nil, false
	}
	to, err := regions.ParseEndpoint(e.urls[e.asked%len(e.urls)])
	if err != nil {
		return nil, false
	}
	e.asked++
	e.open++
	return &ticket{e: e, to: to}, true
}

type ticket struct {
	e  *elsewhere
	to regions.Endpoint
}

func (l *ticket) Region() regions.ID         { return "there" }
func (l *ticket) Endpoint() regions.Endpoint { return l.to }
func (l *ticket) Done(_ time.Time, out regions.Outcome) {
	l.e.mu.Lock()
	defer l.e.mu.Unlock()
	l.e.open--
	l.e.ends = append(l.e.ends, out)
}

// check compares the ends of the leases, which must all have been returned.
func (e *elsewhere) check(t *testing.T, want ...regions.End) {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	var got []regions.End
	for _, out := range e.ends {
		got = append(got, out.End)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) || e.open != 0 {
		t.Errorf("leases ended as %v, %d are open; want %v", got, e.open, want)
	}
}

func with(e *elsewhere) func(*proxy.Options) {
	return func(o *proxy.Options) { o.Spill = e }
}

func TestSpillGoesOneHop(t *testing.T) {
	var heard http.Header
	var path string
	there := newRig(t, func(o *proxy.Options) { o.Region = "there" }, startPod(t, func(w http.ResponseWriter, r *http.Request) {
		heard, path = r.Header.Clone(), r.URL.String()
		echo("there")(w, r)
	}))
	to := &elsewhere{urls: []string{there.url}}
	here := newRig(t, with(to)) // no pods
	res, text, err := here.post("/v2/models/llama/generate?x=1", "{}", "Authorization", "Bearer k")
	if err != nil || res.StatusCode != http.StatusOK || text != "there:2" {
		t.Fatalf("got %v %q %v", res, text, err)
	}
	if got := res.Header.Values(proxy.RegionHeader); len(got) != 1 || got[0] != "there" {
		t.Errorf("%s is %q, want the region that answered", proxy.RegionHeader, got)
	}
	if path != "/v2/models/llama/generate?x=1" || heard.Get("Authorization") != "Bearer k" {
		t.Errorf("the pod there heard %s %v", path, heard)
	}
	if heard.Get(proxy.SpillHeader) != "" {
		t.Errorf("the pod there heard %s, which is between gateways", proxy.SpillHeader)
	}
	here.ended(regions.EndServed, 1)
	to.check(t, regions.EndServed)
	if out := to.ends[0]; !out.SawBytes || out.TTFT <= 0 || out.Took < out.TTFT {
		t.Errorf("outcome %+v does not add up", out)
	}
	if len(here.saw()) != 0 {
		t.Errorf("saw %v here, where there is no pod", here.saw())
	}
	for name, g := range map[string]*rig{"out": here, "in": there} {
		if got := g.metric("rhumb_proxy_spilled_total"); len(got) != 1 || got[0] != 1 {
			t.Errorf("%s: spilled %v, want 1", name, got)
		}
	}
}

func TestSpillNeverLoops(t *testing.T) {
	toHere, toThere := &elsewhere{}, &elsewhere{}
	here, there := newRig(t, with(toThere)), newRig(t, with(toHere))
	toHere.urls, toThere.urls = []string{here.url}, []string{there.url}
	res, text, err := here.post("/v2/models/llama/generate", "{}")
	if err != nil || res.StatusCode != http.StatusNotFound {
		t.Fatalf("got %v %q %v, want the other region's 404", res, text, err)
	}
	if toThere.asked != 1 || toHere.asked != 0 {
		t.Errorf("asked %d times here and %d there, want once and never", toThere.asked, toHere.asked)
	}
	toThere.check(t, regions.EndServed)
}

func TestRefusals(t *testing.T) {
	// No pod takes anything, and there is nowhere to spill.
	g := newRig(t, with(&elsewhere{}), startPod(t, echo("a")))
	g.pool.SetState(time.Now(), "a", llama, regions.PodEjected)
	res, text, err := g.post("/v2/models/llama/generate", "{}")
	if err != nil || res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" {
		t.Errorf("no pod: got %v %q %v, want 503 and Retry-After", res, text, err)
	}
	res, text, err = g.post("/v2/models/nope/generate", "{}", "Test-Model", "nope")
	if want := `{"error":"Request for unknown model: 'nope' is not found"}`; err != nil || res.StatusCode != http.StatusNotFound || text != want {
		t.Errorf("unknown model: got %v %q %v, want 404 %s", res, text, err, want)
	}
	if got := res.Header.Get("Content-Type"); got != "application/json" {
		t.Errorf("Content-Type %q", got)
	}
	g.ended(regions.EndNotStarted, 1) // the unknown model has no label of its own
}

func TestSpillIsTriedElsewhereBeforeTheFirstByte(t *testing.T) {
	there := newRig(t, nil, startPod(t, echo("there")))
	to := &elsewhere{urls: []string{"http://" + nobody(t), there.url}}
	here := newRig(t, with(to), nobody(t))
	res, text, err := here.post("/v2/models/llama/generate", "{}")
	if err != nil || res.StatusCode != http.StatusOK || text != "there:2" {
		t.Fatalf("got %v %q %v", res, text, err)
	}
	here.ended(regions.EndServed, 1)
	to.check(t, regions.EndPodLost, regions.EndServed)
}

// TestAModelOfOtherRegionsIsNotUnknown tells unavailable from unknown.
func TestAModelOfOtherRegionsIsNotUnknown(t *testing.T) {
	for knows, status := range map[bool]int{true: http.StatusServiceUnavailable, false: http.StatusNotFound} {
		g := newRig(t, with(&elsewhere{knows: knows}))
		res, text, err := g.post("/v2/models/llama/generate", "{}")
		if err != nil || res.StatusCode != status || (res.Header.Get("Retry-After") != "") != knows {
			t.Errorf("known elsewhere %v: got %v %q %v, want %d", knows, res, text, err, status)
		}
	}
}

// TestAllPodsGoneAtOnce is the moment after a region's pods have crashed, before
// the probes know: refusals are not counted as replays.
func TestAllPodsGoneAtOnce(t *testing.T) {
	there := newRig(t, nil, startPod(t, echo("there")))
	to := &elsewhere{urls: []string{there.url}}
	here := newRig(t, with(to), nobody(t), nobody(t), nobody(t), nobody(t))
	res, text, err := here.post("/v2/models/llama/generate", "{}")
	if err != nil || res.StatusCode != http.StatusOK || text != "there:2" {
		t.Fatalf("got %v %q %v", res, text, err)
	}
	to.check(t, regions.EndServed)
}

func TestSpilledStreamThatIsCutNeverLooksComplete(t *testing.T) {
	words := make(chan string)
	there := newRig(t, nil, startPod(t, stepPod(words, nil)))
	to := &elsewhere{urls: []string{there.url}}
	here := newRig(t, with(to))
	go func() { words <- "one"; words <- "cut" }()
	_, text, err := here.post("/v2/models/llama/generate_stream", "{}")
	wantTerminal(t, text, err)
	if !strings.Contains(text, "one") {
		t.Errorf("the event before the cut is missing: %q", text)
	}
	// The region has told of it in its own answer, which was whole.
	here.ended(regions.EndPodError, 1)
	to.check(t, regions.EndPodError)
}

func TestSpillOverTLS(t *testing.T) {
	proto := ""
	there := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		proto = r.Proto
		echo("there")(w, r)
	}))
	there.EnableHTTP2 = true
	there.StartTLS()
	t.Cleanup(there.Close)
	to := &elsewhere{urls: []string{there.URL}}
	here := newRig(t, func(o *proxy.Options) {
		o.Spill = to
		o.SpillTLS = &tls.Config{RootCAs: x509.NewCertPool()}
		o.SpillTLS.RootCAs.AddCert(there.Certificate())
	})
	res, text, err := here.post("/v2/models/llama/generate", "{}")
	if err != nil || res.StatusCode != http.StatusOK || text != "there:2" || proto != "HTTP/2.0" {
		t.Fatalf("got %v %q %v by %s", res, text, err, proto)
	}
	here.ended(regions.EndServed, 1)
	to.check(t, regions.EndServed)
}

// TestResumesThereAreTold: how often an answer went on at another pod of the other region
// is told here, too.
func TestResumesThereAreTold(t *testing.T) {
	for _, c := range []struct{ verb, stream string }{{"generate_stream", "true"}, {"generate", "false"}} {
		pods, addrs := startTritons(t, 2)
		there := newRig(t, func(o *proxy.Options) { resuming(t)(o); o.Region = "there" }, addrs...)
		there.learn(2)
		here := newRig(t, func(o *proxy.Options) {
			resuming(t)(o)
			o.Spill = &elsewhere{urls: []string{there.url}}
		})
		var crash sync.WaitGroup
		crash.Go(func() {
			regionstest.Eventually(t, patience, func() bool { return len(there.saw()) > 0 }, "a pod writes")
			pods[there.saw()[0][0]-'a'].Crash()
		})
		res, text, err := here.post("/v2/models/llama/"+c.verb, fmt.Sprintf(`{"text_input":"x","parameters":{"stream":%s,"max_tokens":100}}`, c.stream))
		crash.Wait()
		if got := res.Trailer.Get(proxy.ResumedHeader) + res.Header.Get(proxy.ResumedHeader); err != nil || got != "1" {
			t.Errorf("%s: %v, resumed %q: %s", c.verb, err, got, text)
		}
	}
}
