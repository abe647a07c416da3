package regions

import "strings"

// ModelName is a model as Triton spells it; case matters.
type ModelName string

// Apex is the pseudo-model that stands for the zone's apex: any region that is
// fit for the fleet's mix of models.
const Apex ModelName = ""

// Label is the DNS label under which the model is served unless the
// configuration gives another: lower case, everything outside of [a-z0-9-] as a
// hyphen, at most 63 bytes. It can be empty for a name without letters or
// digits, and two names can collide; who loads names must refuse both.
func (m ModelName) Label() string { return toLabel(string(m)) }

// Fingerprint tells two loads of a model apart: name, version and a hash of its
// configuration. Regions that serve one model under two fingerprints are in the
// middle of a rollout.
type Fingerprint struct {
	Version    uint32
	ConfigHash uint64
}

// ReservedLabel says what a label directly under the zone is kept for, in words
// for whoever wants it for something else; it is empty for a label that a model
// or a host may have.
func ReservedLabel(label string) (use string) {
	switch {
	case label == "region" || label == "route":
		return "the names of regions"
	case label == "_why":
		return "explanations"
	case NameServerLabel(label):
		return "name servers"
	default:
		return ""
	}
}

// NameServerLabel reports whether a label has the shape that all of a zone's name
// servers' names have, ns1 to ns99: one that no other name takes by chance, and
// more of them than a delegation has room for.
func NameServerLabel(label string) bool {
	n, ok := strings.CutPrefix(label, "ns")
	if !ok || len(n) == 0 || len(n) > 2 || n[0] == '0' {
		return false
	}
	return strings.Trim(n, "0123456789") == ""
}
