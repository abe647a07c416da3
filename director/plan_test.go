package director

import (
	"fmt"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rhumb-lb/rhumb/regions"
)

// three is a world with regions at 0, 5 and 9 that all have llama; mistral is
// missing at 9.
func three() *world {
	return newWorld().
		region("eu", 5, model("llama", 8, 0, 0), model("mistral", 8, 0, 0)).
		region("ap", 9, model("llama", 8, 0, 0)).
		region("us", 0, model("llama", 8, 0, 0), model("mistral", 8, 0, 0))
}

const wellHeard = 300 * time.Millisecond

func TestNearestThatCanServe(t *testing.T) {
	table := three().plan(epoch.Add(wellHeard))
	for cell, want := range map[int]regions.ID{0: "us", 2: "us", 3: "eu", 6: "eu", 8: "ap", 9: "ap"} {
		if got := first(table, "llama", client(cell, 1)); got != want {
			t.Errorf("llama from cell %d: got %s, want %s", cell, got, want)
		}
	}
	if got := first(table, "mistral", client(9, 1)); got != "eu" {
		t.Errorf("mistral from cell 9: got %s, want eu, the nearest that has it", got)
	}
	if got := first(table, regions.Apex, client(9, 1)); got != "ap" {
		t.Errorf("apex from cell 9: got %s, want ap", got)
	}
	if _, ok := Decide(table, "gpt", client(1, 1)); ok {
		t.Error("a model that nobody has was decided")
	}
}

func TestUnknownClientsSpreadByCapacity(t *testing.T) {
	w := newWorld().region("a", 0, model("llama", 30, 0, 0)).region("b", 9, model("llama", 10, 0, 0))
	table := w.plan(epoch.Add(wellHeard))
	e, ok := Explain(table, "llama", regions.Client{Unit: client(0, 1).Unit, Cell: "no such cell"})
	if !ok || e.Shares["a"] < 128 || e.Shares["b"] == 0 || e.Decision.Wide {
		t.Fatalf("got shares %v wide %v, want more for a than for b, by unit", e.Shares, e.Decision.Wide)
	}
}

func TestWhoGetsNothing(t *testing.T) {
	now := epoch.Add(wellHeard)
	tests := []struct {
		name     string
		change   func(*world)
		now      time.Time
		model    regions.ModelName
		from     int
		want     regions.ID
		lost     bool
		barred   bool
		wantSecd regions.ID
	}{
		{name: "lost", change: func(w *world) {
			w.probe("eu", 3, 0).heard("us", epoch.Add(9*time.Second)).heard("ap", epoch.Add(9*time.Second))
		},
			now: epoch.Add(9 * time.Second), model: "llama", from: 6, want: "ap", wantSecd: "us"},
		{name: "silent but answering stays", change: func(w *world) { w.probe("eu", 0, 3).heard("us", epoch.Add(9*time.Second)) },
			now: epoch.Add(9 * time.Second), model: "llama", from: 5, want: "eu"},
		{name: "a few failed probes beside a fresh status change nothing", change: func(w *world) { w.probe("eu", 3, 0) }, now: now, model: "llama", from: 6, want: "eu"},
		{name: "many do", change: func(w *world) { w.probe("eu", 8, 0) }, now: now, model: "llama", from: 6, want: "ap"},
		{name: "drained", change: func(w *world) { w.status("eu").Draining = true }, now: now, model: "llama", from: 6, want: "ap"},
		{name: "no pod for the model", change: func(w *world) { w.status("eu").Models[0].Pods = regions.PodCounts{Ejected: 1} }, now: now, model: "llama", from: 6, want: "ap"},
		{name: "the other model is not touched", change: func(w *world) { w.status("eu").Models[0].Pods = regions.PodCounts{} }, now: now, model: "mistral", from: 6, want: "eu"},
		{name: "all lost is answered as if none were", change: func(w *world) { w.probe("eu", 3, 0).probe("us", 3, 0).probe("ap", 3, 0) },
			now: epoch.Add(9 * time.Second), model: "llama", from: 6, want: "eu", lost: true},
		{name: "all drained is answered and said", change: func(w *world) { w.status("eu").Draining, w.status("us").Draining = true, true },
			now: now, model: "mistral", from: 6, want: "eu", barred: true},
		{name: "the last one standing", change: func(w *world) { w.probe("eu", 3, 0).probe("us", 3, 0).heard("ap", epoch.Add(9*time.Second)) },
			now: epoch.Add(9 * time.Second), model: "llama", from: 0, want: "ap"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := three()
			tt.change(w)
			d, ok := Decide(w.plan(tt.now), tt.model, client(tt.from, 1))
			if !ok || d.Candidates[0].Region != tt.want {
				t.Fatalf("got %+v, want %s", d.Candidates, tt.want)
			}
			if d.AllLost != tt.lost || d.Barred != tt.barred {
				t.Errorf("all lost %v, barred %v; want %v, %v", d.AllLost, d.Barred, tt.lost, tt.barred)
			}
			if tt.wantSecd != "" && d.Candidates[1].Region != tt.wantSecd {
				t.Errorf("second is %s, want %s", d.Candidates[1].Region, tt.wantSecd)
			}
		})
	}
}

func TestOnlyTheExcessMoves(t *testing.T) {
	// All clients are in cell 5, beside eu. 16 sequences want 8 slots there: 85 %
	// of eu's slots are filled, the rest goes to ap, which is nearer than us, and
	// what does not fit there to us.
	w := three()
	w.in.Demand.Cells = map[regions.ModelName]map[regions.CellID]int64{"llama": {"c5": 1_000_000}}
	w.status("eu").Models[0].InFlight, w.status("eu").Models[0].Queued = 8, 8
	now := epoch.Add(wellHeard)
	table := w.plan(now)
	eu, ap, us := share(table, "llama", 5, "eu"), share(table, "llama", 5, "ap"), share(table, "llama", 5, "us")
	near := func(got int, slots float64) bool {
		want := slots / 16 * 256
		return float64(got) > want-3 && float64(got) < want+3
	}
	if !near(eu, 6.8) || !near(ap, 6.8) || !near(us, 2.4) {
		t.Fatalf("shares eu %d ap %d us %d of 256, want 6.8, 6.8 and 2.4 sixteenths", eu, ap, us)
	}

	// Once the load has followed, the plan stays what it is: it does not hunt.
	for id, n := range map[regions.ID]uint32{"eu": 7, "ap": 7, "us": 2} {
		m := w.status(id).Model("llama")
		m.InFlight, m.Queued = n, 0
	}
	if again := w.plan(now); share(again, "llama", 5, "eu") != eu || share(again, "llama", 5, "ap") != ap {
		t.Errorf("after the load has moved: eu %d, ap %d; before: %d, %d", share(again, "llama", 5, "eu"), share(again, "llama", 5, "ap"), eu, ap)
	}
	for _, r := range SpillRows(table, w.in.Latency, "eu") {
		if r.Model == "llama" && (r.Leave < 560 || r.Leave > 590) {
			t.Errorf("leave %d permille of eu's clients, want about 575", r.Leave)
		}
	}
}

func TestLoadThatNobodyDecidedMovesOthersAway(t *testing.T) {
	// 30 sequences came to eu by themselves, while decisions say that all clients
	// are beside us: who is at home in eu is better off elsewhere until they end.
	w := three()
	w.in.Demand.Cells = map[regions.ModelName]map[regions.CellID]int64{"llama": {"c0": 1_000_000}}
	w.status("eu").Model("llama").InFlight = 30
	now := epoch.Add(wellHeard)
	if table := w.plan(now); share(table, "llama", 5, "eu") != 0 {
		t.Errorf("eu is overrun by strays and still gets %d of 256", share(table, "llama", 5, "eu"))
	}
	w.status("eu").Model("llama").InFlight = 0
	if table := w.plan(now); share(table, "llama", 5, "eu") != 256 {
		t.Errorf("the strays are gone, eu gets %d of 256", share(table, "llama", 5, "eu"))
	}
}

func TestApexFollowsTheMix(t *testing.T) {
	now := epoch.Add(wellHeard)
	w := three()
	w.in.Demand.Mix = map[regions.ModelName]int64{"llama": 10, "mistral": 10}
	if got := first(w.plan(now), regions.Apex, client(9, 1)); got != "ap" {
		t.Errorf("with too little measured: got %s, want ap", got)
	}
	w.in.Demand.Mix = map[regions.ModelName]int64{"llama": 800, "mistral": 80}
	if got := first(w.plan(now), regions.Apex, client(9, 1)); got != "ap" {
		t.Errorf("mistral is rare: got %s, want ap", got)
	}
	w.in.Demand.Mix = map[regions.ModelName]int64{"llama": 800, "mistral": 200}
	if got := first(w.plan(now), regions.Apex, client(9, 1)); got != "eu" {
		t.Errorf("mistral is common and ap has none: got %s, want eu", got)
	}
	for _, mistral := range []int64{99, 91, 88} { // around a tenth
		w.in.Demand.Mix["mistral"] = mistral
		if got := first(w.plan(now), regions.Apex, client(9, 1)); got != "eu" {
			t.Errorf("mistral wavers at %d of %d: got %s, want eu still", mistral, mistral+800, got)
		}
	}
	w.in.Demand.Mix["mistral"] = 60
	if got := first(w.plan(now), regions.Apex, client(9, 1)); got != "ap" {
		t.Errorf("mistral has become rare: got %s, want ap", got)
	}
}

func TestSpillRows(t *testing.T) {
	w := three()
	w.status("us").Model("mistral").InFlight = 4
	w.status("us").Draining = true
	rows := SpillRows(w.plan(epoch.Add(wellHeard)), w.in.Latency, "us")
	if len(rows) != 2 || rows[0].Model != "llama" || rows[1].Model != "mistral" {
		t.Fatalf("got %+v, want a row per model", rows)
	}
	for _, r := range SpillRows(three().plan(epoch.Add(wellHeard)), line{}, "ap") {
		if want := map[regions.ModelName]regions.Permille{"llama": 0, "mistral": regions.Whole}[r.Model]; r.Leave != want {
			t.Errorf("%s leaves ap by %d permille, want %d", r.Model, r.Leave, want)
		}
	}
	if r := rows[0]; r.Leave != regions.Whole || len(r.Targets) != 2 || r.Targets[0].Region != "eu" || r.Targets[0].Budget <= 0 {
		t.Errorf("a drained region spills all, nearest first; got %+v", r)
	}
	if r := rows[1]; len(r.Targets) != 1 || r.Targets[0].Region != "eu" {
		t.Errorf("mistral: got %+v, want eu only", r)
	}
	if SpillRows(&Table{}, line{}, "us") != nil {
		t.Error("rows for a region that is not known")
	}
}

func TestSharedPodsCountOnceInTheApex(t *testing.T) {
	shared, other := model("llama", 8, 0, 0), model("mistral", 8, 0, 0)
	shared.PoolID, other.PoolID = 7, 7
	w := newWorld().region("a", 0, shared, other)
	other.PoolID = 8
	w.region("b", 9, shared, other)
	table := w.plan(epoch.Add(wellHeard))
	if s := table.Services[regions.Apex].Supply; s[0].Capacity != regions.Slots(8) || s[1].Capacity != regions.Slots(16) {
		t.Errorf("apex capacity %d and %d, want 8 and 16 slots", s[0].Capacity, s[1].Capacity)
	}
}

func TestAModelOutlivesTheStatusThatListsIt(t *testing.T) {
	w := three()
	w.plan(epoch.Add(wellHeard))
	w.status("eu").Models, w.status("us").Models = w.status("eu").Models[:1], w.status("us").Models[:1]
	d, ok := Decide(w.plan(epoch.Add(wellHeard)), "mistral", client(9, 1))
	if !ok || d.Candidates[0].Region != "eu" || !d.AllLost {
		t.Errorf("mistral of agents that restart: %+v, %v; want eu, as a guess", d, ok)
	}
	late := epoch.Add(wellHeard + KnownFor + time.Hour)
	for _, id := range []regions.ID{"eu", "us", "ap"} {
		w.heard(id, late)
	}
	if _, ok := Decide(w.plan(late), "mistral", client(9, 1)); ok {
		t.Error("mistral is still known after a week without it")
	}
}

func TestHostileStatusesBreakNothing(t *testing.T) {
	var models []regions.ModelStatus
	for i := range 300 {
		m := model(regions.ModelName(fmt.Sprintf("m%03d", i)), 1, math.MaxUint32, math.MaxUint32)
		m.Slots, m.Wait = math.MaxInt64, math.MaxInt64
		models = append(models, m)
	}
	w := newWorld().region("evil", 5, models...).region("ap", 9, model("llama", 8, 0, 0)).region("none", 2)
	for range 3 {
		w.plan(epoch.Add(wellHeard))
	}
	if n := len(w.in.Control.Known); n > 2*maxKnown {
		t.Errorf("%d models remembered", n)
	}
	if got := first(w.plan(epoch.Add(wellHeard)), "llama", client(9, 1)); got != "ap" {
		t.Errorf("llama: %s", got)
	}
}

func TestALostRegionsLoadComesToTheOthers(t *testing.T) {
	// a's 80 sequences do not fit beside b's: the plan must know, and use c.
	w := newWorld().region("a", 4, model("llama", 100, 80, 0)).region("b", 5, model("llama", 100, 60, 0)).region("c", 9, model("llama", 100, 0, 0))
	w.in.Demand.Cells = map[regions.ModelName]map[regions.CellID]int64{"llama": {"c4": 1_000_000}}
	now := epoch.Add(3 * time.Second)
	w.probe("a", 4, 0).heard("b", now).heard("c", now)
	table := w.plan(now)
	b, c := share(table, "llama", 4, "b"), share(table, "llama", 4, "c")
	if b < 140 || b > 170 || b+c != 256 {
		t.Errorf("shares b %d, c %d of 256: want 85 and 55 of 140", b, c)
	}
}

func TestARegionWithoutAnAddressIsNoAnswer(t *testing.T) {
	w := three()
	w.status("eu").Endpoints[0].Addrs = nil
	if got := first(w.plan(epoch.Add(wellHeard)), "llama", client(5, 1)); got != "ap" {
		t.Errorf("got %s, want ap", got)
	}
}

func TestARegionWithoutModels(t *testing.T) {
	table := newWorld().region("eu", 5).plan(epoch.Add(wellHeard))
	if _, ok := Decide(table, regions.Apex, client(5, 1)); ok {
		t.Error("a region that serves nothing was answered")
	}
}

func TestEmptyWorldDecidesNothing(t *testing.T) {
	table := newWorld().plan(epoch)
	if _, ok := Decide(table, regions.Apex, client(0, 0)); ok {
		t.Error("a decision without a region")
	}
}

func TestPlanIsDeterministicAndConserves(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		names := []regions.ID{"a", "b", "c", "d", "e"}
		n := rapid.IntRange(1, len(names)).Draw(t, "regions")
		now := epoch.Add(time.Duration(rapid.IntRange(0, 4000).Draw(t, "ms")) * time.Millisecond)
		for _, id := range names[:n] {
			m := model("llama", rapid.IntRange(0, 20).Draw(t, "slots"), uint32(rapid.IntRange(0, 60).Draw(t, "in-flight")), uint32(rapid.IntRange(0, 60).Draw(t, "queued")))
			w.region(id, int32(rapid.IntRange(0, 9).Draw(t, "at")), m)
			w.probe(id, rapid.IntRange(0, 3).Draw(t, "failed"), 0)
		}
		one, _ := planned(w.inputs(), now)
		two, _ := planned(w.inputs(), now)
		if one.Hash != two.Hash {
			t.Fatal("equal inputs, different tables")
		}
		s := one.Services["llama"]
		var planned, home regions.MilliSlots
		for _, have := range s.Supply {
			planned += have.Planned
			home += have.Home
			if have.Planned > have.Home && have.Planned > have.Capacity {
				t.Fatalf("moved more than fits: %+v", have)
			}
		}
		if diff := planned - home; diff < -regions.MilliSlots(n) || diff > regions.MilliSlots(n) { // each is rounded down
			t.Fatalf("planned %d of %d", planned, home)
		}
		for c := range 10 {
			d, ok := Decide(one, "llama", client(c, 7))
			if !ok || len(d.Candidates) != n {
				t.Fatalf("cell %d: %d candidates of %d regions", c, len(d.Candidates), n)
			}
			if again, _ := Decide(one, "llama", client(c, 7)); again.ID != d.ID {
				t.Fatal("one client, two decisions")
			}
		}
	})
}
