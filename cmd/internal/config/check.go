package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rhumb-lb/rhumb/cmd/internal/config/strict"
)

// checker looks for what the types can't say: values that are impossible, clash
// with each other or are missing. It also brings values into their one form
// (full paths, lower-case names).
type checker struct {
	name    string // of the file
	cfg     *Config
	doc     *strict.Document
	origins map[string]string // what set a path, where it was not the file
	dir     string            // relative paths start here
	servers []server          // that listen, to find two on one port

	skip       bool            // leaves files alone
	now        time.Time       // at which certificates must be valid
	serving    bool            // for a daemon; see Source
	tell       func(Problem)   // takes warnings
	unreadable map[string]bool // paths of files that can't be read
}

// all checks everything.
func (c *checker) all() {
	if c.cfg.Agent == nil && c.cfg.Director == nil {
		c.fail("", "neither an agent nor a director section", "add the one for the daemon that shall run")
	}
	c.common()
	c.zone(&c.cfg.Zone)
	if c.cfg.Director != nil {
		c.director(c.cfg.Director)
	}
	if c.cfg.Agent != nil {
		c.agent(c.cfg.Agent)
	}
	if !c.skip {
		c.contents()
	}
}

// fail reports a problem where the path's value came from, unless its value was
// wrong to begin with and has been reported.
func (c *checker) fail(path, what, remedy string) {
	if !c.doc.Tainted(path) {
		c.doc.Report(c.at(path, what, remedy))
	}
}

// warn tells of what is not wrong yet.
func (c *checker) warn(path, what, remedy string) {
	if !c.doc.Tainted(path) {
		c.tell(c.at(path, what, remedy))
	}
}

// at is a problem where the path's value came from.
func (c *checker) at(path, what, remedy string) Problem {
	if origin, ok := c.origin(path); ok {
		return Problem{Source: origin, Path: path, What: what, Remedy: remedy}
	}
	return Problem{Source: c.name, Line: c.doc.Line(path), Path: path, What: what, Remedy: remedy}
}

// origin is what set the path or what it is a part of, where it was not the
// file.
func (c *checker) origin(path string) (string, bool) {
	origin, ok := c.origins[path]
	for outer := range strict.Parents(path) {
		if ok {
			break
		}
		origin, ok = c.origins[outer]
	}
	return origin, ok
}

// common checks the sections that both daemons have.
func (c *checker) common() {
	c.oneOf("log.level", c.cfg.Log.Level, "debug", "info", "warn", "error")
	c.oneOf("log.format", c.cfg.Log.Format, "text", "json")
	c.admin(&c.cfg.Admin)
	c.gossip(&c.cfg.Gossip)
	c.file("fleet.ca_file", &c.cfg.Fleet.CAFile, "rhumb keygen fleet")
	c.file("fleet.cert_file", &c.cfg.Fleet.CertFile, c.keygen())
	c.file("fleet.key_file", &c.cfg.Fleet.KeyFile, c.keygen())
	for i, p := range c.cfg.TrustedProxies {
		c.network(index("trusted_proxies", i), p)
	}
}

func (c *checker) gossip(g *Gossip) {
	c.serve("gossip.bind", g.Bind)
	bound, bindErr := bindAddress(g.Bind)
	told, err := netip.ParseAddrPort(g.Advertise)
	switch {
	case g.Advertise != "" && (err != nil || told.Addr().IsUnspecified() || told.Addr().IsMulticast() || told.Port() == 0):
		c.fail("gossip.advertise", fmt.Sprintf("%q is not an address that others can connect to", g.Advertise), "write this machine's IP address and the port, like 192.0.2.1:7946")
	case g.Advertise == "" && bindErr == nil && bound.Addr().IsUnspecified():
		c.fail("gossip.advertise", fmt.Sprintf("is missing, and gossip.bind (%s) does not say at which address others reach this member", g.Bind),
			"write this machine's IP address and the port, like 192.0.2.1:7946, here or as gossip.bind")
	}
	for i, seed := range g.Seeds {
		c.address(index("gossip.seeds", i), seed)
	}
	c.distinct("gossip.seeds", g.Seeds)
	c.file("gossip.key_file", &g.KeyFile, "rhumb keygen gossip")
}

func (c *checker) admin(a *Admin) {
	c.serve("admin.listen", a.Listen)
	c.file("admin.token_file", &a.TokenFile, optional)
	c.tls("admin.tls", &a.TLS)
	host, _, err := net.SplitHostPort(a.Listen)
	ip, ipErr := netip.ParseAddr(host)
	loopback := err == nil && ipErr == nil && ip.IsLoopback()
	if err == nil && !loopback && (a.TokenFile == "" || a.TLS.CertFile == "") {
		c.fail("admin.listen", fmt.Sprintf("%q can be reached from other machines without a token and TLS", a.Listen),
			"set admin.token_file and admin.tls, or listen on 127.0.0.1")
	}
}

func (c *checker) oneOf(path, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		c.fail(path, fmt.Sprintf("%q is not one of %s", value, strings.Join(allowed, ", ")), "write one of them")
	}
}

// between checks a number, a duration or a size against its bounds.
func between[T int | uint32 | Size | time.Duration](c *checker, path string, value, low, high T) {
	if value < low || value > high {
		c.fail(path, short(value)+" is out of range", fmt.Sprintf("write a value from %s to %s", short(low), short(high)))
	}
}

// short is a value as people write it: 2m, not 2m0s.
func short(v any) string {
	text := fmt.Sprint(v)
	if _, ok := v.(time.Duration); ok {
		for _, zero := range []string{"m0s", "h0m"} {
			if strings.HasSuffix(text, zero) {
				text = text[:len(text)-2]
			}
		}
	}
	return text
}

// listen checks an address to listen on: an IP address, or nothing for all, and
// a port.
func (c *checker) listen(path, addr string) bool {
	host, port, err := net.SplitHostPort(addr)
	if err == nil && host != "" {
		_, err = netip.ParseAddrPort(addr)
	}
	if err != nil || !isPort(port) {
		c.fail(path, fmt.Sprintf("%q is not an address to listen on", addr), "write IP and port, like 127.0.0.1:8080, [::1]:8080 or :8080")
		return false
	}
	return true
}

// server is an address that a part of the daemon listens on, with TCP at least.
type server struct {
	addr netip.AddrPort // :: means all, both families
	path string
}

// clashes reports whether two servers can't both listen.
func (s server) clashes(o server) bool {
	if s.addr.Port() != o.addr.Port() {
		return false
	}
	a, b := s.addr.Addr(), o.addr.Addr()
	covers := func(all, one netip.Addr) bool {
		return all == netip.IPv6Unspecified() || (all == netip.IPv4Unspecified() && one.Is4())
	}
	return a == b || covers(a, b) || covers(b, a)
}

// serve checks an address to listen on, which no other server may have.
func (c *checker) serve(path, addr string) {
	if !c.listen(path, addr) {
		return
	}
	full := addr
	if strings.HasPrefix(addr, ":") {
		full = "[::]" + addr // both families, as net.Listen does
	}
	s := server{netip.MustParseAddrPort(full), path}
	for _, other := range c.servers {
		if s.clashes(other) {
			c.fail(path, fmt.Sprintf("%s is taken by %s", addr, other.path), "give each server an address of its own")
			return
		}
	}
	c.servers = append(c.servers, s)
}

// maxListen is more addresses than a machine's server needs; the comparison of
// each with each stays small.
const maxListen = 64

func (c *checker) serveAll(path string, addrs []string) {
	if len(addrs) > maxListen {
		c.fail(path, fmt.Sprintf("has %d addresses", len(addrs)), fmt.Sprintf("list at most %d, or listen on all with :8080", maxListen))
		return
	}
	for i, addr := range addrs {
		c.serve(index(path, i), addr)
	}
}

// address checks an address to connect to: a host name or IP, and a port.
func (c *checker) address(path, addr string) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || !isPort(port) || !isHost(host) {
		c.fail(path, fmt.Sprintf("%q is not host:port", addr), "write it like pod-1.example.com:8000, 192.0.2.1:8000 or [2001:db8::1]:8000")
	}
}

func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}

// labelShape is a DNS label as hosts have it, RFC 1123 section 2.1, lower-case.
var labelShape = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// isName reports whether s is a host name: labels with dots between, at most
// 253 bytes (RFC 1035 section 2.3.4, without the root).
func isName(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if !labelShape.MatchString(label) {
			return false
		}
	}
	return true
}

func isHost(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil || isName(strings.ToLower(s))
}

// network checks that a network is written as its first address.
func (c *checker) network(path string, p netip.Prefix) bool {
	switch {
	case !p.IsValid():
		c.fail(path, "is missing", "write a network, like 192.0.2.0/24")
	case p.Addr().Is4In6():
		c.fail(path, fmt.Sprintf("%v is IPv4 in IPv6", p), "write it as IPv4")
	case p != p.Masked():
		c.fail(path, fmt.Sprintf("%v has bits beyond its prefix", p), fmt.Sprintf("write %v", p.Masked()))
	default:
		return true
	}
	return false
}

// addresses checks a list of IP addresses that DNS shall answer.
func (c *checker) addresses(path string, addrs []netip.Addr) {
	seen := map[netip.Addr]bool{}
	for i, a := range addrs {
		switch {
		case a.Zone() != "" || a.Is4In6():
			c.fail(index(path, i), fmt.Sprintf("%v can't stand in DNS", a), "write a plain IPv4 or IPv6 address")
		case a.IsUnspecified() || a.IsMulticast():
			c.fail(index(path, i), fmt.Sprintf("%v is no host's address", a), "write the address that clients connect to")
		case seen[a]:
			c.fail(index(path, i), fmt.Sprintf("%v is listed twice", a), "remove one")
		}
		seen[a] = true
	}
}

// optional is for files that need not be named.
const optional = ""

// file makes a path full and checks that the file can be read. Maker is the command
// that makes a file that must be named.
func (c *checker) file(path string, name *string, maker string) {
	if *name == "" {
		if maker != optional {
			c.fail(path, "is missing", "name the file that "+maker+" makes")
		}
		return
	}
	*name = c.full(*name)
	if c.skip {
		return
	}
	err := openFile(*name, false)
	c.unreadable[path] = err != nil
	remedy := "correct the path, or create the file"
	if maker != optional {
		remedy += " with " + maker
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		c.fail(path, fmt.Sprintf("there is no file %s", *name), remedy)
	case errors.Is(err, fs.ErrPermission):
		c.fail(path, fmt.Sprintf("this user may not read %s", *name), "run as the file's owner, or change its mode or owner")
	case err != nil:
		c.fail(path, err.Error(), "name a file that this user can read")
	}
}

// full makes a path of the file one that works from any folder.
func (c *checker) full(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(c.dir, name)
}

func (c *checker) tls(path string, t *TLS) {
	c.file(path+".cert_file", &t.CertFile, optional)
	c.file(path+".key_file", &t.KeyFile, optional)
	switch {
	case t.CertFile != "" && t.KeyFile == "":
		c.fail(path+".key_file", "is missing beside cert_file", "name the certificate's key")
	case t.CertFile == "" && t.KeyFile != "":
		c.fail(path+".cert_file", "is missing beside key_file", "name the key's certificate")
	}
}

// some checks that a list has at least one item.
func (c *checker) some(path string, n int, remedy string) {
	if n == 0 {
		c.fail(path, "is missing", remedy)
	}
}

// distinct checks that no value of a list is there twice.
func (c *checker) distinct(path string, values []string) {
	first := map[string]int{}
	for i, v := range values {
		if j, twice := first[v]; twice {
			c.fail(index(path, i), fmt.Sprintf("%q is already listed as %s", v, index(path, j)), "remove one")
			continue
		}
		first[v] = i
	}
}

// index is the path of a list's item.
func index(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }
