package kernel

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"decaf/sim/scenario"
)

func apply(t *testing.T, f *Fabric, fault scenario.Fault) *Active {
	t.Helper()
	a, err := f.Apply(fault)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func stop(t *testing.T, a *Active) Truth {
	t.Helper()
	if err := a.Stop(); err != nil {
		t.Fatal(err)
	}
	truth := a.Truth()
	if truth.Err != nil {
		t.Fatalf("truth: %v", truth.Err)
	}
	if truth.To.IsZero() || truth.To.Before(truth.From) {
		t.Errorf("active from %v to %v", truth.From, truth.To)
	}
	return truth
}

// datagrams sends n packets of UDP from a host to another and gives how many
// arrived there, from the receiving kernel's own counters. A new port each time
// a packet is sent spreads them over the paths.
func datagrams(t *testing.T, f *Fabric, from, to string, port uint16, n int) (arrived uint64) {
	t.Helper()
	return datagramsOf(t, f, ipv4, from, to, port, n)
}

// address is a host's of a version.
func address(f *Fabric, v version, host string) netip.Addr {
	h, _ := f.Topology().Host(host)
	return h.Addresses[slices.IndexFunc(h.Addresses, func(a netip.Addr) bool { return versionOf(a) == v })]
}

// datagramsOf is datagrams of a version of the Internet Protocol.
func datagramsOf(t *testing.T, f *Fabric, v version, from, to string, port uint16, n int) (arrived uint64) {
	t.Helper()
	src, dst := address(f, v, from), address(f, v, to)
	var sink *net.UDPConn
	err := f.Do(to, func() (err error) {
		sink, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(dst, port)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	group := map[version]string{ipv4: "Ip", ipv6: "Ip6"}[v]
	received := func() uint64 {
		return counter(t, f, []string{to}, group, "InDelivers")
	}
	before := received()
	err = f.Do(from, func() error {
		// On the processor that receives for the whole fabric a packet goes all the
		// way before the next is sent; from another one they would overrun its
		// backlog.
		var all, one unix.CPUSet
		if err := unix.SchedGetaffinity(0, &all); err != nil {
			return err
		}
		one.Set(0)
		if err := unix.SchedSetaffinity(0, &one); err != nil {
			return err
		}
		defer unix.SchedSetaffinity(0, &all)
		const sockets = 16
		payload := make([]byte, 1200)
		var conns [sockets]*net.UDPConn
		for i := range conns {
			c, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(src, 0)), net.UDPAddrFromAddrPort(netip.AddrPortFrom(dst, port)))
			if err != nil {
				return err
			}
			defer c.Close()
			conns[i] = c
		}
		for i := range n {
			// An ICMP error of an earlier packet may come up here, once per packet:
			// send again then.
			for {
				_, err := conns[i%sockets].Write(payload)
				if err == nil {
					break
				}
				if !errors.Is(err, unix.EHOSTUNREACH) && !errors.Is(err, unix.ENETUNREACH) && !errors.Is(err, unix.EACCES) {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	// A sent datagram is in flight for microseconds; on an idle fabric what has not
	// come within many of them is lost.
	last, since := received(), time.Now()
	if last-before == uint64(n) {
		return last - before
	}
	eventually(t, 10*time.Second, "no more datagrams arrive", func() bool {
		if now := received(); now != last {
			last, since = now, time.Now()
		}
		return time.Since(since) > 100*time.Millisecond
	})
	return last - before
}

func TestFaultsDropWhatTheySay(t *testing.T) {
	f := build(t, dual)
	const (
		from, to = "p0-tor0-h0", "p1-tor1-h1"
		sent     = 4000 // of each version of the Internet Protocol
		port     = 7000
	)
	for _, c := range []struct {
		name  string
		fault scenario.Fault
		share float64 // of the datagrams that must be lost
		only  version // those of this one alone, if given
	}{
		{"silent loss of all", scenario.Fault{Kind: "silent-loss", On: "link p0-tor0-h0>p0-tor0"}, 1, 0},
		{"silent loss of a part", scenario.Fault{Kind: "silent-loss", On: "link p0-tor0-h0>p0-tor0", Rate: 0.05}, 0.05, 0},
		{"silent loss at the last link", scenario.Fault{Kind: "silent-loss", On: "link p1-tor1>p1-tor1-h1", Rate: 0.5}, 0.5, 0},
		{"silent loss to this port", scenario.Fault{Kind: "silent-loss", On: "link p0-tor0-h0>p0-tor0", Match: scenario.Match{Src: from, Dst: to, Port: port}}, 1, 0},
		{"silent loss to another port", scenario.Fault{Kind: "silent-loss", On: "link p0-tor0-h0>p0-tor0", Match: scenario.Match{Port: port + 1}}, 0, 0},
		{"silent loss to another host", scenario.Fault{Kind: "silent-loss", On: "link p0-tor0-h0>p0-tor0", Match: scenario.Match{Dst: "p1-tor1-h0"}}, 0, 0},
		{"silent loss from a prefix", scenario.Fault{Kind: "silent-loss", On: "link p0-tor0-h0>p0-tor0", Match: scenario.Match{Src: "10.0.0.0/16"}}, 1, ipv4},
		{"silent loss from a prefix of IPv6", scenario.Fault{Kind: "silent-loss", On: "link p0-tor0-h0>p0-tor0", Match: scenario.Match{Src: "fd0a::a00:0/112"}}, 1, ipv6},
		{"silent loss on the way back", scenario.Fault{Kind: "silent-loss", On: "link p0-tor0>p0-tor0-h0"}, 0, 0},
		{"acl", scenario.Fault{Kind: "acl", On: "device p0-tor0"}, 1, 0},
		{"acl of a part", scenario.Fault{Kind: "acl", On: "device p0-tor0", Rate: 0.1}, 0.1, 0},
		{"acl of this conversation", scenario.Fault{Kind: "acl", On: "device p0-tor0", Match: scenario.Match{Src: from, Dst: "10.1.1.0/24", Port: port}}, 1, ipv4},
		{"acl of this conversation, IPv6", scenario.Fault{Kind: "acl", On: "device p0-tor0", Match: scenario.Match{Src: "fd0a::a00:1", Dst: "fd0a::a01:100/120", Port: port}}, 1, ipv6},
		{"acl of another port", scenario.Fault{Kind: "acl", On: "device p0-tor0", Match: scenario.Match{Port: port + 1}}, 0, 0},
		{"acl of another source", scenario.Fault{Kind: "acl", On: "device p0-tor0", Match: scenario.Match{Src: "p0-tor0-h1"}}, 0, 0},
		{"no route", scenario.Fault{Kind: "no-route", On: "device p0-tor0"}, 1, 0},
		{"no route to this host", scenario.Fault{Kind: "no-route", On: "device p0-tor0", Match: scenario.Match{Dst: to}}, 1, 0},
		{"no route to another host", scenario.Fault{Kind: "no-route", On: "device p0-tor0", Match: scenario.Match{Dst: "p1-tor1-h0"}}, 0, 0},
		{"blackhole", scenario.Fault{Kind: "blackhole", On: "device p0-tor0"}, 1, 0},
		{"blackhole of a part", scenario.Fault{Kind: "blackhole", On: "device p0-tor0", Rate: 0.1}, 0.1, 0},
		{"blackhole to this host", scenario.Fault{Kind: "blackhole", On: "device p0-tor0", Match: scenario.Match{Dst: to}}, 1, 0},
		{"blackhole to another host", scenario.Fault{Kind: "blackhole", On: "device p0-tor0", Match: scenario.Match{Dst: "p1-tor1-h0"}}, 0, 0},
		{"blackhole of what is on its own links", scenario.Fault{Kind: "blackhole", On: "device p1-tor1"}, 0, 0},
		{"loop at the last device", scenario.Fault{Kind: "ttl-loop", On: "device p1-tor1"}, 1, 0},
		{"loop to another host", scenario.Fault{Kind: "ttl-loop", On: "device p1-tor1", Match: scenario.Match{Dst: "p1-tor1-h0"}}, 0, 0},
		{"loop on the way back", scenario.Fault{Kind: "ttl-loop", On: "device p0-tor0"}, 0, 0},
		{"mtu", scenario.Fault{Kind: "mtu", On: "device p0-tor0"}, 0, 0}, // the datagrams fit
		{"device down", scenario.Fault{Kind: "device-down", On: "device p0-tor0"}, 1, 0},
		{"device down elsewhere", scenario.Fault{Kind: "device-down", On: "device p0-tor1"}, 0, 0},
		{"device loss", scenario.Fault{Kind: "device-loss", On: "device p0-tor0"}, 1, 0},
		{"device loss of a part, twice", scenario.Fault{Kind: "device-loss", On: "device p0-tor0", Rate: 0.05}, 1 - 0.95*0.95, 0},
		{"device loss to this port", scenario.Fault{Kind: "device-loss", On: "device p0-tor0", Match: scenario.Match{Port: port}}, 1, 0},
		{"device loss to another port", scenario.Fault{Kind: "device-loss", On: "device p0-tor0", Match: scenario.Match{Port: port + 1}}, 0, 0},
		{"syn blackhole", scenario.Fault{Kind: "syn-blackhole", On: "device p0-tor0"}, 0, 0}, // these are no SYNs
		{"server reset", scenario.Fault{Kind: "server-reset", On: "host " + to}, 0, 0},       // nor TCP
	} {
		t.Run(c.name, func(t *testing.T) {
			before := state(t, f)
			all := func(when string) {
				t.Helper()
				for _, v := range f.versions {
					if n := datagramsOf(t, f, v, from, to, port, 200); n != 200 {
						t.Errorf("%d of 200 datagrams of IPv%d arrive %s the fault", n, v, when)
					}
				}
			}
			all("before")
			a := apply(t, f, c.fault)
			var lost uint64
			for _, v := range f.versions {
				of := sent - datagramsOf(t, f, v, from, to, port, sent)
				share := c.share
				if c.only != 0 && c.only != v {
					share = 0
				}
				// Six standard deviations: one run in 5e8 is wrong by chance.
				slack := 6 * math.Sqrt(sent*share*(1-share))
				if math.Abs(float64(of)-share*sent) > slack {
					t.Errorf("%d of %d of IPv%d lost, want a share of %v", of, sent, v, share)
				}
				lost += of
			}
			live := a.Truth()
			truth := stop(t, a)
			if truth.Packets != lost || live.Packets != lost {
				t.Errorf("the fault's counter says %d dropped (%d before the end), %d did not arrive", truth.Packets, live.Packets, lost)
			}
			if truth.Source == "xdp" && uint64(len(truth.Drops))+truth.LeftOut != lost {
				t.Errorf("%d packets listed and %d left out, %d lost", len(truth.Drops), truth.LeftOut, lost)
			}
			if truth.Component != c.fault.On {
				t.Errorf("blames %q", truth.Component)
			}
			all("after")
			restored(t, f, before)
		})
	}
}

// state lists routes of all tables, routing rules, neighbours, interfaces with their
// queues and offloads, packet filters and XDP programs of all nodes.
func state(t *testing.T, f *Fabric) (lines []string) {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range f.nodes {
		var some []string
		add := func(format string, args ...any) { some = append(some, fmt.Sprintf(n.Name+": "+format, args...)) }
		routes, err := n.space.rt.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		check(err)
		for _, r := range routes {
			add("%v table %d mtu %d flags %v", r, r.Table, r.MTU, r.ListFlags())
		}
		rules, err := n.space.rt.RuleList(netlink.FAMILY_ALL)
		check(err)
		for _, r := range rules {
			add("%v", r)
		}
		neighbours, err := n.space.rt.NeighList(0, netlink.FAMILY_ALL)
		check(err)
		for _, x := range neighbours {
			if x.State == netlink.NUD_PERMANENT {
				add("neighbour %v at %v on %d", x.IP, x.HardwareAddr, x.LinkIndex)
			}
		}
		all, err := n.space.links()
		check(err)
		for _, l := range all {
			x := l.Attrs().Xdp
			queues, err := n.space.rt.QdiscList(l)
			check(err)
			kinds := []string{}
			for _, q := range queues {
				kinds = append(kinds, q.Type())
			}
			add("%s %v mtu %d xdp %v queues %v", l.Attrs().Name, l.Attrs().Flags, l.Attrs().MTU, x != nil && x.Attached, kinds)
			if l.Type() == "veth" {
				var on [3]bool
				for i, command := range []uint32{getSendChecksum, 0x1e, 0x23} { // ETHTOOL_GTSO, ETHTOOL_GGSO
					on[i] = offload(t, f, n.Name, l.Attrs().Name, command)
				}
				add("%s offloads %v, merges %v", l.Attrs().Name, on, merges(t, f, n.Name, l.Attrs().Name))
			}
		}
		filter, err := openFilter(n.space)
		check(err)
		tables, err := filter.ListTables()
		check(err)
		add("%d tables", len(tables))
		slices.Sort(some) // the order within a table is not kept
		lines = append(lines, some...)
	}
	return lines
}

// restored compares with an earlier state.
func restored(t *testing.T, f *Fabric, before []string) {
	t.Helper()
	after := state(t, f)
	for _, line := range after {
		if !slices.Contains(before, line) {
			t.Errorf("left behind: %s", line)
		}
	}
	for _, line := range before {
		if !slices.Contains(after, line) {
			t.Errorf("lost: %s", line)
		}
	}
}

func TestQueueOverflowsOnBursts(t *testing.T) {
	f := build(t, standard)
	const from, to, port, sent = "p0-tor0-h0", "p0-tor0-h1", 7000, 4000
	before := state(t, f)
	a := apply(t, f, scenario.Fault{Kind: "queue", On: "link p0-tor0>p0-tor0-h1"})
	lost := sent - datagrams(t, f, from, to, port, sent)
	truth := stop(t, a)
	if lost == 0 || truth.Packets != lost {
		t.Errorf("the queue says %d dropped, %d did not arrive", truth.Packets, lost)
	}
	if truth.Seen != sent {
		t.Errorf("the queue saw %d packets, %d were sent", truth.Seen, sent)
	}
	restored(t, f, before)
	if n := datagrams(t, f, from, to, port, 200); n != 200 {
		t.Errorf("%d of 200 datagrams arrive after the fault", n)
	}
}

func TestSilentLossNamesThePacket(t *testing.T) {
	f := build(t, standard)
	to := serve(t, f, "p1-tor1-h1")
	a := apply(t, f, scenario.Fault{Kind: "silent-loss", On: "link p0-tor0-h0>p0-tor0", Match: scenario.Match{Port: int(to.Port())}})
	began := time.Now()
	if conn, err := dial(f, "p0-tor0-h0", to, 300*time.Millisecond); err == nil {
		conn.Close()
		t.Fatal("connected through a link that drops all")
	}
	truth := stop(t, a)
	if len(truth.Drops) != 1 {
		t.Fatalf("%d packets dropped within 300 ms, want the SYN", len(truth.Drops))
	}
	d := truth.Drops[0]
	if d.Src.Addr().String() != "10.0.0.1" || d.Src.Port() == 0 || d.Dst != to || d.Protocol != 6 || d.Flags&0x3f != 0x02 || d.Payload != 0 || d.Seq == 0 || d.TTL != 64 {
		t.Errorf("%+v is no SYN from 10.0.0.1 to %v", d, to)
	}
	if d.Time.Before(began.Add(-10*time.Millisecond)) || d.Time.After(time.Now().Add(10*time.Millisecond)) {
		t.Errorf("dropped at %v, sent after %v", d.Time, began)
	}
}

// Silent means that the drop tracepoint does not fire in the namespace that
// loses the packets; the other faults' drops there show that the listener hears.
func TestSilentLossRaisesNoDropEvent(t *testing.T) {
	f := build(t, standard)
	heard := listenDrops(t, f.Node("p0-tor0").Inode)
	const from, to, port, sent = "p0-tor0-h0", "p1-tor1-h1", 7000, 500

	for _, fault := range []scenario.Fault{
		{Kind: "silent-loss", On: "link p0-tor0-h0>p0-tor0"},
		{Kind: "device-loss", On: "device p0-tor0"},
	} {
		a := apply(t, f, fault)
		arrived := datagrams(t, f, from, to, port, sent)
		if truth := stop(t, a); arrived != 0 || truth.Packets != sent {
			t.Fatalf("%s: %d arrived, %d dropped", fault.Kind, arrived, truth.Packets)
		}
		if n := heard(); n != 0 {
			t.Errorf("%s: %d drop events of %d silent drops", fault.Kind, n, sent)
		}
	}
	// The other kinds are heard, packet by packet.
	for _, fault := range []scenario.Fault{
		{Kind: "acl", On: "device p0-tor0"},
		{Kind: "no-route", On: "device p0-tor0"},
		{Kind: "blackhole", On: "device p0-tor0"},
		{Kind: "queue", On: "link p0-tor0>p0-tor0-h1"},
	} {
		before := heard()
		dst := to
		if fault.Kind == "queue" {
			dst = "p0-tor0-h1"
		}
		a := apply(t, f, fault)
		datagrams(t, f, from, dst, port, sent)
		truth := stop(t, a)
		if n := heard() - before; n == 0 || n != truth.Packets {
			t.Errorf("%s: %d drop events of %d drops", fault.Kind, n, truth.Packets)
		}
	}
}

// listenDrops counts skb:kfree_skb in one namespace, by the packet's interface.
func listenDrops(t *testing.T, inode uint64) func() uint64 {
	t.Helper()
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		t.Skipf("needs BTF of the kernel: %v", err)
	}
	offset := func(structure string, path ...string) int16 {
		t.Helper()
		var s *btf.Struct
		if err := spec.TypeByName(structure, &s); err != nil {
			t.Fatal(err)
		}
		var at uint32
		for i, name := range path {
			m, ok := member(s, name)
			if !ok {
				t.Fatalf("no %v in struct %s", path, structure)
			}
			at += m.Offset.Bytes()
			if i+1 < len(path) {
				s = btf.UnderlyingType(m.Type).(*btf.Struct)
			}
		}
		return int16(at)
	}
	counts, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { counts.Close() })
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "count_drops", Type: ebpf.Tracing, AttachType: ebpf.AttachTraceRawTp, AttachTo: "kfree_skb", License: "GPL",
		Instructions: asm.Instructions{
			asm.LoadMem(asm.R1, asm.R1, 0, asm.DWord), // skb
			// Making a receive queue, as a program needs one, frees an empty skb.
			asm.LoadMem(asm.R2, asm.R1, offset("sk_buff", "protocol"), asm.Half),
			asm.HostTo(asm.BE, asm.R2, asm.Half),
			asm.JNE.Imm(asm.R2, unix.ETH_P_IP, "out"),
			asm.LoadMem(asm.R1, asm.R1, offset("sk_buff", "dev"), asm.DWord),
			asm.JEq.Imm(asm.R1, 0, "out"),
			asm.LoadMem(asm.R1, asm.R1, offset("net_device", "nd_net", "net"), asm.DWord),
			asm.JEq.Imm(asm.R1, 0, "out"),
			asm.LoadMem(asm.R1, asm.R1, offset("net", "ns", "inum"), asm.Word),
			asm.LoadImm(asm.R2, int64(inode), asm.DWord),
			asm.JNE.Reg(asm.R1, asm.R2, "out"),
			asm.Mov.Imm(asm.R0, 0),
			asm.StoreMem(asm.RFP, -8, asm.R0, asm.DWord),
			asm.LoadMapPtr(asm.R1, counts.FD()),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, -8),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, "out"),
			asm.Mov.Imm(asm.R1, 1),
			asm.StoreXAdd(asm.R0, asm.R1, asm.DWord),
			asm.Mov.Imm(asm.R0, 0).WithSymbol("out"),
			asm.Return(),
		},
	})
	if err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(func() { prog.Close() })
	l, err := link.AttachTracing(link.TracingOptions{Program: prog})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return func() uint64 {
		var n uint64
		if err := counts.Lookup(uint32(0), &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
}

// member finds a member, also of unnamed structs and unions inside, with its
// offset in the whole.
func member(c btf.Type, name string) (btf.Member, bool) {
	var members []btf.Member
	switch c := btf.UnderlyingType(c).(type) {
	case *btf.Struct:
		members = c.Members
	case *btf.Union:
		members = c.Members
	}
	for _, m := range members {
		if m.Name == name {
			return m, true
		}
		if m.Name == "" {
			if in, ok := member(m.Type, name); ok {
				in.Offset += m.Offset
				return in, true
			}
		}
	}
	return btf.Member{}, false
}

// Coming and going, a silent loss harms no packet that it does not take.
func TestSilentLossComesAndGoesUnnoticed(t *testing.T) {
	f := build(t, standard)
	tr := startTraffic(t, f, standardTraffic)
	name := "p0-tor0-h0>p0-tor0"
	eventually(t, 30*time.Second, "the link carries packets", func() bool { return links(t, f)[name].Packets > 200 })
	l, _ := f.Topology().Link(name)
	in := l.To
	const rounds = 40
	for range rounds {
		a := apply(t, f, scenario.Fault{Kind: "silent-loss", On: "link " + name, Match: scenario.Match{Dst: "192.0.2.1"}})
		if merges(t, f, in.Node, in.Name) {
			t.Error("the receiving end merges segments")
		}
		before := links(t, f)[name].Packets
		eventually(t, 10*time.Second, "packets pass the program", func() bool { return links(t, f)[name].Packets > before+20 })
		if truth := stop(t, a); truth.Packets > 0 {
			t.Fatalf("%d dropped that did not match", truth.Packets)
		}
	}
	s := tr.stop(t)
	retrans := counter(t, f, hostNames(f), "Tcp", "RetransSegs")
	t.Logf("%d comings and goings, %d packets of traffic, %d retransmitted", rounds, s.SentPackets, retrans)
	if retrans > rounds/4 {
		t.Errorf("%d segments retransmitted", retrans)
	}
}

// merges says whether generic receive offload is on, by ETHTOOL_GGRO.
func merges(t *testing.T, f *Fabric, node, name string) bool {
	t.Helper()
	return offload(t, f, node, name, 0x2b)
}

func offload(t *testing.T, f *Fabric, node, name string, command uint32) bool {
	t.Helper()
	value := struct{ command, data uint32 }{command: command}
	err := f.Do(node, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return offloadCommand(fd, name, unsafe.Pointer(&value))
	})
	if err != nil {
		t.Fatal(err)
	}
	return value.data != 0
}

func TestQueueUnderTraffic(t *testing.T) {
	f := build(t, standard)
	tr := startTraffic(t, f, standardTraffic)
	names := []string{"p0-t1-0>t2-1", "p0-tor0>p0-t1-1", "p0-tor0>p0-tor0-h0", "p0-tor0-h0>p0-tor0"}
	before := counter(t, f, hostNames(f), "Tcp", "RetransSegs")
	began := time.Now()
	var all []*Active
	for _, name := range names {
		all = append(all, apply(t, f, scenario.Fault{Kind: "queue", On: "link " + name}))
	}
	const enough = 3000
	for _, a := range all {
		eventually(t, 60*time.Second, "packets pass the queue", func() bool { return a.Truth().Seen > enough })
	}
	for i, a := range all {
		truth := stop(t, a)
		share := float64(truth.Packets) / float64(truth.Seen)
		t.Logf("%s: %d of %d packets lost (%.2f %%) in %v", names[i], truth.Packets, truth.Seen, 100*share, time.Since(began).Round(time.Millisecond))
		if share < 0.005 || share > 0.2 {
			t.Errorf("%s: a share of %.4f lost, want a few per cent", names[i], share)
		}
	}
	t.Logf("%d segments retransmitted", counter(t, f, hostNames(f), "Tcp", "RetransSegs")-before)
	// A connection that loses its SYN twice, or is in a long back-off when the
	// traffic stops, fails by right; the queue must not fail more than those.
	if s := tr.stop(t); s.Failed > s.Started/100 {
		t.Errorf("traffic %+v", s)
	}
}

func TestTwoFaultsOfOneKind(t *testing.T) {
	f := build(t, standard)
	before := state(t, f)
	for _, c := range []struct {
		kind, on string
		fits     bool
	}{
		{"silent-loss", "link p0-t1-0>t2-1", false},
		{"queue", "link p0-t1-0>t2-1", false},
		{"no-route", "device t2-1", false},
		{"acl", "device t2-1", true},
		{"corrupt", "link p0-t1-0>t2-1", false},
		{"route-flap", "device t2-1", false},
		{"blackhole", "device t2-1", true},
		{"ttl-loop", "device t2-1", true},
		{"mtu", "device t2-1", true},
		{"device-down", "device t2-1", false},
		{"device-loss", "device t2-1", false},
		{"syn-blackhole", "device t2-1", false},
		{"host-slow", "host p0-tor0-h0", false},
		{"server-reset", "host p0-tor0-h0", true},
	} {
		fault := scenario.Fault{Kind: c.kind, On: c.on}
		a := apply(t, f, fault)
		b, err := f.Apply(fault)
		if (err == nil) != c.fits {
			t.Errorf("second %s: %v", c.kind, err)
		}
		if err == nil {
			stop(t, b)
		}
		stop(t, a)
		stop(t, apply(t, f, fault)) // and again, once it is over
		restored(t, f, before)
	}
}
