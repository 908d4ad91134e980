package device

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

func prefixList(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func TestSummarize(t *testing.T) {
	for _, tc := range []struct {
		in      []netip.Prefix
		most    int
		want    []netip.Prefix
		routed  int
		widened bool
	}{
		{nil, 4, nil, 0, false},
		{prefixList("10.0.0.0/8", "10.1.0.0/16", "10.0.0.0/8"), 4, prefixList("10.0.0.0/8"), 2, false},
		{prefixList("10.0.0.0/25", "10.0.0.128/25"), 4, prefixList("10.0.0.0/24"), 2, false},
		{prefixList("10.0.0.3/32", "10.0.0.2/32", "10.0.0.0/32", "10.0.0.1/32"), 4, prefixList("10.0.0.0/30"), 4, false},
		{prefixList("10.0.0.128/25", "10.0.1.0/25"), 4, prefixList("10.0.0.128/25", "10.0.1.0/25"), 2, false}, // neighbours, no halves
		{prefixList("10.0.0.0/24", "10.0.2.0/24", "10.0.5.0/24"), 2, prefixList("10.0.0.0/22", "10.0.4.0/23"), 3, true},
		{prefixList("0.0.0.0/0", "10.0.0.0/8", "::/0", "fd00::/8"), 2, prefixList("0.0.0.0/0", "::/0"), 4, false},
		{prefixList("10.0.0.0/9", "fd00::/64", "fd00:0:0:1::/64"), 4, prefixList("10.0.0.0/9", "fd00::/63"), 3, false},
	} {
		got := summarize(tc.in, tc.most)
		if !slices.Equal(got.list, tc.want) || got.routed != tc.routed || got.widened != tc.widened {
			t.Errorf("%v in %d: %+v, want %v of %d, widened: %v", tc.in, tc.most, got, tc.want, tc.routed, tc.widened)
		}
	}
}

// No address is lost, however few the ranges.
func TestSummarizeHoldsAll(t *testing.T) {
	draw := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var list []netip.Prefix
		for range 1 + draw.IntN(300) {
			a := netip.AddrFrom4([4]byte{10, byte(draw.IntN(4)), byte(draw.IntN(256)), byte(draw.IntN(256))})
			list = append(list, netip.PrefixFrom(a, 8+draw.IntN(25)).Masked())
		}
		list = append(list, prefixList("fd00::/64")...)
		most := 2 + draw.IntN(20)
		got := summarize(list, most).list
		if len(got) > most {
			t.Fatalf("%d ranges, want %d at most", len(got), most)
		}
		for _, p := range list {
			if !slices.ContainsFunc(got, func(g netip.Prefix) bool { return g.Bits() <= p.Bits() && g.Contains(p.Addr()) }) {
				t.Fatalf("%v is in none of %v", p, got)
			}
		}
	}
}
