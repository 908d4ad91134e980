package api

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"decaf/api/decafpb"
)

// Range says which part of the evidence is asked for. The zero value asks for
// all there is.
type Range struct {
	From, To  time.Time // From inclusive, To exclusive; zero: open on that side
	Limit     int       // rows at most, 0: no limit
	Component string    // exact name, "link a>b", "device d", "host h"; empty: any
	Class     string    // a class or one above it, "policy/l3"; empty: any
	Flow      FlowFilter
	Host      string                   // who tells of it, a host of the topology; empty: any
	Port      uint16                   // at either end; 0: any
	State     decafpb.FlowRecord_State // of a connection; unspecified: any
	Trouble   bool                     // only what shows trouble: see [FlowRow]
	Sort      Order                    // what comes first
	// Omitted, if not nil, is where Omit counts; the API sets it.
	Omitted *int
}

// Order is by what connections and services are sorted, the most first.
type Order string

// The orders; the zero value is as the first.
const (
	ByRetransmits Order = "retransmits"
	ByLoss        Order = "loss" // share of the segments that were sent again
	ByRTT         Order = "rtt"  // mean
	ByBytes       Order = "bytes"
	ByZeroWindow  Order = "zero-window"
	ByNewest      Order = "newest"
)

// Orders are all of them.
func Orders() []string {
	return []string{string(ByRetransmits), string(ByLoss), string(ByRTT), string(ByBytes), string(ByZeroWindow), string(ByNewest)}
}

// Omit tells that n rows that were asked for were left out because of Limit.
func (r Range) Omit(n int) {
	if r.Omitted != nil && n > 0 {
		*r.Omitted += n
	}
}

// Holds tells if a moment, in nanoseconds since the Unix epoch, is in the range.
func (r Range) Holds(ns uint64) bool { return r.Overlaps(ns, ns) }

// Overlaps tells if the time from..to (both inclusive, in nanoseconds since
// the Unix epoch; to 0: still going on) has a moment in common with the range.
func (r Range) Overlaps(from, to uint64) bool {
	if !r.To.IsZero() && (r.To.UnixNano() <= 0 || from >= uint64(r.To.UnixNano())) {
		return false
	}
	if !r.From.IsZero() && to != 0 && r.From.UnixNano() > 0 && to < uint64(r.From.UnixNano()) {
		return false
	}
	return true
}

// MatchComponent tells if any of the names is the one asked for. A finding on
// a device also answers for its links only if the backend says so by giving
// both names.
func (r Range) MatchComponent(names ...string) bool {
	if r.Component == "" {
		return true
	}
	for _, n := range names {
		if n == r.Component {
			return true
		}
	}
	return false
}

// MatchClass tells if class is the one asked for or below it: "policy" holds
// "policy/l3/acl" and "policy/l3" does, "pol" does not.
func (r Range) MatchClass(class string) bool {
	return r.Class == "" || class == r.Class || strings.HasPrefix(class, r.Class+"/")
}

// FlowFilter asks for the packets of some conversations, in either direction.
// A zero field holds for any.
type FlowFilter struct {
	Src, Dst         []netip.Prefix // one end and the other: any of these, as the addresses of a host
	SrcPort, DstPort uint16         // at the end that Src and Dst name
}

// IsZero tells if every flow matches.
func (f FlowFilter) IsZero() bool {
	return len(f.Src) == 0 && len(f.Dst) == 0 && f.SrcPort == 0 && f.DstPort == 0
}

// Match tells if flow, or its reverse, is asked for. A nil flow matches only
// the zero filter.
func (f FlowFilter) Match(flow *decafpb.Flow) bool {
	if f.IsZero() {
		return true
	}
	src, okSrc := netip.AddrFromSlice(flow.GetSrc())
	dst, okDst := netip.AddrFromSlice(flow.GetDst())
	return okSrc && okDst && f.MatchEnds(
		netip.AddrPortFrom(src.Unmap(), uint16(flow.GetSrcPort())), netip.AddrPortFrom(dst.Unmap(), uint16(flow.GetDstPort())))
}

// MatchEnds is Match of a flow between two ends, whose addresses are unmapped.
func (f FlowFilter) MatchEnds(a, b netip.AddrPort) bool {
	end := func(ranges []netip.Prefix, port uint16, at netip.AddrPort) bool {
		return (port == 0 || port == at.Port()) &&
			(len(ranges) == 0 || slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(at.Addr()) }))
	}
	return end(f.Src, f.SrcPort, a) && end(f.Dst, f.DstPort, b) || end(f.Src, f.SrcPort, b) && end(f.Dst, f.DstPort, a)
}
