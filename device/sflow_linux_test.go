package device

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"testing"

	"decaf/device/sflow/sflowtest"
)

// Two switches send to one socket, each from an address of its own, and each
// shows as itself. An agent that is gone is counted, not waited for.
func TestSFlowOverUDP(t *testing.T) {
	addrs := []netip.Addr{netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.3")}
	l, err := openSFlow(SFlowConfig{Listen: "127.0.0.1:0", Switches: []SwitchConfig{
		{Name: "leaf1", Listen: "127.0.0.1:0", Agent: addrs[0], Interfaces: map[uint32]string{1: "swp1"}},
		{Name: "leaf2", Listen: "127.0.0.1:0", Agent: addrs[1], Interfaces: map[uint32]string{1: "Ethernet4"}},
	}}, sflowLog(t))
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	defer all.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel() // before the wait
	all.Go(func() {
		if err := l.run(ctx); err != nil {
			t.Error(err)
		}
	})
	type told struct{ device, ingress string }
	events := make(chan told, 16)
	watching := make([]*sflowSwitch, 2)
	ctx2, stop2 := context.WithCancel(ctx)
	defer stop2()
	gone := make(chan struct{})
	for i, name := range []string{"leaf1", "leaf2"} {
		s, ok := l.device(name)
		if !ok {
			t.Fatalf("no %s", name)
		}
		watching[i] = s
		ctx := ctx
		if i == 1 {
			ctx = ctx2
		}
		all.Go(func() {
			defer func() {
				if i == 1 {
					close(gone)
				}
			}()
			if err := s.observe(ctx, func(o observed) { events <- told{name, o.event.Ingress} }); err != nil {
				t.Error(err)
			}
		})
		poll(t, name+" is observed", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.handle != nil })
	}
	send := func(from, agent netip.Addr, seq uint32) {
		c, err := net.DialUDP("udp", &net.UDPAddr{IP: from.AsSlice()}, net.UDPAddrFromAddrPort(l.addr()))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write(sflowtest.Datagram{Agent: agent, Sequence: seq, Samples: [][]byte{sflowtest.Drop{Sequence: seq, Input: 1, Reason: 258}.Sample()}}.Bytes()); err != nil {
			t.Fatal(err)
		}
	}
	for i, want := range []told{{"leaf1", "swp1"}, {"leaf2", "Ethernet4"}} {
		send(addrs[i], addrs[i], 1)
		if got := <-events; got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	send(addrs[0], addrs[1], 2) // leaf1 speaks as leaf2
	poll(t, "the spoofed one is counted", func() bool { return l.spoofed.Load() == 1 })
	stop2()
	<-gone
	send(addrs[1], addrs[1], 2)
	poll(t, "what nobody hears is counted", func() bool { return watching[1].Counts().Nobody == 1 })
	if len(events) != 0 {
		t.Errorf("%d events more than sent", len(events))
	}
	if lost, _, _ := watching[1].counts(); lost != 1 {
		t.Errorf("leaf2 lost %d, want 1", lost)
	}
}
