package dnsserver

import (
	"context"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// TestDig asks with the tool that everybody will ask with first.
func TestDig(t *testing.T) {
	dig, err := exec.LookPath("dig")
	if err != nil {
		t.Skip("dig is not installed (Debian: bind9-dnsutils)")
	}
	_, addr := serve(t, nil)
	tests := []struct {
		args string
		want []string
	}{
		{"example.test A", []string{"status: NOERROR", "qr aa rd;", "198.51.100.1", "NSID_ABSENT"}},
		{"llama.example.test A +subnet=81.2.69.0/24", []string{"CLIENT-SUBNET: 81.2.69.0/24/24", "198.51.100.2"}},
		{"llama.example.test A +subnet=8.8.8.0/24", []string{"CLIENT-SUBNET: 8.8.8.0/24/16", "198.51.100.1"}},
		{"llama.example.test AAAA +subnet=2001:db8:e::/56", []string{"CLIENT-SUBNET: 2001:db8:e::/56/48", "2001:db8:1::2"}},
		{"llama.example.test A +subnet=0", []string{"CLIENT-SUBNET: 0.0.0.0/0/0", "198.51.100.1"}},
		{"llama.example.test A +subnet=0.0.0.0/0", []string{"CLIENT-SUBNET: 0.0.0.0/0/0", "198.51.100.1"}},
		{"llama.example.test A +tcp +keepopen +nsid", []string{"(\"director-1\")", "198.51.100.1"}},
		{"huge.example.test A", []string{"Truncated, retrying in TCP mode", "ANSWER: 400"}},
		{"huge.example.test A +ignore", []string{"flags: qr aa tc rd;", "ANSWER: 0", "OPT PSEUDOSECTION"}},
		{"example.test SOA +edns=1 +noednsneg", []string{"status: BADVERS", "version: 0"}},
		{"example.test SOA +edns=1", []string{"status: NOERROR", "2026010101"}},
		{"example.test SOA +opcode=15", []string{"opcode: RESERVED15, status: NOTIMP"}},
		{"absent.example.test A +norec", []string{"status: NXDOMAIN", "flags: qr aa;", "SOA"}},
		{"www.example.org A", []string{"status: REFUSED", "EDE: 20 (Not Authoritative)"}},
		{"stale.example.test A", []string{"status: NOERROR", "EDE: 3 (Stale Answer)"}},
		{"version.bind TXT CH", []string{"status: REFUSED"}},
		{"example.test ANY", []string{"status: NOERROR", "ANSWER: 1"}},
		{"example.test AXFR", []string{"Transfer failed"}},
		{"example.test NS +norec", []string{"ns1.example.test.", "192.0.2.1", "2001:db8::2"}},
	}
	for _, test := range tests {
		t.Run(test.args, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			args := append([]string{"-r", "@" + addr.Addr().String(), "-p", strconv.Itoa(int(addr.Port()))}, strings.Fields(test.args)...)
			out, err := exec.CommandContext(ctx, dig, args...).CombinedOutput()
			if err != nil {
				t.Fatalf("dig %s: %v\n%s", test.args, err, out)
			}
			for _, want := range test.want {
				if want == "NSID_ABSENT" {
					if strings.Contains(string(out), "NSID") {
						t.Errorf("identity without being asked:\n%s", out)
					}
					continue
				}
				if !strings.Contains(string(out), want) {
					t.Errorf("lacks %q:\n%s", want, out)
				}
			}
			for _, warning := range []string{"malformed", "WARNING: Messa", "mismatch", "extra bytes"} {
				if strings.Contains(string(out), warning) {
					t.Errorf("dig warns:\n%s", out)
				}
			}
		})
	}
}
