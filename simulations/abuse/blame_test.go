package abuse

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
)

// accounts are the metrics that say what is held against pods, and what was sent more
// than once or elsewhere. Each value of a label that is no blame is named; a series
// with none of them must be 0.
var accounts = map[string][]string{
	"rhumb_pool_requests_total":        {`end="served"`, `end="client-gone"`},
	"rhumb_pool_ejections_total":       nil,
	"rhumb_pool_double_releases_total": nil,
	"rhumb_proxy_requests_total":       {`end="served"`, `end="client-gone"`},
	"rhumb_proxy_replays_total":        nil,
	"rhumb_proxy_resumes_total":        nil,
	"rhumb_proxy_spilled_total":        nil,
	// Of an agent; a probe that is late on a busy machine does no harm alone.
	"rhumb_probe_sights_total":        {`sight="ready"`, `sight="served"`, `sight="timeout"`},
	"rhumb_probe_state_changes_total": {`state="ready"`},
}

// blame is what metrics say that should not be.
func blame(metrics string) (all []string) {
	for line := range strings.Lines(metrics) {
		series, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		name, labels, _ := strings.Cut(series, "{")
		good, counts := accounts[name]
		for _, label := range good {
			counts = counts && !strings.Contains(labels, label)
		}
		if n, err := strconv.ParseFloat(value, 64); counts && (err != nil || n != 0) {
			all = append(all, line)
		}
	}
	return all
}

// metric is the sum of a metric's series.
func (v *victim) metric(name string) (sum float64) {
	for line := range strings.Lines(v.metrics()) {
		series, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if of, _, _ := strings.Cut(series, "{"); of == name {
			n, _ := strconv.ParseFloat(value, 64)
			sum += n
		}
	}
	return sum
}

// blameless checks that nothing was held against the pod, which takes requests as
// ever, and nothing sent twice.
func (v *victim) blameless() {
	v.t.Helper()
	if all := blame(v.metrics()); len(all) > 0 {
		v.t.Errorf("what clients did wrong is held against a pod, or was tried again:\n%s", strings.Join(all, ""))
	}
	if status, _ := v.exchange(post+"Content-Length: 6\r\n\r\n\"fine\"", false); status != http.StatusOK {
		v.t.Errorf("afterwards a request is answered with %d", status)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.seen) > 0 {
		v.t.Errorf("saw %d times something of a pod that did nothing wrong, first %v", len(v.seen), v.seen[0])
	}
}

// urges are fields by which clients ask of other servers, or of this one's parts, to
// send a request again, to send it elsewhere, or to think ill of a pod.
var urges = []string{
	"Idempotency-Key: x", "X-Idempotency-Key: x", "Retry-After: 0", "X-Envoy-Retry-On: 5xx,reset", "X-Envoy-Max-Retries: 9",
	"X-Retry: 9", "X-Retries: 9", "Grpc-Retry-Pushback-Ms: 0", "Rhumb-Not-Started: true", "Rhumb-Resumed: 1", "Rhumb-Region: elsewhere",
	"Rhumb-Reason: pod-lost", "Rhumb-Max-Wait: 5s", "Rhumb-Priority: high", "Early-Data: 1",
}

// TestBlame: a pod that hangs up is blamed, so that [victim.blameless] can fail; and
// what is no stateless generation is heard by it once, whatever the client asks for.
func TestBlame(t *testing.T) {
	for _, urge := range append(urges, strings.Join(urges, "\r\n")) {
		v := attack(t, nil)
		for _, body := range []string{"Content-Length: 3\r\n\r\ndie", "Content-Length: 0\r\n\r\n"} {
			v.pod.dies.Store(true)
			before := v.pod.heard.Load()
			c := v.dial()
			_, _ = fmt.Fprintf(c, "POST /v2/models/llama/infer HTTP/1.1\r\nHost: h\r\nConnection: close\r\n%s\r\n%s", urge, body)
			answer, _ := io.ReadAll(c)
			_ = c.Close()
			if n := v.pod.heard.Load() - before; n != 1 || !strings.HasPrefix(string(answer), fmt.Sprintf("HTTP/1.1 %d ", http.StatusBadGateway)) {
				t.Errorf("%q: the pod heard it %d times, answered %.40q", urge, n, answer)
			}
			v.pod.dies.Store(false)
			eventually(t, func() bool {
				status, _ := v.exchange(post+"Content-Length: 6\r\n\r\n\"fine\"", false)
				return status == http.StatusOK
			}, "the pod serves again")
		}
		if all := strings.Join(blame(v.metrics()), ""); !strings.Contains(all, "rhumb_proxy_requests_total") || !strings.Contains(all, "rhumb_pool_requests_total") ||
			v.agent != nil && (!strings.Contains(all, "rhumb_probe_sights_total") || !strings.Contains(all, "rhumb_probe_state_changes_total")) {
			t.Errorf("a pod that hangs up is blamed by:\n%s", all)
		}
	}
}
