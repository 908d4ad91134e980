package sim

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"decaf/correlator/blame"
	"decaf/sim/replay"
)

// methods are what a recording can be replayed with, in the order shown. Each is
// begun once and then given epoch after epoch: fused carries evidence over.
var methods = []struct {
	name  string
	begin func(*blame.Network) func(*blame.Epoch) blame.Result
}{
	{"fused", func(n *blame.Network) func(*blame.Epoch) blame.Result {
		return blame.NewHistory(n, blame.Options{}).Infer
	}},
	{"vote", func(n *blame.Network) func(*blame.Epoch) blame.Result {
		return func(e *blame.Epoch) blame.Result { return blame.Vote(n, e) }
	}},
}

// EpochResult is what the methods made of one epoch of a recording.
type EpochResult struct {
	StartNS uint64                  `json:"start_ns"`
	EndNS   uint64                  `json:"end_ns"`
	Methods map[string]MethodResult `json:"methods"`
}

// MethodResult is what one method made of it. Scores are nil where the
// recording has no truth.
type MethodResult struct {
	Components   []BlamedView `json:"components"`
	Suspects     []BlamedView `json:"suspects"`
	Abstained    []string     `json:"abstained"`
	Precision    *float64     `json:"precision,omitempty"`
	Recall       *float64     `json:"recall,omitempty"`
	FlowAccuracy *float64     `json:"flow_accuracy,omitempty"`
	InferenceMS  float64      `json:"inference_ms"` // inference alone, after parsing
}

// BlamedView is a component under suspicion.
type BlamedView struct {
	Component   string       `json:"component"`
	Probability float64      `json:"probability"`
	Class       string       `json:"class"`                // most of what devices reported, or of how hosts' losses came; "" where nothing tells
	BetweenNS   *[2]uint64   `json:"between_ns,omitempty"` // when it lost packets; none: all the time, or nobody knows
	Evidence    EvidenceSums `json:"evidence"`
	Equivalent  []string     `json:"equivalent"` // cannot be told from it
	Trace       []string     `json:"trace"`      // what spoke for and against
}

// EvidenceSums is what a blame rests on, in sums.
type EvidenceSums struct {
	Flows      float64 `json:"flows"` // lossy flows that it explains
	Lost       float64 `json:"lost"`  // packets they lost there
	Packets    float64 `json:"packets"`
	Rate       float64 `json:"rate"`
	Drops      float64 `json:"drops"`
	HostNats   float64 `json:"host_nats"`
	DeviceNats float64 `json:"device_nats"`
}

// Replay reads a recording and puts each epoch to the methods of the names
// given. causes, if not nil, gets a line for each lossy flow and the first
// method. Errors of the recording name the line.
func Replay(in io.Reader, names []string, causes io.Writer, each func(EpochResult) error) error {
	r := replay.NewReader(in, replay.DefaultLimits())
	var b *bridge
	infer := make([]func(*blame.Epoch) blame.Result, len(methods))
	out := bufio.NewWriter(io.Discard)
	if causes != nil {
		out = bufio.NewWriter(causes)
	}
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out.Flush()
		}
		if err != nil {
			return err
		}
		if b == nil {
			if b, err = newBridge(r.Topology()); err != nil {
				return err
			}
			for i, m := range methods {
				infer[i] = m.begin(b.network)
			}
		}
		evidence, lossy := b.epoch(e)
		result := EpochResult{StartNS: e.StartNS, EndNS: e.EndNS, Methods: map[string]MethodResult{}}
		for i, name := range names {
			for j, m := range methods {
				if m.name != name {
					continue
				}
				began := time.Now()
				found := infer[j](evidence)
				took := time.Since(began)
				view := b.view(e, lossy, found)
				view.InferenceMS = float64(took.Nanoseconds()) / 1e6
				result.Methods[name] = view
				if i == 0 {
					if err := b.writeCauses(out, e, lossy, found); err != nil {
						return err
					}
				}
			}
		}
		if err := each(result); err != nil {
			return err
		}
	}
}

// bridge numbers a recording's topology as the engine does.
type bridge struct {
	topo    *replay.Topology
	network *blame.Network
	zeroNS  *uint64 // of the engine's clock, so that seconds have their full precision: the first epoch's start
	host    []int32 // by node; -1 for switches
	device  []int32
	link    []int32
	node    []int32 // as neighbours of drops
	back    map[blame.Component]replay.Component
}

func newBridge(t *replay.Topology) (*bridge, error) {
	hosts := make(map[string]string, t.Hosts())
	var links [][2]string
	for n := range t.Nodes() {
		if id := replay.NodeID(n); t.IsHost(id) {
			hosts[t.Name(id)] = t.Name(t.ToR(id))
		}
	}
	for l := 0; l < t.Links(); l += 2 { // both directions are neighbours
		from, to := t.From(replay.LinkID(l)), t.To(replay.LinkID(l))
		if !t.IsHost(from) && !t.IsHost(to) {
			links = append(links, [2]string{t.Name(from), t.Name(to)})
		}
	}
	network, err := blame.NewNetwork(links, hosts)
	if err != nil {
		return nil, fmt.Errorf("topology of the recording: %w", err)
	}
	b := &bridge{topo: t, network: network, back: make(map[blame.Component]replay.Component)}
	for n := range t.Nodes() {
		name := t.Name(replay.NodeID(n))
		host, device := int32(-1), int32(-1)
		if h, ok := network.Host(name); ok {
			host = h
			b.back[blame.Component{Kind: blame.Host, ID: h}] = t.NodeComponent(replay.NodeID(n))
		}
		if d, ok := network.Device(name); ok {
			device = d
			b.back[blame.Component{Kind: blame.Device, ID: d}] = t.NodeComponent(replay.NodeID(n))
		}
		node, _ := network.Node(name)
		b.host, b.device, b.node = append(b.host, host), append(b.device, device), append(b.node, node)
	}
	for l := range t.Links() {
		id, ok := network.Link(t.Name(t.From(replay.LinkID(l))), t.Name(t.To(replay.LinkID(l))))
		if !ok {
			id = -1
		} else {
			b.back[blame.Component{Kind: blame.Link, ID: id}] = replay.LinkComponent(replay.LinkID(l))
		}
		b.link = append(b.link, id)
	}
	return b, nil
}

func (b *bridge) path(p []replay.LinkID) []int32 {
	out := make([]int32, len(p))
	for i, l := range p {
		out[i] = b.link[l]
	}
	return out
}

// epoch turns a recorded epoch into evidence; lossy gives, for each lossy flow
// of it, the index of its flow line in the epoch. Loss-free flows of unknown path
// are counted per pair of hosts, as a collector would.
func (b *bridge) epoch(e *replay.Epoch) (ep *blame.Epoch, lossy []int) {
	ep = &blame.Epoch{Tally: blame.NewTally(b.network)}
	if b.zeroNS == nil {
		zero := e.StartNS
		b.zeroNS = &zero
	}
	if e.EndNS > e.StartNS {
		ep.During = b.span(replay.Between{FirstNS: e.StartNS, LastNS: e.EndNS})
	}
	for i := range e.Flows {
		f := &e.Flows[i]
		src, dst := b.host[f.Src], b.host[f.Dst]
		if f.Retransmits == 0 && f.Paths() == 0 {
			ep.Tally.Add(src, dst, float64(f.Packets))
			continue
		}
		flow := blame.Flow{Src: src, Dst: dst, Packets: float64(f.Packets), Lost: float64(f.Retransmits), When: b.span(f.Between)}
		if p := e.KnownPath(f); p != nil {
			flow.Path = b.path(p)
		} else {
			for k := range f.Paths() {
				flow.Candidates = append(flow.Candidates, b.path(e.Path(f, k)))
			}
		}
		if f.Retransmits == 0 {
			ep.Clean = append(ep.Clean, flow)
			continue
		}
		ep.Lossy = append(ep.Lossy, flow)
		lossy = append(lossy, i)
	}
	neighbour := func(n replay.NodeID) int32 {
		if n == replay.None {
			return -1
		}
		return b.node[n]
	}
	for i := range e.Drops {
		d := &e.Drops[i]
		ep.Drops = append(ep.Drops, blame.Drop{Device: b.device[d.Device], From: neighbour(d.From), To: neighbour(d.To), Class: d.Class, Count: float64(d.Count), When: b.span(d.Between)})
	}
	for _, d := range e.Instrumented {
		ep.Instrumented = append(ep.Instrumented, b.device[d])
	}
	return ep, lossy
}

// span puts times on the engine's clock.
func (b *bridge) span(t replay.Between) blame.Span {
	if !t.Known() {
		return blame.Span{}
	}
	at := func(ns uint64) float64 { return float64(int64(ns-*b.zeroNS)) / 1e9 }
	return blame.Span{From: at(t.FirstNS), To: at(t.LastNS)}
}

// between is a span as times of the recording.
func (b *bridge) between(s blame.Span) *[2]uint64 {
	if !s.Known() {
		return nil
	}
	at := func(t float64) uint64 { return *b.zeroNS + uint64(int64(t*1e9)) }
	return &[2]uint64{at(s.From), at(s.To)}
}

func (b *bridge) view(e *replay.Epoch, lossy []int, r blame.Result) MethodResult {
	views := func(list []blame.Blame) []BlamedView {
		out := []BlamedView{}
		for _, x := range list {
			v := BlamedView{Component: b.network.Name(x.Component), Probability: x.Probability, Class: x.Class, BetweenNS: b.between(x.During), Equivalent: []string{},
				Trace: append([]string{}, x.Trace...), Evidence: EvidenceSums{
					Flows: x.Evidence.Flows, Lost: x.Evidence.Lost, Packets: x.Evidence.Packets, Rate: x.Evidence.Rate,
					Drops: x.Evidence.Drops, HostNats: x.Evidence.HostNats, DeviceNats: x.Evidence.DeviceNats,
				}}
			for _, c := range x.Equivalent {
				v.Equivalent = append(v.Equivalent, b.network.Name(c))
			}
			out = append(out, v)
		}
		return out
	}
	m := MethodResult{Components: views(r.Components), Suspects: views(r.Suspects), Abstained: append([]string{}, r.Abstained...)}

	var blamed []replay.Blamed
	for _, x := range r.Components {
		named := replay.Blamed{Component: b.back[x.Component]}
		for _, c := range x.Equivalent {
			named.Equivalent = append(named.Equivalent, b.back[c])
		}
		blamed = append(blamed, named)
	}
	of := make(map[int]int, len(lossy))
	for i, flow := range lossy {
		of[flow] = i
	}
	score, ok := e.Score(b.topo, blamed, func(flow int) (replay.Component, bool) {
		i, lossy := of[flow]
		if !lossy || i >= len(r.Causes) || r.Causes[i].Component.Kind == blame.None {
			return replay.Component{}, false
		}
		c, known := b.back[r.Causes[i].Component]
		return c, known
	})
	if ok {
		p, rc, fa := score.Precision(), score.Recall(), score.FlowAccuracy()
		m.Precision, m.Recall, m.FlowAccuracy = &p, &rc, &fa
	}
	return m
}

// writeCauses writes a line per lossy flow, numbered among all flow lines from 1.
func (b *bridge) writeCauses(out io.Writer, e *replay.Epoch, lossy []int, r blame.Result) error {
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false) // links are a>b
	for i, c := range r.Causes {
		line := struct {
			Flow        int     `json:"flow"`
			Component   string  `json:"component"`
			Probability float64 `json:"probability"`
		}{e.FirstFlow + lossy[i] + 1, b.network.Name(c.Component), c.Probability}
		if err := enc.Encode(line); err != nil {
			return fmt.Errorf("write causes: %w", err)
		}
	}
	return nil
}
