package director

import (
	"encoding/binary"
	"net/netip"

	"github.com/cespare/xxhash/v2"

	"github.com/rhumb-lb/rhumb/regions"
)

// digest hashes a sequence of values unambiguously: strings carry their length.
// xxHash64 is fast and well mixed, and the same on every machine.
type digest struct {
	h   *xxhash.Digest
	buf [8]byte
}

func newDigest() *digest { return &digest{h: xxhash.New()} }

func (d *digest) num(n uint64) {
	binary.LittleEndian.PutUint64(d.buf[:], n)
	_, _ = d.h.Write(d.buf[:]) // never fails
}

func (d *digest) str(s string) {
	d.num(uint64(len(s)))
	_, _ = d.h.WriteString(s)
}

func (d *digest) sum() uint64 { return d.h.Sum64() }

// bucketOf draws a unit's bucket for a service. It depends on nothing else, so
// that a client stays put while fractions are stable.
func bucketOf(model regions.ModelName, unit netip.Prefix) int {
	d := newDigest()
	d.str(string(model))
	d.unit(unit)
	return int(d.sum() % rowEntries)
}

func (d *digest) unit(unit netip.Prefix) {
	a := unit.Addr().As16()
	_, _ = d.h.Write(a[:])
	d.num(uint64(unit.Bits() + 1))
}

// score is how much a bucket likes a region in rendezvous hashing (Thaler and
// Ravishankar, 1998).
func score(region regions.ID, bucket int) uint64 {
	d := newDigest()
	d.str(string(region))
	d.num(uint64(bucket))
	return d.sum()
}
