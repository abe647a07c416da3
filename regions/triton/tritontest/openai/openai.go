// Package openai is the OpenAI frontend of a simulated Triton server, which is
// another program than the others: uvicorn, FastAPI and their manners. Its event
// streams begin before the model has done anything, finish_reason is "stop"
// whatever ended the text, and a failure of the model during a stream cuts the
// body without a word.
package openai

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"time"

	"github.com/rhumb-lb/rhumb/regions/triton/tritontest/core"
)

// KeepAlive is how long an idle connection stays open (uvicorn's
// timeout_keep_alive as Triton sets it).
const KeepAlive = 5 * time.Second

// maxInput is --http-max-input-size: 64 MiB.
const maxInput = 64 << 20

const ownedBy = "Triton Inference Server"

// Handler serves one life of a pod.
type Handler struct {
	core    *core.Server
	started time.Time
	metrics func() string
	load    func(model string) *core.Error
	whole   func(*http.Request) context.Context // of a request that is not streamed
}

// New returns a handler. What requests begin may outlive their clients, until
// life ends; metrics is the text of GET /metrics.
func New(life context.Context, c *core.Server, metrics func() string) *Handler {
	return &Handler{
		core: c, started: time.Now(), metrics: metrics,
		load:  func(model string) *core.Error { return c.Load(life, model) },
		whole: func(*http.Request) context.Context { return life },
	}
}

var modelRoute = regexp.MustCompile(`^/v1/models/([^/]+)(?:/(load|unload))?$`)

// ServeHTTP routes as FastAPI does.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Server", "uvicorn")
	delete(w.Header(), "Date") // unlike libevhtp, uvicorn tells it
	method, serve := http.MethodGet, func() { reply(w, http.StatusNotFound, detail("Not Found")) }
	post := func(f func(http.ResponseWriter, *http.Request, []byte)) func() {
		method = http.MethodPost
		return func() { h.read(w, r, f) }
	}
	m := modelRoute.FindStringSubmatch(r.URL.Path)
	switch path := r.URL.Path; {
	case path == "/v1/chat/completions":
		serve = post(h.chat)
	case path == "/v1/completions":
		serve = post(h.complete)
	case path == "/v1/embeddings":
		serve = post(h.embed)
	case path == "/v1/models":
		serve = func() { reply(w, http.StatusOK, object{"object": "list", "data": h.models()}) }
	case path == "/health/ready":
		serve = func() { h.ready(w) }
	case path == "/metrics":
		serve = func() { text(w, h.metrics()) }
	case m != nil && m[2] != "":
		method, serve = http.MethodPost, func() { h.control(w, m[1], m[2]) }
	case m != nil:
		serve = func() { h.model(w, m[1]) }
	default:
		method = r.Method
	}
	if r.Method != method {
		w.Header().Set("Allow", method)
		reply(w, http.StatusMethodNotAllowed, detail("Method Not Allowed"))
		return
	}
	serve()
}

// object is JSON whose order does not matter to anybody.
type object map[string]any

// detail is how FastAPI says what is wrong.
func detail(text string) object { return object{"detail": text} }

func compact(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil // never: they are strings and numbers
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// reply sends a whole answer.
func reply(w http.ResponseWriter, status int, v any) {
	body := compact(v)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that has left can't be told
}

func text(w http.ResponseWriter, body string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, body)
}

// read hands on the body.
func (h *Handler) read(w http.ResponseWriter, r *http.Request, next func(http.ResponseWriter, *http.Request, []byte)) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxInput+1))
	if err != nil {
		panic(http.ErrAbortHandler) // the client broke off
	}
	if len(body) > maxInput {
		reply(w, http.StatusRequestEntityTooLarge, detail(fmt.Sprintf("Request body of more than %d bytes exceeds the maximum allowed", maxInput)))
		return
	}
	next(w, r, body)
}

// model is an entry of the list of models.
type model struct {
	ID      string `json:"id"`
	Created int64  `json:"created"`
	Object  string `json:"object"`
	OwnedBy string `json:"owned_by"`
}

func (h *Handler) models() []model {
	out := []model{}
	for _, e := range h.core.Loaded() {
		out = append(out, model{e.Model.Name, h.started.Unix(), "model", ownedBy})
	}
	return out
}

func (h *Handler) model(w http.ResponseWriter, name string) {
	for _, m := range h.models() {
		if m.ID == name {
			reply(w, http.StatusOK, m)
			return
		}
	}
	reply(w, http.StatusNotFound, detail("Unknown model: "+name))
}

func (h *Handler) ready(w http.ResponseWriter) {
	if !h.core.Ready() {
		reply(w, http.StatusBadRequest, detail("Attached inference engine is not ready for inference requests."))
		return
	}
	w.WriteHeader(http.StatusOK)
}

func (h *Handler) control(w http.ResponseWriter, name, action string) {
	loaded := false
	for _, m := range h.models() {
		loaded = loaded || m.ID == name
	}
	switch {
	case action == "load" && loaded:
		reply(w, http.StatusBadRequest, detail(fmt.Sprintf("Model '%s' is already loaded", name)))
		return
	case action == "unload" && !loaded:
		reply(w, http.StatusBadRequest, detail("Unknown model: "+name))
		return
	}
	do := h.load
	if action == "unload" {
		do = h.core.Unload
	}
	switch err := do(name); {
	case err != nil && err.Status == http.StatusServiceUnavailable:
		reply(w, http.StatusBadRequest, detail("Model load/unload requires --model-control-mode=explicit"))
	case err != nil:
		reply(w, http.StatusInternalServerError, detail(fmt.Sprintf("Failed to %s model '%s': %s", action, name, err.Text)))
	case action == "unload":
		reply(w, http.StatusOK, object{"status": "success", "model": name})
	default:
		reply(w, http.StatusOK, model{name, time.Now().Unix(), "model", ownedBy})
	}
}
