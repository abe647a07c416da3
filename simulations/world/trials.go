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
)

// endless is a stream of London's that outlasts every step: 100 s and more.
var endless = question{model: "llama", tokens: 5000, from: homes[0]}

// moved is what every loss of a region must do: new answers leave it for the next
// nearest, by DNS and redirect, at both directors, and completions come whole from
// there.
func (t *tour) moved(ctx context.Context, strike func() error) (string, error) {
	took, err := t.w.measure(ctx, strike)
	if err != nil {
		return "", err
	}
	saw := "new answers to " + heir + " after"
	for _, m := range took {
		saw += fmt.Sprintf(" %.2f s (%s)", m.after.Seconds(), m.by)
	}
	for d := range directors {
		if err := t.whole(ctx, t.l.redirectURL(d), question{model: "llama", tokens: 8, from: homes[0]}, heir); err != nil {
			return "", err
		}
	}
	return saw, nil
}

// lost loses the victim under a stream, which must not end as if it were
// complete. Where the client is told, the stream must end before it leaves.
func (t *tour) lost(ctx context.Context, told bool, strike func() error) (string, error) {
	here, leave := context.WithCancel(ctx)
	defer leave()
	s, err := open(here, t.client, t.l.redirectURL(1), endless)
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
	if err := s.wait(ctx); err != nil {
		return "", err
	}
	switch {
	case s.got.region != victim:
		return "", fmt.Errorf("the stream under way came from %s, want %s", s.got.region, victim)
	case s.err == nil || errors.Is(s.err, errShort):
		return "", fmt.Errorf("the stream under way %w after %d events", errShort, s.got.events)
	}
	return saw, nil
}

func (t *tour) darkened(ctx context.Context) (string, error) {
	saw, err := t.lost(ctx, false, func() error { return t.w.Darken(victim) })
	return saw + "\n               the stream under way stalled, and its client was not told that it was complete", err
}

func (t *tour) killed(ctx context.Context) (string, error) {
	saw, err := t.lost(ctx, true, func() error { return t.w.Kill(victim) })
	return saw + "\n               the stream under way was cut, and its client was told so", err
}

func (t *tour) healed(ctx context.Context) (string, error) {
	if err := t.w.Heal(ctx, victim); err != nil {
		return "", err
	}
	return "London → eu-west again", t.normal(ctx)
}

// normal waits until the world is whole and London is sent to its nearest region.
func (t *tour) normal(ctx context.Context) error {
	if err := t.w.Ready(ctx); err != nil {
		return err
	}
	return until(ctx, func() error {
		if err := t.everywhere(ctx, Zone, homes[0], victim); err != nil {
			return err
		}
		return t.referred(ctx, homes[0], victim)
	})
}

// emptied crashes all pods of the victim at once. Its gateway stays and forwards
// what still comes, from the first request on.
func (t *tour) emptied(ctx context.Context) (string, error) {
	s, err := t.w.site(victim)
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
			forwarded <- t.whole(ctx, t.l.gatewayURL(s.index), question{model: "llama", tokens: 8, from: homes[0]}, heir)
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
		if p := n.Table().Place(victim); p == nil || p.Verdict.State != director.Ready {
			return "", fmt.Errorf("%s does not see %s ready, though its agent is well", directorName(d), victim)
		}
	}
	return saw + "\n               who asks its gateway is forwarded one hop to " + heir, nil
}

func (t *tour) drained(ctx context.Context) (string, error) {
	const tokens = 150 // 3 s, and new answers must be elsewhere for one second
	s, err := open(ctx, t.client, t.l.redirectURL(1), question{model: "llama", tokens: tokens, from: homes[0]})
	if err != nil {
		return "", err
	}
	saw, err := t.moved(ctx, func() error { return t.w.Drain(victim, true) })
	if err != nil {
		return "", err
	}
	if !s.under() {
		return "", errors.New("the stream under way ended before the drain was through")
	}
	if err := s.wait(ctx); err != nil {
		return "", err
	}
	if s.err != nil || s.got.region != victim {
		return "", errors.Join(fmt.Errorf("the stream under way came from %s, %d of %d events", s.got.region, s.got.events, tokens), s.err)
	}
	return saw + "\n               the stream under way went on and was whole", nil
}

func (t *tour) undrained(ctx context.Context) (string, error) {
	if err := t.w.Drain(victim, false); err != nil {
		return "", err
	}
	return t.healed(ctx)
}

// all does something to every region.
func (t *tour) all(do func(region string) error) error {
	var errs []error
	for _, p := range places {
		errs = append(errs, do(string(p.id)))
	}
	return errors.Join(errs...)
}

// referrals waits until both directors' redirectors answer as cond wants. All the
// while both name servers must answer everybody with a region, lost or not.
func (t *tour) referrals(ctx context.Context, cond func(status int, head http.Header) bool) (time.Duration, error) {
	at := time.Now()
	ctx, giveUp := context.WithCancel(ctx)
	defer giveUp()
	err := until(ctx, func() error {
		for d := range directors {
			for _, h := range homes {
				if _, err := t.l.ask(ctx, d, false, Zone, h); err != nil {
					giveUp() // once is too often
					return err
				}
			}
			status, head, err := t.l.refer(ctx, d, t.client, homes[0])
			if err != nil {
				return err
			}
			if !cond(status, head) {
				return fmt.Errorf("%s redirects with status %d and %v", directorName(d), status, head)
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
	for d := range directors {
		reply, err := dnstest.Ask(ctx, dnstest.Query{Server: t.l.DNS(d), Name: Zone, Subnet: regions.Unit(homes[0].addr)})
		if err != nil {
			return "", err
		}
		if len(reply.EDE) == 0 {
			return "", fmt.Errorf("%s does not say in its answer that it is a guess", directorName(d))
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
	if err := t.whole(ctx, t.l.gatewayURL(1), question{model: "llama", tokens: 8, from: homes[0]}, victim); err != nil {
		return "", fmt.Errorf("who still comes to a drained region must be served: %w", err)
	}
	err = t.all(func(region string) error { return t.w.Drain(region, false) })
	if err := errors.Join(err, t.normal(ctx)); err != nil {
		return "", err
	}
	return fmt.Sprintf("DNS never empty, redirects refused with Retry-After after %.2f s; all are undrained", took.Seconds()), nil
}
