package agent

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/proxy"
	"github.com/rhumb-lb/rhumb/regions/regionstest"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest"
)

// text reads events of a stream until its end, or as many, and gives what they say.
func (x *stream) text(t *testing.T, events int) string {
	t.Helper()
	var all strings.Builder
	for n := 0; n != events && x.next(); n++ {
		var event struct {
			Text string `json:"text_output"`
		}
		if err := json.Unmarshal([]byte(strings.TrimPrefix(x.lines.Text(), "data: ")), &event); err != nil {
			t.Fatalf("%s: %v", x.lines.Text(), err)
		}
		all.WriteString(event.Text)
	}
	return all.String()
}

// replaced starts a pod with another checkpoint where one has crashed.
func replaced(t *testing.T, at *tritontest.Pod) *tritontest.Pod {
	t.Helper()
	o := tritontest.DefaultOptions()
	o.Addr, o.GRPCAddr, o.OpenAIAddr, o.MetricsAddr = at.Addr(), at.GRPCAddr(), at.OpenAIAddr(), ""
	model := tritontest.DefaultModel("llama")
	model.Checkpoint = "another"
	o.Models = append(o.Models, model)
	p := tritontest.New(o)
	t.Cleanup(p.Close)
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p
}

// TestAnotherCheckpointDoesNotGoOn: a pod that is back with other weights is the first
// that could go on with a stream, and must not: the model that began it ends it.
func TestAnotherCheckpointDoesNotGoOn(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	o, pods := m.options("eu-west", "llama")
	o.resumes(t)
	s := m.start(o, pods)
	// sees waits until so many pods take requests, of one load or, with other, of another.
	var mark regions.Fingerprint
	sees := func(taking int, what string, of func(regions.Fingerprint) bool) {
		t.Helper()
		regionstest.Eventually(t, patience, func() bool {
			model := s.pool.Models(time.Now(), nil)[0]
			if model.Pods.Taking() != taking || !of(model.Fingerprint) {
				return false
			}
			mark = model.Fingerprint
			return true
		}, what)
	}
	known := func(f regions.Fingerprint) bool { return f != regions.Fingerprint{} }
	sees(3, "it is known what all pods have", known)
	first := mark
	pods[1].Crash()
	pods[2].Crash()
	sees(1, "two pods are out", known)

	const tokens = 200
	s.slow(true) // 200 ms for a token: it does not end before its pod
	x, err := s.open("llama", "1", tokens)
	if err != nil {
		t.Fatal(err)
	}
	text := x.text(t, 3)
	pods[0].Crash()
	s.slow(false)
	sees(0, "no pod is left", func(regions.Fingerprint) bool { return true })
	other := replaced(t, pods[1])
	sees(1, "a pod is back with something else", func(f regions.Fingerprint) bool { return known(f) && f != first })
	if err := pods[2].Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	text += x.text(t, -1)
	if _, err := x.rest(); err != nil {
		t.Fatal(err)
	}
	if text != written("llama", "hello there", tokens) {
		t.Errorf("it went on with another text: %q", text)
	}
	if n := x.res.Trailer.Get(proxy.ResumedHeader); n != "1" || x.res.StatusCode != http.StatusOK {
		t.Errorf("it went on %q times", n)
	}
	if n := other.Stats("llama").Started; n > 0 {
		t.Errorf("the pod with something else was asked %d times", n)
	}
}
