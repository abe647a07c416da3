package triton_test

import (
	"context"
	"net"
	"strings"
	"time"
)

// rawConn is the part of a connection that an in-memory one needs not do.
type rawConn struct{}

func (rawConn) Write(p []byte) (int, error)      { return len(p), nil }
func (rawConn) Close() error                     { return nil }
func (rawConn) LocalAddr() net.Addr              { return nil }
func (rawConn) RemoteAddr() net.Addr             { return nil }
func (rawConn) SetDeadline(time.Time) error      { return nil }
func (rawConn) SetReadDeadline(time.Time) error  { return nil }
func (rawConn) SetWriteDeadline(time.Time) error { return nil }

// dialCanned gives connections that answer with the same bytes.
func dialCanned(said string) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) {
		return canned{Reader: strings.NewReader(said)}, nil
	}
}
