package conformance

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// reasons are why the simulator differs on purpose; docs/triton.md has them too.
var reasons = []struct {
	cases *regexp.Regexp
	why   string
}{
	{
		regexp.MustCompile(`^ready: |^repository: ready after unload|^grpc: ModelReady, `),
		"A model that is not there is 404 since triton-inference-server/core#502 (June 2026), before it was 400 (false by gRPC)",
	},
	{
		regexp.MustCompile(`^memory: register$`),
		"Clients' shared memory is off unless asked for since triton-inference-server/server#8721 (April 2026)",
	},
	{
		regexp.MustCompile(`^infer: header length is no number$`),
		"A header length that is no number was taken for 0, until triton-inference-server/server#8794 (May 2026)",
	},
	{
		regexp.MustCompile(`^repository: unload, no JSON$`),
		"The body of an unload is read by newer servers only",
	},
	{
		regexp.MustCompile(`^protocol: body of more than 64 MiB$`),
		"--http-max-input-size is newer than the real server",
	},
	{
		regexp.MustCompile(`^(infer|generate): cut JSON$`),
		"The words and offsets of JSON's syntax errors are those of Go's parser",
	},
	{
		regexp.MustCompile(`^health: live by HEAD$`),
		"A real server sends the body of a refusal to HEAD too, and so confuses the connection",
	},
	{
		regexp.MustCompile(`^protocol: pipelined requests$`),
		"A real server answers the first of pipelined requests and drops the others",
	},
	{
		regexp.MustCompile(`^protocol: (HTTP/1\.0|no Host|malformed)`),
		"HTTP/1.0, a missing Host and malformed requests are answered by net/http",
	},
	{
		regexp.MustCompile(`^generate: load metrics asked for$|^counting: metrics|^metrics: families$`),
		"A server without a GPU and without TensorRT-LLM lacks their metrics; pinned and CPU memory are not simulated; the load duration is newer",
	},
	{
		regexp.MustCompile(`^overload: `),
		"A simulated coupled model answers as an ensemble, also where it has a queue, which real ensembles have not",
	},
	{
		regexp.MustCompile(`^grpc: (health: Watch|unknown method)$`),
		"grpc-go says which method it does not know",
	},
}

// TestEveryDifferenceHasAReason that the page gives too.
func TestEveryDifferenceHasAReason(t *testing.T) {
	page, err := os.ReadFile("../../../docs/triton.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := readAnswers(t, differences)
	for _, r := range reasons {
		if !strings.Contains(strings.Join(strings.Fields(string(page)), " "), r.why) {
			t.Errorf("docs/triton.md does not say: %s", r.why)
		}
	}
	used := make(map[int]bool)
	for _, name := range listed.order {
		explained := 0
		for i, r := range reasons {
			if r.cases.MatchString(name) {
				used[i] = true
				explained++
			}
		}
		if explained != 1 {
			t.Errorf("%s has %d reasons", name, explained)
		}
	}
	for i, r := range reasons {
		if !used[i] {
			t.Errorf("no difference any more: %s", r.why)
		}
	}
}
