package hostagent

import (
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"decaf/api/decafpb"
	"decaf/api/packet"

	"golang.org/x/sys/unix"
)

// infoOf is what a socket itself says.
func infoOf(c *net.TCPConn) (info *unix.TCPInfo, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	if cerr := raw.Control(func(fd uintptr) {
		info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	}); cerr != nil {
		return nil, cerr
	}
	return info, err
}

func tcpInfo(t testing.TB, c *net.TCPConn) *unix.TCPInfo {
	t.Helper()
	info, err := infoOf(c)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// sum is what rows, or records of lossy flows, add up to.
type sum struct{ packets, bytes, retransmits uint64 }

func (s *sum) add(i *unix.TCPInfo) {
	s.packets += uint64(i.Data_segs_out)
	s.bytes += i.Bytes_sent - i.Bytes_retrans
	s.retransmits += uint64(i.Total_retrans)
}

// rowsOf sums rows by destination and records of flows by five-tuple.
func rowsOf(t *testing.T, records []*decafpb.FlowRecord) (rows map[netip.Addr]sum, lossy map[packet.Flow]sum) {
	t.Helper()
	rows, lossy = map[netip.Addr]sum{}, map[packet.Flow]sum{}
	for _, r := range records {
		f, err := packet.FlowFromPB(r.GetFlow())
		if err != nil {
			t.Fatal(err)
		}
		if r.GetEndNs() <= r.GetStartNs() || r.GetPath() != nil || f.Proto != packet.TCP {
			t.Errorf("record %v", r)
		}
		if r.GetFlows() > 0 {
			s := rows[f.Dst.Addr()]
			rows[f.Dst.Addr()] = sum{s.packets + r.GetPackets(), s.bytes + r.GetBytesSent(), 0}
			if f.Src.Port() != 0 || f.Dst.Port() != 0 || r.GetRetransmits() != 0 {
				t.Errorf("row %v", r)
			}
			continue
		}
		s := lossy[f]
		lossy[f] = sum{s.packets + r.GetPackets(), s.bytes + r.GetBytesSent(), s.retransmits + r.GetRetransmits()}
		if r.GetRetransmits() == 0 {
			t.Errorf("a record of a flow that lost nothing: %v", r)
		}
	}
	return rows, lossy
}

// sink reads whatever comes to b, answers each connection's end with an answer
// of its own, and closes.
func (l *lab) sink(answer int) *net.TCPListener {
	ln := l.listen()
	go func() {
		for {
			c, err := ln.AcceptTCP()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(io.Discard, c)
				c.Write(make([]byte, answer))
			}()
		}
	}()
	return ln
}

// talk sends n bytes, waits until the other end has them all and says so, and
// returns what the socket counted.
func talk(c *net.TCPConn, n int) (*unix.TCPInfo, error) {
	defer c.Close()
	if _, err := c.Write(make([]byte, n)); err != nil {
		return nil, err
	}
	if err := c.CloseWrite(); err != nil {
		return nil, err
	}
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.Copy(io.Discard, c); err != nil {
		return nil, err
	}
	return infoOf(c)
}

// talkTo opens a connection from a and talks.
func (l *lab) talkTo(to string, port, n int) *unix.TCPInfo {
	l.t.Helper()
	c, err := l.dial(to, port, false, 5*time.Second)
	if err != nil {
		l.t.Fatal(err)
	}
	info, err := talk(c, n)
	if err != nil {
		l.t.Fatal(err)
	}
	return info
}

// What rows say is what the sockets themselves say, segment for segment: of
// many short connections and of long ones, over several intervals, by
// destination; and so it is at the other end.
func TestRowsEqualSockets(t *testing.T) {
	l := newLab(t)
	ln := l.sink(3000)
	port := ln.Addr().(*net.TCPAddr).Port
	old := l.connect(addrB, false) // opened before the agent
	if _, err := old.client.Write(make([]byte, 5000)); err != nil {
		t.Fatal(err)
	}
	if err := read(old.server, 5000); err != nil {
		t.Fatal(err)
	}
	before := tcpInfo(t, old.client)

	fast := func(c *Config) { c.Flows.Interval, c.Tables.Enabled = 250*time.Millisecond, false }
	rec, a, stop := l.watchWith(l.a, tracerFunc(complete), fast)
	other, b, stopOther := l.watchWith(l.b, tracerFunc(complete), fast)

	want := map[netip.Addr]sum{}
	var mu sync.Mutex
	add := func(to string, i *unix.TCPInfo) {
		mu.Lock()
		defer mu.Unlock()
		addr := netip.MustParseAddr(to)
		s := want[addr]
		s.add(i)
		want[addr] = s
	}
	long := l.connect(addrB, false)
	short := 0
	// The long ones send all the time, over three intervals' ends at least.
	from := a.Counters()[countFlowIntervals]
	for a.Counters()[countFlowIntervals] < from+4 {
		for _, p := range []pair{long, old} {
			if _, err := p.client.Write(make([]byte, 20000)); err != nil {
				t.Fatal(err)
			}
			if err := read(p.server, 20000); err != nil {
				t.Fatal(err)
			}
		}
		if short >= 500*int(1+a.Counters()[countFlowIntervals]-from) {
			continue // ports are few
		}
		var wg sync.WaitGroup
		for i, to := range []string{addrB, addrB, strangerB, addrB6, addrB} {
			c, err := l.dial(to, port, i == 4, 5*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			short++
			n := 1 + short*977%40000
			wg.Go(func() {
				info, err := talk(c, n)
				if err != nil {
					t.Error(err)
					return
				}
				add(to, info)
			})
		}
		wg.Wait()
	}
	add(addrB, tcpInfo(t, long.client))
	after := tcpInfo(t, old.client)
	after.Data_segs_out -= before.Data_segs_out
	after.Bytes_sent -= before.Bytes_sent
	after.Bytes_retrans -= before.Bytes_retrans
	after.Total_retrans -= before.Total_retrans
	add(addrB, after)
	stop()
	stopOther()

	rows, lossy := rowsOf(t, rec.flows())
	inRows := uint64(0)
	for _, s := range rows {
		inRows += s.packets
	}
	// Two CPUs may put packets out of order, which TCP takes for loss now and
	// then: those flows are in records of their own.
	for f, s := range lossy {
		to := rows[f.Dst.Addr()]
		rows[f.Dst.Addr()] = sum{to.packets + s.packets, to.bytes + s.bytes, to.retransmits + s.retransmits}
	}
	total := sum{}
	for addr, w := range want {
		if rows[addr] != w {
			t.Errorf("to %v: %+v, the sockets say %+v", addr, rows[addr], w)
		}
		total.packets += w.packets
	}
	if len(rows) != len(want) {
		t.Errorf("rows to %v, want to %v", rows, want)
	}
	n := a.Counters()
	t.Logf("%d short connections and 2 long ones, %d intervals, %d packets, %d of these in rows", short, n[countFlowIntervals], total.packets, inRows)
	if n[countFlowPackets] != inRows || n[countFlowsUnknownStart] != 1 || n[countFlowsVanished]+n[countFlowLost]+n[countFlowBroken]+n[countFlowDumpFailed] != 0 {
		t.Errorf("counters %v", n)
	}
	// The other end sent one answer to each short connection.
	var answers sum
	back, backLossy := rowsOf(t, other.flows())
	for _, s := range back {
		answers.bytes += s.bytes
	}
	for _, s := range backLossy {
		answers.bytes += s.bytes
	}
	// A connection sends its answer and is closed: each counts in one interval,
	// or in two when that ends in between.
	flows := b.Counters()[countFlowsLossFree] + b.Counters()[countFlowsLossy]
	if answers.bytes != uint64(short)*3000 || flows < uint64(short) || flows > uint64(short)+100 {
		t.Errorf("the other end sent %d bytes by %d flows, want %d by %d", answers.bytes, flows, short*3000, short)
	}
	// Intervals follow each other without a hole and without overlap.
	end := uint64(0)
	for _, r := range rec.flows() {
		if r.GetStartNs() < end && r.GetEndNs() != end {
			t.Errorf("an interval from %d follows one until %d", r.GetStartNs(), end)
		}
		end = r.GetEndNs()
	}
}

// A flow that loses something is in no row of that interval, but has a record
// of its own, which says what its socket says.
func TestLossyFlowsAreInNoRow(t *testing.T) {
	l := newLab(t)
	ln := l.sink(1)
	port := ln.Addr().(*net.TCPAddr).Port
	rec, a, stop := l.watchWith(l.a, tracerFunc(complete), func(c *Config) { c.Flows.Interval, c.Tables.Enabled = 5*time.Minute, false })

	var clean sum
	for range 5 {
		clean.add(l.talkTo(addrB, port, 30000))
	}
	want := map[packet.Flow]sum{}
	flowOf := func(c *net.TCPConn) packet.Flow { return pair{client: c}.flow() }
	// Two lose a segment now and then; one of these stays open.
	open := l.connect(addrB, false)
	for i := range 2 {
		p := open
		if i == 1 {
			c, err := l.dial(addrB, port, false, 5*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			p = pair{client: c}
		} else {
			go io.Copy(io.Discard, p.server)
		}
		f := l.drop("eth1", append(longerThan(500), nth(3)...)...)
		if _, err := p.client.Write(make([]byte, 40000)); err != nil {
			t.Fatal(err)
		}
		until(t, "a segment is lost", func() bool { return f.dropped() > 0 && tcpInfo(t, p.client).Total_retrans > 0 })
		f.remove()
		flow, info := flowOf(p.client), (*unix.TCPInfo)(nil)
		if i == 1 {
			var err error
			if info, err = talk(p.client, 100); err != nil {
				t.Fatal(err)
			}
		} else {
			until(t, "all arrived", func() bool { info = tcpInfo(t, p.client); return info.Unacked == 0 })
		}
		s := sum{}
		s.add(info)
		want[flow] = s
	}
	stop()
	rows, lossy := rowsOf(t, rec.flows())
	if len(rows) != 1 || rows[netip.MustParseAddr(addrB)] != clean {
		t.Errorf("rows %+v, want %+v of the connections without loss alone", rows, clean)
	}
	if len(lossy) != len(want) {
		t.Errorf("%d lossy flows, want %d", len(lossy), len(want))
	}
	for f, w := range want {
		if lossy[f] != w || w.retransmits == 0 {
			t.Errorf("%v: %+v, the socket says %+v", f, lossy[f], w)
		}
	}
	for _, r := range rec.flows() {
		f, _ := packet.FlowFromPB(r.GetFlow())
		closed := f != open.flow()
		if r.GetFlows() == 0 && (closed && r.GetState() != decafpb.FlowRecord_STATE_CLOSED || !closed && r.GetState() != decafpb.FlowRecord_STATE_OPEN) {
			t.Errorf("%v: state %v", f, r.GetState())
		}
	}
	if n := a.Counters()[countFlowsLossy]; n != 2 {
		t.Errorf("%d lossy flows counted", n)
	}
}

// Flows of networks that carry evidence themselves, and those that do not leave
// the host, are in no row; off is off.
func TestFlowsLeftOut(t *testing.T) {
	l := newLab(t)
	ln := l.sink(1)
	port := ln.Addr().(*net.TCPAddr).Port
	rec, a, stop := l.watchWith(l.a, tracerFunc(complete), func(c *Config) {
		c.IgnoreNetworks = []netip.Prefix{netip.MustParsePrefix(strangerB + "/32")}
		c.Tables.Enabled = false
	})
	silent, off, stopOff := l.watchWith(l.a, tracerFunc(complete), func(c *Config) { c.Flows.Enabled = false })
	for _, to := range []string{strangerB, addrB} {
		l.talkTo(to, port, 100)
	}
	if err := l.a.do(func() error {
		local, err := net.Listen("tcp", addrA+":0")
		if err != nil {
			return err
		}
		defer local.Close()
		c, err := net.Dial("tcp", local.Addr().String())
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write([]byte("x"))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	stop()
	stopOff()
	rows, lossy := rowsOf(t, rec.flows())
	if len(rows) != 1 || rows[netip.MustParseAddr(addrB)].packets != 1 || len(lossy) != 0 {
		t.Errorf("rows %v and %v, want one packet to %s", rows, lossy, addrB)
	}
	n := a.Counters()
	if n[countFlowsExcluded] == 0 || n[countFlowsLocal] == 0 {
		t.Errorf("%d samples excluded, %d local", n[countFlowsExcluded], n[countFlowsLocal])
	}
	if len(silent.flows()) != 0 || off.Counters()[countFlowIntervals] != 0 || len(silent.beats()) == 0 {
		t.Errorf("with flows off: %d records", len(silent.flows()))
	}
}

// A reader that does not come in time loses last samples, and each is counted;
// the flows go when dumps show them no more.
func TestFullFlowRingIsCounted(t *testing.T) {
	l := newLab(t)
	ln := l.sink(1)
	port := ln.Addr().(*net.TCPAddr).Port
	k, err := openKernel(kernelOptions{netns: l.a.inum, ringBytes: 4096, flows: true}, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	const conns = 100
	for range conns {
		l.talkTo(addrB, port, 100)
	}
	var lost uint64
	seen := map[uint64]bool{}
	until(t, "every connection is closed", func() bool {
		if lost, err = k.flows.Lost(); err != nil {
			t.Fatal(err)
		}
		// What was read once is not lost any more, but makes no room before.
		return lost+4096/(fsBytes+8) >= conns
	})
	if err := k.flows.Wait(time.Now(), func(s *flowSample) {
		if seen[s.cookie] || s.packets != 1 || s.bytes != 100 || s.opened == 0 || s.inbound {
			t.Errorf("sample %+v", s)
		}
		seen[s.cookie] = true
	}, func(err error) { t.Error(err) }); err != nil {
		t.Fatal(err)
	}
	if lost == 0 || len(seen) == 0 || lost+uint64(len(seen)) != conns {
		t.Errorf("read %d, lost %d, together not %d", len(seen), lost, conns)
	}
}

// A dump lists each connection of its namespace once, says who opened it, and
// lists nothing else.
func TestDump(t *testing.T) {
	l := newLab(t)
	k, err := openKernel(kernelOptions{netns: l.b.inum, ringBytes: 1 << 16, flows: true}, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	const conns = 1000 // more than one read of the iterator gives
	pairs := map[packet.Flow]pair{}
	for i := range conns {
		p := l.connect([]string{addrB, addrB6}[i%2], false)
		pairs[p.flow()] = p
		if _, err := p.server.Write(make([]byte, 1+i)); err != nil {
			t.Fatal(err)
		}
		if err := read(p.client, 1+i); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[uint64]bool{}
	err = l.b.do(func() error {
		return k.flows.Dump(dumpAll, func(s *flowSample) {
			if s.listens() {
				return
			}
			flow := s.flow()
			p, ok := pairs[flow.Reverse()]
			if !ok || seen[s.cookie] || !s.inbound || s.opened == 0 || s.state != tcpEstablished {
				t.Errorf("sample %+v, seen before: %v", s, seen[s.cookie])
				return
			}
			seen[s.cookie] = true
			if i := tcpInfo(t, p.server); s.packets != i.Data_segs_out || s.bytes != i.Bytes_sent {
				t.Errorf("sample %+v of a socket that sent %d packets, %d bytes", s, i.Data_segs_out, i.Bytes_sent)
			}
		}, func(err error) { t.Error(err) })
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(seen) != conns {
		t.Errorf("%d connections listed, want %d", len(seen), conns)
	}
}

// What each sort of dump shows: of many sockets, more than one read of the
// iterator gives, each once; then only those of which there is news, whatever it is.
func TestDumpOfNews(t *testing.T) {
	l := newLab(t)
	old := l.connect(addrB, false) // before anybody watches
	k, err := openKernel(kernelOptions{netns: l.a.inum, ringBytes: 1 << 16, flows: true}, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if !k.flows.Lists() {
		t.Fatal("no list of sockets with news")
	}
	const conns = 1000
	pairs := []pair{old}
	for i := range conns - 1 {
		pairs = append(pairs, l.connect([]string{addrB, addrB6}[i%2], false))
	}
	name := map[uint64]int{}
	for i, p := range pairs {
		name[p.cookie(t)] = i
	}
	var latest flowSample
	dump := func(of dumped) (shown []int) {
		t.Helper()
		err := l.a.do(func() error {
			return k.flows.Dump(of, func(s *flowSample) {
				i, ok := name[s.cookie]
				if !ok || s.listens() {
					t.Errorf("sample %+v", s)
				}
				shown, latest = append(shown, i), *s
			}, func(err error) { t.Error(err) })
		})
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(shown)
		return shown
	}
	every := make([]int, conns)
	for i := range every {
		every[i] = i
	}
	one := func(what string, of dumped, want ...int) {
		t.Helper()
		if got := dump(of); !slices.Equal(got, want) {
			t.Errorf("%s: %d shown, %v, want %v", what, len(got), got[:min(len(got), 10)], want[:min(len(want), 10)])
		}
	}
	// quiet waits for delayed acknowledgements.
	quiet := func() {
		t.Helper()
		until(t, "nothing is on its way", func() bool { return len(dump(dumpChanged)) == 0 })
	}
	send := func(p pair, n int) {
		t.Helper()
		if _, err := p.client.Write(make([]byte, n)); err != nil {
			t.Fatal(err)
		}
		if err := read(p.server, n); err != nil {
			t.Fatal(err)
		}
		until(t, "all is acknowledged", func() bool { return tcpInfo(t, p.client).Unacked == 0 })
	}
	one("all", dumpAll, every...)
	quiet()
	one("no news", dumpListed)
	one("all again", dumpAll, every...)
	for _, p := range pairs {
		send(p, 10)
	}
	one("all sent something", dumpListed, every...)
	quiet()
	send(pairs[7], 10)
	send(pairs[0], 10)
	one("two sent something", dumpListed, 0, 7)
	one("and nothing since", dumpListed)

	if _, err := pairs[3].server.Write(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	until(t, "something came", func() bool { return tcpInfo(t, pairs[3].client).Bytes_received == 10 })
	one("one received something", dumpListed, 3)
	if latest.received != 10 || latest.read != 0 {
		t.Errorf("%+v, want 10 bytes received and not read", latest)
	}
	quiet()
	if err := read(pairs[3].client, 10); err != nil {
		t.Fatal(err)
	}
	one("what it read passed no packet", dumpListed)
	one("and is seen by who comes by all", dumpChanged, 3)
	if latest.read != 10 {
		t.Errorf("%+v, want 10 bytes read", latest)
	}

	// Half closed: what comes in passes no tracepoint any more.
	pairs[5].client.CloseWrite()
	until(t, "the other end knows", func() bool { return tcpInfo(t, pairs[5].client).State != tcpEstablished })
	until(t, "its end is told", func() bool { one := dump(dumpListed); return slices.Equal(one, []int{5}) })
	quiet()
	for range 2 {
		if _, err := pairs[5].server.Write(make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		if err := read(pairs[5].client, 10); err != nil {
			t.Fatal(err)
		}
		if got := dump(dumpListed); !slices.Equal(got, []int{5}) {
			t.Errorf("half closed: %v shown", got)
		}
		quiet()
	}

	// Nothing comes back: what is sent again is news, and so is what waits.
	f := l.drop("eth1")
	if _, err := pairs[9].client.Write(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	until(t, "it is sent again", func() bool { return tcpInfo(t, pairs[9].client).Total_retrans > 0 })
	one("sent again", dumpListed, 9)
	if latest.retransmits == 0 || latest.packets < 2 {
		t.Errorf("%+v, want a retransmit", latest)
	}
	one("still waits", dumpListed, 9)
	f.remove()
	if err := read(pairs[9].server, 10); err != nil {
		t.Fatal(err)
	}
	quiet()

	// A window that is closed: the time goes on without a packet.
	pairs[13].server.SetReadBuffer(4096)
	go pairs[13].client.Write(make([]byte, 3<<20))
	until(t, "the window is closed", func() bool { return rwndLimited(t, pairs[13].client) > 100*time.Millisecond })
	one("its window is closed", dumpListed, 13)
	before := latest
	if limited := rwndLimited(t, pairs[13].client); before.held < 50*time.Millisecond || before.held > limited {
		t.Errorf("held up for %v, the socket says %v", before.held, limited)
	}
	until(t, "time goes on", func() bool { return rwndLimited(t, pairs[13].client) > before.held+50*time.Millisecond })
	one("still closed", dumpListed, 13)
	if latest.held < before.held+30*time.Millisecond {
		t.Errorf("held up for %v, and later for %v", before.held, latest.held)
	}
	// All of it is read, or the window opens farther, and that is news.
	if err := read(pairs[13].server, 3<<20); err != nil {
		t.Fatal(err)
	}
	until(t, "all is acknowledged", func() bool { i := tcpInfo(t, pairs[13].client); return i.Unacked == 0 && i.Notsent_bytes == 0 })
	quiet()

	// Who has ended is not shown.
	pairs[11].client.SetLinger(0)
	pairs[11].client.Close()
	one("ended", dumpListed)
	every = slices.Delete(every, 11, 12)
	one("without the one that ended", dumpAll, every...)
}

// A namespace that is not there is an error that names it.
func TestNamespaceMissing(t *testing.T) {
	a := New(DefaultConfig(), Deps{Publisher: newRecorder(), Tracer: tracerFunc(complete), NetNS: "/run/netns/nowhere"})
	if err := a.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "/run/netns/nowhere") {
		t.Errorf("error %v, want one that names the namespace", err)
	}
}
