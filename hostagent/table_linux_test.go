package hostagent

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"decaf/api/decafpb"
	"decaf/api/packet"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// tableLab has agents on both ends whose tables are published once: when they
// stop.
type tableLab struct {
	*lab
	a, b         *recorder
	stopA, stopB func()
}

func newTableLab(t *testing.T) *tableLab {
	l := &tableLab{lab: newLab(t)}
	once := func(c *Config) { c.Flows.Interval, c.Tables.Interval = 5*time.Minute, 5*time.Minute }
	l.a, _, l.stopA = l.watchWith(l.lab.a, tracerFunc(complete), once)
	l.b, _, l.stopB = l.watchWith(l.lab.b, tracerFunc(complete), once)
	return l
}

// stop ends both agents, and so their interval.
func (l *tableLab) stop() {
	l.stopA()
	l.stopB()
}

// recordOf is the one record of a single connection.
func recordOf(t *testing.T, rec *recorder, f packet.Flow) *decafpb.FlowRecord {
	t.Helper()
	var found *decafpb.FlowRecord
	for _, r := range rec.flows() {
		if g, err := packet.FlowFromPB(r.GetFlow()); err == nil && g == f && r.GetCookie() != 0 {
			if found != nil {
				t.Fatalf("two records of %v: %v and %v", f, found, r)
			}
			found = r
		}
	}
	if found == nil {
		t.Fatalf("no record of %v among %v", f, rec.flows())
	}
	return found
}

// serviceOf is the one sum of connections to a port of b, or from it.
func serviceOf(t *testing.T, rec *recorder, port int, inbound bool) *decafpb.FlowRecord {
	t.Helper()
	for _, r := range rec.flows() {
		f := r.GetFlow()
		of := f.GetDstPort()
		if inbound {
			of = f.GetSrcPort()
		}
		if r.GetCookie() == 0 && r.GetFlows() > 0 && int(of) == port && r.GetInbound() == inbound {
			return r
		}
	}
	t.Fatalf("no sum of port %d among %v", port, rec.flows())
	return nil
}

// ss is what `ss -tino` says of a's end of a connection, by field.
func (l *tableLab) ss(p pair) map[string]uint64 {
	l.t.Helper()
	var out []byte
	if err := l.lab.a.do(func() (err error) {
		out, err = exec.Command("ss", "-tinH", "sport", "=", ":"+strconv.Itoa(p.client.LocalAddr().(*net.TCPAddr).Port)).Output()
		return err
	}); err != nil {
		l.t.Fatalf("ss: %v", err)
	}
	got := map[string]uint64{}
	for _, w := range strings.Fields(string(out)) {
		name, value, ok := strings.Cut(w, ":")
		if !ok {
			continue
		}
		value, _, _ = strings.Cut(value, "/")
		value = strings.TrimSuffix(value, "ms")
		if f, err := strconv.ParseFloat(value, 64); err == nil {
			if name == "rtt" {
				f *= 1000 // µs
			}
			got[name] = uint64(f + 0.5)
		}
	}
	if m := regexp.MustCompile(`retrans:\d+/(\d+)`).FindSubmatch(out); m != nil {
		got["retrans"], _ = strconv.ParseUint(string(m[1]), 10, 64)
	}
	return got
}

// Each field of the patent's table 1 that a healthy open connection shows: what
// the agent says is what ss says of the same socket, or what the test did.
func TestTableFieldsAreThoseOfSS(t *testing.T) {
	if _, err := exec.LookPath("ss"); err != nil {
		t.Fatal("this test compares with ss, of iproute2")
	}
	l := newTableLab(t)
	p := l.connect(addrB, false)
	for _, step := range []struct {
		from, to *net.TCPConn
		n        int
	}{{p.client, p.server, 100_000}, {p.server, p.client, 30_000}, {p.client, p.server, 7}} {
		if _, err := step.from.Write(make([]byte, step.n)); err != nil {
			t.Fatal(err)
		}
		if err := read(step.to, step.n); err != nil {
			t.Fatal(err)
		}
	}
	// Written by the application at b and not read by that at a.
	if _, err := p.server.Write(make([]byte, 500)); err != nil {
		t.Fatal(err)
	}
	until(t, "all is acknowledged", func() bool {
		return tcpInfo(t, p.client).Unacked == 0 && tcpInfo(t, p.client).Bytes_received == 30_500 && tcpInfo(t, p.server).Unacked == 0
	})
	ss := l.ss(p)
	info := tcpInfo(t, p.client)
	l.stop()
	a, b := recordOf(t, l.a, p.flow()), recordOf(t, l.b, p.flow().Reverse())
	for _, row := range []struct {
		field     string
		got, want uint64
	}{
		{"1 bytes received, ss", a.GetBytesReceived(), ss["bytes_received"]},
		{"1 bytes received", a.GetBytesReceived(), 30_500},
		{"2 bytes sent, ss", a.GetBytesSent(), ss["bytes_sent"] - ss["bytes_retrans"]},
		{"2 bytes sent", a.GetBytesSent(), 100_007},
		{"3 bytes read by the application", a.GetBytesRead(), 30_000},
		{"4 bytes posted by the application", a.GetBytesPosted(), 100_007},
		{"5 RTT in µs, ss", a.GetRttMeanNs() / 1000, ss["rtt"]},
		{"5 maximum RTT, at least the mean", max(a.GetRttMaxNs(), a.GetRttMeanNs()), a.GetRttMaxNs()},
		{"6 state: new", uint64(a.GetState()), uint64(decafpb.FlowRecord_STATE_NEW)},
		{"9 congestion window in bytes, ss", a.GetCwndMeanBytes(), ss["cwnd"] * ss["mss"]},
		{"10 received window, of the socket", a.GetRwndMeanBytes(), uint64(info.Snd_wnd)},
		{"10 received window, ss", a.GetRwndMeanBytes(), ss["snd_wnd"]},
		{"packets, ss", a.GetPackets(), ss["data_segs_out"]},
		{"retransmits, ss", a.GetRetransmits(), ss["retrans"]},
		{"out of order, ss", a.GetOutOfOrder(), ss["rcv_ooopack"]},
		{"duplicates reported, ss", a.GetDuplicatesReported(), ss["dsack_dups"]},
		{"the other end received", b.GetBytesReceived(), 100_007},
		{"the other end read", b.GetBytesRead(), 100_007},
		{"the other end posted", b.GetBytesPosted(), 30_500},
		{"opened by a", boolean(a.GetInbound()), 0},
		{"came in at b", boolean(b.GetInbound()), 1},
		{"active", boolean(a.GetActive()), 1},
		{"cookie", a.GetCookie(), p.cookie(t)},
	} {
		if row.got != row.want {
			t.Errorf("%s: %d, want %d", row.field, row.got, row.want)
		}
	}
	if !strings.HasPrefix("hostagent.test", a.GetProcess()) || a.GetProcess() == "" || b.GetProcess() != a.GetProcess() {
		t.Errorf("processes %q and %q, want this test's", a.GetProcess(), b.GetProcess())
	}
	if t.Failed() {
		t.Logf("ss: %v\nrecord: %v", ss, a)
	}
}

func boolean(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// How connections end: orderly, by this end's reset, by the other's, by a
// timeout, refused, unanswered, or given up before anybody could know.
func TestTableEnds(t *testing.T) {
	t.Parallel()
	l := newTableLab(t)
	closed := decafpb.FlowRecord_STATE_CLOSED
	terminated := decafpb.FlowRecord_STATE_TERMINATED
	failed := decafpb.FlowRecord_STATE_FAILED
	type end struct {
		what     string
		rec      *recorder
		flow     packet.Flow
		state    decafpb.FlowRecord_State
		err      syscall.Errno
		in, out  uint64 // resets
		received uint64
	}
	var want []end
	exchange := func() pair {
		p := l.connect(addrB, false)
		if _, err := p.server.Write(make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		if err := read(p.client, 1000); err != nil {
			t.Fatal(err)
		}
		return p
	}

	p := exchange()
	p.client.Close()
	if _, err := io.ReadAll(p.server); err != nil {
		t.Fatal(err)
	}
	p.server.Close()
	want = append(want,
		end{"orderly, first", l.a, p.flow(), closed, 0, 0, 0, 1000},
		end{"orderly, second", l.b, p.flow().Reverse(), closed, 0, 0, 0, 0})

	p = exchange()
	p.client.SetLinger(0)
	p.client.Close()
	if _, err := io.ReadAll(p.server); !errors.Is(err, unix.ECONNRESET) {
		t.Fatalf("read after a reset: %v", err)
	}
	p.server.Close()
	want = append(want,
		end{"reset by its owner", l.a, p.flow(), terminated, 0, 0, 1, 1000},
		end{"reset by the other end", l.b, p.flow().Reverse(), terminated, unix.ECONNRESET, 1, 0, 0})

	p = exchange()
	if _, err := p.server.Write(make([]byte, 77)); err != nil {
		t.Fatal(err)
	}
	until(t, "unread data", func() bool { return tcpInfo(t, p.client).Bytes_received == 1077 })
	p.client.Close()
	if _, err := io.ReadAll(p.server); !errors.Is(err, unix.ECONNRESET) {
		t.Fatalf("read after a reset: %v", err)
	}
	p.server.Close()
	want = append(want, end{"closed with unread data", l.a, p.flow(), terminated, 0, 0, 1, 1077})

	p = exchange()
	setTCP(t, p.client, unix.TCP_USER_TIMEOUT, 500)
	f := l.drop("eth1", longerThan(80)...)
	if _, err := p.client.Write(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(p.client); !errors.Is(err, unix.ETIMEDOUT) {
		t.Fatalf("read of a connection that times out: %v", err)
	}
	f.remove()
	timedOut := p.flow()
	want = append(want, end{"timed out", l.a, timedOut, terminated, unix.ETIMEDOUT, 0, 0, 1000})

	// A blocking connect call wipes the socket when it fails.
	refused := l.blockingConnect(addrB, 1, 0)
	want = append(want, end{"refused", l.a, refused, failed, unix.ECONNREFUSED, 1, 0, 0})

	f = l.drop("eth1")
	unanswered := l.blockingConnect(addrB, 2, 1)
	want = append(want, end{"unanswered", l.a, unanswered, failed, unix.ETIMEDOUT, 0, 0, 0})
	gaveUp := l.abandonedConnect(addrB, 3)
	want = append(want, end{"given up at once", l.a, gaveUp, closed, 0, 0, 0, 0})
	f.remove()

	l.stop()
	for _, w := range want {
		r := recordOf(t, w.rec, w.flow)
		if r.GetState() != w.state || syscall.Errno(r.GetError()) != w.err || r.GetResetsReceived() != w.in || r.GetResetsSent() != w.out || r.GetBytesReceived() != w.received {
			t.Errorf("%s: %v, want %v, error %v, resets %d in and %d out, %d bytes received", w.what, r, w.state, w.err, w.in, w.out, w.received)
		}
	}
	r := recordOf(t, l.a, timedOut)
	if r.GetTimeouts() == 0 || r.GetRetransmits() == 0 || r.GetCwndReductions() == 0 {
		t.Errorf("timed out: %v, want timeouts, retransmits, a reduced window", r)
	}
	for port, sum := range map[int][5]uint64{ // flows, new, closed, terminated, failed
		1: {1, 0, 0, 0, 1}, 2: {1, 0, 0, 0, 1}, 3: {1, 0, 1, 0, 0},
		int(timedOut.Dst.Port()): {1, 1, 0, 1, 0},
	} {
		s := serviceOf(t, l.a, port, false)
		if got := [5]uint64{s.GetFlows(), s.GetNewFlows(), s.GetClosedFlows(), s.GetTerminatedFlows(), s.GetFailedFlows()}; got != sum {
			t.Errorf("port %d: flows, new, closed, terminated, failed %v, want %v", port, got, sum)
		}
	}
}

func setTCP(t *testing.T, c *net.TCPConn, option, value int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if cerr := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, option, value)
	}); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
}

// blockingConnect fails to connect, as a blocking call does, with that many SYNs
// sent again (0: as many as it takes), and returns the flow.
func (l *lab) blockingConnect(to string, port, syns int) (f packet.Flow) {
	l.t.Helper()
	err := l.a.do(func() error {
		fd, src, err := boundSocket(unix.SOCK_CLOEXEC)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if syns > 0 {
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_SYNCNT, syns); err != nil {
				return err
			}
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 1500); err != nil {
				return err
			}
		}
		f = synFlow(src, to, port)
		if err := unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: f.Dst.Addr().As4()}); err == nil {
			return fmt.Errorf("connected to %v", f.Dst)
		}
		return nil
	})
	if err != nil {
		l.t.Fatal(err)
	}
	return f
}

// abandonedConnect begins to connect and closes at once.
func (l *lab) abandonedConnect(to string, port int) (f packet.Flow) {
	l.t.Helper()
	err := l.a.do(func() error {
		fd, src, err := boundSocket(unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		f = synFlow(src, to, port)
		if err := unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: f.Dst.Addr().As4()}); !errors.Is(err, unix.EINPROGRESS) {
			return fmt.Errorf("connect: %v", err)
		}
		return nil
	})
	if err != nil {
		l.t.Fatal(err)
	}
	return f
}

// boundSocket is a socket with an address and a port of a's.
func boundSocket(flags int) (int, *unix.SockaddrInet4, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|flags, 0)
	if err != nil {
		return 0, nil, err
	}
	src := &unix.SockaddrInet4{Addr: netip.MustParseAddr(addrA).As4()}
	if err := unix.Bind(fd, src); err != nil {
		unix.Close(fd)
		return 0, nil, err
	}
	at, err := unix.Getsockname(fd)
	if err != nil {
		unix.Close(fd)
		return 0, nil, err
	}
	return fd, at.(*unix.SockaddrInet4), nil
}

func synFlow(src *unix.SockaddrInet4, to string, port int) packet.Flow {
	return packet.Flow{
		Src:   netip.AddrPortFrom(netip.AddrFrom4(src.Addr), uint16(src.Port)),
		Dst:   netip.AddrPortFrom(netip.MustParseAddr(to), uint16(port)),
		Proto: packet.TCP,
	}
}

// A window that the other end closes: how long TCP was held up by it is what
// the socket says. Loss: retransmits, timeouts and reductions. Reordering at the
// receiver. All against TCP_INFO.
func TestTableTrouble(t *testing.T) {
	l := newTableLab(t)
	held := l.connect(addrB, false)
	held.server.SetReadBuffer(4096)
	done := make(chan error, 1)
	go func() {
		_, err := held.client.Write(make([]byte, 3<<20))
		done <- err
	}()
	until(t, "the window is closed", func() bool { return rwndLimited(t, held.client) > 100*time.Millisecond })
	go io.Copy(io.Discard, held.server)
	if err := <-done; err != nil {
		t.Fatal(err)
	}

	// Or it is a segment of this connection that is dropped below.
	until(t, "all arrived", func() bool { i := tcpInfo(t, held.client); return i.Unacked == 0 && i.Notsent_bytes == 0 })

	lossy := l.connect(addrB, false)
	go io.Copy(io.Discard, lossy.server)
	f := l.drop("eth1", append(longerThan(500), nth(1)...)...)
	if _, err := lossy.client.Write(make([]byte, 200_000)); err != nil {
		t.Fatal(err)
	}
	until(t, "a segment is sent again", func() bool { i := tcpInfo(t, lossy.client); return i.Total_retrans > 0 && i.Unacked == 0 })
	f.remove()
	limited := rwndLimited(t, held.client)
	info, server := tcpInfo(t, lossy.client), tcpInfo(t, lossy.server)
	l.stop()
	r := recordOf(t, l.a, held.flow())
	if got := time.Duration(r.GetZeroWindowNs()); max(got-limited, limited-got) > 20*time.Millisecond || got == 0 {
		t.Errorf("held up for %v, the socket says %v", got, limited)
	}
	if r.GetBytesPosted() != 3<<20 || r.GetBytesSent() != 3<<20 {
		t.Errorf("posted %d, sent %d, want 3 MiB", r.GetBytesPosted(), r.GetBytesSent())
	}
	r = recordOf(t, l.a, lossy.flow())
	for _, row := range []struct {
		field     string
		got, want uint64
	}{
		{"retransmits", r.GetRetransmits(), uint64(info.Total_retrans)},
		{"timeouts", r.GetTimeouts(), uint64(info.Total_rto)},
		{"packets", r.GetPackets(), uint64(info.Data_segs_out)},
		{"bytes sent, each once", r.GetBytesSent(), 200_000},
		{"duplicates", r.GetDuplicatesReported(), uint64(info.Dsack_dups)},
		{"out of order at the other end", recordOf(t, l.b, lossy.flow().Reverse()).GetOutOfOrder(), uint64(server.Rcv_ooopack)},
		{"8 resets", r.GetResetsSent() + r.GetResetsReceived(), 0},
	} {
		if row.got != row.want {
			t.Errorf("%s: %d, want %d", row.field, row.got, row.want)
		}
	}
	if r.GetCwndReductions() == 0 || r.GetOutOfOrder() != 0 || r.GetRttMaxNs() < r.GetRttMeanNs() || server.Rcv_ooopack == 0 {
		t.Errorf("record %v", r)
	}
}

func rwndLimited(t *testing.T, c *net.TCPConn) time.Duration {
	return time.Duration(tcpInfo(t, c).Rwnd_limited) * time.Microsecond
}

// A round trip that took long, between two samples and without a loss, is the
// highest of its interval, by TCP's own measure of it; the smoothed time has
// forgotten it by the time the sample is taken. An agent that looks at reductions
// alone does not see it: nothing is reduced.
func TestTablePeakRTT(t *testing.T) {
	l := newLab(t)
	once := func(peaks string) func(*Config) {
		return func(c *Config) {
			c.Flows.Interval, c.Tables.Interval, c.Tables.Peaks = 5*time.Minute, 5*time.Minute, peaks
		}
	}
	all, _, stopAll := l.watchWith(l.a, tracerFunc(complete), once(peaksAll))
	reductions, _, stopReductions := l.watchWith(l.a, tracerFunc(complete), once(peaksReductions))
	p := l.connect(addrB, false)
	// exchange returns TCP's measure of a round trip: 1/8 of it went into the
	// smoothed one, which is told in whole µs.
	exchange := func(n int) time.Duration {
		t.Helper()
		before := tcpInfo(t, p.client).Rtt
		for _, way := range []struct {
			from, to *net.TCPConn
			n        int
		}{{p.client, p.server, n}, {p.server, p.client, 10}} {
			if _, err := way.from.Write(make([]byte, way.n)); err != nil {
				t.Fatal(err)
			}
			if err := read(way.to, way.n); err != nil {
				t.Fatal(err)
			}
		}
		return time.Duration(8*int(tcpInfo(t, p.client).Rtt)-7*int(before)) * time.Microsecond
	}
	for range 20 {
		exchange(10)
	}
	// What follows at once on a packet that took all the queue lets through at
	// a time waits for 27 ms.
	const spike = 20 * time.Millisecond
	open := l.throttle(50_000, 1600)
	var highest time.Duration
	until(t, "a round trip takes long", func() bool {
		highest = max(highest, exchange(1400))
		return highest > spike
	})
	open()
	until(t, "the smoothed round-trip time forgets it", func() bool {
		return exchange(10) < spike/4 && time.Duration(tcpInfo(t, p.client).Rtt)*time.Microsecond < spike/8
	})
	stopAll()
	stopReductions()
	seen, unseen := recordOf(t, all, p.flow()), recordOf(t, reductions, p.flow())
	if got := time.Duration(seen.GetRttMaxNs()); got < highest-16*time.Microsecond || time.Duration(seen.GetRttMeanNs()) > spike/4 {
		t.Errorf("highest round-trip time %v, want %v at least and a low mean: %v", got, highest, seen)
	}
	if got := time.Duration(unseen.GetRttMaxNs()); unseen.GetCwndReductions() == 0 && got > spike/2 {
		t.Errorf("with peaks of reductions alone %v was seen: %v", got, unseen)
	}
}

// throttle has what the router sends to b wait where it is more than burst bytes at
// a time or rate bytes a second, until undone.
func (l *lab) throttle(rate uint64, burst uint32) (undo func()) {
	l.t.Helper()
	h, err := netlink.NewHandleAt(netns.NsHandle(l.r.fd))
	if err != nil {
		l.t.Fatal(err)
	}
	link, err := h.LinkByName("eth2")
	if err != nil {
		l.t.Fatal(err)
	}
	q := &netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       rate, Buffer: netlink.Xmittime(rate, burst), Limit: 100_000,
	}
	if err := h.QdiscAdd(q); err != nil {
		l.t.Fatal(err)
	}
	return func() {
		l.t.Helper()
		if err := h.QdiscDel(q); err != nil {
			l.t.Fatal(err)
		}
		h.Close()
	}
}
