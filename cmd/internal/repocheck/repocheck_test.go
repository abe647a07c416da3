package repocheck

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// root is the top of the repository.
const root = "../../.."

// none fails the test with each violation on a line.
func none(t *testing.T, violations []string) {
	t.Helper()
	for _, v := range violations {
		t.Error(v)
	}
}

func ourPackages(t *testing.T) []Package {
	t.Helper()
	packages, err := ListPackages(t.Context(), root, "./...")
	if err != nil {
		t.Fatal(err)
	}
	if len(packages) < 5 {
		t.Fatalf("go list found only %d packages", len(packages))
	}
	return packages
}

func ourFiles(t *testing.T) map[string][]byte {
	t.Helper()
	names, err := ListFiles(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join(root, name))
		if os.IsNotExist(err) {
			continue // deleted, and not committed yet
		}
		if err != nil {
			t.Fatal(err)
		}
		files[name] = data
	}
	if len(files) < 20 {
		t.Fatalf("git lists only %d files", len(files))
	}
	return files
}

func ourSources(t *testing.T) []Source {
	t.Helper()
	var sources []Source
	for name, data := range ourFiles(t) {
		if !strings.HasSuffix(name, ".go") {
			continue
		}
		s, err := ParseSource(name, data)
		if err != nil {
			t.Fatal(err)
		}
		sources = append(sources, s)
	}
	return sources
}

func TestImports(t *testing.T) {
	packages := ourPackages(t)
	t.Logf("who imports what of ours:\n%s", ImportTable(packages))
	none(t, CheckImports(packages, Imports))
}

func TestDocs(t *testing.T) { none(t, CheckDocs(ourPackages(t))) }

func TestBudgets(t *testing.T) { none(t, CheckBudgets(ourSources(t))) }

func TestGoroutines(t *testing.T) { none(t, CheckGoroutines(ourSources(t), Imports)) }

func TestMetrics(t *testing.T) {
	sources := ourSources(t)
	none(t, CheckMetrics(sources))
	count := 0
	for _, s := range sources {
		count += len(s.Metrics())
	}
	if count == 0 {
		t.Error("found no metric at all; the reader of metrics.go is broken")
	}
}

func TestWords(t *testing.T) {
	for name, data := range ourFiles(t) {
		none(t, CheckWords(name, data))
	}
}

// minMemberlist is the first memberlist that a crafted message can't panic.
const minMemberlist = "v0.7.0"

func TestMemberlist(t *testing.T) {
	out, err := run(t.Context(), root, "go", "list", "-m", "-f", "{{.Version}}", "github.com/hashicorp/memberlist")
	if err != nil {
		t.Fatal(err)
	}
	ok, err := AtLeast(strings.TrimSpace(string(out)), minMemberlist)
	if err != nil || !ok {
		t.Errorf("memberlist %s, want %s or newer (%v)", out, minMemberlist, err)
	}
}

func TestLicences(t *testing.T) {
	packages, err := ListPackages(t.Context(), root, "-deps", "./cmd/rhumb")
	if err != nil {
		t.Fatal(err)
	}
	texts, err := ReadLicences(packages)
	if err != nil {
		t.Fatal(err)
	}
	if len(texts) < 5 {
		t.Fatalf("cmd/rhumb links only %d modules", len(texts))
	}
	none(t, CheckLicences(texts))
}
