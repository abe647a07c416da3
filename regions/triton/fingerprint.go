package triton

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"

	"github.com/rhumb-lb/rhumb/regions"
)

// metadata is what a server says of a model beside its configuration.
type metadata struct {
	Versions []string `json:"versions"`
	Inputs   []struct {
		Name string `json:"name"`
	} `json:"inputs"`
}

// takes reports whether a model has an input.
func (m *metadata) takes(input string) bool {
	for _, i := range m.Inputs {
		if i.Name == input {
			return true
		}
	}
	return false
}

// version is the one that Triton serves to those who name none: the highest.
func (m *metadata) version() (uint32, error) {
	if len(m.Versions) == 0 {
		return 0, errors.New("the model has no versions")
	}
	var highest uint64
	for _, v := range m.Versions {
		n, err := strconv.ParseUint(v, 10, 32)
		if err != nil {
			return 0, fmt.Errorf("the model has a version %.20q, which is no number", v)
		}
		highest = max(highest, n)
	}
	return uint32(highest), nil
}

// Fingerprint tells which load of a model a server has: its highest version, and
// a hash of its configuration by which two pods agree if they serve the same.
//
// The hash is of the configuration as Triton completes it. Left out are the
// settings by which pods on different machines do the same thing: how many
// instances run on which GPUs (instance_group, the parameter gpu_device_ids), how
// requests are batched and scheduled (dynamic_batching), what is warmed up or
// cached (model_warmup, response_cache, optimization), and which versions are kept
// (version_policy). Settings with the value that they have when nobody sets them
// are left out too, so that a later Triton with one more setting agrees. All else
// counts, and above all parameters, in which backends have their engine and its
// options. The weights are not in a configuration: two that differ under one
// version and one configuration look the same.
//
// The hash is never 0. An answer other than 200 is a [*StatusError].
func (c *Client) Fingerprint(ctx context.Context, at netip.AddrPort, model regions.ModelName) (regions.Fingerprint, error) {
	mark, err := c.fingerprint(ctx, at, "/v2/models/"+url.PathEscape(string(model)))
	if err != nil {
		return regions.Fingerprint{}, fmt.Errorf("ask pod %s which load of model %q it has: %w", at, string(model), err)
	}
	return mark, nil
}

func (c *Client) fingerprint(ctx context.Context, at netip.AddrPort, path string) (regions.Fingerprint, error) {
	about, err := c.metadata(ctx, at, path)
	if err != nil {
		return regions.Fingerprint{}, err
	}
	version, err := about.version()
	if err != nil {
		return regions.Fingerprint{}, err
	}
	body, err := c.get(ctx, at, path+"/config")
	if err != nil {
		return regions.Fingerprint{}, err
	}
	hash, err := hashConfig(body)
	if err != nil {
		return regions.Fingerprint{}, err
	}
	return regions.Fingerprint{Version: version, ConfigHash: hash}, nil
}

// metadata asks for a model's metadata.
func (c *Client) metadata(ctx context.Context, at netip.AddrPort, path string) (*metadata, error) {
	body, err := c.get(ctx, at, path)
	if err != nil {
		return nil, err
	}
	about := &metadata{}
	if err := json.Unmarshal(body, about); err != nil {
		return nil, fmt.Errorf("want a model's metadata in JSON: %w", err)
	}
	return about, nil
}

// get is the body of an answer of 200.
func (c *Client) get(ctx context.Context, at netip.AddrPort, path string) ([]byte, error) {
	got, err := c.exchange(ctx, at, call{method: http.MethodGet, path: path})
	switch {
	case err != nil:
		return nil, err
	case got.status != http.StatusOK:
		return nil, got.refusal()
	case got.cut:
		return nil, fmt.Errorf("the answer is longer than %d bytes", c.options.MaxBody)
	default:
		return got.body, nil
	}
}

// placement are the settings that may differ between pods that serve the same.
var placement = []string{"instance_group", "dynamic_batching", "model_warmup", "response_cache", "optimization", "version_policy"}

// hashConfig is the hash of a configuration: FNV-1a of its JSON with sorted keys
// and without white space. It is for telling loads apart, not against forgery.
func hashConfig(text []byte) (uint64, error) {
	var config map[string]any
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber() // a number is hashed as it is written, not as a float64 rounds it
	if err := d.Decode(&config); err != nil {
		return 0, fmt.Errorf("want a model's configuration in JSON: %w", err)
	}
	if config["name"] == nil {
		return 0, errors.New("the model's configuration has no name")
	}
	for _, key := range placement {
		delete(config, key)
	}
	if parameters, ok := config["parameters"].(map[string]any); ok {
		delete(parameters, "gpu_device_ids")
	}
	canonical, err := json.Marshal(withoutDefaults(config))
	if err != nil {
		return 0, err
	}
	h := fnv.New64a()
	_, _ = h.Write(canonical) // a hash does not fail
	return max(1, h.Sum64()), nil
}

// withoutDefaults drops members that have the value of a setting that nobody sets,
// as protobuf defines it (proto3, default values). Items of lists stay, since
// their places count.
func withoutDefaults(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, member := range v {
			if member = withoutDefaults(member); isDefault(member) {
				delete(v, key)
			} else {
				v[key] = member
			}
		}
	case []any:
		for i := range v {
			v[i] = withoutDefaults(v[i])
		}
	}
	return v
}

func isDefault(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case bool:
		return !v
	case string:
		return v == ""
	case json.Number:
		return v == "0" || v == "0.0"
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	default:
		return false
	}
}
