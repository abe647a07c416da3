package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzParse: whatever the file says, Parse returns a configuration or problems
// that each say what is wrong and name the file.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/broken/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range append(files, "../../../deploy/agent.yaml", "../../../deploy/director.yaml") {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("{{{{{{{{{{[[[[[["))
	f.Add([]byte("\xff\xfe"))
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg, err := Parse("fuzz.yaml", data, Source{SkipFiles: true})
		if err == nil {
			if len(cfg.Roles()) == 0 {
				t.Error("accepted without a role")
			}
			return
		}
		var problems Problems
		if !errors.As(err, &problems) || len(problems) == 0 {
			t.Fatalf("not a list of problems: %v", err)
		}
		for _, p := range problems {
			if !strings.HasPrefix(p.String(), "fuzz.yaml:") || p.What == "" || p.Remedy == "" {
				t.Errorf("incomplete: %q", p.String())
			}
		}
	})
}
