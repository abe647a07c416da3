package config

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// deployed are the example files and the daemon that each is for.
var deployed = map[string]string{"agent.yaml": "agent", "director.yaml": "director"}

// absolute is a file name in an example.
var absolute = regexp.MustCompile(`/(etc|var)/[\w./-]+`)

// TestDeployedExamples loads each example as an operator would: with the files
// that it names in place, here in a folder of the test.
func TestDeployedExamples(t *testing.T) {
	for name, role := range deployed {
		t.Run(name, func(t *testing.T) {
			data := example(t, name)
			dir := t.TempDir()
			files := absolute.FindAllString(data, -1)
			if len(files) < 4 {
				t.Fatalf("the example names only %v", files)
			}
			for _, file := range files {
				file = filepath.Join(dir, file)
				if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
					t.Fatal(err)
				}
				write(t, file, "")
			}
			path := filepath.Join(dir, name)
			write(t, path, absolute.ReplaceAllString(data, dir+"$0"))
			cfg, err := Load(path, Source{})
			if err != nil {
				t.Fatal(err)
			}
			if got := cfg.Roles(); !slices.Equal(got, []string{role}) {
				t.Errorf("roles = %v, want %s", got, role)
			}
			if err := os.Remove(filepath.Join(dir, files[0])); err != nil {
				t.Fatal(err)
			}
			if _, err := Load(path, Source{}); err == nil || !strings.Contains(err.Error(), files[0]) {
				t.Errorf("without %s: %v", files[0], err)
			}
		})
	}
}

// commented is a key with its default in an example, without "(for example)".
var commented = regexp.MustCompile(`(?m)^(\s*)# (\w+): ([^\s#]+)\s*(#.*)?$`)

// TestDeployedComments: the defaults that the examples show as comments are the
// defaults, and every setting is in an example.
func TestDeployedComments(t *testing.T) {
	var all string
	for name := range deployed {
		all += example(t, name)
	}
	shown := commented.FindAllStringSubmatch(all, -1)
	if len(shown) < 10 {
		t.Fatalf("found only %d commented defaults", len(shown))
	}
	for _, m := range shown {
		if !slices.ContainsFunc(settings, func(s setting) bool { return s.key == m[2] && s.fallback == m[3] }) {
			t.Errorf("%q is no setting's default", strings.TrimSpace(m[0]))
		}
	}
	for _, s := range settings {
		reservedYet := strings.HasPrefix(s.path, "agent.auth.") && s.key != "mode"
		if !reservedYet && !regexp.MustCompile(`\b`+s.key+`:`).MatchString(all) {
			t.Errorf("%s is in no example", s.path)
		}
	}
}

func example(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", "..", "deploy", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
