package strict

import (
	"fmt"
	"reflect"
	"time"

	"github.com/go-viper/mapstructure/v2"
)

// Read reads a file's text into a struct, exactly. What is wrong is in the
// document.
func Read(name string, data []byte, into any) *Document {
	d := New(name, reflect.TypeOf(into).Elem())
	tree := map[string]any{}
	_ = d.Decode(data, tree) // never fails
	c := &mapstructure.DecoderConfig{Result: into, ErrorUnused: true}
	Exactly(c)
	decoder, err := mapstructure.NewDecoder(c)
	if err == nil {
		err = decoder.Decode(tree)
	}
	if err != nil {
		// The document was compared with the type, so this is a gap between the two
		// readings; refuse rather than guess.
		d.Fail(1, "", err.Error(), "mend the file")
	}
	return d
}

// Exactly makes mapstructure's decoding exact: no text for numbers, no numbers for
// booleans, and durations and text types from text only.
func Exactly(c *mapstructure.DecoderConfig) {
	c.WeaklyTypedInput = false
	c.DecodeHook = mapstructure.ComposeDecodeHookFunc(
		mapstructure.DecodeHookFuncType(durationFromText),
		mapstructure.TextUnmarshallerHookFunc(),
	)
}

func durationFromText(from, to reflect.Type, value any) (any, error) {
	if to != durationType {
		return value, nil
	}
	text, ok := value.(string)
	if !ok {
		return nil, fmt.Errorf("%v (%v) is not a duration with a unit", value, from)
	}
	return time.ParseDuration(text)
}
