package blame

import "math"

// Cause is what most likely lost a flow's packets. Kind None means noise, or
// that the flow says nothing.
type Cause struct {
	Component   Component
	Probability float64
}

// causes says of each lossy flow what most likely took most of its packets.
//
// On a path that is known, losses share out by the rates. Where the path is in
// doubt, each fault that the flow may have crossed is a reading of its own: how
// likely the flow went that way, times how likely so many of its packets are
// lost there. A flow that lost ten packets of fifty hardly met a fault of one in
// a thousand, be it on ever so many of its paths.
func (e *engine) causes() []Cause {
	type reading struct {
		log, all float64 // of the likeliest one; of the sum
		cause    Component
		share    float64 // of the loss, within that one
	}
	part, way := make([]float64, len(e.rows)), make([]float64, len(e.rows))
	reported := make([]float64, len(e.rows)) // loss rate on what was certainly crossed
	likeliest := make([]reading, len(e.rows))
	for i := range e.rows {
		reported[i] = e.rows[i].hops * e.noise
		likeliest[i].share = reported[i]
	}
	// each calls do with every row a fault may have met, the rate there, how
	// likely the row met it, and whether it certainly did, if its path is true.
	each := func(f *fault, do func(row int32, x, way float64, certain bool)) {
		for k := range f.params {
			for _, h := range f.params[k].hits {
				part[h.flow] += f.params[k].x * e.weight(h)
				way[h.flow] = math.Max(way[h.flow], e.weight(h))
			}
		}
		for k := range f.params {
			for _, h := range f.params[k].hits {
				if w := way[h.flow]; w > 0 {
					x := part[h.flow] / w
					part[h.flow], way[h.flow] = 0, 0
					do(h.flow, x, w, w >= 1-e.stale)
				}
			}
		}
	}
	for _, f := range e.faults {
		each(f, func(row int32, x, _ float64, certain bool) {
			if x *= f.probability; certain && x > 0 {
				reported[row] += x
				if l := &likeliest[row]; x > l.share {
					l.share, l.cause = x, f.at
				}
			}
		})
	}
	for i := range e.rows {
		l := &likeliest[i]
		l.log = e.rows[i].likelihood(reported[i])
		l.all = l.log
		l.share /= reported[i]
	}
	for _, f := range e.faults {
		each(f, func(row int32, x, way float64, certain bool) {
			if certain || x == 0 || f.probability == 0 {
				return
			}
			r, l := &e.rows[row], &likeliest[row]
			rest := reported[row]
			if r.known { // what was reported is then wrong
				rest = r.hops * e.noise
			}
			log := math.Log(way*f.probability) + r.likelihood(rest+x)
			if l.all = addLogs(l.all, log); log > l.log {
				l.log, l.cause, l.share = log, f.at, x/(rest+x)
			}
		})
	}
	out := make([]Cause, len(e.input))
	for i, row := range e.input {
		if row >= 0 {
			l := &likeliest[row]
			out[i] = Cause{l.cause, clamp(math.Exp(l.log-l.all) * l.share)}
		}
	}
	return out
}

// likelihood is the log of that of the row's losses at a loss rate per packet,
// but for what is the same at all rates.
func (r *row) likelihood(rate float64) float64 {
	return r.total*math.Log(rate) - r.packets*rate
}

func clamp(p float64) float64 {
	if !(p > 0) {
		return 0
	}
	return min(p, 1)
}
