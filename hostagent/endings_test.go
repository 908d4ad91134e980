package hostagent

import (
	"net/netip"
	"testing"
	"time"

	"decaf/api/packet"

	"golang.org/x/sys/unix"
)

func endFlow(port uint16) packet.Flow {
	return packet.Flow{
		Src: netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), port), Dst: netip.MustParseAddrPort("10.0.0.2:443"), Proto: packet.TCP,
	}
}

// What tracepoints say of a connection is joined with its last sample, in whatever
// order it comes and whatever is missing.
func TestEndings(t *testing.T) {
	const sec = uint64(time.Second)
	flow := endFlow(1)
	closed := func(sock uint64, state uint8) hint {
		return hint{sort: hintClosed, at: sec, flow: flow, sock: sock, state: state}
	}
	failure := func(err int32) hint { return hint{sort: hintError, at: sec, flow: flow, err: err} }
	received := hint{sort: hintResetReceived, at: sec, flow: flow, sock: 7, cookie: 70}
	sent := hint{sort: hintResetSent, at: sec, flow: flow, sock: 7}
	gone := hint{sort: hintGone, at: sec + 1, sock: 7, cookie: 70}
	at := func(h hint, at uint64) hint { h.at = at; return h }

	type want struct {
		none     bool
		err      unix.Errno
		in, out  uint32
		state    uint8
		finished bool
	}
	for name, c := range map[string]struct {
		hints  []hint
		sample func(*flowSample)
		want   want
	}{
		"orderly":                      {[]hint{closed(7, tcpLastAck), gone}, nil, want{none: true}},
		"reset by the other end":       {[]hint{received, closed(7, tcpEstablished), failure(104), gone}, nil, want{err: unix.ECONNRESET, in: 1, state: tcpClose}},
		"its error was taken before":   {[]hint{received, closed(7, tcpEstablished), failure(0), gone}, nil, want{err: unix.ECONNRESET, in: 1, state: tcpClose}},
		"after the other end's FIN":    {[]hint{received, closed(7, tcpCloseWait), gone}, nil, want{err: unix.EPIPE, in: 1, state: tcpClose, finished: true}},
		"refused":                      {[]hint{received, closed(7, tcpSynSent), gone}, nil, want{err: unix.ECONNREFUSED, in: 1, state: tcpSynSent}},
		"reset by this end":            {[]hint{closed(7, tcpEstablished), sent, gone}, nil, want{out: 1, state: tcpClose}},
		"timed out":                    {[]hint{closed(7, tcpEstablished), failure(110), gone}, nil, want{err: unix.ETIMEDOUT, state: tcpClose}},
		"timed out, taken before":      {[]hint{closed(7, tcpEstablished), failure(0), gone}, func(s *flowSample) { s.retransmits = 3 }, want{err: unix.ETIMEDOUT, state: tcpClose}},
		"timed out, before Linux 6.10": {[]hint{failure(110), closed(7, tcpEstablished), gone}, nil, want{err: unix.ETIMEDOUT, state: tcpClose}},
		"unanswered, taken before":     {[]hint{closed(7, tcpSynSent), failure(0), gone}, nil, want{err: unix.ETIMEDOUT, state: tcpSynSent}},
		"given up":                     {[]hint{closed(7, tcpSynSent), gone}, nil, want{state: tcpSynSent}},
		"no word of the socket's end":  {[]hint{closed(7, tcpEstablished), failure(110)}, nil, want{err: unix.ETIMEDOUT, state: tcpClose}},
		"wiped": {[]hint{closed(7, tcpEstablished), sent, gone}, func(s *flowSample) {
			s.src, s.dst, s.state, s.err = netip.AddrPortFrom(netip.IPv4Unspecified(), 1), netip.AddrPort{}, tcpSynSent, 111
		}, want{out: 1, state: tcpClose}},
		"wiped, and no word of its end": {[]hint{closed(7, tcpEstablished), sent}, func(s *flowSample) { s.dst = netip.AddrPort{} }, want{none: true}},
		"another socket's place":        {[]hint{at(closed(7, tcpEstablished), 1), {sort: hintResetSent, at: 1, flow: endFlow(2), sock: 7}}, nil, want{state: tcpClose}},
		"the same ports later":          {[]hint{received, at(failure(110), 3*sec), gone}, nil, want{err: unix.ECONNRESET, in: 1, state: tcpClose}},
		"waited for long":               {[]hint{failure(110)}, func(s *flowSample) { s.ended = sec + uint64(endingKept) }, want{err: unix.ETIMEDOUT, state: tcpClose}},
		"the same ports much later":     {[]hint{failure(110)}, func(s *flowSample) { s.ended = sec + uint64(endingKept) + 1 }, want{none: true}},
		"a timestamp":                   {[]hint{failure(0), gone}, nil, want{none: true}},
	} {
		n := newEndings(100)
		for _, h := range c.hints {
			n.add(h)
		}
		s := &flowSample{cookie: 70, src: flow.Src, dst: flow.Dst, state: tcpClose, received: 11, read: 11}
		if c.sample != nil {
			c.sample(s)
		}
		e := n.take(s)
		if e == nil {
			if !c.want.none {
				t.Errorf("%s: nothing is known", name)
			}
			continue
		}
		e.tell(s)
		got := want{false, unix.Errno(s.err), s.resetsReceived, s.resetsSent, s.state, s.finished}
		if got != c.want || s.connStory.err != s.err || s.flow() != flow {
			t.Errorf("%s: %+v of %v, want %+v", name, got, s.flow(), c.want)
		}
		if s.finished && (s.received != 10 || s.read != 10) {
			t.Errorf("%s: %d bytes received, %d read: the FIN is one", name, s.received, s.read)
		}
		if n.take(&flowSample{cookie: 70}) != nil {
			t.Errorf("%s: told twice", name)
		}
	}
}

// The same addresses and ports in two network namespaces: each has its own end.
func TestEndingsOfTwins(t *testing.T) {
	n := newEndings(100)
	flow := endFlow(1)
	n.add(hint{sort: hintClosed, at: 1, flow: flow, sock: 7, state: tcpEstablished})
	n.add(hint{sort: hintResetSent, at: 1, flow: flow, sock: 7})
	n.add(hint{sort: hintClosed, at: 2, flow: flow, sock: 8, state: tcpEstablished})
	n.add(hint{sort: hintError, at: 2, flow: flow, err: 110})
	n.add(hint{sort: hintGone, at: 3, sock: 8, cookie: 80})
	n.add(hint{sort: hintGone, at: 3, sock: 7, cookie: 70})
	for cookie, want := range map[uint64][2]uint32{70: {0, 1}, 80: {110, 0}} {
		s := &flowSample{cookie: cookie, src: flow.Src, dst: flow.Dst}
		e := n.take(s)
		if e == nil {
			t.Fatalf("nothing is known of %d", cookie)
		}
		if e.tell(s); [2]uint32{uint32(s.err), s.resetsSent} != want {
			t.Errorf("%d: error %d, %d resets sent, want %v", cookie, s.err, s.resetsSent, want)
		}
	}
	// One that is known by its cookie is not another's.
	n.add(hint{sort: hintClosed, at: 4, flow: flow, sock: 9, state: tcpEstablished})
	n.add(hint{sort: hintGone, at: 4, sock: 9, cookie: 90})
	if e := n.take(&flowSample{cookie: 91, src: flow.Src, dst: flow.Dst}); e != nil {
		t.Errorf("%+v was taken for another's", e)
	}
}

// The place of a socket whose end nobody told of is another's later: that one's end is
// not the first's.
func TestEndingsOfOnePlace(t *testing.T) {
	for name, wiped := range map[string]bool{"whole": false, "wiped": true} {
		n := newEndings(100)
		first, second := endFlow(1), endFlow(1)
		second.Dst = netip.MustParseAddrPort("10.0.0.3:443")
		n.add(hint{sort: hintClosed, at: 1, flow: first, sock: 7, state: tcpSynSent})
		n.add(hint{sort: hintError, at: 1, flow: first, err: 110})
		gone := hint{sort: hintGone, at: 2, flow: first, sock: 7, cookie: 70}
		if wiped {
			gone.flow.Dst = netip.AddrPort{}
		}
		if n.add(gone); n.take(&flowSample{cookie: 70}) == nil {
			t.Errorf("%s: nothing is known of one whose end was told", name)
		}
	}
	n := newEndings(100)
	n.add(hint{sort: hintClosed, at: 1, flow: endFlow(1), sock: 7, state: tcpSynSent})
	other := endFlow(2)
	other.Dst = netip.MustParseAddrPort("10.0.0.3:443")
	n.add(hint{sort: hintGone, at: 2, flow: other, sock: 7, cookie: 71})
	if e := n.take(&flowSample{cookie: 71, src: other.Src, dst: other.Dst}); e != nil {
		t.Errorf("%+v was taken for another's", e)
	}
	if len(n.bySocket) != 0 {
		t.Errorf("%d sockets are known by a place that was given back", len(n.bySocket))
	}
}

// Endings are bounded: the oldest go, and are counted unless nobody came for them in
// a long time.
func TestEndingsAreBounded(t *testing.T) {
	n := newEndings(64)
	add := func(i int, at uint64) {
		n.add(hint{sort: hintClosed, at: at, flow: endFlow(uint16(i)), sock: uint64(i), state: tcpEstablished})
		n.add(hint{sort: hintGone, at: at, sock: uint64(i), cookie: uint64(i)})
	}
	for i := range 1000 {
		add(i+1, 1)
	}
	if len(n.all) > 64 || len(n.byFlow) > 64 || len(n.byCookie) > 64 || len(n.bySocket) != 0 || n.leftOut+uint64(len(n.all)) != 1000 {
		t.Errorf("%d, %d, %d, %d kept, %d left out", len(n.all), len(n.byFlow), len(n.byCookie), len(n.bySocket), n.leftOut)
	}
	if n.take(&flowSample{cookie: 1000}) == nil || n.take(&flowSample{cookie: 1}) != nil {
		t.Error("the latest is to be kept, not the oldest")
	}
	before := n.leftOut
	for i := range 64 {
		add(2000+i, uint64(2*endingKept))
	}
	if n.leftOut != before || n.take(&flowSample{cookie: 2000}) == nil {
		t.Errorf("%d left out, for those that waited too long", n.leftOut-before)
	}
}
