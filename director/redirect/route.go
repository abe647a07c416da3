package redirect

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"github.com/rhumb-lb/rhumb/director"
	"github.com/rhumb-lb/rhumb/regions"
)

// routePath is where programs ask for all the regions that they can go to:
// ?model=NAME, and &client=ADDRESS to ask for somebody else.
const routePath = "/v1/route"

// allLost is how programs are told that the answer is a guess.
const allLost = "all-lost"

// ranking is the answer to a program that chooses for itself. It is kept by no
// cache, although it may be used for TTL: a program that asks sooner has a reason,
// such as a region that does not answer, and then wants what is true now; nor does
// a cache know that the answer depends on where the asker is.
type ranking struct {
	Decision  string            `json:"decision"`
	Model     regions.ModelName `json:"model"`  // empty if none was named
	Client    netip.Prefix      `json:"client"` // its unit; empty if it is not known
	Cell      regions.CellID    `json:"cell"`
	TTL       int64             `json:"ttl"` // seconds
	Degraded  string            `json:"degraded,omitempty"`
	Endpoints []endpoint        `json:"endpoints"` // in the order to try them
}

// endpoint is a region that can be tried. Spans are in milliseconds.
type endpoint struct {
	Region    regions.ID   `json:"region"`
	URL       string       `json:"url"`
	Addresses []netip.Addr `json:"addresses"`
	RTT       float64      `json:"rtt_ms"`
	Wait      float64      `json:"wait_ms"`
	State     string       `json:"state"`
	Reason    string       `json:"reason"`
}

// route answers a request to [routePath].
func (h *Handler) route(r *http.Request) answer {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		a := failed(http.StatusMethodNotAllowed, resultBadMethod, "Method Not Allowed")
		a.allow = "GET, HEAD"
		return a
	}
	// What can't be read may be the model, so nothing is made of the rest.
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return failed(http.StatusBadRequest, resultBadQuery, "the query can't be read: "+err.Error())
	}
	client := h.trust.Client(r.RemoteAddr, r.Header.Values("X-Forwarded-For"))
	if query.Has("client") {
		other, err := parseClient(query.Get("client"))
		if err != nil {
			return failed(http.StatusBadRequest, resultBadQuery, err.Error())
		}
		if regions.Unit(other) != regions.Unit(client) {
			if a, ok := h.refuseStranger(r); ok {
				return a
			}
		}
		client = other
	}
	model, namedBy := regions.ModelName(query.Get("model")), byQuery
	if model == "" {
		model, namedBy = h.headModel(r)
	}
	d, err := h.opts.Decider.Decide(model, namedBy != byNothing, client)
	if err != nil {
		return h.refusal(err, model, namedBy)
	}
	return h.ranked(&d, namedBy)
}

// parseClient reads an address, or a unit as answers give it.
func parseClient(text string) (netip.Addr, error) {
	if p, err := netip.ParsePrefix(text); err == nil && p == regions.Unit(p.Addr()) {
		return p.Addr(), nil
	}
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return addr, fmt.Errorf("client: want an IP address, like client=192.0.2.1, or its /%d or /%d", regions.UnitBits4, regions.UnitBits6)
	}
	return addr, nil
}

// refuseStranger is the answer to who asks for somebody else without the right
// to; ok is false for who has it. What is decided for others shows where they are
// thought to be, and counts as demand from there.
func (h *Handler) refuseStranger(r *http.Request) (a answer, ok bool) {
	if h.token == nil {
		return failed(http.StatusForbidden, resultForbidden,
			"client: only one's own address can be asked for, since the director has no admin token to ask for others with (admin.token_file)"), true
	}
	if h.token.Shown(r.Header.Get("Authorization")) {
		return answer{}, false
	}
	a = failed(http.StatusUnauthorized, resultForbidden,
		"client: to ask for another address than one's own, send the director's admin token as Authorization: Bearer TOKEN")
	a.authenticate = "Bearer"
	return a, true
}

// ranked lists the candidates of a decision. Those that an operator drains are
// left out: a program that goes down the list must not come to them.
func (h *Handler) ranked(d *director.Decision, namedBy string) answer {
	out := ranking{
		Decision: d.ID, Model: d.Model, Client: d.Client.Unit, Cell: d.Client.Cell, TTL: int64(d.TTL / time.Second),
		Endpoints: []endpoint{},
	}
	var errs []error
	for i := range d.Candidates {
		c := &d.Candidates[i]
		if c.State == director.Draining {
			continue
		}
		base, err := h.base(c)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out.Endpoints = append(out.Endpoints, endpoint{
			c.Region, base, h.addresses(c), millis(c.RTT), millis(c.Wait), c.State.String(), c.Reason,
		})
	}
	if len(out.Endpoints) == 0 {
		return h.refusal(fmt.Errorf("no candidate can be named: %w", errors.Join(errs...)), d.Model, namedBy)
	}
	a := answer{status: http.StatusOK, result: resultRanked, namedBy: namedBy, decision: d.ID}
	if d.AllLost {
		a.result, a.degraded, out.Degraded = resultDegraded, true, allLost
	}
	a.content = out
	return a
}

func millis(m regions.Micros) float64 { return float64(m) / 1000 }
