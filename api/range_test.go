package api

import (
	"testing"
	"time"

	"decaf/api/decafpb"
)

func TestRangeOverlaps(t *testing.T) {
	r := Range{From: time.Unix(100, 0), To: time.Unix(200, 0)}
	const s = 1e9
	for _, c := range []struct {
		from, to uint64
		want     bool
	}{
		{100 * s, 100 * s, true}, {199 * s, 199 * s, true},
		{99 * s, 99 * s, false}, {200 * s, 200 * s, false}, // To is exclusive
		{50 * s, 100 * s, true}, {50 * s, 99 * s, false},
		{50 * s, 0, true}, {150 * s, 0, true}, {200 * s, 0, false}, // still going on
		{50 * s, 300 * s, true},
	} {
		if got := r.Overlaps(c.from, c.to); got != c.want {
			t.Errorf("%d..%d: %v", c.from, c.to, got)
		}
	}
	if !(Range{}).Holds(0) || !(Range{}).Overlaps(5, 0) {
		t.Error("the zero range holds all")
	}
}

func TestMatchClass(t *testing.T) {
	for _, c := range []struct {
		asked, class string
		want         bool
	}{{"", "x", true}, {"policy", "policy/l3/acl", true}, {"policy/l3", "policy/l3/acl", true}, {"policy/l3/acl", "policy/l3/acl", true},
		{"pol", "policy/l3", false}, {"policy/l3/acl", "policy/l3", false}} {
		if got := (Range{Class: c.asked}).MatchClass(c.class); got != c.want {
			t.Errorf("%q of %q: %v", c.class, c.asked, got)
		}
	}
}

func TestFlowFilter(t *testing.T) {
	flow := &decafpb.Flow{Src: []byte{10, 0, 0, 1}, SrcPort: 5, Dst: []byte{10, 0, 0, 2}, DstPort: 80, Protocol: 6}
	back := &decafpb.Flow{Src: flow.Dst, SrcPort: flow.DstPort, Dst: flow.Src, DstPort: flow.SrcPort, Protocol: 6}
	for _, c := range []struct {
		f    FlowFilter
		want bool
	}{
		{FlowFilter{}, true},
		{FlowFilter{Src: prefixes("10.0.0.1/32")}, true},
		{FlowFilter{Src: prefixes("10.0.0.9/32", "10.0.0.1/32")}, true},
		{FlowFilter{Src: prefixes("10.0.0.1/32"), SrcPort: 80}, false}, // the port is at src's end
		{FlowFilter{Src: prefixes("10.0.0.2/32"), SrcPort: 80}, true},
		{FlowFilter{Src: prefixes("10.0.0.1/32"), Dst: prefixes("10.0.0.2/32"), DstPort: 80}, true},
		{FlowFilter{Src: prefixes("10.0.0.1/32"), Dst: prefixes("10.0.0.3/32")}, false},
		{FlowFilter{Src: prefixes("10.0.0.0/31"), Dst: prefixes("10.0.0.2/31")}, true},
		{FlowFilter{Src: prefixes("10.0.0.2/31"), SrcPort: 5}, false},
		{FlowFilter{Src: prefixes("2001:db8::/32")}, false},
		{FlowFilter{DstPort: 80}, true},
		{FlowFilter{DstPort: 81}, false},
	} {
		if c.f.Match(flow) != c.want || c.f.Match(back) != c.want {
			t.Errorf("%+v: %v, back %v, want %v", c.f, c.f.Match(flow), c.f.Match(back), c.want)
		}
	}
	if (FlowFilter{SrcPort: 1}).Match(nil) || !(FlowFilter{}).Match(nil) {
		t.Error("a packet that is not known matches only the zero filter")
	}
}

func FuzzParseTime(f *testing.F) {
	for _, s := range []string{"", "now", "-5m", "now-1h30m", "2026", "2026-01-31", "2026-01-31T08:00:00+02:00", "1769860800", "1e300", "-1e99y", "Z", "+00:00", "0-0:00-00:0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if at, err := parseTime(s, noon); err == nil && at.UnixNano() < 0 {
			t.Errorf("%q is %s", s, at)
		}
	})
}
