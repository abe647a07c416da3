package rpc

import (
	"context"
	"strconv"
	"time"

	pb "github.com/rhumb-lb/rhumb/regions/triton/inferencepb"
	"github.com/rhumb-lb/rhumb/regions/triton/tritontest/core"
)

// ServerMetadata names the server.
func (s *Server) ServerMetadata(context.Context, *pb.ServerMetadataRequest) (*pb.ServerMetadataResponse, error) {
	return &pb.ServerMetadataResponse{Name: core.ServerName, Version: core.ServerVersion, Extensions: core.Extensions}, nil
}

// ModelMetadata lists the tensors of a model.
func (s *Server) ModelMetadata(_ context.Context, r *pb.ModelMetadataRequest) (*pb.ModelMetadataResponse, error) {
	m, err := s.model(r.Name, r.Version)
	if err != nil {
		return nil, failure(err)
	}
	out := &pb.ModelMetadataResponse{Name: m.Name, Versions: []string{strconv.Itoa(m.Version)}, Platform: m.Platform()}
	list := func(all []core.Tensor) (rows []*pb.ModelMetadataResponse_TensorMetadata) {
		for _, t := range all {
			rows = append(rows, &pb.ModelMetadataResponse_TensorMetadata{Name: t.Name, Datatype: t.Datatype, Shape: []int64{int64(t.Shape)}})
		}
		return rows
	}
	out.Inputs, out.Outputs = list(m.Inputs()), list(m.Outputs())
	return out, nil
}

func (s *Server) model(name, version string) (core.Model, *core.Error) {
	if err := s.core.Serving(); err != nil {
		return core.Model{}, err
	}
	eng, err := s.core.Lookup(name, version)
	if err != nil {
		return core.Model{}, err
	}
	return eng.Model(), nil
}

// ModelConfig is the part of a model's configuration that says how it serves.
func (s *Server) ModelConfig(_ context.Context, r *pb.ModelConfigRequest) (*pb.ModelConfigResponse, error) {
	m, err := s.model(r.Name, r.Version)
	if err != nil {
		return nil, failure(err)
	}
	c := &pb.ModelConfig{
		Name:                   m.Name,
		VersionPolicy:          &pb.ModelVersionPolicy{PolicyChoice: &pb.ModelVersionPolicy_Latest_{Latest: &pb.ModelVersionPolicy_Latest{NumVersions: 1}}},
		ModelTransactionPolicy: &pb.ModelTransactionPolicy{Decoupled: !m.Coupled},
	}
	if m.Flavour == core.TRTLLM {
		c.Platform = m.Platform()
	} else {
		c.Backend = m.Platform()
	}
	for _, t := range m.Inputs() {
		c.Input = append(c.Input, &pb.ModelInput{Name: t.Name, DataType: datatype(t), Dims: []int64{int64(t.Shape)}, Optional: t.Optional})
	}
	for _, t := range m.Outputs() {
		c.Output = append(c.Output, &pb.ModelOutput{Name: t.Name, DataType: datatype(t), Dims: []int64{int64(t.Shape)}})
	}
	if m.Queues() {
		c.SchedulingChoice = &pb.ModelConfig_DynamicBatching{DynamicBatching: &pb.ModelDynamicBatching{DefaultQueuePolicy: &pb.ModelQueuePolicy{
			DefaultTimeoutMicroseconds: uint64(m.QueueTimeout.Microseconds()), AllowTimeoutOverride: true, MaxQueueSize: uint32(m.QueueLimit),
		}}}
	}
	if m.Checkpoint != "" {
		c.Parameters = map[string]*pb.ModelParameter{"model": {StringValue: m.Checkpoint}}
	}
	return &pb.ModelConfigResponse{Config: c}, nil
}

// datatype is a tensor's type in the words of a configuration.
func datatype(t core.Tensor) pb.DataType {
	if t.Datatype == "BYTES" {
		return pb.DataType_TYPE_STRING
	}
	return pb.DataType(pb.DataType_value["TYPE_"+t.Datatype])
}

// ModelStatistics counts the requests of one model or of all that are ready.
func (s *Server) ModelStatistics(_ context.Context, r *pb.ModelStatisticsRequest) (*pb.ModelStatisticsResponse, error) {
	if err := s.core.Serving(); err != nil {
		return nil, failure(err)
	}
	out := new(pb.ModelStatisticsResponse)
	for _, e := range s.core.Loaded() {
		if r.Name != "" && r.Name != e.Model.Name {
			continue
		}
		if r.Version != "" && r.Version != strconv.Itoa(e.Model.Version) {
			return nil, failure(core.Invalid("requested model version is not available for model '%s'", r.Name))
		}
		out.ModelStats = append(out.ModelStats, statistics(e.Model, e.Engine.Gauges()))
	}
	if r.Name != "" && len(out.ModelStats) == 0 {
		return nil, failure(core.Invalid("requested model '%s' is not available", r.Name))
	}
	return out, nil
}

func statistics(m core.Model, g core.Gauges) *pb.ModelStatistics {
	duration := func(count int64, d time.Duration) *pb.StatisticDuration {
		return &pb.StatisticDuration{Count: uint64(count), Ns: uint64(d.Nanoseconds())}
	}
	var failed int64
	for _, n := range g.Failures {
		failed += n
	}
	out := &pb.ModelStatistics{
		Name: m.Name, Version: strconv.Itoa(m.Version), InferenceCount: uint64(g.Success), ExecutionCount: uint64(g.Success),
		InferenceStats: &pb.InferStatistics{
			Success: duration(g.Success, g.Request), Fail: duration(failed, 0), Queue: duration(g.Success, g.Queue),
			ComputeInput: duration(g.Success, 0), ComputeInfer: duration(g.Success, g.Infer), ComputeOutput: duration(g.Success, 0),
			CacheHit: duration(0, 0), CacheMiss: duration(0, 0),
		},
	}
	if !g.Last.IsZero() {
		out.LastInference = uint64(g.Last.UnixMilli())
	}
	return out
}

// RepositoryIndex lists the models of the repository.
func (s *Server) RepositoryIndex(_ context.Context, r *pb.RepositoryIndexRequest) (*pb.RepositoryIndexResponse, error) {
	if err := s.core.Serving(); err != nil {
		return nil, failure(err)
	}
	out := new(pb.RepositoryIndexResponse)
	for _, row := range s.core.Index(r.Ready) {
		m := &pb.RepositoryIndexResponse_ModelIndex{Name: row.Name, State: string(row.State), Reason: row.Reason}
		if row.Version > 0 {
			m.Version = strconv.Itoa(row.Version)
		}
		out.Models = append(out.Models, m)
	}
	return out, nil
}

// RepositoryModelLoad returns when the model is ready.
func (s *Server) RepositoryModelLoad(_ context.Context, r *pb.RepositoryModelLoadRequest) (*pb.RepositoryModelLoadResponse, error) {
	if err := s.controllable(r.RepositoryName); err != nil {
		return nil, failure(err)
	}
	if err := s.load(r.ModelName); err != nil {
		return nil, failure(err)
	}
	return new(pb.RepositoryModelLoadResponse), nil
}

// RepositoryModelUnload stops a model for new requests.
func (s *Server) RepositoryModelUnload(_ context.Context, r *pb.RepositoryModelUnloadRequest) (*pb.RepositoryModelUnloadResponse, error) {
	if err := s.controllable(r.RepositoryName); err != nil {
		return nil, failure(err)
	}
	if err := s.core.Unload(r.ModelName); err != nil {
		return nil, failure(err)
	}
	return new(pb.RepositoryModelUnloadResponse), nil
}

func (s *Server) controllable(repository string) *core.Error {
	if err := s.core.Serving(); err != nil {
		return err
	}
	if repository != "" {
		return core.Unsupported("'repository_name' specification is not supported")
	}
	return nil
}
