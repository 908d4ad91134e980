package correlator

import (
	"fmt"
	"slices"
	"strings"

	"decaf/api/decafpb"
)

// A device that shows no drops has dropped nothing only if it would have told of
// them. Whether it would, its heartbeats say.

// Heartbeat counters of drops that no event and no aggregate tells of.
const (
	counterUncounted = "drops_uncounted" // while the fuse was off for their class
	counterMissed    = "drops_missed"    // nobody looked at them
)

// missedFew is how many drops a device may miss from one heartbeat to the next
// before its silence means nothing: a kernel under load misses one now and then, for
// all the devices that share it, and what a fault drops is more.
const missedFew = 10

// What a device's fuse allows of the whole agent, as far as it matters here: with
// less than all events the aggregates tell the rest, see [Store.AddAggregate].
const (
	fuseFull     = "full"
	fuseCounters = "counters"
	fuseOff      = "off"
)

// blindness is a time in which a device did not tell of all that it dropped.
type blindness struct {
	from, to int64 // ns, both within
	why      string
}

// blindBy says why a device with this heartbeat does not tell of all drops; "" if
// it does.
func blindBy(h *decafpb.Heartbeat) string {
	switch list := h.GetUnreported(); {
	case h.GetFuse() == fuseOff:
		return "its fuse is off: it counts no drops"
	case h.GetFuse() == fuseCounters:
		return "its fuse allows counters only: it tells of no drops"
	case len(list) > 2:
		return fmt.Sprintf("it does not tell of drops of class %s and %d more", list[0], len(list)-1)
	case len(list) > 0:
		return "it does not tell of drops of class " + strings.Join(list, " and ")
	}
	return ""
}

// testify takes what a heartbeat says of the time since the one before.
func (p *presence) testify(h *decafpb.Heartbeat, boot uint64, at int64) {
	before, why := p.blindNow, blindBy(h)
	p.blindNow, p.fuse, p.unreported = why, h.GetFuse(), h.GetUnreported()
	if p.last == 0 {
		return
	}
	rose := func(counter string, by uint64) bool { return h.GetCounters()[counter] >= p.counters[counter]+by }
	switch {
	case why != "":
	case before != "":
		why = before
	case boot != p.boot:
		why = "its agent was started anew"
	case rose(counterUncounted, 1), rose(counterMissed, missedFew):
		why = "it dropped packets that it did not look at"
	default:
		return
	}
	if n := len(p.blind); n > 0 && p.blind[n-1].why == why && p.blind[n-1].to >= p.last {
		p.blind[n-1].to = at
		return
	}
	p.blind = append(p.blind, blindness{p.last, at, why})
	if len(p.blind) > maxSpans {
		p.blind = p.blind[1:]
	}
}

// blindWithin says why a device did not tell of all that it dropped in a time; ""
// if nothing is known to have kept it from that.
func (a *agents) blindWithin(device string, from, to int64) string {
	p := a.byName[device]
	if p == nil {
		return ""
	}
	if p.blindNow != "" && to >= p.last {
		return p.blindNow
	}
	for _, b := range slices.Backward(p.blind) {
		if b.from <= to && b.to >= from {
			return b.why
		}
	}
	return ""
}

// watching lists the devices of heard that told of all that they dropped: what
// they did not show, they did not drop. Blame knows a device's word as a whole
// only, so one class that is not told of takes away the weight of its silence.
func (a *agents) watching(from, to int64) []string {
	return slices.DeleteFunc(a.heard(from, to), func(name string) bool { return a.blindWithin(name, from, to) != "" })
}

// reports says in words what a device tells of: "full", "aggregates", "full but
// policy/l3/acl"; "" when it does not say.
func (p *presence) reports() string {
	if len(p.unreported) == 0 {
		return p.fuse
	}
	fuse := p.fuse
	if fuse == "" {
		fuse = fuseFull
	}
	if n := len(p.unreported); n > 2 {
		return fmt.Sprintf("%s but %s and %d more", fuse, p.unreported[0], n-1)
	}
	return fuse + " but " + strings.Join(p.unreported, ", ")
}

// mute says in words why a device's silence does not count in a window.
func (w *Window) mute(device string) string {
	if w.blind != nil {
		if why := w.blind(device); why != "" {
			return fmt.Sprintf("silent: %s says nothing by showing no drops, since %s", device, why)
		}
	}
	return fmt.Sprintf("silent: the agent of %s was not heard all through the time; that it shows no drops says nothing", device)
}
