package dnsserver

import (
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
)

// dropReason is why a message is not answered.
type dropReason string

const (
	dropNot      dropReason = ""
	dropShort    dropReason = "short"    // less than a header
	dropLong     dropReason = "long"     // over TCP, longer than any query
	dropResponse dropReason = "response" // QR=1
	dropUnready  dropReason = "unready"  // the Answerer has nothing to go by
	dropSource   dropReason = "source"   // from port 0 or no IP address: nowhere to send to
	dropSend     dropReason = "send"     // the reply could not be sent
)

// Why a TCP connection ended.
const (
	closedDone    = "done"         // by the client, or the server stopped
	closedIdle    = "idle"         // no query for Limits.TCPIdle
	closedSlow    = "slow"         // a query not whole in Limits.TCPMessage
	closedWrite   = "write"        // a reply not taken in Limits.TCPWrite
	closedTotal   = "limit_total"  // over Limits.TCPConns
	closedSource  = "limit_source" // over Limits.TCPConnsPerSource
	closedUnready = "unready"      // a query dropped: silence would hold the client
)

// qtypeLabels bounds the type label: any other type is "other".
var qtypeLabels = map[uint16]string{
	dns.TypeNone: "none",
	dns.TypeA:    "A", dns.TypeAAAA: "AAAA", dns.TypeTXT: "TXT", dns.TypeSOA: "SOA", dns.TypeNS: "NS",
	dns.TypeHTTPS: "HTTPS", dns.TypeSVCB: "SVCB", dns.TypeCNAME: "CNAME", dns.TypeMX: "MX", dns.TypeCAA: "CAA",
	dns.TypeSRV: "SRV", dns.TypePTR: "PTR", dns.TypeDS: "DS", dns.TypeDNSKEY: "DNSKEY",
	dns.TypeANY: "ANY", dns.TypeAXFR: "AXFR", dns.TypeIXFR: "IXFR",
}

// rcodeLabels are the codes that the server gives.
var rcodeLabels = map[int]string{
	dns.RcodeSuccess: "NOERROR", dns.RcodeFormatError: "FORMERR", dns.RcodeServerFailure: "SERVFAIL",
	dns.RcodeNameError: "NXDOMAIN", dns.RcodeNotImplemented: "NOTIMP", dns.RcodeRefused: "REFUSED",
	dns.RcodeBadVers: "BADVERS",
}

// metrics are the server's counters. Labels have few values, all from here.
type metrics struct {
	queries    *prometheus.CounterVec
	dropped    *prometheus.CounterVec
	truncation *prometheus.CounterVec
	duration   [transports]prometheus.Observer
	durations  *prometheus.HistogramVec
	panics     prometheus.Counter
	packErrors prometheus.Counter
	sockets    *prometheus.CounterVec
	conns      prometheus.Gauge
	closed     *prometheus.CounterVec
}

// newMetrics makes the metrics and registers them, if there is a registry.
func newMetrics(registry *prometheus.Registry) (*metrics, error) {
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	m := &metrics{
		queries:    vec("rhumb_dns_queries_total", "Queries that were answered, by transport, type and response code.", "transport", "qtype", "rcode"),
		dropped:    vec("rhumb_dns_dropped_total", "Messages that were not answered, by transport and reason.", "transport", "reason"),
		truncation: vec("rhumb_dns_truncated_total", "Replies with the TC bit, by transport.", "transport"),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "rhumb_dns_query_duration_seconds",
			Help: "Time from reading a message to having its reply, by transport.",
			// 5 us (a reply from memory) to 20 ms (something is wrong).
			Buckets: prometheus.ExponentialBuckets(5e-6, 4, 7),
		}, []string{"transport"}),
		panics:     prometheus.NewCounter(prometheus.CounterOpts{Name: "rhumb_dns_panics_total", Help: "Panics while answering one message, recovered."}),
		packErrors: prometheus.NewCounter(prometheus.CounterOpts{Name: "rhumb_dns_pack_errors_total", Help: "Replies that could not be packed and became SERVFAIL."}),
		sockets:    vec("rhumb_dns_socket_errors_total", "Errors of listening sockets, by transport.", "transport"),
		conns:      prometheus.NewGauge(prometheus.GaugeOpts{Name: "rhumb_dns_tcp_connections", Help: "Open TCP connections."}),
		closed:     vec("rhumb_dns_tcp_closed_total", "TCP connections closed, by reason.", "reason"),
	}
	for via := range transports {
		m.duration[via] = m.durations.WithLabelValues(via.String())
	}
	if registry == nil {
		return m, nil
	}
	for _, c := range m.all() {
		if err := registry.Register(c); err != nil {
			return nil, fmt.Errorf("register DNS metrics (one server per registry): %w", err)
		}
	}
	return m, nil
}

// all returns the collectors to register.
func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.queries, m.dropped, m.truncation, m.durations, m.panics, m.packErrors, m.sockets, m.conns, m.closed}
}

func (m *metrics) answered(via transport, qtype uint16, rcode int) {
	label, ok := qtypeLabels[qtype]
	if !ok {
		label = "other"
	}
	m.queries.WithLabelValues(via.String(), label, rcodeLabels[rcode]).Inc()
}

func (m *metrics) drop(via transport, reason dropReason) {
	m.dropped.WithLabelValues(via.String(), string(reason)).Inc()
}

func (m *metrics) truncated(via transport) { m.truncation.WithLabelValues(via.String()).Inc() }

func (m *metrics) took(via transport, since time.Time) {
	m.duration[via].Observe(time.Since(since).Seconds())
}

// panics logs each kind of panic once: a query that panics can be sent a
// thousand times a second.
type panics struct {
	mu   sync.Mutex
	seen map[string]bool // by place in the code, under mu
}

// log reports where a panic came from. Its value may hold a piece of a query
// or a secret, so only an error of the Go runtime is quoted: its text has
// types and indices and no data.
func (p *panics) log(log *slog.Logger, fault any) {
	place := panicPlace()
	p.mu.Lock()
	again := p.seen[place]
	if p.seen == nil {
		p.seen = make(map[string]bool)
	}
	p.seen[place] = true
	p.mu.Unlock()
	if again {
		return
	}
	what := fmt.Sprintf("%T", fault)
	if err, ok := fault.(runtime.Error); ok {
		what = err.Error()
	}
	log.Error("answering a query panicked; further panics at this place are only counted", "at", place, "panic", what)
}

// panicPlace returns the function and line that panicked: the first frame
// below the runtime's, called from within a recovering deferred function.
func panicPlace() string {
	pcs := make([]uintptr, 32)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(1, pcs)])
	panicking := false
	for {
		frame, more := frames.Next()
		inRuntime := strings.HasPrefix(frame.Function, "runtime.")
		if panicking && !inRuntime {
			return fmt.Sprintf("%s:%d", frame.Function, frame.Line)
		}
		panicking = panicking || inRuntime
		if !more {
			return "unknown"
		}
	}
}
