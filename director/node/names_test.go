package node

import (
	"maps"
	"strings"
	"testing"

	"github.com/rhumb-lb/rhumb/director"
	"github.com/rhumb-lb/rhumb/regions"
)

// report is an agent's word on its models; "name@host" has a configured host.
func report(agent string, models ...string) regions.Report {
	s := &regions.Status{Agent: regions.AgentID(agent), Region: regions.ID(strings.SplitN(agent, "/", 2)[0])}
	for _, m := range models {
		name, host, _ := strings.Cut(m, "@")
		s.Models = append(s.Models, regions.ModelStatus{Name: regions.ModelName(name), Host: host})
	}
	return regions.Report{Status: s}
}

func TestLabels(t *testing.T) {
	type step struct {
		heard   []regions.Report
		refused string // the newly refused models, in order
	}
	for _, c := range []struct {
		what  string
		hosts []Host
		steps []step
		want  map[string]regions.ModelName
		why   map[regions.ModelName]string // a part of the reason
	}{
		{
			what:  "names make labels",
			steps: []step{{heard: []regions.Report{report("eu/a", "Llama-3.1", "meta/llama_3")}}},
			want:  map[string]regions.ModelName{"llama-3-1": "Llama-3.1", "meta-llama-3": "meta/llama_3"},
		},
		{
			what: "an agent's host comes before the name",
			steps: []step{
				{heard: []regions.Report{report("eu/a", "llama@chat")}},
			},
			want: map[string]regions.ModelName{"chat": "llama"},
		},
		{
			what:  "the director's host comes before the agent's",
			hosts: []Host{{"talk", "llama"}, {"api", regions.Apex}},
			steps: []step{{heard: []regions.Report{report("eu/a", "llama@chat")}}},
			want:  map[string]regions.ModelName{"talk": "llama", "api": regions.Apex},
		},
		{
			what:  "two hosts for one model",
			hosts: []Host{{"talk", "llama"}, {"chat", "llama"}},
			steps: []step{{heard: []regions.Report{report("eu/a", "llama")}}},
			want:  map[string]regions.ModelName{"talk": "llama", "chat": "llama"},
		},
		{
			what:  "the zone itself takes no label away",
			hosts: []Host{{"@", "llama"}},
			steps: []step{{heard: []regions.Report{report("eu/a", "llama")}}},
			want:  map[string]regions.ModelName{"llama": "llama"},
		},
		{
			what: "who came first keeps it, whatever appears and goes",
			steps: []step{
				{heard: []regions.Report{report("eu/a", "Llama")}},
				{heard: []regions.Report{report("ap/a", "llama"), report("eu/a", "Llama")}, refused: "llama"},
				{heard: []regions.Report{report("ap/a", "llama")}},
				{heard: []regions.Report{report("ap/a", "llama"), report("us/a", "LLAMA")}, refused: "LLAMA"},
			},
			want: map[string]regions.ModelName{"llama": "Llama"},
			why:  map[regions.ModelName]string{"llama": "that of model Llama", "LLAMA": "that of model Llama"},
		},
		{
			what: "a new host does not rename a model",
			steps: []step{
				{heard: []regions.Report{report("eu/a", "llama")}},
				{heard: []regions.Report{report("eu/a", "llama@chat")}},
			},
			want: map[string]regions.ModelName{"llama": "llama"},
		},
		{
			what: "a host helps out of a collision",
			steps: []step{
				{heard: []regions.Report{report("eu/a", "Llama", "llama")}, refused: "llama"},
				{heard: []regions.Report{report("eu/a", "Llama", "llama@llama-old")}},
			},
			want: map[string]regions.ModelName{"llama": "Llama", "llama-old": "llama"},
			why:  map[regions.ModelName]string{},
		},
		{
			what: "one region's host is enough",
			steps: []step{{
				heard:   []regions.Report{report("ap/a", "route"), report("eu/a", "route@way")},
				refused: "route",
			}},
			want: map[string]regions.ModelName{"way": "route"},
			why:  map[regions.ModelName]string{},
		},
		{
			what:  "the zone's own labels and hosts",
			hosts: []Host{{"api", regions.Apex}},
			steps: []step{{
				heard:   []regions.Report{report("eu/a", "route", "Region", "ns1", "日本", "API", "x@_why", "y@Chat", "z@a.b", "v@ns12", "nsx")},
				refused: "route Region ns1 日本 API x y z v",
			}},
			want: map[string]regions.ModelName{"api": regions.Apex, "nsx": "nsx"},
			why: map[regions.ModelName]string{
				"route": "the names of regions", "Region": "the names of regions", "ns1": "name servers", "日本": "no letter or digit",
				"API": "a host of the zone", "x": "not a DNS label", "y": `"Chat"`, "z": "not a DNS label", "v": "name servers",
			},
		},
		{
			what: "two reasons are told once",
			steps: []step{
				{heard: []regions.Report{report("ap/a", "m@route"), report("eu/a", "m@ns1")}, refused: "m"},
				{heard: []regions.Report{report("ap/a", "m@route"), report("eu/a", "m@ns1")}},
			},
			want: map[string]regions.ModelName{},
			why:  map[regions.ModelName]string{"m": "the names of regions"},
		},
	} {
		t.Run(c.what, func(t *testing.T) {
			l := newLabels(c.hosts, nil)
			for i, s := range c.steps {
				var told []string
				for _, m := range l.learn(regions.NewSnapshot(s.heard)) {
					told = append(told, string(m))
				}
				if got := strings.Join(told, " "); got != s.refused {
					t.Errorf("step %d: newly refused %q, want %q", i, got, s.refused)
				}
			}
			if !maps.Equal(l.byLabel, c.want) {
				t.Errorf("labels %v, want %v", l.byLabel, c.want)
			}
			if len(l.refused) != len(c.why) {
				t.Errorf("refused %v, want %v", l.refused, c.why)
			}
			for m, part := range c.why {
				if why := l.refused[m]; !strings.Contains(why, part) {
					t.Errorf("%s is refused since %q, want something of %q", m, why, part)
				}
			}
		})
	}
}

func TestTheZoneItselfCanBeOneModel(t *testing.T) {
	// Tokyo is nearest but has no mistral.
	r := three(t, Host{"@", "mistral"})
	a := r.answers()
	if answer, _, _ := a.Lookup("inference.test.", japanese); first(answer) != atEU {
		t.Errorf("the zone is at %s for Japan, want %s as its model", first(answer), atEU)
	}
	if answer, _, _ := a.Lookup("mistral.inference.test.", japanese); first(answer) != atEU {
		t.Errorf("its model's own name is at %s", first(answer))
	}
	if answer, _, _ := a.Lookup("_why.inference.test.", japanese); answer == nil || !strings.Contains(strings.Join(answer.TXT, " "), "region=eu-west") {
		t.Errorf("_why says %v", answer)
	}
}

func TestNamesOfEverything(t *testing.T) {
	r := three(t)
	r.set.why = false
	r.step(r.now)
	names := r.world.Load().names
	want := []string{
		"", "route", "region", "llama", "mistral",
		"us-east.region", "eu-west.region", "ap-northeast.region", "us-east.route", "eu-west.route", "ap-northeast.route",
	}
	for _, name := range want {
		if _, ok := names[name]; !ok {
			t.Errorf("no %q", name)
		}
	}
	if len(names) != len(want) {
		t.Errorf("%d names, want %d: %v", len(names), len(want), names)
	}
}

// TestLabelsEndWithTheirModels keeps configured labels for ever and learnt ones
// for as long as the table has the model.
func TestLabelsEndWithTheirModels(t *testing.T) {
	l := newLabels([]Host{{Label: "chat", Model: "gpt"}}, nil)
	l.learn(regions.NewSnapshot([]regions.Report{{Heard: epoch, Status: &regions.Status{
		Agent: "eu/1", Region: "eu", Models: []regions.ModelStatus{{Name: "llama"}, {Name: "Llama"}},
	}}}))
	has := func(models ...regions.ModelName) *director.Table {
		out := &director.Table{Services: map[regions.ModelName]*director.Service{}}
		for _, m := range models {
			out.Services[m] = &director.Service{}
		}
		return out
	}
	l.forget(has("llama", "Llama"))
	if l.byLabel["llama"] != "llama" || len(l.refused) != 1 {
		t.Errorf("labels %v, refused %v", l.byLabel, l.refused)
	}
	l.forget(has("Llama"))
	if m, ok := l.byLabel["llama"]; ok || l.byLabel["chat"] != "gpt" {
		t.Errorf("llama is %q still, chat is %q", m, l.byLabel["chat"])
	}
	l.forget(has())
	if len(l.byLabel) != 1 || len(l.byModel) != 1 || len(l.refused) != 0 {
		t.Errorf("left over: %v %v %v", l.byLabel, l.byModel, l.refused)
	}
}

// TestABrokenPlanIsSurvived lets a step panic: the world stays.
func TestABrokenPlanIsSurvived(t *testing.T) {
	r := three(t)
	r.after(planEvery)
	before := r.world.Load()
	r.survive(func() { panic("hostile data") })
	if r.world.Load() != before {
		t.Error("the world is gone")
	}
}
