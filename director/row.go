package director

import (
	"cmp"
	"slices"

	"github.com/rhumb-lb/rhumb/regions"
)

// rowEntries is the number of buckets of a row. 256 gives steps of 0.4 %, finer
// than demand is known, in one or two cache lines per cell.
const rowEntries = 256

// buckets maps each bucket of a row to an index into Table.Regions.
type buckets [rowEntries]uint16

// pure reports whether every bucket is the same region: then a whole cell gets
// one answer.
func (b *buckets) pure() bool {
	for _, r := range b[1:] {
		if r != b[0] {
			return false
		}
	}
	return true
}

// counts is how many buckets of a row each region gets, by index into
// Table.Regions. It sums to rowEntries.
type counts []int

// shares turns amounts into bucket counts by largest remainder; ties go to the
// lower index. The amounts must not be negative, nor all be 0.
func shares(amounts []microSlots) counts {
	var total microSlots
	for _, a := range amounts {
		total += a
	}
	out := make(counts, len(amounts))
	type rest struct {
		region int
		left   microSlots
	}
	rests := make([]rest, 0, len(amounts))
	given := 0
	for i, a := range amounts {
		out[i] = int(mulDiv(int64(a), rowEntries, int64(total)))
		given += out[i]
		rests = append(rests, rest{i, a - microSlots(mulDiv(int64(total), int64(out[i]), rowEntries))})
	}
	slices.SortFunc(rests, func(a, b rest) int {
		return cmp.Or(cmp.Compare(b.left, a.left), cmp.Compare(a.region, b.region))
	})
	for i := 0; given < rowEntries; i++ {
		out[rests[i].region]++
		given++
	}
	return out
}

// rowMaker fills buckets from counts; it remembers scores and rows because most
// cells share a handful of rows.
type rowMaker struct {
	ids  []regions.ID
	made map[string]*buckets
	// scores are those of the regions that were asked for so far.
	scores map[int]*[rowEntries]uint64
}

func newRowMaker(ids []regions.ID) *rowMaker {
	return &rowMaker{ids: ids, made: map[string]*buckets{}, scores: map[int]*[rowEntries]uint64{}}
}

// row assigns buckets to regions so that each region has exactly its count and
// as few buckets as possible move when counts change a little: pairs of bucket
// and region are taken by falling rendezvous score while the bucket is free and
// the region has room. That is a stable matching, in which one unit of change
// displaces at most one bucket per region.
func (m *rowMaker) row(n counts) *buckets {
	key := make([]byte, 0, 4*len(n))
	for i, c := range n {
		if c > 0 {
			key = append(key, byte(i), byte(i>>8), byte(c), byte(c>>8))
		}
	}
	if b, ok := m.made[string(key)]; ok {
		return b
	}
	b := m.assign(n)
	m.made[string(key)] = b
	return b
}

type pair struct {
	score  uint64
	region uint16
	bucket uint16
}

func (m *rowMaker) assign(n counts) *buckets {
	var pairs []pair
	room := make(map[uint16]int)
	for i, c := range n {
		if c == 0 {
			continue
		}
		room[uint16(i)] = c
		for b, s := range m.scoresOf(i) {
			pairs = append(pairs, pair{s, uint16(i), uint16(b)})
		}
	}
	slices.SortFunc(pairs, func(a, b pair) int {
		return cmp.Or(cmp.Compare(b.score, a.score), cmp.Compare(a.region, b.region), cmp.Compare(a.bucket, b.bucket))
	})
	var out buckets
	var taken [rowEntries]bool
	for _, p := range pairs {
		if !taken[p.bucket] && room[p.region] > 0 {
			taken[p.bucket] = true
			room[p.region]--
			out[p.bucket] = p.region
		}
	}
	return &out
}

func (m *rowMaker) scoresOf(region int) *[rowEntries]uint64 {
	if s, ok := m.scores[region]; ok {
		return s
	}
	s := new([rowEntries]uint64)
	for b := range s {
		s[b] = score(m.ids[region], b)
	}
	m.scores[region] = s
	return s
}
