package live

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/simulations/client"
	"github.com/rhumb-lb/rhumb/simulations/layout"
)

var kills = flag.Int("kills", 5, "how often TestKills kills a director")

// TestKills kills -9 a director again and again, a random moment after something
// changed that it keeps in its state file. Started again it must answer for a
// learnt name, and never find its file torn.
func TestKills(t *testing.T) {
	w, err := NewAnywhere(t.Context(), Options{Bin: binary(t), Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := w.End(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	if err := w.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	var slowest time.Duration
	for k := range *kills {
		w.setDrain(t, k%2 == 0)
		rest := time.NewTimer(rand.N(2 * time.Second))
		<-rest.C
		if err := w.directors[0].Kill(); err != nil {
			t.Fatal(err)
		}
		if err := w.directors[0].Start(); err != nil {
			t.Fatal(err)
		}
		took, err := w.answers(t.Context(), 0, "mistral."+layout.Zone)
		if err != nil {
			t.Fatalf("kill %d: %v", k+1, err)
		}
		slowest = max(slowest, took)
		aside, err := filepath.Glob(w.path("ns1.state*refused*"))
		if err != nil || len(aside) > 0 {
			t.Fatalf("kill %d: the state was refused: %v, %v", k+1, aside, err)
		}
	}
	t.Logf("%d kills; the slowest first answer came after %v", *kills, slowest)
}

// setDrain sets the drain of the victim by its agent's admin API.
func (w *World) setDrain(t *testing.T, on bool) {
	t.Helper()
	body := fmt.Sprintf(`{"draining":%t,"reason":"to change something"}`, on)
	at := "http://" + w.opts.Layout.AgentAdmin(region(client.Victim)).String() + "/api/v1/drain"
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, at, bytes.NewBufferString(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("drain: %s", resp.Status)
	}
}
