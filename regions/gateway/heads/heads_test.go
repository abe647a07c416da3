package heads

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

const (
	post = "POST / HTTP/1.1\r\nHost: h\r\n"
	get  = "GET /next HTTP/1.1\r\nHost: h\r\n\r\n"
)

// told is a connection on which fixed bytes come, in parts of some size.
type told struct {
	net.Conn
	text string
	part int
}

func (c *told) Read(p []byte) (int, error) {
	if c.text == "" {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), c.part)], c.text)
	c.text = c.text[n:]
	return n, nil
}

// read is what the server sees of some bytes, that come in parts.
func read(t *testing.T, text string, part, buffer int) string {
	t.Helper()
	c, seen := &conn{Conn: &told{text: text, part: part}}, ""
	for p := make([]byte, buffer); ; {
		n, err := c.Read(p)
		seen += string(p[:n])
		if errors.Is(err, io.EOF) {
			return seen
		}
		if err != nil || n == 0 {
			t.Fatalf("read %d bytes, %v", n, err)
		}
	}
}

// TestHeads: "|" is where the server sees no further, if there is one.
func TestHeads(t *testing.T) {
	for name, text := range map[string]string{
		"plain":                      get + post + "Content-Length: 2\r\n\r\n{}" + get,
		"body looks like a head":     post + "content-length:\t9 \r\n\r\nX: a\n b\nX" + get,
		"no body":                    post + "Content-Length: 0\r\n\r\n" + get,
		"blank lines before":         "\r\n\r\n" + get,
		"encoding ends it":           post + "Transfer-Encoding: chunked\r\n\r\n0\n\nGET / HTTP/1.1\n\n",
		"HTTP/2":                     "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\n\n\n a\n",
		"CR within a value":          post + "X: a\rb\r\n\r\n" + get,
		"long line":                  post + "X: " + strings.Repeat("x", 500) + "\r\n\r\n" + get,
		"colon without a name":       post + ": Content-Length\r\n\r\n" + get,
		"bare LF in the line":        "GET / HTTP/1.1|\nHost: h\r\n\r\n",
		"bare LF in a field":         post + "X: a|\n\r\n",
		"bare LF at the head's end":  post + "X: a\r\n|\n" + get,
		"bare LF before":             "|\n" + get,
		"bare LF in the second":      get + "GET / HTTP/1.1\r\nHost: h|\n\r\n",
		"folded":                     post + "X: a\r\n| b\r\n\r\n",
		"folded by a tab":            post + "X: a\r\n|\tb\r\n\r\n",
		"equal lengths":              post + "Content-Length: 2\r\nContent-Length: 2\r\n|\r\n{}",
		"different lengths":          post + "Content-Length: 2\r\nX: y\r\ncontent-length: 3\r\n|\r\n{}",
		"length and encoding":        post + "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n|\r\n0\r\n\r\n",
		"encoding and length":        post + "Transfer-Encoding: chunked\r\nContent-Length: 2\r\n|\r\n0\r\n\r\n",
		"lengths in a list":          post + "Content-Length: 2, 2\r\n|\r\n{}",
		"length with a plus":         post + "Content-Length: +2\r\n|\r\n{}",
		"length behind many spaces":  post + "Content-Length:" + strings.Repeat(" ", 300) + "2\r\n|\r\n{}",
		"length, space and encoding": post + "Content-Length : 2\r\nTransfer-Encoding : chunked\r\n|\r\n{}",
	} {
		want, _, bad := strings.Cut(text, "|")
		if bad {
			want += poison
		}
		text = strings.Replace(text, "|", "", 1)
		for part := 1; part <= len(text); part++ {
			for _, buffer := range []int{1, 3, 4096} {
				if got := read(t, text, part, buffer); got != want {
					t.Fatalf("%s: in parts of %d, into %d: the server sees %q, want %q", name, part, buffer, got, want)
				}
			}
		}
	}
}

// TestDeadline: a read that times out in a line goes on there.
func TestDeadline(t *testing.T) {
	here, there := net.Pipe()
	defer func() { _ = there.Close() }()
	c := &conn{Conn: here}
	p := make([]byte, 100)
	go func() { _, _ = io.WriteString(there, "GET / HTTP/1.1\r\nX: a\r") }()
	if n, err := c.Read(p); err != nil || n != 21 {
		t.Fatal(n, err)
	}
	_ = c.SetReadDeadline(time.Unix(1, 0))
	var late net.Error
	if _, err := c.Read(p); !errors.As(err, &late) || !late.Timeout() {
		t.Fatalf("error %v, want a timeout", err)
	}
	_ = c.SetReadDeadline(time.Time{})
	go func() { _, _ = io.WriteString(there, "\n b\r\n") }()
	seen := ""
	for !strings.Contains(seen, poison) {
		n, err := c.Read(p)
		if err != nil {
			t.Fatal(err)
		}
		seen += string(p[:n])
	}
	if seen != "\n"+poison {
		t.Errorf("the server sees %q", seen)
	}
	if c.NetConn() != here {
		t.Error("the connection below is another")
	}
}

// FuzzHeads: however the bytes are cut into parts, the server sees the same, and
// no byte that the client did not send but the poison.
func FuzzHeads(f *testing.F) {
	f.Add(get+post+"Content-Length: 2\r\n\r\n{}"+get, 3)
	f.Add(post+"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n", 1)
	f.Add(post+"X: a\r\n b\r\n\r\n", 7)
	f.Fuzz(func(t *testing.T, text string, part int) {
		whole := read(t, text, len(text)+1, 4096)
		if cut := read(t, text, 1+int(uint(part)%uint(len(text)+1)), 5); cut != whole {
			t.Fatalf("the server sees %q in parts, and else %q", cut, whole)
		}
		if before := strings.TrimSuffix(whole, poison); whole != text && !strings.HasPrefix(text, before) {
			t.Fatalf("the server sees %q of %q", whole, text)
		}
	})
}
