package device

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"decaf/api/decafpb"
	"decaf/api/packet"
	"decaf/api/yang"
)

// drop is what the engines of both streams need to know of a dropped packet.
type drop struct {
	class, reason   string
	ingress, egress string
	packets, bytes  uint64      // on the wire: a segmentation offload packet is several
	flow            packet.Flow // zero when it shows none
	filter          string      // that it matches; "" is none
	sketched        bool        // the flows of these are told of later (attribute)
}

// outcome is what becomes of a drop's event.
type outcome uint8

const (
	reported      outcome = iota
	overThreshold         // the class's rate is above its threshold
	overFuse              // the fuse allows less than all events
	overQueue             // no room between where drops are seen and the agent
	duplicate             // the flow had an event already
	unfiltered            // events are for drops that match a filter, and this does not
)

// suppress counts drops that have no event.
func suppress(s *yang.Suppressed, o outcome, n uint64) {
	switch o {
	case overThreshold:
		s.Threshold += n
	case overFuse:
		s.Fuse += n
	case overQueue:
		s.Queue += n
	case duplicate:
		s.Duplicate += n
	case unfiltered:
		s.Filter += n
	}
}

const (
	// hitters are the flows, and the prefixes each way, that an aggregate keeps
	// count of: what it tells is too high by 1/hitters of its packets at most.
	hitters = 200
	// topShare is the share of an aggregate's packets from which on a flow or
	// prefix is told of for certain; it must be more than 1/hitters. topMore is
	// how many are told of anyway.
	topShare = 0.01
	topMore  = 10
)

// AggregatesConfig is how loss aggregates are made.
type AggregatesConfig struct {
	// PrefixV4 and PrefixV6 are the lengths of the prefixes that are counted.
	PrefixV4 int `yaml:"prefix_v4"`
	PrefixV6 int `yaml:"prefix_v6"`
	// Open is how many may be open at a time, of all classes and interfaces: one
	// takes some 100 kB in a flood. Drops at further interfaces are counted, with
	// their flows, in one aggregate for each class, which has no interfaces.
	Open int `yaml:"open"`
}

// maxOpen bounds AggregatesConfig.Open: some 1.6 GB.
const maxOpen = 16384

func defaultAggregates() AggregatesConfig {
	return AggregatesConfig{PrefixV4: 24, PrefixV6: 48, Open: 256}
}

func (c AggregatesConfig) validate() error {
	switch {
	case c.PrefixV4 < 0 || c.PrefixV4 > 32:
		return fmt.Errorf("prefix_v4 %d: give a prefix length from 0 to 32", c.PrefixV4)
	case c.PrefixV6 < 0 || c.PrefixV6 > 128:
		return fmt.Errorf("prefix_v6 %d: give a prefix length from 0 to 128", c.PrefixV6)
	case c.Open < 1 || c.Open > maxOpen:
		return fmt.Errorf("open %d: give a number of aggregates from 1 to %d, 256 or more for a device of some interfaces", c.Open, maxOpen)
	}
	return nil
}

// aggregateKey is what drops are counted by.
type aggregateKey struct{ class, ingress, egress string }

// aggregate counts the drops of one class and interface over one interval.
type aggregate struct {
	aggregateKey
	start, end   time.Time // as the engine's clock counts
	startNs      uint64    // time of day
	reason       string
	packets      uint64
	bytes        uint64
	events       uint64
	suppressed   yang.Suppressed
	unattributed uint64
	// packets whose flows are still to be told of, by where they were dropped: in
	// several places where there was no room to tell those apart
	sketched map[aggregateKey]uint64

	flows                 *heavy[packet.Flow]
	held                  attribution // of the sketched ones
	sources, destinations *heavy[netip.Prefix]
}

// prefixLength is the length of the prefixes that are counted, by family.
type prefixLength struct{ v4, v6 int }

// aggregates counts drops by class and interface over intervals, always: what
// becomes of a drop's event is counted with it. It does no I/O; a clock that
// jumps does not disturb it as long as the times given have a monotonic part.
type aggregates struct {
	room   int
	length prefixLength
	base   time.Time // intervals begin at whole multiples since then
	open   map[aggregateKey]*aggregate
	closed []*aggregate
	merged uint64 // packets counted without their interfaces, for lack of room
}

func newAggregates(room int, length prefixLength, base time.Time) *aggregates {
	return &aggregates{room: room, length: length, base: base, open: map[aggregateKey]*aggregate{}}
}

// add counts a drop and what becomes of its event.
func (a *aggregates) add(now time.Time, interval time.Duration, d *drop, o outcome) {
	g := a.at(now, interval, aggregateKey{d.class, d.ingress, d.egress}, d.packets)
	g.count(d.reason, d.packets, d.bytes)
	if o == reported {
		g.events++
	} else {
		suppress(&g.suppressed, o, 1)
	}
	if !d.flow.Src.IsValid() {
		g.unattributed += d.packets
		return
	}
	g.flows.add(d.flow, d.packets)
	g.sources.add(a.prefix(d.flow.Src.Addr()), d.packets)
	g.destinations.add(a.prefix(d.flow.Dst.Addr()), d.packets)
}

// unseen counts drops that were counted where they are seen, so many of them
// without an event, and whose headers nobody looked at. d has their packets and
// bytes together.
func (a *aggregates) unseen(now time.Time, interval time.Duration, d *drop, drops uint64, o outcome) {
	key := aggregateKey{d.class, d.ingress, d.egress}
	g := a.at(now, interval, key, d.packets)
	g.count(d.reason, d.packets, d.bytes)
	suppress(&g.suppressed, o, drops)
	if d.sketched {
		if g.sketched == nil {
			g.sketched = map[aggregateKey]uint64{}
		}
		g.sketched[key] += d.packets // bounded by the causes that the source tells apart
	} else {
		g.unattributed += d.packets
	}
}

// attribute gives sketched packets to their flows. Their prefixes get what is
// certain; what is not stays unattributed.
func (a *aggregates) attribute(f *heldFlows) {
	for _, g := range a.all() {
		var n uint64
		packets, least := map[aggregateKey]uint64{}, map[packet.Flow]uint64{}
		for key, of := range g.sketched {
			known := f.least[key]
			if known == nil || of == 0 {
				continue
			}
			for flow, sure := range known {
				least[flow] += min(sure, of)
			}
			packets[key] = of
			n += of
			f.least[key] = map[packet.Flow]uint64{} // certain of one of them only
			delete(g.sketched, key)
		}
		if n == 0 {
			continue
		}
		// In each place a flow had no more packets than all.
		var rest uint64
		for key, of := range packets {
			rest += min(f.rest(key), of)
		}
		certain := g.held.add(n, least, slices.Collect(maps.Keys(g.flows.kept)), func(flow packet.Flow) (most uint64) {
			for key, of := range packets {
				most += min(f.most(key, flow), of)
			}
			return most
		}, rest)
		var sum uint64
		for flow, packets := range certain {
			g.sources.add(a.prefix(flow.Src.Addr()), packets)
			g.destinations.add(a.prefix(flow.Dst.Addr()), packets)
			sum += packets
		}
		g.sources.total += n - sum
		g.destinations.total += n - sum
		g.unattributed += n - sum
	}
}

// all lists the aggregates that are not taken out yet, the closed ones first.
func (a *aggregates) all() []*aggregate {
	return slices.AppendSeq(slices.Clone(a.closed), maps.Values(a.open))
}

// sketchedUntil returns the end of the first aggregate, among those over by now,
// whose sketched packets are still to be attributed.
func (a *aggregates) sketchedUntil(now time.Time) (end time.Time, ok bool) {
	for _, g := range a.all() {
		if len(g.sketched) > 0 && !now.Before(g.end) && (!ok || g.end.Before(end)) {
			end, ok = g.end, true
		}
	}
	return end, ok
}

func (g *aggregate) count(reason string, packets, bytes uint64) {
	if g.packets == 0 {
		g.reason = reason
	} else if g.reason != reason {
		g.reason = "" // several
	}
	g.packets += packets
	g.bytes += bytes
}

func (a *aggregates) prefix(addr netip.Addr) netip.Prefix {
	bits := a.length.v6
	if addr.Is4() {
		bits = a.length.v4
	}
	p, _ := addr.Prefix(bits) // the length was checked with the configuration
	return p
}

// at returns the aggregate of the present interval.
func (a *aggregates) at(now time.Time, interval time.Duration, key aggregateKey, packets uint64) *aggregate {
	g := a.open[key]
	if g == nil && len(a.open) >= a.room && (key.ingress != "" || key.egress != "") {
		// Not known where, then: there is one such per class.
		key.ingress, key.egress = "", ""
		g = a.open[key]
		a.merged += packets
	}
	if g != nil && now.Before(g.start) { // told of late
		for _, c := range a.closed {
			if c.aggregateKey == key && !now.Before(c.start) && now.Before(c.end) {
				return c
			}
		}
	}
	if g != nil && !now.Before(g.end) {
		a.closed = append(a.closed, g)
		g = nil
	}
	if g == nil {
		since := max(now.Sub(a.base), 0)
		offset := since % interval
		g = &aggregate{
			aggregateKey: key,
			start:        now.Add(-offset), end: now.Add(interval - offset),
			startNs: uint64(now.UnixNano() - int64(offset)),
			flows:   newHeavy[packet.Flow](hitters), sources: newHeavy[netip.Prefix](hitters), destinations: newHeavy[netip.Prefix](hitters),
		}
		a.open[key] = g
	}
	return g
}

// due takes out the aggregates whose interval is over, the earliest first.
func (a *aggregates) due(now time.Time) []*aggregate {
	for key, g := range a.open {
		if !now.Before(g.end) {
			a.closed = append(a.closed, g)
			delete(a.open, key)
		}
	}
	out := a.closed
	a.closed = nil
	slices.SortStableFunc(out, func(x, y *aggregate) int {
		return cmp.Or(x.end.Compare(y.end), cmp.Compare(x.class, y.class), cmp.Compare(x.ingress, y.ingress), cmp.Compare(x.egress, y.egress))
	})
	return out
}

// flush takes out all of them; those whose interval is not over end now.
func (a *aggregates) flush(now time.Time) []*aggregate {
	for g := range maps.Values(a.open) {
		if g.end.After(now) {
			g.end = now
		}
	}
	return a.due(now)
}

// topFlows puts together what is known of flows by records and by sketches.
func (g *aggregate) topFlows() []hitter[packet.Flow] {
	if g.held.packets == 0 {
		return g.flows.top(topShare, topMore)
	}
	keys := maps.Clone(g.held.flows)
	for flow := range g.flows.kept {
		keys[flow] = g.held.of(flow)
	}
	var list []hitter[packet.Flow]
	for flow, held := range keys {
		packets, err := g.flows.of(flow)
		list = append(list, hitter[packet.Flow]{key: flow, packets: packets + held.most, err: err + held.most - held.least})
	}
	slices.SortFunc(list, func(x, y hitter[packet.Flow]) int { return compareFlows(x.key, y.key) })
	return top(list, topShare*float64(g.flows.total+g.held.packets), topMore)
}

// wire returns the aggregate as it is sent, without its origin.
func (g *aggregate) wire() yang.Aggregate {
	unattributed := g.unattributed
	for _, packets := range g.sketched {
		unattributed += packets
	}
	out := yang.Aggregate{
		LossAggregate: &decafpb.LossAggregate{
			StartNs: g.startNs,
			EndNs:   g.startNs + uint64(max(g.end.Sub(g.start), 0)),
			Class:   g.class, Reason: g.reason, Ingress: g.ingress, Egress: g.egress,
			Packets: g.packets, Bytes: g.bytes,
			SuppressedThreshold: g.suppressed.Threshold, SuppressedFuse: g.suppressed.Fuse, SuppressedQueue: g.suppressed.Queue,
		},
		Events: g.events, Suppressed: g.suppressed, Unattributed: unattributed,
	}
	for _, h := range g.topFlows() {
		out.TopFlows = append(out.TopFlows, &decafpb.FlowCount{Flow: h.key.PB(), Packets: h.packets, PacketsError: h.err})
	}
	for _, side := range []struct {
		source bool
		of     *heavy[netip.Prefix]
	}{{true, g.sources}, {false, g.destinations}} {
		for _, h := range side.of.top(topShare, topMore) {
			out.TopPrefixes = append(out.TopPrefixes, &decafpb.PrefixCount{
				Prefix: &decafpb.Prefix{Address: h.key.Addr().AsSlice(), Length: uint32(h.key.Bits())},
				Source: side.source, Packets: h.packets, PacketsError: h.err,
			})
		}
	}
	return out
}
