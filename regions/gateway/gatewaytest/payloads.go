// Package gatewaytest holds what a gateway must withstand, for the tests of it in a
// process and of an agent as one.
package gatewaytest

import (
	"fmt"
	"strings"
)

// Payload is what a client sends on one connection, and what must come of it.
type Payload struct {
	Name   string
	Text   string
	Status int    // of the one answer
	Heard  string // by a pod: method, path and body; empty if it must hear nothing
	Closed bool   // the connection is closed after the answer
}

const (
	post    = "POST /v2/models/llama/generate HTTP/1.1\r\nHost: h\r\n"
	two     = "Content-Length: 2\r\n\r\n{}"
	chunked = "Transfer-Encoding: chunked\r\n"
	// smuggled is what a careless server takes for a second request.
	smuggled = "POST /v2/models/llama/infer HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nX"
	heardOne = "POST /v2/models/llama/generate {}"
)

// Payloads are heads and bodies that are malformed, can be read in two ways, or mean
// to deceive somebody on the way. A body of one chunk with two bytes, "{}", follows
// most; the largest body allowed is 100 MiB.
func Payloads() []Payload {
	return append([]Payload{
		{"plain", post + two, 200, heardOne, false},
		{"plain chunked", post + chunked + "\r\n2\r\n{}\r\n0\r\n\r\n", 200, heardOne, true},
		{"bad chunk: not hex", post + chunked + "\r\nzz\r\n{}\r\n0\r\n\r\n", 400, "", true},
		{"bad chunk: 0x", post + chunked + "\r\n0x2\r\n{}\r\n0\r\n\r\n", 400, "", true},
		{"bad chunk: negative", post + chunked + "\r\n-2\r\n{}\r\n0\r\n\r\n", 400, "", true},
		{"bad chunk: overflow", post + chunked + "\r\n10000000000000002\r\n{}\r\n0\r\n\r\n", 400, "", true},
		{"bad chunk: longer than said", post + chunked + "\r\n1\r\n{}\r\n0\r\n\r\n", 400, "", true},
		{"TE identity", post + "Transfer-Encoding: identity\r\n\r\n{}", 501, "", true},
		{"TE identity and length", post + "Transfer-Encoding: identity\r\n" + two, 400, "", true},
		{"TE gzip, chunked", post + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501, "", true},
		{"TE twice", post + chunked + chunked + "\r\n0\r\n\r\n", 501, "", true},
		{"TE with a vertical tab", post + "Transfer-Encoding: \vchunked\r\n\r\n0\r\n\r\n", 400, "", true},
		{"space before the colon", post + "Content-Length : 2\r\n\r\n{}", 400, "", true},
		{"NUL in a value", post + "X: a\x00b\r\n" + two, 400, "", true},
		{"CR in a value", post + "X: a\rb\r\n" + two, 400, "", true},
		{"different lengths", post + "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x", 400, "", true},
		{"length with a plus", post + "Content-Length: +2\r\n\r\n{}", 400, "", true},
		{"length with a minus", post + "Content-Length: -2\r\n\r\n{}", 400, "", true},
		{"no Host", "POST /v2/models/llama/generate HTTP/1.1\r\n" + two, 400, "", true},
		{"two Hosts", post + "Host: g\r\n" + two, 400, "", true},
		{"malformed Host", "POST /v2/models/llama/generate HTTP/1.1\r\nHost: a b\r\n" + two, 400, "", true},
		{"upgrade to h2c is not taken up", post + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n" + two, 200, heardOne, false},
		{"upgrade to websocket is not taken up", post + "Connection: Upgrade\r\nUpgrade: websocket\r\n" + two, 200, heardOne, false},
		{"upgrade to nonsense is not taken up", post + "Connection: Upgrade\r\nUpgrade: \x80\r\n" + two, 200, heardOne, false},
		{"Connection names end-to-end fields", post + "Connection: Authorization, X-Forwarded-For\r\nAuthorization: x\r\n" + two, 400, "", true},
		{"dots", "POST /v2/models/llama/../../admin HTTP/1.1\r\nHost: h\r\n" + two, 400, "", true},
		{"encoded dots", "POST /v2/models/llama/%2e%2e/llama/generate HTTP/1.1\r\nHost: h\r\n" + two, 400, "", true},
		{"encoded slashes", "POST /v2/models%2fllama%2fgenerate HTTP/1.1\r\nHost: h\r\n" + two, 400, "", true},
		{"double slash", "POST //v2/models/llama/generate HTTP/1.1\r\nHost: h\r\n" + two, 400, "", true},
		{"parameter", "POST /v2/models/llama;x/generate HTTP/1.1\r\nHost: h\r\n" + two, 400, "", true},
		{"NUL in the path", "POST /v2/models/llama%00/generate HTTP/1.1\r\nHost: h\r\n" + two, 400, "", true},
		{"absolute form with another host", "POST http://evil/v2/models/llama/generate HTTP/1.1\r\nHost: h\r\n" + two, 400, "", true},
		{"absolute form", "POST http://h/v2/models/llama/generate HTTP/1.1\r\nHost: h\r\n" + two, 400, "", true},
		{"authority form", "CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n", 400, "", true},
		{"asterisk form", "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", 400, "", true},
		{"encoded letters are one path", "POST /v2/models/%6Clama/generate HTTP/1.1\r\nHost: h\r\n" + two, 200, heardOne, false},
		{"expects more than 100-continue", post + "Expect: y 100-continue\r\n" + two, 417, "", true},
		{"expects something else", post + "Expect: x\r\n" + two, 417, "", true},
		{"unknown method", "XGET /v2/models/llama/generate HTTP/1.1\r\nHost: h\r\n\r\n", 405, "", false},
		{"no method", " /v2/models/llama/generate HTTP/1.1\r\nHost: h\r\n\r\n", 400, "", true},
		{"33 KiB of head", post + "X: " + strings.Repeat("x", 33<<10) + "\r\n" + two, 431, "", true},
		{"101 fields", post + strings.Repeat("X: x\r\n", 99) + two, 431, "", true},
		{"100 fields", post + strings.Repeat("X: x\r\n", 98) + two, 200, heardOne, false},
		{"101 MiB announced", post + fmt.Sprintf("Content-Length: %d\r\n\r\n", 101<<20), 413, "", true},
		{"length and chunked", post + "Content-Length: 3\r\n" + chunked + "\r\n2\r\n{}\r\n0\r\n\r\n" + smuggled, 400, "", true},
		{"chunked and length", post + chunked + "Content-Length: 3\r\n\r\n2\r\n{}\r\n0\r\n\r\n" + smuggled, 400, "", true},
		{"length of the whole and chunked", post + fmt.Sprintf("Content-Length: %d\r\n", 12+len(smuggled)) + chunked + "\r\n2\r\n{}\r\n0\r\n\r\n" + smuggled, 400, "", true},
		{"equal lengths", post + "Content-Length: 2\r\n" + two, 400, "", true},
		{"equal lengths in a list", post + "Content-Length: 2, 2\r\n\r\n{}", 400, "", true},
		{"bare LF", strings.ReplaceAll(post+two, "\r\n", "\n"), 400, "", true},
		{"bare LF at the head's end", post + "Content-Length: 2\r\n\n{}", 400, "", true},
		{"folded field", post + "X: a\r\n b\r\n" + two, 400, "", true},
		{"folded length", post + "Content-Length:\r\n 2\r\n\r\n{}", 400, "", true},
		{"bad chunk: bare LF", post + chunked + "\r\n2\n{}\r\n0\r\n\r\n", 400, "", true},
		// The encoding is dropped by net/http, there is no body, and nothing behind it.
		{"chunked over HTTP/1.0", "POST /v2/models/llama/infer HTTP/1.0\r\nConnection: keep-alive\r\n" + chunked + "\r\n" + smuggled, 200, "POST /v2/models/llama/infer ", true},
	}, queries()...)
}

// queries are those of which a pod must not see what can be read in two ways, or is
// more than is counted.
func queries() []Payload {
	return []Payload{
		{"query with a semicolon", "POST /v2/models/llama/generate?a=1;b=2 HTTP/1.1\r\nHost: h\r\n" + two, 200, heardOne, false},
		{"query with a broken escape", "POST /v2/models/llama/generate?a=%zz HTTP/1.1\r\nHost: h\r\n" + two, 200, heardOne, false},
		{"10,050 parameters", "POST /v2/models/llama/generate?" + strings.Repeat("a&", 10_050) + "b HTTP/1.1\r\nHost: h\r\n" + two, 200, heardOne, false},
	}
}
