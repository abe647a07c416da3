package node

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/rhumb-lb/rhumb/director"
	"github.com/rhumb-lb/rhumb/dnsserver"
	"github.com/rhumb-lb/rhumb/regions"
)

// How many addresses of each family the property of scopes is checked on, and
// how many more are drawn inside of each scope that comes back.
const (
	draws4 = 100_000
	draws6 = 20_000
	inside = 3
)

// TestScopes checks what resolvers rely on when they keep an answer for all
// clients in its scope: every address inside gets the same one, and scopes are
// equal or disjoint. Some countries are split over two regions here.
func TestScopes(t *testing.T) {
	t.Parallel()
	r := three(t)
	a := r.answers()
	if pure, split := cellKinds(t, r, "llama"); pure == 0 || split == 0 {
		t.Fatalf("%d cells are one region's and %d are split; want some of both", pure, split)
	}
	for _, name := range []string{"llama.inference.test.", "inference.test."} {
		t.Run(name, func(t *testing.T) {
			s := scopes{t: t, a: a, name: name, rand: rand.New(rand.NewPCG(1, 2)), seen: map[netip.Prefix]*dnsserver.Answer{}}
			for range draws4 {
				s.draw(s.random(netip.MustParsePrefix("0.0.0.0/0")))
			}
			for i := range draws6 {
				within := netip.MustParsePrefix("::/0")
				if i%4 != 0 { // most of what is allocated
					within = allocated6[s.rand.IntN(len(allocated6))]
				}
				s.draw(s.random(within))
			}
			s.check()
		})
	}
}

var allocated6 = []netip.Prefix{
	netip.MustParsePrefix("2001::/16"), netip.MustParsePrefix("2400::/12"), netip.MustParsePrefix("2600::/12"),
	netip.MustParsePrefix("2800::/12"), netip.MustParsePrefix("2a00::/11"), netip.MustParsePrefix("2c00::/12"),
}

// cellKinds counts the cells that one region has whole and those that are split.
func cellKinds(t *testing.T, r *rig, model regions.ModelName) (pure, split int) {
	t.Helper()
	table := r.world.Load().table
	for _, cell := range r.cells {
		e, ok := director.Explain(table, model, regions.Client{Unit: netip.MustParsePrefix("192.0.2.0/24"), Cell: cell.ID})
		if !ok {
			t.Fatalf("no decision for cell %s", cell.ID)
		}
		if len(e.Shares) == 1 {
			pure++
		} else {
			split++
		}
	}
	return pure, split
}

// scopes collects what was answered for which block of addresses.
type scopes struct {
	t    *testing.T
	a    *answerer
	name string
	rand *rand.Rand
	seen map[netip.Prefix]*dnsserver.Answer
	kept int // answers that hold for a single unit
}

// ask looks an address up and gives the block that the answer holds for.
func (s *scopes) ask(addr netip.Addr) (*dnsserver.Answer, netip.Prefix) {
	s.t.Helper()
	answer, bits, result := s.a.Lookup(s.name, netip.PrefixFrom(addr, addr.BitLen()))
	unit := regions.Unit(addr)
	if result != dnsserver.Found || answer == nil {
		s.t.Fatalf("%s: %v", addr, result)
	}
	if int(bits) > unit.Bits() || bits == 0 {
		s.t.Fatalf("%s has a scope of %d bits, want 1 to %d", addr, bits, unit.Bits())
	}
	scope, err := addr.Prefix(int(bits))
	if err != nil {
		s.t.Fatal(err)
	}
	return answer, scope
}

// draw looks an address up, and then others inside of its scope.
func (s *scopes) draw(addr netip.Addr) {
	s.t.Helper()
	answer, scope := s.ask(addr)
	if old, again := s.seen[scope]; again && old != answer {
		s.t.Fatalf("%s gets another answer than others in its scope %s", addr, scope)
	}
	s.seen[scope] = answer
	if scope == regions.Unit(addr) {
		s.kept++
	}
	for range inside {
		other := s.random(scope)
		if again, around := s.ask(other); again != answer || around != scope {
			s.t.Fatalf("%s is in the scope %s of %s, but has another answer or the scope %s", other, scope, addr, around)
		}
	}
}

// random is a random address of a block.
func (s *scopes) random(in netip.Prefix) netip.Addr {
	b := in.Addr().AsSlice()
	for i := range b {
		fixed := min(max(in.Bits()-8*i, 0), 8) // bits of this byte that are the block's
		mask := byte(0xff >> fixed)
		b[i] = b[i]&^mask | byte(s.rand.Uint32())&mask
	}
	addr, _ := netip.AddrFromSlice(b)
	return addr
}

// check finds scopes inside of others.
func (s *scopes) check() {
	s.t.Helper()
	for scope := range s.seen {
		for bits := range scope.Bits() {
			around, err := scope.Addr().Prefix(bits)
			if err != nil {
				s.t.Fatal(err)
			}
			if _, both := s.seen[around]; both {
				s.t.Fatalf("scope %s lies in scope %s", scope, around)
			}
		}
	}
	s.t.Logf("%d scopes, %d answers for single units", len(s.seen), s.kept)
	if s.kept == 0 || s.kept == draws4+draws6 {
		s.t.Errorf("%d answers of %d are for single units; want some of both", s.kept, draws4+draws6)
	}
}

// TestClientsAreUnits sends what resolvers send: prefixes of any length, and IPv4
// in IPv6 form, of which the scope must be in that form too.
func TestClientsAreUnits(t *testing.T) {
	t.Parallel()
	a := three(t).answers()
	for _, same := range [][]string{
		{"81.2.69.0/24", "81.2.69.160/32", "81.2.69.255/32", "::ffff:81.2.69.160/128", "::ffff:81.2.69.0/120"},
		{"2003:0:1::/48", "2003:0:1:2::3/128", "2003:0:1:ff00::/56"},
		{"133.0.0.0/8", "133.0.0.0/24", "133.0.0.1/32"},
	} {
		for _, name := range []string{"llama.inference.test.", "inference.test."} {
			want, scope, _ := a.Lookup(name, netip.MustParsePrefix(same[0]))
			for _, client := range same[1:] {
				client := netip.MustParsePrefix(client)
				got, bits, result := a.Lookup(name, client)
				if client.Addr().Is4In6() {
					bits -= 96
				}
				if got != want || bits != scope || result != dnsserver.Found {
					t.Errorf("%s: %s and %s differ: %v in /%d, not /%d", name, same[0], client, result, bits, scope)
				}
			}
		}
	}
}
