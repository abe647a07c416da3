// Package reload takes changes of a configuration over while a daemon runs: all of
// what changed, or nothing.
package reload

import (
	"context"
	"log/slog"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rhumb-lb/rhumb/cmd/internal/config"
)

// watchEvery is how often files are looked at for changes. Looking beats
// notifications here: Kubernetes swaps a symbolic link two folders up, editors
// rename, and network file systems tell nothing.
const watchEvery = 2 * time.Second

// Watcher takes over changes of a configuration while a daemon runs. Make it with
// [New] and set the exported fields before [Watcher.Run].
type Watcher struct {
	// Apply takes a new configuration over as a whole, or fails and changes nothing.
	Apply func(*config.Config) error
	// Hangup has a value for each SIGHUP; nil if there are none.
	Hangup <-chan os.Signal
	Log    *slog.Logger
	// Registry takes the metrics; nil keeps them to itself.
	Registry *prometheus.Registry

	path    string
	source  config.Source
	running *config.Config
	marks   marks
	named   named
	seen    digest            // of all files, when they were last tried
	found   digest            // of all files, at the last look
	fixed   map[string]digest // of what only a restart can change, as it was at the start
	live    map[string]digest // of what was taken over last
}

// New watches the file at path and those that it names. Running is what was just
// loaded from it with that source, and what the daemon is made from: what changes
// from here on is noticed.
func New(path string, source config.Source, running *config.Config) *Watcher {
	w := &Watcher{path: path, source: source, running: running, marks: marks{}}
	w.seen = w.look()
	w.found = w.seen
	w.fixed, w.live = w.marks.contents(running, false), w.marks.contents(running, true)
	return w
}

// Run looks for changes until ctx is done. Each content of the files is tried
// once, so that a broken one is complained about once, and only when two looks found
// it: half of a file that is being written can be a configuration too, such as one
// without its last lines that ask for keys. SIGHUP tries at once, and again.
func (w *Watcher) Run(ctx context.Context) error {
	m := newMetrics(w.Registry)
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		asked := false
		select {
		case <-ctx.Done():
			return nil
		case <-w.Hangup:
			asked = true
		case <-tick.C:
		}
		// What is looked at first and read then may be newer than what was seen, never
		// older: a change meanwhile is found by the next look.
		now := w.look()
		settled := now == w.found
		w.found = now
		if (now == w.seen || !settled) && !asked {
			continue
		}
		w.seen = now
		live, err := w.reload()
		m.tried(err == nil)
		if err != nil {
			w.Log.Error("configuration not reloaded, the old one stays", "file", w.path, "error", err)
			continue
		}
		w.Log.Info("configuration reloaded", "file", w.path, "changed", live)
	}
}

// reload loads and takes over the configuration as it is on disk now.
func (w *Watcher) reload() (live []string, err error) {
	renewed, err := config.Load(w.path, w.source)
	if err != nil {
		return nil, err
	}
	live, restart := Diff(w.running, renewed)
	if restart = append(restart, changed(w.fixed, w.marks.contents(renewed, false))...); len(restart) > 0 {
		return nil, needRestart(restart)
	}
	contents := w.marks.contents(renewed, true)
	live = append(live, changed(w.live, contents)...)
	if err := w.Apply(renewed); err != nil {
		return nil, err
	}
	w.running, w.live = renewed, contents
	return live, nil
}

// look is a digest of what is on disk now: the configuration and the files that it
// names. While it can't be read, those that the running one names stand in.
func (w *Watcher) look() digest {
	file := w.marks.of(w.path)
	if w.named.by != file || w.named.files == nil {
		// Files apart it may be in order, and the one that is not may be named there only.
		bare := w.source
		bare.SkipFiles, bare.Warn = true, nil
		c, err := config.Load(w.path, bare)
		if err != nil {
			c = w.running
		}
		w.named = named{by: file, files: files(c)}
	}
	all := []digest{file}
	for _, f := range w.named.files {
		all = append(all, w.marks.of(f.path))
	}
	return sum(all)
}
