package gossiptest_test

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rhumb-lb/rhumb/gossip/gossiptest"
)

var (
	a = netip.MustParseAddrPort("10.0.0.1:1")
	b = netip.MustParseAddrPort("10.0.0.2:1")
)

func TestPackets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := gossiptest.NewNetwork(1)
		from, to := n.Transport(a), n.Transport(b)
		n.Delay(func(netip.AddrPort, netip.AddrPort) time.Duration { return 40 * time.Millisecond })
		send := func(packets int) (arrived int) {
			t.Helper()
			for range packets {
				if _, err := from.WriteTo([]byte("x"), b.String()); err != nil {
					t.Fatal(err)
				}
			}
			<-time.After(40 * time.Millisecond)
			synctest.Wait()
			for {
				select {
				case p := <-to.PacketCh():
					if p.From.String() != a.String() {
						t.Errorf("from %v", p.From)
					}
					arrived++
				default:
					return arrived
				}
			}
		}
		start := time.Now()
		if got := send(10); got != 10 || time.Since(start) != 40*time.Millisecond {
			t.Errorf("%d of 10 arrived after %v", got, time.Since(start))
		}
		n.Loss(100)
		if got := send(1000); got < 850 || got > 950 {
			t.Errorf("%d of 1000 arrived at 10 %% loss", got)
		}
		n.Loss(0)
		n.Isolate(b)
		if got := send(10); got != 0 {
			t.Errorf("%d of 10 arrived where nothing passes", got)
		}
		n.Heal()
		if got := send(10); got != 10 {
			t.Errorf("%d of 10 arrived after the heal", got)
		}
		if err := to.Shutdown(); err != nil {
			t.Fatal(err)
		}
		if got := send(10); got != 0 {
			t.Errorf("%d of 10 arrived at who was shut down", got)
		}
	})
}

func TestStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := gossiptest.NewNetwork(1)
		from, to := n.Transport(a), n.Transport(b)
		n.Delay(func(netip.AddrPort, netip.AddrPort) time.Duration { return 40 * time.Millisecond })
		start := time.Now()
		c, err := from.DialTimeout(b.String(), time.Second)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			if _, err := c.Write([]byte("hello")); err != nil {
				t.Errorf("write: %v", err)
			}
		}()
		in := <-to.StreamCh()
		buf := make([]byte, 5)
		if _, err := in.Read(buf); err != nil || string(buf) != "hello" {
			t.Errorf("read %q, error %v", buf, err)
		}
		if took := time.Since(start); took != 120*time.Millisecond {
			t.Errorf("took %v, want a round trip and one way", took)
		}
		n.Isolate(b)
		if _, err := in.Read(buf); err == nil {
			t.Error("a stream outlived the cut")
		}
		start = time.Now()
		if _, err := from.DialTimeout(b.String(), time.Second); err == nil || time.Since(start) != time.Second {
			t.Errorf("connected through a cut: error %v after %v", err, time.Since(start))
		}
		n.Heal()
		if err := from.Shutdown(); err != nil {
			t.Fatal(err)
		}
		if _, err := from.DialTimeout(b.String(), time.Second); err == nil {
			t.Error("connected from a transport that was shut down")
		}
	})
}
