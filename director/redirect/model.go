package redirect

import (
	"errors"
	"io"
	"mime"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/peek"
)

// modelHeader names the model for clients that can't in path, host or body.
const modelHeader = "Rhumb-Model"

// peekWait is how long those bytes may take. A client on a bad line sends them
// in seconds; one that never does holds a connection for no longer.
const peekWait = 10 * time.Second

// model finds the model that a request is for, and says what named it. The
// error is that of reading the body.
func (h *Handler) model(w http.ResponseWriter, r *http.Request, t target) (regions.ModelName, string, error) {
	if name := t.model(); name != "" {
		return regions.ModelName(name), byPath, nil
	}
	if name, namedBy := h.headModel(r); namedBy != byNothing || !mayName(r) {
		return name, namedBy, nil
	}
	// Not every writer has deadlines. Then the server's own have to do.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(peekWait))
	name, err := peekModel(r.Body)
	if name == "" || err != nil {
		return regions.Apex, byNothing, err
	}
	return regions.ModelName(name), byBody, nil
}

// headModel finds the model that the host names, else the header, and says which
// it was.
func (h *Handler) headModel(r *http.Request) (regions.ModelName, string) {
	if name, ok := h.hostModel(r.Host); ok {
		return name, byHost
	}
	if name := strings.TrimSpace(r.Header.Get(modelHeader)); name != "" {
		return regions.ModelName(name), byHeader
	}
	return regions.Apex, byNothing
}

// hostModel is the model that is served under the host's label in the zone.
func (h *Handler) hostModel(host string) (regions.ModelName, bool) {
	if h.opts.Labels == nil {
		return "", false
	}
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	label, ok := strings.CutSuffix(strings.ToLower(strings.TrimSuffix(host, ".")), "."+h.zone)
	if !ok || label == "" || strings.Contains(label, ".") {
		return "", false
	}
	model, ok := h.opts.Labels(label)
	if !ok && regions.ReservedLabel(label) == "" {
		return regions.ModelName(label), true // DNS denies that name: nobody has it
	}
	return model, ok && model != regions.Apex
}

// mayName says whether a request's body can name the model: a POST of JSON, or
// of what curl says of any data unless it is told otherwise.
func mayName(r *http.Request) bool {
	if r.Method != http.MethodPost || r.Body == nil || r.ContentLength == 0 || r.Header.Get("Content-Encoding") != "" {
		return false
	}
	kind := r.Header.Get("Content-Type")
	if kind == "" {
		return true
	}
	media, _, err := mime.ParseMediaType(kind)
	return err == nil && (media == "application/json" || media == "application/x-www-form-urlencoded" || strings.HasSuffix(media, "+json"))
}

// peekModel reads the "model" of a JSON object, and no further than that. It is empty
// if it is not within the first bytes or if they are no such JSON: what is wrong
// with them is the gateway's to say. The error is the connection's.
func peekModel(body io.Reader) (string, error) {
	var o untilNamed
	_, err := peek.Head(body, &o, peek.Most)
	var bad peek.BodyError
	if o.Model != "" || errors.As(err, &bad) || errors.Is(err, io.ErrUnexpectedEOF) {
		return o.Model, nil
	}
	return "", err
}

// untilNamed has enough once it has the model.
type untilNamed struct{ peek.Object }

// Enough reports that the model is known, or that it will not come.
func (o *untilNamed) Enough() bool { return o.Model != "" || o.Object.Enough() }
