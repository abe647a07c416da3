// Package client is what a user of a small world does, at loopback addresses
// that its layout gives: ask for names, follow redirects, stream completions.
package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"

	"github.com/rhumb-lb/rhumb/dnsserver/dnstest"
	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/simulations/layout"
)

// Home is where clients live.
type Home struct {
	Name    string
	Addr    netip.Addr
	Nearest regions.ID
}

// Homes are clients on three continents.
var Homes = []Home{
	{"London", netip.MustParseAddr("81.2.69.1"), "eu-west"},
	{"Tokyo", netip.MustParseAddr("133.242.0.1"), "ap-northeast"},
	{"California", netip.MustParseAddr("8.8.8.8"), "us-east"},
}

// Client keeps its connections and follows redirects.
type Client struct {
	layout layout.Layout
	http   *http.Client
}

// New makes a client of the world at l.
func New(l layout.Layout) *Client {
	return &Client{l, &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 200}}}
}

// Close closes the connections that are kept.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Ask asks a director's name server for a name as a client of the given home
// would, through a resolver that tells the client's network. Anything but the
// address of one region is an error.
func (c *Client) Ask(ctx context.Context, director int, tcp bool, name string, from Home) (regions.ID, error) {
	reply, err := dnstest.Ask(ctx, dnstest.Query{Server: c.layout.DNS(director), TCP: tcp, Name: name, Subnet: regions.Unit(from.Addr)})
	if err != nil {
		return "", err
	}
	if reply.Rcode != "NOERROR" || len(reply.Addrs) != 1 {
		return "", fmt.Errorf("%s %s from %s: %s with addresses %v", layout.DirectorName(director), name, from.Name, reply.Rcode, reply.Addrs)
	}
	id, err := c.layout.RegionAt(reply.Addrs[0])
	if err != nil {
		return "", fmt.Errorf("%s %s from %s: %w", layout.DirectorName(director), name, from.Name, err)
	}
	return id, nil
}

// Refer asks a director's redirector where a request goes, without following.
func (c *Client) Refer(ctx context.Context, director int, from Home) (status int, head http.Header, err error) {
	req, err := Question{Model: "llama", Tokens: 1, From: from}.request(ctx, c.layout.RedirectURL(director))
	if err != nil {
		return 0, nil, err
	}
	resp, err := c.http.Transport.RoundTrip(req)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, resp.Header, nil
}

// Redirected is the region that a director redirects a request to. Anything but
// a redirect to one is an error.
func (c *Client) Redirected(ctx context.Context, director int, from Home) (regions.ID, error) {
	status, head, err := c.Refer(ctx, director, from)
	if err != nil {
		return "", err
	}
	id, err := c.regionIn(head.Get("Location"))
	if status != http.StatusTemporaryRedirect || err != nil {
		return "", errors.Join(fmt.Errorf("%s redirects %s with status %d to %q", layout.DirectorName(director), from.Name, status, head.Get("Location")), err)
	}
	return id, nil
}

// regionIn is the region whose gateway a URL names.
func (c *Client) regionIn(location string) (regions.ID, error) {
	to, err := url.Parse(location)
	if err != nil {
		return "", err
	}
	addr, err := netip.ParseAddr(to.Hostname())
	if err != nil {
		return "", err
	}
	return c.layout.RegionAt(addr)
}
