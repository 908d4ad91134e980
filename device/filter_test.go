package device

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"decaf/api/packet"
	"decaf/api/yang/model"

	"github.com/openconfig/ygot/ygot"
)

func testPathFlow(src, dst string, proto uint8) packet.Flow {
	return packet.Flow{Src: netip.MustParseAddrPort(src), Dst: netip.MustParseAddrPort(dst), Proto: proto}
}

func TestFilterMatches(t *testing.T) {
	base := testPathFlow("10.0.0.1:4000", "10.0.1.2:80", 6)
	end := ygot.Uint64(100)
	for _, tc := range []struct {
		what string
		f    model.Loss_Filter
		flow packet.Flow
		dscp uint8
		want bool
	}{
		{"anything", model.Loss_Filter{}, base, 0, true},
		{"no flow", model.Loss_Filter{}, packet.Flow{}, 0, false},
		{"source", model.Loss_Filter{SourcePrefix: ygot.String("10.0.0.0/24")}, base, 0, true},
		{"another source", model.Loss_Filter{SourcePrefix: ygot.String("10.0.1.0/24")}, base, 0, false},
		{"source of another family", model.Loss_Filter{SourcePrefix: ygot.String("::/0")}, base, 0, false},
		{"destination", model.Loss_Filter{DestinationPrefix: ygot.String("10.0.1.2/32")}, base, 0, true},
		{"another destination", model.Loss_Filter{DestinationPrefix: ygot.String("10.0.1.3/32")}, base, 0, false},
		{"IPv6", model.Loss_Filter{SourcePrefix: ygot.String("2001:db8::/32")}, testPathFlow("[2001:db8::1]:1", "[2001:db8::2]:2", 17), 0, true},
		{"protocol", model.Loss_Filter{Protocol: ygot.Uint8(6)}, base, 0, true},
		{"another protocol", model.Loss_Filter{Protocol: ygot.Uint8(0)}, base, 0, false},
		{"ports", model.Loss_Filter{SourcePort: ygot.Uint16(4000), DestinationPort: ygot.Uint16(80)}, base, 0, true},
		{"another source port", model.Loss_Filter{SourcePort: ygot.Uint16(0)}, base, 0, false},
		{"another destination port", model.Loss_Filter{DestinationPort: ygot.Uint16(81)}, base, 0, false},
		{"DSCP", model.Loss_Filter{Dscp: ygot.Uint8(46)}, base, 46, true},
		{"no DSCP", model.Loss_Filter{Dscp: ygot.Uint8(0)}, base, 46, false},
		{"all but one", model.Loss_Filter{SourcePrefix: ygot.String("10.0.0.0/24"), Protocol: ygot.Uint8(6), Dscp: ygot.Uint8(1)}, base, 0, false},
	} {
		tc.f.EndTime = end
		f, err := newFilters(map[string]*model.Loss_Filter{"t": &tc.f})
		if err != nil {
			t.Fatalf("%s: %v", tc.what, err)
		}
		if got := f.match(time.Unix(0, 99), tc.flow, tc.dscp, 3) == "t"; got != tc.want || f.list[0].Matched != map[bool]uint64{true: 3}[tc.want] {
			t.Errorf("%s: %v, %d counted", tc.what, got, f.list[0].Matched)
		}
		if got := f.match(time.Unix(0, 100), tc.flow, tc.dscp, 3); got != "" {
			t.Errorf("%s: matches after its end", tc.what)
		}
	}
}

func TestFiltersTogether(t *testing.T) {
	f, err := newFilters(map[string]*model.Loss_Filter{
		"b": {EndTime: ygot.Uint64(200), Only: ygot.Bool(false)},
		"a": {EndTime: ygot.Uint64(100), Protocol: ygot.Uint8(6)},
	})
	if err != nil {
		t.Fatal(err)
	}
	tcp, udp := testPathFlow("10.0.0.1:4000", "10.0.1.2:80", 6), testPathFlow("10.0.0.1:4000", "10.0.1.2:80", 17)
	at := func(ns int64) time.Time { return time.Unix(0, ns) }
	if a, b, late := f.match(at(1), tcp, 0, 1), f.match(at(1), udp, 0, 1), f.match(at(150), tcp, 0, 1); a != "a" || b != "b" || late != "b" {
		t.Errorf("%q %q %q", a, b, late)
	}
	if f.list[0].Matched != 1 || f.list[1].Matched != 3 {
		t.Errorf("%d and %d counted", f.list[0].Matched, f.list[1].Matched)
	}
	if !f.only(at(99)) || f.only(at(100)) {
		t.Error("only the one that says so keeps the others out, until its end")
	}
	if over := f.over(at(100)); len(over) != 1 || over[0] != "a" || len(f.over(at(99))) != 0 || len(f.over(at(200))) != 2 {
		t.Errorf("over: %v", over)
	}
	again, err := newFilters(map[string]*model.Loss_Filter{"b": {EndTime: ygot.Uint64(200), Only: ygot.Bool(false)}, "a": {EndTime: ygot.Uint64(101), Protocol: ygot.Uint8(6)}})
	if err != nil {
		t.Fatal(err)
	}
	again.inherit(f)
	if again.list[0].Matched != 0 || again.list[1].Matched != 3 {
		t.Errorf("after a change: %d and %d", again.list[0].Matched, again.list[1].Matched)
	}
}

func TestFilterRefuses(t *testing.T) {
	for _, tc := range []struct {
		f    model.Loss_Filter
		says string
	}{
		{model.Loss_Filter{}, "no end-time"},
		{model.Loss_Filter{EndTime: ygot.Uint64(1), SourcePrefix: ygot.String("10.0.0.1")}, "source-prefix: \"10.0.0.1\" is no prefix"},
		{model.Loss_Filter{EndTime: ygot.Uint64(1), DestinationPrefix: ygot.String("10.0.0.1/24")}, "do you mean 10.0.0.0/24"},
		{model.Loss_Filter{EndTime: ygot.Uint64(1), SourcePrefix: ygot.String("10.0.0.0/8"), DestinationPrefix: ygot.String("::/0")}, "different families"},
	} {
		if _, err := newFilters(map[string]*model.Loss_Filter{"t": &tc.f}); err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%v, want %q", err, tc.says)
		}
	}
}

func TestDSCP(t *testing.T) {
	for want, header := range map[uint8][]byte{46: {0x45, 46 << 2}, 45: {0x6b, 0x40}, 0: {0x45}, 63: {0x45, 0xff}} {
		if got := dscpOf(header); got != want {
			t.Errorf("% x: %d, want %d", header, got, want)
		}
	}
}
