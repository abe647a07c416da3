package dnsserver

import (
	"strings"
	"testing"
)

func TestZoneRefuses(t *testing.T) {
	static := func(lines ...string) func(*Zone) { return func(z *Zone) { z.Static = lines } }
	tests := []struct {
		name   string
		change func(*Zone)
		want   string
	}{
		{"root", func(z *Zone) { z.Name = "." }, "zone name"},
		{"name with a space", func(z *Zone) { z.Name = "exa mple.test" }, "zone name"},
		{"long label", func(z *Zone) { z.Name = strings.Repeat("a", 64) + ".test" }, "zone name"},
		{"hostmaster without host", func(z *Zone) { z.Hostmaster = "admin" }, "user@host"},
		{"name server without address", func(z *Zone) { z.NS[0].Addrs = nil }, "no address"},
		{"name server twice", func(z *Zone) { z.NS[1].Name = "NS1" }, "twice"},
		{"address twice", func(z *Zone) { z.NS[0].Addrs = addrsOf("192.0.2.1", "192.0.2.1") }, "twice"},
		{"name server at the apex", func(z *Zone) { z.NS[0].Name = "@" }, "name server"},
		{"name server without final dot", func(z *Zone) { z.NS[0].Name = "ns1.example.test" }, "final dot"},
		{"addresses of a name server elsewhere", func(z *Zone) { z.NS[0].Name = "ns.other.test." }, "remove them"},
		{"no record", static("; nothing"), "no record"},
		{"nonsense", static("www A not-an-address"), "zone-file form"},
		{"two records", static("a A 192.0.2.1\nb A 192.0.2.2"), "one in each entry"},
		{"generate", static("$GENERATE 1-3 h$ A 192.0.2.$"), "one in each entry"},
		{"include", static("$INCLUDE /etc/passwd"), "zone-file form"},
		{"outside", static("www.other.test. A 192.0.2.1"), "outside of the zone"},
		{"outside by letters", static("notexample.test. A 192.0.2.1"), "outside of the zone"},
		{"final dot forgotten", static("www.example.test A 192.0.2.1"), "twice; end an absolute name with a dot"},
		{"class", static("www CH A 192.0.2.1"), "class"},
		{"apex CNAME", static("@ CNAME other.example."), "apex"},
		{"apex A", static("@ A 192.0.2.1"), "decided per client"},
		{"NS", static("sub NS ns.sub"), "delegation"},
		{"SOA", static("@ SOA a. b. 1 2 3 4 5"), "server's own"},
		{"DNAME", static("sub DNAME other.example."), "server's own"},
		{"CNAME beside data", static("www CNAME other.example.", "www TXT x"), "CNAME beside"},
		{"data beside CNAME", static("www TXT x", "www CNAME other.example."), "CNAME beside"},
		{"two CNAMEs", static("www CNAME a.example.", "www CNAME b.example."), "CNAME beside"},
		{"duplicate", static("www A 192.0.2.1", "WWW 60 A 192.0.2.1"), "twice"},
		{"name server's name", static("ns1 TXT x"), "name server's name"},
		{"reserved", static("_WHY TXT x"), "reserved"},
		{"below reserved", static("eu.region A 192.0.2.1"), "reserved"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			opts := testOptions().Zone
			test.change(&opts)
			if _, err := newZone(opts); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
		})
	}
}

func TestZoneTakes(t *testing.T) {
	opts := testOptions().Zone
	opts.Name = "Example.TEST."
	opts.NS = append(opts.NS, NameServer{Name: "ns.elsewhere.test."})
	opts.Static = []string{
		"mail 60 A 192.0.2.1", "mail 30 A 192.0.2.2", "mail AAAA 2001:db8::25",
		"_acme-challenge TXT \"token\"", "x.ns1 TXT below", "regional TXT fine",
		`_443._tcp.mail TLSA 3 1 1 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff`,
		"_sip._tcp SRV 1 1 5060 mail",
	}
	z, err := newZone(opts)
	if err != nil {
		t.Fatal(err)
	}
	for _, rr := range z.nodes["mail.example.test."].sets[1] {
		if rr.Header().Ttl != 30 {
			t.Errorf("%s: TTL is not the set's lowest, 30", rr)
		}
	}
	if n := z.nodes["_tcp.example.test."]; n == nil || len(n.sets) != 0 {
		t.Errorf("_tcp is not an empty non-terminal: %+v", n)
	}
}

func TestWithin(t *testing.T) {
	tests := []struct {
		parent, name string
		want         bool
	}{
		{"example.test.", "example.test.", true},
		{"example.test.", "a.example.test.", true},
		{"example.test.", "badexample.test.", false},
		{"example.test.", `a\.example.test.`, false},
		{"example.test.", `a\\.example.test.`, true},
		{"example.test.", `a\\\.example.test.`, false},
		{"example.test.", "test.", false},
		{".", "test.", true},
	}
	for _, test := range tests {
		if got := within(test.parent, test.name); got != test.want {
			t.Errorf("within(%q, %q) = %t", test.parent, test.name, got)
		}
	}
}

func TestMailbox(t *testing.T) {
	z := &zone{name: "example.test."}
	for in, want := range map[string]string{
		"":                          "hostmaster.example.test.",
		"admin@Other.test":          "admin.other.test.",
		"first.last@example.test":   `first\.last.example.test.`,
		"hostmaster@example.test":   "hostmaster.example.test.",
		"hostmaster@sub.other.test": "hostmaster.sub.other.test.",
	} {
		if got, err := z.mailbox(in); err != nil || got != want {
			t.Errorf("mailbox(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
}
