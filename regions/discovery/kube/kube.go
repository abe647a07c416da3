// Package kube finds the pods behind a Service of Kubernetes by its EndpointSlices,
// which say at once when a pod comes, goes or begins to end. It asks the API server
// by client-go's REST client alone: a list and a watch need no more, and a reflector
// would never look at the whole again by itself.
package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/klog/v2"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/discovery"
)

const (
	// relistEvery is how often everything is listed anew and compared, give or take a
	// tenth so that agents take turns. A watch can be cut without a word, or miss an
	// event; five minutes bound that, and a list of one Service's slices is 10 kB.
	relistEvery = 5 * time.Minute

	// listTime bounds one list. An API server that is busy answers within its own
	// limit of a minute; who has no answer in half of that asks again elsewhere.
	listTime = 30 * time.Second

	// firstWait and mostWait bound the waits after a failure, which double: an API
	// server that restarts is back within seconds, and the agents of a large fleet must
	// not keep it down.
	firstWait = time.Second
	mostWait  = 30 * time.Second

	// shortWatch is how long a watch must last to count as one. Shorter ones are waited
	// after as if they had failed.
	shortWatch = 5 * time.Second
)

// Options are what a [Source] is made from. Start with [DefaultOptions].
type Options struct {
	// Service is the Service's name, and Namespace where it is; empty is where this
	// pod is.
	Service, Namespace string
	// Family is the one family that is used, "ip4" or "ip6". Empty takes a pod's IPv4
	// address, and IPv6 if it has no other.
	Family string
	Ports  Ports
	// Models are what each pod may serve.
	Models []regions.PodModel

	connect func(namespace string) (*client, error) // for tests; nil is the cluster's
}

// Ports are those of a pod's frontends and metrics.
type Ports struct{ HTTP, GRPC, OpenAI, Metrics Port }

// Port is a port by its number, or by its name in the Service if the number is 0. A
// name that the Service does not have is not offered.
type Port struct {
	Name   string
	Number uint16
}

// DefaultOptions are those of a Service whose ports are named for what they are.
func DefaultOptions(service string) Options {
	return Options{Service: service, Ports: Ports{Port{Name: "http"}, Port{Name: "grpc"}, Port{Name: "openai"}, Port{Name: "metrics"}}}
}

// Source is a [discovery.Source] of the pods behind a Service. A pod's ID is its
// namespace and name, so that every agent of a region, and the next run of this one,
// knows it by the same ID.
//
// A pod that is ending is reported as such for as long as the slices have it. One
// that is not ready is reported like one that is: the agents probe the models
// themselves, sooner than the kubelet, and a kubelet or a node that does not report
// must not take away pods that serve.
type Source struct {
	*discovery.Journal
	opts Options
}

// New makes a source. It asks nothing yet.
func New(o Options) (*Source, error) {
	name := o.Service
	if o.Namespace != "" {
		name = o.Namespace + "/" + name
	}
	fail := func(format string, args ...any) (*Source, error) {
		return nil, fmt.Errorf("service %s: %w", name, fmt.Errorf(format, args...))
	}
	switch {
	case o.Service == "":
		return nil, errors.New("kubernetes: no service to look for")
	case o.Family != "" && o.Family != "ip4" && o.Family != "ip6":
		return fail("family %q: want ip4, ip6 or none for either", o.Family)
	case o.Ports.HTTP == Port{}:
		return fail("no name or number of the HTTP port")
	}
	// Any pod of the source shows whether numbers and models make sense. Ports by name
	// are whatever they are.
	at := func(p Port, other uint16) netip.AddrPort {
		return netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), cmp.Or(p.Number, other))
	}
	sample := regions.Pod{ID: "x", HTTP: at(o.Ports.HTTP, 65535), GRPC: at(o.Ports.GRPC, 65534), OpenAI: at(o.Ports.OpenAI, 65533), Metrics: at(o.Ports.Metrics, 65532), Models: o.Models}
	if err := discovery.Validate([]regions.Pod{sample}); err != nil {
		return fail("%w", err)
	}
	if o.connect == nil {
		o.connect = inCluster
	}
	return &Source{discovery.NewJournal(name), o}, nil
}

// bridge makes client-go log where this program does. Its logger is the process's, so
// that the first source's stays.
var bridge sync.Once

// Report gives the source a logger and metrics. Call it before Run.
func (s *Source) Report(log *slog.Logger, m *discovery.Metrics) {
	s.Journal.Report(log, m)
	bridge.Do(func() { klog.SetSlogLogger(log.With("component", "discovery", "library", "client-go")) })
}

// run is what one run of a source knows.
type run struct {
	*Source
	client  *client
	emit    func([]regions.Pod)
	slices  map[string]*discoveryv1.EndpointSlice // by name
	listed  bool
	whole   bool // the watch seemed to be well until it was time to list
	begun   bool
	emitted []regions.Pod
	left    string // what was said about endpoints that are left out
}

// Run lists the Service's slices and watches them until ctx is done, and then returns
// nil. It emits nothing before the first list, nothing while the pods stay as they
// were, and no empty set but by a list's word. The error is that this process is in no
// cluster.
func (s *Source) Run(ctx context.Context, emit func([]regions.Pod)) error {
	defer s.End()
	c, err := s.opts.connect(s.opts.Namespace)
	if err != nil {
		return fmt.Errorf("pods of the service %s: %w", s.opts.Service, err)
	}
	defer c.close()
	r := &run{Source: s, client: c, emit: emit}
	for failures := 0; ; {
		began := time.Now()
		err := r.cycle(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) >= shortWatch {
			failures = 0
			if err == nil {
				continue
			}
		}
		wait := time.NewTimer(pause(failures, err))
		failures++
		select {
		case <-ctx.Done():
			wait.Stop()
			return nil
		case <-wait.C:
		}
	}
}

// pause is how long to wait after failures in a row, or as long as the server asks.
func pause(failures int, err error) time.Duration {
	wait := min(firstWait<<min(failures, 10), mostWait)
	wait = wait/2 + rand.N(wait/2+1)
	if seconds, ok := apierrors.SuggestsClientDelay(err); ok {
		wait = max(wait, min(time.Duration(seconds)*time.Second, 2*mostWait))
	}
	return wait
}

// cycle lists, and watches from there on until it is time to list again, the watch
// ends, or the list has to confirm something.
func (r *run) cycle(ctx context.Context) error {
	version, err := r.list(ctx)
	if err != nil {
		return r.failed(ctx, err)
	}
	within, cancel := context.WithTimeout(ctx, relistEvery-relistEvery/10+rand.N(relistEvery/5))
	defer cancel()
	w, err := r.client.watch(within, r.opts.Service, version)
	if err != nil {
		return r.failed(ctx, err)
	}
	defer w.Stop()
	r.Away(nil)
	return r.follow(within, w)
}

// failed notes that the API server did not list or watch.
func (r *run) failed(ctx context.Context, err error) error {
	r.whole = false
	if ctx.Err() == nil {
		r.Away(r.client.explain(err))
	}
	return err
}

// list takes the whole set from the API server and notes what the watch before had
// not told, if it had gone on until now.
func (r *run) list(ctx context.Context) (version string, err error) {
	ctx, cancel := context.WithTimeout(ctx, listTime)
	defer cancel()
	list, err := r.client.list(ctx, r.opts.Service)
	if err != nil {
		return "", err
	}
	now := make(map[string]*discoveryv1.EndpointSlice, len(list.Items))
	for i := range list.Items {
		now[list.Items[i].Name] = &list.Items[i]
	}
	if r.listed && r.whole {
		r.Healed(differences(r.slices, now))
	}
	if len(now) == 0 && (!r.listed || len(r.slices) > 0) {
		r.Log().Warn("the service has no EndpointSlice; there may be no such service", "label", discoveryv1.LabelServiceName, "service", r.opts.Service, "namespace", r.client.namespace)
	}
	r.slices, r.listed = now, true
	r.tell(r.pods())
	return list.ResourceVersion, nil
}

// differences counts the slices that are in one of two sets only, or not the same.
func differences(a, b map[string]*discoveryv1.EndpointSlice) int {
	n := 0
	for name, x := range a {
		if y := b[name]; y == nil || x.UID != y.UID || x.ResourceVersion != y.ResourceVersion {
			n++
		}
	}
	for name := range b {
		if a[name] == nil {
			n++
		}
	}
	return n
}

// follow takes the events of a watch, until it is time to list, the watch ends, or a
// list has to confirm what it told.
func (r *run) follow(ctx context.Context, w watch.Interface) error {
	r.whole = false
	for {
		select {
		case <-ctx.Done():
			r.whole = true
			return nil
		case e, ok := <-w.ResultChan():
			if !ok {
				return nil
			}
			if e.Type == watch.Error {
				err := apierrors.FromObject(e.Object)
				r.Log().Debug("watch ended", "error", err)
				return err
			}
			if slice, ok := e.Object.(*discoveryv1.EndpointSlice); ok {
				r.take(e.Type, slice)
			}
			pods := r.pods()
			if len(pods) == 0 && len(r.emitted) > 0 {
				return nil // that there are none is a list's to say
			}
			r.tell(pods)
		}
	}
}

func (r *run) take(t watch.EventType, slice *discoveryv1.EndpointSlice) {
	switch t {
	case watch.Added, watch.Modified:
		r.slices[slice.Name] = slice
	case watch.Deleted:
		delete(r.slices, slice.Name)
	default: // bookmarks have nothing to tell
	}
}

// pods are those of the slices, and the log says what of them is left out.
func (r *run) pods() []regions.Pod {
	all := slices.SortedFunc(maps.Values(r.slices), func(a, b *discoveryv1.EndpointSlice) int { return cmp.Compare(a.Name, b.Name) })
	pods, left := r.opts.read(all)
	if left != r.left && left != "" {
		r.Log().Warn("endpoints are left out", "why", left)
	}
	r.left = left
	return pods
}

// tell emits a set that differs from the one before.
func (r *run) tell(pods []regions.Pod) {
	if r.begun && slices.EqualFunc(pods, r.emitted, same) {
		return
	}
	r.begun, r.emitted = true, pods
	r.Found(len(pods))
	out := slices.Clone(pods)
	for i := range out {
		out[i].Models = slices.Clone(r.opts.Models)
	}
	r.emit(out)
}

// same leaves the models out, which are those of the source.
func same(a, b regions.Pod) bool {
	return a.ID == b.ID && a.HTTP == b.HTTP && a.GRPC == b.GRPC && a.OpenAI == b.OpenAI && a.Metrics == b.Metrics && a.Terminating == b.Terminating
}
