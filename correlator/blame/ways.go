package blame

import (
	"math"
	"slices"
)

// ways is the faults that each row may have met, and how likely.
//
// The path of a lossy flow is a mixture: it is as reported, or it is any of its
// ECMP set, because the report is wrong or because there is none. Each fault that
// may be on it is a reading of its own: how likely the flow went that way, times
// how likely so many of its packets are lost there. A flow that lost ten packets
// of fifty hardly met a fault of one in a thousand, be it on ever so many of its
// paths; and one that lost two met a fault, wherever its path is said to go, for
// noise hardly ever takes two. So all losses of a flow, which the search counts as
// one, tell here of the share of wrong paths, of the noise and of the rates.
type ways struct {
	e     *engine
	start []int32 // of a row's in list
	list  []way
	noise float64
	stale float64

	mass  []float64 // scratch: packets lost, by fault
	met   []met     // scratch: all of list, by fault
	at    []int32   // scratch, by row
	terms []term    // scratch
	mine  []float64 // scratch, by way of a row

	// Several readings of a row come to the same rate: the latest one's
	// likelihood, but for the rate itself.
	rate, none, more float64
}

// way is one fault that a row may have met.
type way struct {
	fault       int32
	sure        bool    // it did, if the path is the one reported
	own         float64 // how likely it did as reported,
	other       float64 // and if the report is wrong
	probability float64 // that it is a fault; 0: it is too weak to explain losses
	x           float64 // loss rate there
}

// met is a way with the row it is of.
type met struct {
	row int32
	way
}

// term is one reading of a row: its share of all of them, and the loss rate if
// it is true.
type term struct {
	weight, rate float64
	way          int32 // the fault that may have been met; -1: none
	reported     bool  // the path is as reported
}

const (
	waysRounds = 10
	waysClose  = 0.3 // losses that the last round moves at most
	// waysStale is the losses that the expected share of wrong paths weighs here.
	waysStale = 10
	// leastLeft is the least that is left for no fault to be met: those whose
	// probabilities add up to more than all may be the same one.
	leastLeft = 1e-6
	// enough is the losses of one flow from which more change no reading.
	enough = 20
)

// ways gathers them.
func (e *engine) ways() *ways {
	w := &e.readings
	w.e, w.noise, w.stale = e, e.noise, e.stale
	w.start, w.mass = again(w.start, len(e.rows)+1), again(w.mass, len(e.faults))
	room := 0
	for _, f := range e.faults {
		for k := range f.params {
			if !f.weak { // of those few hits count
				room += len(f.params[k].hits)
			}
		}
	}
	all := slices.Grow(w.met[:0], room)
	at := again(w.at, len(e.rows)) // of a row's latest in all, one more
	for i, f := range e.faults {
		if f.probability == 0 {
			continue
		}
		first := len(all)
		for k := range f.params {
			p := &f.params[k]
			for _, h := range p.hits {
				x := p.x * e.weight(h)
				if x == 0 || f.weak && h.own == 0 {
					continue
				}
				if int(at[h.flow]) <= first {
					m := met{h.flow, way{fault: int32(i)}}
					if !f.weak {
						m.probability = f.probability
					}
					all = append(all, m)
					at[h.flow] = int32(len(all))
				}
				m := &all[at[h.flow]-1]
				m.own, m.other, m.x = max(m.own, float64(h.own)), max(m.other, float64(h.share)), m.x+x
			}
		}
		for j := first; j < len(all); j++ {
			m := &all[j]
			m.x = math.Min(rateCeiling, m.x/(m.own+e.stale*(m.other-m.own)))
			m.sure = m.own > 0.999
			w.start[m.row+1]++
		}
	}
	for i := range e.rows {
		w.start[i+1] += w.start[i]
		at[i] = w.start[i]
	}
	w.met, w.at, w.list = all, at, again(w.list, len(all))
	for _, m := range all {
		w.list[at[m.row]] = m.way
		at[m.row]++
	}
	return w
}

// fit estimates the noise, the share of wrong paths and the rates anew, by
// expectation maximisation over the readings.
func (w *ways) fit() {
	e := w.e
	if e.carried <= 0 || len(w.list) == 0 {
		return
	}
	expected := make([]float64, len(e.faults))
	for i, f := range e.faults {
		if !f.weak && !(f.told && f.congested) { // a queue was full for a moment: its rate is of all the time
			expected[i] = f.losses()
		}
	}
	for range waysRounds {
		wasNoise, wasStale := w.noise, w.stale
		noise, wrong, known := 0.0, 0.0, 0.0
		clear(w.mass)
		for i := range e.rows {
			r, out := &e.rows[i], w.read(int32(i))
			noise += out.noise * r.lost
			if r.known {
				lost := (1 - out.noise) * r.lost
				known += lost
				wrong += math.Min(out.wrong*r.lost, lost)
			}
		}
		w.noise = (noise + 0.5) / e.carried
		if known > 0 {
			w.stale = math.Min(0.9, (wrong+stalePrior/staleWeight*waysStale)/(known+waysStale))
		}
		for k := range w.list {
			if a := &w.list[k]; expected[a.fault] > 0 && w.mass[a.fault] > 0 {
				a.x = math.Min(rateCeiling, a.x*w.mass[a.fault]/expected[a.fault])
			}
		}
		for i, mass := range w.mass {
			if expected[i] > 0 && mass > 0 {
				expected[i] = mass
			}
		}
		if math.Abs(w.stale-wasStale)*known < waysClose && math.Abs(w.noise-wasNoise)*e.carried < waysClose {
			break
		}
	}
}

// reading is what a row's losses most likely were.
type reading struct {
	noise       float64 // how likely it was noise,
	wrong       float64 // and that its path is not the one reported
	fault       int32   // the likeliest; -1: there is none
	probability float64 // of it
}

// read gives that of a row, and adds its losses to the faults' mass.
func (w *ways) read(row int32) reading {
	out := reading{noise: 1, fault: -1}
	r, list := &w.e.rows[row], w.list[w.start[row]:w.start[row+1]]
	if len(list) == 0 {
		return out
	}
	rest, stale := r.hops*w.noise, 0.0
	if r.known {
		stale = w.stale
	}
	certain, none, other := rest, 1.0, 1.0 // rate on the path reported; how likely no fault else is met there, and elsewhere
	for k := range list {
		a := &list[k]
		if a.sure {
			certain += a.x * a.probability
		} else {
			none -= a.own * a.probability
		}
		other -= a.other * a.probability
	}
	least := certain
	if stale > 0 {
		least = rest
	}
	w.terms, w.rate = w.terms[:0], 0
	w.consider(r, (1-stale)*max(none, leastLeft), certain, least, -1, true)
	w.consider(r, stale*max(other, leastLeft), rest, least, -1, false)
	for k := range list {
		a := &list[k]
		if !a.sure {
			w.consider(r, (1-stale)*a.own*a.probability, certain+a.x, least, int32(k), true)
		}
		w.consider(r, stale*a.other*a.probability, rest+a.x, least, int32(k), false)
	}
	sum := 0.0
	for k := range w.terms {
		sum += w.terms[k].weight
	}
	if sum <= 0 {
		return out
	}
	w.mine = w.mine[:0]
	for range list {
		w.mine = append(w.mine, 0)
	}
	out.noise = 0
	sure := 0.0
	for _, t := range w.terms {
		each := t.weight / sum / t.rate
		out.noise += each * rest
		if t.reported {
			sure += each
		} else {
			out.wrong += t.weight / sum
		}
		if t.way >= 0 {
			w.mine[t.way] += each * list[t.way].x
		}
	}
	for k := range list {
		a := &list[k]
		if a.sure {
			w.mine[k] += sure * a.x * a.probability
		}
		w.mass[a.fault] += w.mine[k] * r.total
		if w.mine[k] > out.probability {
			out.fault, out.probability = a.fault, w.mine[k]
		}
	}
	return out
}

// consider adds a reading of a row that is so likely before its losses, by the
// likelihood of those at a loss rate per packet, but for what is the same at all
// rates; least is the least of them. Losses of a flow beyond the first are
// believed no more than crowds are.
func (w *ways) consider(r *row, prior, rate, least float64, way int32, reported bool) {
	if prior <= 0 || rate <= 0 {
		return
	}
	if rate != w.rate {
		w.rate, w.none, w.more = rate, 1, 1
		if rate != least {
			w.none = math.Exp((least - rate) * r.packets)
		}
		switch {
		case r.total < 1:
			w.more = math.Pow(rate, r.total)
		case r.total > 1: // over the likeliest rate, that neither is too small for a number
			w.more = math.Pow(rate*r.packets/r.total, min(enough, crowdsCount*(r.total-1)))
		}
	}
	weight := prior * w.none
	switch {
	case r.total == 1:
		weight *= rate
	case r.total < 1:
		weight *= w.more
	default:
		weight *= rate * w.more
	}
	w.terms = append(w.terms, term{weight, rate, way, reported})
}

// suspect is the likeliest of the faults too weak to explain anything that
// would, if it is one, rather lose a row's packets than noise, which is so likely
// without it; -1: there is none. Its probability is of the very losses in question,
// so that they tell of it no more.
func (w *ways) suspect(row int32, noise float64) (fault int32, probability float64) {
	rest := w.e.rows[row].hops * w.noise
	fault, probability = -1, noise
	most := rest
	for _, a := range w.list[w.start[row]:w.start[row+1]] {
		if a.probability > 0 {
			continue
		}
		p, x := w.e.faults[a.fault].probability, a.x*a.own
		if p*x > most {
			fault, probability, most = a.fault, noise*p*x/(rest+x), p*x
		}
	}
	return fault, probability
}
