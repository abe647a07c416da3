package client

import (
	"context"
	"fmt"
	"time"
)

const (
	// PollEvery is how often a client asks while it waits for something.
	PollEvery = 50 * time.Millisecond

	// Patience bounds each wait: several times what is promised, so that a slow
	// machine fails nothing. Times are printed, not judged.
	Patience = 20 * time.Second
)

// Until waits until cond holds, asking every 50 ms for up to 20 s; cond's last
// error says why it never did.
func Until(ctx context.Context, cond func() error) error {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	tick := time.NewTicker(PollEvery)
	defer tick.Stop()
	for {
		err := cond()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited for up to %v: %w", Patience, err)
		case <-tick.C:
		}
	}
}
