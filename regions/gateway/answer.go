package gateway

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
)

// refusal is an answer to a request that is not served.
type refusal struct {
	status int
	text   string
	allow  string // the method of a 405
	hangUp bool   // the connection is closed after it; over HTTP/2 only its stream ends
	retry  int    // seconds after which a 429 or 503 may come again
}

// Error is what the client is told.
func (e *refusal) Error() string { return e.text }

func badRequest(text string) error {
	return &refusal{status: http.StatusBadRequest, text: text, hangUp: true}
}

// notFound has Triton's words for a path that it does not know.
func notFound() error { return &refusal{status: http.StatusNotFound, text: "Not Found"} }

// unauthorized is the answer to no key and to a wrong one alike.
func unauthorized() error {
	return &refusal{status: http.StatusUnauthorized, text: "send a valid API key as Authorization: Bearer KEY"}
}

// tooMany refuses for a while. Retry-After has whole seconds (RFC 9110 section
// 10.2.3): rounded up, so that who heeds it is admitted.
func tooMany(wait time.Duration) error {
	return &refusal{
		status: http.StatusTooManyRequests, text: "too many requests for this API key",
		retry: int((wait + time.Second - 1) / time.Second),
	}
}

// forbidden is the same for models that exist and that do not.
func forbidden() error {
	return &refusal{status: http.StatusForbidden, text: "this API key is not for this model"}
}

// reply answers a refused request in Triton's shape.
func reply(w http.ResponseWriter, r *http.Request, err error) {
	no := &refusal{status: http.StatusInternalServerError, text: "internal error"}
	errors.As(err, &no)
	if no.allow != "" {
		w.Header().Set("Allow", no.allow)
	}
	switch no.status {
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", "Bearer")
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", strconv.Itoa(no.retry))
	}
	if no.hangUp && r.ProtoMajor == 1 {
		w.Header().Set("Connection", "close")
	}
	writeJSON(w, no.status, map[string]string{"error": no.text})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		status, body = http.StatusInternalServerError, []byte(`{"error":"internal error"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // the log has the status; who does not take it is gone
}

// serverMetadata answers GET /v2. The extensions are those of Triton's that can
// be used through here.
func (g *Gateway) serverMetadata(v *visit) {
	writeJSON(v, http.StatusOK, struct {
		Name       string   `json:"name"`
		Version    string   `json:"version"`
		Extensions []string `json:"extensions"`
	}{"rhumb", g.opts.Version, []string{"classification", "model_configuration", "binary_tensor_data", "parameters", "statistics"}})
}

// live answers as Triton does when it runs: 200 and nothing.
func (g *Gateway) live(v *visit) { v.WriteHeader(http.StatusOK) }

// ready answers as Triton does: 200 or, when not ready, 400, both empty.
func (g *Gateway) ready(v *visit) {
	if g.opts.Ready() {
		v.WriteHeader(http.StatusOK)
		return
	}
	v.WriteHeader(http.StatusBadRequest)
}

// listed is a model in OpenAI's list.
type listed struct {
	ID      regions.ModelName `json:"id"`
	Object  string            `json:"object"`
	Created int64             `json:"created"`
	OwnedBy string            `json:"owned_by"`
}

func (g *Gateway) listed(m regions.ModelName) listed {
	return listed{ID: m, Object: "model", Created: g.born.Unix(), OwnedBy: "rhumb"}
}

// list answers GET /v1/models in OpenAI's shape.
func (g *Gateway) list(v *visit) {
	data := []listed{}
	for _, m := range g.opts.Models() {
		if v.key.Allows(m) {
			data = append(data, g.listed(m))
		}
	}
	writeJSON(v, http.StatusOK, struct {
		Object string   `json:"object"`
		Data   []listed `json:"data"`
	}{"list", data})
}

// show answers GET /v1/models/M in OpenAI's shape, its error included.
func (g *Gateway) show(v *visit) {
	m := v.route.model
	if g.knows(m) {
		writeJSON(v, http.StatusOK, g.listed(m))
		return
	}
	type detail struct {
		Message string `json:"message"`
		Type    string `json:"type"`
		Param   string `json:"param"`
		Code    string `json:"code"`
	}
	writeJSON(v, http.StatusNotFound, map[string]detail{"error": {
		Message: "The model '" + string(m) + "' does not exist",
		Type:    "invalid_request_error", Param: "model", Code: "model_not_found",
	}})
}
