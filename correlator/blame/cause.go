package blame

// Cause is what most likely lost a flow's packets. Kind None means noise, or
// that the flow says nothing.
type Cause struct {
	Component   Component
	Probability float64
}

// causes shares each lossy flow's loss out over faults and noise.
func (e *engine) causes() []Cause {
	e.rates()
	best := make([]float64, len(e.rows))
	cause := make([]Cause, len(e.rows))
	for i := range e.rows {
		best[i] = e.rows[i].hops * e.noise / e.rate[i]
		cause[i].Probability = best[i]
	}
	part := make([]float64, len(e.rows))
	for _, f := range e.faults {
		for k := range f.params {
			for _, h := range f.params[k].hits {
				part[h.flow] += f.params[k].x * e.weight(h)
			}
		}
		for k := range f.params {
			for _, h := range f.params[k].hits {
				all := e.rate[h.flow]
				if f.weak {
					all += part[h.flow]
				}
				if p := part[h.flow] / all * f.probability; p > best[h.flow] {
					best[h.flow] = p
					cause[h.flow] = Cause{f.at, p}
				}
				part[h.flow] = 0
			}
		}
	}
	out := make([]Cause, len(e.input))
	for i, row := range e.input {
		if row >= 0 {
			out[i] = cause[row]
			out[i].Probability = clamp(out[i].Probability)
		}
	}
	return out
}

func clamp(p float64) float64 {
	if !(p > 0) {
		return 0
	}
	return min(p, 1)
}
