package hostagent

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"decaf/api/decafpb"
	"decaf/api/packet"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

const (
	kindSYN    = decafpb.RetransmitKind_RETRANSMIT_KIND_SYN
	kindSYNACK = decafpb.RetransmitKind_RETRANSMIT_KIND_SYN_ACK
	kindTLP    = decafpb.RetransmitKind_RETRANSMIT_KIND_TLP
	kindFast   = decafpb.RetransmitKind_RETRANSMIT_KIND_FAST
	kindRTO    = decafpb.RetransmitKind_RETRANSMIT_KIND_RTO
)

func isFlow(f packet.Flow, kind decafpb.RetransmitKind) func(*decafpb.Retransmit) bool {
	return func(r *decafpb.Retransmit) bool {
		got, err := packet.FlowFromPB(r.GetFlow())
		return err == nil && got == f && !r.GetUndone() && r.GetKind() == kind
	}
}

// The tail of a connection is probed once and then times out, whatever the
// address family.
func TestTailLossProbeThenTimeout(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, to string
		dual     bool
	}{
		{"IPv4", addrB, false},
		{"IPv6", addrB6, false},
		{"IPv4 on a dual-stack socket", addrB, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			// Both in one epoch, in which a flow is traced once.
			rec, _, stop := l.watchWith(l.a, tracerFunc(complete), func(c *Config) { c.Epoch = 1000 * time.Hour })
			defer stop()
			p := l.connect(c.to, c.dual)
			f := l.drop("eth1")
			defer f.remove()
			start := time.Now()
			if _, err := p.client.Write(make([]byte, 100)); err != nil {
				t.Fatal(err)
			}
			tlp := rec.wait(t, "the probe", isFlow(p.flow(), kindTLP))
			rto := rec.wait(t, "the timeout", isFlow(p.flow(), kindRTO))
			if tlp.GetTcpSeq() != rto.GetTcpSeq() {
				t.Errorf("probe and timeout sent %d and %d again, want the same", tlp.GetTcpSeq(), rto.GetTcpSeq())
			}
			for _, r := range []*decafpb.Retransmit{tlp, rto} {
				if n := r.GetTcpEndSeq() - r.GetTcpSeq(); n != 100 || r.GetSegments() != 1 {
					t.Errorf("%v: %d bytes in %d segments, want 100 in 1", r.GetKind(), n, r.GetSegments())
				}
				if r.GetCookie() != p.cookie(t) {
					t.Errorf("%v: cookie %d, the socket's is %d", r.GetKind(), r.GetCookie(), p.cookie(t))
				}
				if at := time.Unix(0, int64(r.GetTimeNs())); at.Before(start) || at.After(time.Now()) {
					t.Errorf("%v: at %v, which is not within the test", r.GetKind(), at)
				}
				if r.GetProcess() != comm(t) {
					t.Errorf("%v: process %q, want %q", r.GetKind(), r.GetProcess(), comm(t))
				}
				if r.GetWayBackSuspect() || r.GetLocalCause() != "" {
					t.Errorf("%v: way back suspect %v, local cause %q, want neither", r.GetKind(), r.GetWayBackSuspect(), r.GetLocalCause())
				}
			}
			if tlp.GetPath().GetStatus() != decafpb.PathStatus_PATH_STATUS_COMPLETE || rto.GetPath().GetStatus() != decafpb.PathStatus_PATH_STATUS_CACHED {
				t.Errorf("paths %v and %v, want complete and cached", tlp.GetPath(), rto.GetPath())
			}
			if len(rto.GetPath().GetHops()) != 1 || rto.GetPath().GetProbeSeq() != 7 {
				t.Errorf("cached path %v, want the hops and the probes of the first", rto.GetPath())
			}
		})
	}
}

// One packet lost amid others is sent again fast, and nothing else is.
func TestFastRetransmit(t *testing.T) {
	l := newLab(t)
	for _, to := range []string{addrB, addrB6} {
		rec, _ := l.watch(l.a, tracerFunc(complete))
		p := l.connect(to, false)
		f := l.drop("eth1", append(longerThan(1000), nth(2)...)...)
		const bytes = 120 * 1400
		if _, err := p.client.Write(make([]byte, bytes)); err != nil {
			t.Fatal(err)
		}
		if err := read(p.server, bytes); err != nil {
			t.Fatal(err)
		}
		r := rec.wait(t, "the fast retransmit", isFlow(p.flow(), kindFast))
		if r.GetSegments() == 0 {
			t.Error("no segments")
		}
		if f.dropped() == 0 {
			t.Error("nothing was dropped")
		}
		f.remove()
	}
}

// A SYN is traced when it goes to a host that is there; either way its answer
// may be what was lost.
func TestSYN(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	rec, _ := l.watch(l.a, tracerFunc(complete))
	f := l.drop("eth1")
	defer f.remove()
	var wg sync.WaitGroup
	for _, to := range []string{addrB, strangerB} {
		wg.Go(func() {
			if c, err := l.dial(to, 80, false, 1500*time.Millisecond); err == nil {
				c.Close()
			}
		})
	}
	defer wg.Wait()
	for _, c := range []struct {
		to     string
		status decafpb.PathStatus
	}{
		{addrB, decafpb.PathStatus_PATH_STATUS_COMPLETE},
		{strangerB, decafpb.PathStatus_PATH_STATUS_SKIPPED},
	} {
		r := rec.wait(t, "a SYN to "+c.to, func(r *decafpb.Retransmit) bool {
			return r.GetKind() == kindSYN && net.IP(r.GetFlow().GetDst()).String() == c.to
		})
		if !r.GetWayBackSuspect() || r.GetTcpFlags()&flagSYN == 0 || r.GetTcpEndSeq() != r.GetTcpSeq()+1 {
			t.Errorf("%v: want way back suspect, SYN, one sequence number", r)
		}
		if r.GetPath().GetStatus() != c.status || c.status == decafpb.PathStatus_PATH_STATUS_SKIPPED && r.GetPath().GetWhy() == "" {
			t.Errorf("to %s: path %v, want %v", c.to, r.GetPath(), c.status)
		}
	}
}

// The answering end sees that its SYN-ACK is not heard.
func TestSYNACK(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	ln := l.listen()
	port := ln.Addr().(*net.TCPAddr).Port
	rec, _ := l.watch(l.b, tracerFunc(complete))
	f := l.drop("eth2")
	defer f.remove()
	var wg sync.WaitGroup
	for _, to := range []string{addrB, addrB6} {
		wg.Go(func() {
			if c, err := l.dial(to, port, false, 1500*time.Millisecond); err == nil {
				c.Close()
			}
		})
	}
	defer wg.Wait()
	for _, c := range []struct{ src, dst string }{{addrB, addrA}, {addrB6, addrA6}} {
		r := rec.wait(t, "a SYN-ACK from "+c.src, func(r *decafpb.Retransmit) bool {
			return r.GetKind() == kindSYNACK && net.IP(r.GetFlow().GetSrc()).String() == c.src
		})
		if net.IP(r.GetFlow().GetDst()).String() != c.dst || r.GetFlow().GetSrcPort() != uint32(port) || r.GetFlow().GetDstPort() == 0 {
			t.Errorf("flow %v, want from %s:%d to %s", r.GetFlow(), c.src, port, c.dst)
		}
		if !r.GetWayBackSuspect() || r.GetSegments() != 1 || r.GetTcpSeq() == 0 || r.GetTcpFlags() != flagSYN|flagACK || r.GetCookie() == 0 {
			t.Errorf("%v: want way back suspect, one segment, a sequence number, SYN and ACK, a cookie", r)
		}
	}
}

// Sockets that their owner has closed still send again: with the FIN, and what
// the record says of the FIN is enough to tell that no data was lost.
func TestClosedSockets(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		data    int
		peer    bool // the other end closes first: LAST_ACK, else FIN_WAIT1
		payload uint32
	}{
		{"data and FIN in FIN_WAIT1", 50, false, 50},
		{"FIN alone in FIN_WAIT1", 0, false, 0},
		{"FIN alone in LAST_ACK", 0, true, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			rec, _ := l.watch(l.a, tracerFunc(complete))
			p := l.connect(addrB, false)
			if c.peer {
				p.server.CloseWrite()
				if _, err := p.client.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
					t.Fatalf("read: %v, want the end", err)
				}
			}
			f := l.drop("eth1")
			defer f.remove()
			flow := p.flow()
			if c.data > 0 {
				p.client.Write(make([]byte, c.data))
			}
			p.client.Close()
			for _, kind := range []decafpb.RetransmitKind{kindTLP, kindRTO} {
				var payload uint32
				r := rec.wait(t, "the FIN as "+kind.String(), func(r *decafpb.Retransmit) bool {
					// The timeout sends the first buffer not acknowledged; the
					// probe sends the last. With data in a buffer of its own
					// these differ, so count what both held.
					if !isFlow(flow, kind)(r) {
						return false
					}
					e := event{seq: r.GetTcpSeq(), endSeq: r.GetTcpEndSeq(), flags: uint8(r.GetTcpFlags())}
					payload = e.payload()
					return true
				})
				if r.GetTcpFlags()&flagFIN == 0 && payload != c.payload {
					t.Errorf("%v: flags %#x, %d bytes: want the FIN or %d bytes", kind, r.GetTcpFlags(), payload, c.payload)
				}
				if c.data == 0 && (r.GetTcpFlags()&flagFIN == 0 || payload != 0 || r.GetTcpEndSeq() != r.GetTcpSeq()+1) {
					t.Errorf("%v: flags %#x, %d bytes, want a FIN alone", kind, r.GetTcpFlags(), payload)
				}
			}
		})
	}
}

// When only acknowledgements are lost, the other end reports that it had
// everything: that is said once the connection is gone, after the record it
// takes back. When data is lost nothing is taken back.
func TestUndone(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		port  string // on which the router drops
		close func(pair)
		want  bool
	}{
		{"lost acknowledgement, this end in TIME_WAIT", "eth2", func(p pair) { p.client.Close(); p.server.Close() }, true},
		{"lost acknowledgement, the other end in TIME_WAIT", "eth2", func(p pair) { p.server.Close(); p.client.Read(make([]byte, 1)); p.client.Close() }, true},
		{"lost data", "eth1", func(p pair) { p.client.Close(); p.server.Close() }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			rec, a := l.watch(l.a, tracerFunc(complete))
			p := l.connect(addrB, false)
			flow, cookie := p.flow(), p.cookie(t)
			f := l.drop(c.port, nth(0)...) // or, on a busy machine, the answer to the probe too
			if _, err := p.client.Write(make([]byte, 100)); err != nil {
				t.Fatal(err)
			}
			until(t, "the packet is dropped", func() bool { return f.dropped() > 0 })
			f.remove()
			rec.wait(t, "the probe", isFlow(flow, kindTLP))
			if err := read(p.server, 100); err != nil {
				t.Fatal(err)
			}
			// The answer to the probe is there once nothing is unacknowledged.
			until(t, "everything is acknowledged", func() bool { return unacked(t, p.client) == 0 })
			c.close(p)
			until(t, "the socket is gone", func() bool { return a.Counters()[countClosed] > 0 })
			if got := a.Counters()[countUndone] > 0; got != c.want {
				t.Fatalf("undone: %v, want %v", got, c.want)
			}
			if !c.want {
				return
			}
			last := rec.wait(t, "the last word", func(r *decafpb.Retransmit) bool { return r.GetUndone() && r.GetUndoneSeq() == 0 })
			if all := rec.all(); all[len(all)-1] != last {
				t.Errorf("the last word came before %v", all[len(all)-1])
			}
			got, err := packet.FlowFromPB(last.GetFlow())
			if err != nil || got != flow || last.GetCookie() != cookie || last.GetPath() != nil {
				t.Errorf("last record %v, want %v with cookie %d and no path", last, flow, cookie)
			}
		})
	}
}

// The same where the owner has closed the socket before the loss shows: the
// kernel finishes it alone, and nothing but the tracepoint sees its end.
func TestUndoneAfterClose(t *testing.T) {
	l := newLab(t)
	rec, a := l.watch(l.a, tracerFunc(complete))
	p := l.connect(addrB, false)
	flow := p.flow()
	f := l.drop("eth2")
	p.client.Write(make([]byte, 100))
	p.client.Close()
	if err := read(p.server, 100); err != nil {
		t.Fatal(err)
	}
	until(t, "the acknowledgement is dropped", func() bool { return f.dropped() > 0 })
	f.remove()
	rec.wait(t, "the probe", isFlow(flow, kindTLP))
	rec.wait(t, "the last word", func(r *decafpb.Retransmit) bool {
		got, err := packet.FlowFromPB(r.GetFlow())
		return err == nil && got == flow && r.GetUndone()
	})
	if n := a.Counters()[countUndone]; n != 1 {
		t.Errorf("%d connections undone, want 1", n)
	}
}

// The answering end retransmits like the asking one. Its socket is one of
// multipath TCP that fell back, as Go programs have them.
func TestAnsweringEnd(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	for _, to := range []string{addrB, addrB6} {
		rec, _ := l.watch(l.b, tracerFunc(complete))
		p := l.connect(to, false)
		f := l.drop("eth2")
		if _, err := p.server.Write(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		rec.wait(t, "the probe", isFlow(p.flow().Reverse(), kindTLP))
		r := rec.wait(t, "the timeout", isFlow(p.flow().Reverse(), kindRTO))
		if n := r.GetTcpEndSeq() - r.GetTcpSeq(); n != 100 || r.GetCookie() == 0 {
			t.Errorf("%v: want 100 bytes and a cookie", r)
		}
		f.remove()
	}
}

// What this host's own packet filter drops is said to be its own doing.
func TestLocalCause(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	rec, _ := l.watch(l.a, tracerFunc(complete))
	p := l.connect(addrB, false)
	// The first copy is lost in the network: TCP counts a segment as sent only
	// once it has left the host.
	f := l.drop("eth1")
	defer f.remove()
	p.client.Write([]byte("x"))
	until(t, "the packet is dropped", func() bool { return f.dropped() > 0 })
	l.a.dropTCP(t, nftables.ChainHookOutput)
	r := rec.wait(t, "what could not be sent", func(r *decafpb.Retransmit) bool { return r.GetLocalCause() != "" })
	if !strings.Contains(r.GetLocalCause(), "packet filter") || r.GetPath().GetStatus() != decafpb.PathStatus_PATH_STATUS_SKIPPED {
		t.Errorf("%v: want the packet filter named, and no trace", r)
	}
}

// unacked is how many segments the socket still waits to hear of.
func unacked(t *testing.T, c *net.TCPConn) uint32 {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var info *unix.TCPInfo
	if cerr := raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
	return info.Unacked
}

// transfer sends bytes over n connections at the same time, each closed after.
func (l *lab) transfer(t *testing.T, to string, n, bytes int) {
	t.Helper()
	var wg sync.WaitGroup
	for range n {
		p := l.connect(to, false)
		wg.Go(func() {
			p.client.Write(make([]byte, bytes))
			p.client.CloseWrite()
		})
		wg.Go(func() {
			p.server.SetReadDeadline(time.Now().Add(30 * time.Second))
			if got, err := io.Copy(io.Discard, p.server); err != nil || got != int64(bytes) {
				t.Errorf("received %d bytes of %d: %v", got, bytes, err)
			}
			p.server.Close()
			p.client.Close()
		})
	}
	wg.Wait()
}

// What is counted is segments, not calls: with segmentation offloads in force,
// as here, one buffer sent again holds many. The kernel's own count says how
// many there were.
func TestSegmentsAgreeWithKernel(t *testing.T) {
	l := newLab(t)
	_, a := l.watch(l.a, tracerFunc(complete))
	// Senders without an end, so that nobody waits for the slowest.
	var senders sync.WaitGroup
	defer senders.Wait()
	for i := range 20 {
		p := l.connect([]string{addrB, addrB6}[i%2], false)
		senders.Go(func() {
			for chunk := make([]byte, 1<<17); ; {
				if _, err := p.client.Write(chunk); err != nil {
					return
				}
			}
		})
		senders.Go(func() { io.Copy(io.Discard, p.server) })
		defer p.server.Close()
		defer p.client.Close()
	}
	// A kernel may show no program what happens while some tasks of its machine run
	// (device/doc.go): then it is counted again.
	agree := false
	for try := 0; try < 3 && !agree; try++ {
		agree = l.segmentsAgree(a, 10_000)
	}
	if !agree {
		t.Error("the agent does not count within 0.1 % what the kernel does, three times running")
	}
	if n := a.Counters()[countLostRing]; n != 0 {
		t.Errorf("%d events were lost", n)
	}
}

// segmentsAgree has at least so many segments sent again, and says whether the agent
// counts within 0.1 % as many as the kernel.
func (l *lab) segmentsAgree(a *Agent, least uint64) bool {
	t := l.t
	t.Helper()
	before, counted := l.a.retransSegs(t), a.Counters()[countSegments]
	f := l.drop("eth1", permille(50)...)
	for deadline := time.Now().Add(time.Minute); l.a.retransSegs(t)-before < least && time.Now().Before(deadline); {
		<-time.After(50 * time.Millisecond)
	}
	dropped := f.dropped()
	f.remove()
	var want, got uint64
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); <-time.After(20 * time.Millisecond) {
		got = a.Counters()[countSegments] - counted // before, since the kernel goes on
		want = l.a.retransSegs(t) - before
		if got*1000 >= want*999 && want >= least {
			break
		}
	}
	t.Logf("kernel counts %d segments, the agent %d; %d packets dropped", want, got, dropped)
	return want >= least && got*1000 >= want*999 && got*1000 <= want*1001
}

// An agent sees its own namespace and no other.
func TestOtherNamespaceIsNotSeen(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	rec, _ := l.watch(l.a, tracerFunc(complete))
	_, other := l.watch(l.b, tracerFunc(complete))
	p := l.connect(addrB, false)
	f := l.drop("eth1")
	defer f.remove()
	p.client.Write([]byte("x"))
	rec.wait(t, "the probe", isFlow(p.flow(), kindTLP))
	if n := other.Counters()[countEvents]; n != 0 {
		t.Errorf("the agent at the other end saw %d events", n)
	}
}

// A reader that does not keep up loses events, and each is counted.
func TestFullRingIsCounted(t *testing.T) {
	l := newLab(t)
	small, err := openKernel(kernelOptions{netns: l.a.inum, ringBytes: 4096}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer small.Close()
	_, a := l.watch(l.a, tracerFunc(complete))
	pairs := make([]pair, 60)
	for i := range pairs {
		pairs[i] = l.connect(addrB, false)
	}
	f := l.drop("eth1")
	for _, p := range pairs {
		p.client.Write([]byte("x"))
	}
	until(t, "each has sent again", func() bool { return a.Counters()[countEvents] >= uint64(len(pairs)) })
	f.remove()
	for _, p := range pairs {
		if err := read(p.server, 1); err != nil {
			t.Fatal(err)
		}
	}
	lost, err := small.Lost()
	if err != nil {
		t.Fatal(err)
	}
	var read uint64
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // Run reads what is there and returns
	if err := small.Run(ctx, func(event) { read++ }, func(err error) { t.Error(err) }); err != nil {
		t.Fatal(err)
	}
	until(t, "the other reader has read them all", func() bool { return a.Counters()[countEvents] >= read+lost })
	if seen := a.Counters()[countEvents]; lost == 0 || read == 0 || seen != read+lost {
		t.Errorf("read %d, lost %d, together not the %d another reader saw", read, lost, seen)
	}
}

// What to do about missing privileges is said.
func TestWithoutPrivileges(t *testing.T) {
	needKernel(t)
	err := onOwnThread(func() error {
		// Of this thread alone, which ends with the function.
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			t.Errorf("capset: %v", err)
			return nil
		}
		k, err := openKernel(kernelOptions{netns: 1, ringBytes: 1 << 16}, slog.New(slog.DiscardHandler))
		if err == nil {
			k.Close()
		}
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "CAP_BPF") || strings.Contains(err.Error(), "\n") {
		t.Errorf("error %v, want one line that names the capabilities", err)
	}
}

// The capabilities that errors and help name are enough.
func TestNamedPrivilegesSuffice(t *testing.T) {
	needKernel(t)
	var k *kernel
	err := onOwnThread(func() error {
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var some [2]unix.CapUserData
		for _, c := range []int{unix.CAP_BPF, unix.CAP_PERFMON, unix.CAP_NET_RAW} {
			some[c/32].Permitted |= 1 << (c % 32)
			some[c/32].Effective |= 1 << (c % 32)
		}
		err := unix.Capset(&header, &some[0])
		if err != nil {
			return err
		}
		ns, inum, err := openNetNS("")
		if err != nil {
			return err
		}
		defer ns.Close()
		if err := enterNetNS(ns, inum); err != nil { // our own
			return err
		}
		if k, err = openKernel(kernelOptions{netns: inum, ringBytes: 1 << 16, flows: true}, slog.New(slog.DiscardHandler)); err != nil {
			return err
		}
		return k.flows.Dump(dumpAll, func(*flowSample) {}, func(err error) { t.Error(err) })
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Close(); err != nil {
		t.Error(err)
	}
}

// The kernel follows each way through a program once, not each combination of
// ways: that would take it long whenever an agent starts.
func TestProgramsAreVerifiedFast(t *testing.T) {
	needKernel(t)
	k, err := openKernel(kernelOptions{netns: 1, ringBytes: 1 << 16}, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	for _, l := range k.links {
		at, err := l.Info()
		if err != nil {
			t.Fatal(err)
		}
		p, err := ebpf.NewProgramFromID(at.Program)
		if err != nil {
			t.Fatal(err)
		}
		info, err := p.Info()
		p.Close()
		if err != nil {
			t.Fatal(err)
		}
		// Linux 5.16 and later say how many instructions they looked at.
		if n, ok := info.VerifiedInstructions(); ok && n > 20_000 {
			t.Errorf("%s: %d instructions verified", info.Name, n)
		}
	}
}

// What a kernel lacks is named, not guessed.
func TestLayoutErrors(t *testing.T) {
	needKernel(t)
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ structure, path, want string }{
		{"no_such_struct", "x", "no_such_struct"},
		{"sock_common", "skc_net.nothing", "skc_net.nothing"},
		{"sock_common", "skc_state.more", "skc_state.more"},
	} {
		if f, err := fieldOf(spec, c.structure, c.path); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s.%s: %+v, %v; want an error that names %s", c.structure, c.path, f, err, c.want)
		}
	}
	if n, err := tracepointArgs(spec, "no_such_tracepoint"); err == nil {
		t.Errorf("a tracepoint that is not there has %d arguments", n)
	}
}
