package dnsserver

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// TestReadme checks that the README's example is the one that runs as Example,
// and that it lists the metrics that exist.
func TestReadme(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	example, err := os.ReadFile("example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```go\n(.*?)```").FindSubmatch(readme)
	if block == nil {
		t.Fatal("no Go example in the README")
	}
	for line := range strings.Lines(string(block[1])) {
		if !strings.Contains(string(example), strings.TrimSpace(line)) {
			t.Errorf("not in example_test.go: %s", line)
		}
	}
	listed := make(map[string]bool)
	for _, name := range regexp.MustCompile("`(rhumb_dns_[a-z_]+)`").FindAllSubmatch(readme, -1) {
		listed[string(name[1])] = true
	}
	m, err := newMetrics(nil)
	if err != nil {
		t.Fatal(err)
	}
	descriptions := make(chan *prometheus.Desc, 64)
	for _, c := range m.all() {
		c.Describe(descriptions)
	}
	close(descriptions)
	for d := range descriptions {
		name := regexp.MustCompile(`fqName: "([^"]+)"`).FindStringSubmatch(d.String())[1]
		if !listed[name] {
			t.Errorf("the README lacks %s", name)
		}
		delete(listed, name)
	}
	for name := range listed {
		t.Errorf("the README has %s, which does not exist", name)
	}
}
