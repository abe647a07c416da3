package rpc

import (
	"context"

	"google.golang.org/grpc/health/grpc_health_v1"

	pb "github.com/rhumb-lb/rhumb/regions/triton/inferencepb"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest/core"
)

// healthServer has Check only, whatever the service: Watch is unimplemented.
type healthServer struct {
	grpc_health_v1.UnimplementedHealthServer
	core *core.Server
}

// Check tells whether the server is ready.
func (h healthServer) Check(context.Context, *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	if h.core.Exiting() {
		return nil, failure(errExiting)
	}
	state := grpc_health_v1.HealthCheckResponse_NOT_SERVING
	if h.core.Ready() {
		state = grpc_health_v1.HealthCheckResponse_SERVING
	}
	return &grpc_health_v1.HealthCheckResponse{Status: state}, nil
}

var errExiting = core.Unavailable("Server exiting")

// ServerLive is true unless the core is exiting.
func (s *Server) ServerLive(context.Context, *pb.ServerLiveRequest) (*pb.ServerLiveResponse, error) {
	if s.core.Exiting() {
		return nil, failure(errExiting)
	}
	return &pb.ServerLiveResponse{Live: true}, nil
}

// ServerReady tells whether all models are ready.
func (s *Server) ServerReady(context.Context, *pb.ServerReadyRequest) (*pb.ServerReadyResponse, error) {
	if s.core.Exiting() {
		return nil, failure(errExiting)
	}
	return &pb.ServerReadyResponse{Ready: s.core.Ready()}, nil
}

// ModelReady is an error for a model that is not loaded, and false for one whose
// backend is not well.
func (s *Server) ModelReady(_ context.Context, r *pb.ModelReadyRequest) (*pb.ModelReadyResponse, error) {
	if _, err := s.core.Lookup(r.Name, r.Version); err != nil {
		return nil, failure(err)
	}
	if err := s.core.Serving(); err != nil {
		return nil, failure(err)
	}
	return &pb.ModelReadyResponse{Ready: s.core.ModelReady(r.Name, r.Version) == nil}, nil
}
