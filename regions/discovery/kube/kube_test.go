package kube

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/klog/v2"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/discovery"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	models   = []regions.PodModel{{Name: "llama", Slots: 8}}
	resource = schema.GroupResource{Group: "discovery.k8s.io", Resource: "endpointslices"}
)

// rig is a source that runs in a bubble, over a server.
type rig struct {
	t        *testing.T
	server   *apiServer
	log      *strings.Builder
	registry *prometheus.Registry
	sets     [][]regions.Pod
	turns    sync.Mutex // for the race detector: what was read is over when the source goes on
}

// inBubble runs a source and the function beside it.
func inBubble(t *testing.T, prepare func(a *apiServer), f func(r *rig)) {
	t.Helper()
	inBubbleWith(t, "", prepare, f)
}

func inBubbleWith(t *testing.T, tokenFile string, prepare func(a *apiServer), f func(r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &rig{t: t, server: start(t), log: new(strings.Builder), registry: prometheus.NewRegistry()}
		prepare(r.server)
		o := DefaultOptions("triton-llama")
		o.Namespace, o.Models = "inference", models
		o.connect = func(namespace string) (*client, error) {
			config := r.server.config()
			config.BearerTokenFile = tokenFile
			return newClient(config, namespace)
		}
		s, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		s.Report(slog.New(slog.NewTextHandler(r.log, nil)), discovery.NewMetrics(r.registry))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- s.Run(ctx, func(pods []regions.Pod) {
				if err := discovery.Validate(pods); err != nil {
					t.Errorf("emitted an invalid set: %v", err)
				}
				r.turns.Lock()
				defer r.turns.Unlock()
				r.sets = append(r.sets, pods)
			})
		}()
		synctest.Wait()
		f(r)
		told := time.Now()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("an ordered stop is no error, got %v", err)
		}
		if took := time.Since(told); took != 0 {
			t.Errorf("the stop took %v", took)
		}
		if n, err := testutil.GatherAndCount(r.registry, "rhumb_discovery_away", "rhumb_discovery_pods"); err != nil || n != 0 {
			t.Errorf("%d gauges are left behind, %v", n, err)
		}
	})
}

// pass lets time go by.
func (r *rig) pass(d time.Duration) {
	r.turns.Lock()
	r.turns.Unlock() //nolint:staticcheck // see there
	<-time.After(d)
	synctest.Wait()
}

// want compares the newest set, how many there were, and whether the source is away.
func (r *rig) want(what string, set string, sets int, away bool) {
	r.t.Helper()
	synctest.Wait()
	got := "-"
	if n := len(r.sets); n > 0 {
		got = show(r.sets[n-1])
	}
	if got != set || len(r.sets) != sets {
		r.t.Fatalf("%s: got %q after %d sets, want %q after %d\n%s", what, got, len(r.sets), set, sets, r.log)
	}
	gauge := fmt.Sprintf("# HELP rhumb_discovery_away 1 while a source of pods does not answer and its pods stay as they were.\n# TYPE rhumb_discovery_away gauge\nrhumb_discovery_away{name=\"inference/triton-llama\"} %d\n", map[bool]int{true: 1}[away])
	if err := testutil.GatherAndCompare(r.registry, strings.NewReader(gauge), "rhumb_discovery_away"); err != nil {
		r.t.Errorf("%s: %v", what, err)
	}
}

// healed is how many differences were counted.
func (r *rig) healed() string {
	families, err := r.registry.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "rhumb_discovery_healed_total" {
			return fmt.Sprint(f.GetMetric()[0].GetCounter().GetValue())
		}
	}
	return "0"
}

func TestFollows(t *testing.T) {
	for what, json := range map[string]bool{"protobuf": false, "JSON": true} {
		t.Run(what, func(t *testing.T) { follows(t, json) })
	}
}

func follows(t *testing.T, json bool) {
	inBubble(t, func(a *apiServer) { a.json = json; a.put(slice("s-1", v4, e("a", "10.0.0.1"))) }, func(r *rig) {
		a := r.server
		r.want("the list", "a", 1, false)
		a.put(slice("s-1", v4, e("a", "10.0.0.1"), e("b", "10.0.0.2")))
		r.want("a pod comes", "a b", 2, false)
		a.put(slice("s-2", v4, e("c", "10.0.0.3")))
		r.want("a slice comes", "a b c", 3, false)
		a.put(slice("s-1", v4, e("a", "10.0.0.1", terminating), e("b", "10.0.0.2")))
		r.want("a pod ends", "a(ends) b c", 4, false)
		a.put(slice("s-1", v4, e("a", "10.0.0.1", terminating), e("b", "10.0.0.2", notReady)))
		r.want("a pod that is not ready stays", "a(ends) b c", 4, false)
		a.put(slice("s-1", v4, e("b", "10.0.0.2", notReady)))
		r.want("the pod is gone", "b c", 5, false)
		a.do(func() {
			a.broadcast(event{"BOOKMARK", &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{ResourceVersion: "999"}}})
		})
		r.want("a bookmark", "b c", 5, false)
		a.delete("s-2")
		r.want("a slice is gone", "b", 6, false)
		r.pass(time.Hour)
		r.want("an hour in which nothing happens", "b", 6, false)
		if a.lists < 11 || a.lists > 14 || r.healed() != "0" {
			t.Errorf("%d lists in an hour, healed %s", a.lists, r.healed())
		}
		if !a.agents["rhumb-agent"] || len(a.agents) != 1 {
			t.Errorf("says that it is %v", a.agents)
		}
		r.sets[0][0].Models[0].Slots = 99
		if r.sets[5][0].Models[0].Slots != 8 {
			t.Error("two sets share their models")
		}
	})
}

// TestMissedDelete: a watch that is alive and does not tell is healed by the next
// list, which is counted.
func TestMissedDelete(t *testing.T) {
	inBubble(t, func(a *apiServer) { a.put(slice("s-1", v4, e("a", "10.0.0.1")), slice("s-2", v4, e("b", "10.0.0.2"))) }, func(r *rig) {
		r.server.do(func() { r.server.silent = true })
		r.server.delete("s-2")
		r.pass(4 * time.Minute)
		r.want("not told", "a b", 1, false)
		r.pass(2 * time.Minute)
		r.want("listed", "a", 2, false)
		if r.healed() != "1" || strings.Count(r.log.String(), "a complete look did") != 1 {
			t.Errorf("healed %s:\n%s", r.healed(), r.log)
		}
	})
}

// TestWatchesEnd: however a watch ends, what happened since is found by a list.
func TestWatchesEnd(t *testing.T) {
	for what, end := range map[string]func(a *apiServer){
		"the server hangs up": func(a *apiServer) { a.hangUp() },
		"too old a version (410)": func(a *apiServer) {
			a.do(func() {
				status := apierrors.NewResourceExpired("too old resource version").Status()
				a.broadcast(event{"ERROR", &status})
			})
		},
	} {
		t.Run(what, func(t *testing.T) {
			inBubble(t, func(a *apiServer) { a.put(slice("s-1", v4, e("a", "10.0.0.1"))) }, func(r *rig) {
				r.pass(time.Minute)
				r.server.do(func() { r.server.silent = true })
				r.server.put(slice("s-2", v4, e("b", "10.0.0.2")))
				r.server.do(func() { r.server.silent = false })
				end(r.server)
				r.pass(2 * time.Second)
				r.want("after it", "a b", 2, false)
				r.server.delete("s-1")
				r.want("by the new watch", "b", 3, false)
				if r.server.lists != 2 || strings.Contains(r.log.String(), "away") {
					t.Errorf("%d lists\n%s", r.server.lists, r.log)
				}
			})
		})
	}
}

// TestAway: an API server that is away for long, in whatever way, changes nothing,
// says so once and is not hammered at.
func TestAway(t *testing.T) {
	for what, refuse := range map[string]*apierrors.StatusError{
		"not there":             nil,
		"fails":                 apierrors.NewInternalError(fmt.Errorf("etcd has no leader")),
		"may not (403)":         apierrors.NewForbidden(resource, "", fmt.Errorf("no RBAC policy matched")),
		"no token (401)":        apierrors.NewUnauthorized("Unauthorized"),
		"is too busy":           apierrors.NewTooManyRequests("later", 45),
		"has no such API (404)": apierrors.NewNotFound(resource, ""),
	} {
		t.Run(what, func(t *testing.T) {
			inBubble(t, func(a *apiServer) { a.put(slice("s-1", v4, e("a", "10.0.0.1"), e("b", "10.0.0.2"))) }, func(r *rig) {
				r.pass(time.Minute)
				r.server.do(func() { r.server.refuse, r.server.deaf, r.server.queries = refuse, refuse == nil, nil })
				r.server.hangUp()
				if refuse == nil {
					r.server.do(func() { r.server.refuse = apierrors.NewInternalError(fmt.Errorf("a connection from before")) })
				}
				r.pass(6 * time.Hour)
				r.want("away", "a b", 1, true)
				asked := len(r.server.queries)
				soonest := 14
				if what == "is too busy" {
					soonest = 44 // as it asks for
				}
				if refuse != nil && (asked < 6*3600/61 || asked > 6*3600/soonest) {
					t.Errorf("asked %d times in six hours", asked)
				}
				if n := strings.Count(r.log.String(), "the source is away"); n != 1 {
					t.Errorf("logged %d times\n%s", n, r.log)
				}
				if strings.Contains(what, "403") && !strings.Contains(r.log.String(), "bind it to a Role with get, list and watch of endpointslices") {
					t.Errorf("no remedy in\n%s", r.log)
				}
				r.server.do(func() { r.server.refuse, r.server.deaf = nil, false })
				r.server.put(slice("s-1", v4, e("b", "10.0.0.2")))
				r.pass(61 * time.Second)
				r.want("back", "b", 2, false)
				if r.healed() != "0" {
					t.Errorf("an outage is no loss of the watch: %s", r.healed())
				}
			})
		})
	}
}

// TestAwayAtTheStart: nothing is said before the first list.
func TestAwayAtTheStart(t *testing.T) {
	inBubble(t, func(a *apiServer) { a.deaf = true }, func(r *rig) {
		r.pass(time.Hour)
		r.want("away", "-", 0, true)
		r.server.do(func() { r.server.deaf = false })
		r.pass(31 * time.Second)
		r.want("there, without the service", "", 1, false)
		if !strings.Contains(r.log.String(), "there may be no such service") {
			t.Errorf("no word of it:\n%s", r.log)
		}
		r.server.put(slice("s-1", v4, e("a", "10.0.0.1")))
		r.want("the service is made", "a", 2, false)
	})
}

// TestWatchForbidden: a Role without the verb "watch" is told of, and the pods are
// found all the same, later.
func TestWatchForbidden(t *testing.T) {
	inBubble(t, func(a *apiServer) { a.put(slice("s-1", v4, e("a", "10.0.0.1"))) }, func(r *rig) {
		r.server.do(func() { r.server.noWatch = true })
		r.server.hangUp()
		r.server.put(slice("s-1", v4, e("b", "10.0.0.2")))
		r.pass(time.Hour)
		r.want("by lists", "b", 2, true)
		if n := strings.Count(r.log.String(), "the source is away"); n != 1 {
			t.Errorf("logged %d times\n%s", n, r.log)
		}
	})
}

// TestEmptied: that there are no pods is believed by a list only, at once.
func TestEmptied(t *testing.T) {
	for what, empty := range map[string]func(a *apiServer){
		"the service is deleted": func(a *apiServer) { a.delete("s-1") },
		"it is scaled to zero":   func(a *apiServer) { a.put(slice("s-1", v4)) },
	} {
		t.Run(what, func(t *testing.T) {
			inBubble(t, func(a *apiServer) { a.put(slice("s-1", v4, e("a", "10.0.0.1"))) }, func(r *rig) {
				r.pass(time.Minute)
				r.server.do(func() { r.server.deaf, r.server.refuse = true, apierrors.NewInternalError(fmt.Errorf("away")) })
				empty(r.server)
				r.pass(time.Hour)
				r.want("a watch's word, and no list", "a", 1, true)
				r.server.do(func() { r.server.deaf, r.server.refuse = false, nil })
				r.pass(31 * time.Second)
				r.want("a list's word", "", 2, false)
				r.server.put(slice("s-1", v4, e("a", "10.0.0.1")))
				r.want("and back", "a", 3, false)
				r.pass(time.Minute)
				empty(r.server)
				r.want("both at once", "", 4, false)
			})
		})
	}
}

// TestShortWatches: an API server, or somebody before it, that ends each watch at
// once is asked with growing pauses.
func TestShortWatches(t *testing.T) {
	inBubble(t, func(a *apiServer) { a.put(slice("s-1", v4, e("a", "10.0.0.1"))); a.curt = true }, func(r *rig) {
		r.pass(time.Hour)
		if r.server.lists < 3600/31 || r.server.lists > 3600/14 {
			t.Errorf("%d lists in an hour", r.server.lists)
		}
	})
}

// TestTokenRotates: the kubelet replaces the token's file; the old token is not
// accepted any more, neither in the middle of a watch nor after.
func TestTokenRotates(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("first\n")
	inBubbleWith(t, file, func(a *apiServer) { a.token = "first"; a.put(slice("s-1", v4, e("a", "10.0.0.1"))) }, func(r *rig) {
		r.want("by the first token", "a", 1, false)
		write("second\n")
		r.server.do(func() { r.server.token = "second" })
		r.pass(2 * time.Minute) // longer than the file's text is kept
		r.server.hangUp()
		r.server.put(slice("s-1", v4, e("b", "10.0.0.2")))
		r.pass(2 * time.Second)
		r.want("by the second, without a failure", "b", 2, false)
		if strings.Contains(r.log.String(), "away") || r.healed() != "0" {
			t.Errorf("it was away, or healed %s:\n%s", r.healed(), r.log)
		}
		write("third\n")
		r.server.do(func() { r.server.token = "third" })
		r.server.hangUp() // sooner than the file is read again
		r.server.put(slice("s-1", v4, e("c", "10.0.0.3")))
		r.pass(5 * time.Second)
		r.want("a token that is refused", "b", 2, true)
		r.pass(90 * time.Second)
		r.want("is read again within a minute", "c", 3, false)
	})
}

// TestStopsAtOnce: a stop waits neither for a watch nor for a pause.
func TestStopsAtOnce(t *testing.T) {
	for _, deaf := range []bool{false, true} {
		inBubble(t, func(a *apiServer) { a.deaf = deaf }, func(*rig) {})
	}
}

// TestNotInCluster: outside of Kubernetes the source ends with a word that helps.
func TestNotInCluster(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	o := DefaultOptions("triton-llama")
	o.Models = models
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"", "192.0.2.1"} {
		t.Setenv("KUBERNETES_SERVICE_HOST", host)
		t.Setenv("KUBERNETES_SERVICE_PORT", "443")
		want := map[string]string{"": "no pod of Kubernetes", "192.0.2.1": "automountServiceAccountToken"}[host]
		if err := s.Run(t.Context(), func([]regions.Pod) {}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("host %q: got %v, want an error with %q", host, err, want)
		}
	}
}

// TestLogs: what client-go has to say comes by the logger of the first source.
func TestLogs(t *testing.T) {
	var first, second strings.Builder
	for _, into := range []*strings.Builder{&first, &second} {
		s, err := New(Options{Service: "x", Ports: Ports{HTTP: Port{Number: 8000}}, Models: models})
		if err != nil {
			t.Fatal(err)
		}
		s.Report(slog.New(slog.NewTextHandler(into, nil)), discovery.NewMetrics(nil))
	}
	klog.Background().Error(fmt.Errorf("no such file"), "Unable to rotate token")
	if second.Len() > 0 {
		t.Errorf("by the second logger: %s", second.String())
	}
	// The first of this process may be another test's; then its bubble is gone.
	if first.Len() > 0 && !strings.Contains(first.String(), `library=client-go error="no such file"`) && !strings.Contains(first.String(), `library=client-go err="no such file"`) {
		t.Errorf("by the first logger: %s", first.String())
	}
}

func TestNewRefuses(t *testing.T) {
	for want, spoil := range map[string]func(o *Options){
		"no service":     func(o *Options) { o.Service = "" },
		`family "ipv4"`:  func(o *Options) { o.Family = "ipv4" },
		"the HTTP port":  func(o *Options) { o.Ports.HTTP = Port{} },
		"no models":      func(o *Options) { o.Models = nil },
		"are both":       func(o *Options) { o.Ports.HTTP.Number, o.Ports.Metrics.Number = 8002, 8002 },
		"service a/b: f": func(o *Options) { o.Namespace, o.Service, o.Family = "a", "b", "x" },
	} {
		o := DefaultOptions("triton-llama")
		o.Models = models
		spoil(&o)
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
}
