package blame

// Cause is what most likely lost a flow's packets, and how likely that is it.
// Kind None means noise, or that the flow says nothing.
type Cause struct {
	Component   Component
	Probability float64
}

// causes says of each lossy flow what most likely took most of its packets: a
// fault, if one or the other is likelier than noise. Of flows that noise may as
// well explain, a suspect is named that would rather lose them than it.
func (e *engine) causes() []Cause {
	w := e.ways()
	w.fit()
	out := make([]Cause, len(e.input))
	for i, row := range e.input {
		if row < 0 {
			continue
		}
		r := w.read(row)
		if r.fault < 0 || r.noise > 0.5 {
			r.fault, r.probability = w.suspect(row, r.noise)
		}
		if out[i].Probability = clamp(r.probability); r.fault >= 0 {
			out[i].Component = e.faults[r.fault].at
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
