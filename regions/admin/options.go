package admin

import "crypto/tls"

// Options say where a daemon's admin API listens and who may use it.
type Options struct {
	// Listen is IP:port; empty for no admin API.
	Listen string
	// Token is what callers must send as "Authorization: Bearer TOKEN"; empty asks
	// for none. Token and TLS may change while the API is served.
	Token string
	// TLS serves the API over TLS; nil is plain HTTP.
	TLS *tls.Config
}

// Check refuses an address that other machines can reach, unless both TLS and a
// token guard it.
func (o Options) Check() error {
	if o.Listen == "" || (o.Token != "" && o.TLS != nil) {
		return nil
	}
	return CheckAddress(o.Listen)
}
