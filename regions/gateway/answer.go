package gateway

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/rpc"
	"github.com/rhumb-lb/rhumb/regions/shape"
)

// refusal is an answer to a request that is not served.
type refusal struct {
	status int
	text   string
	allow  string // the method of a 405
	hangUp bool   // the connection is closed after it; over HTTP/2 only its stream ends
	retry  int    // seconds after which a 429 or 503 may come again
	fresh  bool   // another region's gateway can ask elsewhere: nothing was begun
	accept string // the encodings of messages that are taken instead
	// In OpenAI's words, what of the request is wrong, and how.
	param, code string
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

// reply answers a refused request in the form that its client knows.
func reply(w *visit, r *http.Request, err error) {
	no := &refusal{status: http.StatusInternalServerError, text: "internal error"}
	errors.As(err, &no)
	if no.allow != "" {
		w.Header().Set("Allow", no.allow)
	}
	if no.fresh {
		w.Header().Set(notStartedHeader, "1")
	}
	if no.accept != "" {
		w.Header().Set(rpc.AcceptEncodingHeader, no.accept)
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
	form := w.route.frontend
	switch isCall := rpc.IsCall(r); {
	case isCall:
		form = regions.GRPC
	case form == regions.GRPC: // a call's path, asked for in another way
		form = regions.HTTP
	}
	shape.Error{Status: no.status, Text: no.text, Param: no.param, Code: no.code}.Write(w, form)
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

// serverName is that of the server which a gateway claims to be.
const serverName = "rhumb"

// extensions are those of Triton's that can be used through here.
var extensions = []string{"classification", "model_configuration", "binary_tensor_data", "parameters", "statistics"}

// serverMetadata answers GET /v2.
func (g *Gateway) serverMetadata(v *visit) {
	writeJSON(v, http.StatusOK, struct {
		Name       string   `json:"name"`
		Version    string   `json:"version"`
		Extensions []string `json:"extensions"`
	}{serverName, g.opts.Version, extensions})
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

// show answers GET /v1/models/M in OpenAI's shape. That there is no such model is
// left to [Gateway.handle].
func (g *Gateway) show(v *visit) { writeJSON(v, http.StatusOK, g.listed(v.route.model)) }

// noModel has OpenAI's words for a model that is not there.
func noModel(m regions.ModelName) error {
	return &refusal{
		status: http.StatusNotFound, text: "The model '" + string(m) + "' does not exist",
		param: "model", code: "model_not_found",
	}
}
