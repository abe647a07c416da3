package core

import (
	"context"
	"sort"
	"strconv"
	"sync"
	"time"
)

// State is a state of the repository index. A model that was never loaded
// has none.
type State string

// The states of a model.
const (
	StateNone      State = ""
	StateReady     State = "READY"
	StateLoading   State = "LOADING"
	StateUnloading State = "UNLOADING"
	StateUnloaded  State = "UNAVAILABLE" // the only reason here is "unloaded"
)

// repository holds the models of one server.
type repository struct {
	server   *Server
	explicit bool
	names    []string // sorted, as Triton's maps are

	mu     sync.Mutex // guards the entries
	models map[string]*entry
}

type entry struct {
	model  Model
	state  State
	engine *Engine       // of the newest load; nil before
	loaded chan struct{} // closed when a load under way has ended
	took   time.Duration // of the newest load
}

func newRepository(server *Server, opts Options) *repository {
	r := &repository{server: server, explicit: opts.Explicit, models: make(map[string]*entry)}
	for _, m := range opts.Models {
		r.names = append(r.names, m.Name)
		r.models[m.Name] = &entry{model: m}
	}
	sort.Strings(r.names)
	return r
}

// loadAll begins to load the models that are loaded at start.
func (r *repository) loadAll(life context.Context) {
	for _, name := range r.names {
		if !r.models[name].model.Unloaded {
			r.load(life, name)
		}
	}
}

// load begins a load, unless the model is loaded or loading, and returns what
// is closed at its end; nil for an unknown model.
func (r *repository) load(life context.Context, name string) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.models[name]
	if e == nil {
		return nil
	}
	if r.stateLocked(e) == StateReady {
		return closedChan()
	}
	if e.state == StateLoading {
		return e.loaded
	}
	e.state, e.loaded, e.engine = StateLoading, make(chan struct{}), newEngine(r.server, e.model)
	begin, eng, done := time.Now(), e.engine, e.loaded
	if e.model.LoadDelay == 0 {
		r.finishLocked(e, eng, begin)
		close(done)
		return done
	}
	r.server.wg.Go(func() {
		defer close(done)
		if r.server.Pause(life, e.model.LoadDelay) != nil {
			return // the process has ended
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.finishLocked(e, eng, begin)
	})
	return done
}

// finishLocked makes the model READY, if it was not unloaded meanwhile.
func (r *repository) finishLocked(e *entry, eng *Engine, begin time.Time) {
	if e.engine == eng && e.state == StateLoading {
		e.state, e.took = StateReady, time.Since(begin)
		r.server.log.Info("model ready", "model", e.model.Name, "took", e.took)
	}
}

// stateLocked is the state now: an unload ends when the last request has.
func (r *repository) stateLocked(e *entry) State {
	if e.state == StateUnloading && e.engine.idle() {
		e.state = StateUnloaded
	}
	return e.state
}

// lookup finds a model version that can serve, with the texts of Triton's core.
func (r *repository) lookup(name, version string) (*Engine, *Error) {
	number := -1
	if version != "" {
		n, err := strconv.Atoi(version)
		if err != nil {
			return nil, Invalid("failed to get model version from specified version string '%s' (details: stol), "+
				"version should be an integral value > 0", version)
		}
		number = n
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.models[name]
	switch {
	case e == nil || e.state == StateNone:
		return nil, NotFound("Request for unknown model: '%s' is not found", name)
	case number != -1 && number != e.model.Version:
		return nil, NotFound("Request for unknown model: '%s' version %d is not found", name, number)
	case r.stateLocked(e) == StateReady:
		return e.engine, nil
	case number == -1:
		return nil, NotFound("Request for unknown model: '%s' has no available versions", name)
	}
	return nil, Unavailable("Request for unknown model: '%s' version %d is not at ready state", name, number)
}

// ready is the server's readiness under --strict-readiness: every model that
// was ever loaded is READY and well, or was unloaded.
func (r *repository) ready() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, name := range r.names {
		e := r.models[name]
		switch r.stateLocked(e) {
		case StateNone, StateUnloaded:
		case StateReady:
			if r.server.faults.isNotReady(name) {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// Loaded is a model that is ready.
type Loaded struct {
	Model  Model
	Engine *Engine
	Took   time.Duration // to load it
}

// loaded lists what is ready in the order of the names.
func (r *repository) loaded() []Loaded {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []Loaded
	for _, name := range r.names {
		if e := r.models[name]; r.stateLocked(e) == StateReady {
			out = append(out, Loaded{e.model, e.engine, e.took})
		}
	}
	return out
}

// IndexRow is a model in the index of the repository.
type IndexRow struct {
	Name    string
	Version int // 0 if it was never loaded
	State   State
	Reason  string
}

func (r *repository) index(readyOnly bool) []IndexRow {
	r.mu.Lock()
	defer r.mu.Unlock()
	var rows []IndexRow
	for _, name := range r.names {
		e := r.models[name]
		row := IndexRow{Name: name, State: r.stateLocked(e)}
		if readyOnly && row.State != StateReady {
			continue
		}
		if row.State != StateNone {
			row.Version = e.model.Version
		}
		if row.State == StateUnloaded {
			row.Reason = "unloaded"
		}
		rows = append(rows, row)
	}
	return rows
}

// unload stops the model for new requests; those under way finish.
func (r *repository) unload(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.models[name]; e != nil && e.state != StateNone {
		e.state = StateUnloading
		r.stateLocked(e)
		r.server.log.Info("model unloaded", "model", name)
	}
}

func (r *repository) controllable() *Error {
	if !r.explicit {
		return Unavailable("explicit model load / unload is not allowed if polling is enabled")
	}
	return nil
}

func closedChan() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}
