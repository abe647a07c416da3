package config

import (
	"context"
	"log/slog"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// watchEvery is how often files are looked at for changes. Reading beats
// notifications here: Kubernetes swaps a symbolic link two folders up, editors
// rename, and network file systems tell nothing.
const watchEvery = 2 * time.Second

// Watcher takes over changes of a configuration while a daemon runs.
type Watcher struct {
	// Path and Source are what the running configuration was loaded from, and
	// Running is that configuration.
	Path    string
	Source  Source
	Running *Config
	// Apply takes a new configuration over as a whole, or fails and changes nothing.
	Apply func(*Config) error
	// Hangup has a value for each SIGHUP; nil if there are none.
	Hangup <-chan os.Signal
	Log    *slog.Logger
	// Registry takes the metrics; nil keeps them to itself.
	Registry *prometheus.Registry

	fixed map[string][32]byte // as they were at the start
}

// Run looks for changes until ctx is done. Each content of the files is tried
// once, so that a broken one is complained about once; SIGHUP tries again.
func (w *Watcher) Run(ctx context.Context) error {
	tried, good := w.metrics()
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	seen := w.sum()
	w.fixed = fixed(w.Running)
	good.Set(1)
	for {
		asked := false
		select {
		case <-ctx.Done():
			return nil
		case <-w.Hangup:
			asked = true
		case <-tick.C:
		}
		now := w.sum()
		if now == seen && !asked {
			continue
		}
		live, err := w.reload()
		seen = w.sum() // of the files that are named now
		if err != nil {
			tried.WithLabelValues("refused").Inc()
			good.Set(0)
			w.Log.Error("configuration not reloaded, the old one stays", "file", w.Path, "error", err)
			continue
		}
		tried.WithLabelValues("taken").Inc()
		good.Set(1)
		w.Log.Info("configuration reloaded", "file", w.Path, "changed", live)
	}
}

// sum is what is on disk now: the configuration and the files that it names.
func (w *Watcher) sum() [32]byte {
	paths := []string{w.Path}
	for _, f := range w.Running.files() {
		paths = append(paths, f.path)
	}
	return sum(paths)
}

// fixed are the digests of the files whose content only a restart can change.
func fixed(c *Config) map[string][32]byte {
	out := map[string][32]byte{}
	for _, f := range c.files() {
		if !f.live {
			out[f.setting] = sum([]string{f.path})
		}
	}
	return out
}

// reload loads and takes over the configuration as it is on disk now.
func (w *Watcher) reload() (live []string, err error) {
	renewed, err := Load(w.Path, w.Source)
	if err != nil {
		return nil, err
	}
	live, restart := Diff(w.Running, renewed)
	for setting, is := range fixed(renewed) {
		if was, ok := w.fixed[setting]; ok && was != is {
			restart = append(restart, "the content of "+setting)
		}
	}
	if len(restart) > 0 {
		return nil, needRestart(restart)
	}
	if err := w.Apply(renewed); err != nil {
		return nil, err
	}
	w.Running = renewed
	return live, nil
}

func (w *Watcher) metrics() (tried *prometheus.CounterVec, good prometheus.Gauge) {
	tried = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "rhumb_config_reloads_total", Help: "Reloads of the configuration, taken or refused.",
	}, []string{"result"})
	good = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "rhumb_config_last_reload_successful", Help: "1 while the files are what the daemon runs with, 0 since they were refused.",
	})
	if w.Registry != nil {
		w.Registry.MustRegister(tried, good)
	}
	return tried, good
}
