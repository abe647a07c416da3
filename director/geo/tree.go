package geo

import (
	"errors"
	"fmt"

	"github.com/oschwald/maxminddb-golang/v2"
)

// checkTree makes sure that a walk over the file's search tree ends: that no
// node is reached on two ways, of which a corrupt file can have more than
// anybody can walk. The one node that files have aliases to is the root of IPv4,
// behind 96 zero bits of an IPv6 tree; the walk skips those aliases, and if they
// loop within IPv4 it ends at the 128th bit. Layout: MaxMind DB File Format
// Specification 2.0, "Binary Search Tree Section".
func checkTree(data []byte, meta maxminddb.Metadata) error {
	switch meta.RecordSize {
	case 24, 28, 32:
	default:
		return fmt.Errorf("its records have %d bits, want 24, 28 or 32", meta.RecordSize)
	}
	if meta.IPVersion != 4 && meta.IPVersion != 6 {
		return fmt.Errorf("it is for IP version %d, want 4 or 6", meta.IPVersion)
	}
	size := meta.RecordSize / 4
	if meta.NodeCount == 0 || meta.NodeCount > uint(len(data))/size {
		return fmt.Errorf("a file of %d bytes can't have the %d nodes that it claims", len(data), meta.NodeCount)
	}
	tree := tree{nodes: data, size: size, count: meta.NodeCount}
	alias := tree.count // of nothing
	if root := tree.rootOfIPv4(); meta.IPVersion == 6 && root != 0 {
		alias = root
	}
	reached := make([]bool, tree.count)
	reached[0] = true // the root
	for n := range tree.count {
		left, right := tree.node(n)
		for _, child := range [...]uint{left, right} {
			if child >= tree.count || child == alias {
				continue
			}
			if reached[child] {
				return errors.New("its search tree reaches a node on two ways")
			}
			reached[child] = true
		}
	}
	return nil
}

// tree reads the nodes at the start of a file.
type tree struct {
	nodes []byte
	size  uint // bytes of a node
	count uint
}

// node is the pair of records of a node: numbers below count are nodes.
func (t tree) node(n uint) (left, right uint) {
	b := t.nodes[n*t.size:][:t.size]
	half := t.size / 2
	left, right = bigEndian(b[:half]), bigEndian(b[t.size-half:])
	if t.size == 7 { // the byte in the middle holds the highest four bits of both
		left, right = left|uint(b[3]>>4)<<24, right|uint(b[3]&0xf)<<24
	}
	return left, right
}

func (t tree) rootOfIPv4() uint {
	n := uint(0)
	for depth := 0; depth < 96 && n < t.count; depth++ {
		n, _ = t.node(n)
	}
	return n
}

func bigEndian(b []byte) uint {
	n := uint(0)
	for _, c := range b {
		n = n<<8 | uint(c)
	}
	return n
}
