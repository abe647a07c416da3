package triton_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/triton"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest"
)

func TestParseLoad(t *testing.T) {
	none := triton.Load{KV: -1}
	for _, c := range []struct {
		name, header string
		want         triton.Load
		err          string
	}{
		{"Triton's text", "TEXT named_metrics.kv_cache_utilization=0.160282, named_metrics.max_token_capacity=399296", triton.Load{KV: 160, Capacity: 399296}, ""},
		{"Triton's JSON", `JSON {"named_metrics":{"kv_cache_utilization":0.16,"max_token_capacity":399296}}`, triton.Load{KV: 160, Capacity: 399296}, ""},
		{"at the top", "TEXT kv_cache_utilization=1,cpu_utilization=x", triton.Load{KV: 1000}, ""},
		{"at the top in JSON", `JSON {"cpu_utilization":0.3,"kv_cache_utilization":0}`, triton.Load{KV: 0}, ""},
		{"only the capacity", "TEXT named_metrics.max_token_capacity=64", triton.Load{KV: -1, Capacity: 64}, ""},
		{"others only", "TEXT cpu_utilization=0.3", none, "nothing that is known"},
		{"nothing", "", none, "neither TEXT nor JSON"},
		{"a format that is not read", "BIN AAAA", none, "neither TEXT nor JSON"},
		{"no pairs", "TEXT ", none, "without a value"},
		{"not a number", "TEXT kv_cache_utilization=much", none, "is no number"},
		{"NaN", "TEXT kv_cache_utilization=NaN", none, "is NaN"},
		{"more than all", "TEXT kv_cache_utilization=1.1", none, "is 1.1"},
		{"less than nothing", `JSON {"max_token_capacity":-1}`, none, "is -1"},
		{"JSON of another kind", `JSON {"kv_cache_utilization":"0.1"}`, none, "not JSON with numbers"},
		{"no JSON", "JSON {", none, "not JSON with numbers"},
		{"too long", "TEXT " + strings.Repeat("x=1,", 2000), none, "more than 4096"},
	} {
		got, err := triton.ParseLoad(c.header)
		if got != c.want || c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s: got %+v, %v; want %+v, %q", c.name, got, err, c.want, c.err)
		}
	}
}

// TestLoadOfASimulatedPod asks for both formats beside a generation.
func TestLoadOfASimulatedPod(t *testing.T) {
	o := tritontest.DefaultOptions()
	model := tritontest.DefaultModel("llama")
	model.Flavour = tritontest.TRTLLM
	o.Models = []tritontest.Model{model}
	pod := tritontest.New(o)
	if err := pod.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pod.Close)
	for _, format := range []string{"text", "json"} {
		body := strings.NewReader(`{"text_input":"hi","max_tokens":1}`)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+pod.Addr()+"/v2/models/llama/generate", body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set(triton.LoadFormatField, format)
		transport := &http.Transport{DisableKeepAlives: true}
		res, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
		got, err := triton.ParseLoad(res.Header.Get(triton.LoadField))
		if err != nil || got.KV < 0 || got.Capacity != int64(model.KVBlocks)*64 {
			t.Errorf("%s: %+v, %v", format, got, err)
		}
	}
}

func FuzzParseLoad(f *testing.F) {
	for _, seed := range []string{
		"TEXT named_metrics.kv_cache_utilization=0.160282, named_metrics.max_token_capacity=399296", "TEXT a=b,=,kv_cache_utilization=0x1p-2", "",
		`JSON {"named_metrics":{"kv_cache_utilization":0.16,"max_token_capacity":399296}}`, `JSON {"named_metrics":null,"max_token_capacity":1e308}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, header string) {
		l, err := triton.ParseLoad(header)
		if l.KV < -1 || l.KV > regions.Whole || l.Capacity < 0 {
			t.Fatalf("%+v", l)
		}
		if known := l != (triton.Load{KV: -1}); known != (err == nil) {
			t.Fatalf("%+v with error %v", l, err)
		}
		if err != nil || l.KV < 0 {
			return
		}
		again, err := triton.ParseLoad(fmt.Sprintf("TEXT kv_cache_utilization=%d.%03d, max_token_capacity=%d", l.KV/1000, l.KV%1000, l.Capacity))
		// A thousandth has no exact float64, so that it may be cut to the one below.
		if err != nil || again.Capacity != l.Capacity || again.KV != l.KV && again.KV != l.KV-1 {
			t.Fatalf("%+v is read again as %+v, %v", l, again, err)
		}
	})
}
