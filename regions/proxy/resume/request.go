package resume

import (
	"bytes"
	"strconv"
	"unicode/utf8"
)

// Bounds of stop strings. OpenAI takes 4 of them; they are searched for at the
// seam, each from each byte.
const (
	maxStops = 64
	maxStop  = 1 << 10
)

// request is what a client has sent, taken apart so far that it can be continued.
type request struct {
	profile  Profile
	dialect  *dialect
	unary    bool // an answer in one piece is wanted
	top      object
	nested   *object // parameters within the body
	sampling *object // sampling parameters in a string

	reason Reason
	detail string
	opaque bool // its events may be anything
	many   bool // it may have several answers, of which one ends before another

	limit  int
	stops  stops
	prompt []byte // raw
	whole  bool   // the answer in one piece has the prompt before it
	tells  bool   // the client's events say why the text has ended
}

// parseRequest reads a body. What can't be continued has a reason.
func parseRequest(p Profile, unary bool, body []byte) *request {
	r := &request{profile: p, dialect: p.dialect, unary: unary, top: object{text: body}}
	if p.dialect == nil {
		r.refuse(ReasonOff, "", false)
		return r
	}
	r.stops.kept = p.dialect.kept
	top, ok := parseObject(body)
	if !ok {
		r.refuse(ReasonBody, "", false)
		return r
	}
	r.top = top
	r.readLevels()
	r.readAll()
	r.tells = p.dialect.choices || p.dialect.asks && string(r.value(question+p.dialect.finish)) == "true"
	r.readPrompt()
	r.readLimit()
	r.readStops()
	return r
}

// refuse keeps the first reason.
func (r *request) refuse(why Reason, detail string, foldable bool) {
	if r.reason == "" {
		r.reason, r.detail = why, detail
	}
	r.opaque = r.opaque || !foldable
	switch why {
	case ReasonChoices, ReasonBeams, ReasonPrompt, ReasonBody, ReasonUnknown:
		r.many = true
	}
}

// readLevels finds the objects within the body.
func (r *request) readLevels() {
	if raw := r.top.value(r.dialect.nested); raw != nil && r.dialect.nested != "" {
		nested, ok := parseObject(raw)
		if !ok {
			r.refuse(ReasonBody, r.dialect.nested, false)
			return
		}
		r.nested = &nested
	}
	if raw := r.value(r.dialect.sampling); raw != nil && r.dialect.sampling != "" {
		text, _ := asString(raw)
		sampling, ok := parseObject([]byte(text))
		if !ok {
			r.refuse(ReasonBody, r.dialect.sampling, false)
			return
		}
		r.sampling = &sampling
	}
}

// levels are the objects that there are.
func (r *request) levels() []*object {
	list := []*object{&r.top}
	for _, o := range []*object{r.nested, r.sampling} {
		if o != nil {
			list = append(list, o)
		}
	}
	return list
}

// value is that of a key at the top or among the parameters.
func (r *request) value(name string) []byte {
	raw := r.top.value(name)
	if raw == nil && r.nested != nil {
		raw = r.nested.value(name)
	}
	return raw
}

// sampled is the value of a parameter of sampling: those in the string hide the
// others.
func (r *request) sampled(name string) []byte {
	if r.sampling != nil {
		return r.sampling.value(name)
	}
	return r.value(name)
}

// readAll holds every key against the table.
func (r *request) readAll() {
	seen := make(map[string]bool)
	for _, level := range r.levels() {
		for _, m := range level.members {
			if level != r.sampling && seen[m.name] {
				r.refuse(ReasonBody, m.name, false)
			}
			seen[m.name] = true
			raw := level.text[m.at:m.to]
			switch m.name {
			case r.dialect.prompt, r.dialect.limit, r.dialect.stops, r.dialect.sampling:
				// read by themselves
			case r.dialect.nested:
				if level != &r.top {
					r.refuse(ReasonUnknown, m.name, false)
				}
			default:
				r.readOne(m.name, raw)
			}
		}
	}
	if !r.unary && string(r.value("stream")) != "true" {
		r.refuse(ReasonUnary, "", false)
	}
}

func (r *request) readOne(name string, raw []byte) {
	if name == "stream_options" && r.profile.Name == openai {
		if o, ok := parseObject(raw); !ok || len(o.members) != 1 || o.members[0].name != "include_usage" {
			r.refuse(ReasonUnknown, name, false)
		}
		return
	}
	p, known := parameter(r.profile.Name, name)
	switch {
	case !known:
		r.refuse(ReasonUnknown, name, false)
	case p.Reason == "" && (raw[0] == '{' || raw[0] == '['):
		r.refuse(ReasonBody, name, false)
	case p.Reason == "":
	case r.unary && name == "stream":
		// With true, the answer is to be what generate makes of several.
		if string(raw) != "false" {
			r.refuse(ReasonUnary, "", false)
		}
	case r.unary && name == r.dialect.exclude:
		if string(raw) != "true" && string(raw) != "false" {
			r.refuse(ReasonBody, name, false)
		}
	case !p.without(raw):
		r.refuse(p.Reason, name, p.foldable)
	}
}

func (r *request) readPrompt() {
	r.prompt = r.value(r.dialect.prompt)
	if _, ok := asString(r.prompt); !ok {
		r.refuse(ReasonPrompt, "", false)
	}
	r.whole = r.unary && r.dialect.exclude != "" && string(r.value(r.dialect.exclude)) != "true"
}

func (r *request) readLimit() {
	raw := r.sampled(r.dialect.limit)
	if raw == nil {
		r.limit = r.dialect.unsaid
	} else if n, ok := asCount(bytes.Trim(raw, `"`)); ok {
		r.limit = n
	}
	if r.limit < 1 {
		r.refuse(ReasonLimit, r.dialect.limit, true)
	}
}

func (r *request) readStops() {
	raw := r.sampled(r.dialect.stops)
	if raw == nil || string(raw) == "null" {
		return
	}
	list, ok := asStrings(raw)
	for _, stop := range list {
		ok = ok && stop != "" && len(stop) <= maxStop
	}
	if !ok || len(list) > maxStops {
		r.refuse(ReasonStops, r.dialect.stops, true)
		return
	}
	r.stops.list = list
}

// asStrings is a raw value that is a string or a list of strings.
func asStrings(raw []byte) ([]string, bool) {
	if one, ok := asString(raw); ok {
		return []string{one}, true
	}
	if raw[0] != '[' {
		return nil, false
	}
	var list []string
	for at := skipSpace(raw, 1); raw[at] != ']'; at = skipSpace(raw, at) {
		if raw[at] == ',' {
			at = skipSpace(raw, at+1)
		}
		end := skipValue(raw, at)
		one, ok := asString(raw[at:end])
		if !ok || len(list) > maxStops {
			return nil, false
		}
		list = append(list, one)
		at = end
	}
	return list, true
}

// questions are the counters that the pod can be asked for and the client did not
// ask for.
func (r *request) questions() []string {
	if r.reason != "" || r.profile.Uncounted || !r.dialect.asks {
		return nil
	}
	var missing []string
	for _, field := range []string{r.dialect.finish, r.dialect.tokens, r.dialect.input} {
		if string(r.value(question+field)) != "true" {
			missing = append(missing, field)
		}
	}
	return missing
}

// first is the body for the first pod: the client's, but for questions.
func (r *request) first() []byte {
	var changes []change
	for _, field := range r.questions() {
		changes = append(changes, change{question + field, []byte("true")})
	}
	if r.unary {
		changes = append(changes, change{"stream", []byte("true")})
		if r.dialect.exclude != "" && string(r.value(r.dialect.exclude)) == "false" {
			changes = append(changes, change{r.dialect.exclude, []byte("true")})
		}
	}
	return r.with(changes, nil)
}

// continued is the body for another pod, which finds the given text behind the
// prompt and has so many tokens left.
func (r *request) continued(given []byte, left int) []byte {
	prompt := bytes.Clone(r.prompt[:len(r.prompt)-1])
	prompt = append(appendEscaped(prompt, string(given)), '"')
	changes := []change{{r.dialect.prompt, prompt}}
	number := strconv.AppendInt(nil, int64(left), 10)
	if raw := r.sampled(r.dialect.limit); raw != nil && raw[0] == '"' {
		number = appendQuoted(nil, string(number))
	}
	limit := change{r.dialect.limit, number}
	var sampling []change
	if r.sampling != nil {
		sampling = []change{limit}
	} else {
		changes = append(changes, limit)
	}
	if r.dialect.exclude != "" {
		changes = append(changes, change{r.dialect.exclude, []byte("true")})
	}
	if r.unary {
		changes = append(changes, change{"stream", []byte("true")})
	}
	for _, field := range r.questions() {
		changes = append(changes, change{question + field, []byte("true")})
	}
	return r.with(changes, sampling)
}

// with makes a body with changes, each where the client has the key, else at the
// top.
func (r *request) with(changes, sampling []change) []byte {
	if r.sampling != nil && len(sampling) > 0 {
		text := appendQuoted(nil, string(r.sampling.with(sampling...)))
		changes = append(changes, change{r.dialect.sampling, text})
	}
	var top, nested []change
	for _, c := range changes {
		if r.nested != nil && r.nested.find(c.name) >= 0 {
			nested = append(nested, c)
		} else {
			top = append(top, c)
		}
	}
	if len(nested) > 0 {
		top = append(top, change{r.dialect.nested, r.nested.with(nested...)})
	}
	return r.top.with(top...)
}

// forget lets go of the body, unless the answer is to have its prompt: nothing is
// sent again.
func (r *request) forget() {
	r.top, r.nested, r.sampling = object{}, nil, nil
	if !r.whole {
		r.prompt = nil
	}
}

// label is a client's word for a log: short and printable.
func label(name string) string {
	if len(name) > 64 || !utf8.ValidString(name) {
		return ""
	}
	return name
}
