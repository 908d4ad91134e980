package blame

// Infer says which components are at fault in an epoch. The same evidence
// gives the same result, to the last bit. It never fails: what is not sane in
// the evidence is left out.
func Infer(n *Network, ep *Epoch, o Options) Result {
	return prepare(n, ep, o).judge()
}

// judge is infer, with what could not be told.
func (e *engine) judge() Result {
	r := e.infer()
	e.abstain(&r)
	return r
}

// infer goes the way of doc.go.
func (e *engine) infer() Result {
	e.timeless = e.o.DateLast && e.clock.before != nil
	e.listen()
	e.search()
	e.weigh(e.faults)
	if len(e.reports) > 0 {
		e.calibrate()
		e.honesty()
		if e.told() {
			e.fit(5)
			e.weigh(e.faults)
		}
	}
	if e.swap() {
		e.fit(8)
		e.weigh(e.faults)
	}
	if e.challenge() {
		e.fit(8)
		e.weigh(e.faults)
	}
	strong := len(e.faults)
	e.suspects()
	e.weigh(e.faults[strong:]) // they explain nothing, so the others stay as they are
	e.calibrate()
	e.posterior()
	if e.timeless {
		e.timeless = false
		e.rates()
		e.date(true)
	}
	return e.result()
}
