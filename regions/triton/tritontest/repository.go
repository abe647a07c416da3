package tritontest

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/rhumb-lb/rhumb/regions/triton/tritontest/core"
)

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
	text, err := "", p.core.Serving()
	switch {
	case err != nil:
	case action == "":
		text, err = p.index(fields)
	case repo != "":
		err = core.Unsupported("'repository_name' specification is not supported")
	default:
		err = p.control(lifeOf(r.Context()), model, action)
	}
	if err != nil {
		replyError(w, jsonType, err)
		return
	}
	reply(w, http.StatusOK, jsonType, text)
}

func (p *process) control(life context.Context, model, action string) *core.Error {
	if action == "unload" {
		return p.core.Unload(model)
	}
	return p.core.Load(life, model)
}

// index is the answer of /v2/repository/index.
func (p *process) index(request []member) (string, *core.Error) {
	readyOnly := false
	for _, f := range request {
		if f.name != "ready" {
			continue
		}
		if readyOnly = asBool(f.raw); !readyOnly && string(f.raw) != "false" {
			return "", core.Internal("attempt to access JSON non-boolean as boolean")
		}
	}
	rows := []string{}
	for _, r := range p.core.Index(readyOnly) {
		row := appendJSON([]byte(`{"name":`), r.Name)
		if r.State != core.StateNone {
			row = fmt.Appendf(row, `,"version":"%d","state":"%s"`, r.Version, r.State)
		}
		if r.Reason != "" {
			row = fmt.Appendf(row, `,"reason":"%s"`, r.Reason)
		}
		rows = append(rows, string(row)+"}")
	}
	return "[" + strings.Join(rows, ",") + "]", nil
}

func (p *process) metadata(name, version string) (string, *core.Error) {
	e, err := p.core.Lookup(name, version)
	if err != nil {
		return "", err
	}
	list := func(all []core.Tensor) string {
		var rows []string
		for _, t := range all {
			rows = append(rows, fmt.Sprintf(`{"name":"%s","datatype":"%s","shape":[%d]}`, t.Name, t.Datatype, t.Shape))
		}
		return strings.Join(rows, ",")
	}
	m := e.Model()
	b := appendJSON([]byte(`{"name":`), name)
	b = fmt.Appendf(b, `,"versions":["%d"],"platform":"%s","inputs":[%s],"outputs":[%s]}`,
		m.Version, m.Platform(), list(m.Inputs()), list(m.Outputs()))
	return string(b), nil
}

// config is the part of a model's configuration that says how it serves.
func (p *process) config(name, version string) (string, *core.Error) {
	e, err := p.core.Lookup(name, version)
	if err != nil {
		return "", err
	}
	list := func(all []core.Tensor) string {
		var rows []string
		for _, t := range all {
			datatype := t.Datatype
			if datatype == "BYTES" {
				datatype = "STRING"
			}
			rows = append(rows, fmt.Sprintf(`{"name":"%s","data_type":"TYPE_%s","dims":[%d],"optional":%t}`, t.Name, datatype, t.Shape, t.Optional))
		}
		return strings.Join(rows, ",")
	}
	m := e.Model()
	b := appendJSON([]byte(`{"name":`), name)
	b = fmt.Appendf(b, `,"platform":"%s","backend":"%s","version_policy":{"latest":{"num_versions":1}},"max_batch_size":0,"input":[%s],"output":[%s]`,
		map[core.Flavour]string{TRTLLM: "ensemble"}[m.Flavour], map[core.Flavour]string{VLLM: "vllm"}[m.Flavour], list(m.Inputs()), list(m.Outputs()))
	if m.QueueLimit > 0 || m.QueueTimeout > 0 {
		b = fmt.Appendf(b, `,"dynamic_batching":{"default_queue_policy":{"timeout_action":"REJECT","default_timeout_microseconds":%d,`+
			`"allow_timeout_override":true,"max_queue_size":%d}}`, m.QueueTimeout.Microseconds(), m.QueueLimit)
	}
	if m.Checkpoint != "" {
		b = append(appendJSON(append(b, `,"parameters":{"model":{"string_value":`...), m.Checkpoint), "}}"...)
	}
	return string(fmt.Appendf(b, `,"model_transaction_policy":{"decoupled":%t}}`, !m.Coupled)), nil
}
