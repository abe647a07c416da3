// Package gossip keeps the members of a fleet in touch: who is there
// (memberlist: SWIM with a shared key), and what each says of itself (records
// signed by the fleet's certificates).
//
// An agent's status goes straight to every director and to the agents of its
// own region, twice a second and at once when it changes; push/pull repairs
// what is lost. A receiver believes nothing but signatures: a record changes
// something only if a certificate of the fleet signed it, allows it, and it is
// newer than what is known. Ages are the receiver's own measure. Statuses
// outlive the membership of who sent them, so that losing sight of members never
// empties a director's picture.
package gossip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/rhumb-lb/rhumb/gossip/fleet"
	"github.com/rhumb-lb/rhumb/gossip/wire"
	"github.com/rhumb-lb/rhumb/regions"
)

// KeySize is the size of a gossip key in bytes: AES-256-GCM.
const KeySize = 32

// Role is what a member is.
type Role string

// The roles of members, and any of them in an [Audience]. A member whose role
// is of a newer version has the role "unknown".
const (
	RoleAgent    Role = "agent"
	RoleDirector Role = "director"
	AnyRole      Role = ""
)

// EpochStore keeps a member's epoch over restarts. It is asked once by New and
// told of each new epoch before anything is said under it.
type EpochStore interface {
	// Load gives the last saved epoch, 0 if there is none.
	Load() (uint64, error)
	Save(epoch uint64) error
}

// Received is a record of any kind but STATUS whose signature and signer were
// checked. It is shared: readers must not change it.
type Received struct {
	Body *wire.Body
	From *fleet.Cert
	// Heard is by this member's clock, made earlier by the relay's age if the
	// record did not come directly.
	Heard time.Time
}

// Impairment is what a link suffers, for demos and drills.
type Impairment struct {
	Delay time.Duration    // of everything sent, one way
	Loss  regions.Permille // of packets sent
	Cut   bool             // nothing passes, either way, and nobody is told
}

// Options configure a Node. Start from DefaultOptions.
type Options struct {
	// Name is this process's name in the fleet, under which it signs: the name of
	// the certificate, or that, a slash and more ("eu-west/agent-1").
	Name string
	// Identity signs this member's records; its role says whether this is an
	// agent or a director, and of which region.
	Identity *fleet.Identity
	// Roots are the fleet certificates to trust.
	Roots *fleet.Roots

	// Bind is where to listen, TCP and UDP; port 0 takes a free one.
	Bind netip.AddrPort
	// Advertise is what other members connect to; zero is the address bound,
	// which then must not be unspecified. With port 0 the bound port is taken.
	Advertise netip.AddrPort
	// Seeds gives members to join, as "host:port"; names are looked up again and
	// again. Nil is none: this member waits to be joined.
	Seeds func() []string

	// Keys are the shared gossip keys of 32 bytes: the first encrypts, all decrypt.
	Keys [][]byte
	// AllowPlaintext must be set to run without a key. Then anybody who reaches
	// the port is a member (though still unable to sign).
	AllowPlaintext bool
	// Label separates fleets that share a network; at most 255 bytes.
	Label string

	// Epochs keeps the epoch over restarts. Nil keeps it in memory: after a
	// restart this member is ignored until it has met its own last record, which
	// the first to hear of it sends back.
	Epochs EpochStore
	// Memory is what an earlier process of this member knew; see [Node.Memory].
	Memory Memory
	// Forget is how long a status that is not renewed is kept.
	Forget time.Duration

	// Transport replaces the sockets, for tests. Bind, Advertise and Impair must
	// then be zero.
	Transport memberlist.NodeAwareTransport
	// Impair worsens the link to and from an address, if set. It is asked for
	// each packet and connection and must not block.
	Impair func(peer netip.Addr) Impairment

	// OnRecord is given records of other kinds than STATUS, in the order of their
	// arrival, one at a time. Agents are given only spill rows of their own
	// region, and loads of pods only agents, of theirs. While it runs, up to 256 more wait; beyond that they are dropped and
	// counted.
	OnRecord func(Received)
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// Logger is where the node logs; nil discards.
	Logger *slog.Logger
	// Registry takes the metrics; nil keeps them to itself.
	Registry *prometheus.Registry
}

// DefaultOptions are the defaults: everything but name, identity, roots, bind
// and keys.
//
// Forget is 7 days: longer than any outage in which a director should keep
// answering with what it last knew (a long weekend and the working day after),
// shorter than the memory of the people who took a region away.
func DefaultOptions() Options {
	return Options{Forget: 7 * 24 * time.Hour}
}

// StaticSeeds is the Seeds of a fixed list.
func StaticSeeds(addrs ...string) func() []string {
	return func() []string { return addrs }
}

// check reports what would make a member that nobody can hear or believe.
func (o *Options) check(now time.Time) error {
	if o.Identity == nil || o.Roots == nil {
		return errors.New("an identity and the fleet's certificate are needed")
	}
	cert := o.Identity.Cert
	if cert.Role != fleet.RoleRegion && cert.Role != fleet.RoleDirector {
		return fmt.Errorf("the certificate is of a %s; members have one of a region or a director", cert.Role)
	}
	if _, err := o.Roots.Verify(cert.DER, now); err != nil {
		return err
	}
	if !cert.Owns(o.Name) {
		return fmt.Errorf("name %q is not covered by the certificate: want %q, or %q and more", o.Name, cert.Name, cert.Name+"/")
	}
	if o.Forget <= 0 {
		return fmt.Errorf("forgetting statuses after %v; want a time above zero", o.Forget)
	}
	if len(o.Label) > memberlist.LabelMaxSize {
		return fmt.Errorf("label of %d bytes, at most %d allowed", len(o.Label), memberlist.LabelMaxSize)
	}
	if len(o.Keys) == 0 && !o.AllowPlaintext {
		return errors.New("no gossip key, and without one anybody who reaches the port is a member; make one of 32 bytes (rhumb keygen gossip) and give it to every member (gossip.key_file)")
	}
	for i, k := range o.Keys {
		if len(k) != KeySize {
			return fmt.Errorf("gossip key %d has %d bytes, want %d", i+1, len(k), KeySize)
		}
	}
	if o.Transport != nil {
		if o.Bind.IsValid() || o.Advertise.IsValid() || o.Impair != nil {
			return errors.New("a transport was given beside bind, advertise or impair, which are for sockets")
		}
		return nil
	}
	if !o.Bind.IsValid() {
		return errors.New("no address to bind")
	}
	if a := o.Advertise.Addr(); o.Bind.Addr().IsUnspecified() && (!a.IsValid() || a.IsUnspecified()) {
		return fmt.Errorf("bound to %s, which others can't connect to; give an address to advertise", o.Bind)
	}
	return nil
}

// Fixed names, in words, what differs in other options that a running member can't
// change over to: all of them that is plain data. Functions and what keeps state
// (Seeds, Epochs, Memory, Transport, Impair, OnRecord, Now, Logger, Registry) are not
// compared.
func (o *Options) Fixed(other *Options) []string {
	var names []string
	for _, x := range []struct {
		name    string
		differs bool
	}{
		{"its name in the fleet", o.Name != other.Name},
		{"its certificate", !sameIdentity(o.Identity, other.Identity)},
		{"the fleet's certificate", !o.Roots.Equal(other.Roots)},
		{"the gossip addresses", o.Bind != other.Bind || o.Advertise != other.Advertise},
		{"the gossip keys", !slices.EqualFunc(o.Keys, other.Keys, bytes.Equal) || o.AllowPlaintext != other.AllowPlaintext},
		{"the gossip label", o.Label != other.Label},
		{"how long statuses are kept", o.Forget != other.Forget},
	} {
		if x.differs {
			names = append(names, x.name)
		}
	}
	return names
}

func sameIdentity(a, b *fleet.Identity) bool {
	if a == nil || b == nil {
		return a == b
	}
	return bytes.Equal(a.Cert.DER, b.Cert.DER)
}

// role is the member's role by its certificate.
func (o *Options) role() Role {
	return roleOf(o.Identity.Cert)
}

// roleOf is what a certificate's holder is as a member. Operators are none.
func roleOf(c *fleet.Cert) Role {
	switch c.Role {
	case fleet.RoleRegion:
		return RoleAgent
	case fleet.RoleDirector:
		return RoleDirector
	default:
		return Role(c.Role)
	}
}

// region is the agent's region, empty for a director.
func (o *Options) region() regions.ID {
	if o.role() == RoleAgent {
		return regions.ID(o.Identity.Cert.Name)
	}
	return ""
}

// memoryEpochs is the EpochStore of who has no disk.
type memoryEpochs struct{}

func (memoryEpochs) Load() (uint64, error) { return 0, nil }
func (memoryEpochs) Save(uint64) error     { return nil }

// resolver looks up names of seeds.
type resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// config is memberlist's configuration. Where it differs from memberlist's LAN
// defaults:
//   - one probe a second with 700 ms for the answer, above the round trip
//     between any two regions with room for jitter; a death is known in 6 to 14 s,
//     which is why nothing urgent waits for membership;
//   - packets of 1,200 bytes, which pass every tunnel and IPv6 path;
//   - gossip to 4 members each 100 ms, for news of members only, which are rare:
//     so the default 4 retransmissions stay. (With 2, six members that started
//     together needed 3 s to know each other instead of 0.6 s.)
//   - push/pull each 20 s, streams bounded to 5 s;
//   - the dead are told so for a minute, and their names can be used from another
//     address after 10 s (a restarted pod);
//   - a deep hand-off queue, for the burst of statuses after a pause;
//   - no compression: LZW gains little here and widens what strangers can feed.
func (n *Node) config() *memberlist.Config {
	c := memberlist.DefaultLANConfig()
	c.Name, c.Label, c.Transport = n.opts.Name, n.opts.Label, n.transport
	c.ProbeInterval, c.ProbeTimeout, c.SuspicionMult = time.Second, 700*time.Millisecond, 4
	c.GossipInterval, c.GossipNodes = 100*time.Millisecond, 4
	c.PushPullInterval, c.TCPTimeout = 20*time.Second, 5*time.Second
	c.GossipToTheDeadTime, c.DeadNodeReclaimTime = time.Minute, 10*time.Second
	c.UDPBufferSize, c.HandoffQueueDepth, c.EnableCompression = packetSize, 4096, false
	// A member of delegate version N speaks with those of N-1 and N+1.
	c.DelegateProtocolVersion = regions.ProtocolVersion
	c.DelegateProtocolMin, c.DelegateProtocolMax = regions.ProtocolVersion-1, regions.ProtocolVersion+1
	c.Delegate, c.Events, c.Alive = (*delegate)(n), n.members, n.members
	c.Logger = slog.NewLogLogger(logHandler{n.log.Handler()}, slog.LevelInfo)
	return c
}

// logHandler turns memberlist's lines, "[LEVEL] memberlist: text", into records
// of that level.
type logHandler struct{ slog.Handler }

// levels of memberlist's lines. It calls an error what one peer or one lost
// packet causes; to an operator that is at most worth a look.
var levels = []struct {
	prefix string
	level  slog.Level
}{
	{"[DEBUG] ", slog.LevelDebug},
	{"[INFO] ", slog.LevelInfo},
	{"[WARN] ", slog.LevelInfo},
	{"[ERR] ", slog.LevelWarn},
	{"[ERROR] ", slog.LevelWarn},
}

// Enabled is decided by Handle, which knows the level.
func (h logHandler) Enabled(context.Context, slog.Level) bool { return true }

// Handle logs one line.
func (h logHandler) Handle(ctx context.Context, r slog.Record) error {
	for _, l := range levels {
		if rest, ok := strings.CutPrefix(r.Message, l.prefix); ok {
			r.Message, r.Level = rest, l.level
			break
		}
	}
	if !h.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	r.Message = "memberlist: " + strings.TrimPrefix(r.Message, "memberlist: ")
	return h.Handler.Handle(ctx, r)
}
