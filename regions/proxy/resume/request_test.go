package resume_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/rhumb-lb/rhumb/regions/proxy/resume"
)

// bodies are requests that are resumed; %s is where a parameter may be added.
var bodies = map[string]string{
	"vllm":   `{"text_input":"p","stream":true,"max_tokens":5%s}`,
	"trtllm": `{"text_input":"p","stream":true,"max_tokens":5%s}`,
	"openai": `{"prompt":"p","stream":true,"max_tokens":5%s}`,
}

// Every parameter of the table does what it says, at the top, among the parameters
// and in the string of sampling parameters.
func TestParameters(t *testing.T) {
	for _, row := range resume.Parameters() {
		for _, name := range row.Profiles {
			places := []string{bodies[name]}
			if name != "openai" {
				places = append(places, `{"text_input":"p","max_tokens":5,"parameters":{"stream":true,"top_k":1%s}}`)
			}
			for _, place := range places {
				check := func(value string, want resume.Reason) {
					t.Helper()
					body := strings.Replace(place, "%s", `,"`+row.Name+`":`+value, 1)
					switch row.Name {
					case "top_k":
						body = strings.Replace(body, `,"top_k":1`, "", 1)
					case "stream":
						body = strings.Replace(body, `"stream":true,`, "", 1)
					}
					s := session(t, name, body)
					if s.Refusal() != want {
						t.Errorf("%s, %s: %q, want %q", name, body, s.Refusal(), want)
					}
				}
				check(`"never so"`, row.Reason)
				for _, v := range row.Unless {
					check(v, "")
				}
				if row.Reason != "" && row.Reason.Explain() == "" {
					t.Errorf("reason %q is not explained", row.Reason)
				}
			}
		}
	}
	s := session(t, "vllm", `{"text_input":"p","stream":true,"sampling_parameters":"{\"seed\":7}"}`)
	if s.Refusal() != resume.ReasonSeed || s.Detail() != "seed" {
		t.Errorf("in the string: %q %q", s.Refusal(), s.Detail())
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		profile, body string
		want          resume.Reason
	}{
		{"vllm", `{"text_input":"p","stream":true}`, ""},
		{"vllm", `{"text_input":"p","stream":true,"stop":["a","b"],"n":1.0,"seed":null}`, ""},
		{"vllm", `{"text_input":"p","parameters":{"stream":true,"temperature":"0.1","max_tokens":"9","n":"1"}}`, ""},
		{"vllm", `{"text_input":"p","stream":true,"use_beam_search":"false"}`, resume.ReasonBeams},
		{"openai", `{"prompt":"p","stream":true,"stream_options":{"include_usage":true}}`, ""},
		{"vllm", ``, resume.ReasonBody},
		{"vllm", `[]`, resume.ReasonBody},
		{"vllm", `{"text_input":"p"`, resume.ReasonBody},
		{"vllm", "{\"text_input\":\"\xff\",\"stream\":true}", resume.ReasonBody},
		{"vllm", `{"text_input":"p","stream":true,"stream":true}`, resume.ReasonBody},
		{"vllm", `{"text_input":"p","stream":true,"text\u005finput":"q"}`, resume.ReasonBody},
		{"vllm", `{"text_input":"p","stream":true,"parameters":{"text_input":"q"}}`, resume.ReasonBody},
		{"vllm", `{"text_input":"p","stream":true,"parameters":7}`, resume.ReasonBody},
		{"vllm", `{"text_input":"p","stream":true,"sampling_parameters":"x"}`, resume.ReasonBody},
		{"vllm", `{"text_input":"p","stream":true,"sampling_parameters":{}}`, resume.ReasonBody},
		{"vllm", `{"text_input":"p","stream":true,"sampling_parameters":"{\"top_k\":1,\"top_k\":2}"}`, resume.ReasonBody},
		{"vllm", `{"text_input":"p","stream":true,"temperature":[1]}`, resume.ReasonBody},
		{"vllm", `{"text_input":"p","stream":true,"parameters":{"parameters":{}}}`, resume.ReasonBody},
		{"vllm", `{"text_input":"p","stream":true,"sampling_parameters":"{\"sampling_parameters\":\"{}\",\"x\":1}"}`, resume.ReasonUnknown},
		{"vllm", `{"text_input":"p","stream":true,"Temperature":1}`, resume.ReasonUnknown},
		{"vllm", `{"text_input":"p","stream":true,"streaming":1}`, resume.ReasonUnknown},
		{"vllm", `{"text_input":["p"],"stream":true}`, resume.ReasonPrompt},
		{"vllm", `{"stream":true}`, resume.ReasonPrompt},
		{"openai", `{"prompt":["p","q"],"stream":true}`, resume.ReasonPrompt},
		{"openai", `{"messages":[],"stream":true}`, resume.ReasonPrompt},
		{"vllm", `{"text_input":"p"}`, resume.ReasonUnary},
		{"vllm", `{"text_input":"p","stream":false}`, resume.ReasonUnary},
		{"vllm", `{"text_input":"p","stream":"true"}`, resume.ReasonUnary},
		{"trtllm", `{"text_input":"p","stream":true}`, resume.ReasonLimit},
		{"trtllm", `{"text_input":"p","stream":true,"max_tokens":0}`, resume.ReasonLimit},
		{"vllm", `{"text_input":"p","stream":true,"max_tokens":-1}`, resume.ReasonLimit},
		{"vllm", `{"text_input":"p","stream":true,"max_tokens":1e2}`, resume.ReasonLimit},
		{"vllm", `{"text_input":"p","stream":true,"max_tokens":99999999999999999999}`, resume.ReasonLimit},
		{"vllm", `{"text_input":"p","stream":true,"stop":""}`, resume.ReasonStops},
		{"vllm", `{"text_input":"p","stream":true,"stop":["a",1]}`, resume.ReasonStops},
		{"vllm", `{"text_input":"p","stream":true,"stop":[["a"]]}`, resume.ReasonStops},
		{"vllm", `{"text_input":"p","stream":true,"stop":["` + strings.Repeat("x", 1025) + `"]}`, resume.ReasonStops},
		{"vllm", `{"text_input":"p","stream":true,"stop":[` + strings.Repeat(`"x",`, 64) + `"x"]}`, resume.ReasonStops},
		{"openai", `{"prompt":"p","stream":true,"stream_options":{"continuous_usage_stats":true}}`, resume.ReasonUnknown},
		{"vllm", `{` + strings.Repeat(`"`, 2) + `:1}`, resume.ReasonUnknown},
	} {
		s := session(t, c.profile, c.body)
		if s.Refusal() != c.want {
			t.Errorf("%s, %s: %q %q, want %q", c.profile, c.body, s.Refusal(), s.Detail(), c.want)
		}
		if c.want != "" {
			if _, err := s.Continue(start); err == nil {
				t.Errorf("%s, %s: refused, and continued", c.profile, c.body)
			}
			if !bytes.Equal(s.Body(), []byte(c.body)) {
				t.Errorf("%s: the body is changed to %s", c.body, s.Body())
			}
		}
	}
	var keys []string
	for i := range 65 {
		keys = append(keys, fmt.Sprintf(`"k%d":1`, i))
	}
	for n, want := range map[int]resume.Reason{64: resume.ReasonUnknown, 65: resume.ReasonBody} {
		if s := session(t, "vllm", `{`+strings.Join(keys[:n], ",")+`}`); s.Refusal() != want {
			t.Errorf("%d keys: %q", n, s.Refusal())
		}
	}
	if s := resume.Open(resume.Profile{}, resume.DefaultLimits(), []byte(`{"text_input":"p"}`)); s.Refusal() != resume.ReasonOff {
		t.Errorf("no profile: %q", s.Refusal())
	}
	if s := resume.Open(profile(t, "openai"), resume.Limits{}, []byte(`{"prompt":"p","stream":true}`)); s.Refusal() != resume.ReasonOff ||
		!strings.Contains(string(s.Terminal("x")), "server_error") {
		t.Errorf("switched off: %q %s", s.Refusal(), s.Terminal("x"))
	}
	if _, err := resume.NewProfile("tgi"); err == nil || !strings.Contains(err.Error(), "vllm, vllm-uncounted, trtllm, trtllm-cumulative, openai") {
		t.Errorf("unknown profile: %v", err)
	}
}

// Bodies keep what the client wrote, byte for byte, but for what has to differ.
func TestBodies(t *testing.T) {
	for _, c := range []struct {
		name, profile, body, first, next string
	}{
		{
			"asked already", "vllm",
			`{ "text_input" : "a\u00e9<" , "stream":true,"max_tokens": 9, "return_finish_reason":true,"return_num_output_tokens":true,"return_num_input_tokens":true }`,
			"",
			`{ "text_input" : "a\u00e9< \"x\"\n" , "stream":true,"max_tokens": 8, "return_finish_reason":true,"return_num_output_tokens":true,"return_num_input_tokens":true,"exclude_input_in_output":true }`,
		},
		{
			"nested", "vllm",
			`{"text_input":"a","parameters":{"stream":true,"max_tokens":9,"return_finish_reason":false,"exclude_input_in_output":true}}`,
			`{"text_input":"a","parameters":{"stream":true,"max_tokens":9,"return_finish_reason":true,"exclude_input_in_output":true},"return_num_output_tokens":true,"return_num_input_tokens":true}`,
			`{"text_input":"a \"x\"\n","parameters":{"stream":true,"max_tokens":8,"return_finish_reason":true,"exclude_input_in_output":true},"return_num_output_tokens":true,"return_num_input_tokens":true}`,
		},
		{
			"sampling", "vllm",
			`{"text_input":"a","stream":true,"max_tokens":2,"sampling_parameters":"{\"temperature\": 0.1}"}`,
			`{"text_input":"a","stream":true,"max_tokens":2,"sampling_parameters":"{\"temperature\": 0.1}","return_finish_reason":true,"return_num_output_tokens":true,"return_num_input_tokens":true}`,
			`{"text_input":"a \"x\"\n","stream":true,"max_tokens":2,"sampling_parameters":"{\"temperature\": 0.1,\"max_tokens\":15}","exclude_input_in_output":true,"return_finish_reason":true,"return_num_output_tokens":true,"return_num_input_tokens":true}`,
		},
		{
			"numbers as strings", "vllm",
			`{"text_input":"a","parameters":{"stream":true,"max_tokens":"9"}}`,
			`{"text_input":"a","parameters":{"stream":true,"max_tokens":"9"},"return_finish_reason":true,"return_num_output_tokens":true,"return_num_input_tokens":true}`,
			`{"text_input":"a \"x\"\n","parameters":{"stream":true,"max_tokens":"8"},"exclude_input_in_output":true,"return_finish_reason":true,"return_num_output_tokens":true,"return_num_input_tokens":true}`,
		},
		{
			"trtllm", "trtllm", `{"text_input":"a","stream":true,"max_tokens":9}`, "",
			`{"text_input":"a \"x\"\n","stream":true,"max_tokens":8,"exclude_input_in_output":true}`,
		},
		{
			"openai", "openai", `{"prompt":"a","stream":true}`, "", `{"prompt":"a \"x\"\n","stream":true,"max_tokens":15}`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := session(t, c.profile, c.body)
			if c.first == "" {
				c.first = c.body
			}
			if got := string(s.Body()); got != c.first {
				t.Errorf("first body\n%s\nwant\n%s", got, c.first)
			}
			event := `data: {"text_output":" \"x\"\n","num_output_tokens":1}` + "\n\n"
			if c.profile == "openai" {
				event = `data: {"choices":[{"text":" \"x\"\n","finish_reason":null}]}` + "\n\n"
			}
			relay(t, s, []string{event})
			next, err := s.Continue(start)
			if err != nil || string(next) != c.next {
				t.Errorf("next body\n%s, %v\nwant\n%s", next, err, c.next)
			}
		})
	}
}

// FuzzOpen opens any body: what is resumed is JSON that says the same but for what
// has to differ, and what is refused is not touched.
func FuzzOpen(f *testing.F) {
	for _, c := range streams {
		f.Add([]byte(c.body), " text", 1)
	}
	f.Add([]byte(`{"text_input":"\ud834\udd1e","stream":true,"parameters":{"stop":"a\\","max_tokens":"7"}}`), "\\", 3)
	f.Fuzz(func(t *testing.T, body []byte, text string, tokens int) {
		for _, name := range resume.Names() {
			s := session(t, name, string(body))
			first := s.Body()
			if s.Refusal() != "" {
				if !bytes.Equal(first, body) {
					t.Fatalf("%s: %q is refused and changed to %q", name, body, first)
				}
				continue
			}
			event := delta(text, "None")
			if name == "openai" {
				event = strings.Replace(strings.Replace(event, `text_output`, `text`, 1), "data: ", `data: {"choices":[`, 1)
				event = strings.TrimSpace(event) + "]}\n\n"
			}
			if _, err := s.Event([]byte(event)); err != nil {
				t.Fatal(err)
			}
			next, err := s.Continue(start)
			if err != nil {
				continue
			}
			given := text
			if strings.HasSuffix(name, "-cumulative") {
				// The beginning of a character is shown as U+FFFD, and is not the text's yet.
				given = strings.TrimRight(strings.ToValidUTF8(text, "\uFFFD"), "\uFFFD")
			}
			was, is := decoded(t, first), decoded(t, next)
			for _, key := range []string{"text_input", "prompt"} {
				old, had := was[key].(string)
				if now, has := is[key].(string); had != has || had && now != old+given {
					t.Fatalf("%s: prompt %q and text %q became %q", name, old, text, now)
				}
			}
		}
	})
}

func decoded(t *testing.T, body []byte) map[string]any {
	t.Helper()
	var all map[string]any
	if err := json.Unmarshal(body, &all); err != nil {
		t.Fatalf("body %q: %v", body, err)
	}
	nested, _ := all["parameters"].(map[string]any)
	for k, v := range nested {
		all[k] = v
	}
	return all
}

// The page has the table of what refuses.
func TestDocs(t *testing.T) {
	page, err := os.ReadFile("../../../docs/resume.md")
	if err != nil {
		t.Fatal(err)
	}
	if want := resume.Table(); !bytes.Contains(page, []byte(want)) {
		t.Errorf("docs/resume.md does not have this table:\n%s", want)
	}
}
