package world

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/rhumb-lb/rhumb/director"
	"github.com/rhumb-lb/rhumb/dnsserver/dnstest"
	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/simulations/client"
	"github.com/rhumb-lb/rhumb/simulations/layout"
)

// endless is a stream of London's that outlasts every step: 100 s and more.
var endless = client.Question{Model: "llama", Tokens: 5000, From: client.Homes[0]}

// moved is what every loss of a region must do: new answers leave it for the next
// nearest, by DNS and redirect, at both directors, and completions come whole from
// there.
func (t *tour) moved(ctx context.Context, strike func() error) (string, error) {
	took, err := t.client.Failover(ctx, strike)
	if err != nil {
		return "", err
	}
	saw := "new answers to " + client.Heir + " after"
	for _, m := range took {
		saw += fmt.Sprintf(" %.2f s (%s)", m.After.Seconds(), m.By)
	}
	for d := range layout.Directors {
		if err := t.whole(ctx, t.l.RedirectURL(d), client.Question{Model: "llama", Tokens: 8, From: client.Homes[0]}, client.Heir); err != nil {
			return "", err
		}
	}
	return saw, nil
}

// lost loses the client.Victim under a stream, which must not end as if it were
// complete. Where the client is told, the stream must end before it leaves.
func (t *tour) lost(ctx context.Context, told bool, strike func() error) (string, error) {
	here, leave := context.WithCancel(ctx)
	defer leave()
	s, err := t.client.Open(here, t.l.RedirectURL(1), endless)
	if err != nil {
		return "", err
	}
	saw, err := t.moved(ctx, strike)
	if err != nil {
		return "", err
	}
	if !told {
		leave()
	}
	if err := s.Wait(ctx); err != nil {
		return "", err
	}
	switch {
	case s.Got.Region != client.Victim:
		return "", fmt.Errorf("the stream under way came from %s, want %s", s.Got.Region, client.Victim)
	case s.Err == nil || errors.Is(s.Err, client.ErrShort):
		return "", fmt.Errorf("the stream under way %w after %d events", client.ErrShort, s.Got.Events)
	}
	return saw, nil
}

func (t *tour) darkened(ctx context.Context) (string, error) {
	saw, err := t.lost(ctx, false, func() error { return t.w.Darken(client.Victim) })
	return saw + "\n               the stream under way stalled, and its client was not told that it was complete", err
}

func (t *tour) killed(ctx context.Context) (string, error) {
	saw, err := t.lost(ctx, true, func() error { return t.w.Kill(client.Victim) })
	return saw + "\n               the stream under way was cut, and its client was told so", err
}

func (t *tour) healed(ctx context.Context) (string, error) {
	if err := t.w.Heal(ctx, client.Victim); err != nil {
		return "", err
	}
	return "London → eu-west again", t.normal(ctx)
}

// normal waits until the world is whole and London is sent to its nearest region.
func (t *tour) normal(ctx context.Context) error {
	if err := t.w.Ready(ctx); err != nil {
		return err
	}
	return client.Until(ctx, func() error {
		if err := t.everywhere(ctx, layout.Zone, client.Homes[0], client.Victim); err != nil {
			return err
		}
		return t.referred(ctx, client.Homes[0], client.Victim)
	})
}

// emptied crashes all pods of the client.Victim at once. Its gateway stays and forwards
// what still comes, from the first request on.
func (t *tour) emptied(ctx context.Context) (string, error) {
	s, err := t.w.site(client.Victim)
	if err != nil {
		return "", err
	}
	forwarded := make(chan error, 1)
	saw, err := t.moved(ctx, func() error {
		var crashes sync.WaitGroup
		for _, p := range s.pods {
			crashes.Go(p.Crash)
		}
		crashes.Wait()
		go func() {
			forwarded <- t.whole(ctx, t.l.GatewayURL(s.index), client.Question{Model: "llama", Tokens: 8, From: client.Homes[0]}, client.Heir)
		}()
		return nil
	})
	if err != nil {
		return "", err
	}
	if err := <-forwarded; err != nil {
		return "", err
	}
	for d, n := range t.w.directors {
		if p := n.Table().Place(client.Victim); p == nil || p.Verdict.State != director.Ready {
			return "", fmt.Errorf("%s does not see %s ready, though its agent is well", layout.DirectorName(d), client.Victim)
		}
	}
	return saw + "\n               who asks its gateway is forwarded one hop to " + client.Heir, nil
}

func (t *tour) drained(ctx context.Context) (string, error) {
	const tokens = 150 // 3 s, and new answers must be elsewhere for one second
	s, err := t.client.Open(ctx, t.l.RedirectURL(1), client.Question{Model: "llama", Tokens: tokens, From: client.Homes[0]})
	if err != nil {
		return "", err
	}
	saw, err := t.moved(ctx, func() error { return t.w.Drain(client.Victim, true) })
	if err != nil {
		return "", err
	}
	if !s.Under() {
		return "", errors.New("the stream under way ended before the drain was through")
	}
	if err := s.Wait(ctx); err != nil {
		return "", err
	}
	if s.Err != nil || s.Got.Region != client.Victim {
		return "", errors.Join(fmt.Errorf("the stream under way came from %s, %d of %d events", s.Got.Region, s.Got.Events, tokens), s.Err)
	}
	return saw + "\n               the stream under way went on and was whole", nil
}

func (t *tour) undrained(ctx context.Context) (string, error) {
	if err := t.w.Drain(client.Victim, false); err != nil {
		return "", err
	}
	return t.healed(ctx)
}

// all does something to every region.
func (t *tour) all(do func(region string) error) error {
	var errs []error
	for _, p := range layout.Places {
		errs = append(errs, do(string(p.ID)))
	}
	return errors.Join(errs...)
}

// referrals waits until both directors' redirectors answer as cond wants. All the
// while both name servers must answer everybody with a region, lost or not.
func (t *tour) referrals(ctx context.Context, cond func(status int, head http.Header) bool) (time.Duration, error) {
	at := time.Now()
	ctx, giveUp := context.WithCancel(ctx)
	defer giveUp()
	err := client.Until(ctx, func() error {
		for d := range layout.Directors {
			for _, h := range client.Homes {
				if _, err := t.client.Ask(ctx, d, false, layout.Zone, h); err != nil {
					giveUp() // once is too often
					return err
				}
			}
			status, head, err := t.client.Refer(ctx, d, client.Homes[0])
			if err != nil {
				return err
			}
			if !cond(status, head) {
				return fmt.Errorf("%s redirects with status %d and %v", layout.DirectorName(d), status, head)
			}
		}
		return nil
	})
	return time.Since(at), err
}

func (t *tour) allLost(ctx context.Context) (string, error) {
	if err := t.all(t.w.Kill); err != nil {
		return "", err
	}
	took, err := t.referrals(ctx, func(status int, head http.Header) bool {
		return status == http.StatusTemporaryRedirect && head.Get("Rhumb-Degraded") == "all-lost"
	})
	if err != nil {
		return "", err
	}
	for d := range layout.Directors {
		reply, err := dnstest.Ask(ctx, dnstest.Query{Server: t.l.DNS(d), Name: layout.Zone, Subnet: regions.Unit(client.Homes[0].Addr)})
		if err != nil {
			return "", err
		}
		if len(reply.EDE) == 0 {
			return "", fmt.Errorf("%s does not say in its answer that it is a guess", layout.DirectorName(d))
		}
	}
	err = t.all(func(region string) error { return t.w.Heal(ctx, region) })
	if err := errors.Join(err, t.normal(ctx)); err != nil {
		return "", err
	}
	return fmt.Sprintf("DNS never empty, redirects say all-lost after %.2f s; all are brought back", took.Seconds()), nil
}

func (t *tour) allDrained(ctx context.Context) (string, error) {
	if err := t.all(func(region string) error { return t.w.Drain(region, true) }); err != nil {
		return "", err
	}
	took, err := t.referrals(ctx, func(status int, head http.Header) bool {
		return status == http.StatusServiceUnavailable && head.Get("Retry-After") != ""
	})
	if err != nil {
		return "", err
	}
	if err := t.whole(ctx, t.l.GatewayURL(1), client.Question{Model: "llama", Tokens: 8, From: client.Homes[0]}, client.Victim); err != nil {
		return "", fmt.Errorf("who still comes to a drained region must be served: %w", err)
	}
	err = t.all(func(region string) error { return t.w.Drain(region, false) })
	if err := errors.Join(err, t.normal(ctx)); err != nil {
		return "", err
	}
	return fmt.Sprintf("DNS never empty, redirects refused with Retry-After after %.2f s; all are undrained", took.Seconds()), nil
}
