package node

import (
	"fmt"
	"maps"
	"slices"

	"github.com/rhumb-lb/rhumb/director"
	"github.com/rhumb-lb/rhumb/director/node/statefile"
	"github.com/rhumb-lb/rhumb/regions"
)

// The zone's own labels. [regions.ReservedLabel] keeps models and hosts off them.
const (
	regionLabel = "region" // <region>.region.<zone> is that region, always
	routeLabel  = "route"  // route.<zone> is the directors' redirector, <region>.route.<zone> that region
	whyLabel    = "_why"   // TXT: who decided what for the asker
	apexLabel   = "@"      // the zone itself, in a Host
)

// Host is a configured name under the zone.
type Host struct {
	Label string            // "@" or a label
	Model regions.ModelName // regions.Apex for the fleet's mix
}

// labels are the zone's names for services. A label that a model got stays
// with it, so that a name never changes its meaning because another model
// appears.
type labels struct {
	byLabel map[string]regions.ModelName
	byModel map[regions.ModelName]string
	refused map[regions.ModelName]string // why a model is not served by name
	fixed   map[string]bool              // labels of the configuration
	apex    regions.ModelName            // what the zone itself stands for
}

// newLabels are those of the configuration, and of those that were learnt before
// what does not collide with them.
func newLabels(hosts []Host, before []statefile.Name) *labels {
	l := &labels{byLabel: map[string]regions.ModelName{}, byModel: map[regions.ModelName]string{}}
	for _, n := range before {
		l.byLabel[n.Label], l.byModel[n.Model] = n.Model, n.Label
	}
	l.configure(hosts)
	return l
}

// configure replaces the labels of the configuration. What was learnt stays where
// no host of the zone has the label; the models that lost theirs are returned.
func (l *labels) configure(hosts []Host) (lost []regions.ModelName) {
	for label := range l.fixed {
		delete(l.byModel, l.byLabel[label])
		delete(l.byLabel, label)
	}
	l.fixed, l.refused, l.apex = map[string]bool{}, map[regions.ModelName]string{}, regions.Apex
	for _, h := range hosts {
		if h.Label == apexLabel {
			l.apex = h.Model // which goes on having a name of its own
			continue
		}
		if m, taken := l.byLabel[h.Label]; taken && m != h.Model {
			delete(l.byModel, m)
			lost = append(lost, m)
		}
		l.byLabel[h.Label], l.fixed[h.Label] = h.Model, true
		if h.Model == regions.Apex {
			continue
		}
		if old, ok := l.byModel[h.Model]; ok && old != h.Label && !l.fixed[old] {
			delete(l.byLabel, old) // a model has one label: the configured one
		}
		l.byModel[h.Model] = h.Label
	}
	return lost
}

// learnt are the labels that no configuration gives, sorted.
func (l *labels) learnt() []statefile.Name {
	var out []statefile.Name
	for _, label := range slices.Sorted(maps.Keys(l.byLabel)) {
		if !l.fixed[label] {
			out = append(out, statefile.Name{Label: label, Model: l.byLabel[label]})
		}
	}
	return out
}

// learn gives every model of the snapshot that has no label yet the one its
// agents configured, else the one its name makes, and returns the models that
// were refused one for the first time.
func (l *labels) learn(s regions.Snapshot) (refused []regions.ModelName) {
	for _, r := range s.Reports {
		for _, m := range r.Status.Models {
			if _, ok := l.byModel[m.Name]; ok || m.Name == regions.Apex {
				continue
			}
			label := m.Host
			if label == "" {
				label = m.Name.Label()
			}
			if why := l.refuse(label); why == "" {
				l.byLabel[label], l.byModel[m.Name] = m.Name, label
				delete(l.refused, m.Name)
			} else if _, told := l.refused[m.Name]; !told {
				l.refused[m.Name] = why
				refused = append(refused, m.Name)
			}
		}
	}
	return refused
}

// forget gives up the learnt labels of models that the table does not have any
// more, and what was said of models that were refused one.
func (l *labels) forget(t *director.Table) {
	gone := func(m regions.ModelName) bool { return t.Services[m] == nil }
	for label, m := range l.byLabel {
		if !l.fixed[label] && gone(m) {
			delete(l.byLabel, label)
			delete(l.byModel, m)
		}
	}
	maps.DeleteFunc(l.refused, func(m regions.ModelName, _ string) bool { return gone(m) })
}

// refuse says why a model can't have a label, empty if it can.
func (l *labels) refuse(label string) (why string) {
	use := regions.ReservedLabel(label)
	other, taken := l.byLabel[label]
	switch {
	case label != regions.ModelName(label).Label():
		return fmt.Sprintf("the host %q that its agent gives is not a DNS label", label)
	case label == "":
		return "its name has no letter or digit: configure a host for it"
	case use != "":
		return fmt.Sprintf("the label %s is reserved for %s: configure a host for it", label, use)
	case taken && other == regions.Apex:
		return fmt.Sprintf("the label %s is a host of the zone: configure another host for it", label)
	case taken:
		return fmt.Sprintf("the label %s is that of model %s: configure a host for one of them", label, other)
	default:
		return ""
	}
}

// target is what a name stands for.
type target struct {
	model   regions.ModelName // if region is empty and route is false
	region  regions.ID
	route   bool // the directors' redirector
	why     bool // the decision for model, as TXT
	nothing bool // only names below exist
}

// names maps every relative name under the zone to what it stands for.
func (l *labels) names(t *director.Table, why bool) map[string]target {
	out := map[string]target{
		"":          {model: l.apex},
		routeLabel:  {route: true},
		regionLabel: {nothing: true},
	}
	for label, m := range l.byLabel {
		out[label] = target{model: m}
	}
	for _, p := range t.Regions {
		out[string(p.ID)+"."+regionLabel] = target{region: p.ID}
		out[string(p.ID)+"."+routeLabel] = target{region: p.ID}
	}
	if why {
		for label, m := range l.byLabel {
			out[whyLabel+"."+label] = target{model: m, why: true}
		}
		out[whyLabel] = target{model: l.apex, why: true}
	}
	return out
}
