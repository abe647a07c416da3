// Package wire is the format of what members of the fleet exchange: the
// envelope around every signed record, the payloads whose shape all must agree
// on (status, spill row and loads of pods), and the small messages of gossip itself.
//
// Decoding is strict where a value would be used (counts, lengths, ranges,
// order, UTF-8; the error names the field) and lenient where a newer version
// speaks: unknown fields and unknown kinds are not errors. Encoding refuses
// whatever decoding would refuse. The bytes of a body are what is signed; relays
// pass them on untouched.
//
// The generated code needs protoc 3.21 and protoc-gen-go v1.36.12
// (google.golang.org/protobuf/cmd/protoc-gen-go) in PATH; then "go generate".
package wire

//go:generate protoc --go_out=. --go_opt=paths=source_relative wire.proto
