package kube

import (
	"context"
	"errors"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
)

// apiServer answers lists and watches of one Service's slices as the API server
// does, over connections in memory, so that it lives in a bubble.
type apiServer struct {
	conns chan net.Conn
	down  chan struct{} // closed when it is

	mu       sync.Mutex // guards all below
	slices   map[string]*discoveryv1.EndpointSlice
	version  int
	watchers map[chan event]bool
	refuse   *apierrors.StatusError // for every request
	token    string                 // that it wants; empty wants none
	deaf     bool                   // connections can't be made
	silent   bool                   // watches are not told of changes
	noWatch  bool                   // watches are forbidden
	json     bool                   // it has no protobuf for us
	curt     bool                   // watches end at once
	lists    int
	queries  []string
	agents   map[string]bool
}

// event is one of a watch.
type event struct {
	what   string
	object runtime.Object
}

// codecs are those of the API server for what is needed here.
var codecs = func() serializer.CodecFactory {
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	if err := discoveryv1.AddToScheme(scheme); err != nil {
		panic(err)
	}
	return serializer.NewCodecFactory(scheme)
}()

// answer is a response in the first format that the client accepts, as the API server
// chooses it, or in JSON, which it may choose too.
type answer struct {
	http.ResponseWriter
	media runtime.SerializerInfo
}

func (a *apiServer) answer(w http.ResponseWriter, r *http.Request) *answer {
	first, _, _ := strings.Cut(r.Header.Get("Accept"), ",")
	if a.json {
		first = runtime.ContentTypeJSON
	}
	media, ok := runtime.SerializerInfoForMediaType(codecs.SupportedMediaTypes(), first)
	if !ok {
		panic("no format " + first)
	}
	w.Header().Set("Content-Type", media.MediaType)
	return &answer{w, media}
}

// encoded is an object of the API's first version.
func (w *answer) encoded(o runtime.Object) []byte {
	version := schema.GroupVersions{discoveryv1.SchemeGroupVersion, {Version: "v1"}}
	out, err := runtime.Encode(codecs.EncoderForVersion(w.media.Serializer, version), o)
	if err != nil {
		panic(err)
	}
	return out
}

// send sends an event of a watch.
func (w *answer) send(e event) {
	framed := w.media.StreamSerializer.Framer.NewFrameWriter(w)
	encoder := codecs.EncoderForVersion(w.media.StreamSerializer.Serializer, discoveryv1.SchemeGroupVersion)
	_ = encoder.Encode(&metav1.WatchEvent{Type: e.what, Object: runtime.RawExtension{Raw: w.encoded(e.object)}}, framed)
	_ = http.NewResponseController(w.ResponseWriter).Flush()
}

// start runs a server until the test ends.
func start(t *testing.T) *apiServer {
	t.Helper()
	a := &apiServer{
		conns: make(chan net.Conn), down: make(chan struct{}), slices: map[string]*discoveryv1.EndpointSlice{},
		version: 100, watchers: map[chan event]bool{}, agents: map[string]bool{},
	}
	s := &http.Server{Handler: a}
	done := make(chan struct{})
	go func() { _ = s.Serve(a); close(done) }()
	t.Cleanup(func() {
		_ = s.Close()
		<-done
	})
	return a
}

// Accept, Close and Addr make it a listener.
func (a *apiServer) Accept() (net.Conn, error) {
	select {
	case c := <-a.conns:
		return c, nil
	case <-a.down:
		return nil, net.ErrClosed
	}
}

func (a *apiServer) Close() error {
	select {
	case <-a.down:
	default:
		close(a.down)
	}
	return nil
}

func (a *apiServer) Addr() net.Addr { return &net.TCPAddr{} }

// dial connects to it.
func (a *apiServer) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	a.mu.Lock()
	deaf := a.deaf
	a.mu.Unlock()
	if deaf {
		return nil, errors.New("connection refused")
	}
	here, there := net.Pipe()
	select {
	case a.conns <- there:
		return here, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// config is a client's.
func (a *apiServer) config() *rest.Config {
	return &rest.Config{Host: "http://kubernetes.test", Dial: a.dial}
}

// do changes the server.
func (a *apiServer) do(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
}

// put adds or changes slices, delete removes them; watches are told.
func (a *apiServer) put(all ...*discoveryv1.EndpointSlice) {
	a.do(func() {
		for _, s := range all {
			what := "MODIFIED"
			if a.slices[s.Name] == nil {
				what = "ADDED"
			}
			a.change(what, s.DeepCopy())
		}
	})
}

func (a *apiServer) delete(names ...string) {
	a.do(func() {
		for _, name := range names {
			a.change("DELETED", a.slices[name])
		}
	})
}

func (a *apiServer) change(what string, s *discoveryv1.EndpointSlice) {
	a.version++
	s.ResourceVersion = strconv.Itoa(a.version)
	if a.slices[s.Name] = s; what == "DELETED" {
		delete(a.slices, s.Name)
	}
	if !a.silent {
		a.broadcast(event{what, s.DeepCopy()})
	}
}

func (a *apiServer) broadcast(e event) {
	for w := range a.watchers {
		w <- e
	}
}

// hangUp ends all watches as a server does that restarts.
func (a *apiServer) hangUp() {
	a.do(func() {
		for w := range a.watchers {
			delete(a.watchers, w)
			close(w)
		}
	})
}

// ServeHTTP implements http.Handler.
func (a *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	out := a.answer(w, r)
	a.queries = append(a.queries, r.URL.String())
	a.agents[r.UserAgent()] = true
	refuse := a.refuse
	if a.token != "" && r.Header.Get("Authorization") != "Bearer "+a.token {
		refuse = apierrors.NewUnauthorized("Unauthorized")
	}
	if r.URL.Path != "/apis/discovery.k8s.io/v1/namespaces/inference/endpointslices" || r.URL.Query().Get("labelSelector") != "kubernetes.io/service-name=triton-llama" {
		refuse = apierrors.NewNotFound(schema.GroupResource{Resource: r.URL.Path}, "")
	}
	watches := r.URL.Query().Get("watch") == "true"
	if watches && a.noWatch {
		refuse = apierrors.NewForbidden(schema.GroupResource{}, "", errors.New("no such verb"))
	}
	if watches && r.URL.Query().Get("resourceVersion") != strconv.Itoa(a.version) && !a.noWatch && refuse == nil {
		refuse = apierrors.NewResourceExpired("too old resource version") // it keeps none
	}
	if refuse != nil {
		a.mu.Unlock()
		status := refuse.Status()
		if d := status.Details; d != nil && d.RetryAfterSeconds > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(int(d.RetryAfterSeconds)))
		}
		w.WriteHeader(int(status.Code))
		_, _ = w.Write(out.encoded(&status))
		return
	}
	if watches && a.curt {
		a.mu.Unlock()
		return
	}
	if watches {
		events := make(chan event, 100)
		a.watchers[events] = true
		a.mu.Unlock()
		a.tell(out, r, events)
		return
	}
	a.lists++
	list := discoveryv1.EndpointSliceList{
		ListMeta: metav1.ListMeta{ResourceVersion: strconv.Itoa(a.version)},
	}
	for _, name := range slices.Sorted(maps.Keys(a.slices)) {
		list.Items = append(list.Items, *a.slices[name])
	}
	a.mu.Unlock()
	_, _ = w.Write(out.encoded(&list))
}

// tell sends a watch its events.
func (a *apiServer) tell(w *answer, r *http.Request, events chan event) {
	_ = http.NewResponseController(w.ResponseWriter).Flush()
	defer a.do(func() { delete(a.watchers, events) })
	for {
		select {
		case <-r.Context().Done():
			return
		case e, ok := <-events:
			if !ok {
				return
			}
			w.send(e)
		}
	}
}
