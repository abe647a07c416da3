package voucher_test

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/rhumb-lb/rhumb/gossip/fleet"
	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/voucher"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func authority(t testing.TB) *fleet.Authority {
	t.Helper()
	a, err := fleet.NewAuthority("test", epoch.Add(-time.Hour), 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func identity(t testing.TB, a *fleet.Authority, role fleet.Role, name string) *fleet.Identity {
	t.Helper()
	r := fleet.Request{Role: role, Name: name, Lifetime: 12 * time.Hour}
	if role == fleet.RoleRegion {
		at, err := regions.ParseEndpoint("http://192.0.2.1")
		if err != nil {
			t.Fatal(err)
		}
		r.Grant.Endpoints = []regions.Endpoint{at}
	}
	id, err := a.Issue(r, epoch.Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

var request = regions.Request{Model: "llama", Key: "team-1", Class: regions.ClassHigh}

func TestVoucherIsGoodOnce(t *testing.T) {
	a := authority(t)
	us := identity(t, a, fleet.RoleRegion, "us-east")
	c := voucher.NewChecker("eu-west", fleet.NewRoots(a))
	field := voucher.Issue(us, "eu-west", request, epoch)
	v, err := c.Check(field, epoch.Add(time.Second))
	if err != nil || v.From != "us-east" || v.To != "eu-west" || v.Model != "llama" || v.Key != "team-1" || v.Class != regions.ClassHigh {
		t.Fatalf("%+v, %v", v, err)
	}
	for _, later := range []time.Duration{time.Second, 20 * time.Second, 30 * time.Second} {
		if _, err := c.Check(field, epoch.Add(later)); !errors.Is(err, voucher.ErrUsed) {
			t.Errorf("used again after %v: %v", later, err)
		}
	}
	// It is remembered for as long as it could come, also across what is forgotten.
	for sec := range 200 {
		now := epoch.Add(time.Duration(sec) * time.Second)
		mine := voucher.Issue(us, "eu-west", request, now.Add(29*time.Second))
		for i, ahead := range []int{0, 1, 30, 58} {
			_, err := c.Check(mine, now.Add(time.Duration(ahead)*time.Second))
			if want := i > 0; errors.Is(err, voucher.ErrUsed) != want {
				t.Fatalf("at %d s, %d s later: %v", sec, ahead, err)
			}
		}
	}
}

func TestVouchersThatAreNotGood(t *testing.T) {
	a, stranger := authority(t), authority(t)
	us := identity(t, a, fleet.RoleRegion, "us-east")
	good := voucher.Issue(us, "eu-west", request, epoch)
	part := strings.Split(good, ".")
	other := strings.Split(voucher.Issue(identity(t, a, fleet.RoleRegion, "ap-south"), "eu-west", request, epoch), ".")
	for name, tt := range map[string]struct {
		field string
		want  error
	}{
		"nothing":                      {"", voucher.ErrMalformed},
		"words":                        {"us-east", voucher.ErrMalformed},
		"two parts":                    {part[0] + "." + part[1], voucher.ErrMalformed},
		"not base64":                   {"?." + part[1] + "." + part[2], voucher.ErrMalformed},
		"not JSON":                     {base64.RawURLEncoding.EncodeToString([]byte("x")) + "." + part[1] + "." + part[2], voucher.ErrMalformed},
		"no nonce":                     {base64.RawURLEncoding.EncodeToString([]byte(`{"from":"us-east"}`)) + "." + part[1] + "." + part[2], voucher.ErrMalformed},
		"too long":                     {strings.Repeat("a", 5000), voucher.ErrMalformed},
		"another region's words":       {other[0] + "." + part[1] + "." + part[2], voucher.ErrForged},
		"another region's signature":   {part[0] + "." + part[1] + "." + other[2], voucher.ErrForged},
		"another region's certificate": {part[0] + "." + other[1] + "." + other[2], voucher.ErrForged},
		"a director's":                 {voucher.Issue(identity(t, a, fleet.RoleDirector, "us-east"), "eu-west", request, epoch), voucher.ErrForged},
		"another fleet's":              {voucher.Issue(identity(t, stranger, fleet.RoleRegion, "us-east"), "eu-west", request, epoch), voucher.ErrForged},
		"for another region":           {voucher.Issue(us, "ap-south", request, epoch), voucher.ErrElsewhere},
		"from here":                    {voucher.Issue(identity(t, a, fleet.RoleRegion, "eu-west"), "eu-west", request, epoch), voucher.ErrElsewhere},
		"too old":                      {voucher.Issue(us, "eu-west", request, epoch.Add(-31*time.Second)), voucher.ErrTime},
		"from the future":              {voucher.Issue(us, "eu-west", request, epoch.Add(31*time.Second)), voucher.ErrTime},
		"by a certificate out of date": {voucher.Issue(us, "eu-west", request, epoch.Add(20*time.Hour)), voucher.ErrForged},
	} {
		now := epoch
		if name == "by a certificate out of date" {
			now = epoch.Add(20 * time.Hour)
		}
		c := voucher.NewChecker("eu-west", fleet.NewRoots(a))
		if _, err := c.Check(tt.field, now); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
}

// FuzzCheck: whatever a client sends as a voucher is refused, and nothing breaks.
func FuzzCheck(f *testing.F) {
	a := authority(f)
	c := voucher.NewChecker("eu-west", fleet.NewRoots(a))
	good := voucher.Issue(identity(f, authority(f), fleet.RoleRegion, "us-east"), "eu-west", request, epoch)
	f.Add(good)
	f.Add("a.b.c")
	f.Add("..")
	f.Fuzz(func(t *testing.T, field string) {
		if v, err := c.Check(field, epoch); err == nil {
			t.Errorf("%q is a voucher of %q", field, v.From)
		}
	})
}
