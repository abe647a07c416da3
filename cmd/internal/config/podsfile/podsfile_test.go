package podsfile

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/discovery"
)

// rules are those of an agent with two models.
func rules() Rules {
	return Rules{Models: []string{"llama", "mistral"}, Most: 100, Slots: func(models []string, own int) (out []regions.PodModel) {
		if len(models) == 0 {
			models = []string{"llama", "mistral"}
		}
		for _, m := range models {
			out = append(out, regions.PodModel{Name: regions.ModelName(m), Slots: max(own, 1)})
		}
		return out
	}}
}

func TestDecode(t *testing.T) {
	const want = `{a 10.0.0.1:8000 10.0.0.1:8001 10.0.0.1:9000 10.0.0.1:8002 [{llama 16}] true} {inference/b [fd00::1]:8000 invalid AddrPort invalid AddrPort invalid AddrPort [{llama 1} {mistral 1}] false}`
	for what, text := range map[string]string{
		"YAML":           "# pods\npods:\n  - name: a\n    http: 10.0.0.1:8000\n    grpc: 10.0.0.1:8001\n    openai: 10.0.0.1:9000\n    metrics: 10.0.0.1:8002\n    models: [llama]\n    slots: 16\n    terminating: true\n  - {name: inference/b, http: \"[fd00::1]:8000\"}\n",
		"JSON":           `{"pods": [{"name": "a", "http": "10.0.0.1:8000", "grpc": "10.0.0.1:8001", "openai": "10.0.0.1:9000", "metrics": "10.0.0.1:8002", "models": ["llama"], "slots": 16, "terminating": true}, {"name": "inference/b", "http": "[fd00::1]:8000"}]}`,
		"JSON with tabs": "{\n\t\"pods\": [\n\t\t{\"name\": \"a\", \"http\": \"10.0.0.1:8000\", \"grpc\": \"10.0.0.1:8001\", \"openai\": \"10.0.0.1:9000\", \"metrics\": \"10.0.0.1:8002\", \"models\": [\"llama\"],\n\t\t \"slots\": 16, \"terminating\": true},\n\t\t{\"name\": \"inference/b\", \"http\": \"[fd00::1]:8000\"}\n\t]\n}\n",
	} {
		pods, err := rules().Decode("pods.yaml", []byte(text))
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		var got []string
		for _, p := range pods {
			got = append(got, fmt.Sprint("{", p.ID, " ", p.HTTP, " ", p.GRPC, " ", p.OpenAI, " ", p.Metrics, " ", p.Models, " ", p.Terminating, "}"))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: got %s, want %s", what, got, want)
		}
	}
	if pods, err := rules().Decode("pods.yaml", []byte("pods: []\n")); err != nil || len(pods) != 0 {
		t.Errorf("no pods: %v, %v", pods, err)
	}
}

// TestDecodeBroken: every problem names file, line and key, and what to do.
func TestDecodeBroken(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", "pods.yaml:1: pods: is missing; list the pods"},
		{"# nothing\n", "pods.yaml:1: pods: is missing"},
		{"pods:\n  - name: a\n    http", "pods.yaml:3: not YAML"},
		{"pods:\n  - {name: a, http: \"10.0.0.1:8000\", metrik: x}", `pods.yaml:2: pods[0].metrik: no such key; `},
		{"pods:\n  - name: a\n    http: triton-0:8000\n", `pods.yaml:3: pods[0].http: "triton-0:8000" is not the IP and port of a pod; write it like`},
		{"pods:\n  - name: a\n", `pods.yaml:2: pods[0].http: "" is not the IP and port`},
		{"pods:\n  - {name: a, http: \"10.0.0.1:0\"}", `pods[0].http: "10.0.0.1:0" is not`},
		{"pods:\n  - {name: a, http: \"0.0.0.0:1\"}", `pods[0].http: "0.0.0.0:1" is not`},
		{"pods:\n  - {http: \"10.0.0.1:8000\"}", `pods[0].name: "" is not a pod's name`},
		{"pods:\n  - {name: a b, http: \"10.0.0.1:8000\"}", `pods[0].name: "a b" is not a pod's name`},
		{"pods:\n  - {name: a, http: \"10.0.0.1:8000\", metrics: \"10.0.0.1:8000\"}", "pods[0].metrics: 10.0.0.1:8000 is the address for http too"},
		{"pods:\n  - {name: a, http: \"10.0.0.1:8000\"}\n  - {name: a, http: \"10.0.0.2:8000\"}", `pods.yaml:3: pods[1].name: "a" is already the name of pods[0]`},
		{"pods:\n  - {name: a, http: \"10.0.0.1:8000\"}\n  - {name: b, http: \"10.0.0.1:8000\"}", "pods.yaml:3: pods[1].http: 10.0.0.1:8000 is already the address of pods[0]"},
		{"pods:\n  - {name: a, http: \"10.0.0.1:8000\", models: [lama]}", `pods[0].models[0]: there is no model "lama"`},
		{"pods:\n  - {name: a, http: \"10.0.0.1:8000\", models: [llama, llama]}", `pods[0].models[1]: "llama" is listed twice`},
		{"pods:\n  - {name: a, http: \"10.0.0.1:8000\", slots: 101}", "pods[0].slots: 101 is out of range; write a value from 0 to 100"},
		{"pods:\n  - {name: a, http: \"10.0.0.1:8000\", slots: \"8\"}", "pods[0].slots: "},
		{"pods:\n  - {name: a, name: b, http: \"10.0.0.1:8000\"}", "pods[0].name: is already set on line 2"},
		{"pods: []\n---\npods: []\n", "pods.yaml:2: a second YAML document"},
		{"- {name: a}\n", "is not a mapping"},
		{"pods:\n", "pods"},
	} {
		pods, err := rules().Decode("pods.yaml", []byte(c.text))
		if err == nil || pods != nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: got %v, %v, want %q", c.text, pods, err, c.want)
		}
	}
}

// FuzzDecode: whatever a file holds, it is refused or makes a valid set; and what is
// cut off in the middle of it is no more than it.
func FuzzDecode(f *testing.F) {
	f.Add("pods:\n  - {name: a, http: \"10.0.0.1:8000\", models: [llama], slots: 4}\n", 30)
	f.Add(`{"pods": [{"name": "a", "http": "[::1]:8000", "terminating": true}]}`, 9)
	f.Add("pods: []", 5)
	f.Fuzz(func(t *testing.T, text string, cut int) {
		pods, err := rules().Decode("pods.yaml", []byte(text))
		if err != nil {
			return
		}
		if err := discovery.Validate(pods); err != nil {
			t.Errorf("%q: %v", text, err)
		}
		if cut < 0 || cut > len(text) {
			return
		}
		part, err := rules().Decode("pods.yaml", []byte(text[:cut]))
		if err == nil && len(part) > len(pods) {
			t.Errorf("%q has %d pods and %q %d", text, len(pods), text[:cut], len(part))
		}
		if err == nil && slices.ContainsFunc(part, func(p regions.Pod) bool { return p.HTTP.Port() == 0 }) {
			t.Errorf("%q has a pod without a port", text[:cut])
		}
	})
}
