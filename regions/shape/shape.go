// Package shape writes an error in the form in which the clients of a frontend
// look for it.
package shape

import (
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/rpc"
)

// Error is an answer that is not a pod's.
type Error struct {
	Status int    // of HTTP
	Text   string // for the client
	// Param names what of the request is wrong, and Code what is wrong with it, in
	// OpenAI's words; empty if it has none.
	Param, Code string
}

// Write answers with an error: Triton's {"error": "text"} over HTTP, OpenAI's error
// object, or gRPC's status without a body. Fields that the header has already stay.
func (e Error) Write(w http.ResponseWriter, f regions.Frontend) {
	if f == regions.GRPC {
		rpc.Refuse(w, rpc.FromHTTP(e.Status), e.Text)
		return
	}
	var v any = map[string]string{"error": e.Text}
	if f == regions.OpenAI {
		v = map[string]object{"error": {e.Text, kind(e.Status), word(e.Param), word(e.Code)}}
	}
	body, err := json.Marshal(v)
	if err != nil {
		body = []byte(`{"error":"internal error"}`) // strings always marshal
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(e.Status)
	_, _ = w.Write(body) // the log has the status; who does not take it is gone
}

// object is OpenAI's error object. Param and Code are null without a word.
type object struct {
	Message string  `json:"message"`
	Type    string  `json:"type"`
	Param   *string `json:"param"`
	Code    *string `json:"code"`
}

func word(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// kind is OpenAI's type for a status, by which its libraries choose an exception
// where the status alone does not tell.
func kind(status int) string {
	switch {
	case status == http.StatusUnauthorized:
		return "authentication_error"
	case status == http.StatusForbidden:
		return "permission_error"
	case status == http.StatusTooManyRequests:
		return "rate_limit_error"
	case status >= http.StatusInternalServerError:
		return "server_error"
	default:
		return "invalid_request_error"
	}
}
