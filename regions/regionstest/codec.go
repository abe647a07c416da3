package regionstest

// BytesCodec is a codec of gRPC that sends the bytes that it is given, a *[]byte, and
// receives into one: for messages that are none.
type BytesCodec struct{}

// Name is that of the messages that it is in place of.
func (BytesCodec) Name() string { return "proto" }

// Marshal gives the bytes.
func (BytesCodec) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }

// Unmarshal takes them.
func (BytesCodec) Unmarshal(data []byte, v any) error { *v.(*[]byte) = data; return nil }
