package proxy_test

import (
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/rhumb-lb/rhumb/regions"
)

// failing answers with 500 as long as it is told to, and counts.
func failing(fails *atomic.Bool, asked *atomic.Int32) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		asked.Add(1)
		if fails.Load() {
			http.Error(w, `{"error":"something"}`, http.StatusInternalServerError)
			return
		}
		fmt.Fprint(w, `{"text_output":"x"}`)
	}
}

// TestWhoseErrorIsIt: an error that may be the request's own is the pod's if another pod
// serves the same request, and nobody's if not.
func TestWhoseErrorIsIt(t *testing.T) {
	for _, tt := range []struct {
		name          string
		path          string
		other         bool // the other pod fails, too
		asked, blamed int  // for ten requests
	}{
		// Of ten requests three may be repeated.
		{"the pod's", "generate", false, 13, 3},
		{"the request's", "generate", true, 13, 0},
		{"what must not be asked twice", "infer", false, 10, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var a, b atomic.Bool
			var asked atomic.Int32
			a.Store(true)
			b.Store(tt.other)
			g := newRig(t, nil, startPod(t, failing(&a, &asked)), startPod(t, failing(&b, &asked)))
			for range 10 {
				before := g.blamed()
				res, text, err := g.post("/v2/models/llama/"+tt.path, "{}")
				if err != nil {
					t.Fatal(err)
				}
				if g.blamed() > before && res.StatusCode != http.StatusOK {
					t.Errorf("a pod is blamed, and the answer is %d %s", res.StatusCode, text)
				}
			}
			if n := int(asked.Load()); g.blamed() != tt.blamed || n != tt.asked {
				t.Errorf("blamed %d times, asked %d times; want %d and %d", g.blamed(), n, tt.blamed, tt.asked)
			}
		})
	}
}

// blamed is how many failures the pool holds against the pods.
func (g *rig) blamed() int {
	n := 0
	for _, p := range g.pool.Pods() {
		n += int(p.Failed)
	}
	return n
}

// TestWhoseErrorInAStream: an error before anything else is the pod's if another pod serves
// the request, whether it is asked from the beginning or to go on.
func TestWhoseErrorInAStream(t *testing.T) {
	const going = `data: {"error":"Stub process is not healthy"}` + "\n\n"
	for _, c := range []struct {
		name, more string
		both       bool
		blamed     int
	}{
		{"anew", `,"seed":1`, false, 1},
		{"going on", "", false, 1},
		{"both", `,"seed":1`, true, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			var asked atomic.Int32
			parts := func(n int32) ([]string, bool) {
				if n == 1 || c.both {
					return []string{going}, false
				}
				return []string{lastEvent}, false
			}
			g := newRig(t, resuming(t), eventsPod(t, &asked, parts), eventsPod(t, &asked, parts))
			g.learn(2)
			if _, _, err := g.post("/v2/models/llama/generate_stream", `{"text_input":"x","parameters":{"stream":true,"max_tokens":9`+c.more+`}}`); err != nil {
				t.Fatal(err)
			}
			if n := g.blamed(); n != c.blamed || asked.Load() != 2 {
				t.Errorf("asked %d times, blamed %d; want %d", asked.Load(), n, c.blamed)
			}
		})
	}
}

// TestAZombieIsBlamed: Triton answers 400 to a generation whose backend has died, and
// readiness with 200.
func TestAZombieIsBlamed(t *testing.T) {
	for _, both := range []bool{false, true} {
		var asked atomic.Int32
		pod := func(dead bool) string {
			return startPod(t, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				asked.Add(1)
				if dead {
					http.Error(w, `{"error":"Stub process 'llama_0_0' is not healthy."}`, http.StatusBadRequest)
					return
				}
				fmt.Fprint(w, `{"text_output":"x"}`)
			})
		}
		g := newRig(t, nil, pod(true), pod(both))
		res, text, err := g.post("/v2/models/llama/generate", "{}")
		if want := map[bool]int{false: http.StatusOK, true: http.StatusBadRequest}[both]; err != nil || res.StatusCode != want {
			t.Errorf("%v, %s %s", err, res.Status, text)
		}
		if n := g.blamed(); asked.Load() > 2 || both && n > 0 || !both && asked.Load() == 2 && n != 1 {
			t.Errorf("both %v: asked %d times, blamed %d", both, asked.Load(), n)
		}
	}
}

// TestAnotherErrorBlamesNobody: what the second pod finds wrong with a request, the first
// one may have met with.
func TestAnotherErrorBlamesNobody(t *testing.T) {
	answers := func(status int) string {
		return startPod(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			http.Error(w, `{"error":"inputs"}`, status)
		})
	}
	g := newRig(t, nil, answers(http.StatusInternalServerError), answers(http.StatusBadRequest))
	for range 10 {
		if _, _, err := g.post("/v2/models/llama/generate", "{}"); err != nil {
			t.Fatal(err)
		}
	}
	if n := g.blamed(); n > 0 {
		t.Errorf("blamed %d times", n)
	}
}

// TestMalformedJSONIsTheClients: Triton answers it with 500, so that it does not get that
// far.
func TestMalformedJSONIsTheClients(t *testing.T) {
	var fails atomic.Bool
	var asked atomic.Int32
	fails.Store(true)
	g := newRig(t, nil, startPod(t, failing(&fails, &asked)), startPod(t, failing(&fails, &asked)))
	for _, path := range []string{"generate", "generate_stream"} {
		for _, body := range []string{"{bad json", "", `{"a":1}x`, "\x00"} {
			res, text, err := g.post("/v2/models/llama/"+path, body)
			if err != nil || res.StatusCode != http.StatusBadRequest {
				t.Errorf("%s %q: %v %s, %v", path, body, res, text, err)
			}
		}
	}
	if asked.Load() > 0 || g.blamed() > 0 {
		t.Errorf("pods were asked %d times, and blamed %d times", asked.Load(), g.blamed())
	}
	g.ended(regions.EndClientGone, 8)
}
