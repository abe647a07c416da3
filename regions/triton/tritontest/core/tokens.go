package core

import (
	"math"
	"unicode"
	"unicode/utf8"
)

// vocabulary holds what the simulated models say. Each entry is one token: a
// leading space and at most 7 letters, so that it always begins a new word and
// costs exactly one token by CountTokens.
var vocabulary = [...]string{
	" anchor", " aft", " beam", " bearing", " bell", " berth", " bow", " buoy",
	" cable", " calm", " chart", " coast", " compass", " course", " crew", " current",
	" deck", " depth", " dock", " draft", " drift", " ebb", " fathom", " flag",
	" fleet", " fog", " gale", " galley", " harbour", " haven", " heading", " helm",
	" hold", " hull", " island", " jib", " keel", " knot", " lantern", " latch",
	" lead", " lee", " log", " mast", " mooring", " north", " pier", " pilot",
	" port", " reef", " rhumb", " rigging", " rudder", " sail", " shoal", " sound",
	" star", " stern", " storm", " strait", " swell", " tack", " tide", " wind",
}

// bytesPerToken is what a token covers of a word: words of up to 8 bytes are
// one token, longer ones (code, URLs, scripts without spaces) one per 8 bytes.
const bytesPerToken = 8

// CountTokens counts the tokens of a text: for each run of characters without
// white space, one per 8 bytes begun. Since every entry of the vocabulary is a
// word of its own, a text with n generated tokens behind it has exactly n more:
// the accounting of a resumed text adds up.
func CountTokens(text string) int {
	tokens, word := 0, 0
	for len(text) > 0 {
		r, size := utf8.DecodeRuneInString(text)
		text = text[size:]
		if unicode.IsSpace(r) {
			word = 0
			continue
		}
		if word%bytesPerToken == 0 || word%bytesPerToken+size > bytesPerToken {
			tokens++
		}
		word += size
	}
	return tokens
}

// textState is the FNV-1a hash of a model's name and checkpoint and of the whole
// text so far. All that the model will say is a function of it, so it does not
// matter which part of the text was the prompt and which was generated, by this
// pod or another: asking with both together continues the same sequence.
type textState uint64

const (
	fnvOffset = 14695981039346656037
	fnvPrime  = 1099511628211
)

func newTextState(m Model, prompt string) textState {
	s := textState(fnvOffset).add(m.Name)
	if m.Checkpoint != "" {
		s = s.add("\x00\x00").add(m.Checkpoint)
	}
	return s.add("\x00").add(prompt)
}

func (s textState) add(text string) textState {
	for i := range len(text) {
		s = (s ^ textState(text[i])) * fnvPrime
	}
	return s
}

// next is the token that follows the text.
func (s textState) next() string {
	return vocabulary[s.mix()%uint64(len(vocabulary))]
}

// stops tells whether the text ends here, one time in every on average.
func (s textState) stops(every int) bool {
	return every > 0 && (s.mix()>>32)%uint64(every) == 0
}

// mix spreads the hash over all bits (the finalizer of splitmix64: the low bits
// of FNV-1a alone repeat with short periods).
func (s textState) mix() uint64 {
	x := uint64(s)
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// Tokens returns the first n tokens that any pod generates for the prompt with
// a model of this name, of the usual checkpoint and that never stops by itself;
// joined, they are the text.
func Tokens(model, prompt string, n int) []string {
	out := make([]string, 0, n)
	for s := newTextState(Model{Name: model}, prompt); len(out) < n; {
		t := s.next()
		out = append(out, t)
		s = s.add(t)
	}
	return out
}

// Embedding is the vector that any pod computes for the text: of length 1 and a
// function of model and text.
func Embedding(m Model, text string, dimensions int) []float32 {
	out := make([]float32, 0, dimensions)
	sum := 0.0
	for s := newTextState(m, text).add("\x00"); len(out) < dimensions; s = s.add(".") {
		v := float64(s.mix()>>11)/(1<<53)*2 - 1 // 53 bits fill a float64 exactly
		out = append(out, float32(v))
		sum += v * v
	}
	for i := range out {
		out[i] /= float32(math.Sqrt(sum))
	}
	return out
}
