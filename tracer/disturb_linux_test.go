package tracer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"decaf/api/packet"
)

// A hundred traces of a live flow of 20 Mbit/s, and it does not notice: nothing is
// sent again, no acknowledgement comes twice, the congestion window is not reduced,
// and no probe comes as far as the host. What else goes on on the machine can delay
// or reorder a flow's packets: traces that disturb do so in every round.
func TestAHundredTracesDoNotDisturb(t *testing.T) {
	families(t, func(t *testing.T, f *fan, v6 bool) {
		f.serve(v6)
		tr := f.tracerAt("h1", testConfig(), 3)
		const rounds, traces = 10, 100
		var seen disturbance
		for round := range int64(rounds) {
			flow := flowOf(v6, uint16(40000+round))
			seen = f.disturbed(t, flow, traces, func(i int64) { want(t, tr.Trace(t.Context(), flow, round*traces+i), "complete", "") })
			if seen == (disturbance{}) {
				break
			}
			t.Logf("round %d: %+v", round, seen)
		}
		if seen != (disturbance{}) {
			t.Errorf("in none of %d rounds a flow is left alone by %d traces", rounds, traces)
		}
		if n := f.snmp("h2", "Tcp", "InErrs"); n != 0 {
			t.Errorf("%d probes came as far as the host", n)
		}
		if n := f.snmp("h2", "Tcp", "OutRsts"); n != 0 {
			t.Errorf("%d resets", n)
		}
	})
}

// disturbance is what a flow notices of other things than itself.
type disturbance struct {
	retransmits uint64 // segments
	repeated    uint64 // acknowledgements for segments that are old, ahead or no good
	reduced     bool   // the congestion window
}

// disturbed has a flow send 2500 bytes each millisecond, and does something beside
// it as many times.
func (f *fan) disturbed(t *testing.T, flow packet.Flow, times int, beside func(i int64)) (d disturbance) {
	t.Helper()
	c := f.dial(flow)
	defer c.Close()
	// Reno's threshold is without bound until the first reduction. (Others set it for
	// more reasons, or never.)
	f.control(c, func(fd int) error {
		return unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, "reno")
	})
	tcpInfo := func() (info *unix.TCPInfo) {
		f.control(c, func(fd int) (err error) {
			info, err = unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
			return err
		})
		return info
	}
	before, repeated := tcpInfo(), f.repeated("h2")
	sent := make(chan error, 1)
	turns := make(chan struct{})
	go func() {
		// From one CPU, since two would reorder them. The thread ends with this.
		runtime.LockOSThread()
		var one unix.CPUSet
		if err := unix.SchedGetaffinity(0, &one); err != nil {
			sent <- err
			return
		}
		for cpu := 0; one.Count() > 1; cpu++ {
			one.Clear(cpu)
		}
		err := unix.SchedSetaffinity(0, &one)
		for range turns {
			if err == nil {
				_, err = c.Write(make([]byte, 2500))
			}
		}
		sent <- err
	}()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for i := range int64(times) {
		<-tick.C
		turns <- struct{}{}
		beside(i)
	}
	close(turns)
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	var after *unix.TCPInfo
	eventually(t, func() bool {
		after = tcpInfo()
		return after.Unacked == 0 && after.Notsent_bytes == 0
	})
	const withoutBound = 1<<31 - 1
	return disturbance{
		retransmits: uint64(after.Total_retrans - before.Total_retrans),
		repeated:    f.repeated("h2") - repeated,
		reduced:     after.Snd_ssthresh != withoutBound,
	}
}

// control does something with a connection's socket.
func (f *fan) control(c net.Conn, do func(fd int) error) {
	f.t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err == nil {
		errControl := raw.Control(func(fd uintptr) { err = do(int(fd)) })
		err = errors.Join(errControl, err)
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

// repeated counts the segments that a node's connections answered by an
// acknowledgement that they had sent before, or would have if not for its limits.
func (f *fan) repeated(node string) (sum uint64) {
	f.t.Helper()
	names := []string{"TCPOFOQueue", "DelayedACKLost", "TCPDSACKOldSent", "TCPDSACKOfoSent", "TCPACKSkippedSeq", "TCPACKSkippedPAWS", "TCPACKSkippedChallenge", "TCPChallengeACK", "PAWSEstab"}
	f.do(node, func() error {
		b, err := os.ReadFile("/proc/thread-self/net/netstat")
		if err != nil {
			return err
		}
		var heads []string
		found := 0
		for line := range strings.Lines(string(b)) { // in pairs: names, values
			words := strings.Fields(line)
			if words[0] != "TcpExt:" {
				continue
			}
			if heads == nil {
				heads = words
				continue
			}
			for i, name := range heads {
				if slices.Contains(names, name) {
					n, err := strconv.ParseUint(words[i], 10, 64)
					if err != nil {
						return err
					}
					sum += n
					found++
				}
			}
		}
		if found != len(names) {
			return fmt.Errorf("%d of %q in /proc/net/netstat", found, names)
		}
		return nil
	})
	return sum
}

// The distance comes from packets that are overheard: the opening ones of a
// connection, and then no probe reaches the host.
func TestDistanceIsOverheard(t *testing.T) {
	families(t, func(t *testing.T, f *fan, v6 bool) {
		f.serve(v6)
		var tr *Tracer
		f.do("h1", func() (err error) {
			tr, err = New(testConfig(), nil, slog.New(slog.DiscardHandler))
			return err
		})
		f.running(tr)
		flow := flowOf(v6, 40000)
		c := f.dial(flow)
		defer c.Close()
		eventually(t, func() bool { return tr.distances.of(flow.Dst.Addr()) == 3 })
		p := tr.Trace(t.Context(), flow, 1)
		want(t, p, "complete", "")
		if n := f.snmp("h2", "Tcp", "InErrs"); n != 0 || p.GetDistance() != 3 {
			t.Errorf("%d probes reached the host, distance %d", n, p.GetDistance())
		}
	})
}

// running runs a tracer until the test ends.
func (f *fan) running(tr *Tracer) {
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan error, 1)
	go func() { over <- tr.Run(ctx) }()
	f.t.Cleanup(func() {
		cancel()
		if err := <-over; err != nil {
			f.t.Errorf("run: %v", err)
		}
	})
}

// invalid matches packets that connection tracking calls invalid.
func invalid() []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: []byte{1, 0, 0, 0}, Xor: []byte{0, 0, 0, 0}},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{0, 0, 0, 0}},
	}
}

// A firewall that drops what connection tracking calls invalid hides the hops
// behind it from probes with a wrong checksum, and from those with a right one that
// are no segments of the connection. Old segments it lets pass.
func TestBehindAStatefulFirewall(t *testing.T) {
	families(t, func(t *testing.T, f *fan, v6 bool) {
		f.serve(v6)
		f.rule("r1", nftables.ChainHookForward, append(invalid(), drop())...)
		flow := flowOf(v6, 40000)
		var tr *Tracer
		f.do("h1", func() (err error) {
			cfg := testConfig()
			tr, err = newTracer(cfg, func(netip.Addr, netip.Addr) int { return 3 }, slog.New(slog.DiscardHandler), []watchFor{watchFlow(flow)})
			return err
		})
		f.running(tr)
		c := f.dial(flow)
		defer c.Close()
		talk := func() {
			if _, err := c.Write(make([]byte, 5000)); err != nil {
				t.Error(err)
			}
		}
		talk()
		stop, over := make(chan struct{}), make(chan struct{})
		go func() { // so that acknowledgements come, which say where the connection stands
			defer close(over)
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-stop:
					return
				case <-tick.C:
					talk()
				}
			}
		}()
		p := tr.Trace(t.Context(), flow, 1)
		close(stop)
		<-over
		want(t, p, "complete", "")
		s := tr.Stats()
		if s.Plain == 0 || s.PlainNeeded != 1 {
			t.Errorf("%+v", s)
		}
		// A caller that knows where the connection stands has all probes of the trace
		// carry one sequence, an old one.
		known := f.tracerAt("h1", testConfig(), 3)
		seq := f.sequenceOf(flow, talk)
		p = known.Do(t.Context(), Request{Flow: flow, Epoch: 1, Sequence: &seq})
		want(t, p, "complete", "")
		if behind := seq.Unacked - p.GetProbeSeq(); behind == 0 || behind > 4096 {
			t.Errorf("sequence %d, the connection is at %d", p.GetProbeSeq(), seq.Unacked)
		}
		if n := f.snmp("h2", "Tcp", "InErrs"); n != 0 {
			t.Errorf("%d probes reached the host", n)
		}
	})
}

// Routers that balance by the IPv6 flow label send probes with the flow's own
// label where they send the flow, and others elsewhere.
func TestFlowLabelDecidesThePath(t *testing.T) {
	f := newFan(t)
	f.do("r1", func() error { return sysctl("ipv6.fib_multipath_hash_fields", fmt.Sprint(0x08)) })
	tr := f.tracerAt("h1", testConfig(), 3)
	f.serve(true)
	seen, err := f.outgoing("h1")
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(seen)
	spineOf := map[uint32]string{}
	for i := range 12 {
		flow := flowOf(true, uint16(40000+i))
		c := f.dial(flow)
		spine := f.spineOf(t, c)
		label := f.labelOf(seen, flow)
		p := tr.Do(t.Context(), Request{Flow: flow, Epoch: 1, FlowLabel: label})
		if p.GetFlowLabel() != label {
			t.Errorf("the path is of flow label %#x, want %#x", p.GetFlowLabel(), label)
		}
		c.Close()
		want(t, p, "complete", "")
		if at := hopAddr(p.GetHops()[1]); at != addr6(2, spine, 1) || label == 0 {
			t.Errorf("label %#x: %s, and the flow goes over spine %d", label, at, spine)
		}
		spineOf[label] = hops(p)
	}
	if len(spineOf) < 2 {
		t.Errorf("%d labels for 12 flows", len(spineOf))
	}
}

// spineOf sends on a connection and gives the number of the spine it goes over.
func (f *fan) spineOf(t *testing.T, c net.Conn) (spine int) {
	t.Helper()
	before := f.received()
	for range 40 {
		if _, err := c.Write(make([]byte, 500)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, func() bool {
		after, most := f.received(), uint64(0)
		for s := range after {
			if n := after[s] - before[s]; n > most {
				most, spine = n, s+1
			}
		}
		return most >= 5
	})
	return spine
}

// outgoing opens a socket that sees what a node sends.
func (f *fan) outgoing(node string) (fd int, err error) {
	f.do(node, func() error {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(networkOrder(unix.ETH_P_ALL)))
		if err != nil {
			return err
		}
		return unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5})
	})
	return fd, err
}

// labelOf waits for a data packet of a flow and gives its label.
func (f *fan) labelOf(fd int, flow packet.Flow) uint32 {
	f.t.Helper()
	b := make([]byte, 2048)
	for {
		n, _, err := unix.Recvfrom(fd, b, 0)
		if err != nil {
			f.t.Fatal(err)
		}
		if h, ok := parseHeard(b[:n]); ok && h.flow == flow && h.data > 0 {
			return uint32(b[1]&0xf)<<16 | uint32(b[2])<<8 | uint32(b[3])
		}
	}
}

// sequenceOf has a flow send something and gives what the other end's answer says.
func (f *fan) sequenceOf(flow packet.Flow, talk func()) Sequence {
	f.t.Helper()
	fd, err := f.outgoing("h1") // sees what comes in, too
	if err != nil {
		f.t.Fatal(err)
	}
	defer unix.Close(fd)
	talk()
	b := make([]byte, 2048)
	for {
		n, _, err := unix.Recvfrom(fd, b, 0)
		if err != nil {
			f.t.Fatal(err)
		}
		if h, ok := parseHeard(b[:n]); ok && h.flow == flow.Reverse() {
			if s, ok := h.sequence(); ok {
				return s
			}
		}
	}
}
