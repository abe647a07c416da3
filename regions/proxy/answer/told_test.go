package answer_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/rhumb-lb/rhumb/regions/proxy/answer"
	"github.com/rhumb-lb/rhumb/regions/triton/inferencepb"
)

// complain is a response that tells of an error.
func complain(t testing.TB, text string) []byte {
	return frame(t, &inferencepb.ModelStreamInferResponse{ErrorMessage: text, InferResponse: &response{Id: "a"}})
}

// texts are the errors that are told in an answer that comes in parts.
func texts(parts ...[]byte) (all []string) {
	var t answer.Told
	for _, p := range parts {
		for _, e := range t.Hear(p) {
			all = append(all, e.Text)
		}
	}
	return all
}

func TestTold(t *testing.T) {
	long := strings.Repeat("long ", 1000)
	for _, c := range []struct {
		name   string
		stream []byte
		want   []string
	}{
		{"none", slices.Concat(say(t, "a", "x", false), say(t, "a", "y", true)), nil},
		{"between others", slices.Concat(say(t, "a", "x", false), complain(t, "one"), say(t, "b", "y", true), complain(t, "two")), []string{"one", "two"}},
		{"behind a large one", slices.Concat(say(t, "a", long, false), complain(t, "one")), []string{"one"}},
		{"compressed", slices.Concat([]byte{1, 0, 0, 0, 3, 0x0a, 1, 'x'}, complain(t, "one")), []string{"one"}},
		{"empty", slices.Concat([]byte{0, 0, 0, 0, 0}, complain(t, "one")), []string{"one"}},
		{"its length is missing", []byte{0, 0, 0, 0, 2, 0x0a, 0xff}, nil},
		{"cut", complain(t, "one")[:8], nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := texts(c.stream); !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	if got := texts(complain(t, long)); len(got) != 1 || !strings.HasPrefix(long, got[0]) || len(got[0]) < 1000 || len(got[0]) > 1024 {
		t.Errorf("of %d bytes %d are told", len(long), len(strings.Join(got, "")))
	}
}

// FuzzTold cuts any answer anywhere: the same is told.
func FuzzTold(f *testing.F) {
	f.Add(slices.Concat(say(f, "a", "x", false), complain(f, "one"), say(f, "a", "y", true)), uint16(3), uint16(40))
	f.Add([]byte{0, 0xff, 0xff, 0xff, 0xff, 0x0a, 2}, uint16(5), uint16(6))
	f.Fuzz(func(t *testing.T, stream []byte, i, j uint16) {
		a, b := min(int(i), len(stream)), min(int(j), len(stream))
		if a > b {
			a, b = b, a
		}
		whole, parts := texts(bytes.Clone(stream)), texts(stream[:a], stream[a:b], stream[b:])
		if !slices.Equal(whole, parts) {
			t.Fatalf("%q tells %q, in parts %q", stream, whole, parts)
		}
	})
}
