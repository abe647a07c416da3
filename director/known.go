package director

import (
	"cmp"
	"slices"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
)

// KnownFor is how long a model that a region does not list any more is still
// one of its models, without a pod: as long as a silent region is remembered. A
// name must not vanish because an agent has restarted and has not found its pods
// yet.
const KnownFor = 7 * 24 * time.Hour

// maxKnown is how many models are remembered of a region, the most that a status
// can list: who has a region's key can't fill the directors' memory with names.
const maxKnown = 256

// remember is what is known of the regions' models, given what was: the models
// that are listed now, and those that were within KnownFor.
func remember(before []Known, all []regions.Region, now time.Time) []Known {
	old := map[regions.ID][]Known{}
	for _, k := range before {
		old[k.Region] = append(old[k.Region], k)
	}
	var out []Known
	for i := range all {
		r := &all[i]
		var have []Known
		for _, m := range r.Models {
			have = append(have, Known{r.ID, m.Name, r.Heard})
		}
		for _, k := range old[r.ID] {
			if r.Model(k.Model) == nil && now.Sub(k.Listed) < KnownFor {
				have = append(have, k)
			}
		}
		slices.SortFunc(have, func(a, b Known) int {
			return cmp.Or(b.Listed.Compare(a.Listed), cmp.Compare(a.Model, b.Model))
		})
		have = have[:min(len(have), maxKnown)]
		slices.SortFunc(have, Known.compare)
		out = append(out, have...)
	}
	return out
}
