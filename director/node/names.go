package node

import (
	"strconv"
	"strings"

	"github.com/rhumb-lb/rhumb/director"
	"github.com/rhumb-lb/rhumb/regions"
)

// Labels that the zone keeps for itself: no model can have them.
const (
	regionLabel = "region" // <region>.region.<zone> is that region, always
	routeLabel  = "route"  // route.<zone> is the directors' redirector, <region>.route.<zone> that region
	whyLabel    = "_why"   // TXT: who decided what for the asker
)

// reserved reports whether a label is kept for the zone itself.
func reserved(label string) bool {
	if label == regionLabel || label == routeLabel || strings.HasPrefix(label, "_") {
		return true
	}
	n, ok := strings.CutPrefix(label, "ns")
	if !ok {
		return false
	}
	_, err := strconv.Atoi(n)
	return err == nil
}

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
}

func newLabels(hosts []Host) *labels {
	l := &labels{byLabel: map[string]regions.ModelName{}, byModel: map[regions.ModelName]string{}, refused: map[regions.ModelName]string{}}
	for _, h := range hosts {
		if h.Label != "@" {
			l.byLabel[h.Label] = h.Model
		}
		if h.Model != regions.Apex {
			l.byModel[h.Model] = h.Label
		}
	}
	return l
}

// learn gives every model of the snapshot that has no label yet the one its
// agents configured, else the one its name makes, and returns the models that
// were newly refused one.
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
			why := ""
			if label != regions.ModelName(label).Label() {
				why = "the host " + strconv.Quote(label) + " that its agent gives is not a DNS label"
			} else if label == "" {
				why = "its name has no letter or digit: configure a host for it"
			} else if reserved(label) {
				why = "the label " + label + " is reserved: configure a host for it"
			} else if other, taken := l.byLabel[label]; taken {
				why = "the label " + label + " is that of model " + string(other) + ": configure a host for one of them"
			}
			if why == "" {
				l.byLabel[label], l.byModel[m.Name] = m.Name, label
				delete(l.refused, m.Name)
			} else if l.refused[m.Name] != why {
				l.refused[m.Name] = why
				refused = append(refused, m.Name)
			}
		}
	}
	return refused
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
		"":          {model: regions.Apex},
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
		out[whyLabel] = target{model: regions.Apex, why: true}
	}
	return out
}
