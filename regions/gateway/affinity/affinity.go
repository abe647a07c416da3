// Package affinity finds what a request has in common with others that should meet
// on one pod.
package affinity

import (
	"net/http"
	"net/netip"
	"strings"

	"github.com/rhumb-lb/rhumb/regions"
)

// PromptBytes is how much of their prompts requests must have in common to meet: four
// blocks of a KV cache, of 16 tokens with 4 bytes each, as others count them. For less
// it is not worth meeting; and the more it is, the fewer meet whose common instructions
// are short. What others hash, 256 tokens, is four times as much.
const PromptBytes = 256

// Wants reports that an affinity needs to know how the prompt begins.
func Wants(a regions.Affinity) bool { return a.By == "prompt" }

// Of is what a request has in common with others, empty if there is nothing. key is
// the id of its API key and prompt the beginning of its prompt, empty if not known.
func Of(a regions.Affinity, r *http.Request, client netip.Addr, key string, prompt []byte) string {
	switch a.By {
	case "header":
		return strings.Join(r.Header.Values(a.Name), ",")
	case "cookie":
		c, err := r.Cookie(a.Name)
		if err != nil {
			return ""
		}
		return c.Value
	case "key":
		return key
	case "uri":
		return r.RequestURI
	case "client":
		if !client.IsValid() {
			return ""
		}
		return client.String()
	case "prompt":
		return string(prompt)
	default:
		return ""
	}
}
