package yang

import (
	"fmt"
	"net/netip"
	"strconv"

	"decaf/api/decafpb"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/protobuf/proto"
)

// MaxRanks bounds the flows, and the prefixes, of one aggregate.
const MaxRanks = 1024

// Aggregate is a loss aggregate and what its wire record has no field for.
// Suppressed holds the counts of why; those fields of the wire record are set
// by DecodeAggregate and not read by AggregateUpdates.
type Aggregate struct {
	*decafpb.LossAggregate
	Events       uint64 // reported one by one
	Suppressed   Suppressed
	Unattributed uint64 // packets whose headers were not looked at: any flow may have so many more
}

// aggregate is an aggregate with the numbers that only its device knows.
type aggregate struct {
	Aggregate
	slot, sequence, bootID uint64
}

var aggregateLeaves = within("state", append([]leaf[aggregate]{
	{name: "slot", typ: Uint64, always: true,
		getUint: func(a *aggregate) uint64 { return a.slot },
		setUint: func(a *aggregate, v uint64) { a.slot = v }},
	{name: "sequence", typ: Uint64, always: true,
		getUint: func(a *aggregate) uint64 { return a.sequence },
		setUint: func(a *aggregate, v uint64) { a.sequence = v }},
	{name: "boot-id", typ: Uint64, always: true,
		getUint: func(a *aggregate) uint64 { return a.bootID },
		setUint: func(a *aggregate, v uint64) { a.bootID = v }},
	{name: "start", typ: Uint64, always: true,
		getUint: func(a *aggregate) uint64 { return a.StartNs },
		setUint: func(a *aggregate, v uint64) { a.StartNs = v }},
	{name: "end", typ: Uint64, always: true,
		getUint: func(a *aggregate) uint64 { return a.EndNs },
		setUint: func(a *aggregate, v uint64) { a.EndNs = v }},
	{name: "class", typ: String, always: true,
		getString: func(a *aggregate) string { return a.Class },
		setString: func(a *aggregate, v string) error { a.Class = v; return nil }},
	{name: "reason", typ: String,
		getString: func(a *aggregate) string { return a.Reason },
		setString: func(a *aggregate, v string) error { a.Reason = v; return nil }},
	{name: "ingress-interface", typ: String,
		getString: func(a *aggregate) string { return a.Ingress },
		setString: func(a *aggregate, v string) error { a.Ingress = v; return nil }},
	{name: "egress-interface", typ: String,
		getString: func(a *aggregate) string { return a.Egress },
		setString: func(a *aggregate, v string) error { a.Egress = v; return nil }},
	{name: "packets", typ: Uint64, always: true,
		getUint: func(a *aggregate) uint64 { return a.Packets },
		setUint: func(a *aggregate, v uint64) { a.Packets = v }},
	{name: "bytes", typ: Uint64, always: true,
		getUint: func(a *aggregate) uint64 { return a.Bytes },
		setUint: func(a *aggregate, v uint64) { a.Bytes = v }},
	{name: "events", typ: Uint64, always: true,
		getUint: func(a *aggregate) uint64 { return a.Events },
		setUint: func(a *aggregate, v uint64) { a.Events = v }},
	{name: "unattributed", typ: Uint64, always: true,
		getUint: func(a *aggregate) uint64 { return a.Unattributed },
		setUint: func(a *aggregate, v uint64) { a.Unattributed = v }},
}, suppressedLeaves(func(a *aggregate) *Suppressed { return &a.Suppressed })...))

// flowCount and prefixCount are a wire record and its rank.
type flowCount struct {
	*decafpb.FlowCount
	rank uint64
}

type prefixCount struct {
	*decafpb.PrefixCount
	rank uint64
}

func (c *flowCount) flow() *decafpb.Flow {
	if c.Flow == nil {
		c.Flow = &decafpb.Flow{}
	}
	return c.Flow
}

var flowLeaves = within("state", append(append([]leaf[flowCount]{
	{name: "rank", typ: Uint, always: true,
		getUint: func(c *flowCount) uint64 { return c.rank },
		setUint: func(c *flowCount, v uint64) { c.rank = v }},
}, fiveTuple(func(c *flowCount) *decafpb.Flow { return c.Flow }, (*flowCount).flow)...), []leaf[flowCount]{
	{name: "packets", typ: Uint64, always: true,
		getUint: func(c *flowCount) uint64 { return c.Packets },
		setUint: func(c *flowCount, v uint64) { c.Packets = v }},
	{name: "packets-error", typ: Uint64, always: true,
		getUint: func(c *flowCount) uint64 { return c.PacketsError },
		setUint: func(c *flowCount, v uint64) { c.PacketsError = v }},
}...))

var prefixLeaves = within("state", []leaf[prefixCount]{
	{name: "rank", typ: Uint, always: true,
		getUint: func(c *prefixCount) uint64 { return c.rank },
		setUint: func(c *prefixCount, v uint64) { c.rank = v }},
	{name: "prefix", typ: String,
		getString: func(c *prefixCount) string { return prefixString(c.Prefix) },
		setString: func(c *prefixCount, v string) (err error) { c.Prefix, err = prefixOf(v); return err }},
	{name: "direction", typ: String,
		getString: func(c *prefixCount) string {
			if c.Source {
				return "source"
			}
			return "destination"
		},
		setString: func(c *prefixCount, v string) error {
			if v != "source" && v != "destination" {
				return fmt.Errorf("%q is neither source nor destination", v)
			}
			c.Source = v == "source"
			return nil
		}},
	{name: "packets", typ: Uint64, always: true,
		getUint: func(c *prefixCount) uint64 { return c.Packets },
		setUint: func(c *prefixCount, v uint64) { c.Packets = v }},
	{name: "packets-error", typ: Uint64, always: true,
		getUint: func(c *prefixCount) uint64 { return c.PacketsError },
		setUint: func(c *prefixCount, v uint64) { c.PacketsError = v }},
})

// fiveTuple are the leaves of a flow; read may return nil, write never does.
func fiveTuple[T any](read, write func(*T) *decafpb.Flow) []leaf[T] {
	return []leaf[T]{
		{name: "source-address", typ: String,
			getString: func(r *T) string { return addressString(read(r).GetSrc()) },
			setString: func(r *T, v string) (err error) { write(r).Src, err = addressBytes(v); return err }},
		{name: "destination-address", typ: String,
			getString: func(r *T) string { return addressString(read(r).GetDst()) },
			setString: func(r *T, v string) (err error) { write(r).Dst, err = addressBytes(v); return err }},
		{name: "protocol", typ: Uint, max: 255,
			getUint: func(r *T) uint64 { return uint64(read(r).GetProtocol()) },
			setUint: func(r *T, v uint64) { write(r).Protocol = uint32(v) }},
		{name: "source-port", typ: Uint, max: 65535,
			getUint: func(r *T) uint64 { return uint64(read(r).GetSrcPort()) },
			setUint: func(r *T, v uint64) { write(r).SrcPort = uint32(v) }},
		{name: "destination-port", typ: Uint, max: 65535,
			getUint: func(r *T) uint64 { return uint64(read(r).GetDstPort()) },
			setUint: func(r *T, v uint64) { write(r).DstPort = uint32(v) }},
	}
}

func prefixString(p *decafpb.Prefix) string {
	a, ok := netip.AddrFromSlice(p.GetAddress())
	if !ok || p.GetLength() > uint32(a.BitLen()) {
		return ""
	}
	return netip.PrefixFrom(a, int(p.GetLength())).String()
}

func prefixOf(s string) (*decafpb.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return nil, err
	}
	return &decafpb.Prefix{Address: p.Addr().AsSlice(), Length: uint32(p.Bits())}, nil
}

// AggregateUpdates returns the aggregate as one atomic notification with the
// end of its interval as timestamp: prefix
// /loss/aggregates/aggregate[slot=N], leaves relative to it. The sequence is
// the aggregate's Origin.Seq. Of more than MaxRanks flows or prefixes the first
// are sent.
func AggregateUpdates(agg Aggregate, slot, bootID uint64) *gnmipb.Notification {
	a := &aggregate{Aggregate: agg, slot: slot, sequence: agg.GetOrigin().GetSeq(), bootID: bootID}
	prefix := statePath("aggregates", "aggregate", "slot", strconv.FormatUint(slot, 10))
	prefix.Elem = prefix.Elem[:len(prefix.Elem)-1] // all of the entry
	n := &gnmipb.Notification{Timestamp: int64(agg.GetEndNs()), Prefix: prefix, Atomic: true}
	n.Update = encode(n.Update, aggregateLeaves, a)
	for i, c := range agg.GetTopFlows()[:min(len(agg.GetTopFlows()), MaxRanks)] {
		n.Update = encodeRank(n.Update, flowLeaves, &flowCount{c, uint64(i + 1)}, "flows", "flow", i+1)
	}
	for i, c := range agg.GetTopPrefixes()[:min(len(agg.GetTopPrefixes()), MaxRanks)] {
		n.Update = encodeRank(n.Update, prefixLeaves, &prefixCount{c, uint64(i + 1)}, "prefixes", "prefix", i+1)
	}
	return n
}

// encodeRank is encode for an entry of a list by rank.
func encodeRank[T any](out []*gnmipb.Update, table []leaf[T], rec *T, container, list string, rank int) []*gnmipb.Update {
	first := len(out)
	out = encode(out, table, rec)
	at := []*gnmipb.PathElem{{Name: container}, {Name: list, Key: map[string]string{"rank": strconv.Itoa(rank)}}}
	for _, u := range out[first:] {
		u.Path = &gnmipb.Path{Elem: append(at[:2:2], u.Path.Elem...)} // the table's path stays as it is
	}
	return out
}

// DecodeAggregate turns a notification of AggregateUpdates, in any encoding,
// back. It reports false, without error, for a notification about something
// else. Origin has the boot id and the sequence, and Producer from the prefix's
// target, if there is one. An aggregate without sequence, boot id or class (a
// subscription to some of its leaves) is an error, as are values of the wrong
// type or range and ranks with a hole before them.
func DecodeAggregate(n *gnmipb.Notification) (*Aggregate, bool, error) {
	a := &aggregate{Aggregate: Aggregate{LossAggregate: &decafpb.LossAggregate{}}}
	slot, is, err := decodeBy(inside, n, "aggregates", "aggregate", "slot", func(path []*gnmipb.PathElem, v *gnmipb.TypedValue) error {
		switch {
		case len(path) == 2 && path[0].GetName() == "state":
			return setLeaf(aggregateLeaves, path[1].GetName(), a, v)
		case len(path) == 4 && path[0].GetName() == "flows" && path[2].GetName() == "state":
			c, err := atRank(&a.TopFlows, path[1])
			if err != nil {
				return err
			}
			return setLeaf(flowLeaves, path[3].GetName(), &flowCount{FlowCount: c}, v)
		case len(path) == 4 && path[0].GetName() == "prefixes" && path[2].GetName() == "state":
			c, err := atRank(&a.TopPrefixes, path[1])
			if err != nil {
				return err
			}
			return setLeaf(prefixLeaves, path[3].GetName(), &prefixCount{PrefixCount: c}, v)
		}
		return nil
	})
	if err != nil || !is {
		return nil, is, err
	}
	switch {
	case a.sequence == 0:
		return nil, true, fmt.Errorf("aggregate in slot %s has no sequence: subscribe to whole aggregates", slot)
	case a.bootID == 0:
		return nil, true, fmt.Errorf("aggregate in slot %s has no boot-id: subscribe to whole aggregates", slot)
	case a.Class == "":
		return nil, true, fmt.Errorf("aggregate in slot %s has no class: subscribe to whole aggregates", slot)
	}
	for _, c := range a.TopFlows { // leaves that say "not known" in so many words make no flow
		if proto.Size(c.Flow) == 0 {
			c.Flow = nil
		}
	}
	a.SuppressedThreshold, a.SuppressedFuse, a.SuppressedQueue = a.Suppressed.Threshold, a.Suppressed.Fuse, a.Suppressed.Queue
	a.SuppressedDuplicate, a.SuppressedFilter = a.Suppressed.Duplicate, a.Suppressed.Filter
	a.Origin = &decafpb.Origin{Producer: n.GetPrefix().GetTarget(), BootId: a.bootID, Seq: a.sequence}
	return &a.Aggregate, true, nil
}

// setLeaf sets a leaf of a record; one that a later revision has is passed over.
func setLeaf[T any](table []leaf[T], name string, rec *T, v *gnmipb.TypedValue) error {
	if l := find(table, name); l != nil {
		return l.set(rec, v)
	}
	return nil
}

// atRank returns the entry of that rank, made when it is the next.
func atRank[T any](list *[]*T, e *gnmipb.PathElem) (*T, error) {
	rank, err := strconv.Atoi(e.GetKey()["rank"])
	switch {
	case err != nil || rank < 1 || rank > MaxRanks:
		return nil, fmt.Errorf("%s with rank %q: want 1 to %d", e.GetName(), e.GetKey()["rank"], MaxRanks)
	case rank > len(*list)+1:
		return nil, fmt.Errorf("%s with rank %d, and none with rank %d", e.GetName(), rank, len(*list)+1)
	case rank == len(*list)+1:
		*list = append(*list, new(T))
	}
	return (*list)[rank-1], nil
}
