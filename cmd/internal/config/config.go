// Package config reads the one YAML file that configures an agent or a
// director. It is strict: an unknown key, a wrong unit, a duplicate or an
// impossible value is a [Problem] that names file, line and key and says what
// to do, and all problems of a file are reported at once.
//
// A setting's value comes from, in rising order: its default (the tag beside
// the field below), the file, the environment variable RHUMB_SECTION_KEY, the
// flag --set section.key=value. A field with the tag reload:"live" can change while
// a daemon runs, all others by a restart. Names that a user chooses (models, regions,
// hosts) are values of list items, never map keys. This is the only package that
// uses viper; package strict below it reads the YAML.
package config

import (
	"net/netip"
	"time"
)

// Config is one file's settings, checked and with defaults filled in. It is
// plain data.
type Config struct {
	Log    Log    `mapstructure:"log"`
	Admin  Admin  `mapstructure:"admin"`
	Gossip Gossip `mapstructure:"gossip"`
	Fleet  Fleet  `mapstructure:"fleet"`
	Zone   Zone   `mapstructure:"zone"`
	// TrustedProxies are the networks whose X-Forwarded-For is believed. Empty
	// believes nobody: a client could otherwise choose its own place.
	TrustedProxies []netip.Prefix `mapstructure:"trusted_proxies" reload:"live"`
	// Director is nil unless the file has a director section.
	Director *Director `mapstructure:"director"`
	// Agent is nil unless the file has an agent section.
	Agent *Agent `mapstructure:"agent"`
}

// Log says how a daemon logs; it always writes to standard error.
type Log struct {
	Level  string `mapstructure:"level" default:"info" reload:"live"` // debug, info, warn or error
	Format string `mapstructure:"format" default:"text"`              // text or json
}

// TLS names a certificate and its key, both PEM. Both empty means no TLS.
type TLS struct {
	CertFile string `mapstructure:"cert_file"`
	KeyFile  string `mapstructure:"key_file"`
}

// Admin is the daemon's own API with /metrics and /healthz. Beyond loopback it
// needs both a token and TLS.
type Admin struct {
	Listen    string `mapstructure:"listen" default:"127.0.0.1:8088"`
	TokenFile string `mapstructure:"token_file" reload:"live"`
	TLS       TLS    `mapstructure:"tls" reload:"live"`
}

// Gossip is the daemon's place in the fleet's gossip.
type Gossip struct {
	Bind string `mapstructure:"bind" default:"0.0.0.0:7946"` // UDP and TCP
	// Advertise is the IP:port that others are told; empty is Bind, which then must
	// name an address.
	Advertise string   `mapstructure:"advertise"`
	Seeds     []string `mapstructure:"seeds"`                 // host:port of members to join by
	KeyFile   string   `mapstructure:"key_file"`              // the fleet's gossip key
	Label     string   `mapstructure:"label" default:"rhumb"` // keeps fleets apart that share a network
}

// Fleet is the daemon's identity: the fleet's public certificate and a
// certificate and key of its own.
type Fleet struct {
	CAFile   string `mapstructure:"ca_file"`
	CertFile string `mapstructure:"cert_file"`
	KeyFile  string `mapstructure:"key_file"`
}

// Zone is the DNS zone that the directors serve. Name is lower-case and without
// the trailing dot.
type Zone struct {
	Name   string        `mapstructure:"name"`
	Serial uint32        `mapstructure:"serial" reload:"live"` // of the SOA; raise it with every change, the same on all directors
	NS     []NameServer  `mapstructure:"ns" reload:"live"`
	Names  []ServiceName `mapstructure:"names" reload:"live"`
	TTL    time.Duration `mapstructure:"ttl" default:"20s" reload:"live"` // of routed answers, 5 s to 60 s
	Static []Record      `mapstructure:"static" reload:"live"`
}

// NameServer is one of the zone's name servers, <name>.<zone>.
type NameServer struct {
	Name      string       `mapstructure:"name"` // ns1, ns2, …
	Addresses []netip.Addr `mapstructure:"addresses"`
}

// ServiceName is a host of the zone that is routed: for one model, or for the
// fleet's mix of models when Model is empty.
type ServiceName struct {
	Name  string `mapstructure:"name"`
	Model string `mapstructure:"model"`
}

// Record is a static record of the zone. Name is relative to the zone, "@" is
// the zone itself. TTL 0 means the record has none of its own.
type Record struct {
	Name  string        `mapstructure:"name"`
	Type  string        `mapstructure:"type"` // A, AAAA, CAA, CNAME, MX, SRV or TXT
	Value string        `mapstructure:"value"`
	TTL   time.Duration `mapstructure:"ttl"`
}

// Director is what only a director needs.
type Director struct {
	DNS      DNS      `mapstructure:"dns"`
	Redirect Redirect `mapstructure:"redirect"`
	// StateFile keeps the last good state over a restart; empty keeps none.
	StateFile string `mapstructure:"state_file"`
	Geo       Geo    `mapstructure:"geo" reload:"live"`
}

// DNS is the authoritative name server, UDP and TCP on each address.
type DNS struct {
	Listen []string `mapstructure:"listen"`
	// Why serves _why.<zone> TXT, which tells an asker how it is routed.
	Why bool `mapstructure:"why" default:"false" reload:"live"`
}

// Redirect is the HTTP redirector; without an address there is none.
type Redirect struct {
	Listen []string `mapstructure:"listen"`
	// Location is "name" for <region>.route.<zone>, or "endpoint" for the
	// region's own address.
	Location string `mapstructure:"location" default:"name" reload:"live"`
	// Scheme and Port are those of the regions' gateways in <region>.route.<zone>;
	// port 0 is the scheme's own.
	Scheme string `mapstructure:"scheme" default:"https" reload:"live"`
	Port   int    `mapstructure:"port" reload:"live"`
	// Addresses are those of all directors' redirectors, for route.<zone>. Empty
	// means those of the zone's name servers.
	Addresses []netip.Addr `mapstructure:"addresses" reload:"live"`
	TLS       TLS          `mapstructure:"tls" reload:"live"`
}

// Geo says where clients are. An empty File means the built-in country table.
type Geo struct {
	File      string     `mapstructure:"file"`
	Overrides []Override `mapstructure:"overrides"`
}

// Override places a client network: in a country, or at Lat and Lon (degrees)
// when Country is empty.
type Override struct {
	CIDR    netip.Prefix `mapstructure:"cidr"`
	Country string       `mapstructure:"country"` // ISO 3166-1 alpha-2
	Lat     float64      `mapstructure:"lat"`
	Lon     float64      `mapstructure:"lon"`
}

// Agent is what only a region's agent needs.
type Agent struct {
	Name      string      `mapstructure:"name"` // unique in its region
	Region    string      `mapstructure:"region"`
	Location  Location    `mapstructure:"location"`
	Endpoints []Endpoint  `mapstructure:"endpoints"`
	Models    []Model     `mapstructure:"models"`
	Discovery []Discovery `mapstructure:"discovery"`
	Listen    []string    `mapstructure:"listen"` // the gateway
	TLS       TLS         `mapstructure:"tls" reload:"live"`
	// Balance is how a pod is chosen among those of a model: least-connections,
	// round-robin, weighted, ip-hash, uri-hash, hash, peak-ewma or lanes.
	Balance string `mapstructure:"balance" default:"least-connections"`
	// LearnSlots learns the slots of pods that report none and for which none are
	// given.
	LearnSlots bool  `mapstructure:"learn_slots" default:"true"`
	Probe      Probe `mapstructure:"probe"`
	// Linger is how long a stopping agent still takes new requests: until clients
	// have heard that they go elsewhere.
	Linger time.Duration `mapstructure:"linger" default:"25s" reload:"live"`
	Limits Limits        `mapstructure:"limits"`
	Auth   Auth          `mapstructure:"auth" reload:"live"`
}

// Probe says how pods are probed beyond whether they are ready.
type Probe struct {
	// Canary is how often a pod whose requests don't show that it serves is asked
	// to generate a token: a duration of 10 s or more, or off.
	Canary string `mapstructure:"canary" default:"off"`
	// CanaryText is what it generates from.
	CanaryText string `mapstructure:"canary_text" default:"Hello"`
}

// Location is a place in degrees, north and east positive.
type Location struct {
	Lat float64 `mapstructure:"lat"`
	Lon float64 `mapstructure:"lon"`
}

// Endpoint is a public address of the region: scheme, host and port. Addresses
// are what DNS answers for it; an URL whose host is an address needs none.
type Endpoint struct {
	URL       string       `mapstructure:"url"`
	Addresses []netip.Addr `mapstructure:"addresses"`
}

// Model is a model that the region serves.
type Model struct {
	Name string `mapstructure:"name"` // as Triton spells it
	// Host is the model's DNS label; empty derives it from the name.
	Host string `mapstructure:"host"`
	// Slots is how many sequences a pod runs at once; 0 asks the pod.
	Slots int `mapstructure:"slots"`
	// Balance is how a pod is chosen for this model; empty is the agent's.
	Balance string `mapstructure:"balance"`
	// Affinity is what requests have in common that balance hash keeps on one pod:
	// header:NAME, cookie:NAME, key, uri, client or prompt.
	Affinity string `mapstructure:"affinity"`
	// Profile is how the model's pods talk, which is needed to go on with a stream that
	// its pod has cut: vllm, vllm-uncounted, trtllm, trtllm-cumulative or openai. Empty:
	// such streams end with an error.
	Profile string `mapstructure:"profile"`
	// Replay says whether generation that was lost before its first event is sent again
	// elsewhere, and Resume whether cut streams go on elsewhere: on (as if empty) or off.
	Replay string `mapstructure:"replay"`
	Resume string `mapstructure:"resume"`
}

// Discovery is one source of pods, of type static, file, dns or kubernetes. The
// first two list each pod. The others find the pods' addresses, and the other keys
// say what each pod offers there.
type Discovery struct {
	Type string `mapstructure:"type"`
	Pods []Pod  `mapstructure:"pods"` // static
	File string `mapstructure:"file"` // of type file: it lists pods and is read each second

	// Name is of type dns that of a headless Service, where a dot at its end spares the
	// search domains, and of type kubernetes the Service's own.
	Name string `mapstructure:"name"`
	// SRV asks for SRV records, which have the pods' HTTP ports; so does a name that
	// begins with an underscore.
	SRV bool `mapstructure:"srv"`
	// Namespace is the Service's, of type kubernetes; empty is the agent's own.
	Namespace string `mapstructure:"namespace"`
	// Family is ipv4 or ipv6 for a name whose servers have both. Empty takes all
	// addresses of a name, each as a pod, and one of each pod where they are told apart.
	Family string `mapstructure:"family"`
	// Ports are the same on each pod. With type kubernetes 0 is the port that the
	// Service names so; with dns HTTPPort is 8000, Triton's own, and 0 else not offered.
	HTTPPort    int `mapstructure:"http_port"`
	GRPCPort    int `mapstructure:"grpc_port"`
	OpenAIPort  int `mapstructure:"openai_port"`
	MetricsPort int `mapstructure:"metrics_port"`
	// PortNames are the Service's names of the ports, of type kubernetes.
	PortNames PortNames `mapstructure:"port_names"`
	Models    []string  `mapstructure:"models"` // empty: every model of the agent
	Slots     int       `mapstructure:"slots"`  // 0: the model's
}

// PortNames are names of a Service's ports; an empty one is the key itself.
type PortNames struct {
	HTTP    string `mapstructure:"http"`
	GRPC    string `mapstructure:"grpc"`
	OpenAI  string `mapstructure:"openai"`
	Metrics string `mapstructure:"metrics"`
}

// Pod is one Triton server. Addresses are host:port; an empty one means that
// the pod does not offer that service.
type Pod struct {
	Name    string   `mapstructure:"name"`
	HTTP    string   `mapstructure:"http"`
	GRPC    string   `mapstructure:"grpc"`
	OpenAI  string   `mapstructure:"openai"`
	Metrics string   `mapstructure:"metrics"`
	Models  []string `mapstructure:"models"` // empty: every model of the agent
	Slots   int      `mapstructure:"slots"`  // 0: the model's
}

// Limits bounds a request at the gateway. There is no limit on a whole request
// unless total_timeout sets one: a stream may run for hours as long as bytes flow.
type Limits struct {
	Body             Size          `mapstructure:"body" default:"100MiB" reload:"live"`             // request body
	Header           Size          `mapstructure:"header" default:"32KiB"`                          // request line and headers
	HeaderTimeout    time.Duration `mapstructure:"header_timeout" default:"5s"`                     // to receive them
	ConnectTimeout   time.Duration `mapstructure:"connect_timeout" default:"2s"`                    // to a pod or a region
	FirstByteTimeout time.Duration `mapstructure:"first_byte_timeout" default:"600s" reload:"live"` // of a pod's answer
	ReadTimeout      time.Duration `mapstructure:"read_timeout" default:"600s" reload:"live"`       // between two tokens
	// Queue is how many requests of a model may wait for a free slot, and QueueWait for
	// how long, unless they say so themselves.
	Queue        int           `mapstructure:"queue" default:"1024"`
	QueueWait    time.Duration `mapstructure:"queue_wait" default:"30s"`
	TotalTimeout time.Duration `mapstructure:"total_timeout" default:"0s" reload:"live"`  // of a whole request; 0: none
	WriteTimeout time.Duration `mapstructure:"write_timeout" default:"30s" reload:"live"` // for a client to take the next KiB
	IdleTimeout  time.Duration `mapstructure:"idle_timeout" default:"60s"`                // between two requests of a connection
	// StreamIdleTimeout is how long a stream of gRPC may wait for its client between two
	// requests.
	StreamIdleTimeout time.Duration `mapstructure:"stream_idle_timeout" default:"600s" reload:"live"`
	DrainTimeout      time.Duration `mapstructure:"drain_timeout" default:"600s" reload:"live"` // for requests in flight at shutdown

	Connections          int           `mapstructure:"connections" default:"50000" reload:"live"`           // at once
	ConnectionsPerClient int           `mapstructure:"connections_per_client" default:"2000" reload:"live"` // of an IPv4 address or an IPv6 /64; trusted proxies have no limit
	ConnectionAge        time.Duration `mapstructure:"connection_age" default:"5m" reload:"live"`           // give or take a fifth; then its client is asked to open another
	// Memory is what may be alive in the process; 0 means four fifths of GOMEMLIMIT,
	// or no limit without one.
	Memory Size `mapstructure:"memory" default:"0B" reload:"live"`
}

// Auth says who may use the gateway.
type Auth struct {
	Mode       string `mapstructure:"mode" default:"none"` // none, or keys
	KeysFile   string `mapstructure:"keys_file"`
	PepperFile string `mapstructure:"pepper_file"`
}

// Roles names the daemons that the file configures: agent, director or both.
func (c *Config) Roles() []string {
	var roles []string
	if c.Agent != nil {
		roles = append(roles, "agent")
	}
	if c.Director != nil {
		roles = append(roles, "director")
	}
	return roles
}
