package triton

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
)

// The exchange is written out on a connection of its own, instead of through
// http.Transport, because how a fresh connection fails is the finding here, and
// the transport hides it: a connection that closes before the request was
// written and one that closes after it come back as different unexported errors.

// headerLimit is the most that is read before an answer's body, in bytes. Triton
// sends some 200.
const headerLimit = 64 << 10

// messageLimit is how much of an error's text is kept, in bytes.
const messageLimit = 512

// answer is what a server said.
type answer struct {
	status int
	body   []byte
	cut    bool // the body was longer than the limit
}

// refusal is the error that an answer other than 200 stands for.
func (a answer) refusal() error {
	var said struct {
		Error string `json:"error"`
	}
	message := ""
	if json.Unmarshal(a.body, &said) == nil {
		message = said.Error
	}
	if message == "" {
		message = strings.ToValidUTF8(string(a.body), "?")
	}
	message = strings.TrimSpace(message[:min(len(message), messageLimit)])
	return &StatusError{Status: a.status, Message: message}
}

// StatusError is an answer other than 200.
type StatusError struct {
	Status  int    // HTTP status code
	Message string // Triton's own words, cut at 512 bytes; often empty
}

// Error names the status, Triton's words, and the remedy where one is known.
func (e *StatusError) Error() string {
	text := fmt.Sprintf("it answered %d %s", e.Status, http.StatusText(e.Status))
	if e.Message != "" {
		text += fmt.Sprintf(": %q", e.Message)
	}
	if e.Status == http.StatusForbidden {
		text += " (if the server runs with --http-restricted-api, configure its header)"
	}
	return text
}

// failure is an exchange without an answer, and what that tells of the pod.
type failure struct {
	sight regions.Sight
	err   error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// sightOf is the sight that an error of exchange stands for.
func sightOf(err error) regions.Sight {
	var f *failure
	if errors.As(err, &f) {
		return f.sight
	}
	return 0
}

// call is what a server is asked.
type call struct {
	method, path string
	body         string // of a POST
	bare         bool   // a status of 200 says it all: the body is not read
}

// exchange sends one request on a fresh connection and reads the answer's
// status and, unless the status says it all, its body.
func (c *Client) exchange(ctx context.Context, at netip.AddrPort, ask call) (answer, error) {
	if c.options.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.options.Timeout)
		defer cancel()
	}
	conn, err := c.options.Dial(ctx, "tcp", at.String())
	if err != nil {
		return answer{}, dialFailure(ctx, err)
	}
	defer func() { _ = conn.Close() }() // nothing is left to lose on it
	// The past as a deadline ends reads and writes at once, whatever ended ctx.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	if _, err := conn.Write(c.request(at, ask)); err != nil {
		return answer{}, silentFailure(ctx, fmt.Errorf("send the request: %w", err))
	}
	counted := &countingReader{r: io.LimitReader(conn, headerLimit+c.options.MaxBody)}
	resp, err := http.ReadResponse(bufio.NewReader(counted), &http.Request{Method: ask.method})
	if err != nil && counted.n == 0 {
		return answer{}, silentFailure(ctx, fmt.Errorf("read the answer: %w", err))
	}
	if err != nil {
		return answer{}, spokenFailure(ctx, fmt.Errorf("read the answer after %d bytes: %w", counted.n, err))
	}
	defer func() { _ = resp.Body.Close() }()
	got := answer{status: resp.StatusCode}
	if ask.bare && got.status == http.StatusOK {
		return got, nil
	}
	limit := c.options.MaxBody
	got.body, err = io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if int64(len(got.body)) > limit {
		got.body, got.cut = got.body[:limit], true
	}
	if err != nil && got.status == http.StatusOK {
		return answer{}, spokenFailure(ctx, fmt.Errorf("read the answer's body after %d bytes: %w", len(got.body), err))
	}
	return got, nil // an error's text is a courtesy: its status counts
}

// request is the request's bytes. The connection is closed after the answer.
func (c *Client) request(at netip.AddrPort, ask call) []byte {
	host := netip.AddrPortFrom(at.Addr().WithZone(""), at.Port()) // RFC 6874 section 1: a zone has no meaning elsewhere
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: rhumb\r\nConnection: close\r\n", ask.method, ask.path, host)
	if ask.method == http.MethodPost {
		fmt.Fprintf(&b, "Content-Type: application/json\r\nContent-Length: %d\r\n", len(ask.body))
	}
	_ = c.options.Header.Write(&b) // a bytes.Buffer does not fail
	b.WriteString("\r\n")
	b.WriteString(ask.body)
	return b.Bytes()
}

// dialFailure classes a connection that could not be had.
func dialFailure(ctx context.Context, err error) error {
	sight := regions.SawRefused
	switch {
	case cancelled(ctx), ours(err):
		sight = 0
	case timedOut(ctx, err):
		sight = regions.SawTimeout
	}
	return &failure{sight, fmt.Errorf("connect: %w", err)}
}

// silentFailure classes a connection that ended before the first byte of an
// answer. A reset counts as a close: Linux resets a connection that is closed
// with the request still unread in its buffer, so which of the two a draining
// server's client sees is a race between its request and the close.
func silentFailure(ctx context.Context, err error) error {
	return &failure{lateSight(ctx, err, regions.SawClosed), err}
}

// spokenFailure classes an answer that began and then broke off, or is no HTTP:
// somebody is there, but nobody who says that the model is ready.
func spokenFailure(ctx context.Context, err error) error {
	return &failure{lateSight(ctx, err, regions.SawNotReady), err}
}

func lateSight(ctx context.Context, err error, otherwise regions.Sight) regions.Sight {
	switch {
	case cancelled(ctx):
		return 0
	case timedOut(ctx, err):
		return regions.SawTimeout
	default:
		return otherwise
	}
}

// cancelled reports whether the caller lost interest, which says nothing of the
// pod, unlike a deadline.
func cancelled(ctx context.Context) bool { return errors.Is(ctx.Err(), context.Canceled) }

func timedOut(ctx context.Context, err error) bool {
	var network net.Error
	return ctx.Err() != nil || errors.As(err, &network) && network.Timeout()
}

// ours reports whether a connection failed for want of something on this
// machine. Counting that against pods would empty every pool at once when the
// agent runs out of file descriptors.
func ours(err error) bool {
	for _, lack := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL} {
		if errors.Is(err, lack) {
			return true
		}
	}
	return false
}

// countingReader counts the bytes that came.
type countingReader struct {
	r io.Reader
	n int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
