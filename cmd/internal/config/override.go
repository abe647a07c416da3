package config

import (
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/viper"
)

// applySettings puts the values of the environment and then of the flags over
// those of the file. It returns where each came from, by path.
func applySettings(v *viper.Viper, doc *document, src Source) map[string]string {
	origins := map[string]string{}
	paths := map[string]string{} // by name of the variable
	for _, s := range settings {
		paths[envName(s.path)] = s.path
	}
	for _, entry := range src.Environ {
		name, text, _ := strings.Cut(entry, "=")
		path, known := paths[name]
		switch {
		case known:
			apply(v, doc, origins, "env "+name, path, text)
		case isOurs(name):
			doc.report("env "+name, "", "no such setting", envRemedy(name, slices.Sorted(maps.Keys(paths))))
		}
	}
	for _, entry := range src.Set {
		path, text, found := strings.Cut(entry, "=")
		_, known := settingAt(path)
		switch {
		case !found:
			doc.report("flag --set", "", "no \"=\" in "+quoteKey(entry), "write --set zone.ttl=30s")
		case !known:
			doc.report("flag --set", quoteKey(path), "no such setting", "use the path of a key of the file, like zone.ttl")
		default:
			apply(v, doc, origins, "flag --set", path, text)
		}
	}
	return origins
}

// report adds a problem that stands in no file.
func (d *document) report(source, path, what, remedy string) {
	d.problems = append(d.problems, Problem{Source: source, Path: path, What: what, Remedy: remedy})
}

// apply gives one setting the value that text says. A list is its items with
// commas between them.
func apply(v *viper.Viper, doc *document, origins map[string]string, source, path, text string) {
	s, _ := settingAt(path)
	fail := func(what, remedy string) {
		doc.taint(path)
		doc.report(source, path, what, remedy)
	}
	if role := section(path); (role == "agent" || role == "director") && !doc.has(role) {
		fail("the file has no section "+role, "add the section or unset this")
		return
	}
	var value any
	switch {
	case s.typ.Kind() != reflect.Slice:
		scalar, err := parseScalar(s.typ, text)
		if err != nil {
			fail(err.Error(), "write "+sample(s.typ))
			return
		}
		value = scalar
	case isMapping(s.typ.Elem()):
		fail("a list of mappings can only be given in the file", "move it there")
		return
	default:
		items, err := parseList(s.typ.Elem(), text)
		if err != nil {
			fail(err.Error(), "write "+sample(s.typ.Elem())+", with commas between several")
			return
		}
		value = items
	}
	delete(doc.bad, path) // a good value from here stands in for a bad one in the file
	origins[path] = source
	v.Set(path, value)
}

// parseList reads items with commas between them; an empty text has none.
func parseList(item reflect.Type, text string) ([]any, error) {
	items := []any{}
	if text == "" {
		return items, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		scalar, err := parseScalar(item, strings.TrimSpace(part))
		if err != nil {
			return nil, err
		}
		items = append(items, scalar)
	}
	return items, nil
}

// serviceLink matches the variables that Kubernetes sets for a Service that is
// called rhumb-something: they are nobody's mistake.
var serviceLink = regexp.MustCompile(`_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP)(_\w+)?)?)$`)

// isOurs reports whether an unknown variable was meant as a setting: it begins
// like one of the sections. Others, such as RHUMB_VERSION, may be anybody's.
func isOurs(name string) bool {
	if serviceLink.MatchString(name) {
		return false
	}
	return slices.ContainsFunc(settings, func(s setting) bool {
		return strings.HasPrefix(name, envName(section(s.path))+"_")
	})
}

// envRemedy is the remedy for an unknown variable.
func envRemedy(name string, known []string) string {
	if best := nearest(name, known); best != "" {
		return "did you mean " + best + "?"
	}
	return "unset it, or name a key as RHUMB_SECTION_KEY"
}
