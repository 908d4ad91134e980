package correlator

import (
	"fmt"
	"math"
	"slices"

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
	Flows float64
	// Epochs of history, and in how many of them it loses its weight.
	Epochs int
	Decay  float64
	// Over is how unlikely it must be that a fault known from history loses as
	// little as it did lately, for it to be over.
	Over float64
	// Congestion tells it from faults.
	Congestion CongestionRule
}

// DefaultFusedRule is tuned for no false finding.
func DefaultFusedRule() FusedRule {
	return FusedRule{Open: 0.9995, Keep: 0.5, Flows: 2, Epochs: 9, Decay: 5, Over: 0.01, Congestion: DefaultCongestionRule()}
}

// inference is how it is asked: noise comes in bursts where machines stall.
var inference = blame.Options{DateLast: true}

// Fused is the inference of package blame on all the evidence of a window:
// lossy flows with their paths, loss-free traffic, and what devices show or,
// being watched, do not. Of the windows that move on from step to step it keeps
// the evidence as package blame holds it: see [view].
type Fused struct {
	rule  FusedRule
	ids   *fabricIDs
	views map[viewKind]*view
}

// NewFused makes the method for a topology.
func NewFused(t *topology.Topology, r FusedRule) *Fused {
	return &Fused{rule: r, ids: newFabricIDs(t), views: make(map[viewKind]*view)}
}

// Name implements Method.
func (Fused) Name() string { return "fused" }

// History implements Method.
func (m Fused) History() int { return m.rule.Epochs }

// Rank implements Method.
func (m Fused) Rank(w *Window) *Ranking {
	r := rankByVotes(m.Name(), w)
	in := m.view(w.kind).take(w)
	if len(in.order) == 0 && len(in.drops) == 0 {
		return r
	}
	result := in.live.InferOrder(in.order)
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
		m.judge(w, in, c)
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

// view gives the view of a kind of window; of one that does not move on, a new
// one.
func (m Fused) view(k viewKind) *view {
	if k == viewOnce {
		return newView(m.ids, (*Flow).tells)
	}
	if m.views[k] == nil {
		m.views[k] = newView(m.ids, (*Flow).tells)
	}
	return m.views[k]
}

// candidate turns a blamed component into one of ours, without its support.
func (m Fused) candidate(w *Window, in *view, causes []blame.Cause, b blame.Blame) Candidate {
	var flows []*Flow
	for i, f := range in.flows {
		if causes[i].Component == b.Component {
			flows = append(flows, f)
		}
	}
	class := m.ids.pick(append([]blame.Component{b.Component}, b.Equivalent...), flows, w.paths)
	at := class[0]
	c := Candidate{Component: at, Class: b.Class, Congested: isClass(b.Class, classNoBuffer), Method: m.Name(), Probability: b.Probability, Flows: flows, Equivalent: class[1:], Reasons: slices.Clone(b.Trace)}
	if b.During.Known() {
		c.during = [2]int64{nanoseconds(b.During.From), nanoseconds(b.During.To)}
	}
	sent := b.Evidence.Packets
	if in.clean.rows == 0 {
		sent = 0
	}
	m.rule.Congestion.judge(w, &c, b, sent)
	if c.Congested && c.during != [2]int64{} {
		c.passed = w.Known > c.during[1]+timeStep
		c.Reasons = append([]string{"congestion " + clockSpan(c.during[0], c.during[1])}, c.Reasons...)
	}
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
			if c.during != [2]int64{} && !f.lostIn(c.during[0], c.during[1]) {
				continue
			}
			own = append(own, f)
		}
		c.own = own
		if slices.ContainsFunc(own, func(f *Flow) bool { return f.overlaps(w.Current, w.End) }) {
			// A lone tail probe begins and ends nothing.
			sure := slices.DeleteFunc(slices.Clone(own), (*Flow).loneProbe)
			if len(sure) == 0 {
				sure = own
			}
			c.First, c.Last = onset(sure)
		}
	}
}

// judge says whether a candidate may be named, or, being named, is so still.
func (m Fused) judge(w *Window, in *view, c *Candidate) {
	if len(c.Equivalent) > 0 {
		c.Reasons = append(c.Reasons, "cannot be told from "+componentList(c.Equivalent))
	}
	for _, d := range c.Component.devices() {
		told := slices.ContainsFunc(c.Drops, func(x *Drop) bool { return x.Device == d })
		if _, ok := w.Topo.Device(d); ok && !told && !slices.Contains(w.Watching, d) {
			c.Reasons = append(c.Reasons, w.mute(d))
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
	if c.Congested && w.Start != w.Current {
		c.First, c.Last = 0, 0
		c.Doubt = "congestion: it lasts no longer than it is seen"
		return
	}
	if m.over(w, c) {
		c.First, c.Last = 0, 0
		c.Doubt = "over: less is lost lately than at the rate of before"
		return
	}
	c.Doubt = m.doubt(w, in, c)
	c.Opens = c.Doubt == ""
}

// doubt says what a probable candidate lacks to be named.
func (m Fused) doubt(w *Window, in *view, c *Candidate) string {
	src, dst := make(map[string]bool), make(map[string]bool)
	count := 0.0
	for _, f := range c.own {
		src[f.Src], dst[f.Dst] = true, true
		count += f.counted()
	}
	switch {
	case c.Probability < m.rule.Open:
		return fmt.Sprintf("probability %.4f, %.4f is needed to name it", c.Probability, m.rule.Open)
	case count < m.rule.Flows:
		return fmt.Sprintf("%g lossy flows of its own, a lone tail probe being half of one; %g are needed", count, m.rule.Flows)
	case len(src) < 2 && len(dst) < 2:
		return "all its lossy flows are of one pair of hosts, which may be at fault themselves"
	}
	if host, is := in.clean.untold(w, c.Component); is {
		return fmt.Sprintf("what %s sent and got without loss is not told yet", host)
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
