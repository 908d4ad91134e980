package device

import (
	"container/list"
	"time"

	"decaf/api/packet"
)

// repetition thins the events of one class out to those that say something new
// of a flow: the first drop; then, while it goes on, one every so often, with how
// many there were in between; and at last that it stopped. It is not safe for
// concurrent use, and does no I/O but for beyond.
type repetition struct {
	every time.Duration
	room  int // flows
	// What is held back where drops are seen, as [repeating] has it; nil: nothing.
	beyond func(now time.Time, f packet.Flow) (last time.Time, packets uint64, ok bool)
	forget func(f packet.Flow)

	flows     map[packet.Flow]*list.Element // of *repeated
	recent    *list.List                    // the flow dropped longest ago first
	forgotten uint64                        // flows that had to go for lack of room
}

// repeated is a flow that is being dropped.
type repeated struct {
	flow       packet.Flow
	told, seen time.Time
	repeats    uint64 // packets since it was told of
	held       uint64 // of beyond, as last asked
}

func newRepetition(every time.Duration, room int) *repetition {
	return &repetition{every: every, room: room, flows: map[packet.Flow]*list.Element{}, recent: list.New()}
}

// take tells whether a drop of the flow is to have an event, and for how many
// packets before it that event stands too. Then tell or untold is to be called,
// by whether it was reported.
func (r *repetition) take(now time.Time, flow packet.Flow, packets uint64) (news bool, repeats uint64) {
	at := r.flows[flow]
	if at == nil {
		return true, 0
	}
	f := at.Value.(*repeated)
	f.seen = now
	r.recent.MoveToBack(at)
	if now.Sub(f.told) < r.every {
		f.repeats += packets
		return false, 0
	}
	r.ask(now, f)
	return true, f.repeats
}

// ask takes in what was held back of a flow since it was last asked for.
func (r *repetition) ask(now time.Time, f *repeated) {
	if r.beyond == nil {
		return
	}
	last, packets, ok := r.beyond(now, f.flow)
	if !ok {
		return
	}
	if packets < f.held { // forgotten, and counted anew
		f.held = 0
	}
	f.repeats += packets - f.held
	f.held = packets
	if last.After(f.seen) {
		f.seen = last
	}
}

// tell notes that the flow has an event.
func (r *repetition) tell(now time.Time, flow packet.Flow) {
	if at := r.flows[flow]; at != nil {
		f := at.Value.(*repeated)
		f.told, f.seen, f.repeats = now, now, 0
		r.recent.MoveToBack(at)
		return
	}
	if len(r.flows) >= r.room {
		r.remove(r.recent.Front())
		r.forgotten++
	}
	r.flows[flow] = r.recent.PushBack(&repeated{flow: flow, told: now, seen: now})
}

// untold counts a drop that had no event for another reason.
func (r *repetition) untold(flow packet.Flow, packets uint64) {
	if at := r.flows[flow]; at != nil {
		at.Value.(*repeated).repeats += packets
	}
}

// stopped takes out the flows that were not dropped for as long as an event is
// due while they are.
func (r *repetition) stopped(now time.Time) []*repeated {
	var out []*repeated
	for at := r.recent.Front(); at != nil && now.Sub(at.Value.(*repeated).seen) >= r.every; at = r.recent.Front() {
		f := at.Value.(*repeated)
		if r.ask(now, f); now.Sub(f.seen) < r.every {
			r.reorder(at)
			continue
		}
		out = append(out, r.remove(at))
	}
	return out
}

// reorder moves a flow that was dropped later than was known behind those that were
// dropped before it.
func (r *repetition) reorder(at *list.Element) {
	for after := r.recent.Back(); after != at; after = after.Prev() {
		if !after.Value.(*repeated).seen.After(at.Value.(*repeated).seen) {
			r.recent.MoveAfter(at, after)
			return
		}
	}
}

// clear forgets all flows.
func (r *repetition) clear() {
	for r.recent.Len() > 0 {
		r.remove(r.recent.Front())
	}
}

func (r *repetition) remove(at *list.Element) *repeated {
	f := r.recent.Remove(at).(*repeated)
	delete(r.flows, f.flow)
	if r.forget != nil {
		r.forget(f.flow)
	}
	return f
}
