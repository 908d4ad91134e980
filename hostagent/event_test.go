package hostagent

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
	"testing"

	"decaf/api/decafpb"

	"golang.org/x/sys/unix"
)

// sample is an event as a kernel program writes it.
func sample(change func(b []byte)) []byte {
	b := make([]byte, evBytes)
	ne := binary.NativeEndian
	ne.PutUint64(b[evTime:], 5e9)
	ne.PutUint64(b[evCookie:], 77)
	copy(b[evSrc4:], []byte{10, 0, 0, 1})
	copy(b[evDst4:], []byte{10, 0, 0, 2})
	ne.PutUint32(b[evSeq:], 1000)
	ne.PutUint32(b[evEndSeq:], 1100)
	ne.PutUint32(b[evSegments:], 1)
	ne.PutUint16(b[evSrcPort:], 40000)
	binary.BigEndian.PutUint16(b[evDstPort:], 443)
	ne.PutUint16(b[evFamily:], unix.AF_INET)
	b[evWhat] = byte(whatRetransmit)
	b[evFlags] = flagACK
	b[evState] = 1
	if change != nil {
		change(b)
	}
	return b
}

var fiveBits = field{mask: 0x1f}

func TestDecodeEvent(t *testing.T) {
	f := func(name string, change func([]byte), src, dst string, caState uint8) {
		t.Helper()
		e, err := decodeEvent(sample(change), fiveBits)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		if e.src != netip.MustParseAddrPort(src) || e.dst != netip.MustParseAddrPort(dst) || e.caState != caState {
			t.Errorf("%s: %v -> %v, congestion state %d; want %s -> %s, %d", name, e.src, e.dst, e.caState, src, dst, caState)
		}
		if e.monotonic != 5e9 || e.cookie != 77 || e.seq != 1000 || e.endSeq != 1100 || e.segments != 1 {
			t.Errorf("%s: %+v", name, e)
		}
	}
	six := func(src, dst string) func([]byte) {
		return func(b []byte) {
			binary.NativeEndian.PutUint16(b[evFamily:], unix.AF_INET6)
			a, z := netip.MustParseAddr(src).As16(), netip.MustParseAddr(dst).As16()
			copy(b[evSrc6:], a[:])
			copy(b[evDst6:], z[:])
		}
	}
	f("IPv4", nil, "10.0.0.1:40000", "10.0.0.2:443", 0)
	f("IPv6", six("2001:db8::1", "2001:db8::2"), "[2001:db8::1]:40000", "[2001:db8::2]:443", 0)
	f("IPv4 mapped into IPv6", six("::ffff:10.0.0.1", "::ffff:10.0.0.2"), "10.0.0.1:40000", "10.0.0.2:443", 0)
	f("neighbours in the bit field", func(b []byte) { b[evCAState] = 0xe0 | caRecovery }, "10.0.0.1:40000", "10.0.0.2:443", caRecovery)

	for name, b := range map[string][]byte{
		"empty":          nil,
		"short":          sample(nil)[:evBytes-1],
		"unknown sort":   sample(func(b []byte) { b[evWhat] = 9 }),
		"unknown family": sample(func(b []byte) { binary.NativeEndian.PutUint16(b[evFamily:], unix.AF_UNIX) }),
	} {
		if e, err := decodeEvent(b, fiveBits); err == nil {
			t.Errorf("%s: decoded as %+v, want an error", name, e)
		}
	}
}

func FuzzDecodeEvent(f *testing.F) {
	f.Add(sample(nil))
	f.Add(sample(func(b []byte) { b[evWhat] = byte(whatClosed) }))
	f.Add(sample(func(b []byte) { b[evWhat] = byte(whatSynAck); b[evFlags] = flagSYN | flagACK }))
	f.Add(sample(func(b []byte) { binary.NativeEndian.PutUint16(b[evFamily:], unix.AF_INET6) }))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := decodeEvent(b, fiveBits)
		if err != nil {
			return
		}
		if !e.src.IsValid() || !e.dst.IsValid() || e.src.Addr().Is4In6() || e.dst.Addr().Is4In6() {
			t.Errorf("addresses %v and %v", e.src, e.dst)
		}
		r := rules{ignored: func(netip.Addr) bool { return false }, known: func(netip.Addr) bool { return false }}
		r.judge(&e)
		e.payload()
		undone(&e)
	})
}

func TestPayload(t *testing.T) {
	f := func(seq, end uint32, flags uint8, want uint32) {
		t.Helper()
		if got := (&event{seq: seq, endSeq: end, flags: flags}).payload(); got != want {
			t.Errorf("%d to %d with flags %#x: %d bytes, want %d", seq, end, flags, got, want)
		}
	}
	f(100, 200, flagACK, 100)
	f(100, 101, flagSYN, 0)
	f(100, 101, flagFIN|flagACK, 0)
	f(100, 151, flagFIN|flagACK, 50)
	f(100, 102, flagSYN|flagFIN, 0)
	f(1<<32-10, 20, flagACK, 30) // the sequence space wraps
	f(100, 100, flagFIN, 0)
}

func TestKind(t *testing.T) {
	f := func(name string, e event, want decafpb.RetransmitKind) {
		t.Helper()
		if got := e.kind(); got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	const (
		established = 1
		synSent     = 2
		finWait1    = 4
		lastACK     = 9
	)
	re := whatRetransmit
	f("SYN", event{what: re, flags: flagSYN, state: synSent, caState: caLoss, retransmits: 1}, decafpb.RetransmitKind_RETRANSMIT_KIND_SYN)
	f("SYN-ACK by the listener", event{what: whatSynAck, flags: flagSYN | flagACK}, decafpb.RetransmitKind_RETRANSMIT_KIND_SYN_ACK)
	f("SYN-ACK of crossing SYNs", event{what: re, flags: flagSYN | flagACK, caState: caLoss}, decafpb.RetransmitKind_RETRANSMIT_KIND_SYN_ACK)
	for _, state := range []uint8{established, finWait1, lastACK} {
		f("probe in Open", event{what: re, state: state, caState: caOpen, flags: flagACK}, decafpb.RetransmitKind_RETRANSMIT_KIND_TLP)
		f("probe in Disorder", event{what: re, state: state, caState: caDisorder}, decafpb.RetransmitKind_RETRANSMIT_KIND_TLP)
		f("probe in CWR", event{what: re, state: state, caState: caCWR}, decafpb.RetransmitKind_RETRANSMIT_KIND_TLP)
		f("fast", event{what: re, state: state, caState: caRecovery}, decafpb.RetransmitKind_RETRANSMIT_KIND_FAST)
		f("timeout", event{what: re, state: state, caState: caLoss, retransmits: 1}, decafpb.RetransmitKind_RETRANSMIT_KIND_RTO)
		f("after a timeout", event{what: re, state: state, caState: caLoss}, decafpb.RetransmitKind_RETRANSMIT_KIND_RTO)
	}
	f("a state of another kernel", event{what: re, caState: 17}, decafpb.RetransmitKind_RETRANSMIT_KIND_UNSPECIFIED)
}

// The label of what was lost is that of before where the kernel draws another to
// send again.
func TestDecodeLabel(t *testing.T) {
	const (
		now, before = 0x00012345, 0x00054321
	)
	flip := func(hash uint32) uint32 { return flowLabel(0, hash, 1, false) }
	if binary.NativeEndian.Uint16([]byte{1, 0}) == 1 && flip(now) != bits.ReverseBytes32(bits.RotateLeft32(now, 16))&maxFlowLabel {
		t.Errorf("label %#x of hash %#x", flip(now), now)
	}
	if flip(now) == flip(before) {
		t.Fatal("the hashes have one label")
	}
	f := func(what string, change func(b []byte), label uint32, relabelled bool) {
		t.Helper()
		e, err := decodeEvent(sample(func(b []byte) {
			binary.NativeEndian.PutUint16(b[evFamily:], unix.AF_INET6)
			a, z := netip.MustParseAddr("2001:db8::1").As16(), netip.MustParseAddr("2001:db8::2").As16()
			copy(b[evSrc6:], a[:])
			copy(b[evDst6:], z[:])
			b[evAutoLabel] = 1
			b[evCAState] = caLoss
			binary.NativeEndian.PutUint32(b[evHash:], now)
			binary.NativeEndian.PutUint32(b[evHashBefore:], before)
			change(b)
		}), fiveBits)
		if err != nil || e.label != label || e.relabelled != relabelled {
			t.Errorf("%s: label %#x, relabelled %v, %v; want %#x, %v", what, e.label, e.relabelled, err, label, relabelled)
		}
	}
	unknown := func(b []byte) { clear(b[evHashBefore : evHashBefore+4]) }
	f("timeout", func(b []byte) {}, flip(before), false)
	f("timeout, what was before is not known", unknown, flip(now), true)
	f("timeout, labels are off", func(b []byte) { unknown(b); b[evAutoLabel] = 0 }, 0, false)
	f("timeout, a label of its own", func(b []byte) { unknown(b); binary.BigEndian.PutUint32(b[evLabel:], 77) }, 77, false)
	f("loss probe", func(b []byte) { b[evCAState] = caOpen }, flip(now), false)
	f("fast", func(b []byte) { unknown(b); b[evCAState] = caRecovery }, flip(now), false)
	f("SYN", func(b []byte) { unknown(b); b[evFlags] = flagSYN }, flip(now), false)
	f("SYN-ACK", func(b []byte) { unknown(b); b[evWhat] = byte(whatSynAck) }, flip(now), false)
	f("another SYN", func(b []byte) { b[evFlags] = flagSYN }, flip(before), false)
	f("state ranges", func(b []byte) { b[evStateLabel] = 1 }, flip(before)|0x80000, false)
	f("IPv4", func(b []byte) { binary.NativeEndian.PutUint16(b[evFamily:], unix.AF_INET) }, 0, false)
	f("no hash", func(b []byte) { unknown(b); clear(b[evHash : evHash+4]) }, 0, false)
}
