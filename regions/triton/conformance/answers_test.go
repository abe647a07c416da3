package conformance

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// The files of what was said: for each case a line "== name" and the text.
const (
	realAnswers = "testdata/real.txt"
	differences = "testdata/differences.txt"
)

// answers are texts by the name of their case, and the cases in order.
type answers struct {
	order []string
	texts map[string]string
}

func readAnswers(t *testing.T, file string) answers {
	t.Helper()
	a := answers{texts: make(map[string]string)}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range strings.Split("\n"+string(data), "\n== ")[1:] {
		name, text, _ := strings.Cut(strings.TrimSuffix(part, "\n")+"\n", "\n")
		if _, twice := a.texts[name]; twice {
			t.Fatalf("%s: %q is there twice", file, name)
		}
		a.add(name, text)
	}
	return a
}

func (a *answers) add(name, text string) {
	a.order = append(a.order, name)
	a.texts[name] = text
}

func (a *answers) write(t *testing.T, file string) {
	t.Helper()
	var b strings.Builder
	for _, name := range a.order {
		fmt.Fprintf(&b, "== %s\n%s", name, a.texts[name])
	}
	if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// diff shows two texts line by line where they differ.
func diff(want, got string) string {
	a, b := strings.Split(want, "\n"), strings.Split(got, "\n")
	var out strings.Builder
	for i := range max(len(a), len(b)) {
		var was, is string
		if i < len(a) {
			was = a[i]
		}
		if i < len(b) {
			is = b[i]
		}
		if was != is {
			fmt.Fprintf(&out, "  real:      %s\n  this time: %s\n", was, is)
		}
	}
	return out.String()
}
