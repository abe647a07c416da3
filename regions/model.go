package regions

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
