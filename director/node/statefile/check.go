package statefile

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/rhumb-lb/rhumb/director"
	"github.com/rhumb-lb/rhumb/regions"
)

// Bounds on what a file can make a director remember: those that live records
// have, and beyond any fleet.
const (
	maxNames   = 1 << 16
	maxRecords = 1 << 16
)

// fits refuses the state of another zone, director or fleet: its names, epochs and
// records are not this one's.
func (s *State) fits(o Owner) error {
	switch {
	case s.Zone != o.Zone:
		return fmt.Errorf("it is the state of zone %q, and this director serves %q", s.Zone, o.Zone)
	case s.Member != o.Member:
		return fmt.Errorf("it is the state of director %q, and this is %q", s.Member, o.Member)
	case len(s.Fleet) > 0 && !slices.ContainsFunc(s.Fleet, func(id string) bool { return slices.Contains(o.Fleet, id) }):
		return fmt.Errorf("it is the state of another fleet, with the certificate %s; this one's is %s", strings.Join(s.Fleet, ", "), strings.Join(o.Fleet, ", "))
	}
	return nil
}

// check refuses values that planning has never seen: a checksum only tells that
// the file is what somebody wrote.
func (s *State) check() error {
	if len(s.Names) > maxNames || len(s.Control.Known) > maxNames || len(s.Gossip.Records)+len(s.Gossip.Marks)+len(s.Gossip.Certs) > maxRecords {
		return fmt.Errorf("it has %d names and %d records, more than any fleet", len(s.Names), len(s.Gossip.Records))
	}
	for _, n := range s.Names {
		if n.Label == "" || n.Label != regions.ModelName(n.Label).Label() || n.Model == regions.Apex {
			return fmt.Errorf("it gives the name %q to the model %q", n.Label, n.Model)
		}
		if why := regions.ReservedLabel(n.Label); why != "" {
			return fmt.Errorf("it gives the name %q to the model %q, which is reserved for %s", n.Label, n.Model, why)
		}
	}
	return checkControl(&s.Control)
}

func checkControl(c *director.Control) error {
	for _, v := range c.Verdicts {
		if err := v.Region.Validate(); err != nil {
			return fmt.Errorf("verdict: %w", err)
		}
		if v.State < director.Ready || v.State > director.Lost || v.Confidence < 0 || v.Confidence > regions.Whole {
			return fmt.Errorf("verdict of %s: state %d with confidence %d", v.Region, v.State, v.Confidence)
		}
	}
	for _, k := range c.Known {
		if err := k.Region.Validate(); err != nil {
			return fmt.Errorf("known model: %w", err)
		}
	}
	for _, p := range c.Planned {
		if err := p.Region.Validate(); err != nil || p.Load < 0 {
			return fmt.Errorf("planned load %d of %q in %q", p.Load, p.Model, p.Region)
		}
	}
	// Planning searches these; a file that somebody edited may not be sorted.
	slices.SortFunc(c.Verdicts, func(a, b director.Verdict) int { return cmp.Compare(a.Region, b.Region) })
	slices.SortFunc(c.Known, func(a, b director.Known) int {
		return cmp.Or(cmp.Compare(a.Region, b.Region), cmp.Compare(a.Model, b.Model))
	})
	slices.SortFunc(c.Planned, func(a, b director.Planned) int {
		return cmp.Or(cmp.Compare(a.Region, b.Region), cmp.Compare(a.Model, b.Model))
	})
	slices.Sort(c.Common)
	return nil
}
