package director

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
)

// epoch is an arbitrary moment; nothing here reads a clock.
var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// line is a world on a line: places and cells lie at whole positions, and the
// round trip is 10 ms per step plus 1 ms. Cells without a place are 50 ms from
// everywhere.
type line map[regions.ID]int64

func (l line) RTT(cell regions.Cell, region regions.ID, _ regions.Location) (regions.Micros, regions.Permille) {
	if !cell.Known {
		return 50_000, 0
	}
	d := int64(cell.Location.Lon) - l[region]
	return regions.Micros(max(d, -d)*10_000 + 1_000), 500
}

func at(x int32) regions.Location { return regions.Location{Lon: x} }

// world builds inputs step by step.
type world struct {
	in   Inputs
	reps []regions.Report
}

// newWorld has cells "c0" to "c9" at 0 to 9, with equal weight, and the unknown
// cell.
func newWorld() *world {
	w := &world{in: Inputs{Latency: line{}, TTL: 20 * time.Second}}
	for x := range int32(10) {
		w.in.Cells = append(w.in.Cells, regions.Cell{ID: regions.CellID(fmt.Sprintf("c%d", x)), Location: at(x), Known: true, Weight: 100})
	}
	w.in.Cells = append(w.in.Cells, regions.Cell{ID: regions.UnknownCell})
	return w
}

// region adds a region at x with one agent, serving models with the given slots
// ("llama", 8) on as many ready pods as slots, heard at epoch.
func (w *world) region(id regions.ID, x int32, models ...regions.ModelStatus) *world {
	w.in.Latency.(line)[id] = int64(x)
	w.reps = append(w.reps, regions.Report{Heard: epoch, Status: &regions.Status{
		Agent: regions.AgentID(id + "/a"), Region: id, Epoch: 1, Version: 1, Location: at(x),
		Endpoints: []regions.Endpoint{{Scheme: "http", Host: string(id) + ".test", Port: 80, Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}}, Models: models,
	}})
	return w
}

func model(name regions.ModelName, slots int, inFlight, queued uint32) regions.ModelStatus {
	return regions.ModelStatus{
		Name: name, Slots: regions.Slots(slots), InFlight: inFlight, Queued: queued,
		Pods: regions.PodCounts{Ready: uint16(min(slots, 1))},
	}
}

func (w *world) probe(id regions.ID, failed, answered int) *world {
	w.in.Probes = slices.DeleteFunc(w.in.Probes, func(p Probe) bool { return p.Region == id })
	w.in.Probes = append(w.in.Probes, Probe{Region: id, Failed: failed, Answered: answered, Ever: answered > 0 || failed > 0})
	return w
}

func (w *world) heard(id regions.ID, t time.Time) *world {
	for i := range w.reps {
		if w.reps[i].Status.Region == id {
			w.reps[i].Heard = t
		}
	}
	return w
}

func (w *world) status(id regions.ID) *regions.Status {
	for i := range w.reps {
		if w.reps[i].Status.Region == id {
			return w.reps[i].Status
		}
	}
	return nil
}

func (w *world) inputs() Inputs {
	in := w.in
	in.Snapshot = regions.NewSnapshot(slices.Clone(w.reps))
	return in
}

func (w *world) plan(now time.Time) *Table {
	t, c := planned(w.inputs(), now)
	w.in.Control = c
	return t
}

// planned judges and plans.
func planned(in Inputs, now time.Time) (*Table, Control) {
	in.Verdicts = Judge(in, now)
	return Plan(in, now)
}

// client is a client number n in the cell at x.
func client(x, n int) regions.Client {
	return regions.Client{Unit: regions.Unit(netip.AddrFrom4([4]byte{10, byte(n >> 8), byte(n), 1})), Cell: regions.CellID(fmt.Sprintf("c%d", x))}
}

// first is the region that a client gets.
func first(t *Table, m regions.ModelName, c regions.Client) regions.ID {
	d, ok := Decide(t, m, c)
	if !ok {
		return ""
	}
	return d.Candidates[0].Region
}

func share(t *Table, m regions.ModelName, cell int, id regions.ID) int {
	e, ok := Explain(t, m, client(cell, 0))
	if !ok {
		return -1
	}
	return e.Shares[id]
}
