package device

import (
	"cmp"
	"net/netip"
	"slices"

	"decaf/api/decafpb"
)

// maxEventPrefixes bounds the address ranges that an event lists.
const maxEventPrefixes = 64

// ranges are the addresses routed over an interface, in few prefixes.
type ranges struct {
	list    []netip.Prefix
	routed  int  // prefixes that there are, each once
	widened bool // the list has addresses that none of them has, for lack of room
}

// summarize returns at most so many prefixes (two or more) that hold all of those
// given, in order. Those that lie in another are left out and the halves of a
// range joined; where they are too many still, ranges are widened, the longest
// first, until they are few enough: none is lost.
func summarize(list []netip.Prefix, most int) ranges {
	out := make([]netip.Prefix, 0, len(list))
	for _, p := range list {
		out = append(out, p.Masked())
	}
	slices.SortFunc(out, comparePrefixes)
	out = slices.Compact(out)
	r := ranges{routed: len(out)}
	out = joinedPrefixes(out)
	for len(out) > most {
		longest := 0
		for _, p := range out {
			longest = max(longest, p.Bits())
		}
		if longest == 0 {
			break
		}
		r.widened = true
		for i, p := range out {
			if p.Bits() == longest {
				out[i] = netip.PrefixFrom(p.Addr(), longest-1).Masked()
			}
		}
		out = joinedPrefixes(out)
	}
	r.list = out
	return r
}

// joinedPrefixes leaves out prefixes that lie in another and joins two halves of a range,
// until there are none.
func joinedPrefixes(list []netip.Prefix) []netip.Prefix {
	slices.SortFunc(list, comparePrefixes)
	out := list[:0]
	for _, p := range list {
		if len(out) > 0 && out[len(out)-1].Overlaps(p) {
			continue // the one before begins earlier and is no longer
		}
		out = append(out, p)
		for len(out) >= 2 {
			a, b := out[len(out)-2], out[len(out)-1]
			if a.Bits() != b.Bits() || a.Bits() == 0 {
				break
			}
			whole := netip.PrefixFrom(a.Addr(), a.Bits()-1).Masked()
			if whole.Addr() != a.Addr() || !whole.Overlaps(b) {
				break
			}
			out = append(out[:len(out)-2], whole)
		}
	}
	return out
}

// comparePrefixes orders by address, the wider first.
func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

func prefixPB(p netip.Prefix) *decafpb.Prefix {
	return &decafpb.Prefix{Address: p.Addr().AsSlice(), Length: uint32(p.Bits())}
}
