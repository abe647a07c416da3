package regions

import (
	"crypto/sha256"
	"crypto/subtle"
	"strings"
)

// Bearer is the token of an Authorization field: "Bearer TOKEN", whose first word
// may be written in any case (RFC 9110 section 11.1). It is false for other schemes.
func Bearer(authorization string) (token string, ok bool) {
	scheme, token, _ := strings.Cut(authorization, " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", false
	}
	return strings.TrimSpace(token), true
}

// Token is a secret that callers show as a bearer token. Only its hash is kept.
type Token struct{ sum [sha256.Size]byte }

// NewToken makes a token of a secret, nil of an empty one.
func NewToken(secret string) *Token {
	if secret == "" {
		return nil
	}
	return &Token{sha256.Sum256([]byte(secret))}
}

// Shown reports whether an Authorization field has the token. Hashes of equal length
// are compared, so that the time tells nothing of it.
func (t *Token) Shown(authorization string) bool {
	said, ok := Bearer(authorization)
	sum := sha256.Sum256([]byte(said))
	return subtle.ConstantTimeCompare(sum[:], t.sum[:]) == 1 && ok
}
