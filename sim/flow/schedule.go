package flow

import (
	"math"
	"time"

	"decaf/api/decafpb"
	"decaf/api/packet"
)

// run is the state of the record form.
type run struct {
	begun   bool
	dice    *dice
	due     schedule
	order   uint64        // of events at the same time
	arrival time.Duration // of the next connection

	ports   []uint16 // by host, the last used
	cookie  uint64
	used    []bool // by link
	seqs    map[sequence]uint64
	traces  book
	buckets map[int]*bucket      // by host
	rows    []map[int32]*flowRow // by host, then destination
	errors  map[errorCount]uint64
	counts  []map[string]uint64 // by node: what its heartbeats count
	flaps   map[int]int         // route changes of a fault so far
}

// event is something that happens at a time; what is one of the types in happen.
type event struct {
	at    time.Duration
	order uint64
	what  any
}

// What happens beside records that are ready and retransmissions.
type (
	beat       struct{ node Node }
	report     struct{ host int } // of loss-free flows
	errorTick  struct{ errorCount }
	portError  struct{ errorCount }
	routeTick  struct{ fault int }
	errorCount struct {
		link  Link
		fault int32
	}
)

// ready is a record that has reached its place, from a producer.
type ready struct {
	from   Node
	record any
}

// schedule is a heap of events, earliest first.
type schedule []event

func (s schedule) before(i, j int) bool {
	return s[i].at < s[j].at || s[i].at == s[j].at && s[i].order < s[j].order
}

func (s *schedule) push(e event) {
	*s = append(*s, e)
	h := *s
	for i := len(h) - 1; i > 0; {
		up := (i - 1) / 2
		if !h.before(i, up) {
			break
		}
		h[i], h[up] = h[up], h[i]
		i = up
	}
}

func (s *schedule) pop() event {
	h := *s
	top := h[0]
	last := len(h) - 1
	h[0], h[last] = h[last], event{}
	h = h[:last]
	*s = h
	for i := 0; ; {
		low := 2*i + 1
		if low >= last {
			break
		}
		if low+1 < last && h.before(low+1, low) {
			low++
		}
		if !h.before(low, i) {
			break
		}
		h[i], h[low] = h[low], h[i]
		i = low
	}
	return top
}

func (f *Fabric) push(at time.Duration, what any) {
	f.order++
	f.due.push(event{at, f.order, what})
}

// begin sets up the record form.
func (f *Fabric) begin() {
	f.begun = true
	g := f.graph
	f.dice = newDice(f.seed, "records")
	f.ports = make([]uint16, g.hosts)
	f.used = make([]bool, g.Links())
	f.rows = make([]map[int32]*flowRow, g.hosts)
	f.counts = make([]map[string]uint64, g.devices+g.hosts)
	f.seqs = make(map[sequence]uint64)
	f.buckets = make(map[int]*bucket)
	f.errors = make(map[errorCount]uint64)
	f.flaps = make(map[int]int)
	f.traces = book{paths: make(map[packet.Flow]*traced)}
	f.arrival = f.gap()
	for n := range Node(g.devices + g.hosts) {
		if g.IsDevice(n) && f.agents[n] == agentNone {
			continue
		}
		phase := func(of time.Duration) time.Duration {
			return time.Duration(unit(mix(f.seed^uint64(n)<<20)) * float64(of))
		}
		f.push(f.late+phase(f.options.Heartbeat), beat{n})
		if h, ok := g.HostOf(n); ok && f.options.Rows > 0 {
			f.push(f.late+f.options.Rows+phase(f.options.Rows/10), report{h})
		}
	}
	for i, ft := range f.faults {
		if ft.name == "route-flap" && f.tells(ft.device) {
			f.push(ft.times.at, routeTick{i})
		}
	}
}

// gap is the time between two connections of the whole fabric: those of all hosts
// together are a Poisson process.
func (f *Fabric) gap() time.Duration {
	rate := f.scenario.Traffic.ConnectionsPerHost * float64(f.graph.hosts)
	if rate <= 0 {
		return math.MaxInt64 / 2
	}
	return 1 + time.Duration(f.dice.rng.ExpFloat64()/rate*float64(time.Second))
}

// happen lets an event happen; it gives the records that arrive by it, if any.
func (f *Fabric) happen(e event) *decafpb.Batch {
	switch x := e.what.(type) {
	case *ready:
		return f.stamp(x)
	case *retransmission:
		f.retransmit(x, e.at)
	case beat:
		f.push(e.at+f.options.Heartbeat, x)
		if f.down(x.node, e.at) {
			return nil
		}
		return f.stamp(&ready{x.node, f.heartbeat(x.node, e.at)})
	case report:
		f.push(e.at+f.options.Rows, x)
		return f.report(x.host, e.at)
	case portError:
		if f.errors[x.errorCount]++; f.errors[x.errorCount] == 1 {
			f.push(e.at.Truncate(time.Second)+time.Second, errorTick(x))
		}
	case errorTick:
		f.portErrors(x.errorCount, e.at)
	case routeTick:
		f.routeChange(x.fault, e.at)
	}
	return nil
}

// down says whether a node is a device that is down.
func (f *Fabric) down(n Node, t time.Duration) bool {
	for _, ft := range f.faults {
		if ft.name == "device-down" && ft.device == n && ft.times.active(t) {
			return true
		}
	}
	return false
}
