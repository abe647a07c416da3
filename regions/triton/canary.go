package triton

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
)

// busyWords are what Triton says of a request that its own scheduler turned away
// before it ran: a full queue says nothing of the backend behind it.
var busyWords = []string{"Exceeds maximum queue size", "Request timeout expired"}

// Canary asks the server at an address to generate one token from a text, and
// says what was seen and how long that took. It finds a server whose core is well,
// and says so, while the process that computes is not. The error explains every
// sight but [regions.SawReady]:
//
//   - [regions.SawNotReady]: the model did not generate: an answer of 5xx, or one
//     of 200 with an error in it.
//   - [regions.SawRefused], [regions.SawClosed], [regions.SawTimeout]: as with
//     [Client.ModelReady].
//   - zero: nothing was learnt of the pod. Besides the reasons of
//     [Client.ModelReady]: the model takes no text, the server understood the
//     question otherwise than it was meant (any 4xx, or 501), or Triton's own queue
//     turned it away. A backend that has died is answered by 400, too: who knows that
//     the question is a good one, knows better.
//
// How a model is asked depends on its backend and is taken from its inputs: with
// max_tokens it is an ensemble of TensorRT-LLM, with sampling_param_max_tokens its
// LLM API, else vLLM.
func (c *Client) Canary(ctx context.Context, at netip.AddrPort, model regions.ModelName, text string) (regions.Sight, time.Duration, error) {
	began := time.Now()
	sight, err := c.canary(ctx, at, "/v2/models/"+url.PathEscape(string(model)), text)
	took := time.Since(began)
	if err != nil {
		return sight, took, fmt.Errorf("ask pod %s to generate a token with model %q: %w", at, string(model), err)
	}
	return sight, took, nil
}

func (c *Client) canary(ctx context.Context, at netip.AddrPort, path, text string) (regions.Sight, error) {
	about, err := c.metadata(ctx, at, path)
	if err != nil {
		// A refusal of metadata is for the readiness probe to see.
		return sightOf(err), err
	}
	question, err := canaryBody(about, text)
	if err != nil {
		return 0, err
	}
	got, err := c.exchange(ctx, at, call{method: http.MethodPost, path: path + "/generate", body: question})
	if err != nil {
		return sightOf(err), err
	}
	return canarySight(got)
}

// canarySight classes the answer to a canary.
func canarySight(got answer) (regions.Sight, error) {
	var said struct {
		Error *string `json:"error"`
	}
	isJSON := json.Unmarshal(got.body, &said) == nil
	switch {
	case got.status == http.StatusOK && (got.cut || isJSON && said.Error == nil):
		return regions.SawReady, nil // also with far more text than was asked for
	case got.status == http.StatusOK && isJSON:
		return regions.SawNotReady, fmt.Errorf("it answered with the error %.200q", *said.Error)
	case got.status == http.StatusOK:
		return regions.SawNotReady, errors.New("it answered with something that is no JSON")
	case got.status < http.StatusInternalServerError, got.status == http.StatusNotImplemented:
		return 0, got.refusal()
	}
	for _, words := range busyWords {
		if said.Error != nil && strings.Contains(*said.Error, words) {
			return 0, got.refusal()
		}
	}
	return regions.SawNotReady, got.refusal()
}

// canaryBody is the question, in the form that the model takes.
func canaryBody(about *metadata, text string) (string, error) {
	if !about.takes("text_input") {
		return "", errors.New("the model takes no text_input, so that there is nothing to generate from; turn the canary off")
	}
	question := map[string]any{"text_input": text}
	switch {
	case about.takes("max_tokens"):
		question["max_tokens"] = 1
		// Older ensembles want these, be they empty.
		for _, input := range []string{"bad_words", "stop_words"} {
			if about.takes(input) {
				question[input] = ""
			}
		}
	case about.takes("sampling_param_max_tokens"):
		question["sampling_param_max_tokens"] = 1
	default:
		question["parameters"] = map[string]any{"stream": false, "temperature": 0, "max_tokens": 1}
	}
	body, err := json.Marshal(question)
	return string(body), err
}
