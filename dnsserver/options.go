package dnsserver

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Options configures a Server. Start from DefaultOptions.
type Options struct {
	// Zone is what the server is authoritative for.
	Zone Zone
	// Listen are the addresses to serve, "IP:port" each ("192.0.2.1:53",
	// "[2001:db8::1]:53"), over UDP and TCP both. Port 0 picks a free port,
	// the same for the two. A wildcard is one address family: write
	// "0.0.0.0:53" and "[::]:53" for all.
	Listen []string
	// Answerer is asked for what the zone's own records do not settle.
	Answerer Answerer
	// NSID is this server's identity, at most 128 octets, given to those who
	// ask for it (RFC 5001). Empty gives none.
	NSID string
	// Limits bound what clients can make the server spend.
	Limits Limits
	// Logger gets starts, stops and faults, never a query. Nil discards them.
	Logger *slog.Logger
	// Registry gets the rhumb_dns_* metrics. Nil keeps them unregistered.
	Registry *prometheus.Registry
	// ListenPacket opens a UDP socket ("udp4" or "udp6"). Nil opens a real
	// one; a simulated network puts its own here, which must honour
	// deadlines. A socket other than a *net.UDPConn answers from the address
	// it chooses.
	ListenPacket func(ctx context.Context, network, address string) (net.PacketConn, error)
	// ListenStream opens a TCP listener ("tcp4" or "tcp6"), likewise.
	ListenStream func(ctx context.Context, network, address string) (net.Listener, error)
}

// Zone is a zone's own data: what does not depend on who asks.
type Zone struct {
	// Name is the zone's apex, with or without the final dot. Letters,
	// digits, hyphens and underscores only.
	Name string
	// Serial is the SOA serial. It comes from the configuration, so that all
	// servers of a zone give the same one.
	Serial uint32
	// NS are the zone's name servers, at least one.
	NS []NameServer
	// Hostmaster is the mailbox of who runs the zone, "user@host". Empty
	// means hostmaster at the zone itself.
	Hostmaster string
	// Static are fixed records, one each, in zone-file form relative to the
	// zone: `@ 300 IN MX 10 mail`, `www CNAME other.example.`. A record
	// without a TTL has the zone's.
	Static []string
	// Reserved are names (relative, or absolute with a final dot) at and
	// below which no static record may stand: the Answerer's own.
	Reserved []string

	// TTL is that of SOA, NS, the name servers' addresses and static records
	// that name none. Whole seconds, as all below.
	TTL time.Duration
	// Negative is how long resolvers may keep a denial (SOA MINIMUM, RFC 2308).
	Negative time.Duration
	// Refresh, Retry and Expire are the SOA's timers for secondaries. There
	// are none (every server gets the configuration), but validators of
	// delegations look at them.
	Refresh, Retry, Expire time.Duration
}

// NameServer is one of the zone's name servers.
type NameServer struct {
	// Name is relative to the zone ("ns1"), or absolute with a final dot.
	Name string
	// Addrs are its addresses: at least one for a name inside the zone (they
	// are served as A and AAAA and as glue), none for one outside of it.
	Addrs []netip.Addr
}

// Limits bound the server's memory, goroutines and time per client.
type Limits struct {
	// UDPWorkers is the number of goroutines per address that read, answer
	// and send UDP queries.
	UDPWorkers int
	// UDPPayload is the largest UDP reply in octets, and the size that the
	// server advertises. At least 512.
	UDPPayload uint16
	// TCPConns is the most open TCP connections, all addresses together.
	// Beyond it a new connection is closed at once.
	TCPConns int
	// TCPConnsPerSource is the most from one client: an IPv4 address or an
	// IPv6 /64.
	TCPConnsPerSource int
	// TCPPipeline is the most unanswered queries per connection: no more are
	// read until one is answered.
	TCPPipeline int
	// TCPWorkers is the most TCP queries being answered at one time.
	TCPWorkers int
	// TCPIdle closes a connection without a query. While more than half of
	// TCPConns are open it shrinks, to a tenth when they all are.
	TCPIdle time.Duration
	// TCPMessage bounds the time from a query's first octet to its last.
	TCPMessage time.Duration
	// TCPWrite bounds the time to send one reply.
	TCPWrite time.Duration
}

// DefaultOptions returns the options to start from: all but Zone.Name, Serial
// and NS, Listen and Answerer.
func DefaultOptions() Options {
	return Options{
		Zone: Zone{
			// An hour: a name server's address that moves is a planned event.
			TTL: time.Hour,
			// A denial is cached for the whole subtree (RFC 8020), and models
			// appear without warning: a new name is found within 20 s.
			Negative: 20 * time.Second,
			// The least values that zonemaster's delegation checks accept.
			Refresh: 4 * time.Hour,
			Retry:   time.Hour,
			Expire:  7 * 24 * time.Hour,
		},
		Limits: Limits{
			// Answering is computing, so more than one worker a core gains
			// little; four keep a socket busy while one is descheduled.
			UDPWorkers: 4,
			// What fits into IPv6's least MTU of 1280 after the headers:
			// never fragmented (RFC 9715).
			UDPPayload: 1232,
			// At most about 32 KiB each, whatever a client does, 6 KiB when
			// idle: 128 MiB at the very worst.
			TCPConns: 4096,
			// A big resolver holds a few dozen connections to one server.
			TCPConnsPerSource: 64,
			// One round trip's worth of queries from a busy resolver.
			TCPPipeline: 32,
			TCPWorkers:  128,
			// RFC 9210 section 4.1 asks for seconds; resolvers that reuse a
			// connection send the next query well within 10.
			TCPIdle: 10 * time.Second,
			// A query is one segment. 4 s leave room for two lost ones.
			TCPMessage: 4 * time.Second,
			TCPWrite:   4 * time.Second,
		},
	}
}
