package regions

import (
	"testing"
	"time"
)

func TestTrust(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	trust := func(age time.Duration) Permille {
		return (&Facts{At: now.Add(-age)}).Trust(now)
	}
	for _, c := range []struct {
		age  time.Duration
		want Permille
	}{
		{-time.Hour, 1000}, {0, 1000}, {time.Second, 900}, {2500 * time.Millisecond, 750}, {5 * time.Second, 500}, {10 * time.Second, 250},
		{15 * time.Second, 125}, {45 * time.Second, 1}, {50 * time.Second, 0}, {1000 * time.Hour, 0},
	} {
		if got := trust(c.age); got != c.want {
			t.Errorf("after %v: %d, want %d", c.age, got, c.want)
		}
	}
	if got := (&Facts{}).Trust(now); got != 0 {
		t.Errorf("of what was never said: %d", got)
	}
	// It never rises, and within 100 ms it never falls by more than a hundredth.
	for age := time.Duration(0); age < time.Minute; age += 100 * time.Millisecond {
		if fall := trust(age) - trust(age+100*time.Millisecond); fall < 0 || fall > 10 {
			t.Errorf("at %v it falls by %d", age, fall)
		}
	}
}
