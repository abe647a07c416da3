package proxy_test

import (
	"fmt"
	"io"
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

// rigSlots is how many requests a pod of a rig takes at a time.
const rigSlots = 8

// holdingPod answers a request when it is let go.
func holdingPod(t *testing.T) (addr string, letGo func()) {
	t.Helper()
	hold := make(chan struct{})
	var once sync.Once
	letGo = func() { once.Do(func() { close(hold) }) }
	addr = startPod(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		select {
		case <-hold:
		case <-r.Context().Done():
		}
		_, _ = io.WriteString(w, "held")
	})
	t.Cleanup(letGo)
	return addr, letGo
}

// fill takes all slots of the rig's pods, and has n more requests wait in line.
func (g *rig) fill(t *testing.T, pods, n int) (ended *sync.WaitGroup) {
	t.Helper()
	ended = &sync.WaitGroup{}
	for range pods*rigSlots + n {
		ended.Go(func() {
			if res, text, err := g.post("/v2/models/llama/infer", "{}"); err != nil || res.StatusCode != http.StatusOK {
				t.Errorf("%v %q %v", res, text, err)
			}
		})
	}
	regionstest.Eventually(t, patience, func() bool {
		held := 0.0
		for _, v := range g.metric("rhumb_proxy_in_flight") {
			held += v
		}
		return held == float64(pods*rigSlots) && g.proxy.Waiting()[llama] == n
	}, "all slots are taken")
	return ended
}

func patient(o *proxy.Options) { o.Admit.MaxWait = patience }

func TestRequestsWaitForASlot(t *testing.T) {
	pod, letGo := holdingPod(t)
	g := newRig(t, patient, pod)
	ended := g.fill(t, 1, 5)
	if got := g.pool.Loads()[0].InFlight; got != rigSlots {
		t.Errorf("%d requests on a pod of %d slots", got, rigSlots)
	}
	letGo()
	ended.Wait()
}

func TestWhoWaitsForTooLongIsToldWhenToComeBack(t *testing.T) {
	pod, letGo := holdingPod(t)
	g := newRig(t, patient, pod)
	ended := g.fill(t, 1, 0)
	res, text, err := g.post("/v2/models/llama/generate", "{}", "Test-Wait", "50ms")
	if err != nil || res.StatusCode != http.StatusTooManyRequests || res.Header.Get("Retry-After") == "" || res.Header.Get(proxy.ReasonHeader) != "queue-timeout" {
		t.Errorf("%v %q %v, want 429 with a Retry-After for queue-timeout", res, text, err)
	}
	letGo()
	ended.Wait()
}

// TestAFullLineWithoutAPod: who is turned away at once is told which of the two it is.
func TestAFullLineWithoutAPod(t *testing.T) {
	g := newRig(t, func(o *proxy.Options) { o.Admit.Bound = 1; patient(o) }, startPod(t, echo("a")))
	g.pool.SetState(time.Now(), "a", llama, regions.PodGone)
	var first sync.WaitGroup
	first.Go(func() {
		if res, text, err := g.post("/v2/models/llama/generate", "{}"); err != nil || text != "a:2" {
			t.Errorf("%v %q %v", res, text, err)
		}
	})
	regionstest.Eventually(t, patience, func() bool { return g.proxy.Waiting()[llama] == 1 }, "the first waits")
	res, text, err := g.post("/v2/models/llama/generate", "{}")
	if err != nil || res.StatusCode != http.StatusServiceUnavailable || res.Header.Get(proxy.ReasonHeader) != "no-pod" {
		t.Errorf("%v %q %v, want 503 for no-pod", res, text, err)
	}
	g.pool.SetState(time.Now(), "a", llama, regions.PodReady)
	first.Wait()
}

// TestAGuestDoesNotWait: the region that sent it is told at once that there is no room.
func TestAGuestDoesNotWait(t *testing.T) {
	pod, letGo := holdingPod(t)
	g := newRig(t, patient, pod)
	ended := g.fill(t, 1, 0)
	res, text, err := g.post("/v2/models/llama/generate", "{}", proxy.SpillHeader, "there")
	if err != nil || res.StatusCode != http.StatusServiceUnavailable || res.Header.Get(proxy.NotStartedHeader) == "" {
		t.Errorf("%v %q %v, want 503 and %s", res, text, err, proxy.NotStartedHeader)
	}
	letGo()
	ended.Wait()
}

// fullRegion says that it has no room, and counts how often.
func fullRegion(t *testing.T, asked *int) string {
	t.Helper()
	var mu sync.Mutex
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "PRI" {
			http.Error(w, "no such version", http.StatusHTTPVersionNotSupported)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		*asked++
		w.Header().Set(proxy.NotStartedHeader, "1")
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// TestTheNextRegionIsTriedOnce: of regions that have no room two are asked, and nothing
// that may have begun is sent twice.
func TestTheNextRegionIsTriedOnce(t *testing.T) {
	var asked int
	full := fullRegion(t, &asked)
	there := newPeer(t, both, echo("there"))
	to := &elsewhere{urls: []string{full, there.URL}, knows: true}
	g := newRig(t, with(to))
	if res, text, err := g.post("/v2/models/llama/infer", "body"); err != nil || text != "there:4" {
		t.Fatalf("%v %q %v", res, text, err)
	}
	to.check(t, regions.EndNotStarted, regions.EndServed)

	asked = 0
	to = &elsewhere{urls: []string{full}, knows: true}
	g = newRig(t, with(to))
	if res, text, err := g.post("/v2/models/llama/infer", "body"); err != nil || res.StatusCode != http.StatusServiceUnavailable || asked != 2 {
		t.Errorf("%v %q %v after %d regions, want 503 after two", res, text, err, asked)
	}
	to.check(t, regions.EndNotStarted, regions.EndNotStarted)
}

// TestALongLineSpills: a region with pods sends requests on when its line is too long,
// but not while it takes in those of others.
func TestALongLineSpills(t *testing.T) {
	for _, hosts := range []bool{false, true} {
		t.Run(fmt.Sprintf("hosts %v", hosts), func(t *testing.T) {
			there := newPeer(t, both, echo("there"))
			to := &elsewhere{knows: true}
			pod, letGo := holdingPod(t)
			g := newRig(t, func(o *proxy.Options) {
				o.Spill = to
				patient(o)
				o.Admit.OverflowAbove, o.Admit.OverflowBelow = 20*time.Millisecond, time.Millisecond
			}, pod, startPod(t, echo("b")))
			if hosts {
				g.pool.SetState(time.Now(), "a", llama, regions.PodGone)
				if res, text, err := g.post("/v2/models/llama/generate", "{}", proxy.SpillHeader, "there"); err != nil || text != "b:2" {
					t.Fatalf("%v %q %v", res, text, err)
				}
				g.pool.SetState(time.Now(), "a", llama, regions.PodReady)
			}
			g.pool.SetState(time.Now(), "b", llama, regions.PodGone)
			ended := g.fill(t, 1, 0)
			to.mu.Lock()
			to.urls = []string{there.URL}
			to.mu.Unlock()
			res, text, err := g.post("/v2/models/llama/generate", "{}", "Test-Wait", "300ms")
			want := http.StatusOK
			if hosts {
				want = http.StatusTooManyRequests
			}
			if err != nil || res.StatusCode != want {
				t.Errorf("%v %q %v, want %d", res, text, err, want)
			}
			letGo()
			ended.Wait()
		})
	}
}

// TestEachLimitHasItsReason: connecting, the first byte, between tokens, in all.
func TestEachLimitHasItsReason(t *testing.T) {
	silent := func(t *testing.T) string {
		pod, _ := holdingPod(t)
		return pod
	}
	for name, tt := range map[string]struct {
		pod    func(*testing.T) string
		limit  func(*proxy.Limits)
		status int
		reason string
	}{
		"first byte": {silent, func(l *proxy.Limits) { l.FirstByte = 50 * time.Millisecond }, http.StatusGatewayTimeout, "first-byte-timeout"},
		"total":      {silent, func(l *proxy.Limits) { l.Total = 50 * time.Millisecond }, http.StatusGatewayTimeout, "total-timeout"},
		"lost": {
			func(t *testing.T) string { return closesAfterOneByte(t) }, func(*proxy.Limits) {}, http.StatusBadGateway, "pod-lost",
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := newRig(t, limits(tt.limit), tt.pod(t))
			res, text, err := g.post("/v2/models/llama/infer", "{}")
			if err != nil || res.StatusCode != tt.status || res.Header.Get(proxy.ReasonHeader) != tt.reason {
				t.Errorf("%v %q %v, want %d for %s", res, text, err, tt.status, tt.reason)
			}
		})
	}
}

// TestTotalEndsAStream: a stream whose time is over says so.
func TestTotalEndsAStream(t *testing.T) {
	words := make(chan string, 1)
	words <- "one"
	g := newRig(t, limits(func(l *proxy.Limits) { l.Total = 300 * time.Millisecond }), startPod(t, stepPod(words, nil)))
	_, text, err := g.post("/v2/models/llama/generate_stream", "{}")
	wantTerminal(t, text, err)
	if !strings.Contains(text, "took too long") {
		t.Errorf("the end says %q", text)
	}
	g.ended(regions.EndTimeout, 1)
}

// TestWhatAPodsQueueRefusedIsAskedElsewhere: it had not begun, and says nothing against
// the pod; but who refuses all is heard in the end.
func TestWhatAPodsQueueRefusedIsAskedElsewhere(t *testing.T) {
	busy := func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, `{"error":"[request id: <id_unknown>] Exceeds maximum queue size"}`)
	}
	g := newRig(t, nil, startPod(t, busy), startPod(t, echo("b")))
	if res, text, err := g.post("/v2/models/llama/generate", "{}"); err != nil || text != "b:2" {
		t.Errorf("%v %q %v", res, text, err)
	}
	// infer may not be tried again by this rule: an ensemble's part may have run.
	if res, text, err := g.post("/v2/models/llama/infer", "{}"); err != nil || res.StatusCode != http.StatusServiceUnavailable && text != "b:2" {
		t.Errorf("%v %q %v", res, text, err)
	}
	all := newRig(t, nil, startPod(t, busy))
	if res, text, err := all.post("/v2/models/llama/infer", "{}"); err != nil || !strings.Contains(text, "Exceeds maximum queue size") {
		t.Errorf("%v %q %v, want the pod's own words", res, text, err)
	}
}

// TestASlowConnectIsTriedElsewhere: within the budget for errors.
func TestASlowConnectIsTriedElsewhere(t *testing.T) {
	g := newRig(t, limits(func(l *proxy.Limits) { l.Dial = 50 * time.Millisecond }), "192.0.2.1:1", startPod(t, echo("b")))
	res, text, err := g.post("/v2/models/llama/infer", "{}")
	if err != nil || res.StatusCode == http.StatusOK && text != "b:2" {
		t.Fatalf("%v %q %v", res, text, err)
	}
	if res.StatusCode != http.StatusOK {
		t.Skipf("this machine refuses what it can't reach: %d %s", res.StatusCode, text)
	}
}
