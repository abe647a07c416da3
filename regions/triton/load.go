package triton

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/rhumb-lb/rhumb/regions"
)

// The fields by which a Triton tells its load with each generation: a client asks
// for it with the first, "text" or "json" being its formats, and reads it in the
// second (Open Request Cost Aggregation; Triton's http_server.cc).
const (
	LoadFormatField = "Endpoint-Load-Metrics-Format"
	LoadField       = "Endpoint-Load-Metrics"
)

// maxLoad bounds a report in bytes. Triton's has 90; an Envoy sends no header
// beyond 60 KiB, and 64 metrics of 60 bytes are more than anybody names.
const maxLoad = 4 << 10

// Load is what a pod says of its load beside an answer. Triton says it of the
// last model that has a KV cache, whatever model was asked.
type Load struct {
	KV       regions.Permille // of the KV cache, in use; -1 if not told
	Capacity int64            // of the KV cache, in tokens; 0 if not told
}

// ParseLoad reads the value of an [LoadField] field: "TEXT k=v, k=v" or "JSON
// {...}", metrics of that name at the top or in named_metrics. Metrics that are
// not known are skipped; one that is and has an impossible value is an error, as
// is a report with neither.
func ParseLoad(header string) (Load, error) {
	out := Load{KV: -1}
	if len(header) > maxLoad {
		return Load{KV: -1}, fmt.Errorf("the load report has %d bytes, more than %d", len(header), maxLoad)
	}
	format, rest, _ := strings.Cut(strings.TrimSpace(header), " ")
	var err error
	switch format {
	case "TEXT":
		err = out.text(rest)
	case "JSON":
		err = out.json(rest)
	default:
		err = errors.New("the load report is neither TEXT nor JSON")
	}
	if err == nil && out.KV < 0 && out.Capacity == 0 {
		err = errors.New("the load report has nothing that is known")
	}
	if err != nil {
		return Load{KV: -1}, err
	}
	return out, nil
}

// namedPrefix is that of metrics which are not of the standard's own.
const namedPrefix = "named_metrics."

func (l *Load) text(list string) error {
	for pair := range strings.SplitSeq(list, ",") {
		name, value, found := strings.Cut(strings.TrimSpace(pair), "=")
		if !found {
			return errors.New("the load report has something without a value")
		}
		name = strings.TrimPrefix(name, namedPrefix)
		if !loadMetric(name) {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return fmt.Errorf("%s is no number", name)
		}
		if err := l.set(name, v); err != nil {
			return err
		}
	}
	return nil
}

func (l *Load) json(text string) error {
	type metrics struct {
		KV       *float64 `json:"kv_cache_utilization"`
		Capacity *float64 `json:"max_token_capacity"`
	}
	var said struct {
		metrics
		Named metrics `json:"named_metrics"`
	}
	if err := json.Unmarshal([]byte(text), &said); err != nil {
		return fmt.Errorf("the load report is not JSON with numbers: %w", err)
	}
	for _, m := range []metrics{said.metrics, said.Named} {
		for _, x := range []struct {
			name  string
			value *float64
		}{{kvUtilization, m.KV}, {tokenCapacity, m.Capacity}} {
			if x.value == nil {
				continue
			}
			if err := l.set(x.name, *x.value); err != nil {
				return err
			}
		}
	}
	return nil
}

// The metrics of a load report that are read.
const (
	kvUtilization = "kv_cache_utilization"
	tokenCapacity = "max_token_capacity"
)

func loadMetric(name string) bool { return name == kvUtilization || name == tokenCapacity }

func (l *Load) set(name string, v float64) error {
	switch {
	case name == kvUtilization && v >= 0 && v <= 1:
		l.KV = regions.Permille(v * float64(regions.Whole))
	case name == tokenCapacity && v >= 0 && v <= maxValue:
		l.Capacity = int64(v)
	default: // not a number too
		return fmt.Errorf("%s is %v", name, v)
	}
	return nil
}
