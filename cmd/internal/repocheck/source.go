package repocheck

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path"
	"strings"
)

// Source is one parsed Go file.
type Source struct {
	Path      string // below the module, with slashes
	Fset      *token.FileSet
	File      *ast.File
	Generated bool
}

// ParseSource parses a file's text.
func ParseSource(name string, text []byte) (Source, error) {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, name, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return Source{}, err
	}
	return Source{name, fset, file, ast.IsGenerated(file)}, nil
}

// IsTest reports whether the file is compiled for tests only.
func (s Source) IsTest() bool { return strings.HasSuffix(s.Path, "_test.go") }

// Dir is the folder of the file's package, below the module.
func (s Source) Dir() string { return path.Dir(s.Path) }

// lines is how many lines a part of the file spans.
func (s Source) lines(n ast.Node) int {
	return s.Fset.Position(n.End()).Line - s.Fset.Position(n.Pos()).Line + 1
}

// at names a place in the file.
func (s Source) at(n ast.Node) string { return s.Fset.Position(n.Pos()).String() }

// Budgets: what fits a reader's head. They bound code, not tests or what is
// generated.
const (
	maxFunctionLines = 60
	maxFileLines     = 400
	maxCommandLines  = 80 // a file of cmd/rhumb: flags to Options, no business of its own
	maxPackageFiles  = 12
	maxMethods       = 3 // of an interface
)

// commands is where the binary's commands are.
const commands = "cmd/rhumb"

// CheckBudgets looks for files, functions, packages and interfaces that have
// grown too large.
func CheckBudgets(sources []Source) []string {
	var found []string
	files := map[string]int{}
	for _, s := range sources {
		if s.IsTest() || s.Generated {
			continue
		}
		files[s.Dir()]++
		// The commands have a file each; what is more than that is in packages.
		if files[s.Dir()] == maxPackageFiles+1 && s.Dir() != commands {
			found = append(found, violate(s.Dir(), "has more than %d files; divide the package", maxPackageFiles))
		}
		limit := maxFileLines
		if s.Dir() == commands {
			limit = maxCommandLines
		}
		if n := s.Fset.File(s.File.FileStart).LineCount(); n > limit {
			found = append(found, violate(s.Path, "has %d lines, more than %d; divide it by its nouns", n, limit))
		}
		found = append(found, s.largeParts()...)
	}
	return found
}

// largeParts finds the functions and interfaces of a file that are too large.
func (s Source) largeParts() []string {
	var found []string
	ast.Inspect(s.File, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			if lines := s.lines(n); lines > maxFunctionLines {
				found = append(found, violate(s.at(n), "%s has %d lines, more than %d; divide it", n.Name.Name, lines, maxFunctionLines))
			}
		case *ast.InterfaceType:
			if methods := n.Methods.NumFields(); methods > maxMethods {
				found = append(found, violate(s.at(n), "the interface has %d methods, more than %d; ask for less", methods, maxMethods))
			}
		}
		return true
	})
	return found
}

// CheckGoroutines wants a leak check in each package that starts a goroutine,
// and no goroutine at all in the packages that only decide or describe.
func CheckGoroutines(sources []Source, table []Rule) []string {
	var found []string
	starts, checked := map[string]string{}, map[string]bool{}
	for _, s := range sources {
		if s.IsTest() {
			checked[s.Dir()] = checked[s.Dir()] || mentions(s.File, "goleak", "VerifyTestMain")
			continue
		}
		if n := goroutine(s.File); n != nil {
			starts[s.Dir()] = s.at(n)
		}
	}
	for dir, at := range starts {
		if rule, _ := ruleFor(table, dir); rule.Pure {
			found = append(found, violate(at, "starts a goroutine in a package that only decides; let the caller do it"))
		}
		if !checked[dir] {
			found = append(found, violate(at, "starts a goroutine, but the package's tests have no TestMain with goleak.VerifyTestMain; add it"))
		}
	}
	return found
}

// goroutine finds the first place that starts a goroutine: a go statement, or
// the Go method of a group (sync.WaitGroup, errgroup) with one function.
func goroutine(file *ast.File) (found ast.Node) {
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			found = n
		case *ast.CallExpr:
			if sel, ok := n.Fun.(*ast.SelectorExpr); ok && sel.Sel.Name == "Go" && len(n.Args) == 1 {
				found = n
			}
		}
		return found == nil
	})
	return found
}

// mentions reports whether the file uses pkg.name.
func mentions(file *ast.File, pkg, name string) (found bool) {
	ast.Inspect(file, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok && sel.Sel.Name == name {
			if id, ok := sel.X.(*ast.Ident); ok && id.Name == pkg {
				found = true
			}
		}
		return !found
	})
	return found
}
