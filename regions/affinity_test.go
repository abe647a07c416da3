package regions

import (
	"strings"
	"testing"
)

func TestParseAffinity(t *testing.T) {
	for _, c := range []struct {
		text string
		want Affinity
		err  string
	}{
		{"", Affinity{}, ""},
		{"key", Affinity{By: "key"}, ""},
		{"uri", Affinity{By: "uri"}, ""},
		{"client", Affinity{By: "client"}, ""},
		{"prompt", Affinity{By: "prompt"}, ""},
		{"header:X-Session", Affinity{By: "header", Name: "X-Session"}, ""},
		{"header: X-Session", Affinity{By: "header", Name: "X-Session"}, ""},
		{"cookie:sid", Affinity{By: "cookie", Name: "sid"}, ""},
		{"header", Affinity{}, "comes the name"},
		{"header:", Affinity{}, "comes the name"},
		{"cookie:a b", Affinity{}, "comes the name"},
		{"key:alice", Affinity{}, "has no name"},
		{"Header:X", Affinity{}, "there are header:NAME"},
		{"body", Affinity{}, "there are header:NAME"},
	} {
		got, err := ParseAffinity(c.text)
		if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%q: %+v, %v; want %+v, %q", c.text, got, err, c.want, c.err)
		}
		if again, err := ParseAffinity(got.String()); err != nil || again != got {
			t.Errorf("%q: read again %+v, %v", got, again, err)
		}
	}
}
