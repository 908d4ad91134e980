package blame

// situation is a row of the benchmark: 007's set-up with something changed.
// Faults are four links between devices at .05-1 % unless it says otherwise.
type situation struct {
	name string
	edit func(*setup)
}

// situations of the benchmark. Constants of the method may be chosen on seeds
// below 1000; figures are given for seeds from 1000 on.
var situations = []situation{
	{"one at .05 %", func(s *setup) { s.links, s.high = 1, .0005 }},
	{"one at .1 %", func(s *setup) { s.links, s.low, s.high = 1, .001, .001 }},
	{"4 failures", func(s *setup) {}},
	{"7 failures", func(s *setup) { s.links = 7 }},
	{"10 failures", func(s *setup) { s.links = 10 }},
	{"14 failures", func(s *setup) { s.links = 14 }},
	{"30 failures", func(s *setup) { s.links = 30 }},
	{"noise 1e-5", func(s *setup) { s.noise = 1e-5 }},
	{"noise 1e-4", func(s *setup) { s.noise = 1e-4 }},
	{"noise 1e-4, 3 epochs", func(s *setup) { s.noise, s.epochs = 1e-4, 3 }},
	{"skew", func(s *setup) { s.skew = true }},
	{"hot ToR 50 %", func(s *setup) { s.hot = .5 }},
	{"hot ToR 50 %, 10 failures", func(s *setup) { s.hot, s.links = .5, 10 }},
	{"hot ToR 80 %", func(s *setup) { s.hot = .8 }},
	{"hot ToR 80 %, 10 failures", func(s *setup) { s.hot, s.links = .8, 10 }},
	{"uneven", func(s *setup) { s.uneven = true }},
	{"host links", func(s *setup) { s.links, s.hostLinks = 0, 4 }},
	{"whole ToR", func(s *setup) { s.device = "tor" }},
	{"whole T1", func(s *setup) { s.device = "t1" }},
	{"whole T2", func(s *setup) { s.device = "t2" }},
	{"whole ToR, one rate", func(s *setup) { s.device, s.oneRate = "tor", true }},
	{"whole T1, one rate", func(s *setup) { s.device, s.oneRate = "t1", true }},
	{"whole T2, one rate", func(s *setup) { s.device, s.oneRate = "t2", true }},
	{"two on one device", func(s *setup) { s.pair = true }},

	{"1 pod", func(s *setup) { s.pods = 1 }},
	{"3 pods", func(s *setup) { s.pods = 3 }},
	{"4 pods", func(s *setup) { s.pods = 4 }},
	{"5 pods", func(s *setup) { s.pods = 5 }},
	{"6 pods", func(s *setup) { s.pods = 6 }},
	{"7 pods", func(s *setup) { s.pods = 7 }},
	{"10 connections", func(s *setup) { s.connections = 10 }},
	{"30 connections", func(s *setup) { s.connections = 30 }},

	{"clean 1e-6", func(s *setup) { s.links = 0 }},
	{"clean 1e-5", func(s *setup) { s.links, s.noise = 0, 1e-5 }},
	{"clean 1e-4", func(s *setup) { s.links, s.noise = 0, 1e-4 }},

	// The four cases of the DECAF note: how much is lost, and does it repeat?
	// Once is 2 s of one epoch; repeating is three epochs throughout.
	{"DECAF 1, low once", func(s *setup) { s.once = true }},
	{"DECAF 2, high once", func(s *setup) { s.once, s.low, s.high = true, .1, 1 }},
	{"DECAF 3, low repeating", func(s *setup) { s.low, s.high, s.epochs = .00005, .0005, 3 }},
	{"DECAF 4, high repeating", func(s *setup) { s.low, s.high, s.epochs = .01, .1, 3 }},

	{"10 % stale", func(s *setup) { s.stale = .1 }},
	{"20 % stale", func(s *setup) { s.stale = .2 }},
	{"50 % stale", func(s *setup) { s.stale = .5 }},
	{"10 % refused", func(s *setup) { s.refused = .1 }},
	{"30 % refused", func(s *setup) { s.refused = .3 }},
	{"50 % refused", func(s *setup) { s.refused = .5 }},
	{"30 % partial", func(s *setup) { s.partial = .3 }},
	{"25 % of hosts", func(s *setup) { s.reporting = .25 }},
	{"10 % of hosts", func(s *setup) { s.reporting = .1 }},
	{"5 % of hosts", func(s *setup) { s.reporting = .05 }},
	{"unequal ECMP", func(s *setup) { s.unequal = true }},
	{"2 % noisy, 1e-6", func(s *setup) { s.noisy = .02 }},
	{"2 % noisy, 1e-5", func(s *setup) { s.noisy, s.noise = .02, 1e-5 }},
	{".005-.05 %", func(s *setup) { s.low, s.high = .00005, .0005 }},
	{".005-.05 %, 5 epochs", func(s *setup) { s.low, s.high, s.epochs = .00005, .0005, 5 }},
	{".005-.05 %, 20 epochs", func(s *setup) { s.low, s.high, s.epochs = .00005, .0005, 20 }},
	{"bursts", func(s *setup) { s.bursts = .05 }},
	{"bursts, no times", func(s *setup) { s.bursts, s.noTimes = .05, true }},
	{"bursts, over", func(s *setup) { s.bursts, s.over, s.epochs = .05, true, 2 }},
	{"reroute", func(s *setup) { s.reroute = .1 }},
	{"no paths", func(s *setup) { s.noPaths = true }},
	{"no loss-free flows", func(s *setup) { s.noClean = true }},
	{"all mildly", func(s *setup) {
		s.stale, s.reporting, s.refused, s.partial, s.unequal, s.noisy, s.noise = .1, .5, .1, .05, true, .01, 3e-6
		s.bursts, s.reroute = .005, .02
	}},
}

// clean says whether nothing is at fault: such a row is run on five times the
// seeds, for a false finding is to be one in hundreds of epochs.
func (s setup) clean() bool { return s.links == 0 && s.hostLinks == 0 && s.device == "" }

const cleanTimes = 5

// What devices add.
var columns = []situation{
	{"none", func(*setup) {}},
	{"25 % visible", func(s *setup) { s.instrumented, s.visible = .25, true }},
	{"50 % visible", func(s *setup) { s.instrumented, s.visible = .5, true }},
	{"visible", func(s *setup) { s.instrumented, s.visible = 1, true }},
	{"visible, noise too", func(s *setup) { s.instrumented, s.visible, s.seesNoise = 1, true, true }},
	{"lying 10 %", func(s *setup) { s.instrumented, s.visible, s.lying = 1, true, .1 }},
	{"25 % invisible", func(s *setup) { s.instrumented = .25 }},
	{"50 % invisible", func(s *setup) { s.instrumented = .5 }},
	{"invisible", func(s *setup) { s.instrumented = 1 }},
}

// methods that are compared. They get all that was seen, as a whole and in the
// order it came; where serves is given, only in the rows that it picks.
var methods = []struct {
	name   string
	infer  func(f *fabric, e *evidence) Result
	serves func(s setup) bool
}{
	{"vote", func(f *fabric, e *evidence) Result { return Vote(f.n, e.whole) }, nil},
	{"fused", func(f *fabric, e *evidence) Result { return Infer(f.n, e.whole, Options{}) }, nil},
	{"history", remembering, func(s setup) bool { return s.epochs > 1 }},
	{"informed", func(f *fabric, e *evidence) Result { return f.informed(e) }, informs},
	{"oracle", func(f *fabric, e *evidence) Result { return f.oracle(e) }, nil},
}

// remembering is fused as it works in practice: epoch after epoch, with older
// evidence fading, and judged by what it names in the last one. The causes are of
// each epoch's own time.
func remembering(f *fabric, e *evidence) (r Result) {
	h := NewHistory(f.n, Options{})
	var causes []Cause
	for _, ep := range e.epochs {
		r = h.Infer(ep)
		causes = append(causes, r.Causes...)
	}
	r.Causes = causes
	return r
}
