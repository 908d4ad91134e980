package blame

import (
	"math"
	"slices"
)

// Live holds evidence that comes and goes, and infers from it at any time what
// [Infer] would from the same evidence put together anew. A new lossy flow costs
// no more than the inference: the loss-free traffic is spread over the links only
// when it has changed, and a flow's links are looked up once. What was removed
// leaves no trace. A Live is not safe for use by several goroutines.
type Live struct {
	n    *Network
	o    Options
	m    *rowMaker
	flow map[FlowID]*prepared
	ids  []FlowID // of flow, ascending, and as many at most that are there no more
	next FlowID

	tally   *Tally
	packets traffic // of the tally when it was last spread
	spread  bool

	drops        []Drop
	instrumented []int32
	during       Span
	load         []Load

	rows   []*prepared // scratch
	last   *engine     // whose memory serves the next
	order  []FlowID    // of the flows in the latest result
	result *Result     // nil when evidence changed since
}

// FlowID names a lossy flow within a [Live]. Ids ascend.
type FlowID int64

// NewLive makes one without evidence.
func NewLive(n *Network, o Options) *Live {
	return &Live{n: n, o: o, m: newRowMaker(n), flow: make(map[FlowID]*prepared), tally: NewTally(n)}
}

// Add takes a lossy flow.
func (v *Live) Add(f Flow) FlowID {
	id := v.next
	v.next++
	p := v.m.row(&f)
	v.flow[id] = &p
	v.ids = append(v.ids, id)
	v.result = nil
	return id
}

// Weigh says anew how many packets a flow sent and lost: evidence that grows old
// counts for less. A flow that was added without losses stays without; an id that
// is not there is no error.
func (v *Live) Weigh(id FlowID, packets, lost float64) {
	p := v.flow[id]
	if p == nil || p.hops == 0 || p.total == sane(lost) && p.packets == math.Max(sane(packets), p.total) {
		return
	}
	p.weigh(packets, lost)
	v.result = nil
}

// Date says anew when a flow lost its packets, as [Flow.When]. An id that is not
// there is no error.
func (v *Live) Date(id FlowID, when Span) {
	if p := v.flow[id]; p != nil && p.when != when {
		p.when, v.result = when, nil
	}
}

// weigh sets the packets of a row as [rowMaker.row] does.
func (p *prepared) weigh(packets, lost float64) {
	p.total = sane(lost)
	p.lost, p.packets = math.Min(1, p.total), math.Max(sane(packets), p.total)
}

// Remove forgets a lossy flow: it has grown old, or its vote was withdrawn. An
// id that is not there is no error.
func (v *Live) Remove(id FlowID) {
	if v.flow[id] != nil {
		delete(v.flow, id)
		v.result = nil
		if len(v.ids) > 2*len(v.flow) {
			v.ids = slices.DeleteFunc(v.ids, func(id FlowID) bool { return v.flow[id] == nil })
		}
	}
}

// Flows says how many lossy flows there are.
func (v *Live) Flows() int { return len(v.flow) }

// AddClean counts loss-free packets between two hosts over their ECMP set.
func (v *Live) AddClean(src, dst int32, packets float64) {
	v.tally.Add(src, dst, packets)
	v.spread, v.result = false, nil
}

// RemoveClean takes back what was counted.
func (v *Live) RemoveClean(src, dst int32, packets float64) {
	v.tally.Remove(src, dst, packets)
	v.spread, v.result = false, nil
}

// SetClean replaces all that was counted: a tally of the same network, which
// becomes the Live's own. Where every row has aged, counting them again is
// cheaper than changing each, and exact.
func (v *Live) SetClean(t *Tally) {
	v.tally, v.spread, v.result = t, false, nil
}

// Devices replaces what devices say: their drops, and which of them would have
// reported any.
func (v *Live) Devices(drops []Drop, instrumented []int32) {
	if slices.Equal(v.drops, drops) && slices.Equal(v.instrumented, instrumented) {
		return
	}
	v.drops, v.instrumented, v.result = slices.Clone(drops), slices.Clone(instrumented), nil
}

// Time says when the evidence was, as [Epoch.During], and how its packets, and the
// weights of its losses with them, are spread over that time, as [Epoch.Load].
func (v *Live) Time(during Span, load []Load) {
	if v.during == during && slices.Equal(v.load, load) {
		return
	}
	v.during, v.load, v.result = during, slices.Clone(load), nil
}

// Infer says which components are at fault. [Result.Causes] are of the flows in
// the order of their ids.
func (v *Live) Infer() Result {
	return v.InferOrder(v.ids)
}

// InferOrder is [Live.Infer] with the flows in the order given: to the last bit
// the result of [Infer] on the same flows in this order. It names every flow
// there is, once; ids that are not there are left out, and so are their causes.
// The result is the Live's: change nothing in it.
func (v *Live) InferOrder(ids []FlowID) Result {
	if v.result != nil && slices.Equal(ids, v.order) {
		return *v.result
	}
	if !v.spread {
		v.packets, v.spread = v.tally.traffic(), true
	}
	v.rows = v.rows[:0]
	for _, id := range ids {
		if p := v.flow[id]; p != nil {
			v.rows = append(v.rows, p)
		}
	}
	v.last = assemble(v.n, &Epoch{Drops: v.drops, Instrumented: v.instrumented, During: v.during, Load: v.load}, v.o, v.packets, v.rows, v.last)
	r := v.last.judge()
	v.order, v.result = append(v.order[:0], ids...), &r
	return r
}
