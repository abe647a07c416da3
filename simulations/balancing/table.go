package balancing

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/rhumb-lb/rhumb/regions/balance"
	"github.com/rhumb-lb/rhumb/regions/pool"
)

// pods are n ordinary pods of 8 slots, the last few of which are changed.
func pods(n, last int, change func(*Server)) []Server {
	out := make([]Server, n)
	for i := range out {
		out[i] = Server{Slots: 8, Slower: 1}
		if i >= n-last {
			change(&out[i])
		}
	}
	return out
}

// Scenarios are those that are compared, of some length.
func Scenarios(length time.Duration) []Scenario {
	equal := pods(16, 0, nil)
	slow := pods(16, 2, func(s *Server) { s.Slower = 16 })
	small := pods(16, 2, func(s *Server) { s.Slots = 4 })
	load := func(name string, servers []Server, rate float64) Scenario {
		return Scenario{Name: name, Servers: servers, Rate: rate, Agents: 1, Warm: length / 4, Until: length}
	}
	nominal, actual := Capacity(slow)
	all, _ := Capacity(equal)
	less, _ := Capacity(small)
	two := load("two agents, 80 % of 16 pods", equal, 0.8*all)
	two.Agents = 2
	return []Scenario{
		load("16 pods, 2 of them 16 times slower, 80 % of nominal capacity", slow, 0.8*nominal),
		load("16 pods, 2 of them 16 times slower, 80 % of actual capacity", slow, 0.8*actual),
		load("16 equal pods, 80 %", equal, 0.8*all),
		load("16 pods, 2 of them with half the slots, 80 %", small, 0.8*less),
		two,
		FromZero(length),
	}
}

// FromZero is a region that scales from nothing to 30 pods, one of which is ready
// well before the others, while requests for 15 of them come.
func FromZero(length time.Duration) Scenario {
	servers := pods(30, 30, func(*Server) {})
	for i := range servers {
		servers[i].Up = 40*time.Second + time.Duration(i)*time.Second
	}
	servers[0].Up = 10 * time.Second
	all, _ := Capacity(servers)
	return Scenario{Name: "from 0 to 30 pods, one ready 30 s before the others, load for 15", Servers: servers, Rate: all / 2, Agents: 1, Until: length / 4}
}

// Burst is a row of requests that come at two agents between two of their reports.
func Burst() Scenario {
	servers := pods(16, 16, func(s *Server) { s.Slots = 64 })
	return Scenario{Name: "two agents, 500 requests in 100 ms", Servers: servers, Rate: 10, Agents: 2, Burst: 500, BurstAt: 20 * time.Second, Until: 21 * time.Second}
}

// Opinions are the pool's options with and without judging pods by their results.
func Opinions() (with, without pool.Options) {
	with, without = pool.DefaultOptions(), pool.DefaultOptions()
	without.Outlier.Slower, without.Outlier.Errors = 0, 0
	return with, without
}

// Merged is what all seeds of a scenario measured.
type Merged struct {
	P50, P99, P999 time.Duration
	SlowShare      float64
	Requests       int
	Most           int // on one pod
	Starve         int // still waiting at the runs' ends
}

// Merge takes several runs for one.
func Merge(runs []Result) Merged {
	var all []time.Duration
	var out Merged
	slow := 0
	for _, r := range runs {
		all = append(all, r.TTFT...)
		slow += r.Slow
		out.Most = max(out.Most, slices.Max(r.Most))
		out.Starve += r.Starve
	}
	slices.Sort(all)
	out.Requests = len(all)
	if len(all) == 0 {
		return out
	}
	at := func(permille int) time.Duration { return all[min(len(all)-1, len(all)*permille/1000)] }
	out.P50, out.P99, out.P999 = at(500), at(990), at(999)
	out.SlowShare = float64(slow) / float64(len(all))
	return out
}

// Compare runs a scenario by every way to choose a pod, seed by seed.
func Compare(s Scenario, seeds int, o pool.Options) (map[string]Merged, error) {
	runs := map[string][]Result{}
	for seed := range seeds {
		for _, name := range balance.Names() {
			r, err := Run(s, name, uint64(seed+1), o)
			if err != nil {
				return nil, err
			}
			runs[name] = append(runs[name], r)
		}
	}
	out := map[string]Merged{}
	for name, all := range runs {
		out[name] = Merge(all)
	}
	return out, nil
}

// Table prints all scenarios.
func Table(w io.Writer, scenarios []Scenario, seeds int) error {
	with, without := Opinions()
	for _, s := range scenarios {
		judged, err := Compare(s, seeds, with)
		if err != nil {
			return err
		}
		chosen, err := Compare(s, seeds, without)
		if err != nil {
			return err
		}
		_, _ = fmt.Fprintf(w, "%s\n", s.Name)
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
		_, _ = fmt.Fprintln(t, "\tp50\tp99\tp99.9\tslow pods\tmost on a pod\trequests\twaiting at the end\t|\tp99\tp99.9\tslow pods\t")
		for _, name := range balance.Names() {
			a, b := judged[name], chosen[name]
			_, _ = fmt.Fprintf(t, "%s\t%.2f\t%.2f\t%.2f\t%.2f %%\t%d\t%d\t%d\t|\t%.2f\t%.2f\t%.2f %%\t\n", name, a.P50.Seconds(), a.P99.Seconds(), a.P999.Seconds(),
				100*a.SlowShare, a.Most, a.Requests, a.Starve, b.P99.Seconds(), b.P999.Seconds(), 100*b.SlowShare)
		}
		_ = t.Flush()
		_, _ = fmt.Fprintln(w)
	}
	return nil
}
