package gateway

import (
	"net/http"
	"strings"

	"github.com/rhumb-lb/rhumb/regions"
)

// The routes' names, as logs and metrics have them.
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
)

// verbs are what may be asked of a model and by which method. It is an
// allow-list: of Triton's other paths, loading and unloading models, shared
// memory, logging and trace settings are the operator's, not the clients'.
var verbs = map[string]string{
	routeReady: http.MethodGet, routeConfig: http.MethodGet, routeStats: http.MethodGet,
	routeInfer: http.MethodPost, routeGenerate: http.MethodPost, routeGenerateStream: http.MethodPost,
}

// route is where a request goes.
type route struct {
	name    string
	model   regions.ModelName // empty for the gateway's own answers
	version string            // of the model; empty: the newest
	// answer is set if the gateway answers by itself.
	answer func(*Gateway, *visit)
}

// generates reports that the request generates text, statelessly: losing it
// before its first byte and sending it again harms nothing.
func (r route) generates() bool {
	return r.name == routeGenerate || r.name == routeGenerateStream
}

// path is Triton's path for the route.
func (r route) path() string {
	p := "/v2/models/" + string(r.model)
	if r.version != "" {
		p += "/versions/" + r.version
	}
	if r.name != routeMetadata {
		p += "/" + r.name
	}
	return p
}

// parse finds the route of a path in its simplest form. The error is a 404 or,
// for a path that is known by another method, a 405.
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
		return route{name: routeList, answer: (*Gateway).list}, http.MethodGet, true
	case "/v2/models/stats":
		// Triton takes this for the statistics of all models.
		return route{}, "", false
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
		return route{name: routeList, model: r.model, answer: (*Gateway).show}, http.MethodGet, true
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
