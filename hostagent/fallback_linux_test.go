package hostagent

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"decaf/api/decafpb"

	"golang.org/x/sys/unix"
)

// diagMessage is a message of sock_diag with a tcp_info of n bytes.
func diagMessage(n int, change func(msg, info []byte)) []byte {
	info := make([]byte, n)
	b := make([]byte, diagMessageBytes, diagMessageBytes+8+n)
	b[0], b[1] = unix.AF_INET, tcpEstablished
	binary.BigEndian.PutUint16(b[4:], 40000)
	binary.BigEndian.PutUint16(b[6:], 443)
	copy(b[8:], []byte{10, 0, 0, 1})
	copy(b[24:], []byte{10, 0, 0, 2})
	binary.NativeEndian.PutUint32(b[44:], 7)
	if change != nil {
		change(b, info)
	}
	// An attribute that is not asked for comes first, and is padded.
	b = append(b, 5, 0, 8, 0, 0, 0, 0, 0)
	b = binary.NativeEndian.AppendUint16(b, uint16(4+n))
	b = binary.NativeEndian.AppendUint16(b, diagInfo)
	return append(b, info...)
}

func TestDecodeDiag(t *testing.T) {
	counts := func(_, info []byte) {
		ne := binary.NativeEndian
		info[1] = caLoss
		ne.PutUint32(info[36:], 3)
		ne.PutUint32(info[100:], 9)
		if len(info) > 240 {
			ne.PutUint32(info[216:], 4)
			ne.PutUint16(info[240:], 5)
		}
	}
	s, err := decodeDiag(diagMessage(280, counts))
	if err != nil {
		t.Fatal(err)
	}
	want := diagSocket{
		cookie: 7, src: netip.MustParseAddrPort("10.0.0.1:40000"), dst: netip.MustParseAddrPort("10.0.0.2:443"),
		state: tcpEstablished, caState: caLoss, totalRetrans: 9, dsackDups: 4, timeouts: 5, waiting: 3, full: true,
	}
	if s != want {
		t.Errorf("%+v, want %+v", s, want)
	}
	// An older kernel says less, a newer one more.
	if s, err := decodeDiag(diagMessage(104, counts)); err != nil || !s.full || s.totalRetrans != 9 || s.dsackDups != 0 {
		t.Errorf("%+v, %v: want what 104 bytes hold", s, err)
	}
	if s, err := decodeDiag(diagMessage(400, counts)); err != nil || s != want {
		t.Errorf("%+v, %v", s, err)
	}
	six := diagMessage(280, func(b, _ []byte) {
		b[0] = unix.AF_INET6
		a := netip.MustParseAddr("::ffff:10.0.0.1").As16()
		copy(b[8:], a[:])
		copy(b[24:], a[:])
	})
	if s, err := decodeDiag(six); err != nil || !s.src.Addr().Is4() {
		t.Errorf("%+v, %v: want the mapped address unmapped", s, err)
	}
	for name, b := range map[string][]byte{
		"empty":          nil,
		"short":          diagMessage(280, nil)[:diagMessageBytes-1],
		"cut":            diagMessage(280, nil)[:diagMessageBytes+20],
		"unknown family": diagMessage(280, func(b, _ []byte) { b[0] = unix.AF_UNIX }),
	} {
		if s, err := decodeDiag(b); err == nil {
			t.Errorf("%s: decoded as %+v, want an error", name, s)
		}
	}
}

func FuzzDecodeDiag(f *testing.F) {
	f.Add(diagMessage(280, nil))
	f.Fuzz(func(t *testing.T, b []byte) { decodeDiag(b) })
}

// What sock_diag counts between two looks is an event each.
func TestDiagBook(t *testing.T) {
	b := newDiagBook(9)
	sock := func(change func(*diagSocket)) *diagSocket {
		d := &diagSocket{
			cookie: 7, src: netip.MustParseAddrPort("10.0.0.1:1"), dst: netip.MustParseAddrPort("10.0.0.2:2"),
			state: tcpEstablished, full: true,
		}
		change(d)
		return d
	}
	f := func(name string, at uint64, change func(*diagSocket), want ...what) []event {
		t.Helper()
		got := b.look(sock(change), at)
		var sorts []what
		for _, e := range got {
			sorts = append(sorts, e.what)
		}
		if !slices.Equal(sorts, want) {
			t.Errorf("%s: events %v, want %v", name, sorts, want)
		}
		return got
	}
	sec := uint64(1e9)
	f("the first dump says where all begins", 0, func(d *diagSocket) { d.totalRetrans = 5 })
	e := f("one more, by no timeout", sec, func(d *diagSocket) { d.totalRetrans = 6 }, whatRetransmit)
	if e[0].segments != 1 || e[0].kind() != decafpb.RetransmitKind_RETRANSMIT_KIND_TLP {
		t.Errorf("%d segments, %v", e[0].segments, e[0].kind())
	}
	if e[0].netns != 9 {
		t.Errorf("of namespace %d, want that of the book", e[0].netns)
	}
	e = f("several more", 2*sec, func(d *diagSocket) { d.totalRetrans = 9 }, whatRetransmit)
	if e[0].segments != 3 || e[0].kind() != decafpb.RetransmitKind_RETRANSMIT_KIND_FAST {
		t.Errorf("%d segments, %v", e[0].segments, e[0].kind())
	}
	e = f("a timeout, and the word that it was needless", 3*sec, func(d *diagSocket) { d.totalRetrans, d.timeouts, d.dsackDups = 10, 1, 1 }, whatRetransmit, whatSample)
	if e[0].kind() != decafpb.RetransmitKind_RETRANSMIT_KIND_RTO || e[0].dsackDups != 0 || e[1].dsackDups != 1 {
		t.Errorf("%+v", e)
	}
	f("another word", 3*sec+1, func(d *diagSocket) { d.totalRetrans, d.timeouts, d.dsackDups, d.waiting = 10, 1, 2, 1 }, whatSample)
	f("still waiting", 9*sec, func(d *diagSocket) { d.totalRetrans, d.timeouts, d.dsackDups, d.waiting = 10, 1, 2, 1 })
	e = f("settled", 10*sec, func(d *diagSocket) { d.totalRetrans, d.timeouts, d.dsackDups = 10, 1, 2 }, whatSample)
	if !e[0].settled {
		t.Error("not settled")
	}
	f("nothing more", 11*sec, func(d *diagSocket) { d.totalRetrans, d.timeouts, d.dsackDups = 10, 1, 2 })

	// A request, and the connection it becomes, which takes over its count.
	f("two SYN-ACKs", sec, func(d *diagSocket) { d.cookie, d.state, d.full, d.repeats = 8, tcpSynRecv, false, 2 }, whatSynAck)
	f("their connection", 2*sec, func(d *diagSocket) { d.cookie, d.totalRetrans = 8, 2 })

	// A SYN is one to the end.
	f("connecting", sec, func(d *diagSocket) { d.cookie, d.state = 10, tcpSynSent })
	var syn []event
	b.end(sock(func(d *diagSocket) { d.cookie, d.state, d.totalRetrans = 10, tcpClose, 1 }), func(e event) { syn = append(syn, e) })
	if len(syn) != 2 || syn[0].kind() != decafpb.RetransmitKind_RETRANSMIT_KIND_SYN || syn[1].what != whatClosed {
		t.Errorf("%+v, want a SYN and a last word", syn)
	}

	// Opened, closed and gone between two dumps.
	var last []event
	b.end(sock(func(d *diagSocket) { d.cookie, d.totalRetrans = 9, 4 }), func(e event) { last = append(last, e) })
	if len(last) != 2 || last[0].segments != 4 || last[1].what != whatClosed {
		t.Errorf("%+v, want 4 segments and a last word", last)
	}
	if len(b.of) != 2 {
		t.Errorf("%d sockets are known, want 2", len(b.of))
	}
	for range forgetAfter + 1 {
		b.endDump()
	}
	if len(b.of) != 0 {
		t.Errorf("%d sockets are known that nobody lists", len(b.of))
	}
}

const retransmitFormat = `name: tcp_retransmit_skb
ID: 1200
format:
	field:unsigned short common_type;	offset:0;	size:2;	signed:0;
	field:const void * skbaddr;	offset:8;	size:8;	signed:0;
	field:__u16 sport;	offset:28;	size:2;	signed:0;
	field:__u16 dport;	offset:30;	size:2;	signed:0;
	field:__u8 saddr[4];	offset:34;	size:4;	signed:0;
	field:__u8 saddr_v6[16];	offset:42;	size:16;	signed:0;
	field:__u8 daddr_v6[16];	offset:58;	size:16;	signed:0;

print fmt: "sport=%hu", REC->sport
`

func TestClassicLayout(t *testing.T) {
	var c classic
	if err := c.layout(againEvents[0], retransmitFormat); err != nil {
		t.Fatal(err)
	}
	if c.sport.at != 28 || c.dport.at != 30 || c.saddr6.at != 42 || c.daddr6.at != 58 || c.size != 74 {
		t.Errorf("%+v", c)
	}
	b := make([]byte, 80)
	binary.NativeEndian.PutUint16(b[28:], 40000)
	binary.NativeEndian.PutUint16(b[30:], 443)
	from, to := netip.MustParseAddr("::ffff:10.0.0.1").As16(), netip.MustParseAddr("::ffff:10.0.0.2").As16()
	copy(b[42:], from[:])
	copy(b[58:], to[:])
	h, none, err := c.hint(5, b)
	if err != nil || none || h.at != 5 || h.flow.Src != netip.MustParseAddrPort("10.0.0.1:40000") || h.flow.Dst != netip.MustParseAddrPort("10.0.0.2:443") {
		t.Errorf("%+v, %v, %v", h, none, err)
	}
	if _, _, err := c.hint(5, b[:73]); err == nil {
		t.Error("a short record was read")
	}
	for _, without := range []string{"sport", "daddr_v6"} {
		text := strings.ReplaceAll(retransmitFormat, without, "other")
		if err := new(classic).layout(againEvents[0], text); err == nil || !strings.Contains(err.Error(), without) {
			t.Errorf("without %s: error %v, want one that names it", without, err)
		}
	}
	if err := new(classic).layout(againEvents[0], strings.ReplaceAll(retransmitFormat, "offset:58", "offset:5800")); err == nil {
		t.Error("a record that does not fit was taken")
	}
}

const stateFormat = `
	field:const void * skaddr;	offset:8;	size:8;	signed:0;
	field:int oldstate;	offset:16;	size:4;	signed:1;
	field:int newstate;	offset:20;	size:4;	signed:1;
	field:__u16 sport;	offset:24;	size:2;	signed:0;
	field:__u16 dport;	offset:26;	size:2;	signed:0;
	field:__u16 protocol;	offset:30;	size:2;	signed:0;
	field:__u8 saddr_v6[16];	offset:40;	size:16;	signed:0;
	field:__u8 daddr_v6[16];	offset:56;	size:16;	signed:0;
`

const resetFormat = `
	field:const void * skaddr;	offset:16;	size:8;	signed:0;
	field:int state;	offset:24;	size:4;	signed:1;
	field:__u8 saddr[28];	offset:32;	size:28;	signed:0;
	field:__u8 daddr[28];	offset:60;	size:28;	signed:0;
`

// Records on how connections end: of TCP alone, of closings alone; addresses in
// either form; a kernel that lacks a member that is needed lacks the tracepoint.
func TestClassicEnds(t *testing.T) {
	ne := binary.NativeEndian
	of := func(sort hintSort) classicEvent {
		for _, e := range endEvents {
			if e.sort == sort {
				return e
			}
		}
		t.Fatal("no such tracepoint")
		return classicEvent{}
	}
	var state, reset classic
	state.sort, reset.sort = hintClosed, hintResetSent
	if err := state.layout(of(hintClosed), stateFormat); err != nil {
		t.Fatal(err)
	}
	if err := reset.layout(of(hintResetSent), resetFormat); err != nil {
		t.Fatal(err)
	}
	six := netip.MustParseAddr("fd00::1").As16()
	f := func(name string, c *classic, fill func(b []byte), want hint, wantNone bool) {
		t.Helper()
		b := make([]byte, c.size)
		ne.PutUint64(b[c.sock.at:], 77)
		fill(b)
		got, none, err := c.hint(5, b)
		want.flow.Proto = got.flow.Proto
		if err != nil || none != wantNone || got != want {
			t.Errorf("%s: %+v, %v, %v; want %+v, %v", name, got, none, err, want, wantNone)
		}
	}
	closed := func(old, now uint32, protocol uint16) func([]byte) {
		return func(b []byte) {
			ne.PutUint32(b[16:], old)
			ne.PutUint32(b[20:], now)
			ne.PutUint16(b[24:], 1000)
			ne.PutUint16(b[26:], 2000)
			ne.PutUint16(b[30:], protocol)
			copy(b[40:], six[:])
			copy(b[56:], six[:])
		}
	}
	want := hint{sort: hintClosed, at: 5, sock: 77, state: tcpSynSent}
	want.flow.Src, want.flow.Dst = netip.MustParseAddrPort("[fd00::1]:1000"), netip.MustParseAddrPort("[fd00::1]:2000")
	f("closed", &state, closed(tcpSynSent, tcpClose, unix.IPPROTO_TCP), want, false)
	f("established", &state, closed(tcpSynSent, tcpEstablished, unix.IPPROTO_TCP), hint{}, true)
	f("SCTP", &state, closed(tcpSynSent, tcpClose, 132), hint{}, true)

	sent := func(state uint32, family uint16) func([]byte) {
		return func(b []byte) {
			ne.PutUint32(b[24:], state)
			for i, at := range []int{32, 60} {
				ne.PutUint16(b[at:], family)
				binary.BigEndian.PutUint16(b[at+2:], uint16(1000+i))
				copy(b[at+4:], []byte{10, 0, 0, byte(1 + i)})
				if family == unix.AF_INET6 {
					copy(b[at+8:], six[:])
				}
			}
		}
	}
	want = hint{sort: hintResetSent, at: 5, sock: 77, state: tcpClose}
	want.flow.Src, want.flow.Dst = netip.MustParseAddrPort("10.0.0.1:1000"), netip.MustParseAddrPort("10.0.0.2:1001")
	f("reset", &reset, sent(tcpClose, unix.AF_INET), want, false)
	want.flow.Src, want.flow.Dst = netip.MustParseAddrPort("[fd00::1]:1000"), netip.MustParseAddrPort("[fd00::1]:1001")
	f("reset over IPv6", &reset, sent(tcpClose, unix.AF_INET6), want, false)
	f("reset of a listener", &reset, sent(tcpListen, unix.AF_INET), hint{}, true)
	f("reset of TIME_WAIT", &reset, sent(tcpTimeWait, unix.AF_INET), hint{}, true)
	b := make([]byte, reset.size)
	sent(tcpClose, 99)(b)
	b[16] = 1
	if _, _, err := reset.hint(5, b); err == nil {
		t.Error("an address of an unknown family was read")
	}
	for _, without := range []string{"skaddr", "oldstate", "newstate"} {
		if err := new(classic).layout(of(hintClosed), strings.ReplaceAll(stateFormat, without, "other")); err == nil || !strings.Contains(err.Error(), without) {
			t.Errorf("without %s: error %v, want one that names it", without, err)
		}
	}
	if err := new(classic).layout(of(hintGone), stateFormat); err == nil || !strings.Contains(err.Error(), "sock_cookie") {
		t.Errorf("error %v, want one that names the cookie", err)
	}
}
