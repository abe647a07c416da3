package resolver

import (
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// What resolv.conf(5) says where the file does not, and the bounds that it sets.
const (
	defaultTimeout  = 5 * time.Second
	maxTimeout      = 30 * time.Second
	defaultAttempts = 2
	maxAttempts     = 5
	maxNdots        = 15
	maxServers      = 3
)

// config is what resolv.conf says.
type config struct {
	servers  []string // IP:port
	search   []string // complete names of domains
	ndots    int
	timeout  time.Duration // of one question to one server
	attempts int           // rounds through the servers
	tcp      bool
}

// readConfig reads resolv.conf. Without the file the server is this machine, as
// the manual has it.
func readConfig(path string) config {
	text, err := os.ReadFile(path)
	if err != nil {
		text = nil
	}
	return parseConfig(string(text))
}

// parseConfig never fails: lines that it does not know are those of others.
func parseConfig(text string) config {
	c := config{ndots: 1, timeout: defaultTimeout, attempts: defaultAttempts}
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		switch words[0] {
		case "nameserver":
			if a, err := netip.ParseAddr(words[1]); err == nil && len(c.servers) < maxServers {
				c.servers = append(c.servers, netip.AddrPortFrom(a, 53).String())
			}
		case "domain":
			c.search = domains(words[1:2])
		case "search":
			c.search = domains(words[1:])
		case "options":
			for _, option := range words[1:] {
				c.option(option)
			}
		}
	}
	if len(c.servers) == 0 {
		c.servers = []string{"127.0.0.1:53"}
	}
	return c
}

func domains(words []string) (out []string) {
	for _, w := range words {
		if isName(w) && strings.Trim(w, ".") != "" {
			out = append(out, dns.Fqdn(w))
		}
	}
	return out
}

func (c *config) option(text string) {
	key, value, _ := strings.Cut(text, ":")
	n, err := strconv.Atoi(value)
	switch {
	case key == "use-vc", key == "usevc", key == "tcp":
		c.tcp = true
	case err != nil || n < 0:
	case key == "ndots":
		c.ndots = min(n, maxNdots)
	case key == "timeout":
		c.timeout = min(max(time.Duration(n)*time.Second, time.Second), maxTimeout)
	case key == "attempts":
		c.attempts = min(max(n, 1), maxAttempts)
	}
}

// candidates are the complete names by which a name is looked up, in order.
func (c *config) candidates(name string) []string {
	if dns.IsFqdn(name) {
		return []string{name}
	}
	whole := dns.Fqdn(name)
	var out []string
	for _, domain := range c.search {
		if full := whole + domain; len(full) <= maxName {
			out = append(out, full)
		}
	}
	if strings.Count(name, ".") >= c.ndots {
		return append([]string{whole}, out...)
	}
	return append(out, whole)
}

// isName reports whether a text can be a name. Escapes are for names that no pod has.
func isName(text string) bool {
	_, ok := dns.IsDomainName(text)
	return ok && !strings.Contains(text, `\`)
}

// maxName is the longest name in text, with the dot at its end (RFC 1035, section
// 3.1: 255 bytes on the wire, which has one more length and the root).
const maxName = 254

// hosts finds a name's addresses in a hosts file.
func hosts(path, name string) (out []netip.Addr) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	name = strings.TrimSuffix(name, ".")
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		a, err := netip.ParseAddr(words[0])
		if err != nil {
			continue
		}
		for _, w := range words[1:] {
			if strings.EqualFold(strings.TrimSuffix(w, "."), name) {
				out = append(out, a.Unmap())
				break
			}
		}
	}
	return out
}
