package gossip_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestReadmeExamples: what the README shows is taken from the example that runs.
func TestReadmeExamples(t *testing.T) {
	example := read(t, "example_test.go")
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(read(t, "README.md"), -1)
	if len(blocks) == 0 {
		t.Fatal("no example in the README")
	}
	for _, b := range blocks {
		for line := range strings.Lines(b[1]) {
			if line = strings.TrimSpace(line); !strings.Contains(example, line) {
				t.Errorf("the README shows %q, which the example does not have", line)
			}
		}
	}
}

// TestReadmeMetrics: the README lists exactly the metrics that exist.
func TestReadmeMetrics(t *testing.T) {
	name := regexp.MustCompile(`rhumb_gossip_[a-z_]*[a-z]`)
	listed := name.FindAllString(read(t, "README.md"), -1)
	exist := name.FindAllString(read(t, "metrics.go"), -1)
	for _, list := range []*[]string{&listed, &exist} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
	if !slices.Equal(listed, exist) {
		t.Errorf("the README lists %v\nthe source has %v", listed, exist)
	}
}
