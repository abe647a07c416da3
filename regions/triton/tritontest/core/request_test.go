package core

import (
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

// TestStopStringsAreNeverSeen: whatever the pieces, what is seen is the text up
// to the first stop string, as soon as it is certain and not before.
func TestStopStringsAreNeverSeen(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		letters := rapid.StringOfN(rapid.RuneFrom([]rune("ab é")), 0, 4, -1)
		pieces := rapid.SliceOfN(letters, 1, 12).Draw(t, "pieces")
		stop := rapid.SliceOfN(letters.Filter(func(s string) bool { return s != "" }), 0, 3).Draw(t, "stop")
		b, got, hit := newBuffer(stop), "", false
		for i, p := range pieces {
			var seen string
			seen, hit = b.add(p, i == len(pieces)-1)
			got += seen
			if hit {
				break
			}
			if so := strings.Join(pieces[:i+1], ""); i < len(pieces)-1 && utf8.RuneCountInString(so)-utf8.RuneCountInString(got) != min(b.keep, utf8.RuneCountInString(so)) {
				t.Fatalf("%q: %q seen, %d held back", so, got, b.keep)
			}
		}
		whole := strings.Join(pieces, "")
		end := len(whole)
		for _, s := range stop {
			if at := strings.Index(whole, s); at >= 0 && at < end {
				end = at
			}
		}
		if !hit && end != len(whole) || !strings.HasPrefix(whole, got) {
			t.Fatalf("%q by %q: %q, hit %v", whole, stop, got, hit)
		}
		for _, s := range stop {
			if strings.Contains(got, s) {
				t.Fatalf("%q by %q: saw %q", whole, stop, got)
			}
		}
		if !hit && got != whole {
			t.Fatalf("%q ended as %q", whole, got)
		}
	})
}

func TestStopsReadsOneAndMany(t *testing.T) {
	for raw, want := range map[string]string{`"a"`: "a", `["a","","b"]`: "a|b", `[]`: "", `""`: "", `null`: "", `7`: "", ``: "", `[1]`: ""} {
		if got := strings.Join(Stops([]byte(raw)), "|"); got != want {
			t.Errorf("%s: %q, want %q", raw, got, want)
		}
	}
}
