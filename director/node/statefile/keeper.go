package statefile

import (
	"errors"
	"io/fs"
	"log/slog"
	"sync"
	"time"
)

// Keeper keeps the state of one director in a file. A disk that fails takes
// nothing but the memory over a restart: the director goes on answering.
type Keeper struct {
	path   string // empty: nothing is kept
	log    *slog.Logger
	failed func()

	mu    sync.Mutex // held for a write; guards the fields below
	state State
	said  string // how the last write failed; empty if it did not
}

// NewKeeper reads what an earlier process of the director has kept in the file; with no path it keeps nothing. A file that can't be used is put aside and
// said so. failed is called for each write that fails.
func NewKeeper(path string, o Owner, now time.Time, log *slog.Logger, failed func()) *Keeper {
	k := &Keeper{path: path, log: log, failed: failed}
	if path != "" {
		s, err := Load(path, o)
		switch {
		case err == nil:
			k.state = s
			log.Info("state restored", "file", path, "age", now.Sub(s.Saved).Round(time.Second), "regions", len(s.Control.Verdicts), "names", len(s.Names))
		case errors.Is(err, fs.ErrNotExist):
			log.Info("no state yet", "file", path)
		default:
			log.Error("starting without state", "error", err)
		}
	}
	k.state.Owner = o
	return k
}

// State is what was restored, or last kept.
func (k *Keeper) State() State {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.state
}

// Load implements gossip.EpochStore.
func (k *Keeper) Load() (uint64, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.state.Epoch, nil
}

// Save implements gossip.EpochStore: the epoch is on disk when it returns. A disk
// that refuses it is no reason to stay silent: others then tell what the last
// epoch was.
func (k *Keeper) Save(epoch uint64) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.state.Epoch = epoch
	k.writeLocked()
	return nil
}

// Keep writes what is known now. The owner and its epoch are the keeper's own.
func (k *Keeper) Keep(s State) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s.Owner, s.Epoch = k.state.Owner, k.state.Epoch
	k.state = s
	k.writeLocked()
}

// writeLocked writes the file, and says so when that begins or ends to fail.
func (k *Keeper) writeLocked() {
	if k.path == "" {
		return
	}
	err, said := Save(k.path, k.state), ""
	if err != nil {
		k.failed()
		said = err.Error()
	}
	switch {
	case said == k.said:
	case said == "":
		k.log.Info("the state is saved again", "file", k.path)
	default:
		k.log.Error("the state can't be saved; after a restart this director knows what it knew before", "error", err)
	}
	k.said = said
}
