package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"decaf/sim/scenario"
)

// sends gets some bytes from a host through to a server within a time.
func sends(t *testing.T, f *Fabric, from string, to netip.AddrPort, size int, within time.Duration) error {
	t.Helper()
	conn, err := dial(f, from, to, within)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.(*net.TCPConn).SetLinger(0) // nothing is sent again after the fault
	conn.SetDeadline(time.Now().Add(within))
	if _, err := conn.Write(make([]byte, size)); err != nil {
		return err
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, conn) // the server closes when it has all
	return err
}

const (
	soon   = 10 * time.Second       // for what must come about
	notNow = 700 * time.Millisecond // for what must not
)

func TestLoopEndsPacketsWhereTheirTTLEnds(t *testing.T) {
	f := build(t, dual)
	const from, to, port, sent = "p0-tor0-h0", "p0-tor1-h0", 7000, 400
	before := state(t, f)
	for _, c := range []struct{ on, ends, to string }{
		{"p0-t1-0", "p0-t1-0", "p0-tor1-h0"},
		{"p0-t1-0", "p0-t1-0", "p1-tor1-h1"},
		{"p0-tor1", "p0-t1-0 p0-t1-1", "p0-tor1-h0"},
		{"t2-0", "p0-t1-0 p0-t1-1", "p1-tor1-h1"},
	} {
		for v, group := range map[version]string{ipv4: "Ip", ipv6: "Ip6"} {
			expired := make(map[string]uint64)
			for _, d := range f.Topology().Devices {
				expired[d.Name] = counter(t, f, []string{d.Name}, group, "InHdrErrors")
			}
			a := apply(t, f, scenario.Fault{Kind: "ttl-loop", On: "device " + c.on})
			lost := sent - datagramsOf(t, f, v, from, c.to, port, sent)
			truth := stop(t, a)
			if lost == 0 || truth.Packets != lost {
				t.Errorf("%+v: the fault's counter says %d, %d of IPv%d did not arrive", c, truth.Packets, lost, v)
			}
			var ended uint64
			for _, d := range f.Topology().Devices {
				n := counter(t, f, []string{d.Name}, group, "InHdrErrors") - expired[d.Name]
				ended += n
				if n > 0 && !bytes.Contains([]byte(c.ends), []byte(d.Name)) {
					t.Errorf("%+v: the TTL of %d packets of IPv%d ends at %s", c, n, v, d.Name)
				}
			}
			if ended != lost {
				t.Errorf("%+v: the TTL of %d packets ends, %d of IPv%d are lost", c, ended, lost, v)
			}
			restored(t, f, before)
		}
	}
}

func TestMTUTakesFullSegmentsOnly(t *testing.T) {
	f := build(t, dual)
	eachVersion(t, func(t *testing.T, v version) { mtuTakesFullSegmentsOnly(t, f, v) })
}

func mtuTakesFullSegmentsOnly(t *testing.T, f *Fabric, v version) {
	to := serveAt(t, f, v, "p1-tor1-h1")
	const from, device = "p0-tor0-h0", "p0-tor0"
	before := state(t, f)
	refused, said := [2]string{"Ip", "FragFails"}, [2]string{"Icmp", "OutDestUnreachs"}
	if v == ipv6 {
		refused, said = [2]string{"Ip6", "InTooBigErrors"}, [2]string{"Icmp6", "OutPktTooBigs"}
	}
	tooBig := func() uint64 { return counter(t, f, []string{device}, refused[0], refused[1]) }
	told := func() uint64 { return counter(t, f, []string{device}, said[0], said[1]) }
	fails, unreachable := tooBig(), told()
	a := apply(t, f, scenario.Fault{Kind: "mtu", On: "device " + device, Match: scenario.Match{Src: from, Port: int(to.Port())}})
	if err := sends(t, f, from, to, 1000, soon); err != nil {
		t.Errorf("a small segment does not pass: %v", err)
	}
	if err := sends(t, f, from, to, 10000, notNow); err == nil {
		t.Error("full segments pass")
	}
	if err := sends(t, f, "p0-tor0-h1", to, 10000, soon); err != nil {
		t.Errorf("full segments of another host do not pass: %v", err)
	}
	truth := stop(t, a)
	if n := tooBig() - fails; n == 0 || truth.Packets != n {
		t.Errorf("the fault's counter says %d, the kernel refused %d for their size", truth.Packets, n)
	}
	if n := told() - unreachable; n > 0 {
		t.Errorf("the device told the sender %d times", n)
	}
	restored(t, f, before)
	if err := sends(t, f, from, to, 10000, soon); err != nil {
		t.Errorf("after the fault: %v", err)
	}
	// A share: some pass, some do not, and TCP gets through in the end.
	a = apply(t, f, scenario.Fault{Kind: "mtu", On: "device " + device, Rate: 0.2})
	if err := sends(t, f, from, to, 300_000, 2*soon); err != nil {
		t.Errorf("a fifth of full segments lost: %v", err)
	}
	if truth := stop(t, a); truth.Packets == 0 {
		t.Error("of 207 full segments a fifth is to be lost, none is")
	}
	restored(t, f, before)
}

// eachVersion runs a test for each version of the Internet Protocol.
func eachVersion(t *testing.T, test func(t *testing.T, v version)) {
	for _, v := range []version{ipv4, ipv6} {
		t.Run(fmt.Sprintf("IPv%d", v), func(t *testing.T) { test(t, v) })
	}
}

func TestRouteFlaps(t *testing.T) {
	f := build(t, standard)
	const device, to = "p0-tor0", "p1-tor1-h1"
	before := state(t, f)
	n, err := f.node(device)
	if err != nil {
		t.Fatal(err)
	}
	routes := func() int {
		all, err := n.space.routes()
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	whole := routes()
	a := apply(t, f, scenario.Fault{Kind: "route-flap", On: "device " + device, Rate: 0.75, Match: scenario.Match{Dst: to}})
	missed := counter(t, f, []string{device}, "IpExt", "InNoRoutes")
	var lost uint64
	for range 2 {
		eventually(t, soon, "the route is gone", func() bool { return routes() == whole-1 })
		lost += 20 - datagrams(t, f, "p0-tor0-h0", to, 7000, 20)
		eventually(t, soon, "the route is back", func() bool { return routes() == whole })
	}
	truth := stop(t, a)
	if n := counter(t, f, []string{device}, "IpExt", "InNoRoutes") - missed; lost == 0 || truth.Packets != lost || n != lost {
		t.Errorf("the fault says %d, the kernel %d, %d did not arrive", truth.Packets, n, lost)
	}
	restored(t, f, before)
}

func TestDeviceDownTakesTheCarrier(t *testing.T) {
	f := build(t, standard)
	before := state(t, f)
	heard := listenDrops(t, f.Node("p0-t1-0").Inode)
	for range 3 {
		a := apply(t, f, scenario.Fault{Kind: "device-down", On: "device t2-0"})
		if _, err := f.Apply(scenario.Fault{Kind: "acl", On: "device t2-0"}); err == nil {
			t.Error("a device that is down takes another fault")
		}
		const sent = 400
		lost := sent - datagrams(t, f, "p0-tor0-h0", "p1-tor1-h1", 7000, sent)
		truth := stop(t, a)
		if lost == 0 || lost == sent || truth.Packets != lost {
			t.Errorf("the fault's counter says %d, %d of %d did not arrive by one of two T2s", truth.Packets, lost, sent)
		}
		restored(t, f, before)
		if n := datagrams(t, f, "p0-tor0-h0", "p1-tor1-h1", 7000, 200); n != 200 {
			t.Errorf("%d of 200 datagrams arrive after the fault", n)
		}
	}
	if heard() == 0 {
		t.Error("the neighbour says nothing of what it cannot send")
	}
}

// Corrupted packets pass every device and end at the host, by TCP's own counter.
func TestCorruptEndsAtTheHost(t *testing.T) {
	f := build(t, dual)
	before := state(t, f)
	bad := func() uint64 { return counter(t, f, hostNames(f), "Tcp", "InCsumErrors") }
	found := bad()
	heard := listenDrops(t, f.Node("t2-1").Inode)
	a := apply(t, f, scenario.Fault{Kind: "corrupt", On: "link p0-t1-0>t2-1", Rate: 0.1})
	tr := startTraffic(t, f, standardTraffic)
	eventually(t, 60*time.Second, "packets are corrupted", func() bool { return a.Truth().Packets > 100 })
	tr.stop(t)
	truth := stop(t, a)
	// What is in flight arrives within a moment.
	eventually(t, soon, "the hosts count them", func() bool { return bad()-found >= truth.Packets })
	if n := bad() - found; n != truth.Packets || uint64(len(truth.Drops)) != n {
		t.Errorf("hosts found %d wrong checksums, the fault made %d and lists %d", n, truth.Packets, len(truth.Drops))
	}
	if share := float64(truth.Packets) / float64(truth.Seen); share < 0.05 || share > 0.2 {
		t.Errorf("%d of %d corrupted, want a tenth", truth.Packets, truth.Seen)
	}
	for _, v := range f.versions {
		if !slices.ContainsFunc(truth.Drops, func(d Drop) bool { return versionOf(d.Src.Addr()) == v }) {
			t.Errorf("no packet of IPv%d is corrupted", v)
		}
	}
	if n := heard(); n != 0 {
		t.Errorf("the device drops %d packets", n)
	}
	restored(t, f, before)
}

func TestSYNBlackholeLeavesConnectionsAlone(t *testing.T) {
	f := build(t, dual)
	eachVersion(t, func(t *testing.T, v version) { synBlackholeLeavesConnectionsAlone(t, f, v) })
}

func synBlackholeLeavesConnectionsAlone(t *testing.T, f *Fabric, v version) {
	to := serveAt(t, f, v, "p1-tor1-h1")
	const from = "p0-tor0-h0"
	before := state(t, f)
	open, err := dial(f, from, to, soon)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	a := apply(t, f, scenario.Fault{Kind: "syn-blackhole", On: "device p0-tor0", Match: scenario.Match{Src: from}})
	if conn, err := dial(f, from, to, notNow); err == nil {
		conn.Close()
		t.Error("a connection comes about")
	}
	if conn, err := dial(f, "p0-tor0-h1", to, soon); err != nil {
		t.Errorf("another host's connection: %v", err)
	} else {
		conn.Close()
	}
	if _, err := open.Write(make([]byte, 100_000)); err != nil {
		t.Error(err)
	}
	open.(*net.TCPConn).CloseWrite()
	open.SetDeadline(time.Now().Add(soon))
	if _, err := io.Copy(io.Discard, open); err != nil {
		t.Errorf("the open connection: %v", err)
	}
	truth := stop(t, a)
	if truth.Packets == 0 || uint64(len(truth.Drops)) != truth.Packets {
		t.Errorf("%d packets, %d listed", truth.Packets, len(truth.Drops))
	}
	for _, d := range truth.Drops {
		if d.Flags&0x12 != 0x02 || d.Link != "p0-tor0-h0>p0-tor0" {
			t.Errorf("took %+v", d)
		}
	}
	restored(t, f, before)
}

func TestServerResets(t *testing.T) {
	f := build(t, dual)
	eachVersion(t, func(t *testing.T, v version) { serverResets(t, f, v) })
}

func serverResets(t *testing.T, f *Fabric, v version) {
	to := serveAt(t, f, v, "p1-tor1-h1")
	const from, tries, rate = "p0-tor0-h0", 150, 0.5
	before := state(t, f)
	a := apply(t, f, scenario.Fault{Kind: "server-reset", On: "host p1-tor1-h1"})
	if err := sends(t, f, from, to, 10_000, soon); !isReset(err) {
		t.Errorf("got %v, want a reset", err)
	}
	if truth := stop(t, a); truth.Packets == 0 {
		t.Error("nothing counted")
	}
	a = apply(t, f, scenario.Fault{Kind: "server-reset", On: "host p1-tor1-h1", Rate: rate, Match: scenario.Match{Port: int(to.Port())}})
	var group errgroup.Group
	group.SetLimit(30)
	var reset atomic.Int64
	for range tries {
		group.Go(func() error {
			err := sends(t, f, from, to, 200, soon)
			if isReset(err) {
				reset.Add(1)
				return nil
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	resets := int(reset.Load())
	truth := stop(t, a)
	// Each sends one packet of data. Six standard deviations.
	if truth.Packets != uint64(resets) || math.Abs(float64(resets)-rate*tries) > 6*math.Sqrt(rate*(1-rate)*tries) {
		t.Errorf("%d of %d connections reset, %d counted; want half", resets, tries, truth.Packets)
	}
	if err := sends(t, f, from, to, 10_000, soon); err != nil {
		t.Errorf("after the fault: %v", err)
	}
	restored(t, f, before)
}

func isReset(err error) bool {
	for _, e := range []error{unix.ECONNRESET, unix.EPIPE, unix.ENOTCONN} {
		if err != nil && errors.Is(err, e) {
			return true
		}
	}
	return false
}

func TestHostSlowLosesNothing(t *testing.T) {
	f := build(t, standard)
	to := serve(t, f, "p1-tor1-h1")
	const from, size = "p0-tor0-h0", 1_500_000
	before := state(t, f)
	took := func(from string) time.Duration {
		began := time.Now()
		if err := sends(t, f, from, to, size, 2*soon); err != nil {
			t.Fatal(err)
		}
		return time.Since(began)
	}
	a := apply(t, f, scenario.Fault{Kind: "host-slow", On: "host " + from})
	const least = size * time.Second / hostRate * 9 / 10
	if d := took(from); d < least {
		t.Errorf("%d bytes left the slow host in %v", size, d)
	}
	truth := stop(t, a)
	if truth.Packets != 0 || truth.Seen < size/1448 || truth.Connections != 1 {
		t.Errorf("truth %+v", truth)
	}
	restored(t, f, before)
	took(from)
}

// serveChild is a server that reads what it gets; it says where it listens.
func serveChild() {
	ln, err := net.Listen("tcp", net.JoinHostPort(os.Args[1], "0"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(ln.Addr())
	for {
		conn, err := ln.Accept()
		if err != nil {
			os.Exit(1)
		}
		go func() {
			io.Copy(io.Discard, conn)
			conn.Close()
		}()
	}
}

func TestServerSlowClosesTheWindow(t *testing.T) {
	f := build(t, standard)
	const host, from = "p1-tor1-h1", "p0-tor0-h0"
	fault := scenario.Fault{Kind: "server-slow", On: "host " + host}
	if _, err := f.Apply(fault); err == nil {
		t.Error("a host without a server is slow")
	}
	h, _ := f.Topology().Host(host)
	start := func(address string) (*exec.Cmd, netip.AddrPort) {
		cmd := exec.Command("/proc/self/exe", address)
		cmd.Env = append(os.Environ(), childMode+"=serve")
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Start(host, cmd); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
		var at string
		if _, err := fmt.Fscan(out, &at); err != nil {
			t.Fatal(err)
		}
		return cmd, netip.MustParseAddrPort(at)
	}
	server, to := start(h.Addresses[0].String())
	agent, _ := start(f.ManagementAddr(host).String())
	a := apply(t, f, fault)
	eventually(t, soon, "the server stands still", func() bool { return processState(t, server) == 'T' })
	if s := processState(t, agent); s == 'T' {
		t.Error("what serves the management network stands still too")
	}
	closed := func() uint64 { return counter(t, f, []string{host}, "TcpExt", "TCPToZeroWindowAdv") }
	before := closed()
	for range 3 {
		if err := sends(t, f, from, to, 20_000_000, 6*soon); err != nil {
			t.Fatal(err)
		}
	}
	truth := stop(t, a)
	if n := closed() - before; n == 0 {
		t.Error("the window is never closed")
	}
	if truth.Connections != 3 || truth.Packets != 0 {
		t.Errorf("truth %+v", truth)
	}
	eventually(t, soon, "the server runs", func() bool { return processState(t, server) != 'T' })
}

// processState is the letter of /proc/PID/stat.
func processState(t *testing.T, cmd *exec.Cmd) byte {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	return b[bytes.LastIndexByte(b, ')')+2]
}

func TestListenerLines(t *testing.T) {
	at := []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd0a::a00:1")}
	const line = "   0: 0100000A:1451 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0"
	for _, c := range []struct {
		line string
		want uint64
	}{
		{line, 4711},
		{"   0: 00000AFD00000000000000000100000A:1451 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4712 1", 4712},
		{"   0: 00000AFD00000000000000000200000A:1451 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4712 1", 0},
		{"   0: 0200000A:1451 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1", 0},
		{"   0: 0100000A:1451 00000000:0000 01 00000000:00000000 00:00000000 00000000     0        0 4711 1", 0},
		{"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode", 0},
		{"   0: 010000:1451 00000000:0000 0A 0 0 0 0 0 1", 0},
		{"   0: 0100000A", 0},
		{"", 0},
	} {
		inode, ok := listener([]byte(c.line), at)
		if inode != c.want || ok != (c.want > 0) {
			t.Errorf("%q: %d, %v", c.line, inode, ok)
		}
	}
}

// Whatever is under way, all of it ends and nothing stays.
func TestAllFaultsAtOnce(t *testing.T) {
	f := build(t, standard)
	before := state(t, f)
	var all []*Active
	for _, fault := range []scenario.Fault{
		{Kind: "acl", On: "device t2-0", Rate: 0.5},
		{Kind: "blackhole", On: "device t2-0", Rate: 0.5},
		{Kind: "mtu", On: "device t2-0"},
		{Kind: "ttl-loop", On: "device t2-0", Match: scenario.Match{Dst: "p1-tor1-h1"}},
		{Kind: "no-route", On: "device t2-0", Match: scenario.Match{Dst: "p1-tor1-h0"}},
		{Kind: "route-flap", On: "device p0-t1-1"},
		{Kind: "device-down", On: "device p0-t1-0"},
		{Kind: "device-loss", On: "device t2-1", Rate: 0.1},
		{Kind: "syn-blackhole", On: "device p1-tor0"},
		{Kind: "corrupt", On: "link p0-tor1-h0>p0-tor1"},
		{Kind: "queue", On: "link p0-tor1>p0-tor1-h0"},
		{Kind: "host-slow", On: "host p0-tor0-h0"},
		{Kind: "server-reset", On: "host p0-tor0-h0"},
	} {
		all = append(all, apply(t, f, fault))
	}
	datagrams(t, f, "p0-tor0-h0", "p1-tor1-h1", 7000, 200)
	for _, a := range slices.Backward(all[:6]) {
		stop(t, a)
	}
	for _, a := range all[6:] {
		stop(t, a)
	}
	restored(t, f, before)
	if n := datagrams(t, f, "p0-tor0-h0", "p1-tor1-h1", 7000, 200); n != 200 {
		t.Errorf("%d of 200 datagrams arrive afterwards", n)
	}
}
