package triton

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/rhumb-lb/rhumb/regions"
)

// Metrics are what a Triton server's metrics page says of its GPUs, queues and
// backends. What a page does not have is absent here too, not zero.
type Metrics struct {
	// GPUs is how many tell their utilisation, and Utilization its mean, from 0
	// to 1. Without GPUs it means nothing.
	GPUs        int
	Utilization float64
	// MemoryUsed and MemoryTotal are the GPUs' together, in bytes; MemoryTotal is 0
	// if not told.
	MemoryUsed, MemoryTotal int64
	Models                  map[regions.ModelName]ModelMetrics
}

// ModelMetrics are what it says of one model, its versions and GPUs together.
// Triton counts a request when it is over, and knows of its own queue only: what
// waits inside a backend, as all does with vLLM, is not in it, nor what waits for
// an ensemble.
type ModelMetrics struct {
	Pending int64          // requests that wait in Triton's queue; -1 if not told (before Triton 23.09)
	Queued  regions.Micros // total time that requests have waited there
	Served  int64          // requests that succeeded, over which Queued adds up
	Failed  int64          // requests that failed, for whatever reason
	// Batch, KV and Tokens are nil for a model whose backend does not tell.
	Batch  *Batch
	KV     *KVCache
	Tokens *Tokens
}

// Batch is what the TensorRT-LLM backend says of its in-flight batching: a request
// waits, is scheduled with its context phase first, and is active from its arrival
// to its end. Each is -1 if not told.
type Batch struct {
	Waiting, Active, Scheduled, Context int64
	Max                                 int64 // the most requests that it takes into a batch
}

// KVCache is what the TensorRT-LLM backend says of its KV cache, in blocks.
type KVCache struct {
	Used, Max int64
	PerBlock  int64   // tokens in a block
	Fraction  float64 // in use, from 0 to 1, by the backend's own count; -1 if not told
}

// Full is how full the cache is; false if the page does not say. Used and Max go
// first, since of two versions they add up and the fractions don't.
func (k *KVCache) Full() (regions.Permille, bool) {
	switch {
	case k == nil:
		return 0, false
	case k.Max > 0:
		return regions.Permille(min(1, float64(k.Used)/float64(k.Max)) * float64(regions.Whole)), true
	case k.Fraction >= 0:
		return regions.Permille(k.Fraction * float64(regions.Whole)), true
	default:
		return 0, false
	}
}

// Tokens are the counters of the vLLM backend, which it has if the model's
// parameter REPORT_CUSTOM_METRICS is true.
type Tokens struct {
	Prompt, Generated int64
	// TTFT and PerToken are total times, over FirstTokens and LaterTokens.
	TTFT, PerToken           regions.Micros
	FirstTokens, LaterTokens int64
}

// Wait is how long the requests that succeeded between two pages of one server
// had waited in Triton's queue, on average; false if none did, or if the server
// began to count anew.
func (m ModelMetrics) Wait(before ModelMetrics) (regions.Micros, bool) {
	served, queued := m.Served-before.Served, m.Queued-before.Queued
	if served <= 0 || queued < 0 {
		return 0, false
	}
	return queued / regions.Micros(served), true
}

const (
	// maxPage bounds a metrics page in bytes. Triton writes some 2 KB per model, so
	// that it holds 500 of them; a GPU serves a dozen at most.
	maxPage = 1 << 20

	// maxSeries bounds the series that are read: 7 for each model and version, and
	// 9 more with TensorRT-LLM. It holds two versions of 128 models; more means that
	// something counts wild.
	maxSeries = 4096

	// maxValue bounds a value, so that no sum of maxSeries overflows: 35 years in
	// microseconds, a pebibyte.
	maxValue = 1 << 50
)

// Metrics asks the metrics server at an address, which is a port of its own. An
// answer other than 200 is a [*StatusError].
func (c *Client) Metrics(ctx context.Context, at netip.AddrPort) (Metrics, error) {
	got, err := c.exchange(ctx, at, call{method: http.MethodGet, path: "/metrics"})
	switch {
	case err != nil:
	case got.status != http.StatusOK:
		err = got.refusal()
	case got.cut:
		err = fmt.Errorf("the answer is longer than %d bytes", c.options.MaxBody)
	case len(got.body) == 0:
		// What Triton's metrics server answers to any path but its own.
		err = errors.New("the answer is empty; is that Triton's metrics port?")
	}
	if err != nil {
		return Metrics{}, fmt.Errorf("ask pod %s for its metrics: %w", at, err)
	}
	m, err := DecodeMetrics(got.body)
	if err != nil {
		return Metrics{}, fmt.Errorf("read the metrics of pod %s: %w", at, err)
	}
	return m, nil
}

// DecodeMetrics reads a metrics page in the Prometheus text format. Metrics that
// are not for us are skipped unread, since backends write what they like; one that
// is, but can't be read, spoils the page: half a sum would be believed.
func DecodeMetrics(page []byte) (Metrics, error) {
	wanted, err := wantedLines(page)
	if err != nil {
		return Metrics{}, err
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(wanted))
	if err != nil {
		return Metrics{}, err
	}
	m := Metrics{Models: map[regions.ModelName]ModelMetrics{}}
	for _, family := range families {
		samples, err := expfmt.ExtractSamples(&expfmt.DecodeOptions{}, family)
		if err != nil {
			return Metrics{}, err
		}
		for _, s := range samples {
			if err := m.add(s); err != nil {
				return Metrics{}, err
			}
		}
	}
	if m.GPUs > 0 {
		m.Utilization /= float64(m.GPUs)
	}
	return m, nil
}

// wantedLines are the lines of a page that hold metrics for us. The lines that say
// their types are left out too: what each is, is known.
func wantedLines(page []byte) ([]byte, error) {
	if len(page) > maxPage {
		return nil, fmt.Errorf("the page has %d bytes, more than %d", len(page), maxPage)
	}
	if len(page) > 0 && page[len(page)-1] != '\n' {
		return nil, errors.New("the page ends within a line") // within a number, perhaps
	}
	var out []byte
	n := 0
	for line := range bytes.Lines(page) {
		line = bytes.TrimLeft(line, " \t")
		end := bytes.IndexAny(line, "{ \t")
		if end < 0 {
			continue
		}
		if known(string(line[:end])) {
			out = append(out, line...)
			n++
		}
	}
	if n > maxSeries {
		return nil, fmt.Errorf("the page has %d series, more than %d", n, maxSeries)
	}
	return out, nil
}
