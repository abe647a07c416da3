package peek_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/rhumb-lb/rhumb/regions/peek"
)

func TestObject(t *testing.T) {
	long := strings.Repeat("m", 255)
	for _, tt := range []struct {
		body, model string
		stream      bool
		bad         string // part of the error
	}{
		{`{"model":"llama"}`, "llama", false, ""},
		{` {"messages":[{"role":"user","content":"hi"}], "stream" : true , "model" : "llama" } `, "llama", true, ""},
		{`{"stream":false,"model":"a"}`, "a", false, ""},
		{`{"stream":null,"model":"a"}`, "a", false, ""},
		{`{"mod\u0065l":"ll\u0061ma\ud83d\ude00\n"}`, "llama😀\n", false, ""},
		{`{"\u006d\u006f\u0064\u0065\u006c":"x"}`, "x", false, ""},
		{`{"a":{"model":"inner"},"b":[{"model":"inner"},"model"],"model":"outer"}`, "outer", false, ""},
		{`{"Model":"upper","model ":"space","model":"exact"}`, "exact", false, ""},
		{`{"a":[-0.5e+10,0,1E5,12,[],{},[[]],true,false,null],"model":"x"}`, "x", false, ""},
		{`{"model":""}`, "", false, ""},
		{`{}`, "", false, ""},
		{`{"model":"` + long + `"}`, long, false, ""},
		{`{"model":"` + strings.Repeat(`\u006d`, 255) + `"}`, long, false, ""},
		{`{"a":` + strings.Repeat("[", 255) + strings.Repeat("]", 255) + `,"model":"x"}`, "x", false, ""},

		{`{"model":"a","model":"b"}`, "a", false, `"model" twice`},
		{`{"model":"a","mod\u0065l":"b"}`, "a", false, `"model" twice`},
		{`{"stream":true,"model":"a","stream":false}`, "a", true, `"stream" twice`},
		{`{"model":"m` + long + `"}`, "", false, "255 bytes"},
		{`{"model":"` + strings.Repeat(`\u006d`, 256) + `"}`, "", false, "255 bytes"},
		{`{"model":5}`, "", false, "must be a string"},
		{`{"model":null}`, "", false, "must be a string"},
		{`{"model":["a"]}`, "", false, "must be a string"},
		{`{"a":` + strings.Repeat("[", 256) + strings.Repeat("]", 256) + `}`, "", false, "256 levels"},
		{`["model"]`, "", false, "JSON object"},
		{`"model"`, "", false, "JSON object"},
		{"\xef\xbb\xbf{}", "", false, "JSON object"}, // with a mark that Python would skip
		{"{\x00\"", "", false, "JSON object"},        // UTF-16, which Python would guess
		{`{"model":"a",}`, "a", false, "JSON object"},
		{`{"model":"a"}{`, "a", false, "JSON object"},
		{`{"a":NaN}`, "", false, "JSON object"},
		{`{"a":01}`, "", false, "JSON object"},
		{`{"a":"\x"}`, "", false, "JSON object"},
		{`{'model':"a"}`, "", false, "JSON object"},
		{`{"a":[1}`, "", false, "JSON object"},
		{"", "", false, "EOF"},
		{`{"model":"a"`, "a", false, "EOF"},
	} {
		for name, in := range map[string]io.Reader{
			"at once": strings.NewReader(tt.body), "byte by byte": iotest.OneByteReader(strings.NewReader(tt.body)),
		} {
			var o peek.Object
			head, err := peek.Head(in, &o, peek.Most)
			if err == nil { // what is behind the object
				_, err = io.ReadAll(peek.Whole(head, io.NopCloser(in), &o))
			}
			if o.Model != tt.model || o.Stream != tt.stream || (err == nil) != (tt.bad == "") || err != nil && !strings.Contains(err.Error(), tt.bad) {
				t.Errorf("%.80s %s: model %q, stream %v, %v; want %q, %v, %q", tt.body, name, o.Model, o.Stream, err, tt.model, tt.stream, tt.bad)
			}
		}
	}
}

func TestPromptOfObject(t *testing.T) {
	for _, tt := range []struct{ body, want string }{
		{`{"model":"a","prompt":"Once upon a time"}`, `"Once up`},
		{`{"text_input" : "hi" ,"model":"a"}`, `"hi"`},
		{`{"messages": [{"role":"user"}],"prompt":"x"}`, `[{"role"`},
		{`{"parameters":{"prompt":"inner"},"prompt":"outer"}`, `"outer"`},
		{`{"prompt":[ 1,2 ]}`, `[ 1,2 ]`},
		{`{"prompt":""}`, `""`},
		{`{"model":"prompt"}`, ``},
	} {
		for name, in := range map[string]io.Reader{
			"at once": strings.NewReader(tt.body), "byte by byte": iotest.OneByteReader(strings.NewReader(tt.body)),
		} {
			o := peek.Object{Keep: 8}
			if _, err := peek.Head(in, &o, peek.Most); err != nil || string(o.Prompt) != tt.want {
				t.Errorf("%s %s: %q, %v; want %q", tt.body, name, o.Prompt, err, tt.want)
			}
		}
	}
}

// TestWhole: the body comes out as it went in, whatever of it was read before, and a
// second name behind the part that was searched ends it.
func TestWhole(t *testing.T) {
	fill := strings.Repeat("x", 3*peek.Most)
	for name, body := range map[string]string{
		"small": `{"model":"a"}`, "large": `{"model":"a","prompt":"` + fill + `"}`, "last": `{"prompt":"` + fill[:1000] + `","model":"a"} `,
	} {
		var o peek.Object
		in := strings.NewReader(body)
		head, err := peek.Head(in, &o, peek.Most)
		if err != nil || o.Model != "a" || len(head) > peek.Most {
			t.Fatalf("%s: %q in %d bytes, %v", name, o.Model, len(head), err)
		}
		if got, err := io.ReadAll(peek.Whole(head, io.NopCloser(in), &o)); err != nil || string(got) != body {
			t.Errorf("%s: %d bytes of %d, %v", name, len(got), len(body), err)
		}
	}
	var o peek.Object
	body := `{"model":"a","prompt":"` + fill + `","model":"b"}`
	in := strings.NewReader(body)
	head, err := peek.Head(in, &o, peek.Most)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(peek.Whole(head, io.NopCloser(in), &o))
	var bad peek.BodyError
	if !errors.As(err, &bad) || strings.Contains(string(got), `"b"`) {
		t.Errorf("a second name: %v after %d of %d bytes", err, len(got), len(body))
	}
}

func TestHeadHandsOnErrors(t *testing.T) {
	broken := errors.New("broken")
	var o peek.Object
	head, err := peek.Head(io.MultiReader(strings.NewReader(`{"mod`), iotest.ErrReader(broken)), &o, peek.Most)
	if !errors.Is(err, broken) || string(head) != `{"mod` {
		t.Errorf("%q, %v", head, err)
	}
}

// oracle reads a body by the standard library.
func oracle(body []byte) (model string, stream, ok bool) {
	dec := json.NewDecoder(bytes.NewReader(body))
	if open, err := dec.Token(); err != nil || open != json.Delim('{') || !json.Valid(body) {
		return "", false, false
	}
	seen := map[string]int{}
	for dec.More() {
		key, err := dec.Token()
		var value json.RawMessage
		if err != nil || dec.Decode(&value) != nil {
			return "", false, false
		}
		switch name := fmt.Sprint(key); name {
		case "model":
			seen[name]++
			if value[0] != '"' || json.Unmarshal(value, &model) != nil || len(model) > 255 {
				return "", false, false
			}
		case "stream":
			seen[name]++
			stream = string(value) == "true"
		}
	}
	return model, stream, seen["model"] < 2 && seen["stream"] < 2
}

// deep reports that values may nest too deeply; strings count too, which is the
// cautious side.
func deep(body []byte) bool {
	return bytes.Count(body, []byte("["))+bytes.Count(body, []byte("{")) > 256
}

// FuzzObject compares with the standard library, in parts of any size.
func FuzzObject(f *testing.F) {
	for _, seed := range []string{
		`{"model":"llama","stream":true,"messages":[{"role":"user","content":"h\u00e9\ud83d\ude00"}]}`,
		`{"a":-0.5e+1,"mod\u0065l":"x","b":[[],{},[1,true,null]]}`, `{"model":"a","model":"b"}`, `{"stream":false,"stream":true}`,
		`{"model":"\ud800x\u0000"}`, `{"model":1}`, ` [] `, `{"":{"":""}}`, `{"prompt":"x","text_input":5}`,
	} {
		f.Add([]byte(seed), uint8(3))
	}
	f.Fuzz(func(t *testing.T, body []byte, part uint8) {
		o := peek.Object{Keep: 5}
		var err error
		for rest := body; len(rest) > 0 && err == nil; {
			n := min(len(rest), int(part)+1)
			_, err = o.Write(rest[:n])
			rest = rest[n:]
		}
		model, stream, ok := oracle(body)
		if ok && deep(body) {
			return
		}
		if got := err == nil && o.Enough(); got != ok {
			t.Fatalf("%q is accepted: %v (%v), by encoding/json: %v", body, got, err, ok)
		}
		if ok && (o.Model != model || o.Stream != stream) {
			t.Fatalf("%q: %q, %v; by encoding/json %q, %v", body, o.Model, o.Stream, model, stream)
		}
		if len(o.Prompt) > 5 {
			t.Fatalf("%d bytes of prompt", len(o.Prompt))
		}
	})
}
