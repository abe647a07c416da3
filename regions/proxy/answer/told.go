package answer

import (
	"encoding/binary"

	"github.com/rhumb-lb/rhumb/regions/proxy/resume"
)

// maxTold bounds what is read of a message that may be an error, in bytes; Triton's
// texts are a line.
const maxTold = 1 << 10

// errorTag is what a ModelStreamInferResponse begins with that tells of an error: its
// first field, a text. Others begin with the second.
const errorTag = 1<<3 | 2

// Told finds what a pod says of requests that have failed in a ModelStreamInfer that
// passes as it comes. Compressed messages it does not look into. The zero value is at
// the beginning of the answer.
type Told struct {
	in   []byte // the present message, as far as it is looked at
	pass int    // bytes that are left of a message behind that
}

// Hear takes the next bytes of the answer, and gives the errors that are complete.
func (t *Told) Hear(p []byte) (all []*resume.PodError) {
	for len(p) > 0 {
		if n := min(t.pass, len(p)); n > 0 {
			t.pass, p = t.pass-n, p[n:]
			continue
		}
		n := min(t.wants()-len(t.in), len(p))
		t.in, p = append(t.in, p[:n]...), p[n:]
		if len(t.in) < t.wants() {
			continue
		}
		if text := errorOf(t.in[prefix:]); text != "" {
			all = append(all, resume.NewPodError(text))
		}
		t.pass = int(binary.BigEndian.Uint32(t.in[1:prefix])) - (len(t.in) - prefix)
		t.in = t.in[:0]
	}
	return all
}

// wants is how much of the present message is looked at.
func (t *Told) wants() int {
	if len(t.in) < prefix || t.in[0] != 0 {
		return prefix
	}
	return prefix + int(min(binary.BigEndian.Uint32(t.in[1:prefix]), maxTold))
}

// errorOf is the error that a message begins with, empty if it is none.
func errorOf(m []byte) string {
	if len(m) == 0 || m[0] != errorTag {
		return ""
	}
	size, n := binary.Uvarint(m[1:])
	if n <= 0 {
		return ""
	}
	text := m[1+n:]
	return string(text[:min(size, uint64(len(text)))])
}
