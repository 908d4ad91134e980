package blame

// Infer says which components are at fault in an epoch. The same evidence
// gives the same result, to the last bit. It never fails: what is not sane in
// the evidence is left out.
func Infer(n *Network, ep *Epoch, o Options) Result {
	e := prepare(n, ep, o)
	e.listen()
	e.search()
	e.weigh()
	e.calibrate()
	e.told()
	e.weigh()
	if e.swap() {
		e.fit(8)
		e.weigh()
	}
	e.suspects()
	e.weigh()
	e.calibrate()
	e.posterior()
	return e.result()
}
