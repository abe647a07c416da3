package node

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/rhumb-lb/rhumb/director"
	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/admin"
)

// The admin API's values. Times are RFC 3339, spans in milliseconds, slots in
// slots.
type (
	adminRegion struct {
		ID         string       `json:"id"`
		State      string       `json:"state"`
		Confidence float64      `json:"confidence"`
		Reason     string       `json:"reason"`
		Endpoints  []string     `json:"endpoints"`
		Lat        float64      `json:"lat"`
		Lon        float64      `json:"lon"`
		StatusAge  float64      `json:"status_age_ms"`
		Models     []adminModel `json:"models"`
	}
	adminModel struct {
		Name     string  `json:"name"`
		Pods     int     `json:"pods_taking"`
		Slots    float64 `json:"slots"`
		InFlight uint32  `json:"in_flight"`
		Queued   uint32  `json:"queued"`
		Wait     float64 `json:"wait_ms"`
	}
	adminService struct {
		Model   string        `json:"model"`
		Label   string        `json:"label,omitempty"`
		AllLost bool          `json:"all_lost,omitempty"`
		Barred  bool          `json:"barred,omitempty"`
		Regions []adminSupply `json:"regions"`
	}
	adminSupply struct {
		Region   string  `json:"region"`
		Capacity float64 `json:"capacity"`
		Load     float64 `json:"load"`
		Planned  float64 `json:"planned"`
	}
	adminPlan struct {
		Table    string         `json:"table"` // hex, as decisions are
		Made     time.Time      `json:"made"`
		Services []adminService `json:"services"`
	}
	adminExplain struct {
		ID         string           `json:"decision"`
		Unit       string           `json:"client"`
		Cell       string           `json:"cell"`
		Bucket     int              `json:"bucket"`
		Shares     map[string]int   `json:"shares_of_256"`
		Candidates []adminCandidate `json:"candidates"`
	}
	adminCandidate struct {
		Region string  `json:"region"`
		State  string  `json:"state"`
		RTT    float64 `json:"rtt_ms"`
		Wait   float64 `json:"wait_ms"`
		Reason string  `json:"reason"`
	}
	adminMember struct {
		Name   string    `json:"name"`
		Role   string    `json:"role"`
		Region string    `json:"region,omitempty"`
		Addr   string    `json:"addr"`
		State  string    `json:"state"`
		Since  time.Time `json:"since"`
	}
)

func ms(m regions.Micros) float64        { return float64(m) / 1000 }
func slots(m regions.MilliSlots) float64 { return float64(m) / 1000 }
func degrees(d int32) float64            { return float64(d) / 1e6 }

func (n *Node) adminMux() *admin.Mux {
	m := admin.NewMux(n.opts.Registry, n.Ready, n.log)
	m.Handle("GET /api/v1/regions", func(*http.Request) (any, error) { return n.adminRegions(), nil })
	m.Handle("GET /api/v1/models", func(*http.Request) (any, error) { return n.adminPlan().Services, nil })
	m.Handle("GET /api/v1/plan", func(*http.Request) (any, error) { return n.adminPlan(), nil })
	m.Handle("GET /api/v1/explain", n.adminExplain)
	m.Handle("GET /api/v1/members", func(*http.Request) (any, error) {
		out := []adminMember{}
		for _, x := range n.gossip.Members() {
			out = append(out, adminMember{x.Name, string(x.Role), string(x.Region), x.Addr.String(), string(x.State), x.Since})
		}
		return out, nil
	})
	return m
}

// Ready is nil once the director has heard of the fleet, or knows it from its state
// file, and so answers.
func (n *Node) Ready() error {
	if !n.mind.world.Load().synced {
		return errors.New("no region heard of yet")
	}
	return nil
}

func (n *Node) adminRegions() []adminRegion {
	now, w := n.opts.Now(), n.mind.world.Load()
	out := []adminRegion{}
	for _, r := range n.Regions() {
		a := adminRegion{
			ID: string(r.ID), Lat: degrees(r.Location.Lat), Lon: degrees(r.Location.Lon),
			StatusAge: ms(regions.MicrosOf(max(0, now.Sub(r.Heard)))), Models: []adminModel{},
		}
		if p := w.table.Place(r.ID); p != nil {
			a.State, a.Reason, a.Confidence = p.Verdict.State.String(), p.Verdict.Reason, float64(p.Verdict.Confidence)/1000
		}
		for _, e := range r.Endpoints {
			a.Endpoints = append(a.Endpoints, e.URL())
		}
		for _, m := range r.Models {
			a.Models = append(a.Models, adminModel{string(m.Name), m.Pods.Taking(), slots(m.Slots), m.InFlight, m.Queued, ms(m.Wait)})
		}
		out = append(out, a)
	}
	return out
}

func (n *Node) adminPlan() adminPlan {
	w := n.mind.world.Load()
	byModel := map[regions.ModelName]string{}
	for _, label := range slices.Sorted(maps.Keys(w.labels)) {
		if m := w.labels[label]; byModel[m] == "" {
			byModel[m] = label
		}
	}
	out := adminPlan{Table: fmt.Sprintf("%016x", w.table.Hash), Made: w.table.Made, Services: []adminService{}}
	for _, m := range w.table.Models() {
		s := w.table.Services[m]
		a := adminService{Model: string(m), Label: byModel[m], AllLost: s.AllLost, Barred: s.Barred, Regions: []adminSupply{}}
		for i, have := range s.Supply {
			if have.Tier != director.Absent {
				a.Regions = append(a.Regions, adminSupply{string(w.table.Regions[i].ID), slots(have.Capacity), slots(have.Load), slots(have.Planned)})
			}
		}
		out.Services = append(out.Services, a)
	}
	return out
}

// adminExplain explains a client's decision: ?client=ADDRESS[&model=NAME].
func (n *Node) adminExplain(r *http.Request) (any, error) {
	q := r.URL.Query()
	client, err := netip.ParseAddr(q.Get("client"))
	if err != nil {
		return nil, admin.Invalid("client: want an IP address, like ?client=192.0.2.1&model=llama: %w", err)
	}
	w, model := n.mind.world.Load(), regions.ModelName(q.Get("model"))
	e, ok := director.Explain(w.table, model, w.geo.Locate(client))
	if !ok {
		return nil, admin.NotFound("no region has ever had the model %q", model)
	}
	out := adminExplain{
		ID: e.Decision.ID, Unit: e.Decision.Client.Unit.String(), Cell: string(e.Decision.Client.Cell),
		Bucket: e.Bucket, Shares: map[string]int{},
	}
	for id, share := range e.Shares {
		out.Shares[string(id)] = share
	}
	for _, c := range e.Decision.Candidates {
		out.Candidates = append(out.Candidates, adminCandidate{string(c.Region), c.State.String(), ms(c.RTT), ms(c.Wait), c.Reason})
	}
	return out, nil
}
