package world

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/rhumb-lb/rhumb/dnsserver/dnstest"
	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/proxy"
)

// home is where the demo's clients live.
type home struct {
	name    string
	addr    netip.Addr
	nearest regions.ID
}

// homes are clients on three continents.
var homes = []home{
	{"London", netip.MustParseAddr("81.2.69.1"), "eu-west"},
	{"Tokyo", netip.MustParseAddr("133.242.0.1"), "ap-northeast"},
	{"California", netip.MustParseAddr("8.8.8.8"), "us-east"},
}

// regionAt is the region that an address of the layout belongs to.
func (l Layout) regionAt(addr netip.Addr) (regions.ID, error) {
	for r, p := range places {
		if l.Gateway(r).Addr() == addr {
			return p.id, nil
		}
	}
	return "", fmt.Errorf("%s is the gateway of no region", addr)
}

// ask asks a director's name server for a name as a client of the given home
// would, through a resolver that tells the client's network. Anything but the
// address of one region is an error.
func (l Layout) ask(ctx context.Context, director int, tcp bool, name string, from home) (regions.ID, error) {
	reply, err := dnstest.Ask(ctx, dnstest.Query{Server: l.DNS(director), TCP: tcp, Name: name, Subnet: regions.Unit(from.addr)})
	if err != nil {
		return "", err
	}
	if reply.Rcode != "NOERROR" || len(reply.Addrs) != 1 {
		return "", fmt.Errorf("%s %s from %s: %s with addresses %v", directorName(director), name, from.name, reply.Rcode, reply.Addrs)
	}
	id, err := l.regionAt(reply.Addrs[0])
	if err != nil {
		return "", fmt.Errorf("%s %s from %s: %w", directorName(director), name, from.name, err)
	}
	return id, nil
}

// newClient is a client that keeps its connections and follows redirects.
func newClient() *http.Client {
	return &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 200}}
}

// refer asks a director's redirector where a request goes, without following.
func (l Layout) refer(ctx context.Context, director int, c *http.Client, from home) (status int, head http.Header, err error) {
	req, err := question{model: "llama", tokens: 1, from: from}.request(ctx, l.redirectURL(director))
	if err != nil {
		return 0, nil, err
	}
	resp, err := c.Transport.RoundTrip(req)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, resp.Header, nil
}

// redirected is the region that a director redirects a request to. Anything but
// a redirect to one is an error.
func (l Layout) redirected(ctx context.Context, director int, c *http.Client, from home) (regions.ID, error) {
	status, head, err := l.refer(ctx, director, c, from)
	if err != nil {
		return "", err
	}
	id, err := l.regionIn(head.Get("Location"))
	if status != http.StatusTemporaryRedirect || err != nil {
		return "", errors.Join(fmt.Errorf("%s redirects %s with status %d to %q", directorName(director), from.name, status, head.Get("Location")), err)
	}
	return id, nil
}

// regionIn is the region whose gateway a URL names.
func (l Layout) regionIn(location string) (regions.ID, error) {
	to, err := url.Parse(location)
	if err != nil {
		return "", err
	}
	addr, err := netip.ParseAddr(to.Hostname())
	if err != nil {
		return "", err
	}
	return l.regionAt(addr)
}

func (l Layout) redirectURL(director int) string { return "http://" + l.Redirect(director).String() }
func (l Layout) gatewayURL(region int) string    { return "http://" + l.Gateway(region).String() }

// question is a completion to ask for.
type question struct {
	model  string
	id     string // the pods' ledger has it; may be empty
	tokens int
	atOnce bool // by generate, in one answer, instead of token by token
	from   home
}

// events are how many a whole answer has.
func (q question) events() int {
	if q.atOnce {
		return 1
	}
	return q.tokens
}

func (q question) request(ctx context.Context, base string) (*http.Request, error) {
	verb := "generate_stream"
	if q.atOnce {
		verb = "generate"
	}
	body := fmt.Sprintf(`{"id":%q,"text_input":"hi","parameters":{"stream":%t,"max_tokens":%d}}`, q.id, !q.atOnce, q.tokens)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/v2/models/"+q.model+"/"+verb, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Forwarded-For", q.from.addr.String())
	return req, nil
}

// generation is how a completion went, as its client saw it.
type generation struct {
	region regions.ID // whose pod answered
	events int
}

// errShort is a completion that ended as if it were complete, but is not: the one
// thing that must never happen to a client.
var errShort = errors.New("ended as if complete")

// generate asks for a completion and reads it to its end. The error is nil only
// if all of it came. onFirst, if not nil, is called at the first event.
func generate(ctx context.Context, c *http.Client, base string, q question, onFirst func()) (generation, error) {
	var g generation
	req, err := q.request(ctx, base)
	if err != nil {
		return g, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return g, err
	}
	defer func() { _ = resp.Body.Close() }()
	g.region = regions.ID(resp.Header.Get(proxy.RegionHeader))
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
			return g, fmt.Errorf("after %d of %d events: %s", g.events, q.events(), lines.Text())
		}
		if g.events++; g.events == 1 && onFirst != nil {
			onFirst()
		}
	}
	if err := lines.Err(); err != nil {
		return g, fmt.Errorf("after %d of %d events: %w", g.events, q.events(), err)
	}
	if g.events != q.events() {
		return g, fmt.Errorf("%w after %d of %d events", errShort, g.events, q.events())
	}
	return g, nil
}

// stream is a completion under way.
type stream struct {
	ended chan struct{} // closed at its end; then the fields below are set
	got   generation
	err   error
}

// open begins a completion and waits for its first event.
func open(ctx context.Context, c *http.Client, base string, q question) (*stream, error) {
	s, begun := &stream{ended: make(chan struct{})}, make(chan struct{})
	go func() {
		defer close(s.ended)
		s.got, s.err = generate(ctx, c, base, q, func() { close(begun) })
	}()
	select {
	case <-begun:
		return s, nil
	case <-s.ended:
		return s, s.err // it may have been whole already
	}
}

// wait waits for the stream's end, whole or not, and fails if it never comes.
func (s *stream) wait(ctx context.Context) error {
	return until(ctx, func() error {
		if s.under() {
			return errors.New("the stream under way has not ended")
		}
		return nil
	})
}

// under reports whether the stream has not ended yet.
func (s *stream) under() bool {
	select {
	case <-s.ended:
		return false
	default:
		return true
	}
}
