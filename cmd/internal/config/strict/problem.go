package strict

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Problem is one thing that is wrong with a configuration.
type Problem struct {
	Source string `json:"source"`         // the file, "env RHUMB_X" or "flag --set"
	Line   int    `json:"line,omitempty"` // in the file, from 1; 0 elsewhere
	Path   string `json:"path,omitempty"` // the key, as in zone.ns[0].name; empty for the file as a whole
	What   string `json:"what"`           // is wrong
	Remedy string `json:"remedy"`         // what to do
}

// String is "FILE:LINE: path: what is wrong; what to do".
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.Source)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
	}
	b.WriteString(": ")
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	b.WriteString(p.What)
	if p.Remedy != "" {
		b.WriteString("; " + p.Remedy)
	}
	return b.String()
}

// Problems is everything that is wrong: the file's problems by line, then those of
// the files that it names, then the environment's and the flags'.
type Problems []Problem

// Error has one problem per line.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// maxProblems bounds a report: a file of another kind altogether would fill
// screens with lines that say the same.
const maxProblems = 50

// sorted orders the problems of a file for a reader and cuts the list at
// maxProblems.
func (ps Problems) sorted(file string) Problems {
	rank := func(p Problem) int {
		switch {
		case p.Line == 0:
			return 2
		case p.Source != file:
			return 1
		default:
			return 0
		}
	}
	slices.SortStableFunc(ps, func(a, b Problem) int {
		if c := cmp.Compare(rank(a), rank(b)); c != 0 || a.Line == 0 {
			return cmp.Or(c, strings.Compare(a.Source, b.Source))
		}
		if rank(a) == 1 && a.Source != b.Source {
			return strings.Compare(a.Source, b.Source)
		}
		return cmp.Compare(a.Line, b.Line)
	})
	if more := len(ps) - maxProblems; more > 0 {
		ps = append(ps[:maxProblems:maxProblems], Problem{
			Source: file, What: fmt.Sprintf("%d more problems", more), Remedy: "mend those above first",
		})
	}
	return ps
}
