package resume

import (
	"bytes"
	"strings"
	"time"
	"unicode/utf8"
)

// Why a text has ended, in the words of vLLM and OpenAI.
const (
	finishStop   = "stop"
	finishLength = "length"
)

// progress is what a stream has come to, whatever protocol it is in.
type progress struct {
	limits Limits
	limit  int   // the tokens that were asked for
	many   bool  // there may be several texts, and why one has ended says nothing of the others
	stops  stops // the strings that end the text

	reason Reason // why it can't be resumed; empty if it can
	detail string

	given    []byte // the text that the client has
	broken   bool   // some of it was not whole characters
	tokens   int    // of all pods, less those that were lost
	lag      int    // the newest of tokens, which gave no text yet
	debt     int    // tokens that the client was told of and that were lost
	estimate bool   // some tokens were not counted by their pod

	seam   string // the end of the text at the cut, while a stop string may straddle it
	held   string // this pod's text, while it waits for what the seam turns out to be
	finish string // why the text has ended; empty while it goes on

	resumes int
	last    time.Time // of the newest resume
	length  int       // bytes of text that the client has
}

// portion is what one event of a pod adds.
type portion struct {
	text   string
	tokens int    // -1 if the pod did not count
	finish string // why the text ends with it; empty if more is to come or it does not say
	last   bool   // no more is to come, whatever finish says
}

// lose gives up resuming, for the first reason that comes.
func (p *progress) lose(why Reason) {
	if p.reason == "" {
		p.reason, p.given = why, nil
	}
}

// add takes a portion. It gives the text that is for the client, and tells whether
// a stop string was completed over the seam: the answer ends with that text.
func (p *progress) add(in portion) (text string, stopped bool) {
	if in.tokens < 0 {
		in.tokens, p.estimate = 1, true
	}
	p.tokens += in.tokens
	if in.finish != "" && !p.many {
		p.finish = in.finish
	}
	text = in.text
	if p.seam != "" {
		p.held += in.text
		text, stopped = p.pass(in.last || in.finish != "")
	}
	if stopped {
		p.finish = finishStop
	}
	if p.lag += in.tokens; text != "" {
		p.lag = 0
	}
	p.note(text)
	return text, stopped
}

// pass decides on the text that is held at the seam.
func (p *progress) pass(last bool) (text string, stopped bool) {
	end, open := p.stops.straddle(p.seam, p.held)
	if end < 0 && open && !last {
		return "", false
	}
	if text = p.held; end >= 0 {
		text = p.held[:end]
	}
	p.seam, p.held = "", ""
	return text, end >= 0
}

// note keeps text that the client is given.
func (p *progress) note(text string) {
	p.length += len(text)
	if p.reason != "" {
		return
	}
	if strings.ContainsRune(text, utf8.RuneError) {
		p.broken = true
	}
	if len(p.given)+len(text) > p.limits.Text {
		p.lose(ReasonText)
		return
	}
	p.given = append(p.given, text...)
}

// owe is how many tokens of a portion the client is to be told: those that were
// lost at the cut are generated twice, and counted once.
func (p *progress) owe(tokens int) int {
	paid := min(tokens, p.debt)
	p.debt -= paid
	return tokens - paid
}

// cut turns to another pod. It gives the tokens that it may generate.
func (p *progress) cut(now time.Time) (left int, err error) {
	if p.broken {
		p.lose(ReasonCharacter)
	}
	switch {
	case p.finish != "":
		return 0, ErrComplete
	case p.reason != "":
		return 0, &RefusalError{p.reason, p.detail}
	case p.stops.ended(p.given):
		p.finish = finishStop
		return 0, ErrComplete
	}
	if left = p.limit - p.tokens + p.lag; left <= 0 {
		p.finish = finishLength
		return 0, ErrComplete
	}
	switch early := p.last.Add(p.limits.Pause); {
	case p.resumes > p.limits.Resumes:
		return 0, ErrSpent
	case p.resumes == p.limits.Resumes && now.Before(early):
		return 0, &EarlyError{early}
	}
	p.resumes++
	p.last = now
	p.tokens -= p.lag
	p.debt += p.lag
	p.lag, p.held = 0, ""
	p.seam = p.stops.seam(p.given)
	return left, nil
}

// counts are for the caller.
func (p *progress) counts() Counts {
	return Counts{Resumes: p.resumes, Tokens: p.tokens, Exact: !p.estimate, Text: p.length}
}

// stops are the strings that end a text.
type stops struct {
	list []string
	// kept tells that the text ends behind the string rather than before it.
	kept bool
}

// seam is the end of a text that may be the beginning of a stop string; empty if
// none.
func (s stops) seam(text []byte) string {
	longest := 0
	for _, stop := range s.list {
		longest = max(longest, len(stop)-1)
	}
	for end := string(text[max(0, len(text)-longest):]); end != ""; end = end[1:] {
		for _, stop := range s.list {
			if len(end) < len(stop) && strings.HasPrefix(stop, end) {
				return end
			}
		}
	}
	return ""
}

// straddle looks for the stop string that is complete first in the texts before
// and after a seam, of those that begin before it. It gives where the text after
// the seam ends, -1 if none is complete, and whether one still may be.
func (s stops) straddle(before, after string) (end int, open bool) {
	text := before + after
	first := -1
	for at := range len(before) {
		for _, stop := range s.list {
			rest := text[at:]
			switch {
			case len(rest) < len(stop):
				open = open || strings.HasPrefix(stop, rest)
			case at+len(stop) <= len(before):
			case strings.HasPrefix(rest, stop) && (first < 0 || at+len(stop) < first):
				first = at + len(stop)
			}
		}
	}
	switch {
	case first < 0:
		return -1, open
	case s.kept:
		return first - len(before), false
	}
	return 0, false
}

// ended tells whether the text has come to a stop string.
func (s stops) ended(text []byte) bool {
	for _, stop := range s.list {
		if bytes.HasSuffix(text, []byte(stop)) {
			return true
		}
	}
	return false
}
