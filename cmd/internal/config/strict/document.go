// Package strict reads YAML that must have the shape of a Go type, to the letter:
// an unknown key, a wrong unit or a duplicate is a [Problem] that names file, line
// and key and says what to do, and all problems of a file are found at once.
package strict

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Document is a file as YAML nodes, compared with a Go type: where each key
// stands, what is wrong, and, once the wrong parts are cut out, a tree that
// decodes cleanly.
type Document struct {
	name     string
	shape    reflect.Type
	lines    map[string]int  // line of each key and list item, by path
	bad      map[string]bool // paths whose value was cut out
	above    map[string]bool // paths above those
	problems Problems
}

// New makes the document of a file that is to have the shape of a struct type.
func New(name string, shape reflect.Type) *Document {
	return &Document{name: name, shape: shape, lines: map[string]int{}, bad: map[string]bool{}, above: map[string]bool{}}
}

// Decode reads YAML into a map. It never fails: what is wrong is a problem of the
// document, what is right is in the map.
func (d *Document) Decode(data []byte, into map[string]any) error {
	root, ok := d.parse(data)
	if !ok {
		return nil
	}
	if !d.node(root, d.shape, "") {
		return nil
	}
	if err := root.Decode(&into); err != nil {
		d.Fail(1, "", err.Error(), "write it as plain YAML")
	}
	return nil
}

// parse reads the single YAML document of a file.
func (d *Document) parse(data []byte) (*yaml.Node, bool) {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var doc, next yaml.Node
	switch err := decoder.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, false // empty: nothing is wrong here, the roles will be missing
	case err != nil:
		d.syntax(err)
		return nil, false
	}
	switch err := decoder.Decode(&next); {
	case err == nil:
		d.cut(next.Line, "", "a second YAML document", "keep one document per file")
	case !errors.Is(err, io.EOF):
		d.syntax(err)
	}
	if len(doc.Content) != 1 || d.problems != nil {
		return nil, false
	}
	return doc.Content[0], true
}

// yamlLine finds the line in the yaml package's messages ("line 3: …").
var yamlLine = regexp.MustCompile(`^line (\d+): `)

func (d *Document) syntax(err error) {
	what := strings.TrimPrefix(err.Error(), "yaml: ")
	line := 1
	if m := yamlLine.FindStringSubmatch(what); len(m) == 2 {
		line, _ = strconv.Atoi(m[1]) // digits by the expression; 0 on overflow is harmless
		what = strings.TrimPrefix(what, m[0])
	}
	d.Taint("") // nothing was read, so nothing can be said to be missing
	remedy := "mend the syntax at or just above this line"
	if strings.Contains(what, "did not find expected key") {
		// The line is where the block begins of which a later line is out of place.
		remedy = "in the lines from here on, look for one that is indented unlike its neighbours, or a missing quote or colon"
	}
	d.Fail(line, "", "not YAML: "+what, remedy)
}

// Err is everything that is wrong, as [Problems]; nil if nothing is.
func (d *Document) Err() error {
	if len(d.problems) == 0 {
		return nil
	}
	return d.problems.sorted(d.name)
}

// Report adds a problem that is in no line of the file.
func (d *Document) Report(p Problem) { d.problems = append(d.problems, p) }

// Fail adds a problem of a line of the file.
func (d *Document) Fail(line int, path, what, remedy string) {
	d.problems = append(d.problems, Problem{Source: d.name, Line: max(line, 1), Path: path, What: what, Remedy: remedy})
}

// cut marks the value at path as wrong and reports it.
func (d *Document) cut(line int, path, what, remedy string) bool {
	d.Taint(path)
	d.Fail(line, path, what, remedy)
	return false
}

// Taint remembers that the value at path is not what the file says.
func (d *Document) Taint(path string) {
	d.bad[path] = true
	for outer := range Parents(path) {
		d.above[outer] = true
	}
}

// Mend forgets that a value was wrong: a good one from elsewhere stands in for it.
func (d *Document) Mend(path string) { delete(d.bad, path) }

// Parents yields the paths above a path, the nearest first; the last is "", the
// file.
func Parents(path string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for path != "" {
			path = path[:max(0, strings.LastIndexAny(path, ".["))]
			if !yield(path) {
				return
			}
		}
	}
}

// node compares a node with its type and reports whether it can be decoded.
func (d *Document) node(n *yaml.Node, t reflect.Type, path string) bool {
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		return d.cut(n.Line, path, "YAML anchors and aliases are not supported", "write the value out")
	case n.Tag == "!!null" && IsMapping(t):
		// A section whose keys are all commented out: it is there, and empty.
		*n = yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Line: n.Line}
		return true
	case n.Tag == "!!null":
		return d.cut(n.Line, path, "has no value", "give it "+Sample(t)+", or remove the line")
	case IsMapping(t):
		if n.Kind != yaml.MappingNode {
			return d.cut(n.Line, path, "is not a mapping", "give it "+Sample(t))
		}
		return d.mapping(n, t, path)
	case t.Kind() == reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			return d.cut(n.Line, path, "is not a list", "write each value on a line of its own after \"- \"")
		}
		return d.sequence(n, t.Elem(), path)
	case n.Kind != yaml.ScalarNode:
		return d.cut(n.Line, path, "is not a single value", "give it "+Sample(t))
	default:
		return d.scalar(n, t, path)
	}
}

// mapping checks the keys of a mapping and cuts out those that are wrong, so
// the mapping itself can always be decoded.
func (d *Document) mapping(n *yaml.Node, t reflect.Type, path string) bool {
	fields := fieldsOf(t)
	seen := map[string]int{}
	kept := n.Content[:0:0]
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if first, twice := seen[key.Value]; twice {
			d.Fail(key.Line, Join(path, Quote(key.Value)), fmt.Sprintf("is already set on line %d", first), "keep one of the two")
			continue
		}
		seen[key.Value] = key.Line
		typ, known := typeOf(fields, key)
		if !known {
			d.Fail(key.Line, Join(path, Quote(key.Value)), "no such key", didYouMean(key.Value, keysOf(t)))
			continue
		}
		at := Join(path, key.Value)
		d.lines[at] = key.Line
		if d.node(value, typ, at) {
			kept = append(kept, key, value)
		}
	}
	n.Content = kept
	return true
}

func typeOf(fields []field, key *yaml.Node) (reflect.Type, bool) {
	for _, f := range fields {
		if key.Kind == yaml.ScalarNode && f.key == key.Value {
			return f.typ, true
		}
	}
	return nil, false
}

// sequence checks the items of a list. One wrong item cuts out the whole list:
// without it the others would have other indexes.
func (d *Document) sequence(n *yaml.Node, item reflect.Type, path string) bool {
	ok := true
	for i, value := range n.Content {
		at := fmt.Sprintf("%s[%d]", path, i)
		d.lines[at] = value.Line
		ok = d.node(value, item, at) && ok
	}
	if !ok {
		d.Taint(path)
	}
	return ok
}

// tagsOf lists the YAML tags that a scalar of the type may have. Numbers and
// booleans are not taken for text, nor text for them.
func tagsOf(t reflect.Type) string {
	switch {
	case t == durationType, t.Kind() == reflect.String, reflect.PointerTo(t).Implements(textType):
		return "!!str"
	case t.Kind() == reflect.Bool:
		return "!!bool"
	case t.Kind() == reflect.Float64:
		return "!!float !!int"
	default:
		return "!!int"
	}
}

func (d *Document) scalar(n *yaml.Node, t reflect.Type, path string) bool {
	_, err := ParseScalar(t, n.Value)
	switch fits := strings.Contains(tagsOf(t), n.Tag); {
	case !fits && t.Kind() == reflect.String:
		return d.cut(n.Line, path, fmt.Sprintf("YAML reads %s as %s, not as a text", n.Value, kindOf(n.Tag)), fmt.Sprintf("put it in quotes: %q", n.Value))
	case !fits && n.Tag == "!!str" && err == nil:
		return d.cut(n.Line, path, fmt.Sprintf("%q is a text, because of its quotes", n.Value), "write it without quotes: "+n.Value)
	case !fits:
		return d.cut(n.Line, path, fmt.Sprintf("%q is not %s", n.Value, noun(t)), "write "+Sample(t))
	case err != nil:
		return d.cut(n.Line, path, err.Error(), "write "+Sample(t))
	}
	return true
}

// kindOf is what YAML takes a scalar for, in words.
func kindOf(tag string) string {
	switch tag {
	case "!!int", "!!float":
		return "a number"
	case "!!bool":
		return "true or false"
	case "!!timestamp":
		return "a date"
	default:
		return "a " + strings.TrimPrefix(tag, "!!")
	}
}

// Line is where the path stands, or the nearest of its parents.
func (d *Document) Line(path string) int {
	if line, ok := d.lines[path]; ok {
		return line
	}
	for outer := range Parents(path) {
		if line, ok := d.lines[outer]; ok {
			return line
		}
	}
	return 1
}

// Has reports whether the file gives the path.
func (d *Document) Has(path string) bool { return d.lines[path] > 0 }

// Tainted reports whether the path's value, or a part of it, or what it is a
// part of, was cut out: then what is read there says nothing.
func (d *Document) Tainted(path string) bool {
	if d.bad[path] || d.above[path] {
		return true
	}
	for outer := range Parents(path) {
		if d.bad[outer] {
			return true
		}
	}
	return false
}

// plainKey is a key that can stand in a path as it is.
var plainKey = regexp.MustCompile(`^[\w-]{1,64}$`)

// Quote makes a key that somebody wrote fit to print in a path.
func Quote(key string) string {
	if plainKey.MatchString(key) {
		return key
	}
	return strconv.Quote(key[:min(len(key), 64)])
}
