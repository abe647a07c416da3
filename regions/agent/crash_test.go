package agent

import (
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/regions/regionstest"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest"
)

// crashTokens is how long the answers are in the test of a crash.
const crashTokens = 20

// fates are what became of clients' requests, by ID.
type fates struct {
	mu     sync.Mutex
	began  map[string]bool  // streams of which the client saw an event
	failed map[string]error // requests that the client knows are not whole
	whole  map[string]bool
}

func (f *fates) begin(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.began[id] = true
}

func (f *fates) streaming() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.began)
}

func (f *fates) end(id string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		f.failed[id] = err
	} else {
		f.whole[id] = true
	}
}

// ask runs one request to its end.
func (f *fates) ask(t *testing.T, s *site, id string, streams bool) {
	if !streams {
		res, text, err := s.do(http.MethodPost, s.url("/v2/models/llama/generate"), question(id, crashTokens))
		if err == nil && (res.StatusCode != http.StatusOK || !strings.Contains(text, `"text_output":"`) || !strings.Contains(text, `"id":"`+id+`"`)) {
			t.Errorf("%s: %s %s", id, res.Status, text)
		}
		f.end(id, err)
		return
	}
	x, err := s.open("llama", id, crashTokens)
	if err != nil {
		f.end(id, err)
		return
	}
	if x.next() {
		f.begin(id)
	}
	events, err := x.rest()
	if err == nil && events != crashTokens-1 {
		t.Errorf("%s ended as if it were complete, after %d of %d events", id, events+1, crashTokens)
	}
	f.end(id, err)
}

// TestCrashUnderLoad crashes one of three pods under 50 streams and 50 other
// requests. Whatever had not begun to answer is answered by another pod and its
// client notices nothing; whatever had is cut, and its client must know it.
func TestCrashUnderLoad(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	s := m.start(m.options("eu-west", "llama"))
	f := &fates{began: map[string]bool{}, failed: map[string]error{}, whole: map[string]bool{}}
	for _, p := range s.pods {
		p.Slow(60) // 300 ms for a token: nothing ends before the crash
	}
	started := func() (n int64) {
		for _, p := range s.pods {
			n += p.Stats("llama").Started
		}
		return n
	}
	var clients sync.WaitGroup
	const each = 50
	sent := map[bool]int{} // by whether they stream
	ask := func(streams bool) {
		id := map[bool]string{true: "stream-", false: "answer-"}[streams] + strconv.Itoa(sent[streams])
		sent[streams]++
		clients.Go(func() { f.ask(t, s, id, streams) })
	}
	// The slots are filled one by one, with as many of each kind on every pod.
	for i := range 3 * podSlots {
		ask(i%2 == 0)
		regionstest.Eventually(t, patience, func() bool { return started() == int64(i+1) }, "the request is on a pod")
	}
	for sent[true] < each || sent[false] < each { // the rest wait at the gateway
		if sent[true] < each {
			ask(true)
		}
		if sent[false] < each {
			ask(false)
		}
	}
	regionstest.Eventually(t, patience, func() bool {
		return s.proxy.Waiting()["llama"] == 2*each-3*podSlots && f.streaming() >= 3*podSlots/2
	}, "all requests are on pods or wait, and the first streams run")
	crashed := s.pods[1]
	crashed.Crash()
	for _, p := range s.pods {
		p.Slow(1)
	}
	clients.Wait()

	checkFates(t, f, crashed)
	if len(f.failed)+len(f.whole) != 2*each {
		t.Errorf("%d requests failed and %d were answered, of %d", len(f.failed), len(f.whole), 2*each)
	}
	regionstest.Eventually(t, patience, func() bool {
		model := s.pool.Models(time.Now(), nil)[0]
		return model.InFlight == 0 && model.Queued == 0 && model.Completions == uint64(len(f.whole)) && model.Arrivals == 2*each
	}, "every claim was released, and all that was answered is counted")
}

// checkFates compares what the clients saw with what the pod knows that it sent.
func checkFates(t *testing.T, f *fates, crashed *tritontest.Pod) {
	t.Helper()
	cut, unseen := map[string]bool{}, map[string]bool{}
	for _, r := range crashed.Requests() {
		switch {
		case r.End == tritontest.Cut && r.Bytes > 0:
			cut[r.ID] = true
		case r.End == tritontest.Cut:
			unseen[r.ID] = true
		}
	}
	stats := crashed.Stats("llama")
	t.Logf("the crash cut %d streams that had begun, and %d requests that had not", stats.CutStreams, stats.CutUnseen)
	if stats.CutStreams == 0 || len(unseen) == 0 {
		t.Errorf("the crash cut %d streams that had begun and %d other requests; want some of each", stats.CutStreams, len(unseen))
	}
	failed := slices.Sorted(maps.Keys(f.failed))
	if want := slices.Sorted(maps.Keys(cut)); !slices.Equal(failed, want) {
		t.Errorf("clients know of errors in\n%v\nbut the pod had begun\n%v", failed, want)
	}
	for id, err := range f.failed {
		if f.whole[id] {
			t.Errorf("%s failed and was answered: %v", id, err)
		}
	}
}
