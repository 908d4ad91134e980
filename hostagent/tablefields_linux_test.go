package hostagent

import (
	"errors"
	"io"
	"math"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"decaf/api/decafpb"

	"golang.org/x/sys/unix"
)

// ssText is what `ss -tinoe` says of a's end of a connection.
func (l *lab) ssText(p pair) string {
	l.t.Helper()
	var out []byte
	if err := l.a.do(func() (err error) {
		out, err = exec.Command("ss", "-tinoeH", "sport", "=", ":"+strconv.Itoa(p.client.LocalAddr().(*net.TCPAddr).Port)).Output()
		return err
	}); err != nil {
		l.t.Fatalf("ss, of iproute2: %v", err)
	}
	return string(out)
}

// ssNumber finds a number in what ss says, by a pattern with one group; 0 where it
// says nothing, as ss does of what is 0.
func ssNumber(t *testing.T, text, pattern string) float64 {
	t.Helper()
	m := regexp.MustCompile(pattern).FindStringSubmatch(text)
	if m == nil {
		return 0
	}
	n, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		t.Fatalf("%s in %q: %v", pattern, text, err)
	}
	return n
}

// What a process wrote and TCP could not send yet, since the other end's window is
// closed, is posted and not sent; for how long the window held it up, and the probes
// of it that nobody answers, are what the socket says.
func TestTableFieldsOfAHeldConnection(t *testing.T) {
	t.Parallel()
	l := newTableLab(t)
	p := l.connect(addrB, false)
	wrote := make(chan int, 1)
	go func() {
		n, err := p.client.Write(make([]byte, 8<<20))
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("wrote %d bytes: %v, want a window that stays closed", n, err)
		}
		wrote <- n
	}()
	until(t, "the window is closed", func() bool { return rwndLimited(t, p.client) > 100*time.Millisecond })
	p.client.SetWriteDeadline(time.Unix(1, 0))
	posted := uint64(<-wrote)
	until(t, "all that was sent is acknowledged", func() bool { return tcpInfo(t, p.client).Unacked == 0 })
	f := l.drop("eth2") // the answers to probes
	defer f.remove()
	until(t, "probes without an answer", func() bool { return tcpInfo(t, p.client).Probes >= 2 })
	before, ss := tcpInfo(t, p.client), l.ssText(p)
	l.stop()
	after := tcpInfo(t, p.client)
	a, b := recordOf(t, l.a, p.flow()), recordOf(t, l.b, p.flow().Reverse())
	sent := uint64(ssNumber(t, ss, `bytes_sent:(\d+)`) - ssNumber(t, ss, `bytes_retrans:(\d+)`))
	for _, row := range []struct {
		field         string
		got, min, max uint64
	}{
		{"2 bytes sent, ss", a.GetBytesSent(), sent, sent},
		{"4 bytes posted, as written", a.GetBytesPosted(), posted, posted},
		{"4 bytes posted, ss", a.GetBytesPosted(), sent + uint64(ssNumber(t, ss, `notsent:(\d+)`)), posted},
		{"posted and not sent", a.GetBytesPosted() - a.GetBytesSent(), 1, math.MaxUint64},
		{"10 received window", a.GetRwndMeanBytes(), uint64(before.Snd_wnd), uint64(before.Snd_wnd)},
		{"window held it up, ns", a.GetZeroWindowNs(), before.Rwnd_limited*1000 - 8e6, after.Rwnd_limited*1000 + 8e6}, // two jiffies
		{"probes of the closed window", a.GetZeroWindowProbes(), uint64(before.Probes), uint64(after.Probes)},
		{"probes, ss", a.GetZeroWindowProbes(), uint64(ssNumber(t, ss, `timer:\(persist,[^,]*,(\d+)\)`)), uint64(after.Probes)},
		{"own window of the end that does not read", b.GetOwnRwndMeanBytes(), uint64(tcpInfo(t, p.server).Rcv_wnd), uint64(tcpInfo(t, p.server).Rcv_wnd)},
		{"3 read by the end that does not", b.GetBytesRead(), 0, 0},
		{"1 and received", b.GetBytesReceived(), sent, sent},
	} {
		if row.got < row.min || row.got > row.max {
			t.Errorf("%s: %d, want %d to %d", row.field, row.got, row.min, row.max)
		}
	}
	if t.Failed() {
		t.Logf("ss: %s\nrecord: %v\nother end: %v", ss, a, b)
	}
}

// The fields beside the patent's: each is what ss, or the socket, says.
func TestTableFieldsBesideThePatents(t *testing.T) {
	t.Parallel()
	l := newTableLab(t)
	const uid = 12345
	var held atomic.Int64
	l.detour(t, func(b []byte) time.Duration {
		if _, n := segment(b); n > 1000 && held.Add(1)%8 == 1 {
			return 3 * time.Millisecond
		}
		return 0
	})
	ln := l.listen()
	var p pair
	var opened, dialed time.Time
	if err := l.lab.a.do(func() error {
		// Of this thread alone, which ends with it.
		if err := unix.Setfsuid(uid); err != nil {
			return err
		}
		dialed = time.Now()
		c, err := net.Dial("tcp", net.JoinHostPort(addrB, portOf(ln)))
		if err != nil {
			return err
		}
		opened = time.Now()
		p.client = c.(*net.TCPConn)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	defer p.client.Close()
	server, err := ln.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	p.server = server
	until(t, "reordering", func() bool {
		if _, err := p.client.Write(make([]byte, 50_000)); err != nil {
			t.Fatal(err)
		}
		if err := read(p.server, 50_000); err != nil {
			t.Fatal(err)
		}
		return tcpInfo(t, p.client).Reord_seen > 0
	})
	if _, err := p.server.Write(make([]byte, 70_000)); err != nil { // moves the own window
		t.Fatal(err)
	}
	if err := read(p.client, 70_000); err != nil {
		t.Fatal(err)
	}
	until(t, "all is acknowledged", func() bool { return tcpInfo(t, p.client).Unacked == 0 && tcpInfo(t, p.server).Unacked == 0 })
	ss, info := l.ssText(p), tcpInfo(t, p.client)
	beforeStop := time.Now()
	l.stop()
	stopped := time.Now()
	r := recordOf(t, l.a, p.flow())
	milli := func(pattern string) uint64 { return uint64(math.Round(1e6 * ssNumber(t, ss, pattern))) } // ns, of ms
	for _, row := range []struct {
		field         string
		got, min, max uint64
	}{
		// ss prints three digits of what may be above a second.
		{"how far round trips differ, ss", r.GetRttVarNs(), milli(`rtt:[^/]*/([\d.]+)`), milli(`rtt:[^/]*/([\d.]+)`)},
		{"how far round trips differ", r.GetRttVarNs(), uint64(info.Rttvar) * 1000, uint64(info.Rttvar) * 1000},
		{"lowest round trip, ss", r.GetRttMinNs(), milli(`minrtt:([\d.]+)`), milli(`minrtt:([\d.]+)`)},
		{"lowest round trip", r.GetRttMinNs(), 1, r.GetRttMeanNs()},
		{"reorderings, ss", r.GetReorderings(), uint64(ssNumber(t, ss, `reord_seen:(\d+)`)), uint64(info.Reord_seen)},
		{"reorderings", r.GetReorderings(), 1, math.MaxUint64},
		{"own window", r.GetOwnRwndMeanBytes(), uint64(info.Rcv_wnd), uint64(info.Rcv_wnd)},
		{"own window is not the other's", btou(r.GetOwnRwndMeanBytes() != r.GetRwndMeanBytes()), 1, 1},
		{"owner, ss", uint64(r.GetUid()), uint64(ssNumber(t, ss, `uid:(\d+)`)), uint64(ssNumber(t, ss, `uid:(\d+)`))},
		{"owner", uint64(r.GetUid()), uid, uid},
		{"owner of the other end", uint64(recordOf(t, l.b, p.flow().Reverse()).GetUid()), 0, 0},
		{"duration, ms", r.GetDurationMs(), uint64(beforeStop.Sub(opened).Milliseconds()), uint64(stopped.Sub(dialed).Milliseconds())},
	} {
		if row.got < row.min || row.got > row.max {
			t.Errorf("%s: %d, want %d to %d", row.field, row.got, row.min, row.max)
		}
	}
	if t.Failed() {
		t.Logf("ss: %s\nrecord: %v", ss, r)
	}
}

func btou(b bool) uint64 { return uint64(btoi(b)) }

// Item 9 of table 2: how the congestion window changed, up and down, is what ss says
// of it before and after.
func TestTableCwndDeltaIsThatOfSS(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	rec, _, stop := l.watchWith(l.a, tracerFunc(complete), func(c *Config) {
		c.Flows.Interval, c.Tables.Interval = 200*time.Millisecond, 200*time.Millisecond
	})
	p := l.connect(addrB, false)
	// BBR keeps its window through a pause.
	raw, err := p.client.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if cerr := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, "reno")
	}); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
	go io.Copy(io.Discard, p.server)
	window := func() int64 {
		ss := l.ssText(p)
		return int64(ssNumber(t, ss, `\bcwnd:(\d+)`) * ssNumber(t, ss, `\bmss:(\d+)`))
	}
	// settled waits for a whole interval in which nothing happened, and returns the
	// sum of all that was told before.
	settled := func() (delta int64) {
		now := uint64(time.Now().UnixNano())
		until(t, "an interval without news", func() bool {
			delta = 0
			done := false
			for _, r := range rec.flows() {
				if r.GetCookie() == p.cookie(t) {
					delta += r.GetCwndDeltaBytes()
					done = done || r.GetStartNs() >= now
				}
			}
			return done
		})
		return delta
	}
	if d := settled(); d != 0 {
		t.Errorf("the window of an idle connection changed by %d", d)
	}
	first := window()
	if _, err := p.client.Write(make([]byte, 300_000)); err != nil {
		t.Fatal(err)
	}
	until(t, "all is acknowledged", func() bool { i := tcpInfo(t, p.client); return i.Unacked == 0 && i.Notsent_bytes == 0 })
	grown := window()
	if got := settled(); got != grown-first || got <= 0 {
		t.Errorf("grew by %d, ss says from %d to %d", got, first, grown)
	}
	// After a pause TCP begins with less (RFC 2861).
	if err := l.a.do(func() error { return os.WriteFile("/proc/sys/net/ipv4/tcp_slow_start_after_idle", []byte("1"), 0o644) }); err != nil {
		t.Fatal(err)
	}
	until(t, "a pause", func() bool { return tcpInfo(t, p.client).Last_data_sent > 1000 })
	if _, err := p.client.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	until(t, "it is acknowledged", func() bool { return tcpInfo(t, p.client).Unacked == 0 })
	shrunk := window()
	if got := settled(); got != shrunk-first || shrunk >= grown {
		t.Errorf("changed by %d in all, ss says from %d by %d to %d", got, first, grown, shrunk)
	}
	stop()
	sums := int64(0)
	var lost uint64
	for _, r := range rec.flows() {
		if f := r.GetFlow(); r.GetCookie() == 0 && r.GetFlows() > 0 && f.GetDstPort() == uint32(p.flow().Dst.Port()) {
			sums += r.GetCwndDeltaBytes()
			lost += r.GetShrunkFlows()
		}
	}
	if sums != shrunk-first || lost == 0 {
		t.Errorf("sums say %d, and %d times that it shrank", sums, lost)
	}
}

// Keep-alives, this end's and the other's, are told from data by the real kernel:
// a connection that sends nothing else is inactive until the next byte.
func TestTableKeepAlivesAreNoData(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	rec, _, stop := l.watchWith(l.a, tracerFunc(complete), func(c *Config) {
		c.Flows.Interval, c.Tables.Interval = 200*time.Millisecond, 200*time.Millisecond
	})
	p := l.connect(addrB, false)
	// records are those of intervals that began at from or later and ended by to.
	records := func(from, to uint64) []*decafpb.FlowRecord {
		return slices.DeleteFunc(rec.flows(), func(r *decafpb.FlowRecord) bool {
			return r.GetCookie() != p.cookie(t) || r.GetStartNs() < from || r.GetEndNs() > to
		})
	}
	now := func() uint64 { return uint64(time.Now().UnixNano()) }
	exchange := func() {
		t.Helper()
		if _, err := p.client.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
		if err := read(p.server, 1); err != nil {
			t.Fatal(err)
		}
		until(t, "it is acknowledged", func() bool { return tcpInfo(t, p.client).Unacked == 0 })
	}
	exchange()
	until(t, "an active interval", func() bool {
		return slices.ContainsFunc(records(0, math.MaxUint64), (*decafpb.FlowRecord).GetActive)
	})
	quiet := now()
	before := [2]*unix.TCPInfo{tcpInfo(t, p.client), tcpInfo(t, p.server)}
	for _, c := range []*net.TCPConn{p.client, p.server} {
		if err := c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 9}); err != nil {
			t.Fatal(err)
		}
	}
	// An idle end sends one by itself; the other end's puts off its own.
	until(t, "keep-alives go and are answered", func() bool {
		c, s := tcpInfo(t, p.client), tcpInfo(t, p.server)
		return c.Segs_out >= before[0].Segs_out+2 && c.Segs_in >= before[0].Segs_in+2 && s.Segs_out >= before[1].Segs_out+2
	})
	if c := tcpInfo(t, p.client); c.Data_segs_out != before[0].Data_segs_out || c.Data_segs_in != before[0].Data_segs_in {
		t.Fatalf("data moved: %+v", c)
	}
	alive := now()
	until(t, "the interval of the keep-alives is over", func() bool { return len(records(alive, math.MaxUint64)) > 0 })
	again := now()
	exchange()
	until(t, "an active interval after them", func() bool {
		return slices.ContainsFunc(records(alive, math.MaxUint64), (*decafpb.FlowRecord).GetActive)
	})
	stop()
	// They are whole between the end of the first exchange and this.
	for _, r := range records(quiet, again) {
		if r.GetActive() || r.GetPackets() != 0 || r.GetState() != decafpb.FlowRecord_STATE_OPEN {
			t.Errorf("keep-alives alone: %v", r)
		}
	}
}

// The record of a connection names the container of its process.
func TestTableNamesTheContainer(t *testing.T) {
	if to := os.Getenv(inContainer); to != "" {
		connectAndWait(t, to)
		return
	}
	l := newLab(t)
	group := filepath.Join(cgroupRoot(t), "docker-"+strings.Repeat("c123456789abcde", 5)[:64]+".scope")
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Fatal(err)
	}
	rec, _, stop := l.watchWith(l.a, tracerFunc(complete), func(c *Config) {
		c.Flows.Interval, c.Tables.Interval = 5*time.Minute, 5*time.Minute
	})
	ln := l.listen()
	outside, err := l.dial(addrB, ln.Addr().(*net.TCPAddr).Port, false, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	own, err := ln.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	startIn(t, l.a, group, net.JoinHostPort(addrB, portOf(ln)))
	inside, err := ln.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	defer inside.Close()
	if _, err := inside.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	if err := read(inside, 1); err != nil {
		t.Fatal(err)
	}
	stop()
	p := pair{client: outside, server: own}
	if got := recordOf(t, rec, p.flow()).GetContainer(); got == "c123456789ab" {
		t.Errorf("a process outside is said to be in %q", got)
	}
	flow := p.flow()
	from := inside.RemoteAddr().(*net.TCPAddr).AddrPort()
	flow.Src = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	if r := recordOf(t, rec, flow); r.GetContainer() != "c123456789ab" {
		t.Errorf("%v: want the container c123456789ab", r)
	}
}
