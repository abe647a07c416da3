// Package affinity finds what requests have in common that should meet on one pod.
package affinity

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// By is a thing that requests can have in common.
type By string

// What requests can have in common.
const (
	None   By = ""
	Header By = "header" // the value of a header field
	Cookie By = "cookie" // the value of a cookie
	Key    By = "key"    // the API key, by its id
	URI    By = "uri"    // path and query
	Client By = "client" // the client's address
	// Prompt is how the prompt begins: pods keep what they computed of a prompt, and
	// need not do it again for another that begins alike. It is found in JSON bodies
	// (generate, chat and completions) within their first 64 KiB.
	Prompt By = "prompt"
)

const (
	// DefaultPrompt is how many bytes a prompt must have in common: four blocks of a KV
	// cache, of 16 tokens with 4 bytes each. For less it is not worth meeting; and the
	// more it is, the fewer meet whose common instructions are short.
	DefaultPrompt = 256

	// MaxPrompt is as much as 1,000 tokens, beyond which hardly anybody's instructions
	// begin to differ.
	MaxPrompt = 4096
)

// Rule says by what the requests for a model meet. The zero value is nothing.
type Rule struct {
	By By
	// Name is that of the header field or the cookie.
	Name string
	// Bytes is how much of a prompt is compared; 0 is DefaultPrompt.
	Bytes int
}

// Validate is the error of a rule that can't be used, as "what is wrong; what to do",
// and which of its settings is to blame: by, name or bytes.
func (r Rule) Validate() (setting string, err error) {
	named := r.By == Header || r.By == Cookie
	switch r.By {
	case None, Header, Cookie, Key, URI, Client, Prompt:
	default:
		return "by", fmt.Errorf("%q is unknown; write header, cookie, key, uri, client or prompt", string(r.By))
	}
	switch {
	case named && !httpguts.ValidHeaderFieldName(r.Name):
		return "name", fmt.Errorf("%q can't be the name of a %s; give its name", r.Name, r.By)
	case !named && r.Name != "":
		return "name", errors.New("only a header or a cookie has a name; leave it out")
	case r.Bytes < 0 || r.Bytes > MaxPrompt:
		return "bytes", fmt.Errorf("%d is out of range; write 1 to %d, or leave it out for %d", r.Bytes, MaxPrompt, DefaultPrompt)
	case r.By != Prompt && r.Bytes != 0:
		return "bytes", errors.New("only a prompt is compared by bytes; leave it out")
	}
	return "", nil
}

// PromptBytes is how much of a request's prompt the rule needs.
func (r Rule) PromptBytes() int {
	switch {
	case r.By != Prompt:
		return 0
	case r.Bytes == 0:
		return DefaultPrompt
	default:
		return r.Bytes
	}
}

// Of is what a request has in common with others, empty if there is nothing. key is
// the id of its API key and prompt how its prompt begins, both empty if not known.
func (r Rule) Of(req *http.Request, client netip.Addr, key string, prompt []byte) string {
	switch r.By {
	case Header:
		return strings.Join(req.Header.Values(r.Name), ",")
	case Cookie:
		c, err := req.Cookie(r.Name)
		if err != nil {
			return ""
		}
		return c.Value
	case Key:
		return key
	case URI:
		return req.RequestURI
	case Client:
		if !client.IsValid() {
			return ""
		}
		return client.String()
	case Prompt:
		return string(prompt)
	default:
		return ""
	}
}
