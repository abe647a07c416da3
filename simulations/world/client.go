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
	"time"

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
func (l Layout) regionAt(addr netip.Addr) regions.ID {
	for r, p := range places {
		if l.Gateway(r).Addr() == addr {
			return p.id
		}
	}
	return ""
}

// ask asks a director's name server for a name as a client of the given home
// would, through a resolver that tells the client's network.
func (l Layout) ask(ctx context.Context, director int, tcp bool, name string, from home) (regions.ID, error) {
	reply, err := dnstest.Ask(ctx, dnstest.Query{Server: l.DNS(director), TCP: tcp, Name: name, Subnet: regions.Unit(from.addr)})
	if err != nil {
		return "", err
	}
	if reply.Rcode != "NOERROR" || len(reply.Addrs) != 1 {
		return "", fmt.Errorf("%s %s from %s: %s with addresses %v", directorName(director), name, from.name, reply.Rcode, reply.Addrs)
	}
	return l.regionAt(reply.Addrs[0]), nil
}

// newClient is a client that keeps its connections and follows redirects.
func newClient() *http.Client {
	return &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 200}}
}

// redirected asks a director's redirector where a request goes, without
// following.
func (l Layout) redirected(ctx context.Context, director int, c *http.Client, from home) (regions.ID, error) {
	req, err := request(ctx, "http://"+l.Redirect(director).String(), "llama", "generate_stream", 1, from)
	if err != nil {
		return "", err
	}
	resp, err := c.Transport.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	_, _ = io.Copy(io.Discard, resp.Body)
	to, err := url.Parse(resp.Header.Get("Location"))
	if err != nil || resp.StatusCode != http.StatusTemporaryRedirect {
		return "", fmt.Errorf("%s redirect: %s to %q", directorName(director), resp.Status, resp.Header.Get("Location"))
	}
	addr, err := netip.ParseAddr(to.Hostname())
	return l.regionAt(addr), err
}

func request(ctx context.Context, base, model, verb string, tokens int, from home) (*http.Request, error) {
	body := fmt.Sprintf(`{"text_input":"hi","parameters":{"stream":%t,"max_tokens":%d}}`, verb == "generate_stream", tokens)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/v2/models/"+model+"/"+verb, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Forwarded-For", from.addr.String())
	return req, nil
}

// generation is how a completion went, as its client saw it.
type generation struct {
	region      regions.ID // whose pod answered
	events      int
	first, last time.Duration // after the request was sent
}

// errStatus is a completion that was refused.
var errStatus = errors.New("refused")

// generate asks for a completion of so many tokens and reads it to its end.
// onFirst, if not nil, is called at the first event.
func generate(ctx context.Context, c *http.Client, base, model, verb string, tokens int, from home, onFirst func()) (generation, error) {
	var g generation
	req, err := request(ctx, base, model, verb, tokens, from)
	if err != nil {
		return g, err
	}
	begun := time.Now()
	resp, err := c.Do(req)
	if err != nil {
		return g, err
	}
	defer func() { _ = resp.Body.Close() }()
	g.region = regions.ID(resp.Header.Get(proxy.RegionHeader))
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		return g, fmt.Errorf("%w: %s: %s", errStatus, resp.Status, text)
	}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if lines.Text() == "" {
			continue
		}
		g.events++
		g.last = time.Since(begun)
		if g.events == 1 {
			g.first = g.last
			if onFirst != nil {
				onFirst()
			}
		}
	}
	return g, lines.Err()
}
