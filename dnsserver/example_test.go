package dnsserver_test

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/rhumb-lb/rhumb/dnsserver"
	"github.com/rhumb-lb/rhumb/dnsserver/dnstest"
)

// everywhere gives all clients the same region.
type everywhere struct{}

var region = &dnsserver.Answer{
	TTL:     20 * time.Second,
	Targets: []dnsserver.Target{{Addrs: []netip.Addr{netip.MustParseAddr("198.51.100.7")}}},
}

func (everywhere) Lookup(name string, _ netip.Prefix) (*dnsserver.Answer, uint8, dnsserver.Result) {
	if name == "llama.inference.test." {
		return region, 0, dnsserver.Found
	}
	return nil, 0, dnsserver.NotFound
}

func (everywhere) Generation() uint64 { return 1 }

func Example() {
	opts := dnsserver.DefaultOptions()
	opts.Zone.Name = "inference.test"
	opts.Zone.Serial = 1
	opts.Zone.NS = []dnsserver.NameServer{
		{Name: "ns1", Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.53")}},
		{Name: "ns2", Addrs: []netip.Addr{netip.MustParseAddr("198.51.100.53")}},
	}
	opts.Listen = []string{"127.0.0.1:0"}
	opts.Answerer = everywhere{}

	server, err := dnsserver.New(opts)
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := server.Bind(ctx); err != nil {
		fmt.Println(err)
		return
	}
	stopped := make(chan error)
	go func() { stopped <- server.Run(ctx) }()

	reply, err := dnstest.Ask(ctx, dnstest.Query{
		Server: server.Addrs()[0],
		Name:   "llama.inference.test",
		Subnet: netip.MustParsePrefix("81.2.69.0/24"),
	})
	fmt.Println(reply.Rcode, reply.Addrs, reply.TTL, reply.Scope, err)

	cancel()
	fmt.Println(<-stopped)
	// Output:
	// NOERROR [198.51.100.7] 20s 0 <nil>
	// <nil>
}
