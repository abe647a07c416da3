package resume

import (
	"encoding/binary"
	"math"
	"strconv"

	"github.com/rhumb-lb/rhumb/regions/triton/inferencepb"
)

// maxElements is how many elements of a tensor are looked at. Stop words are the
// only ones that have more than one.
const maxElements = maxStops + 1

// tensor is an input or output of the gRPC protocol: its contents beside the
// others' as raw bytes, or within it by their type.
type tensor struct {
	datatype string
	shape    []int64
	contents *inferencepb.InferTensorContents
	raw      []byte
	isRaw    bool
}

// json is a tensor's value: one element, or a list of them. It is false for what
// has another type, too many elements, or not as many as its shape says.
func (t tensor) json() ([]byte, bool) {
	n := int64(1)
	for _, d := range t.shape {
		if d < 0 || d > maxElements || n*d > maxElements {
			return nil, false
		}
		n *= d
	}
	elements, ok := t.typed()
	if t.isRaw {
		elements, ok = t.unpacked()
	}
	if !ok || int64(len(elements)) != n || n == 0 {
		return nil, false
	}
	if n == 1 {
		return elements[0], true
	}
	list := []byte{'['}
	for i, e := range elements {
		if i > 0 {
			list = append(list, ',')
		}
		list = append(list, e...)
	}
	return append(list, ']'), true
}

// typed are the elements of contents.
func (t tensor) typed() (list [][]byte, ok bool) {
	c := t.contents
	if len(c.GetBytesContents())+len(c.GetBoolContents())+len(c.GetIntContents())+len(c.GetUintContents())+
		len(c.GetInt64Contents())+len(c.GetUint64Contents())+len(c.GetFp32Contents())+len(c.GetFp64Contents()) > maxElements {
		return nil, false
	}
	switch t.datatype {
	case "BYTES":
		for _, v := range c.GetBytesContents() {
			list = append(list, appendQuoted(nil, string(v)))
		}
	case "BOOL":
		for _, v := range c.GetBoolContents() {
			list = append(list, strconv.AppendBool(nil, v))
		}
	case "INT32":
		for _, v := range c.GetIntContents() {
			list = append(list, strconv.AppendInt(nil, int64(v), 10))
		}
	case "UINT32":
		for _, v := range c.GetUintContents() {
			list = append(list, strconv.AppendUint(nil, uint64(v), 10))
		}
	case "INT64":
		for _, v := range c.GetInt64Contents() {
			list = append(list, strconv.AppendInt(nil, v, 10))
		}
	case "UINT64":
		for _, v := range c.GetUint64Contents() {
			list = append(list, strconv.AppendUint(nil, v, 10))
		}
	case "FP32":
		for _, v := range c.GetFp32Contents() {
			list = append(list, number(float64(v)))
		}
	default:
		return nil, false
	}
	return list, true
}

// unpacked are the elements of raw bytes: little endian, strings behind their
// length in 4 bytes.
func (t tensor) unpacked() (list [][]byte, ok bool) {
	size := map[string]int{"BYTES": 4, "BOOL": 1, "INT32": 4, "UINT32": 4, "INT64": 8, "UINT64": 8, "FP32": 4}[t.datatype]
	if size == 0 {
		return nil, false
	}
	for b := t.raw; len(b) > 0; {
		if len(b) < size || len(list) == maxElements {
			return nil, false
		}
		head := b[:size]
		b = b[size:]
		switch t.datatype {
		case "BYTES":
			n := binary.LittleEndian.Uint32(head)
			if uint64(n) > uint64(len(b)) {
				return nil, false
			}
			list = append(list, appendQuoted(nil, string(b[:n])))
			b = b[n:]
		case "BOOL":
			list = append(list, strconv.AppendBool(nil, head[0] != 0))
		case "INT32":
			list = append(list, strconv.AppendInt(nil, int64(int32(binary.LittleEndian.Uint32(head))), 10)) //nolint:gosec // the bits are a signed number
		case "UINT32":
			list = append(list, strconv.AppendUint(nil, uint64(binary.LittleEndian.Uint32(head)), 10))
		case "INT64":
			list = append(list, strconv.AppendInt(nil, int64(binary.LittleEndian.Uint64(head)), 10)) //nolint:gosec // the bits are a signed number
		case "UINT64":
			list = append(list, strconv.AppendUint(nil, binary.LittleEndian.Uint64(head), 10))
		case "FP32":
			list = append(list, number(float64(math.Float32frombits(binary.LittleEndian.Uint32(head)))))
		}
	}
	return list, true
}

// number is a JSON number; a string for what JSON has no number for.
func number(v float64) []byte {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return []byte(`"NaN"`)
	}
	return strconv.AppendFloat(nil, v, 'g', -1, 64)
}

// pack makes contents of a JSON value for a tensor of one element. It is false for
// a type that has no place for it.
func (t tensor) pack(value []byte) (tensor, bool) {
	c := &inferencepb.InferTensorContents{}
	text, isText := asString(value)
	count, isCount := asCount(value)
	var raw []byte
	switch {
	case t.datatype == "BYTES" && isText:
		c.BytesContents = [][]byte{[]byte(text)}
		raw = append(binary.LittleEndian.AppendUint32(nil, uint32(len(text))), text...) //nolint:gosec // a message is shorter than 4 GiB
	case t.datatype == "BOOL":
		yes := string(value) == "true"
		c.BoolContents = []bool{yes}
		raw = []byte{0}
		if yes {
			raw[0] = 1
		}
	case t.datatype == "INT32" && isCount:
		c.IntContents = []int32{int32(count)} //nolint:gosec // asCount keeps to 31 bits
		raw = binary.LittleEndian.AppendUint32(nil, uint32(count))
	case t.datatype == "UINT32" && isCount:
		c.UintContents = []uint32{uint32(count)} //nolint:gosec // asCount keeps to 31 bits
		raw = binary.LittleEndian.AppendUint32(nil, uint32(count))
	case (t.datatype == "INT64" || t.datatype == "UINT64") && isCount:
		if t.datatype == "INT64" {
			c.Int64Contents = []int64{int64(count)}
		} else {
			c.Uint64Contents = []uint64{uint64(count)}
		}
		raw = binary.LittleEndian.AppendUint64(nil, uint64(count))
	default:
		return tensor{}, false
	}
	if t.isRaw {
		t.raw = raw
	} else {
		t.contents = c
	}
	return t, true
}
