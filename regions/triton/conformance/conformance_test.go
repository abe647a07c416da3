package conformance

import (
	"flag"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

var update = flag.Bool("update", false, "write down what the real server and the simulator say; then read the diff")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cases are all conversations, in the order in which they are held: some change
// what a later one sees.
var cases = slices.Concat(healthCases, metadataCases, configCases, inferCases, generateCases, streamCases, protocolCases,
	countingCases, grpcCases, loadCases, repositoryCases)

// What depends on the version, the moment or the machine.
var normal = []struct {
	shape *regexp.Regexp
	as    string
}{
	{regexp.MustCompile(`("name":"triton","version":)"[0-9.]+"`), `$1"VERSION"`},
	{regexp.MustCompile(`Content-Length: \d+`), `Content-Length: N`},
	{regexp.MustCompile(`"platform":"(python|vllm)"`), `"platform":"PLATFORM"`}, // a model of Python stands for vLLM's
	{regexp.MustCompile(`"(ns|last_inference)":\d+`), `"$1":N`},
	{regexp.MustCompile(`405 (Method )?Not Allowed`), `405 Not Allowed`},           // which words stand behind the status does not matter
	{regexp.MustCompile(`\{"name":"engine","version":"1","state":"READY"\},`), ``}, // a step of trt
	{regexp.MustCompile(`\{engine 1\} `), ``},
}

func normalise(text string) string {
	for _, n := range normal {
		text = n.shape.ReplaceAllString(text, n.as)
	}
	return text
}

// hold runs all cases against servers that start makes.
func hold(t *testing.T, tg target) answers {
	a := answers{texts: make(map[string]string)}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { a.add(c.name, normalise(c.run(t, tg))) })
	}
	return a
}

// TestConformance holds the simulator against what a real server said. Where it
// differs on purpose, testdata/differences.txt has what it says, and docs/triton.md
// why. With -triton a real server is asked again, and must still say the same.
func TestConformance(t *testing.T) {
	simulated := hold(t, simulate(t, 30*time.Second))
	var version string
	if *tritonDir != "" {
		tg := launch(t, 30*time.Second)
		version = versionOf(t, tg)
		asked := hold(t, tg)
		if *update {
			asked.write(t, realAnswers)
		}
		compare(t, "a real Triton", readAnswers(t, realAnswers).texts, asked)
	}
	recorded := readAnswers(t, realAnswers)
	if *update {
		listed := answers{texts: make(map[string]string)}
		for _, name := range simulated.order {
			if simulated.texts[name] != recorded.texts[name] {
				listed.add(name, simulated.texts[name])
			}
		}
		listed.write(t, differences)
	}
	want := recorded.texts
	listed := readAnswers(t, differences)
	for _, name := range listed.order {
		if want[name] == listed.texts[name] {
			t.Errorf("%s: is listed as a difference, and is none; take it off", name)
		}
		want[name] = listed.texts[name]
	}
	compare(t, "the simulator", want, simulated)
	if *tritonDir != "" {
		t.Logf("%d conformance cases against real Triton %s and the simulator, %d differences listed", len(cases), version, len(listed.order))
	}
}

func versionOf(t *testing.T, tg target) string {
	t.Helper()
	var server struct{ Version string }
	decode(t, "http://"+tg.http+"/v2", &server)
	return server.Version
}

func compare(t *testing.T, who string, want map[string]string, got answers) {
	t.Helper()
	for _, name := range got.order {
		if want[name] != got.texts[name] {
			t.Errorf("%s says otherwise in %q:\n%s", who, name, strings.TrimRight(diff(want[name], got.texts[name]), "\n"))
		}
	}
	for name := range want {
		if _, asked := got.texts[name]; !asked {
			t.Errorf("%q is written down, and %s was not asked; -update takes it off", name, who)
		}
	}
}
