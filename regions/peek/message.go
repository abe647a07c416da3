package peek

import "encoding/binary"

// ErrCompressed refuses messages that are compressed. A second name could stand
// anywhere in one, so that all of it would have to be unpacked, however large.
const ErrCompressed = BodyError("compressed messages are not taken: send without grpc-encoding")

const (
	errNoMessage = BodyError("the message can't be read as one of the method")
	errNameTwice = BodyError("the message names its model twice")
	errNameLong  = BodyError("the model's name must have at most 255 bytes")
	errOther     = BodyError("a stream is for the model that its first message names")
)

// prefixSize is the length of what stands before each message of a gRPC stream:
// a flag for compression and four bytes of length.
const prefixSize = 5

// Messages reads a stream of gRPC's length-prefixed messages, given in parts of any
// size, and finds the string in field 1 of each, which is the model's name in all of
// Triton's requests for one. All else is passed over by its length. A name that stands
// twice in a message, of which protobuf takes the last, is refused, as is a later
// message with another name. The zero value is ready.
type Messages struct {
	// Model is the name in the first message.
	Model string
	// First is true once the first message's name is known, or that it has none.
	First bool

	err error

	prefix [prefixSize]byte
	have   int    // bytes of the prefix, or of name
	left   uint32 // bytes of the message
	state  fieldState
	shift  uint   // of the varint that is read
	number uint64 // what was read of it
	skip   uint64 // bytes of the field that are passed over
	name   []byte
	want   uint64 // bytes of the name
	named  bool   // the message has its name
}

// fieldState is what the next byte of a message is read as.
type fieldState uint8

const (
	fieldTag fieldState = iota
	fieldVarint
	fieldLength
	fieldName // the length of field 1
	fieldText // its text
	fieldSkip
)

// The wire types of protobuf's encoding.
const (
	wireVarint  = 0
	wireFixed64 = 1
	wireBytes   = 2
	wireFixed32 = 5
)

// Enough reports that the first name is known.
func (m *Messages) Enough() bool { return m.First }

// Write reads on.
func (m *Messages) Write(p []byte) (int, error) {
	total := len(p)
	for len(p) > 0 && m.err == nil {
		p = p[m.step(p):]
	}
	if m.err != nil {
		return 0, m.err
	}
	return total, nil
}

// step reads what it can at once and says how much that was.
func (m *Messages) step(p []byte) int {
	if m.left == 0 {
		return m.head(p)
	}
	p = p[:min(len(p), int(m.left))]
	n := 1
	switch m.state {
	case fieldText:
		n = min(len(p), int(m.want)-len(m.name))
		m.name = append(m.name, p[:n]...)
	case fieldSkip:
		n = int(min(uint64(len(p)), m.skip))
		m.skip -= uint64(n)
	default:
		m.err = m.varint(p[0])
	}
	m.left -= uint32(n)
	m.settle()
	return n
}

// head reads a message's prefix.
func (m *Messages) head(p []byte) int {
	n := copy(m.prefix[m.have:], p)
	if m.have += n; m.have < prefixSize {
		return n
	}
	switch m.prefix[0] {
	case 0:
	case 1:
		m.err = ErrCompressed
	default:
		m.err = errNoMessage
	}
	m.have, m.left = 0, binary.BigEndian.Uint32(m.prefix[1:])
	m.state, m.named, m.name = fieldTag, false, m.name[:0]
	m.shift, m.number = 0, 0
	m.settle()
	return n
}

// settle finishes fields and messages of which nothing is left.
func (m *Messages) settle() {
	if m.err != nil {
		return
	}
	if m.state == fieldText && len(m.name) == int(m.want) {
		m.state, m.named = fieldTag, true
		m.err = m.check(string(m.name))
	}
	if m.state == fieldSkip && m.skip == 0 {
		m.state = fieldTag
	}
	if m.left > 0 || m.err != nil {
		return
	}
	if m.state != fieldTag || m.shift > 0 {
		m.err = errNoMessage
	}
	m.First = true // a name that did not come is none
}

// check compares a name with the first.
func (m *Messages) check(name string) error {
	if !m.First {
		m.Model, m.First = name, true
		return nil
	}
	if name != m.Model {
		return errOther
	}
	return nil
}

// varint reads one more byte of a number, and acts on it when it is whole.
func (m *Messages) varint(c byte) error {
	if m.shift == 63 && c > 1 {
		return errNoMessage
	}
	m.number |= uint64(c&0x7f) << m.shift
	if c >= 0x80 {
		m.shift += 7
		return nil
	}
	n, state := m.number, m.state
	m.number, m.shift = 0, 0
	switch state {
	case fieldTag:
		return m.tag(n)
	case fieldVarint:
		m.state = fieldTag
	case fieldLength:
		m.state, m.skip = fieldSkip, n
	case fieldName:
		if n > maxName {
			return errNameLong
		}
		m.state, m.want = fieldText, n
	}
	return nil
}

// tag takes a field's number and type.
func (m *Messages) tag(n uint64) error {
	field := n >> 3
	if field == 0 || field >= 1<<29 {
		return errNoMessage
	}
	switch wire := n & 7; {
	case field == 1 && wire != wireBytes:
		return errNoMessage
	case field == 1 && m.named:
		return errNameTwice
	case field == 1:
		m.state = fieldName
	case wire == wireVarint:
		m.state = fieldVarint
	case wire == wireFixed64:
		m.state, m.skip = fieldSkip, 8
	case wire == wireBytes:
		m.state = fieldLength
	case wire == wireFixed32:
		m.state, m.skip = fieldSkip, 4
	default:
		return errNoMessage // groups, which proto3 does not have
	}
	return nil
}
