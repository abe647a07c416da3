package tritontest

import (
	"context"
	"fmt"
	"net/http"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"
)

// modelState is a state of the repository index. A model that was never loaded
// has none.
type modelState string

const (
	stateNone      modelState = ""
	stateReady     modelState = "READY"
	stateLoading   modelState = "LOADING"
	stateUnloading modelState = "UNLOADING"
	stateUnloaded  modelState = "UNAVAILABLE" // the only reason here is "unloaded"
)

// repository holds the models of one process.
type repository struct {
	proc     *process
	explicit bool
	names    []string // sorted, as Triton's maps are

	mu     sync.Mutex // guards the entries
	models map[string]*entry
}

type entry struct {
	model  Model
	state  modelState
	engine *engine       // of the newest load; nil before
	loaded chan struct{} // closed when a load under way has ended
	took   time.Duration // of the newest load
}

func newRepository(p *process, opts Options) *repository {
	r := &repository{proc: p, explicit: opts.Explicit, models: make(map[string]*entry)}
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
	if r.stateLocked(e) == stateReady {
		return closedChan()
	}
	if e.state == stateLoading {
		return e.loaded
	}
	e.state, e.loaded, e.engine = stateLoading, make(chan struct{}), newEngine(r.proc, e.model)
	begin, eng, done := time.Now(), e.engine, e.loaded
	if e.model.LoadDelay == 0 {
		r.finishLocked(e, eng, begin)
		close(done)
		return done
	}
	r.proc.wg.Go(func() {
		defer close(done)
		if r.proc.pause(life, e.model.LoadDelay) != nil {
			return // the process has ended
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.finishLocked(e, eng, begin)
	})
	return done
}

// finishLocked makes the model READY, if it was not unloaded meanwhile.
func (r *repository) finishLocked(e *entry, eng *engine, begin time.Time) {
	if e.engine == eng && e.state == stateLoading {
		e.state, e.took = stateReady, time.Since(begin)
		r.proc.log.Info("model ready", "model", e.model.Name, "took", e.took)
	}
}

// stateLocked is the state now: an unload ends when the last request has.
func (r *repository) stateLocked(e *entry) modelState {
	if e.state == stateUnloading && e.engine.idle() {
		e.state = stateUnloaded
	}
	return e.state
}

// lookup finds a model version that can serve, with the texts of Triton's core.
func (r *repository) lookup(name, version string) (*engine, *apiError) {
	number := -1
	if version != "" {
		n, err := strconv.Atoi(version)
		if err != nil {
			return nil, invalid("failed to get model version from specified version string '%s' (details: stol), "+
				"version should be an integral value > 0", version)
		}
		number = n
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.models[name]
	switch {
	case e == nil || e.state == stateNone:
		return nil, notFound("Request for unknown model: '%s' is not found", name)
	case number != -1 && number != e.model.Version:
		return nil, notFound("Request for unknown model: '%s' version %d is not found", name, number)
	case r.stateLocked(e) == stateReady:
		return e.engine, nil
	case number == -1:
		return nil, notFound("Request for unknown model: '%s' has no available versions", name)
	}
	return nil, unavailable("Request for unknown model: '%s' version %d is not at ready state", name, number)
}

// ready is the server's readiness under --strict-readiness: every model that
// was ever loaded is READY and well, or was unloaded.
func (r *repository) ready() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, name := range r.names {
		e := r.models[name]
		switch r.stateLocked(e) {
		case stateNone, stateUnloaded:
		case stateReady:
			if r.proc.pod.faults.isNotReady(name) {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// engines lists the loaded engines in the order of their names.
func (r *repository) engines() []*entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*entry
	for _, name := range r.names {
		if e := r.models[name]; r.stateLocked(e) == stateReady {
			copied := *e
			out = append(out, &copied)
		}
	}
	return out
}

// index is the answer of /v2/repository/index.
func (r *repository) index(request []member) (string, *apiError) {
	readyOnly := false
	for _, f := range request {
		if f.name != "ready" {
			continue
		}
		if readyOnly = asBool(f.raw); !readyOnly && string(f.raw) != "false" {
			return "", invalid("Invalid value for 'ready': expected a boolean")
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	rows := []string{}
	for _, name := range r.names {
		e := r.models[name]
		state := r.stateLocked(e)
		if readyOnly && state != stateReady {
			continue
		}
		row := appendJSON([]byte(`{"name":`), name)
		if state != stateNone {
			row = fmt.Appendf(row, `,"version":"%d","state":"%s"`, e.model.Version, state)
		}
		if state == stateUnloaded {
			row = append(row, `,"reason":"unloaded"`...)
		}
		rows = append(rows, string(row)+"}")
	}
	return "[" + strings.Join(rows, ",") + "]", nil
}

// unload stops the model for new requests; those under way finish.
func (r *repository) unload(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.models[name]; e != nil && e.state != stateNone {
		e.state = stateUnloading
		r.stateLocked(e)
		r.proc.log.Info("model unloaded", "model", name)
	}
}

// serveRepository answers index, load and unload. Load answers when the model
// is READY.
func (p *process) serveRepository(w http.ResponseWriter, r *http.Request, repo, model, action string) {
	if !allowed(w, r, jsonType, http.MethodPost) {
		return
	}
	body, readErr := readBody(r)
	if readErr != nil {
		panic(http.ErrAbortHandler)
	}
	var fields []member
	if len(body) > 0 {
		if err := checkJSON(body); err != nil {
			replyError(w, jsonType, err)
			return
		}
		fields, _ = members(body) // what is not an object says nothing
	}
	text, err := "", p.serving()
	switch {
	case err != nil:
	case action == "":
		text, err = p.repo.index(fields)
	case repo != "":
		err = unsupported("'repository_name' specification is not supported")
	default:
		err = p.control(lifeOf(r.Context()), model, action)
	}
	if err != nil {
		replyError(w, jsonType, err)
		return
	}
	reply(w, http.StatusOK, jsonType, text)
}

func (p *process) control(life context.Context, model, action string) *apiError {
	if !p.repo.explicit {
		return unavailable("explicit model load / unload is not allowed if polling is enabled")
	}
	if action == "unload" {
		p.repo.unload(model)
		return nil
	}
	done := p.repo.load(life, model)
	if done == nil {
		return internal("failed to load '%s', failed to poll from model repository", model)
	}
	select {
	case <-done:
	case <-life.Done():
	}
	return nil
}

// tensor is an input or output of a model, by the names of the wire.
type tensor struct {
	name, datatype string
	shape          int // of its one dimension; -1 is variable
	optional       bool
}

// inputsOf lists the inputs of a flavour.
func inputsOf(m Model) []tensor {
	if m.Flavour == TRTLLM {
		return trtllmInputs
	}
	return vllmInputs
}

func outputsOf(m Model) []tensor {
	if m.Flavour == TRTLLM {
		return trtllmOutputs
	}
	return vllmOutputs
}

func inputOf(m Model, name string) (tensor, bool) {
	for _, t := range inputsOf(m) {
		if t.name == name {
			return t, true
		}
	}
	return tensor{}, false
}

var (
	vllmInputs = []tensor{
		{"text_input", "BYTES", 1, false}, {"image", "BYTES", -1, true}, {"stream", "BOOL", 1, true},
		{"sampling_parameters", "BYTES", 1, true}, {"exclude_input_in_output", "BOOL", 1, true},
		{"return_finish_reason", "BOOL", 1, true}, {"return_cumulative_logprob", "BOOL", 1, true},
		{"return_logprobs", "BOOL", 1, true}, {"return_num_input_tokens", "BOOL", 1, true},
		{"return_num_output_tokens", "BOOL", 1, true}, {"embedding_request", "BYTES", 1, true},
	}
	vllmOutputs = []tensor{
		{"text_output", "BYTES", -1, false}, {"finish_reason", "BYTES", -1, false},
		{"cumulative_logprob", "FP32", -1, false}, {"logprobs", "BYTES", -1, false},
		{"num_input_tokens", "UINT32", 1, false}, {"num_output_tokens", "UINT32", -1, false},
	}
	trtllmInputs = []tensor{
		{"text_input", "BYTES", 1, false}, {"max_tokens", "INT32", 1, false}, {"stream", "BOOL", 1, true},
		{"exclude_input_in_output", "BOOL", 1, true}, {"temperature", "FP32", 1, true}, {"top_p", "FP32", 1, true},
		{"top_k", "INT32", 1, true}, {"bad_words", "BYTES", 1, true}, {"stop_words", "BYTES", 1, true},
	}
	trtllmOutputs = []tensor{
		{"text_output", "BYTES", -1, false}, {"cum_log_probs", "FP32", -1, false}, {"output_log_probs", "FP32", -1, false},
	}
)

// platform is the backend's name in metadata and configuration.
func platform(m Model) string {
	if m.Flavour == TRTLLM {
		return "ensemble"
	}
	return "vllm"
}

func (r *repository) metadata(name, version string) (string, *apiError) {
	e, err := r.lookup(name, version)
	if err != nil {
		return "", err
	}
	list := func(all []tensor) string {
		var rows []string
		for _, t := range all {
			rows = append(rows, fmt.Sprintf(`{"name":"%s","datatype":"%s","shape":[%d]}`, t.name, t.datatype, t.shape))
		}
		return strings.Join(rows, ",")
	}
	b := appendJSON([]byte(`{"name":`), name)
	b = fmt.Appendf(b, `,"versions":["%d"],"platform":"%s","inputs":[%s],"outputs":[%s]}`,
		e.model.Version, platform(e.model), list(inputsOf(e.model)), list(outputsOf(e.model)))
	return string(b), nil
}

// config is the part of a model's configuration that says how it serves.
func (r *repository) config(name, version string) (string, *apiError) {
	e, err := r.lookup(name, version)
	if err != nil {
		return "", err
	}
	list := func(all []tensor) string {
		var rows []string
		for _, t := range all {
			datatype := t.datatype
			if datatype == "BYTES" {
				datatype = "STRING"
			}
			rows = append(rows, fmt.Sprintf(`{"name":"%s","data_type":"TYPE_%s","dims":[%d],"optional":%t}`, t.name, datatype, t.shape, t.optional))
		}
		return strings.Join(rows, ",")
	}
	m := e.model
	b := appendJSON([]byte(`{"name":`), name)
	b = fmt.Appendf(b, `,"platform":"%s","backend":"%s","version_policy":{"latest":{"num_versions":1}},"max_batch_size":0,"input":[%s],"output":[%s]`,
		map[Flavour]string{TRTLLM: "ensemble"}[m.Flavour], map[Flavour]string{VLLM: "vllm"}[m.Flavour], list(inputsOf(m)), list(outputsOf(m)))
	if e.queues() {
		b = fmt.Appendf(b, `,"dynamic_batching":{"default_queue_policy":{"timeout_action":"REJECT","default_timeout_microseconds":%d,`+
			`"allow_timeout_override":true,"max_queue_size":%d}}`, m.QueueTimeout.Microseconds(), m.QueueLimit)
	}
	return string(fmt.Appendf(b, `,"model_transaction_policy":{"decoupled":%t}}`, !m.Coupled)), nil
}
