package device

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"
)

// rawRecord lays a record out as the kernel program does.
func rawRecord(set func(b []byte)) []byte {
	b := make([]byte, recSize)
	ne := binary.NativeEndian
	ne.PutUint64(b[recTime:], 42)
	ne.PutUint64(b[recLocation:], 0xffffffff81000000)
	ne.PutUint32(b[recReason:], 12)
	ne.PutUint32(b[recInIf:], 2)
	ne.PutUint32(b[recDevIf:], 3)
	ne.PutUint32(b[recLen:], 1500)
	ne.PutUint16(b[recMAC:], 64)
	ne.PutUint16(b[recNetwork:], 78)
	ne.PutUint32(b[recData:], 78)
	ne.PutUint32(b[recCaptured:], 20)
	b[recHeader] = 0x45
	if set != nil {
		set(b)
	}
	return b
}

func TestParseRecord(t *testing.T) {
	ne := binary.NativeEndian
	for _, tc := range []struct {
		what  string
		set   func(b []byte)
		holds func(r record) bool
	}{
		{"plain", nil, func(r record) bool {
			return r.time == 42 && r.reason == 12 && r.inIf == 2 && r.devIf == 3 && r.length == 1500 &&
				len(r.header) == 20 && len(r.linkLayer) == 14 && r.packets == 1 && r.dstErrno == 0
		}},
		{"data at the MAC header", func(b []byte) { ne.PutUint32(b[recData:], 64); ne.PutUint32(b[recLen:], 1514) },
			func(r record) bool { return r.length == 1500 }},
		{"data beyond the IP header", func(b []byte) { ne.PutUint32(b[recData:], 98); ne.PutUint32(b[recLen:], 1480) },
			func(r record) bool { return r.length == 1500 }},
		{"nonsense length", func(b []byte) { ne.PutUint32(b[recData:], 0); ne.PutUint32(b[recLen:], 3) },
			func(r record) bool { return r.length == 0 }},
		{"no MAC header", func(b []byte) { ne.PutUint16(b[recMAC:], 0xffff) }, func(r record) bool { return r.linkLayer == nil }},
		{"old MAC header", func(b []byte) { ne.PutUint16(b[recMAC:], 10) }, func(r record) bool { return r.linkLayer == nil }},
		{"five segments", func(b []byte) { ne.PutUint16(b[recSegments:], 5) }, func(r record) bool { return r.packets == 5 }},
		{"IPv4 route error", func(b []byte) { ne.PutUint16(b[recDstError:], 101) }, func(r record) bool { return r.dstErrno == errNetUnreach }},
		{"IPv6 route error", func(b []byte) { ne.PutUint16(b[recDstError:], ^uint16(101)+1) }, func(r record) bool { return r.dstErrno == errNetUnreach }},
		{"priority bits of the VLAN tag", func(b []byte) { ne.PutUint16(b[recVLAN:], 0xe00a) }, func(r record) bool { return r.vlan == 10 }},
	} {
		r, err := parseRecord(rawRecord(tc.set))
		if err != nil || !tc.holds(r) {
			t.Errorf("%s: %+v, %v", tc.what, r, err)
		}
	}
	if _, err := parseRecord(rawRecord(nil)[:recSize-1]); err == nil {
		t.Error("a short record is taken")
	}
	if _, err := parseRecord(rawRecord(func(b []byte) { ne.PutUint32(b[recCaptured:], maxHeader+1) })); err == nil {
		t.Error("a record with more header than fits is taken")
	}
}

// FuzzRecord: whatever was in the packet, an event comes of it.
func FuzzRecord(f *testing.F) {
	f.Add(rawRecord(nil))
	f.Add(rawRecord(func(b []byte) { binary.NativeEndian.PutUint32(b[recCaptured:], maxHeader) }))
	f.Add(bytes.Repeat([]byte{0xff}, recSize))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRecord(b)
		if err != nil {
			return
		}
		ev := newEvent(&r, time.Unix(0, int64(r.time)), Unknown, "X", "f", "eth1", "")
		if len(ev.GetPacket().GetHeader()) > maxHeader {
			t.Errorf("%d header bytes", len(ev.Packet.Header))
		}
		direction(&r, "f")
	})
}
