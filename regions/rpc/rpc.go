// Package rpc is what gRPC over HTTP/2 looks like to a proxy that does not decode
// it: which requests are calls, how long a client waits, and how a call is answered
// without a pod (the "gRPC over HTTP2" specification, grpc/grpc PROTOCOL-HTTP2.md).
package rpc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// The header fields of a call, in the form in which net/http has them.
const (
	StatusHeader         = "Grpc-Status"
	MessageHeader        = "Grpc-Message"
	TimeoutHeader        = "Grpc-Timeout"
	EncodingHeader       = "Grpc-Encoding"
	AcceptEncodingHeader = "Grpc-Accept-Encoding"
)

// ContentType is what our own answers are.
const ContentType = "application/grpc"

// Code is the status of a call.
type Code uint8

// The codes that a gateway gives, of gRPC's own 17.
const (
	OK                Code = 0
	Canceled          Code = 1
	Unknown           Code = 2
	InvalidArgument   Code = 3
	DeadlineExceeded  Code = 4
	NotFound          Code = 5
	PermissionDenied  Code = 7
	ResourceExhausted Code = 8
	Unimplemented     Code = 12
	Internal          Code = 13
	Unavailable       Code = 14
	Unauthenticated   Code = 16
)

// names are gRPC's own.
var names = [...]string{
	"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED",
	"RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
}

// String is the code's name in logs and metrics: one of 18.
func (c Code) String() string {
	if int(c) < len(names) {
		return names[c]
	}
	return "other"
}

// FromHTTP is the code for what would be an HTTP status. It is the one place where
// that is decided.
func FromHTTP(status int) Code {
	switch status {
	case http.StatusOK:
		return OK
	case http.StatusUnauthorized:
		return Unauthenticated
	case http.StatusForbidden:
		return PermissionDenied
	case http.StatusNotFound:
		return NotFound
	case http.StatusRequestTimeout, http.StatusGatewayTimeout:
		return DeadlineExceeded
	case http.StatusRequestEntityTooLarge, http.StatusTooManyRequests, http.StatusRequestHeaderFieldsTooLarge:
		return ResourceExhausted
	case http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return Unimplemented
	case http.StatusBadGateway, http.StatusServiceUnavailable:
		return Unavailable
	case 499: // the customary one of a client that left
		return Canceled
	}
	switch {
	case status >= 400 && status < 500:
		return InvalidArgument
	case status >= 500:
		return Internal
	default:
		return Unknown
	}
}

// IsType reports that a Content-Type is gRPC's. gRPC-Web, whose trailers are in the
// body, is another protocol.
func IsType(contentType string) bool {
	rest, ok := strings.CutPrefix(strings.ToLower(contentType), ContentType)
	return ok && (rest == "" || rest[0] == '+' || rest[0] == ';')
}

// IsCall reports that a request is a call, which can be answered as one.
func IsCall(r *http.Request) bool {
	return r.ProtoMajor == 2 && r.Method == http.MethodPost && IsType(r.Header.Get("Content-Type"))
}

// Refuse answers a call with a status only, in one block of header fields that ends
// the stream. Nothing may have been written before, and nothing be written after.
func Refuse(w http.ResponseWriter, code Code, message string) {
	h := w.Header()
	h.Del("Content-Length")
	h.Set("Content-Type", ContentType)
	h.Set(StatusHeader, strconv.Itoa(int(code)))
	if message != "" {
		h.Set(MessageHeader, escape(message))
	}
	w.WriteHeader(http.StatusOK)
}

// Reply answers a call with one message and success.
func Reply(w http.ResponseWriter, message []byte) {
	h := w.Header()
	h.Set("Content-Type", ContentType)
	h.Set("Trailer", StatusHeader)
	w.WriteHeader(http.StatusOK)
	frame := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))
	_, _ = w.Write(append(frame, message...)) // who does not take it is gone
	h.Set(StatusHeader, "0")
}

// Trailer is the end of a call that ends with a status.
func Trailer(code Code, message string) http.Header {
	return http.Header{StatusHeader: {strconv.Itoa(int(code))}, MessageHeader: {escape(message)}}
}

// Answered is the status with which a call was answered, from the writer's header
// after the answer; false if there was none. It may be in the header, as ours is,
// or in the trailers.
func Answered(h http.Header) (Code, bool) {
	said := h.Get(StatusHeader)
	if said == "" {
		said = h.Get(http.TrailerPrefix + StatusHeader)
	}
	n, err := strconv.ParseUint(said, 10, 8)
	switch {
	case said == "":
		return Unknown, false
	case err != nil:
		return Code(len(names)), true
	default:
		return Code(n), true
	}
}

// escape writes a message as its header field has it: percent-encoded where it is
// not printable ASCII.
func escape(message string) string {
	var b strings.Builder
	for i := range len(message) {
		if c := message[i]; c >= ' ' && c <= '~' && c != '%' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// errTimeout names the field for who sent it.
var errTimeout = errors.New("grpc-timeout must be 1 to 8 digits and one of H, M, S, m, u, n")

// units are those of a timeout.
var units = map[byte]time.Duration{
	'H': time.Hour, 'M': time.Minute, 'S': time.Second, 'm': time.Millisecond, 'u': time.Microsecond, 'n': time.Nanosecond,
}

// ParseTimeout reads how long a client waits for the end of its call. What is longer
// than a Duration, some 292 years, is the longest Duration.
func ParseTimeout(s string) (time.Duration, error) {
	if len(s) < 2 || len(s) > 9 {
		return 0, errTimeout
	}
	unit, ok := units[s[len(s)-1]]
	n, err := strconv.ParseUint(s[:len(s)-1], 10, 32)
	if !ok || err != nil {
		return 0, errTimeout
	}
	const longest = time.Duration(1<<63 - 1)
	if n > uint64(longest/unit) {
		return longest, nil
	}
	return time.Duration(n) * unit, nil
}

// FormatTimeout writes a timeout, for a call that goes on with what is left of it. It
// is rounded down, and is never nothing.
func FormatTimeout(d time.Duration) string {
	const most = 99_999_999
	for _, unit := range []byte("numSMH") {
		if n := d / units[unit]; n <= most {
			return strconv.FormatInt(int64(max(n, 1)), 10) + string(unit)
		}
	}
	return strconv.Itoa(most) + "H"
}
