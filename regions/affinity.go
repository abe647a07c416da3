package regions

import (
	"fmt"
	"slices"
	"strings"
)

// Affinity says what of a request those that should meet on one pod have in
// common. The zero value is nothing.
type Affinity struct {
	// By is header, cookie, key (the id of the API key), uri, client or prompt (its
	// beginning).
	By string
	// Name is the header's or cookie's; empty for others.
	Name string
}

// affinities are the kinds, and which of them want a name.
var affinities = []struct {
	by    string
	named bool
}{{"header", true}, {"cookie", true}, {"key", false}, {"uri", false}, {"client", false}, {"prompt", false}}

// ParseAffinity reads header:X-Session, cookie:name, key, uri, client or prompt.
// Empty text is the zero value.
func ParseAffinity(text string) (Affinity, error) {
	if text == "" {
		return Affinity{}, nil
	}
	by, name, named := strings.Cut(text, ":")
	name = strings.TrimSpace(name)
	for _, a := range affinities {
		if a.by != by {
			continue
		}
		switch {
		case a.named && (name == "" || strings.ContainsFunc(name, notInToken)):
			return Affinity{}, fmt.Errorf("%q: after %s: comes the name of one, like %s:x-session", text, by, by)
		case !a.named && named:
			return Affinity{}, fmt.Errorf("%q: %s has no name", text, by)
		}
		return Affinity{By: by, Name: name}, nil
	}
	return Affinity{}, fmt.Errorf("%q is no affinity; there are header:NAME, cookie:NAME, key, uri, client and prompt", text)
}

// notInToken reports what RFC 9110 section 5.6.2 keeps out of names.
func notInToken(r rune) bool {
	alphanumeric := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
	return !alphanumeric && !slices.Contains([]rune("!#$%&'*+-.^_`|~"), r)
}

// String is the affinity as ParseAffinity reads it.
func (a Affinity) String() string {
	if a.Name == "" {
		return a.By
	}
	return a.By + ":" + a.Name
}
