package fleet

// DecodeGrant is for the fuzz test.
var DecodeGrant = decodeGrant

// EncodeGrant is for the fuzz test.
func EncodeGrant(g *Grant) ([]byte, error) {
	ext, err := g.extension()
	return ext.Value, err
}
