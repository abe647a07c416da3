package livetls

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"testing"
	"time"
)

// certificate is a self-signed one.
func certificate(t *testing.T, serial int64) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	x := &x509.Certificate{SerialNumber: big.NewInt(serial), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, x, x, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

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
	l := New(certificate(t, 1))
	if n, proto := serial(t, l); n != 1 || proto != "h2" {
		t.Errorf("certificate %d, protocol %q", n, proto)
	}
	renewed := certificate(t, 2)
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
