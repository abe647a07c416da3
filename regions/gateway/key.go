package gateway

import (
	"net/http"
	"strings"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/gateway/keyring"
)

// keyHeader is where the token may stand instead of in Authorization.
const keyHeader = "X-Api-Key"

// enter finds the key of a request and counts it against the key's rate. Without
// keys everybody enters; load balancers ask for health without one.
func (d *door) enter(v *visit, r *http.Request, path string) error {
	if d.keys == nil || v.route.name == routeHealth || strings.HasPrefix(path, health) {
		return nil
	}
	key, ok := d.keys.Check(tokenOf(r))
	if !ok {
		return unauthorized()
	}
	v.key = key
	if wait, ok := d.limiter.Admit(key, v.begun); !ok {
		return tooMany(wait)
	}
	return nil
}

// tokenOf is the token that a request carries, empty if it carries none or two
// that differ: then one of them is somebody else's.
func tokenOf(r *http.Request) string {
	bearer, found := "", r.Header.Values("Authorization")
	if len(found) > 1 {
		return ""
	}
	if len(found) == 1 {
		token, ok := regions.Bearer(found[0])
		if !ok {
			return ""
		}
		bearer = token
	}
	switch said := r.Header.Values(keyHeader); {
	case len(said) == 0:
		return bearer
	case len(said) == 1 && (bearer == "" || bearer == said[0]):
		return said[0]
	default:
		return ""
	}
}

// keyLabel is the key's id for logs and metrics, empty for nobody's.
func keyLabel(k *keyring.Key) string {
	if k == nil {
		return ""
	}
	return k.ID
}
