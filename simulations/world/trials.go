package world

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
)

// victim is the region that the tour's faults strike, and its clients' home.
const victim = "eu-west"

func (t *tour) crashed(ctx context.Context) (string, error) {
	const each, tokens = 50, 30
	s, err := t.w.site(victim)
	if err != nil {
		return "", err
	}
	pod := s.pods[0]
	before := pod.Stats("llama")
	base := "http://" + t.l.Redirect(0).String()
	var (
		wg                sync.WaitGroup
		mu                sync.Mutex
		errs, whole       int
		first             error
		streaming, landed = 0, make(chan struct{})
	)
	for i := range 2 * each {
		verb, want := "generate_stream", tokens
		if i%2 == 1 {
			verb, want = "generate", 1
		}
		wg.Go(func() {
			g, err := generate(ctx, t.client, base, "llama", verb, tokens, homes[0], func() {
				mu.Lock()
				defer mu.Unlock()
				if streaming++; streaming == each/5 {
					close(landed)
				}
			})
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				errs++
				first = errors.Join(first, err)
			case g.events != want:
				first = errors.Join(first, fmt.Errorf("%s ended as if complete after %d of %d events", verb, g.events, want))
			default:
				whole++
			}
		})
	}
	select {
	case <-landed: // a fifth of the streams run
	case <-ctx.Done():
	case <-time.After(patience):
	}
	pod.Crash()
	wg.Wait()
	cut := int(pod.Stats("llama").CutStreams - before.CutStreams)
	if err := t.w.Heal(ctx, victim); err != nil {
		return "", err
	}
	if errs != cut || whole+errs != 2*each {
		return "", fmt.Errorf("%d errors, %d whole; the pod had begun %d streams: %w", errs, whole, cut, first)
	}
	return fmt.Sprintf("%d whole; %d cut, exactly the streams that had had a byte from that pod", whole, errs), t.w.Ready(ctx)
}

// lost is what every loss of a region must do: new answers leave it, by DNS and
// redirect, at both directors.
func (t *tour) lost(ctx context.Context, strike func() error) (string, error) {
	took, err := t.w.measure(ctx, strike)
	if err != nil {
		return "", err
	}
	saw := "out of new answers after"
	for _, m := range took {
		saw += fmt.Sprintf(" %.2f s (%s)", m.after.Seconds(), m.by)
	}
	return saw, nil
}

func (t *tour) darkened(ctx context.Context) (string, error) {
	return t.lost(ctx, func() error { return t.w.Darken(victim) })
}

func (t *tour) killed(ctx context.Context) (string, error) {
	return t.lost(ctx, func() error { return t.w.Kill(victim) })
}

func (t *tour) healed(ctx context.Context) (string, error) {
	if err := t.w.Heal(ctx, victim); err != nil {
		return "", err
	}
	if err := t.w.Ready(ctx); err != nil {
		return "", err
	}
	return "London → eu-west again", until(ctx, func() error { return t.everywhere(ctx, Zone, homes[0], victim) })
}

func (t *tour) drained(ctx context.Context) (string, error) {
	const tokens = 100
	result := make(chan error, 1)
	begun := make(chan struct{})
	var g generation
	go func() {
		var err error
		g, err = generate(ctx, t.client, "http://"+t.l.Redirect(1).String(), "llama", "generate_stream", tokens, homes[0], func() { close(begun) })
		result <- err
	}()
	select {
	case <-begun:
	case err := <-result:
		return "", fmt.Errorf("the stream ended before it began: %w", err)
	}
	if err := t.w.Drain(victim, true); err != nil {
		return "", errors.Join(err, <-result)
	}
	at := time.Now()
	away := until(ctx, func() error {
		got, err := t.l.ask(ctx, 0, false, Zone, homes[0])
		if err == nil && got == victim {
			err = errors.New("London is still sent to " + victim)
		}
		return err
	})
	took := time.Since(at)
	if err := errors.Join(away, <-result); err != nil {
		return "", err
	}
	if g.region != victim || g.events != tokens {
		return "", fmt.Errorf("the stream under way had %d events of %d from %s", g.events, tokens, g.region)
	}
	return fmt.Sprintf("new answers elsewhere after %.2f s, the stream under way was whole", took.Seconds()), nil
}

func (t *tour) undrained(ctx context.Context) (string, error) {
	if err := t.w.Drain(victim, false); err != nil {
		return "", err
	}
	return t.healed(ctx)
}

// A storm is a bad day between continents.
const (
	stormDelay                  = 100 * time.Millisecond
	stormLoss  regions.Permille = 100
)

// stormFor is how long the storm lasts: eight times as long as the silence that
// makes a status stale, and about a hundred statuses of each region.
const stormFor = 16 * time.Second

func (t *tour) stormy(ctx context.Context) (string, error) {
	if err := t.w.Weather(stormDelay, stormLoss); err != nil {
		return "", err
	}
	defer func() { _ = t.w.Weather(0, 0) }()
	end := time.NewTimer(stormFor)
	defer end.Stop()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	var oldest time.Duration
	var whose regions.ID
	for polls := 0; ; polls++ {
		for _, n := range t.w.directors {
			if id, age := n.OldestStatus(); age > oldest {
				oldest, whose = age, id
			}
		}
		if err := t.w.settled(allReady); err != nil {
			return "", fmt.Errorf("after %d polls: %w", polls, err)
		}
		select {
		case <-end.C:
			return fmt.Sprintf("no region withdrawn in %v, the oldest status was %v (%s)", stormFor, oldest.Round(10*time.Millisecond), whose), nil
		case <-ctx.Done():
			return "", ctx.Err()
		case <-tick.C:
		}
	}
}
