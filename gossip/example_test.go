package gossip_test

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/rhumb-lb/rhumb/gossip"
	"github.com/rhumb-lb/rhumb/gossip/fleet"
	"github.com/rhumb-lb/rhumb/regions"
)

// A fleet made in memory, one director and one agent on loopback, until the
// director knows the agent's status.
func Example() {
	now := time.Now()
	authority, err := fleet.NewAuthority("example fleet", now, 24*time.Hour)
	if err != nil {
		panic(err)
	}
	director, err := authority.Issue(fleet.Request{Role: fleet.RoleDirector, Name: "d1"}, now)
	if err != nil {
		panic(err)
	}
	endpoint, err := regions.ParseEndpoint("https://192.0.2.1")
	if err != nil {
		panic(err)
	}
	region, err := authority.Issue(fleet.Request{
		Role: fleet.RoleRegion, Name: "eu-west",
		Grant: fleet.Grant{Endpoints: []regions.Endpoint{endpoint}, MaxSlots: 64},
	}, now)
	if err != nil {
		panic(err)
	}

	member := func(name string, identity *fleet.Identity, seeds ...string) *gossip.Node {
		o := gossip.DefaultOptions()
		o.Name, o.Identity, o.Roots = name, identity, fleet.NewRoots(authority)
		o.Bind, o.Seeds = netip.MustParseAddrPort("127.0.0.1:0"), gossip.StaticSeeds(seeds...)
		o.Keys, o.Label = [][]byte{make([]byte, gossip.KeySize)}, "example"
		n, err := gossip.New(o)
		if err != nil {
			panic(err)
		}
		return n
	}
	d := member("d1", director)
	a := member("eu-west/agent-1", region, d.Addrs()[0].String())

	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	for _, n := range []*gossip.Node{d, a} {
		go func() { done <- n.Run(ctx) }()
	}
	if err := a.PublishStatus(regions.Status{Region: "eu-west", Endpoints: []regions.Endpoint{endpoint}}); err != nil {
		panic(err)
	}
	<-d.Changes()
	for _, r := range d.Snapshot().Reports {
		fmt.Println(r.Status.Agent, "epoch", r.Status.Epoch, r.Status.Endpoints[0].URL())
	}
	cancel()
	fmt.Println(<-done, <-done)
	// Output:
	// eu-west/agent-1 epoch 1 https://192.0.2.1:443
	// <nil> <nil>
}
