package device

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"decaf/api/packet"
	"decaf/api/yang"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// A threshold that is raised over gNMI reaches the kernel program: it hands on
// what it held back before.
func TestSetReachesTheKernel(t *testing.T) {
	l := newLab(t)
	cfg := testConfig()
	cfg.Report.Threshold, cfg.Report.Burst, cfg.Fuse.Events = 50, 50, 1e6
	a := startAgent(t, l.r, cfg)
	client := dial(t, l.r, a, nil)
	l.r.portRule(nftables.ChainHookForward, 7001, dropped)
	const drops = 6000 // more at once than the kernel program hands on for a threshold of 50
	send := func(port uint16) {
		var list [][]byte
		for i := range drops {
			p := packet.Probe{Flow: packet.Flow{Src: netip.AddrPortFrom(addrPort("10.0.1.2:1").Addr(), port), Dst: addrPort("10.0.2.2:7001"), Proto: unix.IPPROTO_TCP}, TTL: 9, Seq: uint32(i), ID: 1}
			b, err := p.Marshal(nil)
			l.h1.must("probe", err)
			list = append(list, b)
		}
		l.h1.sendRaw(list...)
	}
	// What became of the drops of the class.
	tally := func() (packets, threshold, others uint64) {
		for _, c := range a.ledger.totals().classes {
			if c.Name == PolicyL3ACL {
				packets = c.Packets
			}
		}
		a.reporting.Lock()
		defer a.reporting.Unlock()
		for _, r := range a.reporter.reporting() {
			if r.Name == PolicyL3ACL {
				threshold, others = r.Suppressed.Threshold, r.Suppressed.Queue+r.Suppressed.Fuse
			}
		}
		return packets, threshold, others
	}
	send(40000)
	poll(t, "the drops are counted", func() bool { n, _, _ := tally(); return n >= drops })
	_, held, _ := tally()
	if held < drops/2 {
		t.Fatalf("%d of %d held back above a threshold of 50", held, drops)
	}
	if _, err := client.Set(t.Context(), change(classJSON(PolicyL3ACL, `"threshold":"1000000","burst":"1000000"`))); err != nil {
		t.Fatal(err)
	}
	before := a.State().Events
	send(40001)
	poll(t, "the drops are counted", func() bool { n, _, _ := tally(); return n >= 2*drops })
	_, now, others := tally()
	if events := a.State().Events - before; now != held || events+others != drops {
		t.Errorf("%d events, %d for want of room, %d above the threshold: want all of %d", events, others, now-held, drops)
	}

	// Back to a threshold of 50: a filter gets its drops one by one all the same.
	if _, err := client.Set(t.Context(), forget("classes")); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Set(t.Context(), change(filterJSON("t", time.Now().Add(time.Hour), `,"source-port":40002`))); err != nil {
		t.Fatal(err)
	}
	before = a.State().Events
	_, _, othersBefore := tally()
	send(40002)
	poll(t, "the drops are counted", func() bool { n, _, _ := tally(); return n >= 3*drops })
	_, _, others = tally()
	if events := a.State().Events - before; events+others-othersBefore != drops {
		t.Errorf("%d events of %d that match, %d for want of room", events, drops, others-othersBefore)
	}
}

// A filter by DSCP holds against real UDP packets of both families, as their sockets
// marked them (TOS, traffic class); the two bits of ECN beside it do not matter, and
// no other packet has an event meanwhile.
func TestFilterByDSCP(t *testing.T) {
	l := newLab(t)
	a := startAgent(t, l.r, testConfig())
	client := dial(t, l.r, a, nil)
	updates := subscribe(t, client)
	l.r.portRule(nftables.ChainHookForward, 7001, dropped)
	const ef, each = 46, 3 // expedited forwarding, RFC 3246
	if _, err := client.Set(t.Context(), change(filterJSON("voice", time.Now().Add(time.Hour), fmt.Sprintf(`,"dscp":%d`, ef)))); err != nil {
		t.Fatal(err)
	}
	want := map[string]int{} // by source, those that match
	all := uint64(0)
	for _, dst := range []netip.AddrPort{addrPort("10.0.2.2:7001"), addrPort("[fd00:2::2]:7001")} {
		for _, tos := range []int{0, ef << 2, ef<<2 | 1, (ef - 1) << 2, 10 << 2} {
			var src string
			l.h1.must("send", l.h1.do(func() error {
				c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(dst))
				if err != nil {
					return err
				}
				defer c.Close()
				src = c.LocalAddr().String()
				raw, err := c.SyscallConn()
				if err != nil {
					return err
				}
				level, name := unix.IPPROTO_IP, unix.IP_TOS
				if dst.Addr().Is6() {
					level, name = unix.IPPROTO_IPV6, unix.IPV6_TCLASS
				}
				if cerr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, name, tos) }); cerr != nil || err != nil {
					return errors.Join(cerr, err)
				}
				for range each {
					if _, err := c.Write([]byte("x")); err != nil {
						return err
					}
				}
				return nil
			}))
			all += each
			if tos>>2 == ef {
				want[src] = each
			}
		}
	}
	poll(t, "the drops are counted", func() bool { return classPackets(a, PolicyL3ACL) == all })
	got := map[string]int{}
	deadline := time.After(5 * time.Second)
	for n := 0; n < len(want)*each; {
		select {
		case u := <-updates:
			ev, is, err := yang.DecodeEvent(u)
			if err != nil {
				t.Fatal(err)
			}
			if !is {
				continue
			}
			filter := ""
			for _, l := range u.GetUpdate() {
				if e := l.GetPath().GetElem(); e[len(e)-1].GetName() == "filter" {
					filter = l.GetVal().GetStringVal()
				}
			}
			if filter != "voice" {
				t.Errorf("an event without the filter's name: %v", ev)
			}
			got[eventFlow(ev).Src.String()]++
			n++
		case <-deadline:
			t.Fatalf("events %v, want %v", got, want)
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if n := a.State().Events; n != uint64(len(want)*each) {
		t.Errorf("%d events, want %d", n, len(want)*each)
	}
}
