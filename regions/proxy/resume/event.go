package resume

import "bytes"

// answer is an event of a dialect.
type answer struct {
	portion
	input  []byte // tokens of the prompt, raw
	silent bool   // it has no text
	// finishes tells that it has a field for why the text has ended.
	finishes bool
	// choice is the object within, where text and finish are in one, and brackets
	// what is around it in the array.
	choice   object
	brackets [2][]byte
}

// read reads an event. It is false for one that may have more in it than is
// understood.
func (d *dialect) read(o object) (a answer, ok bool) {
	in := o
	if d.choices {
		raw := o.value("choices")
		inner := bytes.Trim(raw, "[] \t\r\n")
		switch {
		case len(raw) == 0 || raw[0] != '[':
			return a, false
		case len(inner) == 0:
			a.silent = true
			return a, true
		}
		at := bytes.Index(raw, inner)
		a.brackets = [2][]byte{raw[:at], raw[at+len(inner):]}
		if in, ok = parseObject(inner); !ok {
			return a, false
		}
		a.choice = in
	}
	a.tokens = -1
	if a.text, ok = asString(in.value(d.text)); !ok {
		return a, false
	}
	raw := in.value(d.finish)
	a.finishes = d.finish != "" && raw != nil
	if a.finishes && string(raw) != "null" {
		if a.finish, ok = asString(raw); !ok {
			return a, false
		}
		if a.finish == d.unfinished {
			a.finish = ""
		}
	}
	if raw := o.value(d.tokens); d.tokens != "" && raw != nil {
		if a.tokens, ok = asCount(raw); !ok {
			return a, false
		}
	}
	if d.input != "" {
		a.input = o.value(d.input)
	}
	return a, true
}

// join puts an event together again with changes: inner ones where text and finish
// are, outer ones at the top.
func (d *dialect) join(o object, a answer, inner, outer []change) []byte {
	if !d.choices {
		return o.with(append(inner, outer...)...)
	}
	if len(inner) > 0 {
		choice := append(bytes.Clone(a.brackets[0]), a.choice.with(inner...)...)
		outer = append(outer, change{"choices", append(choice, a.brackets[1]...)})
	}
	return o.with(outer...)
}
