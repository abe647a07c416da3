package repocheck

import (
	"fmt"
	"slices"
	"strings"
)

// Rule is a row of the import table: packages and what of ours they may import.
// A pattern "x/..." means x and all below it.
type Rule struct {
	Packages []string
	May      []string
	// StdOnly keeps libraries out altogether.
	StdOnly bool
	// Never lists packages of the standard library that have no place there.
	Never []string
	// Pure forbids goroutines: the package decides or describes.
	Pure bool
}

// outside are the packages by which code would reach out of the process.
var outside = []string{"net", "net/http", "os", "os/exec", "testing"}

// Imports is the import table. The first row that has a package is its row.
// Data flows down the list of parts (pods, agent, gossip, director, DNS) and no
// part sees one that it does not need.
var Imports = []Rule{
	{Packages: []string{"regions"}, StdOnly: true, Never: outside, Pure: true},
	{Packages: []string{"regions/regionstest"}, StdOnly: true},
	// A stub that asks DNS, whoever wants to know.
	{Packages: []string{"regions/discovery/resolver"}},
	{Packages: []string{"regions/discovery"}, May: []string{"regions", "regions/discovery/resolver"}},
	{Packages: []string{"regions/discovery/..."}, May: []string{"regions", "regions/discovery"}},
	// The generated messages of Triton's gRPC protocol.
	{Packages: []string{"regions/triton/inferencepb"}},
	// It is linked into the product, so it must not bring the testing flags along.
	{
		Packages: []string{"regions/triton/tritontest", "regions/triton/tritontest/rpc"},
		May:      []string{"regions/triton/inferencepb", "regions/triton/tritontest/..."}, Never: []string{"testing"},
	},
	// What its frontends share.
	{Packages: []string{"regions/triton/tritontest/core"}, StdOnly: true, Never: []string{"testing", "net"}},
	{
		Packages: []string{"regions/triton/tritontest/socket", "regions/triton/tritontest/openai"},
		May:      []string{"regions/triton/tritontest/core", "regions/triton/tritontest/socket"}, StdOnly: true, Never: []string{"testing"},
	},
	// It has only tests, which hold the simulator against a real server.
	{Packages: []string{"regions/triton/conformance"}, StdOnly: true},
	{Packages: []string{"regions/triton"}, May: []string{"regions", "regions/triton/inferencepb"}},
	// What gateways, proxies and redirectors read of a body, and how gRPC says things.
	{Packages: []string{"regions/peek"}, StdOnly: true, Never: outside, Pure: true},
	{Packages: []string{"regions/rpc"}},
	{Packages: []string{"regions/shape"}, May: []string{"regions", "regions/rpc"}},
	{
		Packages: []string{"regions/gateway"},
		May:      []string{"regions", "regions/peek", "regions/rpc", "regions/shape", "regions/gateway/guard", "regions/gateway/keyring", "regions/gateway/affinity"},
	},
	// A region's signed word to another's gateway.
	{Packages: []string{"regions/voucher"}, May: []string{"regions", "gossip/fleet"}},
	{Packages: []string{"regions/gateway/affinity"}, May: []string{"regions"}, Pure: true},
	{Packages: []string{"regions/scale", "regions/slots"}, May: []string{"regions"}, StdOnly: true, Never: outside, Pure: true},
	// It reads what pods say, in triton's words, and has slots learn from it.
	{Packages: []string{"regions/signals"}, May: []string{"regions", "regions/triton", "regions/slots"}},
	{
		Packages: []string{"regions/probe", "regions/admit", "regions/gateway/guard", "regions/gateway/keyring", "regions/clients"},
		May:      []string{"regions"},
	},
	// How a pod is chosen, and what results say of one.
	{Packages: []string{"regions/balance", "regions/outlier"}, May: []string{"regions"}, Never: outside, Pure: true},
	{Packages: []string{"regions/pool"}, May: []string{"regions", "regions/balance", "regions/outlier"}},
	{Packages: []string{"regions/gateway/heads", "regions/gateway/gatewaytest"}, StdOnly: true},
	// What both daemons serve with: replaceable TLS, and the frame of the admin API.
	{Packages: []string{"regions/livetls"}, StdOnly: true},
	{Packages: []string{"regions/admin"}, May: []string{"regions", "regions/livetls"}},
	{Packages: []string{"regions/proxy"}, May: []string{"regions", "regions/pool", "regions/admit", "regions/peek", "regions/rpc", "regions/shape", "regions/proxy/..."}},
	// The client's side of a request, its ways to pods, the watch over them, and what
	// may be repeated.
	{Packages: []string{"regions/proxy/client", "regions/proxy/link", "regions/proxy/vigil"}},
	{Packages: []string{"regions/proxy/budget"}, StdOnly: true, Never: outside, Pure: true},
	// The splitter of event streams, and what decides on how a cut one goes on.
	{Packages: []string{"regions/proxy/sse"}, StdOnly: true, Never: outside, Pure: true},
	// An answer's bytes, from one pod or several.
	{Packages: []string{"regions/proxy/answer"}, May: []string{"regions/proxy/resume", "regions/proxy/sse", "regions/rpc", "regions/triton/inferencepb"}},
	// It names statuses in the words of net/http.
	{Packages: []string{"regions/proxy/resume"}, May: []string{"regions/proxy/sse", "regions/triton/inferencepb"}, Never: []string{"net", "os", "os/exec", "testing"}, Pure: true},
	{
		Packages: []string{"regions/agent"},
		May:      []string{"regions", "regions/...", "gossip", "gossip/fleet", "gossip/wire", "director", "director/latency"},
	},
	{Packages: []string{"gossip/fleet"}, May: []string{"regions"}, StdOnly: true},
	{Packages: []string{"gossip/wire"}, May: []string{"regions"}, Never: outside, Pure: true},
	// The queue of what members pass on for each other.
	{Packages: []string{"gossip/relay"}, StdOnly: true, Never: outside, Pure: true},
	{Packages: []string{"gossip"}, May: []string{"regions", "gossip/wire", "gossip/fleet", "gossip/relay"}},
	{Packages: []string{"gossip/gossiptest"}, May: []string{"regions", "gossip", "gossip/wire", "gossip/fleet"}},
	{Packages: []string{"director"}, May: []string{"regions"}, Never: outside, Pure: true},
	{Packages: []string{"director/latency"}, May: []string{"regions"}, StdOnly: true, Never: outside, Pure: true},
	{Packages: []string{"director/geo/..."}, May: []string{"regions", "director/geo"}},
	{Packages: []string{"director/redirect", "director/dashboard"}, May: []string{"regions", "regions/peek", "director"}},
	{Packages: []string{"director/node/statefile"}, May: []string{"regions", "director", "gossip"}},
	{
		Packages: []string{"director/node"},
		May:      []string{"regions", "director", "director/...", "dnsserver", "gossip", "gossip/wire", "gossip/fleet", "regions/admin", "regions/livetls"},
	},
	{Packages: []string{"dnsserver"}},
	{Packages: []string{"dnsserver/dnstest"}, May: []string{"dnsserver"}},
	// Configurations and manifests; deploy itself has only tests.
	{Packages: []string{"deploy", "deploy/example"}, StdOnly: true},
	{
		Packages: []string{"simulations/..."},
		May:      []string{"regions/...", "gossip/...", "director/...", "dnsserver/...", "simulations/...", "deploy/example"},
	},
	{Packages: []string{"cmd/internal/telemetry", "cmd/internal/repocheck"}},
	// YAML that must have the shape of a Go type, whatever it says.
	{Packages: []string{"cmd/internal/config/strict"}},
	{Packages: []string{"cmd/internal/config/keysfile"}, May: []string{"cmd/internal/config/strict", "regions", "regions/gateway/keyring"}},
	{Packages: []string{"cmd/internal/config/podsfile"}, May: []string{"cmd/internal/config/strict", "regions"}},
	{Packages: []string{"cmd/internal/config/configtest"}, May: []string{"regions", "gossip/fleet"}},
	{Packages: []string{"cmd/internal/config/reload"}, May: []string{"cmd/internal/config", "cmd/internal/config/strict"}},
	// It reads a file in the words of regions.
	{
		Packages: []string{"cmd/internal/config"},
		May: []string{
			"cmd/internal/config/strict", "cmd/internal/config/keysfile", "cmd/internal/config/podsfile",
			"regions", "regions/admin", "regions/agent", "regions/balance", "regions/discovery/...", "regions/gateway/...", "regions/proxy/...", "gossip", "gossip/fleet",
			"director/node", "director/geo", "director/redirect", "dnsserver",
		},
	},
	{
		Packages: []string{"cmd/rhumb"},
		May: []string{
			"cmd/internal/config/...", "cmd/internal/telemetry", "regions", "regions/agent", "regions/gateway/...", "regions/triton/tritontest",
			"director/node", "gossip", "gossip/fleet", "dnsserver", "simulations/...",
		},
	},
}

// matches reports whether a path below the module is one that a pattern means.
func matches(pattern, path string) bool {
	if root, below := strings.CutSuffix(pattern, "/..."); below {
		return path == root || strings.HasPrefix(path, root+"/")
	}
	return path == pattern
}

func anyMatches(patterns []string, path string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return matches(p, path) })
}

// ruleFor finds the row of a package.
func ruleFor(table []Rule, path string) (Rule, bool) {
	i := slices.IndexFunc(table, func(r Rule) bool { return anyMatches(r.Packages, path) })
	if i < 0 {
		return Rule{}, false
	}
	return table[i], true
}

// CheckImports compares what packages import, outside of their tests, with the
// table.
func CheckImports(packages []Package, table []Rule) []string {
	var found []string
	for _, p := range packages {
		rule, ok := ruleFor(table, p.Path())
		if !ok {
			found = append(found, violate(p.Path(), "has no row in the import table; give it one"))
			continue
		}
		for _, imported := range p.Imports {
			ours, isOurs := strings.CutPrefix(imported, Module+"/")
			first, _, _ := strings.Cut(imported, "/")
			switch {
			case isOurs && !anyMatches(rule.May, ours):
				found = append(found, violate(p.Path(), "may not import %s; define an interface beside the caller, or move what both need down", ours))
			case !isOurs && rule.StdOnly && strings.Contains(first, "."):
				found = append(found, violate(p.Path(), "may not import the library %s; it is a leaf of the standard library only", imported))
			case slices.Contains(rule.Never, imported):
				found = append(found, violate(p.Path(), "may not import %s; do that in the package that calls it", imported))
			}
		}
	}
	return found
}

// ImportTable prints each package with what of ours it imports.
func ImportTable(packages []Package) string {
	var b strings.Builder
	for _, p := range packages {
		var ours []string
		for _, imported := range p.Imports {
			if path, isOurs := strings.CutPrefix(imported, Module+"/"); isOurs {
				ours = append(ours, path)
			}
		}
		fmt.Fprintf(&b, "%-30s %s\n", p.Path(), strings.Join(ours, " "))
	}
	return b.String()
}

// CheckDocs wants a comment that says what each package is.
func CheckDocs(packages []Package) []string {
	var found []string
	for _, p := range packages {
		if p.Doc == "" && len(p.GoFiles) > 0 {
			found = append(found, violate(p.Path(), "has no package comment; say in a sentence what it is"))
		}
	}
	return found
}
