package rpc

import (
	"context"

	pb "github.com/rhumb-lb/rhumb/regions/triton/inferencepb"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest/core"
)

// errShared is how a server refuses regions of shared memory
// (--allow-client-shm=false).
var errShared = core.Unsupported("Client shared memory is disabled. Start the server with '--allow-client-shm=true' to enable.")

// SystemSharedMemoryStatus lists no regions.
func (s *Server) SystemSharedMemoryStatus(context.Context, *pb.SystemSharedMemoryStatusRequest) (*pb.SystemSharedMemoryStatusResponse, error) {
	return new(pb.SystemSharedMemoryStatusResponse), nil
}

// SystemSharedMemoryRegister refuses.
func (s *Server) SystemSharedMemoryRegister(context.Context, *pb.SystemSharedMemoryRegisterRequest) (*pb.SystemSharedMemoryRegisterResponse, error) {
	return nil, failure(errShared)
}

// SystemSharedMemoryUnregister refuses.
func (s *Server) SystemSharedMemoryUnregister(context.Context, *pb.SystemSharedMemoryUnregisterRequest) (*pb.SystemSharedMemoryUnregisterResponse, error) {
	return nil, failure(errShared)
}

// CudaSharedMemoryStatus lists no regions.
func (s *Server) CudaSharedMemoryStatus(context.Context, *pb.CudaSharedMemoryStatusRequest) (*pb.CudaSharedMemoryStatusResponse, error) {
	return new(pb.CudaSharedMemoryStatusResponse), nil
}

// CudaSharedMemoryRegister refuses.
func (s *Server) CudaSharedMemoryRegister(context.Context, *pb.CudaSharedMemoryRegisterRequest) (*pb.CudaSharedMemoryRegisterResponse, error) {
	return nil, failure(errShared)
}

// CudaSharedMemoryUnregister refuses.
func (s *Server) CudaSharedMemoryUnregister(context.Context, *pb.CudaSharedMemoryUnregisterRequest) (*pb.CudaSharedMemoryUnregisterResponse, error) {
	return nil, failure(errShared)
}

// TraceSetting reports the settings of a server that traces nothing; a change is
// accepted and has no effect.
func (s *Server) TraceSetting(context.Context, *pb.TraceSettingRequest) (*pb.TraceSettingResponse, error) {
	value := func(v string) *pb.TraceSettingResponse_SettingValue {
		return &pb.TraceSettingResponse_SettingValue{Value: []string{v}}
	}
	return &pb.TraceSettingResponse{Settings: map[string]*pb.TraceSettingResponse_SettingValue{
		"trace_level": value("OFF"), "trace_rate": value("1000"), "trace_count": value("-1"), "log_frequency": value("0"),
		"trace_file": value(""), "trace_mode": value("triton"),
	}}, nil
}

// LogSettings reports the usual settings; a change is accepted and has no effect.
func (s *Server) LogSettings(context.Context, *pb.LogSettingsRequest) (*pb.LogSettingsResponse, error) {
	flag := func(v bool) *pb.LogSettingsResponse_SettingValue {
		return &pb.LogSettingsResponse_SettingValue{ParameterChoice: &pb.LogSettingsResponse_SettingValue_BoolParam{BoolParam: v}}
	}
	text := func(v string) *pb.LogSettingsResponse_SettingValue {
		return &pb.LogSettingsResponse_SettingValue{ParameterChoice: &pb.LogSettingsResponse_SettingValue_StringParam{StringParam: v}}
	}
	return &pb.LogSettingsResponse{Settings: map[string]*pb.LogSettingsResponse_SettingValue{
		"log_file": text(""), "log_info": flag(true), "log_warning": flag(true), "log_error": flag(true), "log_format": text("default"),
		"log_verbose_level": {ParameterChoice: &pb.LogSettingsResponse_SettingValue_Uint32Param{}},
	}}, nil
}
