package regions

import "testing"

func TestToken(t *testing.T) {
	token := NewToken("s3cret")
	for said, want := range map[string]bool{
		"Bearer s3cret": true, "bearer s3cret": true, "BEARER   s3cret ": true,
		"": false, "s3cret": false, "Bearer": false, "Bearer ": false, "Bearer s3cre": false, "Bearer s3crett": false,
		"Basic s3cret": false, "Bearers3cret": false,
	} {
		if got := token.Shown(said); got != want {
			t.Errorf("%q: %v", said, got)
		}
	}
	if NewToken("") != nil {
		t.Error("an empty secret is a token")
	}
	if got, ok := Bearer("bearer a b"); !ok || got != "a b" {
		t.Errorf("%q, %v", got, ok)
	}
}
