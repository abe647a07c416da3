package tritontest

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"github.com/rhumb-lb/rhumb/regions/triton/tritontest/core"
)

// Triton's routes: full matches on the path as it was sent, not decoded, and
// without a trailing slash.
var (
	modelRoute   = regexp.MustCompile(`^/v2/models/([^/]+)(?:/versions/([0-9]+))?(?:/(infer|generate|generate_stream|ready|config|stats|trace/setting))?$`)
	healthRoute  = regexp.MustCompile(`^/v2/health/(live|ready)$`)
	controlRoute = regexp.MustCompile(`^/v2/repository(?:/([^/]+))?/(index|models/([^/]+)/(load|unload))$`)
	memoryRoute  = regexp.MustCompile(`^/v2/(system|cuda)sharedmemory(?:/region/([^/]+))?/(status|register|unregister)$`)
)

const (
	plainType = "text/plain" // what libevhtp adds to an answer without a type
	jsonType  = "application/json"
)

// The default settings that a Triton reports which nobody has asked to trace.
const (
	traceSettings = `{"trace_level":["OFF"],"trace_rate":"1000","trace_count":"-1","log_frequency":"0","trace_file":"","trace_mode":"triton"}`
	logSettings   = `{"log_file":"","log_info":true,"log_warning":true,"log_error":true,"log_verbose_level":0,"log_format":"default"}`
)

// serveAPI routes as Triton's HTTP endpoint does.
func (p *process) serveAPI(w http.ResponseWriter, r *http.Request) {
	path := rawPath(r)
	switch path {
	case "/v2/models/stats":
		p.serveStats(w, r, "", "")
		return
	case "/v2/logging":
		p.serveSettings(w, r, logSettings)
		return
	case "/v2/trace/setting":
		p.serveSettings(w, r, traceSettings)
		return
	case "/v2":
		p.serveGet(w, r, jsonType, func() (string, *core.Error) { return serverMetadata(), nil })
		return
	}
	if m := modelRoute.FindStringSubmatch(path); m != nil && p.serveModel(w, r, m[1], m[2], m[3]) {
		return
	}
	if m := healthRoute.FindStringSubmatch(path); m != nil {
		p.serveHealth(w, r, m[1])
		return
	}
	if m := controlRoute.FindStringSubmatch(path); m != nil {
		p.serveRepository(w, r, m[1], m[3], m[4])
		return
	}
	if m := memoryRoute.FindStringSubmatch(path); m != nil {
		serveMemory(w, r, m[1], m[2], m[3])
		return
	}
	reply(w, http.StatusNotFound, plainType, errorJSON("Not Found"))
}

// rawPath is the path of the request line, before any decoding.
func rawPath(r *http.Request) string {
	if !strings.HasPrefix(r.RequestURI, "/") {
		return r.URL.EscapedPath()
	}
	path, _, _ := strings.Cut(r.RequestURI, "?")
	return path
}

// serveModel serves one verb of a model; false means that there is no such route.
func (p *process) serveModel(w http.ResponseWriter, r *http.Request, name, version, verb string) bool {
	switch verb {
	case "ready":
		p.serveGet(w, r, plainType, func() (string, *core.Error) { return "", p.core.ModelReady(name, version) })
	case "infer":
		p.serveInfer(w, r, name, version)
	case "generate":
		p.serveGenerate(w, r, name, version, false)
	case "generate_stream":
		p.serveGenerate(w, r, name, version, true)
	case "config":
		p.serveGet(w, r, jsonType, func() (string, *core.Error) { return p.config(name, version) })
	case "stats":
		p.serveStats(w, r, name, version)
	case "trace/setting":
		if version != "" {
			return false
		}
		if _, err := p.core.Lookup(name, ""); err != nil && allowed(w, r, jsonType, http.MethodGet, http.MethodPost) {
			replyError(w, jsonType, core.Invalid("Request for unknown model : %s", name))
		} else if err == nil {
			p.serveSettings(w, r, traceSettings)
		}
	default:
		p.serveGet(w, r, jsonType, func() (string, *core.Error) {
			if err := p.core.Serving(); err != nil {
				return "", err
			}
			return p.metadata(name, version)
		})
	}
	return true
}

// serveGet answers GET with a body or an error, both of the same type.
func (p *process) serveGet(w http.ResponseWriter, r *http.Request, contentType string, body func() (string, *core.Error)) {
	if !allowed(w, r, contentType, http.MethodGet) {
		return
	}
	text, err := body()
	if err != nil {
		replyError(w, contentType, err)
		return
	}
	reply(w, http.StatusOK, contentType, text)
}

// serveHealth answers with the status alone; not ready is 400 with an empty
// body, and only a core that is exiting says 503 and why.
func (p *process) serveHealth(w http.ResponseWriter, r *http.Request, kind string) {
	if !allowed(w, r, plainType, http.MethodGet) {
		return
	}
	switch {
	case p.core.Exiting():
		replyError(w, plainType, core.Unavailable("Server exiting"))
	case kind == "live" || p.core.Ready():
		reply(w, http.StatusOK, plainType, "")
	default:
		reply(w, http.StatusBadRequest, plainType, "")
	}
}

// serveSettings reports trace or log settings; a change is accepted and has no
// effect.
func (p *process) serveSettings(w http.ResponseWriter, r *http.Request, settings string) {
	if allowed(w, r, jsonType, http.MethodGet, http.MethodPost) {
		reply(w, http.StatusOK, jsonType, settings)
	}
}

// serveMemory answers as a server without shared memory regions that refuses
// new ones (--allow-client-shm=false).
func serveMemory(w http.ResponseWriter, r *http.Request, kind, region, action string) {
	method := http.MethodPost
	if action == "status" {
		method = http.MethodGet
	}
	if !allowed(w, r, jsonType, method) {
		return
	}
	switch {
	case action == "status" && region == "":
		reply(w, http.StatusOK, jsonType, "[]")
		return
	case action == "status":
		replyError(w, jsonType, core.NotFound("Unable to find %s shared memory region: '%s'", kind, region))
		return
	}
	replyError(w, jsonType, core.Unsupported("Client shared memory is disabled. Start the server with '--allow-client-shm=true' to enable."))
}

// allowed answers 405 to any other method.
func allowed(w http.ResponseWriter, r *http.Request, contentType string, methods ...string) bool {
	for _, m := range methods {
		if r.Method == m {
			return true
		}
	}
	reply(w, http.StatusMethodNotAllowed, contentType, errorJSON("Method Not Allowed"))
	return false
}

// reply sends a whole answer with its length.
func reply(w http.ResponseWriter, status int, contentType, body string) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body) // a client that has left can't be told
}

func replyError(w http.ResponseWriter, contentType string, err *core.Error) {
	reply(w, err.Status, contentType, errorJSON(err.Text))
}

func errorJSON(text string) string {
	return string(append(appendJSON([]byte(`{"error":`), text), '}'))
}

// readBody reads at most one byte more than Triton accepts, so that the decoder
// refuses what is too long.
func readBody(r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxInput+1))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return body, nil
}

// appendJSON appends a string as rapidjson writes it: nothing but quotes,
// backslashes and control characters is escaped, those in upper-case hex.
func appendJSON(b []byte, s string) []byte {
	const hex = "0123456789ABCDEF"
	b = append(b, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c >= ' ':
			b = append(b, c)
		case strings.IndexByte("\b\f\n\r\t", c) >= 0:
			b = append(b, '\\', "bfnrt"[strings.IndexByte("\b\f\n\r\t", c)])
		default:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	return append(b, '"')
}

func serverMetadata() string {
	return fmt.Sprintf(`{"name":"%s","version":"%s","extensions":["%s"]}`, core.ServerName, core.ServerVersion, strings.Join(core.Extensions, `","`))
}
