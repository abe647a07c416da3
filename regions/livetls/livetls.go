// Package livetls is a server's TLS configuration that can be replaced while
// connections are made: those that are there go on with what they began with.
package livetls

import (
	"crypto/tls"
	"errors"
	"sync/atomic"
)

// Config is a replaceable configuration. Its zero value serves no TLS.
type Config struct {
	current atomic.Pointer[tls.Config]
}

// ErrSwitched is the error for turning TLS on or off under a listener.
var ErrSwitched = errors.New("only a restart can switch TLS on or off")

// New holds c; nil for no TLS.
func New(c *tls.Config) *Config {
	var l Config
	l.current.Store(c)
	return &l
}

// On reports whether there is TLS at all.
func (l *Config) On() bool { return l.current.Load() != nil }

// Allows is the error of replacing the configuration by c.
func (l *Config) Allows(c *tls.Config) error {
	if l.On() != (c != nil) {
		return ErrSwitched
	}
	return nil
}

// Set replaces the configuration, which [Config.Allows] must allow.
func (l *Config) Set(c *tls.Config) { l.current.Store(c) }

// Server is the configuration for a listener: each handshake takes what is
// current. The protocols are offered by ALPN (RFC 7301), the best first.
func (l *Config) Server(protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: protocols,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			c := l.current.Load().Clone()
			c.NextProtos = protocols
			return c, nil
		},
	}
}
