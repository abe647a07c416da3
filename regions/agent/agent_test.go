package agent

import (
	"encoding/json"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/regionstest"
)

// TestStatusArrives follows what an agent says of its region to a director:
// pods, load, a crash, and the pod's return.
func TestStatusArrives(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	o, pods := m.options("eu-west", "llama", "mistral")
	o.Models[0].Host = "chat"
	s := m.start(o, pods)
	full := regions.PodCounts{Ready: 3}
	m.sees("eu-west", "three ready pods", func(r *regions.Region) bool {
		llama, mistral := r.Model("llama"), r.Model("mistral")
		return llama != nil && mistral != nil && llama.Pods == full && mistral.Pods == full &&
			llama.Slots == regions.Slots(3*podSlots) && llama.SlotsSource == regions.SlotsConfigured && llama.PoolID == mistral.PoolID
	})
	r := m.region("eu-west")
	if r.Location != o.Location || len(r.Endpoints) != 1 || r.Endpoints[0].URL() != s.url("") || r.Draining {
		t.Errorf("the region is %+v", r)
	}
	if got := r.Model("llama").Host + " " + r.Model("mistral").Host; got != "chat " {
		t.Errorf("the hosts are %q", got)
	}

	// Load: one request in flight, then none, and it counts as arrived and done.
	for _, p := range pods {
		p.Slow(200) // a second for a token
	}
	answered := make(chan error, 1)
	go func() {
		_, _, err := s.do(http.MethodPost, s.url("/v2/models/llama/generate"), question("one", 20))
		answered <- err
	}()
	m.sees("eu-west", "a request in flight", func(r *regions.Region) bool { return r.Model("llama").InFlight == 1 })
	for _, p := range pods {
		p.Slow(1)
	}
	if err := <-answered; err != nil {
		t.Error(err)
	}
	m.sees("eu-west", "a request done", func(r *regions.Region) bool {
		x := r.Model("llama")
		return x.InFlight == 0 && x.Arrivals == 1 && x.Completions == 1 && r.Model("mistral").Arrivals == 0
	})

	pods[1].Crash()
	m.sees("eu-west", "a crashed pod", func(r *regions.Region) bool {
		x, y := r.Model("llama"), r.Model("mistral")
		return x.Pods.Taking() == 2 && x.Pods.Gone == 1 && y.Pods.Taking() == 2 && y.Pods.Gone == 1
	})
	if err := pods[1].Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.sees("eu-west", "it warming up", func(r *regions.Region) bool {
		x := r.Model("llama")
		return x.Pods.Warming >= 1 && x.Pods.Gone == 0
	})
}

// TestReadiness is the region's own answer for health checks and directors.
func TestReadiness(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	s := m.start(m.options("eu-west", "llama"))
	if status, _ := s.get(s.url("/v2/health/ready")); status != http.StatusOK {
		t.Errorf("ready: %d", status)
	}
	if status, body := s.get(s.url("/v1/models")); status != http.StatusOK || !strings.Contains(body, `"llama"`) {
		t.Errorf("models: %d %s", status, body)
	}
	for _, p := range s.pods {
		p.Crash()
	}
	regionstest.Eventually(t, patience, func() bool {
		status, _ := s.get(s.url("/v2/health/ready"))
		return status == http.StatusBadRequest
	}, "without a pod the region is not ready")
	res, text, err := s.do(http.MethodPost, s.url("/v2/models/llama/generate"), question("x", 1))
	if err != nil || res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" {
		t.Errorf("without a pod anywhere: %v %s, %v", res, text, err)
	}
	if status, _ := s.get(s.url("/v2/health/live")); status != http.StatusOK {
		t.Errorf("live: %d", status)
	}
}

// TestDrainByAdmin drains a region and puts it back, by the admin API.
func TestDrainByAdmin(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	s := m.start(m.options("eu-west", "llama"))
	drain := func(body, contentType string) (int, string) {
		t.Helper()
		res, text, err := s.do(http.MethodPost, s.adminURL("/api/v1/drain"), body, "Content-Type", contentType)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, text
	}
	const isJSON = "application/json"
	for _, c := range []struct {
		body, contentType string
		want              int
	}{
		{`{"draining":true,"reason":"upgrade"}`, "text/plain", http.StatusUnsupportedMediaType},
		{`{"draining":true}`, isJSON, http.StatusBadRequest},
		{`{"reason":"upgrade"}`, isJSON, http.StatusBadRequest},
		{`{"draining":true,"reason":"upgrade","for":"1h"}`, isJSON, http.StatusBadRequest},
		{`drain`, isJSON, http.StatusBadRequest},
	} {
		if status, text := drain(c.body, c.contentType); status != c.want {
			t.Errorf("%s: %d %s, want %d", c.body, status, text, c.want)
		}
	}
	if s.drains() {
		t.Fatal("a call that was refused drains")
	}
	status, text := drain(`{"draining":true,"reason":"upgrade"}`, isJSON)
	if status != http.StatusOK || !strings.Contains(text, `"draining":true,"reason":"upgrade","since":"20`) {
		t.Errorf("drain: %d %s", status, text)
	}
	if status, again := s.get(s.adminURL("/api/v1/drain")); status != http.StatusOK || again != text {
		t.Errorf("the drain shows as %d %s", status, again)
	}
	if status, _ := s.get(s.url("/v2/health/ready")); status != http.StatusBadRequest {
		t.Errorf("a draining region's readiness: %d", status)
	}
	m.sees("eu-west", "it drains", func(r *regions.Region) bool { return r.Draining })
	// Who has not heard yet is served.
	res, text, err := s.do(http.MethodPost, s.url("/v2/models/llama/generate"), question("late", 2))
	if err != nil || res.StatusCode != http.StatusOK {
		t.Errorf("a late request: %v %s, %v", res, text, err)
	}
	if status, text := drain(`{"draining":false}`, isJSON); status != http.StatusOK || strings.TrimSpace(text) != `{"draining":false}` {
		t.Errorf("undrain: %d %s", status, text)
	}
	if status, _ := s.get(s.url("/v2/health/ready")); status != http.StatusOK {
		t.Errorf("readiness after the drain: %d", status)
	}
	m.sees("eu-west", "it drains no more", func(r *regions.Region) bool { return !r.Draining })
}

func TestAdminShows(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	s := m.start(m.options("eu-west", "llama", "mistral"))
	if _, _, err := s.do(http.MethodPost, s.url("/v2/models/llama/generate"), question("one", 2)); err != nil {
		t.Fatal(err)
	}
	regionstest.Eventually(t, patience, func() bool { return s.pool.Models(time.Now(), nil)[0].Completions == 1 }, "the request is counted")
	var pods []adminPod
	_, text := s.get(s.adminURL("/api/v1/pods"))
	if err := json.Unmarshal([]byte(text), &pods); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	served := uint64(0)
	for _, p := range pods {
		if p.State != "ready" || p.Slots != podSlots || p.InFlight != 0 || p.Failed != 0 || !strings.HasPrefix(p.ID, "eu-west-") {
			t.Errorf("%+v", p)
		}
		served += p.Served
	}
	if len(pods) != 6 || served != 1 {
		t.Errorf("%d pods served %d: %s", len(pods), served, text)
	}
	_, text = s.get(s.adminURL("/api/v1/models"))
	for _, want := range []string{
		`{"name":"llama","pods_taking":3,"slots_milli":24000,"in_flight":0,"queued":0,"wait_ms":0,"ttft_ms":`,
		`{"name":"mistral","pods_taking":3,"slots_milli":24000,"in_flight":0,"queued":0,"wait_ms":0,"ttft_ms":0}`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in %s", want, text)
		}
	}
	if status, text := s.get(s.adminURL("/healthz")); status != http.StatusOK || text != "ok\n" {
		t.Errorf("healthz: %d %q", status, text)
	}
	// One registry has the metrics of all parts.
	_, text = s.get(s.adminURL("/metrics"))
	for _, want := range []string{"rhumb_proxy_requests_total", "rhumb_pool_", "rhumb_probe_", "rhumb_gateway_", "rhumb_gossip_"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in the metrics", want)
		}
	}
}

// TestNewRefuses checks that what is wrong is said, and that nothing stays
// bound then.
func TestNewRefuses(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	taken, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	for _, c := range []struct {
		what  string
		spoil func(*Options)
		want  string
	}{
		{"a bad name", func(o *Options) { o.Region = "EU West" }, "not a lower-case DNS label"},
		{"nothing to listen on", func(o *Options) { o.Listen = nil }, "no address to listen on"},
		{"no endpoint", func(o *Options) { o.Endpoints = nil }, "no endpoint"},
		{"an endpoint without addresses", func(o *Options) { o.Endpoints[0].Addrs = nil }, "no address for DNS answers"},
		{"no pods", func(o *Options) { o.Sources = nil }, "no source of pods"},
		{"admin for all", func(o *Options) { o.Admin.Listen = "0.0.0.0:8088" }, "loopback"},
		{"no gossip key", func(o *Options) { o.Gossip.Keys = nil }, "key"},
		{"gateway address taken", func(o *Options) { o.ListenStream, o.Listen = nil, []string{taken.Addr().String()} }, taken.Addr().String()},
		{"admin address taken", func(o *Options) { o.Admin.Listen = taken.Addr().String() }, taken.Addr().String()},
	} {
		o, _ := m.options("eu-west", "llama")
		o.Gossip.Bind = free(t)
		c.spoil(&o)
		a, err := New(o)
		if err == nil {
			a.Kill()
			t.Errorf("%s: accepted", c.what)
			continue
		}
		if !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "agent of region ") {
			t.Errorf("%s: error %q, want something of %q", c.what, err, c.want)
		}
		if !refused(o.Gossip.Bind.String()) {
			t.Errorf("%s: gossip stays bound", c.what)
		}
	}
}
