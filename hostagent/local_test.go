package hostagent

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"decaf/api/packet"

	"golang.org/x/sys/unix"
)

var testReasons = map[uint32]string{5: "QDISC_DROP", 6: "NETFILTER_DROP"}

// dropSample is a drop as the kernel program writes it, of 100 bytes of data.
func dropSample(reason uint32, six bool, seq, ack uint32, flags byte, change func(b []byte)) []byte {
	b := make([]byte, ldBytes)
	binary.NativeEndian.PutUint64(b[ldTime:], 5e9)
	binary.NativeEndian.PutUint32(b[ldReason:], reason)
	h, tcp := b[ldHeader:], b[ldHeader+20:]
	binary.BigEndian.PutUint16(b[ldProtocol:], etherIPv4)
	h[0], h[9] = 0x45, unix.IPPROTO_TCP
	binary.BigEndian.PutUint16(h[2:], 20+20+100)
	copy(h[12:], []byte{10, 0, 0, 1, 10, 0, 0, 2})
	if six {
		binary.BigEndian.PutUint16(b[ldProtocol:], etherIPv6)
		clear(h[:20])
		h[0], h[6] = 0x60, unix.IPPROTO_TCP
		binary.BigEndian.PutUint16(h[4:], 20+100)
		src, dst := netip.MustParseAddr("2001:db8::1").As16(), netip.MustParseAddr("2001:db8::2").As16()
		copy(h[8:], src[:])
		copy(h[24:], dst[:])
		tcp = b[ldHeader+40:]
	}
	binary.BigEndian.PutUint16(tcp, 40000)
	binary.BigEndian.PutUint16(tcp[2:], 443)
	binary.BigEndian.PutUint32(tcp[4:], seq)
	binary.BigEndian.PutUint32(tcp[8:], ack)
	tcp[12], tcp[13] = 5<<4, flags
	if change != nil {
		change(b)
	}
	return b
}

func TestDecodeDrop(t *testing.T) {
	for _, six := range []bool{false, true} {
		d, err := decodeDrop(dropSample(5, six, 1000, 77, flagACK|flagFIN, nil), testReasons)
		if err != nil {
			t.Fatal(err)
		}
		src, dst := "10.0.0.1:40000", "10.0.0.2:443"
		if six {
			src, dst = "[2001:db8::1]:40000", "[2001:db8::2]:443"
		}
		want := packet.Flow{Src: netip.MustParseAddrPort(src), Dst: netip.MustParseAddrPort(dst), Proto: packet.TCP}
		if d.flow != want || d.seq != 1000 || d.end != 1101 || d.ack != 77 || !d.acks || d.reason != "QDISC_DROP" || d.at != 5e9 {
			t.Errorf("%+v, want %v from 1000 to 1101 with the FIN", d, want)
		}
	}
	for name, b := range map[string][]byte{
		"empty":          nil,
		"short":          dropSample(5, false, 1, 1, 0, nil)[:ldBytes-1],
		"unknown reason": dropSample(9, false, 1, 1, 0, nil),
		"no IP":          dropSample(5, false, 1, 1, 0, func(b []byte) { b[ldHeader] = 0x25 }),
		"short header":   dropSample(5, false, 1, 1, 0, func(b []byte) { b[ldHeader] = 0x41 }),
		"fragment":       dropSample(5, false, 1, 1, 0, func(b []byte) { b[ldHeader+7] = 1 }),
		"ARP":            dropSample(5, false, 1, 1, 0, func(b []byte) { binary.BigEndian.PutUint16(b[ldProtocol:], 0x0806) }),
	} {
		if d, err := decodeDrop(b, testReasons); err == nil {
			t.Errorf("%s: decoded as %+v, want an error", name, d)
		}
	}
}

func FuzzDecodeDrop(f *testing.F) {
	f.Add(dropSample(5, false, 1000, 77, flagACK, nil))
	f.Add(dropSample(6, true, 1000, 77, flagACK, nil))
	f.Fuzz(func(t *testing.T, b []byte) { decodeDrop(b, testReasons) })
}

func TestLocalDropCause(t *testing.T) {
	flow := packet.Flow{Src: netip.MustParseAddrPort("10.0.0.1:1"), Dst: netip.MustParseAddrPort("10.0.0.2:2"), Proto: packet.TCP}
	again := func(at uint64, seq, end uint32) *event {
		return &event{src: flow.Src, dst: flow.Dst, monotonic: at, seq: seq, endSeq: end}
	}
	f := func(name string, drops []localDrop, e *event, want string) {
		t.Helper()
		l := newLocalDrops()
		for _, d := range drops {
			l.add(&d)
		}
		if got := l.cause(e); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
		if want != "" {
			if got := l.cause(e); got != "" {
				t.Errorf("%s: %q again", name, got)
			}
		}
	}
	out := localDrop{at: 10, reason: "QDISC_DROP", flow: flow, seq: 100, end: 200}
	ack := localDrop{at: 10, reason: "NETFILTER_DROP", flow: flow.Reverse(), seq: 5, end: 5, ack: 200, acks: true}
	f("the segment", []localDrop{out}, again(20, 100, 200), inQueue+" (QDISC_DROP)")
	f("part of a larger one", []localDrop{out}, again(20, 150, 160), inQueue+" (QDISC_DROP)")
	f("another segment", []localDrop{out}, again(20, 200, 300), "")
	f("dropped later", []localDrop{out}, again(5, 100, 200), "")
	f("the acknowledgement", []localDrop{ack}, again(20, 100, 200), "acknowledgement "+byFilter+" (NETFILTER_DROP)")
	f("an acknowledgement of less", []localDrop{ack}, again(20, 150, 201), "")
	f("sequence numbers wrap", []localDrop{{at: 10, reason: "QDISC_DROP", flow: flow, seq: 0xffffff00, end: 0x100}}, again(20, 0x10, 0x20), inQueue+" (QDISC_DROP)")
	f("nothing was dropped", nil, again(20, 100, 200), "")
}

func TestLocalDropsAreForgotten(t *testing.T) {
	l := newLocalDrops()
	l.max = 10
	flow := packet.Flow{Src: netip.MustParseAddrPort("10.0.0.1:1"), Dst: netip.MustParseAddrPort("10.0.0.2:2"), Proto: packet.TCP}
	for i := range uint32(25) {
		l.add(&localDrop{at: uint64(i), reason: "QDISC_DROP", flow: flow, seq: i, end: i + 1})
	}
	if len(l.order) != 10 || len(l.of[flow]) != 10 || l.leftOut.Load() != 15 {
		t.Errorf("%d, %d kept, %d left out; want 10, 10, 15", len(l.order), len(l.of[flow]), l.leftOut.Load())
	}
	if got := l.cause(&event{src: flow.Src, dst: flow.Dst, monotonic: 100, seq: 3, endSeq: 4}); got != "" {
		t.Errorf("a forgotten drop explains: %q", got)
	}
	l.add(&localDrop{at: localDropAge * 2, reason: "QDISC_DROP", flow: flow.Reverse()})
	if len(l.order) != 1 || len(l.of) != 1 || l.leftOut.Load() != 15 {
		t.Errorf("%d kept of %d flows, %d left out; want only the newest", len(l.order), len(l.of), l.leftOut.Load())
	}
}
