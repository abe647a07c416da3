package attrition

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/rhumb-lb/rhumb/regions/proxy"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest"
)

// asker asks for a completion.
type asker interface {
	ask(ctx context.Context, prompt string, tokens int) (answer, error)
	close()
}

// answer is what came.
type answer struct {
	text, want string
	resumed    bool
	typed      bool          // it ended with the event that says that it was cut
	pause      time.Duration // the longest between two events
}

func newClients(o Options, gateway netip.AddrPort) (*clients, error) {
	c := &clients{opts: o}
	switch o.Frontend {
	case "grpc":
		calls, err := newCallAsker(gateway)
		if err != nil {
			return nil, err
		}
		c.ask = calls
	case "stream", "unary":
		c.ask = &httpAsker{base: "http://" + gateway.String(), stream: o.Frontend == "stream", http: &http.Client{
			Transport: &http.Transport{MaxIdleConnsPerHost: o.Streams},
		}}
	default:
		return nil, fmt.Errorf("no frontend %q; there are stream, unary and grpc", o.Frontend)
	}
	return c, nil
}

func (c *clients) close() { c.ask.close() }

// httpAsker asks by generate_stream or by generate.
type httpAsker struct {
	base   string
	stream bool
	http   *http.Client
}

func (h *httpAsker) close() { h.http.CloseIdleConnections() }

func (h *httpAsker) ask(ctx context.Context, prompt string, tokens int) (answer, error) {
	a := answer{want: strings.Join(tritontest.Tokens("llama", prompt, tokens), "")}
	verb := "generate"
	if h.stream {
		verb = "generate_stream"
	}
	body := fmt.Sprintf(`{"text_input":%q,"stream":%v,"exclude_input_in_output":true,"parameters":{"max_tokens":%d}}`, prompt, h.stream, tokens)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.base+"/v2/models/llama/"+verb, strings.NewReader(body))
	if err != nil {
		return a, err
	}
	res, err := h.http.Do(req)
	if err != nil {
		return a, err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 1<<10))
		return a, fmt.Errorf("%s (%s): %s", res.Status, res.Header.Get(proxy.ReasonHeader), text)
	}
	err = a.read(res.Body)
	a.resumed = res.Trailer.Get(proxy.ResumedHeader)+res.Header.Get(proxy.ResumedHeader) != ""
	return a, err
}

// read reads events, or the one JSON object.
func (a *answer) read(body io.Reader) error {
	var text strings.Builder
	last := time.Time{}
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if lines.Text() == "" {
			continue
		}
		if now := time.Now(); !last.IsZero() {
			a.pause = max(a.pause, now.Sub(last))
		}
		last = time.Now()
		var e struct {
			Text  string `json:"text_output"`
			Error string `json:"error"`
			Code  string `json:"code"`
		}
		if err := json.Unmarshal([]byte(strings.TrimPrefix(lines.Text(), "data: ")), &e); err != nil {
			return fmt.Errorf("%q: %w", lines.Text(), err)
		}
		if e.Error != "" {
			a.typed = e.Code == "stream_interrupted"
			return errors.New(e.Error)
		}
		text.WriteString(e.Text)
	}
	a.text = text.String()
	return lines.Err()
}
