// Package rpc is the gRPC frontend of a simulated Triton server: the service
// inference.GRPCInferenceService and grpc.health.v1.Health/Check, without
// reflection. It has Triton's keep-alive policy, and its phase of a shutdown.
package rpc

import (
	"context"
	"errors"
	"math"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	_ "google.golang.org/grpc/encoding/gzip" // which Triton's clients may use
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/rhumb-lb/rhumb/regions/triton/inferencepb"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest/core"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest/socket"
)

// minPing is Triton's http2_min_recv_ping_interval_without_data: clients that
// ping more often while nothing is sent to them get a strike, and are told to go
// away with "too_many_pings" at the third.
const minPing = 300 * time.Second

// Server serves one life of a pod.
type Server struct {
	inferencepb.UnimplementedGRPCInferenceServiceServer

	core     *core.Server
	load     func(model string) *core.Error // goes on when its client has left
	pass     func() bool                    // waits while the pod hangs; false at its end
	grpc     *grpc.Server
	draining atomic.Bool
	streams  atomic.Int64   // RPCs under way
	wg       sync.WaitGroup // readers of streams, and the drain
}

// New returns a server that ends with life; nothing runs before Serve.
func New(life context.Context, c *core.Server) *Server {
	s := &Server{
		core: c,
		load: func(model string) *core.Error { return c.Load(life, model) },
		pass: func() bool { return c.Pass(life) },
	}
	s.grpc = grpc.NewServer(
		grpc.Creds(handshake{s}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPing}),
		grpc.MaxRecvMsgSize(math.MaxInt32), grpc.MaxSendMsgSize(math.MaxInt32), // as Triton's
		grpc.WaitForHandlers(true),
		grpc.UnaryInterceptor(s.unary), grpc.StreamInterceptor(s.stream),
	)
	inferencepb.RegisterGRPCInferenceServiceServer(s.grpc, s)
	grpc_health_v1.RegisterHealthServer(s.grpc, healthServer{core: c})
	return s
}

// unary and stream hold every RPC while the pod hangs.
func (s *Server) unary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	s.streams.Add(1)
	defer s.streams.Add(-1)
	if !s.core.Pass(ctx) {
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	return next(ctx, req)
}

func (s *Server) stream(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	s.streams.Add(1)
	defer s.streams.Add(-1)
	if !s.core.Pass(ss.Context()) {
		return status.FromContextError(ss.Context().Err()).Err()
	}
	return next(srv, ss)
}

// Serve serves until Stop or the end of a drain.
func (s *Server) Serve(ln *socket.Listener) error {
	err := s.grpc.Serve(multiplexed{ln})
	if errors.Is(err, grpc.ErrServerStopped) {
		return nil
	}
	return err
}

// Drain tells all clients to go away and refuses further requests, and returns
// when the RPCs under way have ended or ctx has.
func (s *Server) Drain(ctx context.Context) {
	s.draining.Store(true)
	done := make(chan struct{})
	s.wg.Go(func() {
		s.grpc.GracefulStop()
		close(done)
	})
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// Streams counts the RPCs under way.
func (s *Server) Streams() int { return int(s.streams.Load()) }

// Stop breaks off whatever is left and returns when all has ended.
func (s *Server) Stop() {
	s.grpc.Stop()
	s.wg.Wait()
}

// accepting refuses requests that come after the beginning of a drain.
func (s *Server) accepting() *core.Error {
	if s.draining.Load() {
		return core.Unavailable("GRPC server is shutting down and has stopped accepting new requests.")
	}
	return nil
}

// failure is a Triton error as a status.
func failure(err *core.Error) error { return status.Error(codeOf(err), err.Text) }

func codeOf(err *core.Error) codes.Code {
	switch err.Status {
	case http.StatusInternalServerError:
		return codes.Internal
	case http.StatusNotFound:
		return codes.NotFound
	case http.StatusServiceUnavailable:
		return codes.Unavailable
	case http.StatusNotImplemented:
		return codes.Unimplemented
	default:
		return codes.InvalidArgument
	}
}

// multiplexed is a listener whose connections end when they are closed, also those that
// a server which ends closes before their handshake.
type multiplexed struct{ *socket.Listener }

// Accept returns the next connection.
func (m multiplexed) Accept() (net.Conn, error) {
	c, err := m.Listener.Accept()
	if tracked, ok := c.(*socket.Conn); ok {
		tracked.Multiplex()
	}
	return c, err
}

// handshake is no security: it lets the handlers know the connection, and lets
// none write while the pod hangs, pings' answers included.
type handshake struct{ server *Server }

type connInfo struct {
	credentials.CommonAuthInfo
	conn *socket.Conn
}

func (connInfo) AuthType() string { return "insecure" }

// ServerHandshake takes over a connection.
func (h handshake) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, ok := raw.(*socket.Conn)
	if !ok {
		return nil, nil, errors.New("connection is not the listener's")
	}
	return gated{c, h.server}, connInfo{conn: c}, nil
}

// ClientHandshake is not for servers.
func (handshake) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("the credentials of a server")
}

func (handshake) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "insecure"}
}

func (h handshake) Clone() credentials.TransportCredentials { return h }

// OverrideServerName does nothing: no name is ever checked.
func (handshake) OverrideServerName(string) error { return nil }

type gated struct {
	*socket.Conn
	server *Server
}

func (g gated) Write(b []byte) (int, error) {
	if !g.server.pass() {
		return 0, net.ErrClosed
	}
	return g.Conn.Write(b)
}

// connOf is the connection that an RPC came on.
func connOf(ctx context.Context) *socket.Conn {
	p, _ := peer.FromContext(ctx)
	info, _ := p.AuthInfo.(connInfo)
	return info.conn
}
