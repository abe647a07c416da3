package agent

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/rhumb-lb/rhumb/gossip"
	"github.com/rhumb-lb/rhumb/gossip/wire"
	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/proxy"
	"github.com/rhumb-lb/rhumb/regions/regionstest"
	"github.com/rhumb-lb/rhumb/regions/voucher"
)

// target is a site as a row names it.
func (s *site) target(slots int) regions.SpillTarget {
	return regions.SpillTarget{Region: s.opts.Region, Endpoint: s.opts.Endpoints[0], Budget: regions.Slots(slots)}
}

// sends has the director publish a row until its region has heard it.
func (m *members) sends(to *site, row regions.SpillRow) {
	m.t.Helper()
	payload, err := wire.EncodeSpillRow(&row)
	if err != nil {
		m.t.Fatal(err)
	}
	regionstest.Eventually(m.t, patience, func() bool {
		err := m.director.Publish(gossip.Record{
			Kind: wire.Kind_SPILL, Key: string(row.Source) + "/" + string(row.Model), Payload: payload,
			Audience: gossip.Audience{Role: gossip.RoleAgent, Region: row.Source},
		})
		if err != nil {
			m.t.Error(err)
		}
		to.spill.mu.Lock()
		defer to.spill.mu.Unlock()
		have, ok := to.spill.rows[row.Model]
		return ok && have.Table == row.Table
	}, "the gateway hears a row of the director")
}

// counts compares a site's spilled requests with what is expected.
func (s *site) counts(direction string, want int) {
	s.t.Helper()
	line := `rhumb_proxy_spilled_total{direction="` + direction + `",model="mistral"} `
	err := testutil.GatherAndCompare(s.opts.Registry, strings.NewReader(
		"# HELP rhumb_proxy_spilled_total Requests sent to another region (out) or taken over from one (in).\n"+
			"# TYPE rhumb_proxy_spilled_total counter\n"+line+strconv.Itoa(want)+"\n"), "rhumb_proxy_spilled_total")
	if err != nil {
		s.t.Error(err)
	}
}

// TestSpillOverByADirectorsRow sends requests for a model to a region without
// it. Its gateway knows of the region that has it by a director's row alone.
func TestSpillOverByADirectorsRow(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	us := m.start(m.options("us-east", "llama"))
	o, pods := m.options("eu-west", "mistral")
	o.Gossip.Seeds = nil // so that nobody hears of it
	eu := m.start(o, pods)
	ask := func(fields ...string) (*http.Response, string) {
		t.Helper()
		res, text, err := us.do(http.MethodPost, us.url("/v2/models/mistral/generate"), question("q", 3), fields...)
		if err != nil {
			t.Fatal(err)
		}
		return res, text
	}
	if res, text := ask(); res.StatusCode != http.StatusNotFound {
		t.Errorf("before the row: %s %s", res.Status, text)
	}
	row := rowFrom("us-east", "mistral", eu.target(8))
	row.Table = 1
	m.sends(us, row)
	res, text := ask()
	if res.StatusCode != http.StatusOK || res.Header.Get(proxy.RegionHeader) != "eu-west" || !strings.Contains(text, `"model_name":"mistral"`) {
		t.Errorf("by the row: %s from %q: %s", res.Status, res.Header.Get(proxy.RegionHeader), text)
	}
	const tokens = 12
	x, err := us.open("mistral", "s", tokens)
	if err != nil {
		t.Fatal(err)
	}
	if from := x.res.Header.Get(proxy.RegionHeader); from != "eu-west" {
		t.Errorf("a stream from %q", from)
	}
	if events, err := x.rest(); err != nil || events != tokens {
		t.Errorf("a stream of %d events, %v", events, err)
	}
	us.counts("out", 2)
	eu.counts("in", 2)

	// One hop and no more: what was spilled once is not spilled again.
	word := voucher.Issue(eu.opts.Gossip.Identity, "us-east", regions.Request{Model: "mistral"}, time.Now())
	if res, text := ask(proxy.SpillHeader, word); res.StatusCode != http.StatusServiceUnavailable ||
		res.Header.Get(proxy.RegionHeader) != "us-east" || res.Header.Get(proxy.NotStartedHeader) == "" {
		t.Errorf("a request on its second hop: %s from %q: %s", res.Status, res.Header.Get(proxy.RegionHeader), text)
	}
	// Nor does a client get anywhere by saying that it is a region.
	for _, word := range []string{word, "eu-west"} {
		if res, text := ask(proxy.SpillHeader, word); res.StatusCode != http.StatusServiceUnavailable || res.Header.Get(proxy.RegionHeader) != "" {
			t.Errorf("with a bad voucher: %s from %q: %s", res.Status, res.Header.Get(proxy.RegionHeader), text)
		}
	}
	eu.counts("in", 2)

	// Nor does it come back from a region that has lost its pods meanwhile, even
	// if that one would send its own clients here.
	for _, p := range eu.pods {
		p.Crash()
	}
	regionstest.Eventually(t, patience, func() bool { return !eu.ready() }, "eu-west has no pod left")
	eu.spill.heard(rowFrom("eu-west", "mistral", us.target(8)), time.Now())
	if res, text := ask("Rhumb-Max-Wait", "0.3"); res.StatusCode != http.StatusServiceUnavailable || res.Header.Get(proxy.RegionHeader) != "us-east" {
		t.Errorf("with no pod anywhere: %s from %q: %s", res.Status, res.Header.Get(proxy.RegionHeader), text)
	}
	us.counts("out", 4) // both tries were told that there is no room
	regionstest.Eventually(t, patience, func() bool {
		us.spill.mu.Lock()
		defer us.spill.mu.Unlock()
		return len(us.spill.inFlight) == 0
	}, "no place stays taken")
}

// TestSpillOverPassesOverALostRegion has the row's first region refuse
// connections: the client gets its answer from the second.
func TestSpillOverPassesOverALostRegion(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	us := m.start(m.options("us-east", "llama"))
	eu := m.start(m.options("eu-west", "mistral"))
	dead := free(t)
	row := rowFrom("us-east", "mistral", regions.SpillTarget{
		Region: "ap-northeast", Endpoint: regions.Endpoint{Scheme: "http", Host: dead.Addr().String(), Port: dead.Port()}, Budget: regions.Slots(8),
	}, eu.target(8))
	row.Table = 1
	m.sends(us, row)
	for i := range 3 {
		res, text, err := us.do(http.MethodPost, us.url("/v2/models/mistral/generate"), question("q", 2))
		if err != nil || res.StatusCode != http.StatusOK || res.Header.Get(proxy.RegionHeader) != "eu-west" {
			t.Errorf("request %d: %v %s, %v", i, res, text, err)
		}
	}
}

// TestSpillOverWithoutDirectors leaves a gateway to what it knows by itself: it
// learns of the other region from its fellow members.
func TestSpillOverWithoutDirectors(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	eu := m.start(m.options("eu-west", "llama", "mistral"))
	us := m.start(m.options("us-east", "llama"))
	regionstest.Eventually(t, patience, func() bool {
		res, _, err := us.do(http.MethodPost, us.url("/v2/models/mistral/generate"), question("q", 2))
		if err != nil {
			t.Error(err)
			return true
		}
		return res.StatusCode == http.StatusOK && res.Header.Get(proxy.RegionHeader) == "eu-west"
	}, "us-east sends a request on to eu-west")
	// A pod of its own comes first, and when the last is gone the other region.
	from := func() string {
		res, _, err := us.do(http.MethodPost, us.url("/v2/models/llama/generate"), question("q", 2))
		if err != nil || res.StatusCode != http.StatusOK {
			return ""
		}
		return res.Header.Get(proxy.RegionHeader)
	}
	if got := from(); got != "us-east" {
		t.Errorf("with pods of its own, us-east sends a request to %q", got)
	}
	for _, p := range us.pods {
		p.Crash()
	}
	// Until the crashes are noticed a request may try three dead pods and give up.
	regionstest.Eventually(t, patience, func() bool { return from() == "eu-west" }, "without pods of its own it sends requests on")
	if eu.pool.Models(time.Now(), nil)[0].Arrivals == 0 {
		t.Error("eu-west had no arrivals")
	}
}
