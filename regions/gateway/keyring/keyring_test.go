package keyring

import (
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rhumb-lb/rhumb/regions"
)

var pepper = []byte("0123456789abcdef0123456789abcdef")

// made is a token and a ring with its key.
func made(t testing.TB, k Key) (string, *Ring) {
	t.Helper()
	token, k, err := Make(pepper, k)
	if err != nil {
		t.Fatal(err)
	}
	r, err := New(pepper, []Key{k})
	if err != nil {
		t.Fatal(err)
	}
	return token, r
}

func TestCheck(t *testing.T) {
	token, r := made(t, Key{ID: "team-a", Models: []regions.ModelName{"llama"}})
	k, ok := r.Check(token)
	if !ok || k.ID != "team-a" || !k.Allows("llama") || k.Allows("mistral") {
		t.Fatalf("%v, %v", k, ok)
	}
	for _, bad := range []string{
		"", "rhumb_", "rhumb_team-a_", "rhumb__", token[:len(token)-1], token + "x", strings.ToUpper(token),
		strings.Replace(token, "team-a", "team-b", 1), strings.TrimPrefix(token, "rhumb_"), strings.Repeat("x", 1<<20),
	} {
		if _, ok := r.Check(bad); ok {
			t.Errorf("%.60q is taken for a key", bad)
		}
	}
	other, err := New(append([]byte("x"), pepper[1:]...), []Key{*k})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := other.Check(token); ok {
		t.Error("the hash is worth something without its pepper")
	}
}

// TestHash has RFC 4231's test case 2 in our own terms: HMAC-SHA-256.
func TestHash(t *testing.T) {
	if got := Hash([]byte("Jefe"), "what do ya want for nothing?"); hex.EncodeToString(got[:]) != "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843" {
		t.Errorf("%x", got)
	}
}

func TestNewNamesWhatIsWrong(t *testing.T) {
	hash := Hash(pepper, "x")
	for want, keys := range map[string][]Key{
		`key "A": "A" is not an id`:     {{ID: "A", Hash: hash}},
		`key "a_b": "a_b" is not an id`: {{ID: "a_b", Hash: hash}},
		`key "a": it has no hash`:       {{ID: "a"}},
		`key "a": rate -1`:              {{ID: "a", Hash: hash, Rate: -1}},
		`key "a": burst -1`:             {{ID: "a", Hash: hash, Rate: 1, Burst: -1}},
		`key "a": a burst without`:      {{ID: "a", Hash: hash, Burst: 5}},
		`key "a": priority 2`:           {{ID: "a", Hash: hash, Class: 2}},
		`key "a" is listed twice`:       {{ID: "a", Hash: hash}, {ID: "a", Hash: hash}},
		"10001 keys, at most 10000":     make([]Key, maxKeys+1),
	} {
		if _, err := New(pepper, keys); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	if _, err := New(pepper[:5], nil); err == nil || !strings.Contains(err.Error(), "5 bytes") {
		t.Errorf("short pepper: %v", err)
	}
}

func FuzzCheck(f *testing.F) {
	token, r := made(f, Key{ID: "a"})
	f.Add(token)
	f.Add("rhumb_a_")
	f.Fuzz(func(t *testing.T, s string) {
		if _, ok := r.Check(s); ok != (s == token) {
			t.Fatalf("%q: %v", s, ok)
		}
	})
}

var start = time.Unix(1_800_000_000, 0)

// TestLimitHolds: in every window of w seconds a key gets at most burst + rate·w
// requests, and one that asks all the time gets no less in the long run. A refused
// one that comes back after its wait is admitted.
func TestLimitHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate := rapid.Float64Range(0.5, 2000).Draw(t, "rate")
		burst := rapid.IntRange(1, 100).Draw(t, "burst")
		k := Key{ID: "a", Hash: Hash(pepper, "x"), Rate: rate, Burst: burst}
		r, err := New(pepper, []Key{k})
		if err != nil {
			t.Fatal(err)
		}
		l, now := NewLimiter(r, nil), start
		var taken []time.Time
		for range 400 {
			wait, ok := l.Admit(&k, now)
			switch {
			case ok:
				taken = append(taken, now)
			case wait <= 0:
				t.Fatal("refused without a wait")
			default:
				if _, early := l.Admit(&k, now.Add(wait-1)); early {
					t.Fatal("admitted before its time")
				}
				if rapid.Bool().Draw(t, "waits") {
					now = now.Add(wait)
					if _, ok := l.Admit(&k, now); !ok {
						t.Fatalf("refused after the wait of %v that it was told", wait)
					}
					taken = append(taken, now)
				}
			}
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(2*float64(time.Second)/rate)).Draw(t, "pause")))
		}
		for i := range taken {
			for j := i; j < len(taken); j++ {
				most := float64(burst) + rate*taken[j].Sub(taken[i]).Seconds()
				if n := float64(j - i + 1); n > most*1.001+1 {
					t.Fatalf("%v requests in %v, at most %v", n, taken[j].Sub(taken[i]), most)
				}
			}
		}
	})
}

func TestLimiterRemembers(t *testing.T) {
	k := Key{ID: "a", Hash: Hash(pepper, "x"), Rate: 1, Burst: 2}
	ring := func(k Key) *Ring {
		r, err := New(pepper, []Key{k})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	l := NewLimiter(ring(k), nil)
	admitted := func(k *Key, at time.Time) (n int) {
		for range 10 {
			if _, ok := l.Admit(k, at); ok {
				n++
			}
		}
		return n
	}
	if n := admitted(&k, start); n != 2 {
		t.Errorf("%d at once, want the burst of 2", n)
	}
	l = NewLimiter(ring(k), l)
	if n := admitted(&k, start); n != 0 {
		t.Errorf("%d more after a reload", n)
	}
	faster := k
	faster.Rate, faster.Burst = 10, 10
	l = NewLimiter(ring(faster), l)
	if n := admitted(&faster, start.Add(2*time.Second)); n != 10 {
		t.Errorf("%d after the rate was raised, want 10", n)
	}
	free := k
	free.Rate, free.Burst = 0, 0
	l = NewLimiter(ring(free), l)
	if n := admitted(&free, start); n != 10 {
		t.Errorf("%d of 10 without a limit", n)
	}
	if s := fmt.Sprint(shape(0.5, 0)); s != "2000000000 0" {
		t.Errorf("one request every two seconds is %s", s)
	}
}
