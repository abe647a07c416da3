package regions

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestUnit(t *testing.T) {
	for in, want := range map[string]string{
		"81.2.69.160":          "81.2.69.0/24",
		"::ffff:81.2.69.160":   "81.2.69.0/24",
		"2001:db8:1:2:3::4":    "2001:db8:1::/48",
		"fe80::1%eth0":         "fe80::/48",
		"255.255.255.255":      "255.255.255.0/24",
		"0.0.0.0":              "0.0.0.0/24",
		"2001:db8:ffff:ffff::": "2001:db8:ffff::/48",
	} {
		if got := Unit(netip.MustParseAddr(in)); got != netip.MustParsePrefix(want) {
			t.Errorf("Unit(%s) = %s, want %s", in, got, want)
		}
	}
	if got := Unit(netip.Addr{}); got.IsValid() {
		t.Errorf("the unit of no address is %s", got)
	}
}

func TestLabel(t *testing.T) {
	for in, want := range map[ModelName]string{
		"llama":                            "llama",
		"Llama-3.1-70B":                    "llama-3-1-70b",
		"meta/llama_3":                     "meta-llama-3",
		"-x-":                              "x",
		"Mistral 7B (instruct)":            "mistral-7b--instruct",
		"日本":                               "",
		ModelName(strings.Repeat("a", 80)): strings.Repeat("a", 63),
	} {
		if got := in.Label(); got != want {
			t.Errorf("%q: label %q, want %q", in, got, want)
		}
	}
}

func TestReservedLabels(t *testing.T) {
	for label, want := range map[string]string{
		"region": "the names of regions",
		"route":  "the names of regions",
		"_why":   "explanations",
		"ns1":    "name servers",
		"ns9":    "name servers",
		"ns99":   "name servers",
		"":       "", "@": "", "llama": "", "why": "", "_acme-challenge": "",
		"regions": "", "route1": "", "ns": "", "ns0": "", "ns01": "", "ns100": "", "ns1a": "", "ns-1": "", "nsa": "", "ns²": "", "ins1": "",
	} {
		if got := ReservedLabel(label); got != want {
			t.Errorf("%q is kept for %q, want %q", label, got, want)
		}
		if got := NameServerLabel(label); got != (want == "name servers") {
			t.Errorf("%q a name server's label: %v", label, got)
		}
	}
}

func TestRegionNames(t *testing.T) {
	for _, ok := range []ID{"eu", "us-east-1", "9"} {
		if err := ok.Validate(); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []ID{"", "EU", "eu.west", "-eu", "eu-", "eu west", ID(strings.Repeat("a", 64))} {
		if bad.Validate() == nil {
			t.Errorf("%q passed", bad)
		}
	}
}

func TestEndpoint(t *testing.T) {
	for in, want := range map[string]string{
		"https://eu.example.com":      "https://eu.example.com:443",
		"http://192.0.2.1/":           "http://192.0.2.1:80",
		"http://[2001:db8::1]:8080":   "http://[2001:db8::1]:8080",
		"https://eu.example.com:8443": "https://eu.example.com:8443",
	} {
		e, err := ParseEndpoint(in)
		if err != nil || e.URL() != want {
			t.Errorf("%s: got %s, %v; want %s", in, e.URL(), err, want)
		}
	}
	if e, _ := ParseEndpoint("http://[2001:db8::1]:8080"); len(e.Addrs) != 1 || e.Addrs[0] != netip.MustParseAddr("2001:db8::1") {
		t.Errorf("the address of an address is %v", e.Addrs)
	}
	for _, bad := range []string{"", "eu.example.com", "ftp://x", "http://", "http://a/b", "http://u:p@a", "http://a?b", "http://a:0", "http://a:99999", "http://a:b", "http://a/%zz"} {
		if e, err := ParseEndpoint(bad); err == nil {
			t.Errorf("%q passed as %+v", bad, e)
		}
	}
}

func report(region ID, agent string, heard time.Time, models ...ModelStatus) Report {
	return Report{Heard: heard, Status: &Status{Region: region, Agent: AgentID(agent), Models: models}}
}

func TestAgentsOfARegionAddUp(t *testing.T) {
	now := time.Unix(1e9, 0)
	a := ModelStatus{Name: "llama", PoolID: 1, Slots: 8000, InFlight: 3, Queued: 1, Arrivals: 10, Completions: 6, Wait: 5}
	b := ModelStatus{Name: "llama", PoolID: 2, Slots: 12000, InFlight: 2, Queued: 2, Arrivals: 20, Completions: 16, Wait: 7}
	other := ModelStatus{Name: "mistral", Slots: 4000}
	s := NewSnapshot([]Report{
		report("us", "us/1", now),
		report("eu", "eu/2", now, b, other),
		report("eu", "eu/1", now.Add(-time.Second), a),
		report("eu", "eu/0", now.Add(-time.Minute), ModelStatus{Name: "llama", InFlight: 99, Slots: 99000}),
	})
	got := s.Regions()
	if len(got) != 2 || got[0].ID != "eu" || got[1].ID != "us" || !got[0].Heard.Equal(now) {
		t.Fatalf("got %+v", got)
	}
	want := ModelStatus{Name: "llama", PoolID: 2, Slots: 12000, InFlight: 5, Queued: 3, Arrivals: 30, Completions: 22, Wait: 7}
	if m := got[0].Model("llama"); m == nil || *m != want {
		t.Errorf("llama: got %+v, want %+v (a dead agent's load does not count)", m, want)
	}
	if mergeModel(a, b) != mergeModel(b, a) {
		t.Error("the merge depends on the order")
	}
	if got[0].Model("gpt") != nil {
		t.Error("a model that nobody has")
	}
}

func TestARegionDrainsWhenAllItsAgentsDo(t *testing.T) {
	now := time.Unix(1e9, 0)
	one, two := report("eu", "eu/1", now), report("eu", "eu/2", now)
	one.Status.Draining = true
	if NewSnapshot([]Report{one, two}).Regions()[0].Draining {
		t.Error("one of two agents drains, the region does not")
	}
	two.Status.Stopping = true
	if r := NewSnapshot([]Report{one, two}).Regions()[0]; !r.Draining || r.Stopping {
		t.Error("one drains and the other stops: the region drains")
	}
	one.Status.Draining, one.Status.Stopping = false, true
	if r := NewSnapshot([]Report{one, two}).Regions()[0]; r.Draining || !r.Stopping {
		t.Error("both agents stop: nobody drains")
	}
}

func TestNewer(t *testing.T) {
	s := func(epoch, version uint64) *Status { return &Status{Epoch: epoch, Version: version} }
	for _, tt := range []struct {
		a, b *Status
		want bool
	}{
		{s(1, 1), nil, true}, {s(1, 2), s(1, 1), true}, {s(2, 1), s(1, 9), true},
		{s(1, 1), s(1, 1), false}, {s(1, 9), s(2, 1), false},
	} {
		if got := tt.a.Newer(tt.b); got != tt.want {
			t.Errorf("%+v newer than %+v: %v", tt.a, tt.b, got)
		}
	}
}

// TestAgents: agents count for 5 s after they were last heard.
func TestAgents(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var all []Report
	for agent, age := range map[AgentID]time.Duration{"eu/b": 5 * time.Second, "eu/a": 0, "eu/c": 5*time.Second + 1, "us/a": 0, "eu/d": -time.Second} {
		all = append(all, Report{Status: &Status{Agent: agent, Region: ID(agent[:2])}, Heard: now.Add(-age)})
	}
	s := NewSnapshot(all)
	for region, want := range map[ID]string{"eu": "eu/a eu/b eu/d", "us": "us/a", "ap": ""} {
		var got []string
		for _, a := range s.Agents(region, now) {
			got = append(got, string(a))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %v, want %s", region, got, want)
		}
	}
}
