package replay

// Epoch is the evidence of one epoch. Everything but Truth is for an engine to see.
type Epoch struct {
	StartNS, EndNS uint64 // ns; both 0 when the file does not say
	// FirstFlow is how many flow lines the file has before this epoch's: flow i is
	// line FirstFlow+i+1 of them.
	FirstFlow    int
	Flows        []Flow
	Drops        []Drop
	Instrumented []NodeID // devices that report their drops and were fresh all epoch
	Truth        *Truth   // nil when not known; only for scoring

	// Paths of all flows one behind the other: path i is links[ends[i-1]:ends[i]].
	links []LinkID
	ends  []uint32
}

// Flow is one flow line.
type Flow struct {
	Src, Dst    NodeID // hosts
	Packets     uint64 // sent
	Retransmits uint64 // of these, sent again
	Between     Between

	first uint32 // path
	count uint16
	// Candidates says that the path is one of several that are given; else it is
	// known, or unknown where none is given: then it may be any shortest path.
	Candidates bool
}

// Between is when something happened, from the first time to the last, on the clock
// of the epochs. Both 0: unknown.
type Between struct{ FirstNS, LastNS uint64 }

// Known says whether there is a time.
func (b Between) Known() bool { return b != Between{} }

// Drop is what a device says it dropped.
type Drop struct {
	Device NodeID
	// To given: on the link Device>To. Only From: on From>Device. Both None: the
	// device.
	From, To NodeID
	Class    string
	Count    uint64
	Between  Between
}

// Component is what a drop line speaks of.
func (d *Drop) Component(t *Topology) Component {
	if d.To != None {
		if l, ok := t.Link(d.Device, d.To); ok {
			return LinkComponent(l)
		}
	}
	if d.To == None && d.From != None {
		if l, ok := t.Link(d.From, d.Device); ok {
			return LinkComponent(l)
		}
	}
	return t.NodeComponent(d.Device)
}

// Truth is what was really at fault.
type Truth struct {
	Links   []LinkID
	Devices []NodeID
	Hosts   []NodeID
	// Causes are where flows lost packets; a flow that lost some in two places has
	// two.
	Causes []Cause
}

// Cause is a link on which a flow lost packets.
type Cause struct {
	Flow int32 // index into Epoch.Flows
	Link LinkID
}

// Paths is how many paths a flow is given with: none, the one it took, or all it may
// have taken.
func (f *Flow) Paths() int { return int(f.count) }

// Path gives a flow's k-th path, in order from its source; it may stop before the
// destination. The slice is the epoch's own.
func (e *Epoch) Path(f *Flow, k int) []LinkID {
	i := int(f.first) + k
	start := uint32(0)
	if i > 0 {
		start = e.ends[i-1]
	}
	return e.links[start:e.ends[i]:e.ends[i]]
}

// KnownPath gives the path a flow took, nil when it is not known.
func (e *Epoch) KnownPath(f *Flow) []LinkID {
	if f.Candidates || f.count == 0 {
		return nil
	}
	return e.Path(f, 0)
}

// Complete says whether a path leads all the way to the flow's destination.
func (e *Epoch) Complete(t *Topology, f *Flow, k int) bool {
	p := e.Path(f, k)
	return len(p) > 0 && t.To(p[len(p)-1]) == f.Dst
}

// AddFlow appends a flow and its paths, which are copied: none, the known one, or the
// candidates.
func (e *Epoch) AddFlow(f Flow, paths ...[]LinkID) {
	f.first, f.count = uint32(len(e.ends)), 0
	for _, p := range paths {
		e.links = append(e.links, p...)
		e.closePath(&f)
	}
	e.Flows = append(e.Flows, f)
}

// closePath ends a flow's path with what links holds by now.
func (e *Epoch) closePath(f *Flow) {
	e.ends = append(e.ends, uint32(len(e.links)))
	f.count++
}
