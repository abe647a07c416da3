package conformance

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"
)

// patience bounds every wait for a server; a case that needs it has failed.
const patience = 20 * time.Second

// wire is one connection to a server's HTTP port, and what was said on it.
type wire struct {
	t    *testing.T
	conn net.Conn
	read *bufio.Reader
	said strings.Builder
}

func dial(t *testing.T, addr string) *wire {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return &wire{t: t, conn: conn, read: bufio.NewReader(conn)}
}

// note adds a line to the transcript.
func (w *wire) note(format string, args ...any) { fmt.Fprintf(&w.said, format+"\n", args...) }

// send writes bytes as they are. A server that has closed already is seen by
// what it answers.
func (w *wire) send(raw string) { _, _ = io.WriteString(w.conn, raw) }

// head reads a status line and a header, and notes them, the fields in
// alphabetical order. It returns the fields by lower-case name.
func (w *wire) head() (status string, fields map[string]string, err error) {
	line, err := w.line()
	if err != nil {
		return "", nil, err
	}
	w.note("%s", line)
	fields = make(map[string]string)
	var noted []string
	for {
		field, err := w.line()
		if err != nil {
			return line, fields, err
		}
		if field == "" {
			break
		}
		noted = append(noted, field)
		name, value, _ := strings.Cut(field, ":")
		fields[strings.ToLower(name)] = strings.TrimSpace(value)
	}
	sort.Strings(noted)
	for _, field := range noted {
		w.note("%s", field)
	}
	return line, fields, nil
}

func (w *wire) line() (string, error) {
	line, err := w.read.ReadString('\n')
	return strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r"), err
}

// chunk reads one chunk; an empty one is the last.
func (w *wire) chunk() (string, error) {
	line, err := w.line()
	if err != nil {
		return "", err
	}
	size, err := strconv.ParseInt(line, 16, 32)
	if err != nil {
		return "", fmt.Errorf("size of a chunk: %w", err)
	}
	data := make([]byte, size+2)
	if _, err := io.ReadFull(w.read, data); err != nil {
		return "", err
	}
	return string(data[:size]), nil
}

// answer reads and notes a whole answer.
func (w *wire) answer(method string) {
	_, fields, err := w.head()
	if err == nil && method != "HEAD" {
		err = w.body(fields)
	}
	w.ended(err)
}

// ended notes how an answer ended that did not end well.
func (w *wire) ended(err error) {
	var timeout net.Error
	switch {
	case err == nil:
	case errors.As(err, &timeout) && timeout.Timeout():
		w.t.Errorf("no answer in %v; so far:\n%s", patience, w.said.String())
	default:
		w.note("(closed)") // an end of file or a reset: which is a matter of timing
	}
}

func (w *wire) body(fields map[string]string) error {
	if fields["transfer-encoding"] == "chunked" {
		for {
			data, err := w.chunk()
			if err != nil {
				return err
			}
			if data == "" {
				w.note("(last chunk)")
				return nil
			}
			w.note("chunk %s", visible(data))
		}
	}
	length, sized := fields["content-length"]
	if !sized {
		return nil
	}
	size, err := strconv.Atoi(length)
	if err != nil {
		return err
	}
	data := make([]byte, size)
	n, err := io.ReadFull(w.read, data)
	if n > 0 {
		w.note("%s", visible(string(data[:n])))
	}
	return err
}

// visible shows line ends in a text, which stays on one line.
func visible(text string) string { return strings.ReplaceAll(text, "\n", "⏎") }

// alive notes whether the server takes another request on the connection.
func (w *wire) alive() {
	w.send("GET /v2/health/live HTTP/1.1\r\nHost: triton\r\n\r\n")
	line, err := w.line()
	switch {
	case err != nil:
		w.note("(connection closed)")
	case strings.HasPrefix(line, "HTTP/1.1 200 "):
		w.note("(connection kept)")
	default:
		w.note("(connection confused: %s)", line)
	}
}

// get and post are the requests of most cases.
func get(path string, fields ...string) string {
	return "GET " + path + " HTTP/1.1\r\nHost: triton\r\n" + join(fields) + "\r\n"
}

func post(path, body string, fields ...string) string {
	return "POST " + path + " HTTP/1.1\r\nHost: triton\r\nContent-Type: application/json\r\nContent-Length: " +
		strconv.Itoa(len(body)) + "\r\n" + join(fields) + "\r\n" + body
}

func join(fields []string) string {
	var b strings.Builder
	for _, f := range fields {
		b.WriteString(f + "\r\n")
	}
	return b.String()
}

// rest notes what comes until the end of the connection.
func (w *wire) rest() {
	data, err := io.ReadAll(w.read)
	if len(data) > 0 {
		w.note("%s", visible(string(data)))
	}
	if err == nil {
		err = io.EOF
	}
	w.ended(err)
}
