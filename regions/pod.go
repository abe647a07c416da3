package regions

import (
	"net/netip"
	"time"
)

// PodID names one Triton server, unique within its region.
type PodID string

// Pod is one Triton server as discovery reports it.
type Pod struct {
	ID      PodID
	HTTP    netip.AddrPort // KServe v2 over HTTP/1.1; always set
	GRPC    netip.AddrPort // KServe v2 over gRPC; zero if not served
	OpenAI  netip.AddrPort // Triton's OpenAI frontend; zero if not served
	Metrics netip.AddrPort // zero if not served
	// Models are those that discovery says the pod may serve. Whether it does
	// is the probe's finding.
	Models []PodModel
	// Terminating pods take no new requests and finish what they have.
	Terminating bool
}

// Frontend is one of the servers by which a pod takes requests.
type Frontend uint8

// The frontends of a Triton server.
const (
	HTTP   Frontend = iota // KServe v2 over HTTP/1.1; every pod has it
	GRPC                   // KServe v2 over gRPC
	OpenAI                 // the OpenAI frontend
)

// String is the frontend's name in logs and metrics.
func (f Frontend) String() string {
	switch f {
	case GRPC:
		return "grpc"
	case OpenAI:
		return "openai"
	default:
		return "http"
	}
}

// At is the address of a frontend, the zero value if the pod does not have it.
func (p *Pod) At(f Frontend) netip.AddrPort {
	switch f {
	case GRPC:
		return p.GRPC
	case OpenAI:
		return p.OpenAI
	default:
		return p.HTTP
	}
}

// PodModel is a model that a pod may serve and how many sequences of it the pod
// is configured to run at a time; 0 if nobody said.
type PodModel struct {
	Name  ModelName
	Slots int
}

// PodState is what an agent thinks of one pod for one model.
type PodState uint8

// The states of a pod. Only ready and warming pods are given new requests.
const (
	PodGone     PodState = iota // not there, or never seen ready
	PodWarming                  // ready for less than its slow start
	PodReady                    // serving
	PodEjected                  // taken out for errors, to be tried again
	PodDraining                 // finishing what it has
)

// String is the state's name in logs, metrics and the admin API.
func (s PodState) String() string {
	switch s {
	case PodWarming:
		return "warming"
	case PodReady:
		return "ready"
	case PodEjected:
		return "ejected"
	case PodDraining:
		return "draining"
	default:
		return "gone"
	}
}

// Takes reports whether a pod in this state is given new requests.
func (s PodState) Takes() bool { return s == PodReady || s == PodWarming }

// Sight is the kind of thing that was seen of a pod.
type Sight uint8

// What a probe or a request can see of a pod.
const (
	SawReady    Sight = iota + 1 // the model answered that it is ready
	SawNotReady                  // the model answered that it is not
	SawRefused                   // a fresh connection was refused or reset
	SawClosed                    // a fresh connection was closed without a byte: draining or dead
	SawTimeout                   // no answer in time
	SawLost                      // a request in flight lost its connection
	SawServed                    // a request was answered
)

// String is the sight's name in logs and metrics.
func (s Sight) String() string {
	names := [...]string{"nothing", "ready", "not-ready", "refused", "closed", "timeout", "lost", "served"}
	if int(s) < len(names) {
		return names[s]
	}
	return "unknown"
}

// Observation is one sight of one pod and model.
type Observation struct {
	Pod   PodID
	Model ModelName
	Sight Sight
	Took  time.Duration // until the answer or the failure
}
