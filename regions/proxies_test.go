package regions

import (
	"net/netip"
	"testing"
)

func TestClientBehindProxies(t *testing.T) {
	trusted := NewTrustedProxies([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::ffff:192.0.2.0/120"), netip.MustParsePrefix("2001:db8::/32")})
	for _, tt := range []struct {
		peer string
		xff  []string
		want string
	}{
		{"81.2.69.1:99", []string{"8.8.8.8"}, "81.2.69.1"}, // not trusted
		{"10.0.0.1:99", nil, "10.0.0.1"},
		{"10.0.0.1:99", []string{"8.8.8.8"}, "8.8.8.8"},
		{"192.0.2.7:99", []string{"8.8.8.8"}, "8.8.8.8"},
		{"10.0.0.1:99", []string{"1.1.1.1, 8.8.8.8"}, "8.8.8.8"},
		{"10.0.0.1:99", []string{"8.8.8.8, 10.9.9.9", "10.0.0.3"}, "8.8.8.8"},
		{"10.0.0.1:99", []string{"8.8.8.8, nonsense, 10.9.9.9"}, "10.9.9.9"},
		{"10.0.0.1:99", []string{"10.1.1.1"}, "10.1.1.1"},
		{"[2001:db8::1]:99", []string{"[2a00::1]:4711"}, "2a00::1"},
		{"[::ffff:10.0.0.1]:99", []string{"::ffff:8.8.8.8"}, "8.8.8.8"},
		{"10.0.0.1:99", []string{""}, "10.0.0.1"},
		{"[fe80::1%eth0]:99", nil, "fe80::1"},
	} {
		if got := trusted.Client(tt.peer, tt.xff); got != netip.MustParseAddr(tt.want) {
			t.Errorf("peer %s, %q: %s, want %s", tt.peer, tt.xff, got, tt.want)
		}
	}
	if got := trusted.Client("@", []string{"8.8.8.8"}); got.IsValid() {
		t.Errorf("a peer without an address became %s", got)
	}
}
