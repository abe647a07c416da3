package wire

import (
	"fmt"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"google.golang.org/protobuf/proto"
)

const (
	// MaxSpillTargets is the most targets of a spill row. Eight of them with
	// addresses of both families stay below 1 KB; beyond a few, a region is so
	// far away or so full that spilling there helps nobody.
	MaxSpillTargets = 16

	maxLifetime = 10 * time.Minute
)

// EncodeSpillRow gives the payload of a SPILL body, or says what is wrong with
// the row. Lifetimes are cut to milliseconds.
func EncodeSpillRow(r *regions.SpillRow) ([]byte, error) {
	if r.Lifetime < 0 || r.Lifetime > maxLifetime {
		return nil, fmt.Errorf("encode spill row: lifetime %v outside of 0 to %v", r.Lifetime, maxLifetime)
	}
	m := &SpillRow{
		Source: string(r.Source), Model: string(r.Model), Table: r.Table,
		LifetimeMs: uint32(r.Lifetime.Milliseconds()), Leave: uint32(r.Leave),
	}
	for i := range r.Targets {
		t := &r.Targets[i]
		if t.Budget < 0 {
			return nil, fmt.Errorf("encode spill row: target %q: negative budget %d", t.Region, t.Budget)
		}
		e := encodeEndpoint(&t.Endpoint)
		if e.GetScheme() == Scheme_SCHEME_UNSPECIFIED {
			return nil, fmt.Errorf("encode spill row: target %q: scheme %q, want http or https", t.Region, t.Endpoint.Scheme)
		}
		m.Targets = append(m.Targets, &SpillTarget{Region: string(t.Region), Endpoint: e, Budget: uint64(t.Budget)})
	}
	if err := checkSpillRow(m); err != nil {
		return nil, fmt.Errorf("encode spill row: %w", err)
	}
	b, err := order.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode spill row: %w", err)
	}
	return b, nil
}

// DecodeSpillRow reads the payload of a SPILL body. A target whose endpoint has
// a scheme that this version does not know is left out. The result shares no
// memory with b.
func DecodeSpillRow(b []byte) (*regions.SpillRow, error) {
	if len(b) > MaxPayload {
		return nil, fmt.Errorf("decode spill row: %d bytes, at most %d allowed", len(b), MaxPayload)
	}
	m := &SpillRow{}
	if err := proto.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("decode spill row: %w", err)
	}
	if err := checkSpillRow(m); err != nil {
		return nil, fmt.Errorf("decode spill row: %w", err)
	}
	r := &regions.SpillRow{
		Source: regions.ID(m.GetSource()), Model: regions.ModelName(m.GetModel()), Table: m.GetTable(),
		Lifetime: time.Duration(m.GetLifetimeMs()) * time.Millisecond, Leave: regions.Permille(m.GetLeave()),
	}
	for _, t := range m.GetTargets() {
		e, known := decodeEndpoint(t.GetEndpoint())
		if !known {
			continue
		}
		r.Targets = append(r.Targets, regions.SpillTarget{
			Region: regions.ID(t.GetRegion()), Endpoint: e, Budget: regions.MilliSlots(t.GetBudget()),
		})
	}
	return r, nil
}

func checkSpillRow(m *SpillRow) error {
	if err := regions.ID(m.GetSource()).Validate(); err != nil {
		return fmt.Errorf("source: %w", err)
	}
	if err := checkModelName(m.GetModel()); err != nil {
		return err
	}
	switch {
	case len(m.GetTargets()) > MaxSpillTargets:
		return fmt.Errorf("%d targets, at most %d allowed", len(m.GetTargets()), MaxSpillTargets)
	case time.Duration(m.GetLifetimeMs())*time.Millisecond > maxLifetime:
		return fmt.Errorf("lifetime of %d ms, at most %v allowed", m.GetLifetimeMs(), maxLifetime)
	case m.GetLeave() > uint32(regions.Whole):
		return fmt.Errorf("leave of %d thousandths, at most %d allowed", m.GetLeave(), regions.Whole)
	}
	for _, t := range m.GetTargets() {
		if err := regions.ID(t.GetRegion()).Validate(); err != nil {
			return fmt.Errorf("target: %w", err)
		}
		if t.GetRegion() == m.GetSource() {
			return fmt.Errorf("target %q is the source", t.GetRegion())
		}
		if t.GetBudget() > uint64(MaxSlots) {
			return fmt.Errorf("target %q: budget of %d thousandths, at most %d allowed", t.GetRegion(), t.GetBudget(), MaxSlots)
		}
		if err := checkEndpoint(t.GetEndpoint()); err != nil {
			return fmt.Errorf("target %q: %w", t.GetRegion(), err)
		}
	}
	return nil
}
