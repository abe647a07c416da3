package shape_test

import (
	"net/http/httptest"
	"testing"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/rpc"
	"github.com/rhumb-lb/rhumb/regions/shape"
)

func TestWrite(t *testing.T) {
	for _, tt := range []struct {
		frontend regions.Frontend
		err      shape.Error
		status   int
		want     string
	}{
		{regions.HTTP, shape.Error{Status: 404, Text: `no "x"`, Code: "c"}, 404, `{"error":"no \"x\""}`},
		{regions.OpenAI, shape.Error{Status: 503, Text: "busy"}, 503, `{"error":{"message":"busy","type":"server_error","param":null,"code":null}}`},
		{
			regions.OpenAI, shape.Error{Status: 404, Text: "none", Param: "model", Code: "model_not_found"}, 404,
			`{"error":{"message":"none","type":"invalid_request_error","param":"model","code":"model_not_found"}}`,
		},
		{regions.OpenAI, shape.Error{Status: 401, Text: "key"}, 401, `{"error":{"message":"key","type":"authentication_error","param":null,"code":null}}`},
		{regions.OpenAI, shape.Error{Status: 403, Text: "key"}, 403, `{"error":{"message":"key","type":"permission_error","param":null,"code":null}}`},
		{regions.OpenAI, shape.Error{Status: 429, Text: "slow"}, 429, `{"error":{"message":"slow","type":"rate_limit_error","param":null,"code":null}}`},
		{regions.GRPC, shape.Error{Status: 503, Text: "busy"}, 200, ""},
	} {
		w := httptest.NewRecorder()
		w.Header().Set("Retry-After", "2")
		tt.err.Write(w, tt.frontend)
		if w.Code != tt.status || w.Body.String() != tt.want || w.Header().Get("Retry-After") != "2" {
			t.Errorf("%v %+v: %d %s %v", tt.frontend, tt.err, w.Code, w.Body, w.Header())
		}
		if code, ok := rpc.Answered(w.Header()); ok != (tt.frontend == regions.GRPC) || ok && code != rpc.Unavailable {
			t.Errorf("%v: grpc-status %v, %v", tt.frontend, code, ok)
		}
	}
}
