package config

import (
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/viper"

	"github.com/rhumb-lb/rhumb/cmd/internal/config/strict"
)

// settings of the whole schema.
var settings = strict.SettingsOf(reflect.TypeFor[Config]())

// settingAt finds a setting by its path.
func settingAt(path string) (strict.Setting, bool) {
	i := slices.IndexFunc(settings, func(s strict.Setting) bool { return s.Path == path })
	if i < 0 {
		return strict.Setting{}, false
	}
	return settings[i], true
}

// envName is the environment variable of the path: RHUMB_SECTION_KEY.
func envName(path string) string {
	return "RHUMB_" + strings.ToUpper(strings.ReplaceAll(path, ".", "_"))
}

// section is the top-level key that a path is under.
func section(path string) string {
	name, _, _ := strings.Cut(path, ".")
	return name
}

// applySettings puts the values of the environment and then of the flags over
// those of the file. It returns where each came from, by path.
func applySettings(v *viper.Viper, doc *strict.Document, src Source) map[string]string {
	origins := map[string]string{}
	paths := map[string]string{} // by name of the variable
	for _, s := range settings {
		paths[envName(s.Path)] = s.Path
	}
	names := slices.Sorted(maps.Keys(paths))
	for _, entry := range src.Environ {
		name, text, _ := strings.Cut(entry, "=")
		path, known := paths[name]
		switch {
		case link.MatchString(text): // RHUMB_DIRECTOR_REDIRECT_PORT of a Service rhumb-director-redirect
		case known:
			apply(v, doc, origins, "env "+name, path, text)
		case isOurs(name, names):
			doc.Report(Problem{Source: "env " + name, What: "no such setting", Remedy: envRemedy(name, names)})
		}
	}
	for _, entry := range src.Set {
		path, text, found := strings.Cut(entry, "=")
		_, known := settingAt(path)
		switch {
		case !found:
			doc.Report(Problem{Source: "flag --set", What: "no \"=\" in " + strict.Quote(entry), Remedy: "write --set zone.ttl=30s"})
		case !known:
			doc.Report(Problem{Source: "flag --set", Path: strict.Quote(path), What: "no such setting", Remedy: "use the path of a key of the file, like zone.ttl"})
		default:
			apply(v, doc, origins, "flag --set", path, text)
		}
	}
	return origins
}

// apply gives one setting the value that text says. A list is its items with
// commas between them.
func apply(v *viper.Viper, doc *strict.Document, origins map[string]string, source, path, text string) {
	s, _ := settingAt(path)
	fail := func(what, remedy string) {
		doc.Taint(path)
		doc.Report(Problem{Source: source, Path: path, What: what, Remedy: remedy})
	}
	if role := section(path); (role == "agent" || role == "director") && !doc.Has(role) {
		fail("the file has no section "+role, "add the section or unset this")
		return
	}
	var value any
	switch {
	case s.Type.Kind() != reflect.Slice:
		scalar, err := strict.ParseScalar(s.Type, text)
		if err != nil {
			fail(err.Error(), "write "+strict.Sample(s.Type))
			return
		}
		value = scalar
	case strict.IsMapping(s.Type.Elem()):
		fail("a list of mappings can only be given in the file", "move it there")
		return
	default:
		items, err := parseList(s.Type.Elem(), text)
		if err != nil {
			fail(err.Error(), "write "+strict.Sample(s.Type.Elem())+", with commas between several")
			return
		}
		value = items
	}
	doc.Mend(path) // a good value from here stands in for a bad one in the file
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
		scalar, err := strict.ParseScalar(item, strings.TrimSpace(part))
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

// link matches the value of such a variable that is called …_PORT, as a setting of
// ours may be.
var link = regexp.MustCompile(`^(tcp|udp|sctp)://[\d.:\[\]a-fA-F]+$`)

// isOurs reports whether an unknown variable was meant as a setting: it begins like
// one of the sections, or is spelt almost like one of the known. Others, such as
// RHUMB_VERSION, may be anybody's.
func isOurs(name string, known []string) bool {
	if !strings.HasPrefix(name, "RHUMB_") || serviceLink.MatchString(name) {
		return false
	}
	return strict.Nearest(name, known) != "" || slices.ContainsFunc(settings, func(s strict.Setting) bool {
		return strings.HasPrefix(name, envName(section(s.Path))+"_")
	})
}

// envRemedy is the remedy for an unknown variable.
func envRemedy(name string, known []string) string {
	if best := strict.Nearest(name, known); best != "" {
		return "did you mean " + best + "?"
	}
	return "unset it, or name a key as RHUMB_SECTION_KEY"
}
