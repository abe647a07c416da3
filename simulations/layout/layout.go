// Package layout says what a small world consists of and where it listens:
// three regions of pods, each with an agent, and two directors, on loopback.
package layout

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"

	"github.com/rhumb-lb/rhumb/regions"
)

// Zone is the demo's zone, under a name that is never delegated (RFC 6761).
const Zone = "inference.test"

// The ports of a world at the default port; all move with it.
const (
	defaultPort = 8080 // gateways and redirectors
	dnsPort     = 5300
	adminPort   = 8088
	gossipPort  = 7946
	podPort     = 8000
	grpcPort    = 8001
	openaiPort  = 9000
	metricsPort = 8002
	controlPort = 8089
)

// Directors is how many directors there are; the first also answers on [::1].
const Directors = 2

// PodsPerRegion are enough to lose one and still balance.
const PodsPerRegion = 3

// Place is one of the demo's regions.
type Place struct {
	ID     regions.ID
	At     regions.Location
	Models []string
}

// Places are the demo's regions, in the order of their networks.
var Places = []Place{
	{"us-east", regions.Location{Lat: 38_940_000, Lon: -77_450_000}, []string{"llama", "mistral"}},
	{"eu-west", regions.Location{Lat: 53_350_000, Lon: -6_260_000}, []string{"llama", "mistral"}},
	{"ap-northeast", regions.Location{Lat: 35_680_000, Lon: 139_690_000}, []string{"llama"}},
}

// Layout says where a world's parts listen: a /16 of loopback and the port of
// its gateways, by which all other ports move.
type Layout struct {
	Net  netip.Prefix
	Port uint16
}

// Default is 127.0.0.0/16 at port 8080.
func Default() Layout {
	return Layout{Net: netip.MustParsePrefix("127.0.0.0/16"), Port: defaultPort}
}

// Random is a random /16 of loopback, so that worlds can run beside each
// other.
func Random() Layout {
	l := Default()
	l.Net = netip.PrefixFrom(netip.AddrFrom4([4]byte{127, byte(1 + rand.IntN(254)), 0, 0}), 16)
	return l
}

// Check refuses a layout that is not on loopback or has no room.
func (l Layout) Check() error {
	if !l.Net.IsValid() || !l.Net.Addr().Is4() || l.Net.Bits() != 16 || !l.Net.Addr().IsLoopback() || l.Net != l.Net.Masked() {
		return fmt.Errorf("net %s: want a /16 of loopback, like 127.9.0.0/16", l.Net)
	}
	lowest, highest := dnsPort-defaultPort, openaiPort-defaultPort
	if p := int(l.Port); p+lowest < 1024 || p+highest > 65535 {
		return fmt.Errorf("port %d: want %d to %d, so that all ports that move with it are free for users", l.Port, 1024-lowest, 65535-highest)
	}
	return nil
}

// at is host a.b.x.y of the layout's network at a port that moves with Port.
func (l Layout) at(x, y int, port int) netip.AddrPort {
	b := l.Net.Addr().As4()
	b[2], b[3] = byte(x), byte(y)
	return netip.AddrPortFrom(netip.AddrFrom4(b), uint16(port-defaultPort+int(l.Port)))
}

// Gateway is the address of a region's gateway; regions count from 0.
func (l Layout) Gateway(region int) netip.AddrPort { return l.at(region+1, 1, defaultPort) }

// Redirect is the address of a director's redirector; directors count from 0.
func (l Layout) Redirect(director int) netip.AddrPort { return l.at(0, director+1, defaultPort) }

// DNS is the address of a director's name server.
func (l Layout) DNS(director int) netip.AddrPort { return l.at(0, director+1, dnsPort) }

// Admin is the address of a director's admin API.
func (l Layout) Admin(director int) netip.AddrPort { return l.at(0, director+1, adminPort) }

// Control is where the running demo takes orders.
func (l Layout) Control() netip.AddrPort { return l.at(0, 1, controlPort) }

// DNS6 is the IPv6 address of the first director's name server; only the
// default network has one, since loopback has a single IPv6 address.
func (l Layout) DNS6() (netip.AddrPort, bool) {
	at := netip.AddrPortFrom(netip.IPv6Loopback(), l.DNS(0).Port())
	return at, l.Net == Default().Net && hasIPv6()
}

// AgentAdmin is the address of an agent's admin API.
func (l Layout) AgentAdmin(region int) netip.AddrPort { return l.at(region+1, 1, adminPort) }

// AgentGossip is where an agent gossips.
func (l Layout) AgentGossip(region int) netip.AddrPort { return l.at(region+1, 1, gossipPort) }

// DirectorGossip is where a director gossips.
func (l Layout) DirectorGossip(director int) netip.AddrPort { return l.at(0, director+1, gossipPort) }

// PodHTTP is the address of a pod of a region.
func (l Layout) PodHTTP(region, pod int) netip.AddrPort { return l.at(region+1, 11+pod, podPort) }

// PodGRPC is the address of a pod's gRPC frontend.
func (l Layout) PodGRPC(region, pod int) netip.AddrPort { return l.at(region+1, 11+pod, grpcPort) }

// PodOpenAI is the address of a pod's OpenAI frontend.
func (l Layout) PodOpenAI(region, pod int) netip.AddrPort { return l.at(region+1, 11+pod, openaiPort) }

// PodMetrics is the address of a pod's metrics.
func (l Layout) PodMetrics(region, pod int) netip.AddrPort {
	return l.at(region+1, 11+pod, metricsPort)
}

// RegionAt is the region whose gateway has an address.
func (l Layout) RegionAt(addr netip.Addr) (regions.ID, error) {
	for r, p := range Places {
		if l.Gateway(r).Addr() == addr {
			return p.ID, nil
		}
	}
	return "", fmt.Errorf("%s is the gateway of no region", addr)
}

// RedirectURL is the base of a director's redirector.
func (l Layout) RedirectURL(director int) string { return "http://" + l.Redirect(director).String() }

// GatewayURL is the base of a region's gateway.
func (l Layout) GatewayURL(region int) string { return "http://" + l.Gateway(region).String() }

// hasIPv6 reports whether this machine has ::1.
func hasIPv6() bool {
	l, err := new(net.ListenConfig).ListenPacket(context.Background(), "udp6", "[::1]:0")
	if err != nil {
		return false
	}
	_ = l.Close()
	return true
}

// ErrTaken is the error for addresses that something else uses.
var ErrTaken = errors.New("address in use")

// TryAll binds every address of the layout for a moment and names those that
// are taken, so that a world never starts by half.
func (l Layout) TryAll(ctx context.Context) error {
	type use struct {
		at       netip.AddrPort
		what     string
		udp, tcp bool
	}
	uses := []use{{l.Control(), "the demo's control", false, true}}
	for d := range Directors {
		name := DirectorName(d)
		uses = append(uses, use{l.DNS(d), name + " DNS", true, true}, use{l.Redirect(d), name + " redirect", false, true},
			use{l.Admin(d), name + " admin", false, true}, use{l.DirectorGossip(d), name + " gossip", true, true})
	}
	if at, ok := l.DNS6(); ok {
		uses = append(uses, use{at, DirectorName(0) + " DNS", true, true})
	}
	for r, p := range Places {
		uses = append(uses, use{l.Gateway(r), string(p.ID) + " gateway", false, true},
			use{l.AgentAdmin(r), string(p.ID) + " admin", false, true}, use{l.AgentGossip(r), string(p.ID) + " gossip", true, true})
		for k := range PodsPerRegion {
			name := PodName(p.ID, k)
			uses = append(uses, use{l.PodHTTP(r, k), "pod " + name, false, true}, use{l.PodMetrics(r, k), "pod " + name + " metrics", false, true},
				use{l.PodGRPC(r, k), "pod " + name + " gRPC", false, true}, use{l.PodOpenAI(r, k), "pod " + name + " OpenAI", false, true})
		}
	}
	var errs []error
	for _, u := range uses {
		if err := try(ctx, u.at, u.udp, u.tcp); err != nil {
			errs = append(errs, fmt.Errorf("%w: %s (%s): %w; stop what uses it, or move the demo with --net 127.9.0.0/16 or --port 18080", ErrTaken, u.at, u.what, err))
		}
	}
	return errors.Join(errs...)
}

func try(ctx context.Context, at netip.AddrPort, udp, tcp bool) error {
	var lc net.ListenConfig
	if udp {
		c, err := lc.ListenPacket(ctx, "udp", at.String())
		if err != nil {
			return err
		}
		_ = c.Close()
	}
	if tcp {
		c, err := lc.Listen(ctx, "tcp", at.String())
		if err != nil {
			return err
		}
		_ = c.Close()
	}
	return nil
}

// DirectorName is the name of a director; they count from 0.
func DirectorName(director int) string { return fmt.Sprintf("ns%d", director+1) }

// PodName is the name of a region's pod; they count from 0.
func PodName(region regions.ID, pod int) string { return fmt.Sprintf("%s-%d", region, pod) }
