package node

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rhumb-lb/rhumb/director"
	"github.com/rhumb-lb/rhumb/director/geo"
	"github.com/rhumb-lb/rhumb/director/node/statefile"
	"github.com/rhumb-lb/rhumb/dnsserver"
	"github.com/rhumb-lb/rhumb/regions"
)

// world is all that answers are made from, immutable and swapped whole.
type world struct {
	table  *director.Table
	geo    *geo.Map
	names  map[string]target // relative to the zone
	labels map[string]regions.ModelName
	// route is where the directors' redirectors are.
	route []netip.Addr
	// synced is false until enough of the fleet was heard of: before that nothing
	// is known of learnt names.
	synced bool
	gen    uint64
	// control and learnt are what is kept over a restart besides the statuses.
	control director.Control
	learnt  []statefile.Name

	// answers are answerKey → *dnsserver.Answer: same pointer, same bytes. Worlds of
	// one generation share them.
	answers *sync.Map
}

// answerKey names everything that an answer's bytes depend on within a
// generation.
type answerKey struct {
	name  target
	cell  regions.CellID
	first regions.ID
}

// firstSync is how long a director that knows nothing yet stays silent, so that
// resolvers ask another one, before it answers what its configuration says.
const firstSync = 10 * time.Second

// answerer answers the name server from the current world.
type answerer struct {
	zone    string // absolute, lower case
	started time.Time
	now     func() time.Time
	world   *atomic.Pointer[world]
	decided func(regions.ModelName, regions.CellID)
	name    string // of this director, for _why
}

// Generation implements dnsserver.Answerer.
func (a *answerer) Generation() uint64 { return a.world.Load().gen }

// Lookup implements dnsserver.Answerer.
func (a *answerer) Lookup(name string, client netip.Prefix) (*dnsserver.Answer, uint8, dnsserver.Result) {
	w := a.world.Load()
	rel := strings.TrimSuffix(strings.TrimSuffix(name, a.zone), ".")
	t, ok := w.names[rel]
	switch {
	case !w.synced && a.now().Sub(a.started) < firstSync:
		return nil, 0, dnsserver.Unready
	case !ok && !w.synced:
		return nil, 0, dnsserver.Unsure
	case !ok:
		return nil, 0, dnsserver.NotFound
	case t.nothing:
		return nil, 0, dnsserver.Empty
	case t.route:
		return w.fixed(t, w.route), 0, dnsserver.Found
	case t.region != "":
		return w.fixed(t, addrsOf(w.table.Place(t.region).Endpoints)), 0, dnsserver.Found
	}
	where := w.geo.Locate(client.Addr())
	d, ok := director.Decide(w.table, t.model, where)
	if !ok {
		return nil, 0, dnsserver.Unsure // configured, but no region was ever heard of
	}
	if t.why {
		return a.why(&d), scope(client, d.Client.Unit), dnsserver.Found
	}
	a.decided(t.model, d.Client.Cell)
	if d.Wide {
		return w.answer(t, &d), scope(client, d.Client.Scope), dnsserver.Found
	}
	return w.answer(t, &d), scope(client, d.Client.Unit), dnsserver.Found
}

// scope is the length of the block for which a decision holds, in the family in
// which the client was given: one that is IPv4 in IPv6 form is decided as IPv4.
func scope(client, block netip.Prefix) uint8 {
	bits := block.Bits()
	if client.Addr().Is4In6() {
		bits += 96
	}
	return uint8(bits)
}

func (w *world) answer(t target, d *director.Decision) *dnsserver.Answer {
	key := answerKey{t, d.Client.Cell, d.Candidates[0].Region}
	if a, ok := w.answers.Load(key); ok {
		return a.(*dnsserver.Answer)
	}
	a := &dnsserver.Answer{TTL: d.TTL, Stale: d.AllLost}
	for i, c := range d.Candidates {
		for _, e := range c.Endpoints {
			a.Targets = append(a.Targets, dnsserver.Target{Addrs: e.Addrs, Port: e.Port, Priority: uint16(i + 1)})
		}
	}
	kept, _ := w.answers.LoadOrStore(key, a)
	return kept.(*dnsserver.Answer)
}

// fixed is an answer that is the same for every client.
func (w *world) fixed(t target, addrs []netip.Addr) *dnsserver.Answer {
	key := answerKey{name: t}
	if a, ok := w.answers.Load(key); ok {
		return a.(*dnsserver.Answer)
	}
	a := &dnsserver.Answer{TTL: w.table.TTL, Targets: []dnsserver.Target{{Addrs: addrs, Priority: 1}}}
	kept, _ := w.answers.LoadOrStore(key, a)
	return kept.(*dnsserver.Answer)
}

func addrsOf(endpoints []regions.Endpoint) []netip.Addr {
	var out []netip.Addr
	for _, e := range endpoints {
		out = append(out, e.Addrs...)
	}
	return out
}

// why tells the asker what was decided for it. Its TTL is 0: it is for people.
func (a *answerer) why(d *director.Decision) *dnsserver.Answer {
	c := d.Candidates[0]
	return &dnsserver.Answer{TXT: []string{
		"decision=" + d.ID,
		"director=" + a.name,
		"client=" + d.Client.Unit.String(),
		"cell=" + string(d.Client.Cell),
		"region=" + string(c.Region),
		fmt.Sprintf("rtt=%v", c.RTT.Duration().Round(time.Millisecond)),
		"reason=" + c.Reason,
	}}
}

// canonical is a zone's name as the name server hands it over: lower case, with
// the final dot.
func canonical(zone string) string {
	return strings.ToLower(strings.TrimSuffix(zone, ".")) + "."
}
