package gateway_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/gateway"
	"github.com/rhumb-lb/rhumb/regions/gateway/keyring"
)

// ring makes keys and their tokens.
func ring(tb testing.TB, keys ...keyring.Key) (r *keyring.Ring, tokens []string) {
	tb.Helper()
	pepper := []byte(strings.Repeat("p", keyring.HashSize))
	for i := range keys {
		token, made, err := keyring.Make(pepper, keys[i])
		if err != nil {
			tb.Fatal(err)
		}
		keys[i], tokens = made, append(tokens, token)
	}
	r, err := keyring.New(pepper, keys)
	if err != nil {
		tb.Fatal(err)
	}
	return r, tokens
}

func TestKeys(t *testing.T) {
	r, tokens := ring(t, keyring.Key{ID: "all"}, keyring.Key{ID: "one", Models: []regions.ModelName{"llama"}})
	all, one := "Bearer "+tokens[0], "bearer "+tokens[1]
	d := open(t, func(o *gateway.Options) { o.Policy.Keys = r })
	const wrong = "Bearer rhumb_one_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	for _, tt := range []struct {
		path   string
		fields []string
		want   int
	}{
		{"/v2/models/llama/generate", nil, 401},
		{"/v2/models/llama/generate", []string{"Authorization", wrong}, 401},
		{"/v2/models/llama/generate", []string{"Authorization", strings.Replace(wrong, "one", "two", 1)}, 401},
		{"/v2/models/llama/generate", []string{"Authorization", "Basic YTpi"}, 401},
		{"/v2/models/llama/generate", []string{"Authorization", all, "Authorization", all}, 401},
		{"/v2/models/llama/generate", []string{"Authorization", all, "X-API-Key", tokens[1]}, 401},
		{"/v2/models/llama/generate", []string{"Authorization", all, "X-API-Key", tokens[0]}, 200},
		{"/v2/models/llama/generate", []string{"Authorization", all}, 200},
		{"/v2/models/llama/generate", []string{"X-API-Key", tokens[1]}, 200},
		{"/v2/models/llama/generate", []string{"Authorization", one}, 200},
		{"/v1/models/llama/generate", []string{"Authorization", one}, 200},
		{"/v2/models/mistral/generate", []string{"Authorization", one}, 403},
		{"/v2/models/nobodys/generate", []string{"Authorization", one}, 403},
		{"/v2/models/mistral/generate", []string{"Authorization", all}, 200},
		{"/v2/repository/index", nil, 401},
		{"/v2/repository/index", []string{"Authorization", one}, 404},
	} {
		if res, body := d.do("POST", tt.path, tt.fields...); res.StatusCode != tt.want {
			t.Errorf("%s with %.40q: %d, want %d: %s", tt.path, tt.fields, res.StatusCode, tt.want, body)
		}
	}
	if got := d.notes.reqs[0]; got.Key != "all" || got.From != "" {
		t.Errorf("%+v", got)
	}
	if res, _ := d.do("GET", "/v2/health/ready"); res.StatusCode != http.StatusOK {
		t.Errorf("health needs a key: %d", res.StatusCode)
	}
	var list struct {
		Data []struct {
			ID string `json:"id"`
		} `json:"data"`
	}
	_, text := d.do("GET", "/v1/models", "Authorization", one)
	if err := json.Unmarshal([]byte(text), &list); err != nil || len(list.Data) != 1 || list.Data[0].ID != "llama" {
		t.Errorf("the list of a key for one model: %s", text)
	}
	for _, token := range tokens {
		if strings.Contains(d.log.String(), token[8:]) {
			t.Error("a secret is in the log")
		}
	}
	counted, err := testutil.GatherAndFormat(d.reg, expfmt.TypeTextPlain, "rhumb_gateway_requests_total")
	if err != nil || !strings.Contains(string(counted), `{code="403",key="one",model="mistral",route="generate"} 1`) {
		t.Errorf("counted\n%s\n%v", counted, err)
	}
}

// TestWrongKeysAreAlike: nothing in an answer tells an unknown id from a wrong
// secret, or a model that is there from one that is not.
func TestWrongKeysAreAlike(t *testing.T) {
	r, tokens := ring(t, keyring.Key{ID: "known"})
	d := open(t, func(o *gateway.Options) { o.Policy.Keys = r })
	var first string
	for _, token := range []string{"", "rhumb_known_x", "rhumb_unknown_x", tokens[0][:len(tokens[0])-2], strings.Repeat("y", 5000)} {
		for _, path := range []string{"/v2/models/llama/generate", "/v2/models/none/generate", "/nowhere"} {
			res, body := d.do("POST", path, "Authorization", "Bearer "+token)
			res.Header.Del("Date")
			got := fmt.Sprint(res.StatusCode, res.Header, body)
			if first == "" {
				first = got
			}
			if got != first || res.StatusCode != http.StatusUnauthorized || res.Header.Get("WWW-Authenticate") != "Bearer" {
				t.Errorf("%.20q at %s: %s, and elsewhere %s", token, path, got, first)
			}
		}
	}
}

// TestRate: who heeds Retry-After is admitted, and not before.
func TestRate(t *testing.T) {
	r, tokens := ring(t, keyring.Key{ID: "slow", Rate: 0.5, Burst: 2})
	var mu sync.Mutex
	now := time.Unix(1_800_000_000, 0)
	pass := func(d time.Duration) {
		mu.Lock()
		defer mu.Unlock()
		now = now.Add(d)
	}
	d := open(t, func(o *gateway.Options) {
		o.Policy.Keys = r
		o.Now = func() time.Time {
			mu.Lock()
			defer mu.Unlock()
			return now
		}
	})
	ask := func() *http.Response {
		res, _ := d.do("POST", "/v2/models/llama/generate", "X-API-Key", tokens[0])
		return res
	}
	for step, want := range []struct {
		after time.Duration
		code  int
		retry string
	}{
		{0, 200, ""}, {0, 200, ""}, {0, 429, "2"}, {time.Second, 429, "1"}, {900 * time.Millisecond, 429, "1"},
		{100 * time.Millisecond, 200, ""}, {0, 429, "2"}, {time.Minute, 200, ""}, {0, 200, ""}, {0, 429, "2"},
	} {
		pass(want.after)
		if res := ask(); res.StatusCode != want.code || res.Header.Get("Retry-After") != want.retry {
			t.Errorf("step %d: %d, Retry-After %q; want %d, %q", step, res.StatusCode, res.Header.Get("Retry-After"), want.code, want.retry)
		}
	}
}
