package client

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/rhumb-lb/rhumb/regions"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestGone polls a director that gives these answers in turn, and then its last.
func TestGone(t *testing.T) {
	broken := errors.New("SERVFAIL")
	for _, tt := range []struct {
		name    string
		answers []regions.ID
		err     error
		after   time.Duration
		want    string // in the error; empty for none
	}{
		{"at once", []regions.ID{Heir}, nil, 0, ""},
		{"later", []regions.ID{Victim, Victim, Heir}, nil, 2 * PollEvery, ""},
		{"back once", []regions.ID{Heir, Heir, Victim, Heir}, nil, 3 * PollEvery, ""},
		{"never", []regions.ID{Victim}, nil, 0, "not out of the answers"},
		{"to a third region", []regions.ID{Victim, "ap-northeast"}, nil, 0, "gave ap-northeast"},
		{"no answer", []regions.ID{Victim, ""}, broken, 0, "SERVFAIL"},
	} {
		synctest.Test(t, func(t *testing.T) {
			left := tt.answers
			after, err := gone(t.Context(), time.Now(), func(context.Context) (regions.ID, error) {
				id := left[0]
				left = left[min(1, len(left)-1):]
				if id == "" {
					return "", tt.err
				}
				return id, nil
			})
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) || after != tt.after {
				t.Errorf("%s: %v, %v, want %v, %q", tt.name, after, err, tt.after, tt.want)
			}
		})
	}
}
