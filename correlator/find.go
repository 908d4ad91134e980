package correlator

import (
	"fmt"
	"maps"
	"slices"

	"decaf/api/decafpb"
	"decaf/topology"

	"google.golang.org/protobuf/proto"
)

// FindRule says how long findings live.
type FindRule struct {
	// Quiet is how long an open finding may go without new support; a weak
	// fault, whose support comes rarely, is given PatienceFactor mean intervals,
	// up to Patience.
	Quiet, Patience int64 // ns
	PatienceFactor  float64
	// Moment is the same of congestion that hosts alone tell of and that has passed,
	// and Quiet is then the most: it is named only while it lasts.
	Moment int64 // ns
}

// DefaultFindRule resolves after ten seconds without support.
func DefaultFindRule() FindRule {
	return FindRule{Quiet: 10e9, Patience: 90e9, PatienceFactor: 6, Moment: 5e9}
}

// evidenceShown bounds each list of evidence in a finding or verdict.
const evidenceShown = 20

// maxFlowsPerFinding bounds the connections a finding remembers having hurt;
// past it Flows stays at the bound.
const maxFlowsPerFinding = 1 << 16

// openFinding is a finding in progress.
type openFinding struct {
	pb        *decafpb.Finding
	component Component
	flows     map[FlowKey]struct{}
	support   int // drops or lossy flows that supported it
	hosts     map[string]bool
	ifaces    map[string]bool
	pace      int64 // of its support, ns
	passed    bool  // its losses had ended when it was looked at last
}

// Finder keeps findings over time: opens, extends and resolves them.
type Finder struct {
	rule  FindRule
	newID func() string
	open  map[Component]*openFinding
	past  []Settled // resolved, newest last
}

// maxPast bounds the memory of resolved findings' times.
const maxPast = 1024

// NewFinder makes a finder; newID draws the id of a finding.
func NewFinder(rule FindRule, newID func() string) *Finder {
	return &Finder{rule: rule, newID: newID, open: make(map[Component]*openFinding)}
}

// Restore takes a finding of an earlier run: open ones go on, of resolved ones
// the evidence is spent.
func (f *Finder) Restore(t *topology.Topology, pb *decafpb.Finding) {
	c, ok := parseComponent(t, pb.GetComponent())
	if !ok {
		return // the topology has changed; the finding stays as it is in the bucket
	}
	if pb.GetResolvedNs() != 0 {
		f.settle(Settled{c, int64(pb.GetFromNs()), int64(pb.GetLastNs()), pb.GetClass() == classDown})
		return
	}
	o := &openFinding{pb: proto.CloneOf(pb), component: c, flows: map[FlowKey]struct{}{}, hosts: map[string]bool{}, ifaces: map[string]bool{},
		support: int(max(1, pb.GetFlows(), pb.GetEvidence().GetDropCount()))}
	for _, h := range pb.GetHosts() {
		o.hosts[h] = true
	}
	for _, i := range pb.GetInterfaces() {
		o.ifaces[i] = true
	}
	f.open[c] = o
}

func (f *Finder) settle(s Settled) {
	f.past = append(f.past, s)
	if len(f.past) > maxPast {
		f.past = slices.Delete(f.past, 0, len(f.past)-maxPast)
	}
}

// Past gives the resolved findings whose evidence may still lie in a window
// that begins at start.
func (f *Finder) Past(start int64) []Settled {
	var list []Settled
	for _, p := range f.past {
		if p.Last+settleSlack >= start {
			list = append(list, p)
		}
	}
	return list
}

// Open gives the components that are named now.
func (f *Finder) Open() map[Component]bool {
	m := make(map[Component]bool, len(f.open))
	for c := range f.open {
		m[c] = true
	}
	return m
}

// OpenByDevices gives the components named by devices' drops, and since when.
func (f *Finder) OpenByDevices() ([]Component, map[Component]int64) {
	var list []Component
	since := make(map[Component]int64)
	for c, o := range f.open {
		if o.pb.GetMethod() == methodDevice && o.pb.GetClass() != classDown {
			list = append(list, c)
			since[c] = int64(o.pb.GetFromNs())
		}
	}
	slices.SortFunc(list, func(a, b Component) int {
		if a.String() < b.String() {
			return -1
		}
		return 1
	})
	return list, since
}

// OpenOf gives the components named with a class, and since when.
func (f *Finder) OpenOf(class string) map[Component]int64 {
	since := make(map[Component]int64)
	for c, o := range f.open {
		if o.pb.GetClass() == class {
			since[c] = int64(o.pb.GetFromNs())
		}
	}
	return since
}

// Step takes the candidates of a moment and returns the findings that changed,
// as copies.
func (f *Finder) Step(now int64, candidates []Candidate) []*decafpb.Finding {
	changed := make(map[*openFinding]bool)
	for i := range candidates {
		c := &candidates[i]
		o := f.open[c.Component]
		if o == nil {
			if !c.Opens || c.First == 0 {
				continue
			}
			o = &openFinding{
				component: c.Component,
				pb: &decafpb.Finding{
					Id: f.newID(), Component: c.Component.String(), Method: c.Method, Class: c.Class,
					FromNs: uint64(c.First), DetectedNs: uint64(now),
				},
				flows: map[FlowKey]struct{}{}, hosts: map[string]bool{}, ifaces: map[string]bool{},
			}
			f.open[c.Component] = o
			changed[o] = true
		}
		if o.extend(c) {
			changed[o] = true
		}
	}
	for c, o := range f.open {
		if now-int64(o.pb.GetLastNs()) > f.wait(o) {
			o.pb.ResolvedNs = o.pb.GetLastNs()
			delete(f.open, c)
			f.settle(Settled{c, int64(o.pb.GetFromNs()), int64(o.pb.GetLastNs()), o.pb.GetClass() == classDown})
			changed[o] = true
		}
	}
	var out []*decafpb.Finding
	for o := range changed {
		out = append(out, proto.CloneOf(o.pb))
	}
	slices.SortFunc(out, func(a, b *decafpb.Finding) int {
		if a.GetFromNs() != b.GetFromNs() {
			return int(int64(a.GetFromNs()) - int64(b.GetFromNs()))
		}
		if a.GetComponent() < b.GetComponent() {
			return -1
		}
		return 1
	})
	return out
}

// wait is how long a finding may go without support.
func (f *Finder) wait(o *openFinding) int64 {
	wait, most := f.rule.Quiet+2*o.pace, f.rule.Patience
	if o.passed && o.pb.GetMethod() != methodDevice && isClass(o.pb.GetClass(), classNoBuffer) {
		wait, most = f.rule.Moment, f.rule.Quiet
	}
	if o.support > 1 {
		mean := float64(o.pb.GetLastNs()-o.pb.GetFromNs()) / float64(o.support-1)
		wait = max(wait, min(int64(f.rule.PatienceFactor*mean), most))
	}
	return wait
}

// extend adds a candidate's support; true when anything changed.
func (o *openFinding) extend(c *Candidate) bool {
	if c.First == 0 {
		return false
	}
	o.passed = c.passed
	classed := o.classify(c)
	if uint64(c.Last) <= o.pb.GetLastNs() {
		return classed
	}
	o.support += max(1, c.newer(int64(o.pb.GetLastNs())))
	o.pb.LastNs = uint64(c.Last)
	if uint64(c.First) < o.pb.GetFromNs() || o.pb.GetFromNs() == 0 {
		o.pb.FromNs = uint64(c.First)
	}
	for _, f := range c.Flows {
		if len(o.flows) < maxFlowsPerFinding {
			o.flows[f.Key] = struct{}{}
		}
		for _, h := range []string{f.Src, f.Dst} {
			if h != "" {
				o.hosts[h] = true
			}
		}
	}
	for _, h := range c.Hosts {
		o.hosts[h] = true
	}
	o.pace = max(o.pace, c.Pace)
	o.pb.Flows = max(o.pb.Flows, uint64(len(o.flows)), c.Hurt)
	o.pb.Hosts = slices.Sorted(maps.Keys(o.hosts))
	for _, i := range c.Interfaces {
		o.ifaces[i] = true
	}
	o.pb.Interfaces = slices.Sorted(maps.Keys(o.ifaces))
	// What a device that comes back drops, until it has its routes again, is of its
	// having been down.
	returning := o.pb.GetClass() == classDown && c.Class != classDown
	if c.Method == methodDevice && !returning { // a witness beats a vote
		o.pb.Method, o.pb.Class = c.Method, c.Class
	}
	o.pb.Votes = max(o.pb.Votes, c.Votes)
	o.pb.VotesShare = max(o.pb.VotesShare, c.Share)
	o.pb.Probability = max(o.pb.Probability, c.Probability)
	if c.Method == o.pb.GetMethod() && !returning {
		o.pb.Equivalent = nil
		for _, e := range c.Equivalent {
			o.pb.Equivalent = append(o.pb.Equivalent, e.String())
		}
		o.pb.Evidence = evidenceOf(c.Drops, c.Flows, c.Reasons, nil)
	}
	return true
}

// classify says anew whether it is congestion that hosts alone tell of: what lasts
// is a fault, what has passed was none. Once it is known that its devices told of
// nothing, it stays so when they are heard no longer.
func (o *openFinding) classify(c *Candidate) bool {
	was := o.pb.GetClass()
	switch {
	case c.Method == methodDevice || c.Method != o.pb.GetMethod():
		return false
	case !unseen(was) && !isClass(was, classNoBuffer) || !unseen(c.Class) && !c.Congested:
		return false
	case was == c.Class || was == classSilent && c.Class == classUnknown:
		return false
	}
	o.pb.Class = c.Class
	o.pb.Evidence = evidenceOf(c.Drops, c.Flows, c.Reasons, nil)
	return true
}

// newer counts the candidate's support after a time: drops, or without any,
// lossy flows.
func (c *Candidate) newer(than int64) int {
	n := 0
	for _, d := range c.Drops {
		if d.Time > than {
			n++
		}
	}
	if len(c.Drops) > 0 {
		return n
	}
	for _, f := range c.Flows {
		if f.Last > than {
			n++
		}
	}
	return n
}

// evidenceOf lists what a conclusion rests on: first the pairs of a device's
// drop and a host's retransmit of the same segment, then the rest, newest
// first. prefer, if not nil, puts some flows before the others.
func evidenceOf(drops []*Drop, flows []*Flow, reasons []string, prefer func(*Flow) bool) *decafpb.Evidence {
	ev := &decafpb.Evidence{Reasons: reasons, DropCount: uint64(len(drops))}
	type sent struct {
		r       *decafpb.Retransmit
		f       *Flow
		matched bool
	}
	byTuple := make(map[FlowKey][]*Drop)
	for _, d := range drops {
		k := FlowKey{Flow: d.Tuple}
		byTuple[k] = append(byTuple[k], d)
	}
	of := func(f *Flow) (list []*Drop) {
		for _, t := range f.tuples() {
			list = append(list, byTuple[FlowKey{Flow: t}]...)
		}
		return list
	}
	exact, matched := make(map[*Drop]bool), make(map[*Drop]bool)
	var list []sent
	for _, f := range flows {
		ev.RetransmitCount += f.Count
		if f.Route.known > 0 {
			ev.PathCount++
		}
		for _, r := range f.Retransmits {
			s := sent{r: r, f: f}
			for _, d := range of(f) {
				if matches(d.Event, r) {
					s.matched, matched[d] = true, true
					if sentPacket(d.Event).GetTcpSeq() == r.GetTcpSeq() {
						exact[d] = true
					}
				}
			}
			list = append(list, s)
		}
	}
	ev.MatchedCount = uint64(len(matched))
	rank := func(own, matched bool) int {
		n := 0
		if own {
			n -= 2
		}
		if matched {
			n--
		}
		return n
	}
	own := func(f *Flow) bool { return prefer != nil && prefer(f) }
	slices.SortStableFunc(list, func(a, b sent) int {
		if x, y := rank(own(a.f), a.matched), rank(own(b.f), b.matched); x != y {
			return x - y
		}
		return newest(int64(a.r.GetTimeNs()), int64(b.r.GetTimeNs()))
	})
	shown := make(map[*Drop]int) // drops of the flows shown come first
	for i, s := range list {
		if i == evidenceShown {
			break
		}
		ev.Retransmits = append(ev.Retransmits, s.r)
		for _, d := range of(s.f) {
			if matches(d.Event, s.r) {
				shown[d] = evidenceShown - i
			}
		}
	}
	sorted := slices.Clone(drops)
	slices.SortStableFunc(sorted, func(a, b *Drop) int {
		if shown[a] != shown[b] {
			return shown[b] - shown[a]
		}
		if x, y := rank(exact[a], a.Matched), rank(exact[b], b.Matched); x != y {
			return x - y
		}
		return newest(a.Time, b.Time)
	})
	for _, d := range sorted[:min(len(sorted), evidenceShown)] {
		ev.Drops = append(ev.Drops, d.Event)
	}
	ev.LeftOut = uint64(len(drops)-len(ev.Drops)) + ev.RetransmitCount - uint64(len(ev.Retransmits))
	return ev
}

func newest(a, b int64) int {
	switch {
	case a > b:
		return -1
	case a < b:
		return 1
	}
	return 0
}

// describe is a finding in one line, for logs.
func describe(pb *decafpb.Finding) string {
	return fmt.Sprintf("%s (%s, probability %.4f, %d flows)", pb.GetComponent(), pb.GetMethod(), pb.GetProbability(), pb.GetFlows())
}
