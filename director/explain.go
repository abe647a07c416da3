package director

import "github.com/rhumb-lb/rhumb/regions"

// Explanation is a decision with all that it was made from, for people and for
// the admin API.
type Explanation struct {
	Decision Decision
	Table    uint64
	// Bucket is the client's draw, and Shares how many of the row's 256 buckets
	// each region has.
	Bucket  int
	Shares  map[regions.ID]int
	Regions []RegionExplanation
}

// RegionExplanation is one region's part in an explanation.
type RegionExplanation struct {
	Region  regions.ID
	Verdict Verdict
	Supply  Supply
	RTT     regions.Micros
}

// Explain makes a client's decision and shows what it rests on. It is false
// where [Decide] is.
func Explain(t *Table, model regions.ModelName, client regions.Client) (Explanation, bool) {
	d, ok := Decide(t, model, client)
	if !ok {
		return Explanation{}, false
	}
	s := t.Services[model]
	r := &s.rows[t.cells[d.Client.Cell]]
	e := Explanation{Decision: d, Table: t.Hash, Bucket: bucketOf(model, client.Unit), Shares: map[regions.ID]int{}}
	for _, i := range r.buckets {
		e.Shares[t.Regions[i].ID]++
	}
	for i, p := range t.Regions {
		e.Regions = append(e.Regions, RegionExplanation{Region: p.ID, Verdict: p.Verdict, Supply: s.Supply[i], RTT: r.rtt[i]})
	}
	return e, true
}
