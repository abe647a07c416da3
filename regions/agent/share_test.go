package agent

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rhumb-lb/rhumb/gossip"
	"github.com/rhumb-lb/rhumb/gossip/fleet"
	"github.com/rhumb-lb/rhumb/gossip/gossiptest"
	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/pool"
)

// TestSharing is when an agent says what it has in flight, step by step.
func TestSharing(t *testing.T) {
	s := sharing{news: true}
	for i, x := range []struct {
		at   int // ms
		news bool
		wait int  // ms; -1 if nothing is to be said
		busy bool // if it is said
		size int
	}{
		{at: 0, wait: 0, size: 20},
		{at: 0, wait: 500, size: 20}, // that it is nothing is repeated
		{at: 500, wait: 0, size: 20},
		{at: 1000, wait: 0, size: 20},
		{at: 1500, wait: 0, size: 20},
		{at: 2000, wait: -1},
		{at: 9000, wait: -1},
		{at: 9001, news: true, wait: 0, busy: true, size: 100},
		{at: 9002, news: true, wait: 49},
		{at: 9050, wait: 1},
		{at: 9051, wait: 0, busy: true, size: 999},
		{at: 9052, wait: 499}, // unchanged
		{at: 9551, wait: 0, busy: true, size: 1000},
		{at: 9560, news: true, wait: 91}, // it takes two packets, and half as often
		{at: 9651, wait: 0, busy: true, size: 20_000},
		{at: 9700, news: true, wait: 451},
		{at: 10_151, wait: 0, size: 20},
		{at: 10_651, wait: 0, size: 20},
		{at: 11_151, wait: 0, size: 20},
		{at: 11_651, wait: 0, size: 20},
		{at: 12_151, wait: -1},
	} {
		s.news = s.news || x.news
		wait := s.wait(at(x.at))
		if want := time.Duration(x.wait) * time.Millisecond; wait != want && (x.wait >= 0 || wait >= 0) {
			t.Errorf("step %d at %d ms: wait %v, want %v", i+1, x.at, wait, want)
		}
		if wait == 0 {
			s.said(at(x.at), x.busy, x.size)
		}
	}
}

// crew are the agents of one region in virtual time: their pools, their gossip, and
// what each tells the others, without probes and gateways. All have the same pods.
type crew struct {
	t      *testing.T
	net    *gossiptest.Network
	agents []*hand
	specs  []regions.Pod
	rng    *rand.Rand
	wg     sync.WaitGroup

	mu   sync.Mutex
	mean time.Duration         // that a request lasts; an hour if zero; guarded by mu
	on   map[regions.PodID]int // requests of all agents; guarded by mu
	peak map[regions.PodID]int // the most of them; guarded by mu
}

// hand is one of them, with a line of requests that wait.
type hand struct {
	*Agent
	crew *crew
	stop context.CancelFunc

	mu     sync.Mutex
	line   int  // requests that wait; guarded by mu
	looks  bool // somebody serves the line; guarded by mu
	again  bool // and is to look again; guarded by mu
	served int
}

const crewModel = "llama"

// inCrew runs a test with some agents over some pods, all ready unless told
// otherwise, after they have found each other.
func inCrew(t *testing.T, agents, pods, slots int, st regions.PodState, f func(c *crew)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := &crew{
			t: t, net: gossiptest.NewNetwork(1), rng: rand.New(rand.NewPCG(3, 4)),
			on: map[regions.PodID]int{}, peak: map[regions.PodID]int{},
		}
		c.net.Delay(func(netip.AddrPort, netip.AddrPort) time.Duration { return time.Millisecond })
		for i := range pods {
			c.specs = append(c.specs, regions.Pod{
				ID: regions.PodID(fmt.Sprintf("pod-%02d", i)), HTTP: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, 0, byte(i)}), 8000),
				Models: []regions.PodModel{{Name: crewModel, Slots: slots}},
			})
		}
		fleets, err := fleet.NewAuthority("test", time.Now(), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		id, err := fleets.Issue(fleet.Request{Role: fleet.RoleRegion, Name: "eu-west", Grant: fleet.Grant{Endpoints: []regions.Endpoint{endpointOf("eu-west")}}}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		for i := range agents {
			c.join(i, id, fleet.NewRoots(fleets), st)
		}
		defer func() {
			for _, h := range c.agents {
				h.stop()
			}
			c.wg.Wait()
			c.pass(time.Minute) // memberlist's goroutines end late
		}()
		c.pass(30 * time.Second)
		for _, h := range c.agents {
			if n := len(h.gossip.Members()); n != agents {
				t.Fatalf("%s knows %d members", h.opts.Gossip.Name, n)
			}
		}
		f(c)
	})
}

// join starts an agent.
func (c *crew) join(i int, id *fleet.Identity, roots *fleet.Roots, st regions.PodState) {
	c.t.Helper()
	o := gossip.DefaultOptions()
	o.Name, o.Identity, o.Roots = fmt.Sprint("eu-west/agent-", i), id, roots
	o.Keys, o.Label = [][]byte{bytes.Repeat([]byte{7}, gossip.KeySize)}, "test"
	o.Transport = c.net.Transport(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 7946))
	o.Seeds = gossip.StaticSeeds("10.0.0.0:7946")
	h := &hand{Agent: &Agent{
		opts: Options{Region: "eu-west", Gossip: o, Now: time.Now}, log: slog.New(slog.DiscardHandler),
		pods: [][]regions.Pod{c.specs}, peers: map[string]word{},
	}, crew: c}
	o.OnRecord = h.heard
	node, err := gossip.New(o)
	if err != nil {
		c.t.Fatal(err)
	}
	h.gossip = node
	pools := pool.DefaultOptions()
	pools.Seed, pools.Models = uint64(i), []regions.ModelName{crewModel}
	pools.OnFree = func(regions.ModelName) { h.look() }
	h.pool = pool.New(pools)
	h.pool.SetPods(time.Now(), c.specs)
	for _, p := range c.specs {
		h.pool.SetState(time.Now(), p.ID, crewModel, st)
	}
	ctx, stop := context.WithCancel(context.Background())
	h.stop = stop
	c.agents = append(c.agents, h)
	c.wg.Go(func() {
		if err := node.Run(ctx); err != nil {
			c.t.Error(err)
		}
	})
	c.wg.Go(func() { _ = h.share(ctx) })
	c.wg.Go(func() { h.ticks(ctx) })
}

// ticks does what the agent's publisher and prober do besides.
func (h *hand) ticks(ctx context.Context) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			h.pool.Tick(time.Now())
			h.forgetPeers(time.Now())
		}
	}
}

// pass lets virtual time pass.
func (c *crew) pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// ask is a request at an agent.
func (h *hand) ask() {
	h.mu.Lock()
	h.line++
	h.mu.Unlock()
	h.look()
}

// look serves the line.
func (h *hand) look() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.again = true; h.looks {
		return
	}
	h.looks = true
	for h.again && h.line > 0 {
		h.again = false
		h.mu.Unlock()
		lease, refusal := h.pool.Claim(time.Now(), regions.Request{Model: crewModel})
		if refusal == pool.Claimed {
			h.crew.begin(lease)
		}
		h.mu.Lock()
		if refusal == pool.Claimed {
			h.line--
			h.served++
			h.again = true
		}
	}
	h.looks = false
}

// given is how many of its requests have been given a pod.
func (h *hand) given() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.served
}

// begin is a request on a pod, which answers after 100 ms.
func (c *crew) begin(lease *pool.Lease) {
	const ttft = 100 * time.Millisecond
	c.mu.Lock()
	defer c.mu.Unlock()
	id := lease.Pod().ID
	c.on[id]++
	c.peak[id] = max(c.peak[id], c.on[id])
	lasts := time.Hour
	if c.mean > 0 {
		lasts = ttft + time.Duration(c.rng.ExpFloat64()*float64(c.mean))
	}
	time.AfterFunc(ttft, func() { lease.Began(time.Now(), ttft, 10) })
	time.AfterFunc(lasts, func() { c.end(lease) })
}

func (c *crew) end(lease *pool.Lease) {
	c.mu.Lock()
	c.on[lease.Pod().ID]--
	c.mu.Unlock()
	lease.Done(time.Now(), regions.Outcome{End: regions.EndServed, TTFT: 100 * time.Millisecond, Took: time.Second})
}

// state are the numbers of requests on the pods and the highest that there were,
// both in order.
func (c *crew) state() (on, peak []int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.specs {
		on, peak = append(on, c.on[p.ID]), append(peak, c.peak[p.ID])
	}
	slices.Sort(on)
	slices.Sort(peak)
	return on, peak
}

// fill has requests come at each agent, so many in all, within some time.
func (c *crew) fill(within time.Duration, each ...int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, h := range c.agents {
		for range each[i] {
			time.AfterFunc(time.Duration(c.rng.Int64N(int64(within))), h.ask)
		}
	}
}

// TestBurst: 500 requests within 100 ms at the agents of ten pods of 32 slots, that
// have nothing to do before. No pod gets more than its slots and what the agents
// could not know of each other: each of them may give the last free slot away, which
// is one less than there are agents. No slot stays empty either, and those that
// could not hear each other would have filled the pods as often as they are.
func TestBurst(t *testing.T) {
	const slots = 32
	// Where an agent's first word is lost, another gives away what it would have until
	// the second, 50 ms later: of 250 requests within 100 ms 125 more, on ten pods.
	const lost = 13
	for _, x := range []struct {
		loss regions.Permille
		deaf bool
		each []int
		most int // on one pod
	}{
		{each: []int{250, 250}, most: slots + 1},
		{each: []int{250, 250}, loss: 100, most: slots + 1 + lost},
		{each: []int{450, 50}, most: slots + 1},
		{each: []int{500, 0}, most: slots},
		{each: []int{125, 125, 125, 125}, most: slots + 3},
		{each: []int{125, 125, 125, 125}, loss: 100, most: slots + 3 + lost},
		{each: []int{50, 50, 50, 50, 50, 50, 50, 50, 50, 50}, most: slots + 9},
		{each: []int{250, 250}, deaf: true, most: 50},
	} {
		t.Run(fmt.Sprint(x.each, " loss ", x.loss, " deaf ", x.deaf), func(t *testing.T) {
			inCrew(t, len(x.each), 10, slots, regions.PodReady, func(c *crew) {
				c.net.Loss(x.loss)
				if x.deaf {
					c.net.Cut(func(_, _ netip.AddrPort) bool { return true })
				}
				c.fill(100*time.Millisecond, x.each...)
				c.pass(time.Second)
				on, peak := c.state()
				t.Log("on the pods:", on)
				sum := 0
				for _, n := range on {
					sum += n
				}
				if most := peak[9]; most > x.most || x.deaf && most <= slots+slots/2 {
					t.Errorf("%d on one pod, want at most %d", most, x.most)
				}
				if on[0] < slots || 2*on[9]*10 > 3*sum {
					t.Errorf("from %d to %d on a pod", on[0], on[9])
				}
			})
		})
	}
}

// TestOverloadOfAgents: for 20 s more is asked than the pods can do, requests end all
// the time, and each slot that becomes free is seen by all agents. They give it to
// one request as a rule, and soon.
func TestOverloadOfAgents(t *testing.T) {
	const slots = 32
	for _, each := range [][]int{{2000, 2000}, {3800, 200}, {1000, 1000, 1000, 1000}} {
		t.Run(fmt.Sprint(each), func(t *testing.T) {
			inCrew(t, len(each), 10, slots, regions.PodReady, func(c *crew) {
				c.net.Loss(100)
				c.mu.Lock()
				c.mean = 2 * time.Second
				c.mu.Unlock()
				c.fill(20*time.Second, each...)
				c.pass(4 * time.Second)
				sum, looks := 0, 0
				for range 1500 {
					c.pass(10 * time.Millisecond)
					on, _ := c.state()
					for _, n := range on {
						sum += n
					}
					looks += len(on)
				}
				_, peak := c.state()
				mean := float64(sum) / float64(looks)
				t.Logf("at most %d on a pod, %.2f in the mean", peak[9], mean)
				if peak[9] > slots+len(each)-1 {
					t.Errorf("%d on one pod of %d slots and %d agents", peak[9], slots, len(each))
				}
				if mean < 0.98*slots {
					t.Errorf("%.2f on a pod in the mean while requests wait", mean)
				}
			})
		})
	}
}

// TestFirstPodOfMany: two agents with 400 requests each that wait, and of 30 pods one
// is ready first. It opens a tenth of its slots at once and the others as it answers,
// and each agent may give what is open away when it sees it, before the first word of
// the other. From then on they see each other's.
func TestFirstPodOfMany(t *testing.T) {
	const slots = 32
	inCrew(t, 2, 30, slots, regions.PodGone, func(c *crew) {
		c.fill(time.Second, 400, 400)
		c.pass(2 * time.Second)
		if on, _ := c.state(); on[29] != 0 {
			t.Fatalf("%d on a pod that is not there", on[29])
		}
		ready := func(i int) {
			for _, h := range c.agents {
				h.pool.SetState(time.Now(), c.specs[i].ID, crewModel, regions.PodWarming)
			}
		}
		ready(0)
		// Nothing was heard yet.
		const open = slots / 10
		if on, _ := c.state(); on[29] != 2*open {
			t.Errorf("%d on the first pod at once, want %d of each agent", on[29], open)
		}
		for i := range c.specs[1:] {
			c.pass(500 * time.Millisecond)
			ready(i + 1)
		}
		c.pass(20 * time.Second)
		on, peak := c.state()
		t.Log("on the pods:", on, "at most", peak[29])
		if peak[29] > slots+1 {
			t.Errorf("%d on a pod of %d slots", peak[29], slots)
		}
		if c.agents[0].given()+c.agents[1].given() != 800 {
			t.Errorf("%d and %d of 400 are served", c.agents[0].given(), c.agents[1].given())
		}
	})
}

// TestAgentIsGone: an agent holds all slots, and requests wait at the other. When it
// dies, the other takes them for free after 2 to 3 s; when it says goodbye, at once.
func TestAgentIsGone(t *testing.T) {
	const slots, pods = 8, 10
	for _, x := range []struct {
		name      string
		end       func(h *hand)
		from, all time.Duration // when the first and the last slot is given away
	}{
		{"it dies", func(h *hand) { h.gossip.Kill(); h.stop() }, 1900 * time.Millisecond, 3200 * time.Millisecond},
		{"it says goodbye", func(h *hand) { h.stop() }, 0, time.Second},
	} {
		t.Run(x.name, func(t *testing.T) {
			inCrew(t, 2, pods, slots, regions.PodReady, func(c *crew) {
				gone, stays := c.agents[0], c.agents[1]
				c.fill(100*time.Millisecond, slots*pods, 0)
				c.pass(time.Second)
				c.fill(100*time.Millisecond, 0, slots*pods)
				c.pass(10 * time.Second)
				if gone.given() != slots*pods || stays.given() != 0 {
					t.Fatalf("%d are served at the one and %d at the other", gone.given(), stays.given())
				}
				x.end(gone)
				at := time.Now()
				var first time.Duration
				for stays.given() < slots*pods {
					c.pass(10 * time.Millisecond)
					if stays.given() > 0 && first == 0 {
						first = time.Since(at)
					}
					if time.Since(at) > time.Minute {
						t.Fatalf("%d are served after a minute", stays.given())
					}
				}
				t.Log("the first slot after", first, "the last after", time.Since(at))
				if first < x.from-shareEvery || time.Since(at) > x.all {
					t.Errorf("the first slot after %v, the last after %v", first, time.Since(at))
				}
			})
		})
	}
}

// room is how many requests the agent would give a pod now.
func (h *hand) room() int {
	var held []*pool.Lease
	for {
		l, refusal := h.pool.Claim(time.Now(), regions.Request{Model: crewModel})
		if refusal != pool.Claimed {
			break
		}
		held = append(held, l)
	}
	for _, l := range held {
		l.Done(time.Now(), regions.Outcome{End: regions.EndNotStarted})
	}
	return len(held)
}

// TestPodThatIsFoundLater: what another agent has on a pod is known when the pod is
// found, and not only by the next report.
func TestPodThatIsFoundLater(t *testing.T) {
	const slots = 8
	inCrew(t, 2, 2, slots, regions.PodReady, func(c *crew) {
		late := c.agents[1]
		sees := func(pods []regions.Pod) {
			late.podsMu.Lock()
			defer late.podsMu.Unlock()
			late.pool.SetPods(time.Now(), pods)
			late.pods[0] = pods
			late.retellLocked()
			for _, p := range pods {
				late.pool.SetState(time.Now(), p.ID, crewModel, regions.PodReady)
			}
		}
		sees(c.specs[:1])
		c.fill(time.Millisecond, slots, 0) // half on each
		c.pass(900 * time.Millisecond)
		if got := late.room(); got != slots/2 {
			t.Errorf("room for %d on one pod", got)
		}
		sees(c.specs)
		if got := late.room(); got != slots {
			t.Errorf("room for %d on both", got)
		}
	})
}

// TestLoadOfOneThatIsCutOff: its slots are the other's after 3 s, and its own again
// when it is heard.
func TestLoadOfOneThatIsCutOff(t *testing.T) {
	const slots = 8
	inCrew(t, 2, 1, slots, regions.PodReady, func(c *crew) {
		c.fill(time.Millisecond, slots/2, 0)
		c.pass(time.Second)
		for _, x := range []struct {
			after time.Duration
			cut   bool
			want  int
		}{
			{0, true, slots / 2}, {1400 * time.Millisecond, true, slots / 2}, {2 * time.Second, true, slots}, {0, false, slots},
			{30 * time.Second, false, slots / 2},
		} {
			if c.net.Heal(); x.cut {
				c.net.Cut(func(_, _ netip.AddrPort) bool { return true })
			}
			c.pass(x.after)
			if got := c.agents[1].room(); got != x.want {
				t.Errorf("%v on, cut off %v: room for %d, want %d", x.after, x.cut, got, x.want)
			}
		}
	})
}
