package rpc

import "google.golang.org/protobuf/encoding/protowire"

// Message is a protobuf message in the making, of the few fields that answers of our
// own have. Fields are to be added in the order of their numbers; a zero value is
// left out, as proto3 has it.
type Message []byte

// Bool adds a truth value.
func (m Message) Bool(field int, v bool) Message { return m.Enum(field, protowire.EncodeBool(v)) }

// Enum adds a number.
func (m Message) Enum(field int, v uint64) Message {
	if v == 0 {
		return m
	}
	return protowire.AppendVarint(protowire.AppendTag(m, protowire.Number(field), protowire.VarintType), v)
}

// String adds a text.
func (m Message) String(field int, v string) Message {
	if v == "" {
		return m
	}
	return protowire.AppendString(protowire.AppendTag(m, protowire.Number(field), protowire.BytesType), v)
}
