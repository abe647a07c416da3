package repocheck

import (
	"bytes"
	"path"
	"regexp"
	"strings"
)

// word is something that has no place in the repository. The expressions are
// put together from pieces so that they do not find themselves.
type word struct {
	shape *regexp.Regexp
	why   string
}

var words = []word{
	{
		regexp.MustCompile(`(^|[\s"'` + "`" + `(=:,])/(wo` + `rk|ro` + `ot|ho` + `me|t` + `mp|Use` + `rs)/`),
		"a path of somebody's machine; use a relative one, or a folder that the test makes",
	},
	{
		regexp.MustCompile(`(proxy|sum)\.golang\.` + `org|registry\.npmjs\.` + `org|pypi\.` + `org|deb\.debian\.` + `org|index\.crates\.` + `io|docker\.` + `io/`),
		"the host of a registry; everybody has their own, leave it to the tool's settings",
	},
	{
		regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X|HA` + `CK)\b`),
		"a mark of unfinished work; finish it or open an issue",
	},
	{
		regexp.MustCompile(`(?i)\bissue ` + `#?\d+\b`),
		"a reference that only we can follow; say the fact itself (or owner/repo#n for another project)",
	},
	{
		regexp.MustCompile(`(?i)\bdesign\.` + `md\b|house-style\.` + `md|\bshared/(des` + `ign|ref` + `erence)|\bas an ` + `AI\b|\b(AI|LLM)-gener` + `ated|\bcla` + `ude\b|\banth` + `ropic\b|\bchat` + `gpt\b|\bco` + `pilot\b|co-authored` + `-by:`),
		"speaks of how this was made; say what it is",
	},
}

// checksums are files of hashes, in which any word can stand by chance.
var checksums = []string{"go.sum"}

// CheckWords looks for words that have no place in a file.
func CheckWords(name string, text []byte) []string {
	if bytes.IndexByte(text, 0) >= 0 {
		return nil // not text
	}
	for _, exempt := range checksums {
		if path.Base(name) == exempt {
			return nil
		}
	}
	var found []string
	for i, line := range strings.Split(string(text), "\n") {
		for _, w := range words {
			if hit := w.shape.FindString(line); hit != "" {
				found = append(found, violate(name, "line %d: %q is %s", i+1, strings.TrimSpace(hit), w.why))
			}
		}
	}
	return found
}
