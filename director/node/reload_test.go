package node

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/director/geo"
	"github.com/rhumb-lb/rhumb/director/redirect"
	"github.com/rhumb-lb/rhumb/dnsserver/dnstest"
	"github.com/rhumb-lb/rhumb/gossip"
	"github.com/rhumb-lb/rhumb/gossip/fleet"
	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/regionstest"
)

// placed is the geography with 203.0.113.0/24 in a country.
func placed(t *testing.T, country string) *geo.Map {
	t.Helper()
	m, err := geo.Default()
	if err == nil {
		m, err = m.WithOverrides([]geo.Override{{Prefix: netip.MustParsePrefix("203.0.113.0/24"), Country: country}})
	}
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// answers are all that a reload can change, as seen from outside.
type answers struct {
	SOA    string // the serial
	Status string // the static record
	Host   string // rcode of a configured host
	Server string // rcode of a second name server's name
	TTL    time.Duration
	Why    bool
	To     string // where a client of the override is redirected
	Serial int64  // of the redirector's certificate
	Admin  int    // without a token
}

// reloadable is a director with TLS and two regions.
type reloadable struct {
	*running
	eu, us *agent
}

// txt asks for a name's TXT records.
func (r *reloadable) txt(name string) string {
	r.t.Helper()
	reply, err := r.ask(dnstest.Query{Name: name, Type: "TXT"})
	if err != nil {
		r.t.Fatal(err)
	}
	return strings.Join(reply.TXT, " ")
}

func (r *reloadable) reply(name, kind string) dnstest.Reply {
	r.t.Helper()
	reply, err := r.ask(dnstest.Query{Name: name, Type: kind})
	if err != nil {
		r.t.Fatal(err)
	}
	return reply
}

// redirected asks the redirector as a client of the override.
func (r *reloadable) redirected(x *http.Transport) (to string, serial int64, err error) {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "https://"+r.listeners[0].Addr().String()+"/v2/models/llama", nil)
	if err != nil {
		return "", 0, err
	}
	req.Header.Set("X-Forwarded-For", "203.0.113.9")
	res, err := x.RoundTrip(req)
	if err != nil {
		return "", 0, err
	}
	text, err := io.ReadAll(res.Body)
	if err := errors.Join(err, res.Body.Close()); err != nil {
		return "", 0, err
	}
	if res.StatusCode != http.StatusTemporaryRedirect {
		return "", 0, fmt.Errorf("%s: %s", res.Status, text)
	}
	to = strings.TrimSuffix(res.Header.Get("Location"), "/v2/models/llama")
	for name, a := range map[string]*agent{"eu-west": r.eu, "us-east": r.us} {
		to = strings.Replace(to, a.endpoint.URL(), name, 1)
	}
	return to, res.TLS.PeerCertificates[0].SerialNumber.Int64(), nil
}

func insecure() *tls.Config {
	return &tls.Config{InsecureSkipVerify: true} //nolint:gosec // the test looks at the certificate itself
}

// now looks at everything.
func (r *reloadable) now() answers {
	r.t.Helper()
	x := &http.Transport{TLSClientConfig: insecure()}
	defer x.CloseIdleConnections()
	var a answers
	var err error
	if a.To, a.Serial, err = r.redirected(x); err != nil {
		r.t.Fatal(err)
	}
	if soa := strings.Fields(strings.Join(r.reply("inference.test", "SOA").Answer, " ")); len(soa) > 6 {
		a.SOA = soa[6]
	}
	a.Status, a.Why = r.txt("status.inference.test"), r.txt("_why.llama.inference.test") != ""
	a.Host, a.Server = r.reply("chat.inference.test", "A").Rcode, r.reply("ns2.inference.test", "A").Rcode
	a.TTL = r.reply("llama.inference.test", "A").TTL
	res, _ := get(r.t, r.adminURL()+"/api/v1/regions")
	a.Admin = res.StatusCode
	return a
}

// becomes waits until all is as wanted: routed answers follow with the next plan.
func (r *reloadable) becomes(want answers) {
	r.t.Helper()
	var got answers
	defer func() {
		if got != want {
			r.t.Errorf("got  %+v\nwant %+v", got, want)
		}
	}()
	regionstest.Eventually(r.t, patience, func() bool {
		got = r.now()
		return got == want
	}, "the director answers by its new options")
}

// reload starts a director that answers by some options, and gives others that
// differ in all that a reload can change.
func reload(t *testing.T) (r *reloadable, before, after Options) {
	t.Helper()
	m := newMembers(t)
	before = m.options()
	before.Zone.Static = []string{`status TXT "one"`}
	before.Geo, before.RedirectTLS = placed(t, "DE"), regionstest.Certificate(t, 1)
	r = &reloadable{running: m.director(before)}
	r.eu = m.agent("eu-west", dublin, serves("llama", 24, 2))
	r.us = m.agent("us-east", virginia, serves("llama", 24, 0))
	regionstest.Eventually(t, patience, func() bool { return len(r.Table().Regions) == 2 && r.Ready() == nil }, "the director hears of both regions")

	after = before
	after.Zone.Serial, after.Zone.Static = 8, []string{`status TXT "two"`}
	after.Zone.NS = append(after.Zone.NS[:1:1], after.Zone.NS[0])
	after.Zone.NS[1].Name = "ns2"
	after.Hosts, after.TTL, after.Why = []Host{{"chat", regions.Apex}}, 30*time.Second, false
	after.Geo, after.RedirectTLS = placed(t, "US"), regionstest.Certificate(t, 2)
	after.Location = redirect.ByName
	after.Admin.Token = "secret"
	return r, before, after
}

// What they answer.
var (
	answersBefore = answers{SOA: "7", Status: `one`, Host: "NXDOMAIN", Server: "NXDOMAIN", TTL: 20 * time.Second, Why: true, To: "eu-west", Serial: 1, Admin: 200}
	answersAfter  = answers{SOA: "8", Status: `two`, Host: "NOERROR", Server: "NOERROR", TTL: 30 * time.Second, To: "http://us-east.route.inference.test", Serial: 2, Admin: 401}
)

func TestReloadChangesAll(t *testing.T) {
	t.Parallel()
	r, before, after := reload(t)
	r.becomes(answersBefore)
	if err := r.Reload(after); err != nil {
		t.Fatal(err)
	}
	r.becomes(answersAfter)

	// Who is not trusted can't say who the client is.
	alone := after
	alone.TrustedProxies, alone.Geo = nil, placed(t, "DE")
	if err := r.Reload(alone); err != nil {
		t.Fatal(err)
	}
	unknown, err := r.answerer.Decide("llama", true, netip.MustParseAddr("127.0.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	want := answersAfter
	want.To = "http://" + string(unknown.Candidates[0].Region) + ".route.inference.test"
	r.becomes(want)

	if err := r.Reload(before); err != nil {
		t.Fatal(err)
	}
	r.becomes(answersBefore)
}

// TestReloadChangesNothing: options in which one thing is wrong, or can't change,
// change none of the others.
func TestReloadChangesNothing(t *testing.T) {
	t.Parallel()
	r, _, after := reload(t)
	r.becomes(answersBefore)
	another := newMembers(t)
	for want, spoil := range map[string]func(*Options){
		"TTL must be between":                func(o *Options) { o.TTL = time.Hour },
		"no address for DNS":                 func(o *Options) { o.DNS = nil },
		"only a restart can switch TLS on":   func(o *Options) { o.RedirectTLS = nil },
		"without TLS and a token":            func(o *Options) { o.Admin.Listen = "0.0.0.0:8088" },
		"no name server":                     func(o *Options) { o.Zone.NS = nil },
		"status":                             func(o *Options) { o.Zone.Static = []string{"status A not-an-address"} },
		"route":                              func(o *Options) { o.Zone.Static = []string{"route A 192.0.2.1"} },
		"location":                           func(o *Options) { o.Location = "nearest" },
		"can change the zone's name":         func(o *Options) { o.Zone.Name = "other.test" },
		"can change DNS listeners":           func(o *Options) { o.DNS = []string{"127.0.0.1:1"} },
		"can change redirect listeners":      func(o *Options) { o.Redirect = nil },
		"can change the admin listener":      func(o *Options) { o.Admin.Listen = "127.0.0.1:1" },
		"can change the state file":          func(o *Options) { o.StateFile = "elsewhere" },
		"can change its name in the fleet":   func(o *Options) { o.Gossip.Name = "ns1/other" },
		"can change the gossip keys":         func(o *Options) { o.Gossip.Keys = [][]byte{bytes.Repeat([]byte{8}, gossip.KeySize)} },
		"can change the gossip addresses":    func(o *Options) { o.Gossip.Advertise = netip.MustParseAddrPort("127.0.0.1:1") },
		"can change the gossip label":        func(o *Options) { o.Gossip.Label = "other" },
		"can change the fleet's certificate": func(o *Options) { o.Gossip.Roots = fleet.NewRoots(another.fleet) },
		"can change its certificate": func(o *Options) {
			o.Gossip.Identity = another.gossip("ns1", fleet.Request{Role: fleet.RoleDirector, Name: "ns1"}).Identity
		},
	} {
		o := after
		spoil(&o)
		if err := r.Reload(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
		if r.mind.wanted.Load() != nil {
			t.Errorf("%s: and yet the mind is to change", want)
		}
	}
	if got := r.now(); got != answersBefore {
		t.Errorf("after bad reloads %+v\nwant %+v", got, answersBefore)
	}
}

// TestReloadKnowsEveryOption: each field of Options is one that a reload takes,
// compares or is said to leave alone, so that a new one is not forgotten.
func TestReloadKnowsEveryOption(t *testing.T) {
	known := map[string]bool{}
	for _, name := range strings.Fields(`Zone Hosts TTL RouteAddrs Location Scheme Port RedirectTLS Admin TrustedProxies Why Geo
		DNS Redirect StateFile Gossip ProbeTLS Dial Now Logger Registry OnPlan`) {
		known[name] = true
	}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[Options]()) {
		if !known[f.Name] {
			t.Errorf("Reload does not know the option %s", f.Name)
		}
		delete(known, f.Name)
	}
	if len(known) > 0 {
		t.Errorf("there are no options %v", known)
	}
}

// load is what clients do all the time.
type load struct {
	done, failed atomic.Int64
	stop         chan struct{}
	all          sync.WaitGroup
}

// begin repeats something until the load ends.
func (l *load) begin(t *testing.T, do func() error) {
	l.all.Go(func() {
		for {
			select {
			case <-l.stop:
				return
			default:
			}
			if err := do(); err != nil {
				l.failed.Add(1)
				t.Errorf("failed: %v", err)
				return
			}
			l.done.Add(1)
		}
	})
}

// TestHundredReloadsUnderLoad reloads a director a hundred times between two
// configurations, while clients ask by UDP, by TCP and the redirector. Nobody is
// left without an answer, and then the last configuration is in force.
func TestHundredReloadsUnderLoad(t *testing.T) {
	t.Parallel()
	r, before, after := reload(t)
	r.becomes(answersBefore)
	traffic := load{stop: make(chan struct{})}
	asks := func(q dnstest.Query, least int) func() error {
		return func() error {
			reply, err := r.ask(q)
			if err == nil && (reply.Rcode != "NOERROR" || len(reply.Addrs)+len(reply.TXT) < least) {
				err = fmt.Errorf("%s: %+v", q.Name, reply)
			}
			return err
		}
	}
	british := netip.MustParsePrefix("81.2.69.0/24")
	traffic.begin(t, asks(dnstest.Query{Name: "llama.inference.test", Subnet: british}, 1))
	traffic.begin(t, asks(dnstest.Query{Name: "inference.test", Subnet: british, TCP: true}, 1))
	traffic.begin(t, asks(dnstest.Query{Name: "status.inference.test", Type: "TXT"}, 1))
	traffic.begin(t, asks(dnstest.Query{Name: "eu-west.region.inference.test"}, 1))
	kept, fresh := &http.Transport{TLSClientConfig: insecure(), ForceAttemptHTTP2: true}, &http.Transport{TLSClientConfig: insecure(), DisableKeepAlives: true}
	for _, x := range []*http.Transport{kept, fresh} {
		traffic.begin(t, func() error {
			_, _, err := r.redirected(x)
			return err
		})
	}
	for n := range 100 {
		o := before
		if n%2 == 1 {
			o = after
		}
		done := traffic.done.Load()
		if err := r.Reload(o); err != nil {
			t.Fatal(err)
		}
		regionstest.Eventually(t, patience, func() bool { return traffic.done.Load() >= done+6 || traffic.failed.Load() > 0 }, "answers go on")
	}
	close(traffic.stop)
	traffic.all.Wait()
	kept.CloseIdleConnections()
	if done, failed := traffic.done.Load(), traffic.failed.Load(); failed != 0 || done < 600 {
		t.Errorf("%d answers, %d failed; want 600 at least, and 0", done, failed)
	}
	r.becomes(answersAfter)
}
