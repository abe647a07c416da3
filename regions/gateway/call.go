package gateway

import (
	"net/http"

	"github.com/rhumb-lb/rhumb/regions/rpc"
)

// The names of calls as routes.
const (
	callInfer       = "model_infer"
	callStreamInfer = "model_stream_infer"
	callReady       = "model_ready"
	callMetadata    = "model_metadata"
	callConfig      = "model_config"
	callStatistics  = "model_statistics"
)

// service is Triton's.
const service = "/inference.GRPCInferenceService/"

// calls are the gRPC methods that may be called, by path. It is an allow-list, like
// verbs. A method that is not on it is answered as one that does not exist
// (UNIMPLEMENTED, as the paths are 404): PERMISSION_DENIED would say that another
// key may call it, and none may.
var calls = map[string]route{
	service + "ModelInfer":       {name: callInfer},
	service + "ModelStreamInfer": {name: callStreamInfer},
	service + "ModelReady":       {name: callReady},
	service + "ModelMetadata":    {name: callMetadata},
	service + "ModelConfig":      {name: callConfig},
	service + "ModelStatistics":  {name: callStatistics},

	service + "ServerLive":         {name: routeHealth, answer: (*Gateway).liveCall},
	service + "ServerReady":        {name: routeHealth, answer: (*Gateway).readyCall},
	service + "ServerMetadata":     {name: routeServer, answer: (*Gateway).metadataCall},
	"/grpc.health.v1.Health/Check": {name: routeHealth, answer: (*Gateway).checkCall},
}

// unimplemented is what gRPC says of a method that it does not know.
func unimplemented() error {
	return &refusal{status: http.StatusNotImplemented, text: "unknown method"}
}

// notCall says why a request for a method's path is no call.
func notCall(r *http.Request) error {
	if r.ProtoMajor != 2 {
		return &refusal{status: http.StatusHTTPVersionNotSupported, text: "gRPC needs HTTP/2", hangUp: true}
	}
	return &refusal{status: http.StatusUnsupportedMediaType, text: "calls have the Content-Type application/grpc"}
}

// liveCall answers ServerLive: field 1 is whether the server lives.
func (g *Gateway) liveCall(v *visit) { rpc.Reply(v, rpc.Message(nil).Bool(1, true)) }

// readyCall answers ServerReady: field 1 is whether it is ready.
func (g *Gateway) readyCall(v *visit) { rpc.Reply(v, rpc.Message(nil).Bool(1, g.opts.Ready())) }

// metadataCall answers ServerMetadata: name, version and extensions.
func (g *Gateway) metadataCall(v *visit) {
	m := rpc.Message(nil).String(1, serverName).String(2, g.opts.Version)
	for _, e := range extensions {
		m = m.String(3, e)
	}
	rpc.Reply(v, m)
}

// The states of a service in the gRPC health protocol (grpc.health.v1).
const (
	healthServing    = 1
	healthNotServing = 2
)

// checkCall answers Health/Check as Triton does: for any service, by whether the
// server is ready.
func (g *Gateway) checkCall(v *visit) {
	state := uint64(healthNotServing)
	if g.opts.Ready() {
		state = healthServing
	}
	rpc.Reply(v, rpc.Message(nil).Enum(1, state))
}
