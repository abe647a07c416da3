package statefile

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rhumb-lb/rhumb/director"
	"github.com/rhumb-lb/rhumb/gossip"
	"github.com/rhumb-lb/rhumb/regions"
)

// writeFor in the environment makes this test's binary save states to that file
// until it is killed.
const writeFor = "RHUMB_TEST_WRITE_STATE"

func TestMain(m *testing.M) {
	if path := os.Getenv(writeFor); path != "" {
		for k := uint64(1); ; k++ {
			if err := Save(path, state(k)); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		}
	}
	os.Exit(m.Run())
}

var start = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// state is a state of some size, by a number.
func state(k uint64) State {
	s := State{Saved: start, Epoch: k}
	s.Owner = Owner{Zone: "inference.test", Member: "ns1", Fleet: []string{"aa", "bb"}}
	for i := range 20 {
		s.Gossip.Records = append(s.Gossip.Records, gossip.Remembered{Envelope: make([]byte, 900), Heard: start})
		s.Gossip.Marks = append(s.Gossip.Marks, gossip.Mark{Role: "region", Kind: 1, Origin: fmt.Sprintf("r%d/a", i), Epoch: k, Version: k, NotAfter: start})
	}
	s.Gossip.Certs = [][]byte{{1, 2, 3}}
	s.Names = []Name{{"llama", "Llama"}}
	s.Control = director.Control{
		Verdicts: []director.Verdict{{Region: "eu-west", State: director.Draining, Confidence: 1000, Reason: "told so"}},
		Known:    []director.Known{{Region: "eu-west", Model: "Llama", Listed: start}},
		Common:   []regions.ModelName{"Llama"},
		Planned:  []director.Planned{{Region: "eu-west", Model: "Llama", Load: 1500}},
	}
	return s
}

// ours is the owner of the states here, whose fleet has a new certificate by now.
var ours = Owner{Zone: "inference.test", Member: "ns1", Fleet: []string{"bb"}}

func TestRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ns1.state")
	if _, err := Load(path, ours); !errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrRefused) {
		t.Errorf("no file: %v", err)
	}
	for k := range uint64(3) {
		if err := Save(path, state(k)); err != nil {
			t.Fatal(err)
		}
		got, err := Load(path, ours)
		if err != nil || !reflect.DeepEqual(got, state(k)) {
			t.Fatalf("%v\n%+v\n%+v", err, got, state(k))
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// TestRefused: each file that is no good is kept, under a name that the error has.
func TestRefused(t *testing.T) {
	good, err := encode(state(7))
	if err != nil {
		t.Fatal(err)
	}
	reseal := func(old, renewed string) string {
		s := state(7)
		text, err := encode(s)
		if err != nil {
			t.Fatal(err)
		}
		_, body, _ := strings.Cut(string(text), "\n")
		return seal(strings.Replace(body, old, renewed, 1))
	}
	for name, tt := range map[string]struct{ text, zone, want string }{
		"empty":        {"", "", "does not begin"},
		"torn":         {string(good[:len(good)/2]), "", "torn"},
		"longer":       {string(good) + " ", "", "torn"},
		"damaged":      {strings.Replace(string(good), "told so", "tolt so", 1), "", "checksum"},
		"newer":        {strings.Replace(string(good), "rhumb-state 1", "rhumb-state 2", 1), "", "newer program"},
		"older":        {strings.Replace(string(good), "rhumb-state 1", "rhumb-state 0", 1), "", "older program"},
		"other zone":   {string(good), "example.com", `zone "inference.test"`},
		"a YAML file":  {"zone:\n  name: x\n", "", "something else"},
		"bad verdict":  {reseal(`"State":4`, `"State":99`), "", "state 99"},
		"bad region":   {reseal(`"Region":"eu-west"`, `"Region":"EU west"`), "", "EU west"},
		"bad label":    {reseal(`"Label":"llama"`, `"Label":"a.b"`), "", `"a.b"`},
		"no JSON":      {seal("{"), "", "can't be read"},
		"wrong member": {reseal(`"Member":"ns1"`, `"Member":"ns2"`), "", `director "ns2"`},
		"other fleet":  {reseal(`"Fleet":["aa","bb"]`, `"Fleet":["cc"]`), "", "another fleet, with the certificate cc; this one's is bb"},
		"reserved":     {reseal(`"Label":"llama"`, `"Label":"route"`), "", "reserved"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "ns1.state")
			if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			owner := ours
			if tt.zone != "" {
				owner.Zone = tt.zone
			}
			_, err := Load(path, owner)
			if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path+".refused-1") {
				t.Fatalf("got %v, want %q", err, tt.want)
			}
			kept, err := os.ReadFile(path + ".refused-1")
			if err != nil || string(kept) != tt.text {
				t.Errorf("not kept: %v", err)
			}
			if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("still in place: %v", err)
			}
		})
	}
}

// seal puts the right head before a body.
func seal(body string) string {
	text, err := encodeBody([]byte(body))
	if err != nil {
		panic(err)
	}
	return string(text)
}

func TestFewAreKeptAside(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	for k := range 8 {
		if err := os.WriteFile(path, fmt.Append(nil, k), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(path, ours); !errors.Is(err, ErrRefused) {
			t.Fatal(err)
		}
	}
	left, err := os.ReadDir(dir)
	last, _ := os.ReadFile(path + ".refused-5")
	if err != nil || len(left) != keptAside || string(last) != "7" {
		t.Errorf("%d are kept, the last is %q, %v", len(left), last, err)
	}
}

// TestEveryBitCounts: no damage passes for a state.
func TestEveryBitCounts(t *testing.T) {
	good, err := encode(state(7))
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		bad := append([]byte{}, good...)
		if rapid.Bool().Draw(t, "cut") {
			bad = bad[:rapid.IntRange(0, len(bad)-1).Draw(t, "length")]
		} else {
			bad[rapid.IntRange(0, len(bad)-1).Draw(t, "at")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		}
		got, err := decode(bad)
		if err == nil && !reflect.DeepEqual(got, state(7)) {
			t.Fatal("damage passed")
		}
	})
}

// TestKilledWriter kills -9 a process at random moments while it does nothing but
// save. Whatever it was at, the file holds a whole state, and none is lost.
func TestKilledWriter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ns1.state")
	if err := Save(path, state(0)); err != nil {
		t.Fatal(err)
	}
	const kills = 100
	beside := 0
	for k := range kills {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), writeFor+"="+path)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		wait := time.NewTimer(5*time.Millisecond + rand.N(20*time.Millisecond))
		<-wait.C
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it says that it was killed
		if _, err := os.Stat(path + ".new"); err == nil {
			beside++
		}
		if _, err := Load(path, ours); err != nil {
			t.Fatalf("kill %d: %v", k+1, err)
		}
	}
	t.Logf("%d kills, %d of them in the middle of a write", kills, beside)
}

func FuzzDecode(f *testing.F) {
	good, err := encode(state(1))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(seal("{}")))
	f.Add([]byte("rhumb-state 1 00 2\n{}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := decode(text)
		if err != nil {
			return
		}
		again, err := encode(s)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := decode(again); err != nil || !reflect.DeepEqual(back, s) {
			t.Fatalf("what was read can't be written and read: %v", err)
		}
	})
}
