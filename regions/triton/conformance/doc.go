// Package conformance holds the simulator of package tritontest against a real
// Triton server. Each case of its tests is a conversation on the wire; what a real
// server said is kept in testdata, so that the simulator is checked on any machine,
// and make test-triton asks a real one again. It has no code of its own.
package conformance
