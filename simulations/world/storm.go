package world

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rhumb-lb/rhumb/director/node"
	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/simulations/client"
	"github.com/rhumb-lb/rhumb/simulations/layout"
)

// A storm is a bad day between continents.
const (
	stormDelay                  = 100 * time.Millisecond
	stormLoss  regions.Permille = 100
)

// stormFor is how long the storm lasts: eight times as long as the silence that
// makes a status stale, and about two hundred statuses between three regions and
// two directors.
const stormFor = 16 * time.Second

// stormProof is how much of the statuses due must be seen to be lost, in permille,
// for the storm to be there. Of 192 at 10 % loss fewer than 4 are lost in one of
// 500,000 storms; without a storm none is.
const stormProof = 20

// barometer counts the statuses that a director heard and those that it missed,
// by the gaps between them.
type barometer struct {
	heard        map[regions.ID]time.Time
	came, missed int
	oldest       time.Duration
}

// read takes in what the director knows now.
func (b *barometer) read(n *node.Node) {
	_, age := n.OldestStatus()
	b.oldest = max(b.oldest, age)
	for _, r := range n.Regions() {
		last, ok := b.heard[r.ID]
		b.heard[r.ID] = r.Heard
		if gap := r.Heard.Sub(last); ok && gap > 0 {
			b.came++
			b.missed += max(0, int((gap+regions.StatusEvery/2)/regions.StatusEvery)-1)
		}
	}
}

// watchSky reads a barometer at each director until the storm is over, and fails
// as soon as a director does not see every region ready. It adds all up.
func (w *World) watchSky(storm context.Context) (barometer, error) {
	var all barometer
	each := make([]barometer, layout.Directors)
	for d := range each {
		each[d].heard = map[regions.ID]time.Time{}
	}
	tick := time.NewTicker(client.PollEvery)
	defer tick.Stop()
	for storm.Err() == nil {
		for d, n := range w.directors {
			each[d].read(n)
		}
		if err := w.settled(allReady); err != nil {
			return all, err
		}
		select {
		case <-storm.Done():
		case <-tick.C:
		}
	}
	for _, b := range each {
		all.came, all.missed, all.oldest = all.came+b.came, all.missed+b.missed, max(all.oldest, b.oldest)
	}
	return all, nil
}

func (t *tour) stormy(ctx context.Context) (string, error) {
	if err := t.w.Weather(stormDelay, stormLoss); err != nil {
		return "", err
	}
	defer func() { _ = t.w.Weather(0, 0) }()
	var (
		sky     barometer
		streams atomic.Int64
	)
	g, ctx := errgroup.WithContext(ctx)
	storm, over := context.WithTimeout(ctx, stormFor)
	defer over()
	g.Go(func() (err error) {
		sky, err = t.w.watchSky(storm)
		return err
	})
	for i, h := range client.Homes {
		g.Go(func() error {
			for storm.Err() == nil {
				if err := t.whole(ctx, t.l.RedirectURL(i%layout.Directors), client.Question{Model: "llama", Tokens: 50, From: h}, h.Nearest); err != nil {
					return err
				}
				streams.Add(1)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return "", err
	}
	if due := sky.came + sky.missed; sky.missed*int(regions.Whole) < due*stormProof {
		return "", fmt.Errorf("only %d of %d statuses were lost: there was no storm, so nothing is proven", sky.missed, due)
	}
	return fmt.Sprintf("no region withdrawn in %v, with %d of %d statuses lost and one up to %v old; %d streams whole",
		stormFor, sky.missed, sky.came+sky.missed, sky.oldest.Round(10*time.Millisecond), streams.Load()), nil
}
