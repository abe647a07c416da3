package abuse

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// root is the repository's.
const root = "../.."

// proofs finds a test in the page's tables with the cases behind it, up to the next.
var (
	proofs = regexp.MustCompile("`([a-z/]+)\\.((?:Test|Fuzz)[A-Za-z0-9]+)`((?: \"[^\"]+\",?)*)")
	cases  = regexp.MustCompile(`"[^"]+"`)
)

// TestDocs: the tests and cases that docs/limits.md gives as proof are there.
func TestDocs(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root, "docs", "limits.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, tables, _ := strings.Cut(string(page), "## Attacks and answers")
	rows := 0
	for line := range strings.Lines(tables) {
		if !strings.HasPrefix(line, "| ") || strings.HasSuffix(line, "proof |\n") {
			continue
		}
		rows++
		named := proofs.FindAllStringSubmatch(line, -1)
		if len(named) == 0 || strings.Count(line, "\"") != 2*len(cases.FindAllString(strings.Join(flat(named), ""), -1)) {
			t.Errorf("a row without proof, or with a case of no test: %s", line)
		}
		for _, n := range named {
			text := sources(t, n[1])
			if !strings.Contains(text, "\nfunc "+n[2]+"(") {
				t.Errorf("%s has no %s", n[1], n[2])
			}
			if strings.HasSuffix(n[2], "TestPayloads") {
				text = sources(t, "regions/gateway/gatewaytest")
			}
			for _, c := range cases.FindAllString(n[3], -1) {
				if !strings.Contains(text, c) {
					t.Errorf("%s.%s has no case %s", n[1], n[2], c)
				}
			}
		}
	}
	if rows < 40 {
		t.Errorf("only %d rows were found", rows)
	}
}

// flat are the cases of some proofs.
func flat(named [][]string) (all []string) {
	for _, n := range named {
		all = append(all, n[3])
	}
	return all
}

// sources is the text of a package's tests, and of what holds them.
func sources(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, dir, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s has no files, %v", dir, err)
	}
	var all strings.Builder
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
	}
	return all.String()
}
