package livetls

import (
	"crypto/tls"
	"net"
	"testing"

	"github.com/rhumb-lb/rhumb/regions/regionstest"
)

// serial shakes hands and gives the number of the certificate that was shown.
func serial(t *testing.T, l *Config) (int64, string) {
	t.Helper()
	near, far := net.Pipe()
	defer func() { _ = near.Close() }()
	done := make(chan error, 1)
	go func() { done <- tls.Server(far, l.Server("h2", "http/1.1")).HandshakeContext(t.Context()) }()
	c := tls.Client(near, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}) // the test looks at the certificate itself
	if err := c.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	s := c.ConnectionState()
	return s.PeerCertificates[0].SerialNumber.Int64(), s.NegotiatedProtocol
}

func TestNewHandshakesTakeTheNewCertificate(t *testing.T) {
	l := New(regionstest.Certificate(t, 1))
	if n, proto := serial(t, l); n != 1 || proto != "h2" {
		t.Errorf("certificate %d, protocol %q", n, proto)
	}
	renewed := regionstest.Certificate(t, 2)
	if err := l.Allows(renewed); err != nil {
		t.Fatal(err)
	}
	l.Set(renewed)
	if n, _ := serial(t, l); n != 2 {
		t.Errorf("certificate %d after the change", n)
	}
	if err := l.Allows(nil); err == nil {
		t.Error("TLS can be switched off")
	}
	if err := New(nil).Allows(renewed); err == nil {
		t.Error("TLS can be switched on")
	}
}
