// Package balancing compares the ways to choose a pod: the agent's own pool and
// selectors in virtual time, over pods and requests as they are with language
// models, behind a line as the agent has one. The same seed gives the same run.
package balancing

import (
	"container/heap"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/balance"
	"github.com/rhumb-lb/rhumb/regions/pool"
)

const model = regions.ModelName("llama")

// start is where virtual time begins.
var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// Server is one simulated pod.
type Server struct {
	// Slots is how many requests it runs at a time; more wait inside of it.
	Slots int
	// Slower is how many times longer everything takes than on an ordinary pod.
	Slower float64
	// Up is when its probe finds it ready.
	Up time.Duration

	active int
	queue  []func()
	served int
}

// Scenario is a set of pods and what comes at them.
type Scenario struct {
	Name    string
	Servers []Server
	// Rate is requests per second, Poisson, and Burst how many more come within
	// 100 ms at BurstAt.
	Rate    float64
	Burst   int
	BurstAt time.Duration
	// Agents share the pods, each with a pool and a line of its own, and tell each
	// other twice a second what they have in flight.
	Agents int
	// Deaf agents don't hear of each other.
	Deaf bool
	// Requests that arrive before Warm are not measured; none arrive after Until.
	Warm, Until time.Duration
}

// Result is what a run measured.
type Result struct {
	TTFT   []time.Duration // of each measured request, from its arrival to its first byte
	Slow   int             // of these that were served by a pod slower than ordinary
	Most   []int           // per pod: requests on it at a time, at most
	Peak   []int           // per pod: requests on it right after the burst
	Starve int             // requests that were still waiting at the end
}

// Lengths of requests: a lognormal of prompts around 500 tokens and of answers
// around 150, both with a long tail, at speeds of a mid-size model on one GPU: 0.25
// ms for a token of a prompt and 25 ms for one of an answer. Each other request
// that runs makes all 3 % slower.
const (
	promptMedian, promptSigma = 500, 1.0
	answerMedian, answerSigma = 150, 0.8
	firstByte                 = 50e-3
	promptToken               = 0.25e-3
	answerToken               = 25e-3
	crowding                  = 0.03
	bytesPerToken             = 4
)

// Residence is how long a request holds a slot of an ordinary pod of 8 slots that
// is full, on average, in seconds.
func Residence() float64 {
	prompt := promptMedian * math.Exp(promptSigma*promptSigma/2)
	answer := answerMedian * math.Exp(answerSigma*answerSigma/2)
	return (firstByte + promptToken*prompt + answerToken*answer) * (1 + 7*crowding)
}

// Capacity is the requests per second that servers can serve: nominal, if all of
// them were ordinary, and actual.
func Capacity(servers []Server) (nominal, actual float64) {
	for _, s := range servers {
		nominal += float64(s.Slots) / Residence()
		actual += float64(s.Slots) / Residence() / s.Slower
	}
	return nominal, actual
}

// world is one run.
type world struct {
	scenario Scenario
	rng      *rand.Rand
	now      time.Time
	events   events
	order    uint64
	agents   []*agent
	result   Result
}

// agent is one agent: a pool, and a line in front of it.
type agent struct {
	world *world
	pool  *pool.Pool
	line  []*request
	busy  bool // the line is being looked at
	again bool
}

// request is one client's.
type request struct {
	regions.Request
	arrived        time.Time
	prompt, answer int // tokens
}

// Run runs a scenario with a way to choose a pod. Options are the pool's, but for
// its selector and seed.
func Run(s Scenario, name string, seed uint64, o pool.Options) (Result, error) {
	w := &world{scenario: s, now: start, rng: rand.New(rand.NewPCG(seed, 7))}
	w.scenario.Servers = slices.Clone(s.Servers)
	w.result.Most, w.result.Peak = make([]int, len(s.Servers)), make([]int, len(s.Servers))
	for i := range max(1, s.Agents) {
		a := &agent{world: w}
		rng := rand.New(rand.NewPCG(seed, uint64(100+i)))
		choice, err := balance.ByName(name, rng)
		if err != nil {
			return Result{}, err
		}
		o.Selector = func(regions.ModelName) balance.Selector { return choice }
		o.Seed = rng.Uint64()
		o.OnFree = func(regions.ModelName) { a.look() }
		a.pool = pool.New(o)
		w.agents = append(w.agents, a)
	}
	w.begin()
	for len(w.events) > 0 && w.now.Sub(start) < s.Until+s.Until/2 {
		e := heap.Pop(&w.events).(event)
		w.now = e.at
		e.do()
	}
	for _, a := range w.agents {
		w.result.Starve += len(a.line)
	}
	return w.result, nil
}

// begin plans what does not depend on the run: pods, reports and arrivals.
func (w *world) begin() {
	var set []regions.Pod
	for i := range w.scenario.Servers {
		set = append(set, regions.Pod{
			ID:     podID(i),
			HTTP:   netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), 8000),
			Models: []regions.PodModel{{Name: model, Slots: w.scenario.Servers[i].Slots}},
		})
	}
	for _, a := range w.agents {
		a.pool.SetPods(w.now, set)
		for i, s := range w.scenario.Servers {
			if s.Up == 0 {
				a.pool.SetState(w.now, podID(i), model, regions.PodReady)
				continue
			}
			w.after(s.Up, func() { a.pool.SetState(w.now, podID(i), model, regions.PodWarming) })
		}
	}
	w.every(100*time.Millisecond, func() {
		for _, a := range w.agents {
			a.pool.Tick(w.now)
		}
	})
	w.every(regions.StatusEvery, w.tell)
	w.arrive()
	for range w.scenario.Burst {
		w.after(w.scenario.BurstAt+time.Duration(w.rng.Int64N(int64(100*time.Millisecond))), w.one)
	}
	if w.scenario.Burst > 0 {
		w.after(w.scenario.BurstAt+100*time.Millisecond, func() {
			for i := range w.scenario.Servers {
				s := &w.scenario.Servers[i]
				w.result.Peak[i] = s.active + len(s.queue)
			}
		})
	}
}

func podID(i int) regions.PodID { return regions.PodID(fmt.Sprintf("pod-%02d", i)) }

// tell tells each agent what the others have in flight.
func (w *world) tell() {
	if w.scenario.Deaf {
		return
	}
	for i, from := range w.agents {
		for _, to := range w.agents {
			if to != from {
				to.pool.SetPeers(w.now, fmt.Sprint("agent-", i), from.pool.Loads())
			}
		}
	}
}

// arrive lets requests come one after the other.
func (w *world) arrive() {
	next := w.now.Sub(start) + seconds(w.rng.ExpFloat64()/w.scenario.Rate)
	if next > w.scenario.Until {
		return
	}
	w.after(next, func() {
		w.one()
		w.arrive()
	})
}

// one is a client's request, at any of the agents.
func (w *world) one() {
	session := w.rng.IntN(400)
	r := &request{
		arrived: w.now,
		prompt:  int(promptMedian * math.Exp(promptSigma*w.rng.NormFloat64())),
		answer:  1 + int(answerMedian*math.Exp(answerSigma*w.rng.NormFloat64())),
		Request: regions.Request{
			Model: model, Replayable: true, Affinity: fmt.Sprint("session-", session),
			Client: netip.AddrFrom4([4]byte{198, 51, 100, byte(session % 200)}),
			URI:    fmt.Sprint("/v2/models/llama/generate_stream?", session%100),
		},
	}
	a := w.agents[w.rng.IntN(len(w.agents))]
	a.pool.Arrive(model)
	a.line = append(a.line, r)
	a.look()
}

// look gives pods to those that wait, in their order, while there are any.
func (a *agent) look() {
	if a.busy {
		a.again = true
		return
	}
	a.busy = true
	defer func() { a.busy = false }()
	for a.again = true; a.again; {
		a.again = false
		for len(a.line) > 0 {
			lease, refusal := a.pool.Claim(a.world.now, a.line[0].Request)
			if refusal != pool.Claimed {
				break
			}
			r := a.line[0]
			a.line = a.line[1:]
			a.world.serve(r, lease)
		}
	}
}

// serve runs a request on the pod that it was given.
func (w *world) serve(r *request, lease *pool.Lease) {
	var i int
	_, _ = fmt.Sscanf(string(lease.Pod().ID), "pod-%d", &i)
	s := &w.scenario.Servers[i]
	claimed := w.now
	run := func() {
		s.active++
		speed := s.Slower * (1 + crowding*float64(s.active-1))
		first := seconds(speed * (firstByte + promptToken*float64(r.prompt)))
		last := first + seconds(speed*answerToken*float64(r.answer))
		begun := w.now.Sub(start)
		w.after(begun+first, func() {
			lease.Began(w.now, w.now.Sub(claimed), r.prompt*bytesPerToken)
			w.measure(r, s)
		})
		w.after(begun+last, func() {
			s.active--
			s.served++
			if len(s.queue) > 0 {
				next := s.queue[0]
				s.queue = s.queue[1:]
				next()
			}
			lease.Done(w.now, regions.Outcome{
				End: regions.EndServed, TTFT: begun + first - claimed.Sub(start), Took: w.now.Sub(claimed),
				SawBytes: true, Prompt: r.prompt * bytesPerToken,
			})
		})
	}
	if s.active < s.Slots {
		run()
	} else {
		s.queue = append(s.queue, run)
	}
	w.result.Most[i] = max(w.result.Most[i], s.active+len(s.queue))
}

func (w *world) measure(r *request, s *Server) {
	if r.arrived.Sub(start) < w.scenario.Warm {
		return
	}
	w.result.TTFT = append(w.result.TTFT, w.now.Sub(r.arrived))
	if s.Slower > 1 {
		w.result.Slow++
	}
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// event is something that happens at a time; of two at one time the one that was
// planned first.
type event struct {
	at    time.Time
	order uint64
	do    func()
}

// events are a heap, the next first.
type events []event

// Len implements heap.Interface.
func (e events) Len() int { return len(e) }

// Less implements heap.Interface.
func (e events) Less(i, j int) bool {
	return e[i].at.Before(e[j].at) || e[i].at.Equal(e[j].at) && e[i].order < e[j].order
}

// Swap implements heap.Interface.
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }

// Push implements heap.Interface.
func (e *events) Push(x any) { *e = append(*e, x.(event)) }

// Pop implements heap.Interface.
func (e *events) Pop() any {
	old := *e
	last := old[len(old)-1]
	*e = old[:len(old)-1]
	return last
}

// after plans something for a time since the start.
func (w *world) after(t time.Duration, do func()) {
	w.order++
	heap.Push(&w.events, event{start.Add(t), w.order, do})
}

// every plans something again and again, until some time after the last arrival.
func (w *world) every(d time.Duration, do func()) {
	var again func(time.Duration)
	again = func(t time.Duration) {
		if t > w.scenario.Until+w.scenario.Until/2 {
			return
		}
		w.after(t, func() {
			do()
			again(t + d)
		})
	}
	again(d)
}
