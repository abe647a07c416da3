package client

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/proxy"
)

// Question is a completion to ask for.
type Question struct {
	Model  string
	ID     string // the pods' ledger has it; may be empty
	Tokens int
	AtOnce bool // by generate, in one answer, instead of token by token
	From   Home
}

// Events are how many a whole answer has.
func (q Question) Events() int {
	if q.AtOnce {
		return 1
	}
	return q.Tokens
}

func (q Question) request(ctx context.Context, base string) (*http.Request, error) {
	verb := "generate_stream"
	if q.AtOnce {
		verb = "generate"
	}
	body := fmt.Sprintf(`{"id":%q,"text_input":"hi","parameters":{"stream":%t,"max_tokens":%d}}`, q.ID, !q.AtOnce, q.Tokens)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/v2/models/"+q.Model+"/"+verb, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Forwarded-For", q.From.Addr.String())
	return req, nil
}

// Generation is how a completion went, as its client saw it.
type Generation struct {
	Region regions.ID // whose pod answered
	Events int
}

// ErrShort is a completion that ended as if it were complete, but is not: the one
// thing that must never happen to a client.
var ErrShort = errors.New("ended as if complete")

// Generate asks for a completion and reads it to its end. The error is nil only
// if all of it came. onFirst, if not nil, is called at the first event.
func (c *Client) Generate(ctx context.Context, base string, q Question, onFirst func()) (Generation, error) {
	var g Generation
	req, err := q.request(ctx, base)
	if err != nil {
		return g, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return g, err
	}
	defer func() { _ = resp.Body.Close() }()
	g.Region = regions.ID(resp.Header.Get(proxy.RegionHeader))
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		return g, fmt.Errorf("refused: %s: %s", resp.Status, text)
	}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if lines.Text() == "" {
			continue
		}
		if !strings.Contains(lines.Text(), `"text_output":`) {
			return g, fmt.Errorf("after %d of %d events: %s", g.Events, q.Events(), lines.Text())
		}
		if g.Events++; g.Events == 1 && onFirst != nil {
			onFirst()
		}
	}
	if err := lines.Err(); err != nil {
		return g, fmt.Errorf("after %d of %d events: %w", g.Events, q.Events(), err)
	}
	if g.Events != q.Events() {
		return g, fmt.Errorf("%w after %d of %d events", ErrShort, g.Events, q.Events())
	}
	return g, nil
}

// Stream is a completion under way.
type Stream struct {
	// Got and Err are set when it has ended.
	Got   Generation
	Err   error
	ended chan struct{} // closed at its end
}

// Open begins a completion and waits for its first event.
func (c *Client) Open(ctx context.Context, base string, q Question) (*Stream, error) {
	s, begun := &Stream{ended: make(chan struct{})}, make(chan struct{})
	go func() {
		defer close(s.ended)
		s.Got, s.Err = c.Generate(ctx, base, q, func() { close(begun) })
	}()
	select {
	case <-begun:
		return s, nil
	case <-s.ended:
		return s, s.Err // it may have been whole already
	}
}

// Wait waits for the stream's end, whole or not, and fails if it never comes.
func (s *Stream) Wait(ctx context.Context) error {
	return Until(ctx, func() error {
		if s.Under() {
			return errors.New("the stream under way has not ended")
		}
		return nil
	})
}

// Under reports whether the stream has not ended yet.
func (s *Stream) Under() bool {
	select {
	case <-s.ended:
		return false
	default:
		return true
	}
}
