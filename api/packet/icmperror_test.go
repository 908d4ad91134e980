package packet

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var (
	router4 = netip.MustParseAddr("192.0.2.1")
	router6 = netip.MustParseAddr("2001:db8:1::1")
	probe4  = Probe{Flow: flow("10.0.0.1:40000", "10.0.0.2:80", TCP), TTL: 1, Seq: 0xcafe0001, Ack: 0xbeef0002, ID: 0x7003}
	probe6  = Probe{Flow: flow("[2001:db8::1]:40000", "[2001:db8::2]:80", TCP), TTL: 1, Seq: 0xcafe0001, Ack: 0xbeef0002, FlowLabel: 5}
)

// icmp makes an ICMP error that quotes the first n bytes of a probe (all if 0),
// padded to pad bytes with the length field set when pad is not 0, and
// extension objects behind.
func icmp(t testing.TB, typ, code uint8, p Probe, n, pad int, extensions []byte) []byte {
	t.Helper()
	quote, err := p.Marshal(nil)
	if err != nil {
		t.Fatal(err)
	}
	if n > 0 {
		quote = quote[:n]
	}
	b := []byte{typ, code, 0, 0, 0, 0, 0, 0}
	if pad > 0 {
		quote = append(quote, make([]byte, pad-len(quote))...)
		if p.Flow.Is6() {
			b[4] = byte(pad / 8)
		} else {
			b[5] = byte(pad / 4)
		}
	}
	b = append(append(b, quote...), extensions...)
	binary.BigEndian.PutUint16(b[2:], checksum(b))
	return b
}

// structure makes an RFC 4884 extension structure of objects.
func structure(objects ...[]byte) []byte {
	b := []byte{0x20, 0, 0, 0}
	for _, o := range objects {
		b = append(b, o...)
	}
	binary.BigEndian.PutUint16(b[2:], checksum(b))
	return b
}

func object(class, typ uint8, data ...byte) []byte {
	return append([]byte{0, byte(4 + len(data)), class, typ}, data...)
}

func TestParseICMPError(t *testing.T) {
	q4 := Quote{Flow: probe4.Flow, IPID: 0x7003, TTL: 1, Seq: 0xcafe0001, Ack: 0xbeef0002, HasSeq: true, HasAck: true}
	q6 := Quote{Flow: probe6.Flow, TTL: 1, FlowLabel: 5, Seq: 0xcafe0001, Ack: 0xbeef0002, HasSeq: true, HasAck: true}
	short := q4
	short.Ack, short.HasAck = 0, false
	none := q4
	none.Flow = flow("10.0.0.1:0", "10.0.0.2:0", TCP)
	none.Seq, none.Ack, none.HasSeq, none.HasAck = 0, 0, false, false
	mpls := object(1, 1, 0x00, 0x01, 0x11, 0x3f)

	for name, c := range map[string]struct {
		from       netip.Addr
		b          []byte
		kind       Kind
		meaning    string
		quoted     Quote
		extensions []Extension
	}{
		"ttl expired, whole probe quoted": {router4, icmp(t, 11, 0, probe4, 0, 0, nil), TimeExceeded, "time exceeded", q4, nil},
		"only the 8 bytes of RFC 792":     {router4, icmp(t, 11, 0, probe4, 28, 0, nil), TimeExceeded, "time exceeded", short, nil},
		"not even those":                  {router4, icmp(t, 11, 0, probe4, 20, 0, nil), TimeExceeded, "time exceeded", none, nil},
		"no route":                        {router4, icmp(t, 3, 0, probe4, 0, 0, nil), Unreachable, "network unreachable", q4, nil},
		"filtered":                        {router4, icmp(t, 3, 13, probe4, 0, 0, nil), Unreachable, "communication administratively prohibited", q4, nil},
		"too big":                         {router4, icmp(t, 3, 4, probe4, 0, 0, nil), PacketTooBig, "packet too big", q4, nil},
		"reassembly":                      {router4, icmp(t, 11, 1, probe4, 0, 0, nil), ReassemblyExpiry, "fragment reassembly time exceeded", q4, nil},
		"a code without a word":           {router4, icmp(t, 3, 99, probe4, 0, 0, nil), Unreachable, "ICMP type 3 code 99", q4, nil},
		"parameter problem":               {router4, icmp(t, 12, 0, probe4, 0, 0, nil), KindOther, "ICMP type 12 code 0", q4, nil},
		"ipv6 hop limit":                  {router6, icmp(t, 3, 0, probe6, 0, 0, nil), TimeExceeded, "time exceeded", q6, nil},
		"ipv6 no route":                   {router6, icmp(t, 1, 0, probe6, 0, 0, nil), Unreachable, "no route to destination", q6, nil},
		"ipv6 too big":                    {router6, icmp(t, 2, 0, probe6, 0, 0, nil), PacketTooBig, "packet too big", q6, nil},
		"padded quote with a label stack": {router4, icmp(t, 11, 0, probe4, 0, 128, structure(mpls)), TimeExceeded, "time exceeded", q4,
			[]Extension{{Class: 1, Type: 1, Data: []byte{0x00, 0x01, 0x11, 0x3f}}}},
		"the same for ipv6": {router6, icmp(t, 3, 0, probe6, 0, 128, structure(mpls)), TimeExceeded, "time exceeded", q6,
			[]Extension{{Class: 1, Type: 1, Data: []byte{0x00, 0x01, 0x11, 0x3f}}}},
		"two objects": {router4, icmp(t, 11, 0, probe4, 0, 128, structure(mpls, object(2, 8, 0, 0, 0, 7))), TimeExceeded, "time exceeded", q4,
			[]Extension{{Class: 1, Type: 1, Data: []byte{0x00, 0x01, 0x11, 0x3f}}, {Class: 2, Type: 8, Data: []byte{0, 0, 0, 7}}}},
		"an object that runs past the end": {router4, icmp(t, 11, 0, probe4, 0, 128, structure(mpls, []byte{0, 99, 1, 1})), TimeExceeded, "time exceeded", q4,
			[]Extension{{Class: 1, Type: 1, Data: []byte{0x00, 0x01, 0x11, 0x3f}}}},
		"a length field past the end": {router4, func() []byte { b := icmp(t, 11, 0, probe4, 0, 0, nil); b[5] = 255; return b }(), TimeExceeded, "time exceeded", q4, nil},
	} {
		t.Run(name, func(t *testing.T) {
			e, err := ParseICMPError(c.from, c.b, c.from.Is6())
			if err != nil {
				t.Fatal(err)
			}
			if e.From != c.from || e.Kind() != c.kind || e.Meaning() != c.meaning {
				t.Errorf("from %s, kind %d, %q", e.From, e.Kind(), e.Meaning())
			}
			if d := cmp.Diff(c.quoted, e.Quoted, cmpopts.EquateComparable(Flow{})); d != "" {
				t.Error(d)
			}
			if d := cmp.Diff(c.extensions, e.Extensions); d != "" {
				t.Error(d)
			}
		})
	}
}

// Routers older than RFC 4884 put extensions at byte 128 and no length: those are
// believed on their checksum only (section 5.5).
func TestExtensionsWithoutALength(t *testing.T) {
	good := icmp(t, 11, 0, probe4, 0, 128, structure(object(1, 1, 0, 1, 0x11, 63)))
	good[5] = 0
	e, err := ParseICMPError(router4, good, false)
	if err != nil || len(e.Extensions) != 1 || e.Quoted.Seq != probe4.Seq {
		t.Errorf("right checksum: %+v, %v", e, err)
	}
	for name, sum := range map[string][]byte{"wrong": {1, 2}, "none": {0, 0}} {
		bad := append([]byte{}, good...)
		copy(bad[8+128+2:], sum)
		e, err := ParseICMPError(router4, bad, false)
		if err != nil || e.Extensions != nil {
			t.Errorf("%s checksum: %+v, %v", name, e, err)
		}
	}
}

func TestNotICMPErrors(t *testing.T) {
	for _, c := range []struct {
		b    []byte
		v6   bool
		is   error
		want string
	}{
		{nil, false, nil, "0 bytes"},
		{make([]byte, 64), false, ErrNotICMPError, "type 0"},
		{append([]byte{8}, make([]byte, 63)...), false, ErrNotICMPError, "type 8"},
		{append([]byte{128}, make([]byte, 63)...), true, ErrNotICMPError, "type 128"},
		{icmp(t, 11, 0, probe4, 19, 0, nil), false, nil, "19 bytes of IPv4"},
		{icmp(t, 11, 0, probe4, 0, 0, nil)[:8], false, nil, "empty"},
		{icmp(t, 3, 0, probe6, 0, 0, nil), false, nil, "another IP version"},
		{icmp(t, 3, 0, probe4, 0, 0, nil), true, nil, "another IP version"},
	} {
		_, err := ParseICMPError(router4, c.b, c.v6)
		if err == nil || !strings.Contains(err.Error(), c.want) || c.is != nil && !errors.Is(err, c.is) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
}

func FuzzParseICMPError(f *testing.F) {
	f.Add(icmp(f, 11, 0, probe4, 0, 0, nil), false)
	f.Add(icmp(f, 11, 0, probe4, 28, 0, nil), false)
	f.Add(icmp(f, 3, 0, probe6, 0, 0, nil), true)
	f.Add(icmp(f, 11, 0, probe4, 0, 128, structure(object(1, 1, 0, 1, 0x11, 63), object(2, 0x0f, 0, 0, 0, 7, 0, 1, 0, 0, 10, 0, 0, 1, 5, 'e', 't', 'h', '1', 0, 0, 5, 220))), false)
	f.Add(icmp(f, 3, 0, probe6, 0, 128, structure(object(2, 0x0c, 0, 0, 0, 7, 0, 2, 0, 0, 1, 2, 3))), true)
	f.Fuzz(func(t *testing.T, b []byte, v6 bool) {
		e, err := ParseICMPError(router4, b, v6)
		if err != nil {
			return
		}
		if _, err := FlowFromPB(e.Quoted.Flow.PB()); err != nil {
			t.Fatalf("quoted flow %s: %v", e.Quoted.Flow, err)
		}
		if e.Meaning() == "" || len(e.Extensions) > maxExtensionObjects || e.Quoted.HasAck && !e.Quoted.HasSeq {
			t.Fatalf("%+v", e)
		}
		for _, x := range e.Extensions {
			if stack, ok := x.MPLS(); ok && len(stack) == 0 {
				t.Fatal("empty label stack")
			}
			if info, err := x.Interface(); err == nil && len(info.Name) > 63 {
				t.Fatalf("interface name %q", info.Name)
			}
		}
	})
}
