package device

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"decaf/api/packet"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// readNFLOG opens the source in a node.
func (n *node) readNFLOG(cfg NFLOGConfig) *nflog {
	n.t.Helper()
	var s *nflog
	n.must("open nflog", n.do(func() error {
		names, err := openInterfaces(sflowLog(n.t))
		if err != nil {
			return err
		}
		n.t.Cleanup(names.close)
		s, err = openNFLOG(cfg, names.name, sflowLog(n.t))
		return err
	}))
	n.t.Cleanup(s.close)
	return s
}

// observeAll runs a source until the test ends.
func observeAll(t *testing.T, s observer) <-chan observed {
	t.Helper()
	events := make(chan observed, 4096)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.observe(ctx, func(o observed) { events <- o }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return events
}

// The kernel's own log statement, in a router that drops by rule: the event
// names the rule.
func TestNFLOGNamesTheRule(t *testing.T) {
	l := newLab(t)
	l.r.portRule(nftables.ChainHookForward, 7001, logged(12, "acl-12"), dropped)
	l.r.portRule(nftables.ChainHookPrerouting, 7002, logged(12, "acl-early: "), dropped)
	l.r.portRule(nftables.ChainHookForward, 7003, logged(13, "rate-5"), dropped)
	s := l.r.readNFLOG(NFLOGConfig{Groups: []uint16{12, 13}, Classes: []NFLOGClass{{"rate-", PolicyL3Policer}}})
	events := observeAll(t, s)
	for i, tc := range []struct {
		name, dst, class, reason, ingress, egress string
		ttl                                       uint32
	}{
		{"forward", "10.0.2.2:7001", PolicyL3ACL, "acl-12", "eth1", "eth2", 8},
		{"forward v6", "[fd00:2::2]:7001", PolicyL3ACL, "acl-12", "eth1", "eth2", 8},
		{"prerouting", "10.0.2.2:7002", PolicyL3ACL, "acl-early", "eth1", "", 9},
		{"another group, another class", "10.0.2.2:7003", PolicyL3Policer, "rate-5", "eth1", "eth2", 8},
	} {
		dst := addrPort(tc.dst)
		src := addrPort(fmt.Sprintf("10.0.1.2:%d", 40000+i))
		if dst.Addr().Is6() {
			src = addrPort(fmt.Sprintf("[fd00:1::2]:%d", 40000+i))
		}
		p := packet.Probe{Flow: packet.Flow{Src: src, Dst: dst, Proto: packet.TCP}, TTL: 9, Seq: 0xdeadbeef, Ack: 77, ID: 4711}
		b, err := p.Marshal(nil)
		if err != nil {
			t.Fatal(err)
		}
		l.h1.sendRaw(b)
		var o observed
		select {
		case o = <-events:
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: no event", tc.name)
		}
		ev := o.event
		if ev.Class != tc.class || ev.Reason != tc.reason || ev.Source != "nflog" || ev.Ingress != tc.ingress || ev.Egress != tc.egress {
			t.Errorf("%s: class %q, reason %q, source %q, in %q, out %q", tc.name, ev.Class, ev.Reason, ev.Source, ev.Ingress, ev.Egress)
		}
		got, err := packet.FlowFromPB(ev.Packet.GetFlow())
		if err != nil || got != p.Flow {
			t.Errorf("%s: flow %v, %v; want %v", tc.name, got, err, p.Flow)
		}
		if ev.Packet.GetTcpSeq() != 0xdeadbeef || ev.Packet.GetTtl() != tc.ttl || o.bytes != uint64(len(b)) || len(ev.Packet.GetHeader()) != len(b) {
			t.Errorf("%s: seq %#x, ttl %d, %d bytes, %d of header", tc.name, ev.Packet.GetTcpSeq(), ev.Packet.GetTtl(), o.bytes, len(ev.Packet.GetHeader()))
		}
		if dst.Addr().Is4() && ev.Packet.GetIpId() != 4711 {
			t.Errorf("%s: ip id %d", tc.name, ev.Packet.GetIpId())
		}
		if mac := net.HardwareAddr(ev.Packet.GetSrcMac()).String(); mac != l.h1.link("eth0").Attrs().HardwareAddr.String() {
			t.Errorf("%s: source mac %s is not that of h1", tc.name, mac)
		}
		if d := time.Since(time.Unix(0, int64(ev.TimeNs))); d < -time.Millisecond || d > 10*time.Second {
			t.Errorf("%s: event is %s old", tc.name, d)
		}
	}
	if lost, _, err := s.counts(); lost != 0 || err != nil || len(events) != 0 {
		t.Errorf("%d lost, %v, %d events more than sent", lost, err, len(events))
	}
}

// sendLogged sends packets to port 9 of the node itself, which a rule drops.
func (n *node) sendLogged(packets int) {
	n.t.Helper()
	n.must("send", n.do(func() error {
		c, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9})
		if err != nil {
			return err
		}
		defer c.Close()
		for range packets {
			// A dropped packet shows to its sender as EPERM.
			if _, err := c.Write([]byte("x")); err != nil && !errors.Is(err, unix.EPERM) {
				return err
			}
		}
		return nil
	}))
}

// What the socket had no room for is counted to the packet.
func TestNFLOGOverflow(t *testing.T) {
	n := newNode(t)
	n.portRule(nftables.ChainHookOutput, 9, logged(12, "acl-12"), dropped)
	s := n.readNFLOG(NFLOGConfig{Groups: []uint16{12}})
	raw, err := s.file.SyscallConn()
	n.must("socket", err)
	n.must("socket", raw.Control(func(fd uintptr) {
		n.must("receive buffer", unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4096))
	}))
	const flood = 500
	send := n.sendLogged
	send(flood)
	events := observeAll(t, s)
	received := 0
	drain := func() {
		for len(events) > 0 {
			<-events
			received++
		}
	}
	poll(t, "what fits is read", func() bool { drain(); return received > 0 && s.overflows.Load() > 0 })
	send(1) // its number tells how many are missing
	poll(t, "all is accounted for", func() bool { drain(); return uint64(received)+s.lost.Load() == flood+1 })
	t.Logf("%d of %d packets read, %d lost, %d overflows", received, flood+1, s.lost.Load(), s.overflows.Load())
	if received >= flood {
		t.Errorf("%d read: nothing overflowed", received)
	}
}

// Of a flood that is logged only so much is read a second; what is left out is
// counted, and what comes after the flood is read again.
func TestNFLOGFlood(t *testing.T) {
	n := newNode(t)
	n.portRule(nftables.ChainHookOutput, 9, logged(12, "acl-12"), dropped)
	s := n.readNFLOG(NFLOGConfig{Groups: []uint16{12}})
	const flood = 500
	s.pace.most = 100
	n.sendLogged(flood)
	events := observeAll(t, s)
	received := 0
	drain := func() {
		for len(events) > 0 {
			<-events
			received++
		}
	}
	poll(t, "a second's worth is read", func() bool { drain(); return received == 100 })
	poll(t, "all is accounted for", func() bool {
		n.sendLogged(1)
		drain()
		return s.lost.Load() >= flood-100
	})
	before := received
	poll(t, "and it goes on", func() bool { n.sendLogged(1); drain(); return received > before })
	t.Logf("%d read, %d left out", received, s.lost.Load())
}

func TestNFLOGPace(t *testing.T) {
	p := nflogPace{most: 2}
	now := time.Unix(1000, 0)
	for i, c := range []struct {
		after      time.Duration
		may, again bool
	}{
		{0, true, false}, {0, true, false}, {time.Millisecond, false, false}, {time.Millisecond, false, false},
		{time.Second, true, true}, {0, true, false}, // not more than two: nothing was left out
		{time.Second, true, false}, {-time.Hour, true, false}, // a clock set back
	} {
		now = now.Add(c.after)
		if may, again := p.take(now); may != c.may || again != c.again {
			t.Errorf("step %d: %v, %v; want %v, %v", i, may, again, c.may, c.again)
		}
	}
}

func TestNFLOGCannotOpen(t *testing.T) {
	n := newNode(t)
	n.readNFLOG(NFLOGConfig{Groups: []uint16{12}})
	err := n.do(func() error {
		_, err := openNFLOG(NFLOGConfig{Groups: []uint16{7, 12}}, testIfname, sflowLog(t))
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "group 12") || !strings.Contains(err.Error(), "another program reads this group") {
		t.Errorf("a group that is taken: %v", err)
	}
	// A thread without privileges; it ends with its goroutine.
	err = n.do(func() error {
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		if err := unix.Capset(&header, &slices.Clone([]unix.CapUserData{{}, {}})[0]); err != nil {
			return fmt.Errorf("capset: %w", err)
		}
		_, err := openNFLOG(NFLOGConfig{Groups: []uint16{8}}, testIfname, sflowLog(t))
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "run as root, or give the binary cap_net_admin") {
		t.Errorf("without privileges: %v", err)
	}
}
