package blame

import "slices"

// Live holds evidence that comes and goes, and infers from it at any time what
// [Infer] would from the same evidence put together anew. A new lossy flow costs
// no more than the inference: the loss-free traffic is spread over the links only
// when it has changed, and a flow's links are looked up once. What was removed
// leaves no trace. A Live is not safe for use by several goroutines.
type Live struct {
	n    *Network
	o    Options
	m    *rowMaker
	flow map[FlowID]prepared
	next FlowID

	tally   *Tally
	packets traffic // of the tally when it was last spread
	spread  bool

	drops        []Drop
	instrumented []int32
}

// FlowID names a lossy flow within a [Live]. Ids ascend.
type FlowID int64

// NewLive makes one without evidence.
func NewLive(n *Network, o Options) *Live {
	return &Live{n: n, o: o, m: newRowMaker(n), flow: make(map[FlowID]prepared), tally: NewTally(n)}
}

// Add takes a lossy flow.
func (v *Live) Add(f Flow) FlowID {
	id := v.next
	v.next++
	v.flow[id] = v.m.row(&f)
	return id
}

// Remove forgets a lossy flow: it has grown old, or its vote was withdrawn. An
// id that is not there is no error.
func (v *Live) Remove(id FlowID) { delete(v.flow, id) }

// Flows says how many lossy flows there are.
func (v *Live) Flows() int { return len(v.flow) }

// AddClean counts loss-free packets between two hosts over their ECMP set.
func (v *Live) AddClean(src, dst int32, packets float64) {
	v.tally.Add(src, dst, packets)
	v.spread = false
}

// RemoveClean takes back what was counted.
func (v *Live) RemoveClean(src, dst int32, packets float64) {
	v.tally.Remove(src, dst, packets)
	v.spread = false
}

// Devices replaces what devices say: their drops, and which of them would have
// reported any.
func (v *Live) Devices(drops []Drop, instrumented []int32) {
	v.drops, v.instrumented = slices.Clone(drops), slices.Clone(instrumented)
}

// Infer says which components are at fault. [Result.Causes] are of the flows in
// the order of their ids.
func (v *Live) Infer() Result {
	if !v.spread {
		v.packets, v.spread = v.tally.traffic(), true
	}
	ids := make([]FlowID, 0, len(v.flow))
	for id := range v.flow {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	rows := make([]prepared, len(ids))
	for i, id := range ids {
		rows[i] = v.flow[id]
	}
	return assemble(v.n, &Epoch{Drops: v.drops, Instrumented: v.instrumented}, v.o, v.packets, rows).infer()
}
