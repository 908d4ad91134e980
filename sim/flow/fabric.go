package flow

import (
	"fmt"
	"time"

	"decaf/api/decafpb"
	"decaf/sim/scenario"
)

// Port is where the hosts' servers listen, as on the kernel fabric.
const Port = 5201

// Options of a fabric. The zero value of each is its default.
type Options struct {
	// Start is the time of day at which the run begins; default 1 January 2025.
	Start time.Time
	// Noise, if set, gives every link its own share of packets lost at all times, in
	// place of the scenario's.
	Noise func(g *Graph, l Link) float64
	// Weight, if set, gives every link its weight among the next hops of its
	// switch; default all equal. Not all of a switch's may be 0.
	Weight func(g *Graph, l Link) float64
	// Heartbeat is the interval of the agents' signs of life; default 2 s.
	Heartbeat time.Duration
	// Rows is the interval at which hosts report their loss-free flows; default
	// 10 s, below 0 never.
	Rows time.Duration
	// Exchanges adds a record for each connection's request and response.
	Exchanges bool
	// Tail is how long records still come after the scenario's end; default 4 s.
	Tail time.Duration
	// MaxLosses bounds the packets that Truth lists; default 1<<20.
	MaxLosses int
	// Version is what agents say they are; default "flow".
	Version string
}

// Fabric is a scenario on the flow-level fabric. Not safe for concurrent use,
// except that [Fabric.Flows] may be called from many goroutines.
type Fabric struct {
	graph    *Graph
	scenario *scenario.Scenario
	seed     uint64
	options  Options

	noise   []float64 // hazard, by link
	weight  func(Link) float64
	faults  []*fault
	acting  []int32 // by link, index into lists; nil without faults
	lists   [][]int32
	pattern *pattern
	agents  []agent // by device
	late    time.Duration
	// traceRate is how many traces per second a host may make.
	traceRate float64

	run
	truth Truth
}

// defaultTraceRate is the host agents' own, traces per second and host.
const defaultTraceRate = 10

// New resolves a scenario on the flow-level fabric. What is random in it must have
// been drawn (scenario.Draw); seed draws all the rest. The error names the key that
// this fabric cannot honour.
func New(s *scenario.Scenario, seed uint64, o Options) (*Fabric, error) {
	wrong := func(what string, err error) error { return fmt.Errorf("scenario %s: %s%w", s.Name, what, err) }
	if s.Fabric.Kind != "clos" {
		return nil, wrong("", fmt.Errorf("fabric kind %q is not known; use clos", s.Fabric.Kind))
	}
	g, err := NewGraph(s.Fabric.ClosSpec)
	if err != nil {
		return nil, wrong("fabric: ", err)
	}
	if s.Traffic.PacketsMin < 1 || s.Traffic.PacketsMax < s.Traffic.PacketsMin || s.Traffic.PacketsMax > 1e6 {
		return nil, wrong("traffic: ", fmt.Errorf("packets %d..%d is no range within 1..1000000", s.Traffic.PacketsMin, s.Traffic.PacketsMax))
	}
	if r := s.Traffic.ConnectionsPerHost; !(r >= 0 && r <= 1e6) {
		return nil, wrong("traffic: ", fmt.Errorf("connections_per_host %v is not within 0 and 1000000/s", r))
	}
	for _, key := range []struct {
		name  string
		share float64
	}{{"noise", s.Noise}, {"instrumented", s.Instrumented}, {"lying", s.Lying}} {
		if !(key.share >= 0 && key.share <= 1) {
			return nil, wrong(key.name+": ", fmt.Errorf("%v is not within 0 and 1", key.share))
		}
	}
	o.defaults()
	f := &Fabric{graph: g, scenario: s, seed: seed, options: o, late: s.AgentsLate, traceRate: s.TraceBudget}
	if f.traceRate <= 0 {
		f.traceRate = defaultTraceRate
	}
	if err := f.setNoise(); err != nil {
		return nil, wrong("", err)
	}
	if o.Weight != nil {
		f.weight = func(l Link) float64 { return o.Weight(g, l) }
	}
	for i, x := range s.Faults {
		ft, err := g.resolve(x, s, mix(seed^uint64(i)<<32))
		if err != nil {
			return nil, wrong(fmt.Sprintf("fault %d: ", i), err)
		}
		f.faults = append(f.faults, ft)
		f.truth.Faults = append(f.truth.Faults, FaultTruth{Component: ft.component(), Kind: ft.name})
	}
	f.lay()
	if f.pattern, err = newPattern(g, s.Traffic.Pattern, seed); err != nil {
		return nil, wrong("traffic: ", err)
	}
	f.agents = drawAgents(g, s.Instrumented, s.Lying, seed)
	return f, nil
}

func (o *Options) defaults() {
	if o.Start.IsZero() {
		o.Start = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	if o.Heartbeat <= 0 {
		o.Heartbeat = 2 * time.Second
	}
	if o.Rows == 0 {
		o.Rows = 10 * time.Second
	}
	if o.Tail <= 0 {
		o.Tail = 4 * time.Second
	}
	if o.MaxLosses == 0 {
		o.MaxLosses = 1 << 20
	}
	if o.Version == "" {
		o.Version = "flow"
	}
}

func (f *Fabric) setNoise() error {
	f.noise = make([]float64, f.graph.Links())
	same := hazard(f.scenario.Noise)
	for i := range f.noise {
		f.noise[i] = same
		if f.options.Noise != nil {
			p := f.options.Noise(f.graph, Link(i))
			if !(p >= 0 && p <= 1) {
				return fmt.Errorf("noise of link %s: %v is not within 0 and 1", f.graph.LinkName(Link(i)), p)
			}
			f.noise[i] = hazard(p)
		}
	}
	return nil
}

// Graph is the fabric's network.
func (f *Fabric) Graph() *Graph { return f.graph }

// Scenario is the one it was made from. Do not change it.
func (f *Fabric) Scenario() *scenario.Scenario { return f.scenario }

// Start is the time of day at which the run begins.
func (f *Fabric) Start() time.Time { return f.options.Start }

// FaultTimes says whether a fault is there at any time of a span of the run.
func (f *Fabric) FaultTimes(fault int, from, to time.Duration) bool {
	return f.faults[fault].times.touches(from, to)
}

// Next gives what agents send next: records of one kind from one producer, and when
// they arrive, since the start of the run; never earlier than those before. ok is
// false when the run is over. The batch is the caller's. Between two calls nothing
// moves: time is virtual, and the caller waits as long as it likes.
func (f *Fabric) Next() (at time.Duration, batch *decafpb.Batch, ok bool) {
	if !f.begun {
		f.begin()
	}
	for {
		if f.arrival < f.scenario.Duration && (len(f.due) == 0 || f.arrival < f.due[0].at) {
			f.connect(f.arrival)
			f.arrival += f.gap()
			continue
		}
		if len(f.due) == 0 || f.due[0].at > f.scenario.Duration+f.options.Tail {
			return 0, nil, false
		}
		e := f.due.pop()
		if b := f.happen(e); b != nil {
			return e.at, b, true
		}
	}
}
