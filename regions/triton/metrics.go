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

// Metrics are what a Triton server's metrics page says of its GPUs and queues.
// What a page does not have is absent here too, not zero.
type Metrics struct {
	// GPUs is how many tell their utilisation, and Utilization its mean, from 0
	// to 1. Without GPUs it means nothing.
	GPUs        int
	Utilization float64
	Models      map[regions.ModelName]ModelMetrics
}

// ModelMetrics are what it says of one model, its versions and GPUs together.
// Triton counts a request when it is over, and knows of its own queue only: what
// waits inside a backend, as all does with vLLM, is not in it, nor what waits for
// an ensemble.
type ModelMetrics struct {
	Pending int64          // requests that wait in Triton's queue; -1 if not told (before Triton 23.09)
	Queued  regions.Micros // total time that requests have waited there
	Served  int64          // requests that succeeded, over which Queued adds up
}

const (
	// maxPage bounds a metrics page in bytes. Triton writes some 2 KB per model, so
	// that it holds 500 of them; a GPU serves a dozen at most.
	maxPage = 1 << 20

	// maxSeries bounds the series that are read: 4 for each model and version. It
	// holds two versions of those 500 models; more means that something counts wild.
	maxSeries = 4096

	// maxValue bounds a value, so that no sum of maxSeries overflows: 35 years in
	// microseconds.
	maxValue = 1 << 50
)

// The metrics that are read, as core/metrics.cc of Triton names them.
const (
	metricPending = "nv_inference_pending_request_count"
	metricQueued  = "nv_inference_queue_duration_us"
	metricServed  = "nv_inference_request_success"
	metricGPU     = "nv_gpu_utilization"
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
		switch string(line[:end]) {
		case metricPending, metricQueued, metricServed, metricGPU:
			out = append(out, line...)
			n++
		}
	}
	if n > maxSeries {
		return nil, fmt.Errorf("the page has %d series, more than %d", n, maxSeries)
	}
	return out, nil
}

// add takes in one sample.
func (m *Metrics) add(s *model.Sample) error {
	metric, value := string(s.Metric[model.MetricNameLabel]), float64(s.Value)
	if metric == metricGPU {
		// A driver that can't tell writes something huge, or not a number.
		if value >= 0 && value <= 1 {
			m.GPUs++
			m.Utilization += value
		}
		return nil
	}
	name := regions.ModelName(s.Metric["model"])
	if name == "" {
		return fmt.Errorf("%s has no model", metric)
	}
	if !(value >= 0 && value <= maxValue) { // not a number, it is neither
		return fmt.Errorf("%s of model %q is %v", metric, string(name), value)
	}
	of, known := m.Models[name]
	if !known {
		of.Pending = -1
	}
	switch metric {
	case metricPending:
		of.Pending = max(of.Pending, 0) + int64(value)
	case metricQueued:
		of.Queued += regions.Micros(value)
	case metricServed:
		of.Served += int64(value)
	}
	m.Models[name] = of
	return nil
}
