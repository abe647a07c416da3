package discovery

import "log/slog"

// Journal tells whoever watches how a source does: each change once in the log,
// and how things stand in the metrics. It belongs to the goroutine that runs the
// source.
type Journal struct {
	name    string
	log     *slog.Logger
	metrics *Metrics
	away    bool
	pods    int
}

// NewJournal makes the journal of a source by the source's name. It tells nobody
// until [Journal.Report].
func NewJournal(name string) *Journal {
	return &Journal{name: name, log: slog.New(slog.DiscardHandler), metrics: NewMetrics(nil)}
}

// Report gives the source a logger and metrics. Call it before Run.
func (j *Journal) Report(log *slog.Logger, m *Metrics) {
	j.log, j.metrics = log.With("component", "discovery", "name", j.name), m
}

// Log is the logger, for what only this kind of source has to tell.
func (j *Journal) Log() *slog.Logger { return j.log }

// Away notes that the source does not answer, by its error, or that it does, by
// nil. Going away and coming back are logged once each.
func (j *Journal) Away(err error) {
	j.metrics.away(j.name, err != nil)
	switch {
	case err != nil && !j.away:
		j.log.Warn("the source is away, its pods stay as they were", "error", err)
	case err == nil && j.away:
		j.log.Info("the source is back")
	}
	j.away = err != nil
}

// Found notes a set that is emitted, by the number of its pods.
func (j *Journal) Found(pods int) {
	j.log.Info("pods found", "pods", pods, "before", j.pods)
	j.metrics.found(j.name, pods)
	j.pods = pods
}

// Healed notes how much a complete look found to differ from what the source had
// said by and by.
func (j *Journal) Healed(differences int) {
	if differences > 0 {
		j.log.Warn("the source had not told of all changes, a complete look did", "differences", differences)
	}
	j.metrics.missed(j.name, differences)
}

// End notes that the source has ended. It leaves no gauge behind.
func (j *Journal) End() {
	j.metrics.forget(j.name)
	j.away, j.pods = false, 0
}
