package triton_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/triton"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest"
)

// modelServer says of any model what it is told to.
func modelServer(t *testing.T, about, config string) netip.AddrPort {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := map[string]string{"/v2/models/llama": about, "/v2/models/llama/config": config}[r.URL.Path]
		if body == "" {
			w.WriteHeader(http.StatusNotFound)
		}
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(s.Close)
	return netip.MustParseAddrPort(s.Listener.Addr().String())
}

const (
	aboutLlama  = `{"name":"llama","versions":["1"],"platform":"vllm"}`
	configLlama = `{"name":"llama","backend":"vllm","max_batch_size":8,"input":[{"name":"text_input","dims":[1]}],` +
		`"instance_group":[{"count":1,"kind":"KIND_GPU","gpus":[0]}],"parameters":{"dtype":{"string_value":"fp16"},"gpu_device_ids":{"string_value":"0"}}}`
)

func TestFingerprint(t *testing.T) {
	of := func(about, config string) regions.Fingerprint {
		t.Helper()
		c := triton.New(triton.DefaultOptions())
		got, err := c.Fingerprint(t.Context(), modelServer(t, about, config), "llama")
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	base := of(aboutLlama, configLlama)
	if base.Version != 1 || base.ConfigHash == 0 {
		t.Errorf("%+v", base)
	}
	for _, c := range []struct {
		what         string
		old, instead string
		about        string
		version      uint32
		same         bool
	}{
		{"another GPU", `"gpus":[0]`, `"gpus":[3]`, aboutLlama, 1, true},
		{"two instances", `"count":1`, `"count":2`, aboutLlama, 1, true},
		{"a parameter that names the GPU", `"string_value":"0"`, `"string_value":"1,2"`, aboutLlama, 1, true},
		{"batching for a larger GPU", `"max_batch_size":8`, `"max_batch_size":8,"dynamic_batching":{"max_queue_delay_microseconds":"5"}`, aboutLlama, 1, true},
		{"another order and white space", `{"name":"llama","backend":"vllm",`, ` { "backend" : "vllm" , "name" : "llama" ,`, aboutLlama, 1, true},
		{"settings of a later release that nobody sets", `"max_batch_size":8`,
			`"max_batch_size":8,"later":"","metrics":{"list":[],"on":false},"other":null,"n":0`, aboutLlama, 1, true},
		{"the older of two versions is not served", "", "", `{"versions":["1","0"]}`, 1, true},
		{"the newer is", "", "", `{"versions":["1","12","9"]}`, 12, true},
		{"another number type", "fp16", "fp8", aboutLlama, 1, false},
		{"another backend", "vllm", "python", aboutLlama, 1, false},
		{"another batch size", `"max_batch_size":8`, `"max_batch_size":16`, aboutLlama, 1, false},
		{"another shape", `"dims":[1]`, `"dims":[0]`, aboutLlama, 1, false},
		{"a number that a float can't tell", `"max_batch_size":8`, `"max_batch_size":8,"seed":9007199254740993`, aboutLlama, 1, false},
	} {
		got := of(c.about, strings.Replace(configLlama, c.old, c.instead, 1))
		if got.Version != c.version || (got.ConfigHash == base.ConfigHash) != c.same {
			t.Errorf("%s: %+v, the same %v; first it was %+v", c.what, got, c.same, base)
		}
	}
	one := of(aboutLlama, `{"name":"llama","seed":9007199254740993}`)
	if two := of(aboutLlama, `{"name":"llama","seed":9007199254740992}`); one == two {
		t.Error("two numbers that float64 can't tell apart have one hash")
	}
}

func TestNoFingerprint(t *testing.T) {
	for _, c := range []struct{ name, about, config, want string }{
		{"no such model", "", configLlama, "404"},
		{"no configuration", aboutLlama, "", "404"},
		{"no version", `{"name":"llama","versions":[]}`, configLlama, "no versions"},
		{"a version that is none", `{"versions":["1","x"]}`, configLlama, `"x", which is no number`},
		{"a version beyond all", `{"versions":["4294967296"]}`, configLlama, "which is no number"},
		{"no metadata", "<html>", configLlama, "metadata in JSON"},
		{"no JSON", aboutLlama, "<html>", "configuration in JSON"},
		{"a list", aboutLlama, "[]", "configuration in JSON"},
		{"of nobody", aboutLlama, "{}", "has no name"},
		{"endless", aboutLlama, `{"name":"` + strings.Repeat("x", 5<<20), "longer than"},
	} {
		at := modelServer(t, c.about, c.config)
		got, err := triton.New(triton.DefaultOptions()).Fingerprint(t.Context(), at, "llama")
		if got != (regions.Fingerprint{}) || err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), at.String()) {
			t.Errorf("%s: %+v, %v; want an error with %q and the pod", c.name, got, err, c.want)
		}
	}
}

// TestSimulatedPodsAgree: two pods of one model have one fingerprint, and its next
// version another.
func TestSimulatedPodsAgree(t *testing.T) {
	c := triton.New(triton.DefaultOptions())
	of := func(m tritontest.Model) regions.Fingerprint {
		t.Helper()
		o := tritontest.DefaultOptions()
		o.Models = []tritontest.Model{m}
		pod := tritontest.New(o)
		if err := pod.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pod.Close)
		got, err := c.Fingerprint(t.Context(), netip.MustParseAddrPort(pod.Addr()), regions.ModelName(m.Name))
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	m := tritontest.DefaultModel("llama")
	first, second := of(m), of(m)
	m.Version = 2
	if later := of(m); first != second || first.Version != 1 || later.Version != 2 || later.ConfigHash != first.ConfigHash {
		t.Errorf("%+v, %+v and later %+v", first, second, later)
	}
	m.Flavour = tritontest.TRTLLM
	if other := of(m); other.ConfigHash == first.ConfigHash {
		t.Error("another backend has the same hash")
	}
}

func FuzzFingerprint(f *testing.F) {
	f.Add(configLlama)
	f.Add(`{"name":"a","x":[[{"y":0}],null]}`)
	f.Add("{")
	f.Fuzz(func(t *testing.T, config string) {
		// Both questions get the same answer, which is metadata and configuration.
		o := triton.DefaultOptions()
		o.Dial = dialCanned("HTTP/1.1 200 OK\r\n\r\n" + config)
		got, err := triton.New(o).Fingerprint(t.Context(), netip.MustParseAddrPort("192.0.2.1:8000"), "llama")
		if (got.ConfigHash != 0) != (err == nil) {
			t.Fatalf("%+v with error %v", got, err)
		}
	})
}
