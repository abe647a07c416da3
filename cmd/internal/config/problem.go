package config

import (
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

// Problems is the error of Load and Parse: everything that is wrong, the file's
// problems by line, then the environment's, then the flags'.
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

// sorted orders the problems for a reader and cuts the list at maxProblems.
func (ps Problems) sorted(file string) Problems {
	slices.SortStableFunc(ps, func(a, b Problem) int {
		if (a.Line == 0) != (b.Line == 0) {
			return b.Line - a.Line
		}
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return strings.Compare(a.Source, b.Source)
	})
	if more := len(ps) - maxProblems; more > 0 {
		ps = append(ps[:maxProblems:maxProblems], Problem{
			Source: file, What: fmt.Sprintf("%d more problems", more), Remedy: "mend those above first",
		})
	}
	return ps
}
