package blame

import (
	"fmt"
	"math"
	"slices"
)

// History infers epoch after epoch and carries evidence over, older evidence at
// less weight, so that a fault too weak to show in one epoch is found in the
// next ones. Each epoch is judged twice: by itself, where a fault that has just
// begun is not diluted, and with what is remembered. What only the memory names
// must still be there: the less the present shows of what it should, the less
// likely the fault has lasted. A History is not safe for use by several goroutines.
type History struct {
	n *Network
	o Options

	lossy []Flow
	drops []Drop
	clean *Tally
	load  []Load // of the epochs remembered, as their losses weigh
	// there is how likely each component that only the memory names has lasted to
	// the latest epoch: a filter with two states, there and mended.
	there map[Component]float64
	// Forgotten counts lossy flows that were left out for want of room.
	Forgotten uint64
}

const (
	// carriedOver is the weight of evidence one epoch later: after ten epochs of
	// 30 s a third of it is left.
	carriedOver = 0.9
	// leastWeight is where a loss is forgotten: its weight of one, 28 epochs later.
	leastWeight = 0.05
	// maxRemembered bounds the lossy flows that are remembered.
	maxRemembered = 1 << 18
	maxLoads      = 1 << 12 // and the stretches of time
	// mended is how likely a fault ends in an epoch.
	mended = 0.05
)

// NewHistory remembers nothing yet.
func NewHistory(n *Network, o Options) *History {
	return &History{n: n, o: o, clean: NewTally(n), there: make(map[Component]float64)}
}

// Infer says what the evidence of one more epoch shows, with all before it.
func (h *History) Infer(ep *Epoch) Result {
	clean := condense(h.n, ep.Clean, ep.Tally)
	now := prepareOn(clean, ep, h.o)
	r := now.infer()
	first := len(h.lossy) == 0 && h.clean.total == 0
	h.clean.merge(clean)
	h.load = append(h.load, ep.loads(clean.total)...)
	if !first {
		long := prepareOn(h.clean, &Epoch{
			Lossy:        append(ep.Lossy[:len(ep.Lossy):len(ep.Lossy)], h.lossy...),
			Drops:        append(ep.Drops[:len(ep.Drops):len(ep.Drops)], h.drops...),
			Instrumented: ep.Instrumented,
			During:       h.since(ep),
			Load:         h.load,
		}, h.o)
		h.remember(&r, now, long, long.infer())
	}
	now.abstain(&r) // not before: what is remembered may make something of it
	h.age(ep)
	return r
}

// loads is how an epoch's packets were spread over its time; nothing if nobody
// knows when it was. The weights of epochs count, not their packets, where none
// were counted.
func (ep *Epoch) loads(total float64) []Load {
	switch {
	case !ep.During.Known():
		return nil
	case len(ep.Load) == 0:
		return []Load{{ep.During, math.Max(1, total)}}
	}
	sum := 0.0
	for _, l := range ep.Load {
		sum += sane(l.Packets)
	}
	out := slices.Clone(ep.Load)
	for i := range out {
		out[i].Packets = sane(out[i].Packets) / math.Max(sum, 1e-9) * math.Max(1, total)
	}
	return out
}

// since is from the first epoch that is remembered to this one's end.
func (h *History) since(ep *Epoch) Span {
	s := ep.During
	for _, l := range h.load {
		s = s.join(l.Span)
	}
	return s
}

// age makes past of the present. The loss-free traffic is merged already.
func (h *History) age(ep *Epoch) {
	h.clean.scale(carriedOver)
	loads := h.load[:0]
	for _, l := range h.load {
		if l.Packets *= carriedOver; l.Packets >= leastWeight {
			loads = append(loads, l)
		}
	}
	h.load = loads[max(0, len(loads)-maxLoads):]
	kept := h.lossy[:0]
	for _, f := range append(h.lossy, ep.Lossy...) {
		// A flow counts once, however much it lost, and ages as one.
		f.Lost, f.Packets = math.Min(f.Lost, 1)*carriedOver, f.Packets*carriedOver
		if f.Lost >= leastWeight {
			kept = append(kept, f)
		}
	}
	if over := len(kept) - maxRemembered; over > 0 {
		h.Forgotten += uint64(over)
		kept = kept[over:]
	}
	h.lossy = kept
	drops := h.drops[:0]
	for _, d := range append(h.drops, ep.Drops...) {
		if d.Count *= carriedOver; d.Count >= leastWeight {
			drops = append(drops, d)
		}
	}
	h.drops = drops[max(0, len(drops)-maxRemembered):]
}

// remember adds what only the long view found.
func (h *History) remember(r *Result, now, long *engine, view Result) {
	carried := make(map[Component]bool)
	there := make(map[Component]float64)
	for _, f := range long.faults {
		if f.probability < 0.001 || now.named(f.at) {
			continue
		}
		b := long.blame(f)
		if isCongestion(b.Class) {
			continue // it lasts no longer than it is seen
		}
		nats, expected := now.support(f)
		// It is there still, or it was mended, now or in an epoch before: weigh the
		// present by either.
		before, known := h.there[f.at]
		if !known {
			before = 1
		}
		lasting, over := before*(1-mended)*math.Exp(math.Min(nats, 50)), 1-before*(1-mended)
		there[f.at] = lasting / (lasting + over)
		b.Probability = clamp(b.Probability * there[f.at])
		say := "for"
		if nats < 0 {
			say = "against"
		}
		b.Trace = append(b.Trace, fmt.Sprintf("carried over from earlier epochs; %s: this one should have lost %.3g packets there (%+.1f nats)", say, expected, nats))
		if b.Probability >= now.o.Name {
			r.Components = append(r.Components, b)
			carried[f.at] = true
			r.forget(f.at)
		} else if b.Probability >= 0.001 && !r.suspects(f.at) {
			r.Suspects = append(r.Suspects, b)
		}
	}
	for i, c := range view.Causes[:len(r.Causes)] {
		if carried[c.Component] && r.Causes[i].Component.Kind == None {
			r.Causes[i] = c
		}
	}
	h.there = there
	r.sort()
}

// named says whether the present names a component by itself, or one that it is
// a part of, or a part of it.
func (e *engine) named(c Component) bool {
	links := e.n.linksOf(c)
	for _, f := range e.faults {
		if f.probability < e.o.Name {
			continue
		}
		if f.at == c {
			return true
		}
		for _, l := range e.n.linksOf(f.at) {
			for _, m := range links {
				if l == m && (f.at.Kind != Link || c.Kind != Link) {
					return true
				}
			}
		}
	}
	return false
}

// support is the log-likelihood that a fault found in a longer view adds to this
// epoch, and the losses it should have had here.
func (e *engine) support(f *fault) (nats, expected float64) {
	for k := range f.params {
		p := &f.params[k]
		packets := 0.0
		for _, l := range p.links {
			packets += e.packets[l]
			for _, h := range e.onLink(l) {
				nats += e.lost[h.flow] * math.Log1p(p.x*float64(h.own)/e.rate[h.flow])
			}
		}
		expected += packets * p.x
	}
	return nats - expected, expected
}

func (r *Result) suspects(c Component) bool {
	for _, b := range r.Suspects {
		if b.Component == c {
			return true
		}
	}
	return false
}

// forget takes a component out of the suspects.
func (r *Result) forget(c Component) {
	kept := r.Suspects[:0]
	for _, b := range r.Suspects {
		if b.Component != c {
			kept = append(kept, b)
		}
	}
	r.Suspects = kept
}
