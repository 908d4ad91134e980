package correlator

import (
	"fmt"
	"hash/maphash"
	"math"
	"slices"

	"decaf/api/packet"
	"decaf/correlator/blame"
	"decaf/topology"
)

// FusedRule says what a posterior must be before it names a component.
type FusedRule struct {
	// Open and Keep are the probabilities from which a component is named, and
	// down to which it stays so. The evidence is looked at with every step, and
	// what is looked at often enough crosses any line once: so Open is far above
	// what one look would need.
	Open, Keep float64
	// Flows is how many lossy flows of its own a component needs, of more than one
	// pair of hosts: one connection's trouble is no proof, however it came.
	Flows int
	// Epochs of history, and in how many of them it loses its weight.
	Epochs int
	Decay  float64
	// Over is how unlikely it must be that a fault known from history loses as
	// little as it did lately, for it to be over.
	Over float64
}

// DefaultFusedRule is tuned for no false finding.
func DefaultFusedRule() FusedRule {
	return FusedRule{Open: 0.9995, Keep: 0.5, Flows: 2, Epochs: 9, Decay: 5, Over: 0.01}
}

// Where no segment that was sent later arrived before, a retransmit says less
// of where its packet was lost: on half of the timeouts the acknowledgement was.
const backOfTimeout = 0.5

// Fused is the inference of package blame on all the evidence of a window:
// lossy flows with their paths, loss-free traffic, and what devices show or,
// being watched, do not.
type Fused struct {
	rule FusedRule
	ids  *fabricIDs
	memo *memo
}

// NewFused makes the method for a topology.
func NewFused(t *topology.Topology, r FusedRule) *Fused {
	return &Fused{rule: r, ids: newFabricIDs(t), memo: &memo{}}
}

// Name implements Method.
func (Fused) Name() string { return "fused" }

// History implements Method.
func (m Fused) History() int { return m.rule.Epochs }

// Rank implements Method.
func (m Fused) Rank(w *Window) *Ranking {
	r := rankByVotes(m.Name(), w)
	in := m.input(w)
	if len(in.epoch.Lossy) == 0 && len(in.epoch.Drops) == 0 {
		return r
	}
	result := m.infer(in)
	var abstained []string
	if in.leftOut > 0 {
		abstained = append(abstained, fmt.Sprintf("there are too many lossy flows: the oldest %d are left out", in.leftOut))
	}
	for _, b := range slices.Concat(result.Components, result.Suspects) {
		r.Candidates = append(r.Candidates, m.candidate(w, in, result.Causes, b))
	}
	m.support(w, r)
	for i := range r.Candidates {
		c := &r.Candidates[i]
		m.judge(w, c)
		if c.Doubt != "" && c.Probability >= m.rule.Keep && !w.Open[c.Component] {
			abstained = append(abstained, c.Component.String()+": "+c.Doubt)
		}
	}
	r.Abstained = bounded(append(abstained, result.Abstained...), maxAbstained)
	for i, c := range result.Causes[:len(in.flows)] {
		if c.Component.Kind == blame.None && in.flows[i].counts() {
			r.Unexplained++
		}
	}
	r.countVotes()
	r.spread()
	return r
}

// infer is the one place where this package asks package blame. Most steps bring
// nothing new, so the latest answers are kept.
func (m Fused) infer(in *fusedInput) blame.Result {
	key := in.fingerprint()
	for _, a := range m.memo.held {
		if a.key == key {
			return a.result
		}
	}
	r := blame.Infer(m.ids.net, &in.epoch, blame.Options{})
	m.memo.held[m.memo.next] = answer{key, r}
	m.memo.next = (m.memo.next + 1) % len(m.memo.held)
	return r
}

// memo holds the latest answers. It changes nothing but the time they take.
type memo struct {
	held [4]answer
	next int
}

type answer struct {
	key    uint64
	result blame.Result
}

var fingerprintSeed = maphash.MakeSeed()

// fingerprint of all that an epoch holds. The loss-free packets, which are many,
// go in by their sum.
func (in *fusedInput) fingerprint() uint64 {
	var h maphash.Hash
	h.SetSeed(fingerprintSeed)
	ep := &in.epoch
	maphash.WriteComparable(&h, in.clean)
	for i := range ep.Lossy {
		f := &ep.Lossy[i]
		maphash.WriteComparable(&h, [...]float64{f.Packets, f.Lost, f.Back})
		maphash.WriteComparable(&h, [...]int32{f.Src, f.Dst, int32(f.Seen.Kind), f.Seen.ID, int32(len(f.Path))})
		for _, l := range f.Path {
			maphash.WriteComparable(&h, l)
		}
	}
	for _, d := range ep.Drops {
		maphash.WriteComparable(&h, d)
	}
	for _, d := range ep.Instrumented {
		maphash.WriteComparable(&h, d)
	}
	return h.Sum64()
}

// fusedInput is a window's evidence in the terms of package blame. The first of
// the lossy flows are flows, in this order; those that devices told of follow.
type fusedInput struct {
	epoch blame.Epoch
	flows []*Flow
	clean [3]float64 // of the loss-free traffic: rows, flows, packets

	leftOut int // lossy flows beyond maxLossy
}

// maxLossy bounds the lossy flows of one inference, that it ends in time, and as
// many again that devices told of; the oldest are left out.
const maxLossy = 20_000

// input hands over a window's evidence.
func (m Fused) input(w *Window) *fusedInput {
	in := &fusedInput{}
	mean := m.traffic(w, in)
	lossy := func(f *Flow) {
		in.flows = append(in.flows, f)
		weight := w.weight(f.Last)
		b := blame.Flow{
			Src: m.ids.hostID(f.Src), Dst: m.ids.hostID(f.Dst), Path: m.ids.path(f.Route),
			Lost: weight, Packets: weight * max(1, mean),
		}
		if !f.Proof() {
			b.Back = backOfTimeout
		}
		in.epoch.Lossy = append(in.epoch.Lossy, b)
	}
	var list []*Flow
	for _, f := range w.Pathless {
		if f.tells() && f.Src != "" && f.Dst != "" {
			list = append(list, f)
		}
	}
	for _, f := range w.Flows {
		if f.tells() {
			list = append(list, f)
		}
	}
	in.leftOut = max(0, len(list)-maxLossy)
	for _, f := range list[in.leftOut:] {
		lossy(f)
	}
	valid := make(map[*Drop]bool, len(w.Drops)) // others are a finding's that is resolved
	for _, d := range w.Drops {
		valid[d] = true
	}
	joined := w.Joined[max(0, len(w.Joined)-maxLossy):]
	in.leftOut += len(w.Joined) - len(joined)
	for _, j := range joined {
		if b, ok := m.seen(w, j, valid); ok {
			b.Lost = w.weight(j.Flow.Last)
			b.Packets = b.Lost * max(1, mean)
			in.epoch.Lossy = append(in.epoch.Lossy, b)
		}
	}
	m.drops(w, &in.epoch)
	for _, name := range w.Watching {
		if id, ok := m.ids.net.Device(name); ok {
			in.epoch.Instrumented = append(in.epoch.Instrumented, id)
		}
	}
	return in
}

// tells says whether the flow's loss may be used: handshakes, closes and lone
// tail probes are repeated for too many other reasons.
func (f *Flow) tells() bool { return f.Weak() == "" || f.Weak() == weakPath }

// traffic hands over the loss-free packets, and gives the mean of a flow. Rows
// come late, some only when their time is over, so those of one epoch before
// the window stand in with it: it matters how the traffic is spread, not how
// much of it there is.
func (m Fused) traffic(w *Window, in *fusedInput) (mean float64) {
	if len(w.Traffic) == 0 {
		return 0
	}
	// In whole parts of an epoch, that the same rows serve many steps.
	part := max((w.End-w.Current)/trafficParts, 1)
	to := (w.End + part - 1) / part * part
	from := (w.Start - (w.End - w.Current)) / part * part
	tally := blame.NewTally(m.ids.net)
	for i := range w.Traffic {
		row := &w.Traffic[i]
		share := row.within(from, to)
		if share == 0 {
			continue
		}
		packets := row.Packets * share
		in.clean[0]++
		in.clean[1] += row.Flows * share
		in.clean[2] += packets
		tally.Add(m.ids.host[row.Src], m.ids.host[row.Dst], packets*w.weight(row.End)*float64(w.End-w.Start)/float64(to-from))
	}
	if in.clean[1] == 0 {
		return 0
	}
	in.epoch.Tally = tally
	return in.clean[2] / in.clean[1]
}

// trafficParts is how finely the time of loss-free traffic is cut.
const trafficParts = 6

// seen makes a flow of which a device showed a drop: a packet of its own, or on
// the way back an answer to it. A device that is on neither way has seen
// something else; then the flow says nothing.
func (m Fused) seen(w *Window, j JoinedFlow, valid map[*Drop]bool) (blame.Flow, bool) {
	f := j.Flow
	for _, d := range j.Join.Drops {
		if !valid[d] {
			continue
		}
		// Someone's trace ran out there: no loss of this flow.
		if isClass(d.Event.GetClass(), classTTL) && j.Join.Matched+j.Join.Answer == 0 {
			continue
		}
		at, ok := m.ids.id(d.Component)
		if !ok {
			continue
		}
		b := blame.Flow{Src: m.ids.hostID(f.Src), Dst: m.ids.hostID(f.Dst), Seen: at}
		switch {
		case d.Tuple == f.Key.Flow && d.Component.on(f):
			b.Path = m.ids.path(f.Route)
			return b, true
		case d.Tuple == f.Key.Flow && w.paths.mayCross(f.Src, f.Dst, d.Component):
			return b, true
		case d.Tuple != f.Key.Flow && w.paths.mayCross(f.Dst, f.Src, d.Component):
			b.Src, b.Dst = b.Dst, b.Src
			return b, true
		}
	}
	return blame.Flow{}, false
}

// drops hands over what devices dropped, by component and class. As of what
// hosts lost, each connection counts once, with its latest drop.
func (m Fused) drops(w *Window, ep *blame.Epoch) {
	type key struct {
		at    Component
		class string
		tuple packet.Flow // of one connection; zero for all of a class
	}
	at := make(map[key]int)
	counted := make(map[key]float64)
	for _, d := range w.Drops {
		class := d.Event.GetClass()
		if isClass(class, classTTL) && !d.Matched {
			continue // a trace's, until a host lost that very packet
		}
		device, ok := m.ids.net.Device(d.Device)
		if !ok {
			continue
		}
		k := key{at: d.Component, class: class}
		i, ok := at[k]
		if !ok {
			i = len(ep.Drops)
			at[k] = i
			b := blame.Drop{Device: device, From: -1, To: -1, Class: class}
			if l := d.Component.Link; l != nil && l.From.Node == d.Device {
				b.To, _ = m.ids.net.Node(l.To.Node)
			} else if l != nil {
				b.From, _ = m.ids.net.Node(l.From.Node)
			}
			ep.Drops = append(ep.Drops, b)
		}
		weight := w.weight(d.Time)
		if d.Tuple.Src.IsValid() {
			k.tuple = d.Tuple
			before := counted[k]
			counted[k] = max(before, weight)
			weight = counted[k] - before
		}
		ep.Drops[i].Count += weight
	}
}

// candidate turns a blamed component into one of ours, without its support.
func (m Fused) candidate(w *Window, in *fusedInput, causes []blame.Cause, b blame.Blame) Candidate {
	var flows []*Flow
	for i, f := range in.flows {
		if causes[i].Component == b.Component {
			flows = append(flows, f)
		}
	}
	class := m.ids.pick(append([]blame.Component{b.Component}, b.Equivalent...), flows, w.paths)
	at := class[0]
	c := Candidate{Component: at, Class: b.Class, Method: m.Name(), Probability: b.Probability, Flows: flows, Equivalent: class[1:], Reasons: slices.Clone(b.Trace)}
	for _, d := range w.Drops {
		if d.Component == at {
			c.Drops = append(c.Drops, d)
			if d.Matched {
				c.Matched++
			}
		}
	}
	return c
}

// support finds the lossy flows that are each candidate's own: no other
// component that is named crosses them, so that a fault that is over does not
// live on by its neighbour's losses.
func (m Fused) support(w *Window, r *Ranking) {
	named := make(map[Component]bool, len(w.Open))
	for c := range w.Open {
		named[c] = true
	}
	for _, c := range r.Candidates {
		if c.Probability >= m.rule.Open {
			named[c.Component] = true
		}
	}
	for i := range r.Candidates {
		c := &r.Candidates[i]
		var own []*Flow
	flows:
		for _, f := range w.Flows {
			if !f.tells() || !c.Component.on(f) {
				continue
			}
			for n := range named {
				if n != c.Component && n.on(f) && !n.within(c.Component) {
					continue flows
				}
			}
			own = append(own, f)
		}
		c.own = own
		if slices.ContainsFunc(own, func(f *Flow) bool { return f.overlaps(w.Current, w.End) }) {
			c.First, c.Last = onset(own)
		}
	}
}

// judge says whether a candidate may be named, or, being named, is so still.
func (m Fused) judge(w *Window, c *Candidate) {
	if len(c.Equivalent) > 0 {
		c.Reasons = append(c.Reasons, "cannot be told from "+componentList(c.Equivalent))
	}
	for _, d := range c.Component.devices() {
		told := slices.ContainsFunc(c.Drops, func(x *Drop) bool { return x.Device == d })
		if _, ok := w.Topo.Device(d); ok && !told && !slices.Contains(w.Watching, d) {
			c.Reasons = append(c.Reasons, fmt.Sprintf("silent: the agent of %s was not heard all through the time; that it shows no drops says nothing", d))
		}
	}
	if c.Probability < m.rule.Keep {
		c.First, c.Last = 0, 0
		c.Doubt = fmt.Sprintf("probability %.2f", c.Probability)
		return
	}
	if c.First == 0 {
		if c.Doubt = "it lost nothing lately"; len(c.Drops) > 0 {
			c.Doubt = "what devices show of it does not suffice yet"
		}
		return
	}
	if m.over(w, c) {
		c.First, c.Last = 0, 0
		c.Doubt = "over: less is lost lately than at the rate of before"
		return
	}
	c.Doubt = m.doubt(w, c)
	c.Opens = c.Doubt == ""
}

// doubt says what a probable candidate lacks to be named.
func (m Fused) doubt(w *Window, c *Candidate) string {
	src, dst := make(map[string]bool), make(map[string]bool)
	for _, f := range c.own {
		src[f.Src], dst[f.Dst] = true, true
	}
	switch {
	case c.Probability < m.rule.Open:
		return fmt.Sprintf("probability %.4f, %.4f is needed to name it", c.Probability, m.rule.Open)
	case len(c.own) < m.rule.Flows:
		return fmt.Sprintf("%d lossy flows of its own, %d are needed", len(c.own), m.rule.Flows)
	case len(src) < 2 && len(dst) < 2:
		return "all its lossy flows are of one pair of hosts, which may be at fault themselves"
	}
	for _, e := range c.Equivalent {
		if !m.inseparable(w, c, e) {
			return fmt.Sprintf("%s explains as much; more lossy flows will tell the two apart", e)
		}
	}
	return ""
}

// inseparable says whether flows cross the one component whenever they cross
// the other, so that waiting for more of them would not help.
func (m Fused) inseparable(w *Window, c *Candidate, e Component) bool {
	a, b := c.Component.Link, e.Link
	if a == nil || b == nil {
		return false
	}
	if m.ids.link[a] == m.ids.link[b] {
		return true // side by side: told apart by the paths already, as far as they can
	}
	for _, f := range c.own {
		if x := w.paths.chances(f.Src, f.Dst, a, b, func(*topology.Link) bool { return false }); x.both < x.a || x.both < x.b {
			return false
		}
	}
	return w.paths.alike(a, b)
}

// over says whether a component known from history loses less now than it did.
func (m Fused) over(w *Window, c *Candidate) bool {
	if w.Current == w.Start {
		return false
	}
	before, now := 0.0, 0
	for _, f := range c.Flows {
		if f.overlaps(w.Current, w.End) {
			now++
		} else {
			before += w.weight(f.Last)
		}
	}
	expected := before / max(w.held(), 1e-9)
	return poissonBelow(expected, now) < m.rule.Over
}

// poissonBelow is P(X ≤ n) for X Poisson with this mean.
func poissonBelow(mean float64, n int) float64 {
	sum, term := 0.0, math.Exp(-mean)
	for k := 0; k <= n; k++ {
		sum += term
		term *= mean / float64(k+1)
	}
	return sum
}

// spread writes the candidates' probabilities to the links.
func (r *Ranking) spread() {
	p := make(map[*topology.Link]float64)
	for _, c := range r.Candidates {
		for _, x := range append([]Component{c.Component}, c.Equivalent...) {
			if x.Link != nil {
				p[x.Link] = max(p[x.Link], c.Probability)
			}
		}
	}
	for i := range r.Links {
		r.Links[i].Probability = p[r.Links[i].Link]
	}
}

// bounded cuts a list of words and says how many it left out.
func bounded(words []string, most int) []string {
	if len(words) <= most {
		return words
	}
	return append(slices.Clone(words[:most-1]), fmt.Sprintf("and %d more", len(words)-most+1))
}

// componentList is for people: "link a>b, link c>d".
func componentList(list []Component) string {
	out := ""
	for i, c := range list {
		if i > 0 {
			out += ", "
		}
		out += c.String()
	}
	return out
}
