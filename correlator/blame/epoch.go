package blame

import "math"

// Flow is one flow, or several of the same hosts and path added up.
type Flow struct {
	Src, Dst      int32   // host ids; -1 unknown
	Packets, Lost float64 // fractions are welcome: old evidence is scaled down
	// Path is link ids in order, host links included. It may stop early or
	// have gaps; what is missing is taken from the ECMP set.
	Path []int32
	// Candidates are the paths it may have taken, all alike, where Path is nil.
	// Without either it is every shortest path.
	Candidates [][]int32
	// When its packets were lost, from the first to the last; the zero Span where
	// nobody knows. A retransmit is late by a round trip or a timeout: a fraction
	// of a second.
	When Span
	// Seen is where a device showed the very drop: the loss is that component's.
	// Kind None: nobody saw it.
	Seen Component
	// Back is how likely, before all evidence, the loss was on the way back: a
	// sender also repeats itself when acknowledgements are lost. 0: it was not.
	Back float64
}

// Drop is packets that a device says it dropped. With To known they were on
// the link device>To, with From alone on From>device; otherwise they are the
// device's. Neighbours are nodes as [Network.Node] numbers them; -1 unknown.
type Drop struct {
	Device   int32
	From, To int32
	Class    string
	Count    float64
	When     Span // from the first to the last of them; the zero Span: nobody knows
}

// Node numbers a device or host as the neighbour in a [Drop]: devices first,
// then hosts.
func (n *Network) Node(name string) (int32, bool) {
	if d, ok := n.deviceID[name]; ok {
		return d, true
	}
	if h, ok := n.hostID[name]; ok {
		return int32(len(n.devices)) + h, true
	}
	return -1, false
}

// linkBetween is [Network.Between] for nodes.
func (n *Network) linkBetween(from, to int32) (int32, bool) {
	d := int32(len(n.devices))
	switch {
	case from >= d && n.validHost(from-d):
		return n.Up(from - d), n.tor[from-d] == to
	case to >= d && n.validHost(to-d):
		return n.Down(to - d), n.tor[to-d] == from
	default:
		return n.Between(from, to)
	}
}

// Epoch is the evidence of one epoch.
type Epoch struct {
	// During is when it was, on the clock of [Flow.When]; the zero Span: from the
	// first loss to the last.
	During Span
	// Load is how the packets of the epoch, and the weights of its losses with
	// them, are spread over its time; without it evenly.
	Load  []Load
	Lossy []Flow
	Clean []Flow // loss-free
	// Tally holds more loss-free traffic, counted as it came; may be nil.
	Tally *Tally
	Drops []Drop
	// Instrumented devices report their drops and were fresh all epoch.
	Instrumented []int32
}

// Options has no constant of a fabric in it; the zero value serves.
type Options struct {
	// Name is the probability from which a component is named; default 2/3:
	// twice as likely as not.
	Name float64
	// DateLast names components by how much they lost, whatever the times, which
	// then tell of each when it lost it. Where noise comes in bursts of its own, as
	// when a machine stalls, and there is time to look again, it is the safer way.
	DateLast bool
	// DeviceError is the share of instrumented devices that report a wrong
	// port or nothing; default 0.1.
	DeviceError float64
}

func (o Options) withDefaults() Options {
	if !(o.Name > 0 && o.Name < 1) {
		o.Name = 2.0 / 3
	}
	if !(o.DeviceError > 0 && o.DeviceError < 1) {
		o.DeviceError = 0.1
	}
	return o
}

// sane makes a count of what may be anything.
func sane(x float64) float64 {
	if !(x > 0) {
		return 0
	}
	return math.Min(x, 1e12)
}
