package layout

import (
	"net/netip"
	"testing"
)

func TestLayoutCheck(t *testing.T) {
	for _, tt := range []struct {
		net  string
		port uint16
		ok   bool
	}{
		{"127.0.0.0/16", 8080, true}, {"127.9.0.0/16", 18080, true}, {"127.9.1.0/16", 8080, false},
		{"10.0.0.0/16", 8080, false}, {"127.0.0.0/8", 8080, false}, {"::1/128", 8080, false},
		{"127.0.0.0/16", 80, false}, {"127.0.0.0/16", 65535, false},
	} {
		l := Layout{Net: netip.MustParsePrefix(tt.net), Port: tt.port}
		if err := l.Check(); (err == nil) != tt.ok {
			t.Errorf("%s %d: %v", tt.net, tt.port, err)
		}
	}
}
