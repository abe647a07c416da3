package pool_test

import (
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/pool"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConcurrentClaims(t *testing.T) {
	p := ready("a=llama:8,mistral:8 b=llama:8,mistral:8 c=llama:8")
	var all sync.WaitGroup
	for g := range 64 {
		all.Go(func() {
			model := []regions.ModelName{"llama", "mistral"}[g%2]
			for i := range 500 {
				p.Arrive(model)
				l, refusal := p.Claim(epoch, regions.Request{Model: model})
				for ; refusal == pool.Full; l, refusal = p.Claim(epoch, regions.Request{Model: model}) {
					runtime.Gosched()
				}
				if g == 0 && i%50 == 0 {
					p.SetPods(epoch, pods("a=llama:8,mistral:8 b=llama:8,mistral:8 d=llama:8"))
					p.SetState(epoch, "d", "llama", regions.PodReady)
				}
				if refusal != pool.Claimed {
					t.Errorf("%s: %v", model, refusal)
					return
				}
				if i%10 == 0 {
					p.Models(epoch, nil)
					p.Pods()
				}
				l.Done(epoch, regions.Outcome{End: regions.EndServed, Took: time.Second})
			}
		})
	}
	all.Wait()
	wantShow(t, p, "a/llama ready 0/8; a/mistral ready 0/8; b/llama ready 0/8; b/mistral ready 0/8; d/llama ready 0/8")
	for _, m := range p.Models(epoch, nil) {
		if m.Arrivals != 32*500 || m.Completions != 32*500 || m.InFlight+m.Queued != 0 {
			t.Errorf("%+v", m)
		}
	}
}

// machine is a random history of a pool beside the simplest bookkeeping of the
// same.
type machine struct {
	pool   *pool.Pool
	now    time.Time
	set    map[regions.PodID]regions.Pod
	states map[[2]string]regions.PodState
	leases []held
	done   []*pool.Lease
}

type held struct {
	lease *pool.Lease
	model regions.ModelName
}

func TestPoolProperties(t *testing.T) {
	ids := []regions.PodID{"a", "b", "c", "d"}
	models := []regions.ModelName{"llama", "mistral"}
	rapid.Check(t, func(t *rapid.T) {
		o := pool.DefaultOptions()
		o.Outlier.Errors = 1 // so that it happens
		m := &machine{
			pool: pool.New(o), now: epoch,
			set: map[regions.PodID]regions.Pod{}, states: map[[2]string]regions.PodState{},
		}
		t.Repeat(map[string]func(*rapid.T){
			"":        m.check,
			"setPods": func(t *rapid.T) { m.setPods(t, ids, models) },
			"setState": func(t *rapid.T) {
				m.setState(rapid.SampledFrom(ids).Draw(t, "pod"), rapid.SampledFrom(models).Draw(t, "model"),
					regions.PodState(rapid.IntRange(0, 4).Draw(t, "state")))
			},
			"claim": func(t *rapid.T) {
				m.claim(t, rapid.SampledFrom(models).Draw(t, "model"), rapid.SliceOfDistinct(rapid.SampledFrom(ids), rapid.ID).Draw(t, "tried"))
			},
			"release": m.release,
			"answer": func(t *rapid.T) {
				if len(m.leases) == 0 {
					t.Skip("nothing is claimed")
				}
				rapid.SampledFrom(m.leases).Draw(t, "lease").lease.Began(m.now, time.Duration(rapid.IntRange(1, 9000).Draw(t, "ms"))*time.Millisecond, 100)
			},
			"learn": func(t *rapid.T) {
				m.pool.Learn(m.now, rapid.SampledFrom(ids).Draw(t, "pod"), rapid.SampledFrom(models).Draw(t, "model"), regions.Facts{
					Active: rapid.IntRange(-1, 4).Draw(t, "active"), Waiting: rapid.IntRange(-1, 1).Draw(t, "waiting"), At: m.now,
				})
			},
			"peers": func(t *rapid.T) {
				m.pool.SetPeers(m.now, rapid.SampledFrom([]string{"p", "q"}).Draw(t, "agent"), []regions.PodLoad{{
					Pod: rapid.SampledFrom(ids).Draw(t, "pod"), Model: rapid.SampledFrom(models).Draw(t, "model"),
					InFlight: uint32(rapid.IntRange(0, 3).Draw(t, "in flight")),
				}})
			},
			"tick": func(*rapid.T) { m.pool.Tick(m.now) },
			"release again": func(t *rapid.T) {
				if len(m.done) == 0 {
					t.Skip("nothing was released yet")
				}
				rapid.SampledFrom(m.done).Draw(t, "lease").Done(m.now, regions.Outcome{End: regions.EndServed})
			},
			"pass time": func(t *rapid.T) {
				m.now = m.now.Add(time.Duration(rapid.IntRange(0, 5000).Draw(t, "ms")) * time.Millisecond)
			},
		})
	})
}

func (m *machine) setPods(t *rapid.T, ids []regions.PodID, models []regions.ModelName) {
	next := map[regions.PodID]regions.Pod{}
	states := map[[2]string]regions.PodState{}
	var set []regions.Pod
	for _, id := range ids {
		if rapid.Bool().Draw(t, "absent") {
			continue
		}
		p := pods(string(id) + rapid.SampledFrom([]string{"", "@y", "@z"}).Draw(t, "place") + "=x:1")[0]
		p.Terminating = rapid.IntRange(0, 3).Draw(t, "terminating") == 0
		p.Models = nil
		for _, name := range models {
			if slots := rapid.IntRange(0, 3).Draw(t, "slots"); slots > 0 {
				p.Models = append(p.Models, regions.PodModel{Name: name, Slots: slots})
				k := [2]string{string(id), string(name)}
				if old, ok := m.set[id]; ok && old.HTTP == p.HTTP && serves(old, name) {
					states[k] = m.states[k]
				} else {
					states[k] = regions.PodGone
				}
			}
		}
		next[id] = p
		set = append(set, p)
	}
	m.set, m.states = next, states
	m.pool.SetPods(m.now, set)
}

func serves(p regions.Pod, name regions.ModelName) bool {
	return slices.ContainsFunc(p.Models, func(m regions.PodModel) bool { return m.Name == name })
}

func (m *machine) setState(id regions.PodID, name regions.ModelName, st regions.PodState) {
	k := [2]string{string(id), string(name)}
	if _, ok := m.states[k]; ok {
		m.states[k] = st
	}
	m.pool.SetState(m.now, id, name, st)
}

// able reports whether a pod of the set takes requests for a model, by evidence
// and by opinion.
func (m *machine) able(id regions.PodID, name regions.ModelName) bool {
	return m.takes(id, name) && slices.ContainsFunc(m.pool.Pods(), func(i pool.PodInfo) bool {
		return i.ID == id && i.Model == name && i.State.Takes()
	})
}

// takes reports whether a pod of the set takes requests for a model by all
// evidence.
func (m *machine) takes(id regions.PodID, name regions.ModelName) bool {
	return m.states[[2]string{string(id), string(name)}].Takes() && !m.set[id].Terminating
}

func (m *machine) claim(t *rapid.T, name regions.ModelName, tried []regions.PodID) {
	lease, refusal := m.pool.Claim(m.now, regions.Request{Model: name, Tried: tried})
	able, left := 0, 0
	for id := range m.set {
		if m.able(id, name) {
			able++
			if !slices.Contains(tried, id) {
				left++
			}
		}
	}
	on := map[regions.ModelName]int{}
	switch refusal {
	case pool.Claimed:
		id := lease.Pod().ID
		if slices.Contains(tried, id) || !m.takes(id, name) || lease.Pod().HTTP != m.set[id].HTTP {
			t.Fatalf("claimed %s for %s, tried %v", id, name, tried)
		}
		m.leases = append(m.leases, held{lease, name})
		for _, h := range m.leases {
			if h.lease.Pod().ID == id && h.lease.Pod().HTTP == m.set[id].HTTP {
				on[h.model]++
			}
		}
		for _, pm := range m.set[id].Models {
			if pm.Name == name && on[name] > pm.Slots {
				t.Fatalf("%d of %s on %s of %d slots", on[name], name, id, pm.Slots)
			}
		}
	case pool.Full:
		if left == 0 {
			t.Fatalf("full, and a slot that frees is of no help")
		}
	case pool.AllTried:
		if able == 0 || left > 0 {
			t.Fatalf("all tried, with %d able and %d left", able, left)
		}
	default:
		if able > 0 {
			t.Fatalf("%v, with %d able", refusal, able)
		}
	}
}

func (m *machine) release(t *rapid.T) {
	if len(m.leases) == 0 {
		t.Skip("nothing is claimed")
	}
	i := rapid.IntRange(0, len(m.leases)-1).Draw(t, "lease")
	m.leases[i].lease.Done(m.now, regions.Outcome{
		End: regions.End(rapid.IntRange(1, 6).Draw(t, "end")), Took: time.Second, TTFT: time.Millisecond,
	})
	m.done = append(m.done, m.leases[i].lease)
	m.leases = slices.Delete(m.leases, i, i+1)
}

// check compares the pool with the bookkeeping after each step.
func (m *machine) check(t *rapid.T) {
	want := map[[2]string]int{}
	for _, h := range m.leases {
		want[[2]string{string(h.lease.Pod().ID), string(h.model)}]++
	}
	got, listed := map[[2]string]int{}, 0
	for _, info := range m.pool.Pods() {
		k := [2]string{string(info.ID), string(info.Model)}
		got[k] += info.InFlight
		if info.InFlight < 0 {
			t.Fatalf("%v has %d in flight", k, info.InFlight)
		}
		if info.State.Takes() {
			listed++
			if !m.takes(info.ID, info.Model) {
				t.Fatalf("%v is %v", k, info.State)
			}
		}
	}
	for k, n := range want {
		if got[k] != n {
			t.Fatalf("%v has %d in flight, want %d", k, got[k], n)
		}
	}
	m.checkHalf(t)
	total, taking := uint32(0), 0
	for _, s := range m.pool.Models(m.now, nil) {
		total += s.InFlight + s.Queued
		taking += s.Pods.Taking()
		if (s.Slots > 0) != (s.Pods.Taking() > 0) || s.Wait < 0 {
			t.Fatalf("%+v", s)
		}
	}
	if int(total) != len(m.leases) || taking != listed {
		t.Fatalf("%d in flight and %d pods taking, want %d and %d", total, taking, len(m.leases), listed)
	}
}

// checkHalf: of the pods that take requests by all evidence no more than half are
// ejected by opinion.
func (m *machine) checkHalf(t *rapid.T) {
	taking, ejected := map[regions.ModelName]int{}, map[regions.ModelName]int{}
	for _, info := range m.pool.Pods() {
		if !m.takes(info.ID, info.Model) || info.State == regions.PodDraining {
			continue // or one of its ID that has left
		}
		taking[info.Model]++
		if info.State == regions.PodEjected {
			ejected[info.Model]++
		}
	}
	for name, n := range ejected {
		if 2*n > taking[name] {
			t.Fatalf("%d of %d pods of %s are ejected", n, taking[name], name)
		}
	}
}
