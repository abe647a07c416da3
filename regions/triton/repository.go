package triton

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"

	"github.com/rhumb-lb/rhumb/regions"
)

// ModelState is the state of one version of a model in a repository, in
// Triton's words.
type ModelState string

// The states of a model version, from Triton's model repository extension of
// the KServe v2 protocol. A model that was never loaded has none.
const (
	StateUnknown     ModelState = "UNKNOWN"
	StateReady       ModelState = "READY"
	StateUnavailable ModelState = "UNAVAILABLE"
	StateLoading     ModelState = "LOADING"
	StateUnloading   ModelState = "UNLOADING"
)

// IndexEntry is one version of a model in a server's repository.
type IndexEntry struct {
	Name    regions.ModelName `json:"name"`
	Version string            `json:"version"` // empty for a model that was never loaded
	State   ModelState        `json:"state"`   // empty for a model that was never loaded
	Reason  string            `json:"reason"`  // why it is unavailable, such as "unloaded"
}

// Index lists what the repository of the server at an address holds, loaded or
// not, in the server's order. An answer other than 200 is a [*StatusError].
func (c *Client) Index(ctx context.Context, at netip.AddrPort) ([]IndexEntry, error) {
	got, err := c.exchange(ctx, at, call{method: http.MethodPost, path: "/v2/repository/index", body: "{}"})
	switch {
	case err != nil:
	case got.status != http.StatusOK:
		err = got.refusal()
	case got.cut:
		err = fmt.Errorf("the answer is longer than %d bytes", c.options.MaxBody)
	}
	if err != nil {
		return nil, fmt.Errorf("ask pod %s for its repository index: %w", at, err)
	}
	entries, err := decodeIndex(got.body)
	if err != nil {
		return nil, fmt.Errorf("read the repository index of pod %s: %w", at, err)
	}
	return entries, nil
}

// decodeIndex reads a repository index. A member that is not known is skipped,
// since Triton adds some between releases; an entry without a name is refused.
func decodeIndex(body []byte) ([]IndexEntry, error) {
	var entries []IndexEntry
	if err := json.Unmarshal(body, &entries); err != nil {
		return nil, fmt.Errorf("want a JSON list of models: %w", err)
	}
	for i, e := range entries {
		if e.Name == "" {
			return nil, fmt.Errorf("entry %d has no name", i+1)
		}
	}
	return entries, nil
}
