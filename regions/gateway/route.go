package gateway

import (
	"net/http"
	"strings"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/rpc"
)

// The routes' names, as logs and metrics have them. The calls' are in calls.
const (
	routeNone           = "none"
	routeHealth         = "health"
	routeServer         = "server"
	routeList           = "list"
	routeMetadata       = "metadata"
	routeReady          = "ready"
	routeConfig         = "config"
	routeStats          = "stats"
	routeInfer          = "infer"
	routeGenerate       = "generate"
	routeGenerateStream = "generate_stream"
	routeChat           = "chat"
	routeCompletions    = "completions"
	routeEmbeddings     = "embeddings"
)

// verbs are what may be asked of a model and by which method. It is an
// allow-list: of Triton's other paths, loading and unloading models, shared
// memory, logging and trace settings are the operator's, not the clients'.
var verbs = map[string]string{
	routeReady: http.MethodGet, routeConfig: http.MethodGet, routeStats: http.MethodGet,
	routeInfer: http.MethodPost, routeGenerate: http.MethodPost, routeGenerateStream: http.MethodPost,
}

// openAI are the paths of OpenAI's that a pod serves, by POST. The model is in the
// body.
var openAI = map[string]string{
	"/v1/chat/completions": routeChat, "/v1/completions": routeCompletions, "/v1/embeddings": routeEmbeddings,
}

// route is where a request goes.
type route struct {
	name     string
	frontend regions.Frontend  // that serves it, and in whose form errors are told
	model    regions.ModelName // empty for the gateway's own answers, and while it is in the body
	version  string            // of the model; empty: the newest
	fixed    string            // the pod's path, where it does not name the model
	// answer is set if the gateway answers by itself.
	answer func(*Gateway, *visit)
}

// path is the pod's path for the route.
func (r route) path() string {
	if r.fixed != "" {
		return r.fixed
	}
	p := "/v2/models/" + string(r.model)
	if r.version != "" {
		p += "/versions/" + r.version
	}
	if r.name != routeMetadata {
		p += "/" + r.name
	}
	return p
}

// replayable reports that losing the request before its first byte and sending it
// again harms nothing: it generates text, statelessly. Of what comes by infer and
// its calls only the model tells.
func (r route) replayable(generates func(regions.ModelName) bool) bool {
	switch r.name {
	case routeGenerate, routeGenerateStream, routeChat, routeCompletions, routeEmbeddings:
		return true
	case callStreamInfer:
		return generates(r.model)
	default:
		return false
	}
}

// aside reports that the request is about the model and not for it.
func (r route) aside() bool {
	switch r.name {
	case routeMetadata, routeReady, routeConfig, routeStats, callMetadata, callReady, callConfig, callStatistics:
		return true
	default:
		return false
	}
}

// routeOf finds the route of a request by its path in its simplest form. The error is
// a 404 or, for a path that is known by another method or protocol, what that is.
func routeOf(r *http.Request, path string) (route, error) {
	found, err := parse(r.Method, path)
	switch isCall := rpc.IsCall(r); {
	case isCall && found.frontend != regions.GRPC:
		return route{name: routeNone}, unimplemented()
	case !isCall && found.frontend == regions.GRPC && err == nil:
		return found, notCall(r)
	default:
		return found, err
	}
}

// parse finds the route of a path. The error is a 404 or, for a path that is known by
// another method, a 405.
func parse(method, path string) (route, error) {
	r, allow, ok := find(path)
	if !ok {
		return route{name: routeNone}, notFound()
	}
	if method != allow {
		return r, &refusal{status: http.StatusMethodNotAllowed, text: "Method Not Allowed", allow: allow}
	}
	return r, nil
}

// find matches a path and tells its method.
func find(path string) (r route, allow string, ok bool) {
	switch path {
	case "/v2":
		return route{name: routeServer, answer: (*Gateway).serverMetadata}, http.MethodGet, true
	case "/v2/health/live":
		return route{name: routeHealth, answer: (*Gateway).live}, http.MethodGet, true
	case "/v2/health/ready":
		return route{name: routeHealth, answer: (*Gateway).ready}, http.MethodGet, true
	case "/v1/models":
		return route{name: routeList, frontend: regions.OpenAI, answer: (*Gateway).list}, http.MethodGet, true
	case "/v2/models/stats":
		// Triton takes this for the statistics of all models.
		return route{}, "", false
	}
	if name, ok := openAI[path]; ok {
		return route{name: name, frontend: regions.OpenAI, fixed: path}, http.MethodPost, true
	}
	if r, ok := calls[path]; ok {
		r.frontend, r.fixed = regions.GRPC, path
		return r, http.MethodPost, true
	}
	family, rest, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/models/")
	if family != "v1" && family != "v2" {
		return route{}, "", false
	}
	r, ok = findModel(strings.Split(rest, "/"))
	if !ok {
		return route{}, "", false
	}
	if family == "v1" && r.name == routeMetadata && r.version == "" {
		return route{name: routeList, frontend: regions.OpenAI, model: r.model, answer: (*Gateway).show}, http.MethodGet, true
	}
	if r.name == routeMetadata {
		return r, http.MethodGet, true
	}
	return r, verbs[r.name], true
}

// findModel matches what follows "/models/": M[/versions/N][/verb].
func findModel(part []string) (route, bool) {
	if part[0] == "" {
		return route{}, false
	}
	r := route{name: routeMetadata, model: regions.ModelName(part[0])}
	part = part[1:]
	if len(part) >= 2 && part[0] == "versions" {
		if strings.Trim(part[1], "0123456789") != "" || part[1] == "" {
			return route{}, false
		}
		r.version, part = part[1], part[2:]
	}
	switch len(part) {
	case 0:
		return r, true
	case 1:
		r.name = part[0]
		_, ok := verbs[r.name]
		return r, ok
	default:
		return route{}, false
	}
}
