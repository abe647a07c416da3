package core

import (
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestInterTokenGrowsWithTheBatch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := DefaultModel("llama")
		m.Slots = rapid.IntRange(1, 512).Draw(t, "slots")
		m.BatchPenalty = rapid.IntRange(0, 10000).Draw(t, "penalty")
		m.InterToken = time.Duration(rapid.Int64Range(0, int64(10*time.Second)).Draw(t, "alone"))
		previous := time.Duration(-1)
		for b := 1; b <= m.Slots; b++ {
			d := interToken(m, b)
			if d < previous || d < m.InterToken {
				t.Fatalf("batch %d: %v after %v", b, d, previous)
			}
			previous = d
		}
		most := m.InterToken + m.InterToken*time.Duration(m.BatchPenalty)/1000
		if m.Slots > 1 && (previous > most || most-previous > time.Millisecond) {
			t.Fatalf("full batch: %v, want %v", previous, most)
		}
	})
}

func TestTokensContinueWhereAnotherPodStopped(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		prompt := rapid.String().Draw(t, "prompt")
		n := rapid.IntRange(1, 40).Draw(t, "n")
		cut := rapid.IntRange(0, n).Draw(t, "cut")
		all := Tokens("llama", prompt, n)
		emitted := strings.Join(all[:cut], "")
		rest := Tokens("llama", prompt+emitted, n-cut)
		if got, want := strings.Join(rest, "|"), strings.Join(all[cut:], "|"); got != want {
			t.Fatalf("resumed after %d: %q, want %q", cut, got, want)
		}
		if got, want := CountTokens(prompt+emitted), CountTokens(prompt)+cut; got != want {
			t.Fatalf("%d tokens in prompt and %d emitted, want %d", got, cut, want)
		}
	})
}

func TestCountTokens(t *testing.T) {
	for text, want := range map[string]int{
		"": 0, "  \n\t": 0, "hi": 1, "hello world": 2, "12345678": 1, "123456789": 2, "a\u3000b": 2,
		"世界世界世界": 3, strings.Repeat("x", 800): 100, "\xff\xff": 1,
	} {
		if got := CountTokens(text); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
}

func TestVocabularyIsOneTokenPerEntry(t *testing.T) {
	seen := make(map[string]bool)
	for _, w := range vocabulary {
		if w[0] != ' ' || CountTokens(w) != 1 || seen[w] {
			t.Errorf("%q: %d tokens", w, CountTokens(w))
		}
		seen[w] = true
	}
	used := make(map[string]int)
	for _, w := range Tokens("llama", "hi", 64*100) {
		used[w]++
	}
	if len(used) != len(vocabulary) {
		t.Errorf("%d of %d words used", len(used), len(vocabulary))
	}
}
