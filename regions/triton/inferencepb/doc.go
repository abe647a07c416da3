// Package inferencepb is Triton's gRPC protocol as generated code: the messages
// and the service inference.GRPCInferenceService, with client and server.
//
// The generated code needs protoc 3.21, protoc-gen-go v1.36.12
// (google.golang.org/protobuf/cmd/protoc-gen-go) and protoc-gen-go-grpc v1.6.2
// (google.golang.org/grpc/cmd/protoc-gen-go-grpc) in PATH; then "go generate".
package inferencepb

//go:generate protoc --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative inference.proto
