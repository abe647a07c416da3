// Package repocheck holds the repository to its own rules: who may import whom,
// how large things may grow, how metrics are named, which words and licences
// have no place here. Each rule is a function from inputs to violations; the
// package's tests apply them to this repository.
//
// The fences around libraries are depguard's, in .golangci.yml.
package repocheck

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
)

// Module is the path of this module.
const Module = "github.com/rhumb-lb/rhumb"

// Package is what the go command says of one package.
type Package struct {
	ImportPath   string
	Name         string
	Doc          string // first sentence of the package comment
	Dir          string
	GoFiles      []string
	TestGoFiles  []string
	XTestGoFiles []string
	Imports      []string // of the files that are not tests
	Standard     bool
	Module       *ModuleInfo
}

// ModuleInfo is what the go command says of one module.
type ModuleInfo struct {
	Path    string
	Version string
	Dir     string // of its source
	Main    bool
}

// Path is the package's path below the module, "." for its root.
func (p Package) Path() string {
	if p.ImportPath == Module {
		return "."
	}
	return strings.TrimPrefix(p.ImportPath, Module+"/")
}

// ListPackages asks the go command about packages. Packages that do not build
// are listed too: the build itself complains better.
func ListPackages(ctx context.Context, dir string, args ...string) ([]Package, error) {
	out, err := run(ctx, dir, "go", append([]string{"list", "-e", "-json"}, args...)...)
	if err != nil {
		return nil, err
	}
	var packages []Package
	decoder := json.NewDecoder(bytes.NewReader(out))
	for {
		var p Package
		switch err := decoder.Decode(&p); {
		case errors.Is(err, io.EOF):
			return packages, nil
		case err != nil:
			return nil, fmt.Errorf("read the output of go list: %w", err)
		}
		packages = append(packages, p)
	}
}

// ListFiles asks git for the files of the working tree that are, or would be,
// in the repository.
func ListFiles(ctx context.Context, dir string) ([]string, error) {
	out, err := run(ctx, dir, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate")
	if err != nil {
		return nil, err
	}
	return strings.FieldsFunc(string(out), func(r rune) bool { return r == 0 }), nil
}

// run executes a tool in dir and returns what it printed.
func run(ctx context.Context, dir, tool string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, tool, args...)
	cmd.Dir = dir
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", cmd, err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}

// violate formats a violation: where, what, and what to do.
func violate(where, format string, args ...any) string {
	return where + ": " + fmt.Sprintf(format, args...)
}
