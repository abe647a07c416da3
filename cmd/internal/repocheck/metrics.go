package repocheck

import (
	"errors"
	"fmt"
	"go/ast"
	"go/token"
	"path"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// Metric is a metric as the source declares it.
type Metric struct {
	At   string
	Kind string // CounterOpts, GaugeOpts, HistogramOpts, SummaryOpts or Desc
	Name string
	Help string
}

// ownDir is this package, which makes metrics of others' names to lint them.
const ownDir = "cmd/internal/repocheck"

// CheckMetrics wants every metric in a file metrics.go, with a name and help in
// the source, "rhumb_" in front, and named as Prometheus's own linter likes it.
func CheckMetrics(sources []Source) []string {
	var found []string
	for _, s := range sources {
		if s.IsTest() || s.Dir() == ownDir {
			continue
		}
		metrics, unread := s.metrics()
		found = append(found, unread...)
		for _, m := range metrics {
			if path.Base(s.Path) != "metrics.go" {
				found = append(found, violate(m.At, "declares %s; move it to metrics.go", m.Name))
			}
			found = append(found, m.problems()...)
		}
	}
	return found
}

// Metrics lists the metrics that a file declares.
func (s Source) Metrics() []Metric {
	metrics, _ := s.metrics()
	return metrics
}

// metrics reads the declarations of a file: option literals, calls of
// prometheus.NewDesc, and calls of the file's own helpers that pass a name on
// into such a literal.
func (s Source) metrics() (metrics []Metric, unread []string) {
	helpers := map[string]helper{}
	ast.Inspect(s.File, func(n ast.Node) bool {
		if name, fn := namedFunc(n); fn != nil {
			if h, ok := helperOf(fn); ok {
				helpers[name] = h
			}
		}
		return true
	})
	ast.Inspect(s.File, func(n ast.Node) bool {
		m, ok := Metric{}, false
		switch n := n.(type) {
		case *ast.CompositeLit:
			var fields declaration
			if fields, ok = optsLiteral(n); ok {
				if id, isIdent := fields.name.(*ast.Ident); isIdent && isHelperParam(helpers, id.Name) {
					return true
				}
				m = Metric{s.at(n), fields.kind, text(fields.name), text(fields.help)}
			}
		case *ast.CallExpr:
			m, ok = metricCall(n, helpers)
			m.At = s.at(n)
		}
		if ok && m.Name == "" {
			unread = append(unread, violate(m.At, "the metric's name is not in the source; write it as a literal"))
		} else if ok {
			metrics = append(metrics, m)
		}
		return true
	})
	return metrics, unread
}

// declaration is an option literal of the prometheus package.
type declaration struct {
	kind       string
	name, help ast.Expr
}

func optsLiteral(n *ast.CompositeLit) (declaration, bool) {
	sel, ok := n.Type.(*ast.SelectorExpr)
	if !ok || !isIdent(sel.X, "prometheus") {
		return declaration{}, false
	}
	d := declaration{kind: sel.Sel.Name}
	if !strings.HasSuffix(d.kind, "Opts") || d.kind == "ProcessCollectorOpts" {
		return declaration{}, false
	}
	for _, element := range n.Elts {
		if kv, ok := element.(*ast.KeyValueExpr); ok {
			switch {
			case isIdent(kv.Key, "Name"):
				d.name = kv.Value
			case isIdent(kv.Key, "Help"):
				d.help = kv.Value
			}
		}
	}
	return d, d.name != nil
}

// helper is a function of the file that makes metrics: which of its parameters
// are the name and the help.
type helper struct {
	kind       string
	name, help int
	param      string // name of the name parameter
}

// namedFunc returns a function with a name: a declaration, or a literal that is
// assigned to a variable.
func namedFunc(n ast.Node) (string, *ast.FuncLit) {
	switch n := n.(type) {
	case *ast.FuncDecl:
		return n.Name.Name, &ast.FuncLit{Type: n.Type, Body: n.Body}
	case *ast.AssignStmt:
		if len(n.Lhs) == 1 && len(n.Rhs) == 1 {
			if id, ok := n.Lhs[0].(*ast.Ident); ok {
				fn, _ := n.Rhs[0].(*ast.FuncLit)
				return id.Name, fn
			}
		}
	}
	return "", nil
}

// helperOf recognises a helper: a literal in its body takes the name from a
// parameter.
func helperOf(fn *ast.FuncLit) (helper, bool) {
	params := map[string]int{}
	for _, field := range fn.Type.Params.List {
		for _, name := range field.Names {
			params[name.Name] = len(params)
		}
	}
	found, ok := helper{help: -1}, false
	if fn.Body == nil {
		return found, false
	}
	ast.Inspect(fn.Body, func(n ast.Node) bool {
		literal, isLiteral := n.(*ast.CompositeLit)
		if !isLiteral {
			return !ok
		}
		d, isOpts := optsLiteral(literal)
		id, isIdent := d.name.(*ast.Ident)
		if !isOpts || !isIdent {
			return true
		}
		index, isParam := params[id.Name]
		if !isParam {
			return true
		}
		found, ok = helper{d.kind, index, -1, id.Name}, true
		if help, isIdent := d.help.(*ast.Ident); isIdent {
			if index, isParam := params[help.Name]; isParam {
				found.help = index
			}
		}
		return false
	})
	return found, ok
}

func isHelperParam(helpers map[string]helper, name string) bool {
	for _, h := range helpers {
		if h.param == name {
			return true
		}
	}
	return false
}

// metricCall reads a call that declares a metric: of a helper, or of
// prometheus.NewDesc(name, help, …).
func metricCall(n *ast.CallExpr, helpers map[string]helper) (Metric, bool) {
	switch fn := n.Fun.(type) {
	case *ast.Ident:
		h, ok := helpers[fn.Name]
		if !ok || h.name >= len(n.Args) {
			return Metric{}, false
		}
		m := Metric{Kind: h.kind, Name: text(n.Args[h.name]), Help: "given by the helper"}
		if h.help >= 0 && h.help < len(n.Args) {
			m.Help = text(n.Args[h.help])
		}
		return m, true
	case *ast.SelectorExpr:
		if isIdent(fn.X, "prometheus") && fn.Sel.Name == "NewDesc" && len(n.Args) >= 2 {
			return Metric{Kind: "Desc", Name: text(n.Args[0]), Help: text(n.Args[1])}, true
		}
	}
	return Metric{}, false
}

func isIdent(e ast.Expr, name string) bool {
	id, ok := e.(*ast.Ident)
	return ok && id.Name == name
}

// text is the value of a string literal, or of literals that are added; empty
// for anything else.
func text(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		s, _ := strconv.Unquote(e.Value) // the parser accepted it
		return s
	case *ast.BinaryExpr:
		if left, right := text(e.X), text(e.Y); e.Op == token.ADD && left != "" && right != "" {
			return left + right
		}
	}
	return ""
}

// problems lints one metric, by making it and asking Prometheus's linter.
func (m Metric) problems() []string {
	var found []string
	if !strings.HasPrefix(m.Name, "rhumb_") {
		found = append(found, violate(m.At, "metric %s does not begin with rhumb_; rename it", m.Name))
	}
	if m.Help == "" {
		found = append(found, violate(m.At, "metric %s: no help text", m.Name))
	}
	registry := prometheus.NewRegistry()
	if err := registry.Register(m.collector()); err != nil {
		return append(found, violate(m.At, "metric %s: %v", m.Name, err))
	}
	lints, err := testutil.GatherAndLint(registry)
	if err != nil {
		return append(found, violate(m.At, "metric %s: %v", m.Name, errors.Unwrap(err)))
	}
	for _, lint := range lints {
		found = append(found, violate(m.At, "metric %s: %s", m.Name, lint.Text))
	}
	return found
}

// collector makes a metric of the declared kind, with a value.
func (m Metric) collector() prometheus.Collector {
	switch kind := m.Kind; {
	case kind == "HistogramOpts":
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: m.Name, Help: m.Help})
	case kind == "SummaryOpts":
		return prometheus.NewSummary(prometheus.SummaryOpts{Name: m.Name, Help: m.Help})
	case kind == "CounterOpts", kind == "Desc" && strings.HasSuffix(m.Name, "_total"):
		return prometheus.NewCounter(prometheus.CounterOpts{Name: m.Name, Help: m.Help})
	default:
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: m.Name, Help: m.Help})
	}
}

// String is "rhumb_x (GaugeOpts)".
func (m Metric) String() string { return fmt.Sprintf("%s (%s)", m.Name, m.Kind) }
