package correlator

import (
	"cmp"
	"math"
	"slices"

	"decaf/topology"
)

// voteCut is where Algorithm 1 of 007 stops: at links with less than this share
// of all the votes cast in the window. Not of the votes that remain: that
// reading false-alarms.
const voteCut = 0.01

// Vote is 007's method (Arzani et al., NSDI 2018): each lossy flow gives every
// link of its path 1/h, a lone tail probe half of that, and Algorithm 1 takes the top link together with the
// flows it explains until what is left is small. What Algorithm 1 picks is
// named only if it also meets the Rule.
type Vote struct {
	Rule Rule
}

// Name implements Method.
func (Vote) Name() string { return "vote" }

// History implements Method.
func (Vote) History() int { return 0 }

// Rank implements Method.
func (v Vote) Rank(w *Window) *Ranking {
	r := rankByVotes(v.Name(), w)
	r.Candidates, r.Unexplained = v.algorithm1(w, r.Total)
	r.countVotes()
	return r
}

// rankByVotes ranks the links and names none.
func rankByVotes(method string, w *Window) *Ranking {
	r := &Ranking{Method: method, Start: w.Start, End: w.End, Links: w.paths.sorted(tally(w.Flows, w.paths))}
	for i := range r.Links { // in order, that sums repeat exactly
		r.Total += r.Links[i].Votes
	}
	for i := range r.Links {
		if r.Total > 0 {
			r.Links[i].Share = r.Links[i].Votes / r.Total
		}
	}
	return r
}

// countVotes writes the links' votes to the candidates.
func (r *Ranking) countVotes() {
	for i := range r.Candidates {
		c := &r.Candidates[i]
		for _, s := range r.Links {
			if s.Link == c.Component.Link {
				c.Votes, c.Share = s.Votes, s.Share
			}
		}
	}
}

// sorted orders links by votes; among equals the one with more flows that count
// is first, then by name.
func (p *pathSets) sorted(list []LinkScore) []LinkScore {
	type key struct {
		votes       float64
		flows, rank int32
		at          int32
	}
	keys := make([]key, len(list)) // a quarter of what else would be moved about
	for i := range list {
		s := &list[i]
		keys[i] = key{s.Votes, int32(s.Flows), p.rank[s.at], int32(i)}
	}
	slices.SortFunc(keys, func(a, b key) int {
		if a.votes != b.votes {
			return cmp.Compare(b.votes, a.votes)
		}
		return cmp.Or(cmp.Compare(b.flows, a.flows), cmp.Compare(a.rank, b.rank))
	})
	out := make([]LinkScore, len(list))
	for i, k := range keys {
		out[i] = list[k.at]
	}
	return out
}

// place is where a flow lies in the topology, by number.
type place struct {
	version uint32
	links   []int32 // of those known, in [topology.Topology.Links]
	ends    [2]int32
}

// place gives a flow's; it is looked up once.
func (p *pathSets) place(f *Flow) *place {
	if f.place == nil || f.place.version != f.version {
		x := &place{version: f.version, ends: [2]int32{p.hosts[f.Src], p.hosts[f.Dst]}}
		for _, l := range f.Route.Links {
			if l != nil {
				x.links = append(x.links, p.index[l])
			}
		}
		f.place = x
	}
	return f.place
}

// tally sums the votes per link, in the order of the topology.
func tally(flows []*Flow, p *pathSets) []LinkScore {
	// The flows of each link, one after the other, in order.
	if p.first == nil {
		p.first = make([]int32, len(p.topo.Links)+1)
		p.seen = make([][2]int64, len(p.topo.Hosts)+1)
	}
	first := p.first
	clear(first)
	total := 0
	for _, f := range flows {
		for _, l := range p.place(f).links {
			first[l+1]++
			total++
		}
	}
	links := 0
	for i := range p.topo.Links {
		links += btoi(first[i+1] > 0)
		first[i+1] += first[i]
	}
	if cap(p.crossing) < total {
		p.crossing = make([]int32, total+total/4)
	}
	crossing := p.crossing[:total]
	for i := len(flows) - 1; i >= 0; i-- {
		for _, l := range flows[i].place.links {
			first[l+1]--
			crossing[first[l+1]] = int32(i)
		}
	}
	if len(p.weak) < len(flows) {
		p.weak = make([]bool, len(flows)+len(flows)/4)
	}
	for i, f := range flows {
		p.weak[i] = !f.counts()
	}
	out := make([]LinkScore, 0, links)
	for l := range p.topo.Links { // first[l+1] is where the link's flows begin now
		end := int32(total)
		if l+2 < len(first) {
			end = first[l+2]
		}
		own := crossing[first[l+1]:end]
		if len(own) == 0 {
			continue
		}
		s := LinkScore{Link: p.topo.Links[l], at: int32(l)}
		p.mark++
		for _, i := range own {
			f := flows[i]
			s.Votes += f.counted() / float64(f.Route.Hops)
			if p.weak[i] {
				s.Weak++
				continue
			}
			s.Flows++
			if at := &p.seen[f.place.ends[0]][0]; *at != p.mark {
				*at = p.mark
				s.Sources++
			}
			if at := &p.seen[f.place.ends[1]][1]; *at != p.mark {
				*at = p.mark
				s.Destinations++
			}
		}
		out = append(out, s)
	}
	return out
}

// pick is a link that Algorithm 1 put into B, with the flows it explains there.
type pick struct {
	link  *topology.Link
	flows []*Flow // that count, and that no earlier pick explains
	// before are the links picked earlier, whose flows are gone.
	before []*topology.Link
}

// algorithm1 picks links by votes, keeps those that may be named, and counts
// the flows that none of these explains.
func (v Vote) algorithm1(w *Window, total float64) ([]Candidate, int) {
	var picks []pick
	left := slices.Clone(w.Flows)
	for len(left) > 0 {
		top, ok := topLink(left, w.paths)
		if !ok || top.Votes < voteCut*total {
			break
		}
		p := explains(top.Link, left, picks)
		named := w.Open[Component{Link: p.link}] || v.Rule.check(w, p, v.Rule.noise(w, p, nil)).ok
		if !named {
			if q, ok := v.runnerUp(w, p, top.Votes, left, picks); ok {
				p, named = q, true
			}
		}
		rest := left[:0:0]
		for _, f := range left {
			if f.crosses(p.link) {
				continue
			}
			// A link that may be named takes the echo of its losses along:
			// timeouts of flows whose acknowledgements may have crossed it.
			if named && !f.Proof() && w.paths.mayCross(f.Dst, f.Src, Component{Link: p.link}) {
				continue
			}
			rest = append(rest, f)
		}
		picks = append(picks, p)
		left = rest
	}
	return v.judge(w, picks)
}

// explains makes a pick of a link: what it explains of the flows left.
func explains(l *topology.Link, left []*Flow, picks []pick) pick {
	p := pick{link: l}
	for _, f := range left {
		if f.counts() && f.crosses(l) {
			p.flows = append(p.flows, f)
		}
	}
	for _, q := range picks {
		p.before = append(p.before, q.link)
	}
	return p
}

// runnerUp looks for a link to take in place of a top link that may not be
// named. One stray flow can put a neighbour of the faulty link on top; taking
// it would take the evidence against the faulty one along. A runner-up has at
// least half the top's votes and meets the whole rule, the top being one of
// the rivals it must stand apart from.
func (v Vote) runnerUp(w *Window, top pick, votes float64, left []*Flow, picks []pick) (pick, bool) {
	var list []LinkScore
	for _, s := range tally(left, w.paths) {
		if s.Link != top.link && s.Votes >= votes/2 && s.Flows >= v.Rule.Flows {
			list = append(list, s)
		}
	}
	for _, s := range w.paths.sorted(list) {
		if p := explains(s.Link, left, picks); v.Rule.check(w, p, v.Rule.noise(w, p, nil)).ok {
			return p, true
		}
	}
	return pick{}, false
}

// topLink finds the link with the most votes. Of links with equal votes it
// takes the one that fewer flows of these pairs would cross by chance.
func topLink(flows []*Flow, paths *pathSets) (LinkScore, bool) {
	const same = 1e-9 // votes are sums of fractions
	scores := tally(flows, paths)
	most := 0.0
	for _, s := range scores {
		most = max(most, s.Votes)
	}
	var ties []LinkScore
	for _, s := range scores {
		if s.Votes > most-same {
			ties = append(ties, s)
		}
	}
	if len(ties) == 0 {
		return LinkScore{}, false
	}
	if len(ties) == 1 {
		return ties[0], true
	}
	chance := make(map[*topology.Link]float64, len(ties))
	for _, s := range ties {
		for _, f := range flows {
			if f.crosses(s.Link) {
				chance[s.Link] += paths.share(f.Src, f.Dst, s.Link)
			}
		}
	}
	return slices.MinFunc(ties, func(a, b LinkScore) int {
		x, y := chance[a.Link], chance[b.Link]
		if math.Abs(x-y) < same {
			return cmp.Compare(a.Link.Name, b.Link.Name)
		}
		return cmp.Compare(x, y)
	}), true
}

// judge applies the rule to the picks. The noise it is measured against is what
// no named link explains, so one that fails adds its flows to the noise, and
// the others are measured again.
func (v Vote) judge(w *Window, picks []pick) ([]Candidate, int) {
	named := make(map[*topology.Link]bool, len(picks))
	for _, p := range picks {
		named[p.link] = true
	}
	open := func(l *topology.Link) bool { return w.Open[Component{Link: l}] || named[l] }
	verdicts := make([]verdict, len(picks))
	var noise []*Flow
	for {
		noise = noise[:0]
		for _, f := range w.Flows {
			if f.counts() && !explained(f, open, w.paths) {
				noise = append(noise, f)
			}
		}
		worst := -1
		for i, p := range picks {
			if !named[p.link] {
				continue
			}
			verdicts[i] = v.Rule.check(w, p, v.Rule.noise(w, p, noise))
			if !verdicts[i].ok && (worst < 0 || len(p.flows) < len(picks[worst].flows)) {
				worst = i
			}
		}
		if worst < 0 {
			break
		}
		named[picks[worst].link] = false
	}

	var out []Candidate
	for i, p := range picks {
		out = append(out, v.candidate(w, p.link, p.flows, named[p.link], verdicts[i].reasons, open))
	}
	// A link that is named already and was not picked still has its support.
	for c := range w.Open {
		if c.Link != nil && !slices.ContainsFunc(picks, func(p pick) bool { return p.link == c.Link }) {
			out = append(out, v.candidate(w, c.Link, nil, false, nil, open))
		}
	}
	return out, len(noise)
}

// explained says whether a named link lost the flow's packets, or, where there
// is no proof of loss on the way there, perhaps its acknowledgements.
func explained(f *Flow, named func(*topology.Link) bool, paths *pathSets) bool {
	for _, l := range f.Route.Links {
		if l != nil && named(l) {
			return true
		}
	}
	if f.Proof() || f.Src == "" || f.Dst == "" {
		return false
	}
	for l := range paths.from(f.Dst, f.Src) {
		if named(l) {
			return true
		}
	}
	return false
}

// candidate gathers a link's support: flows that count, and that no other named
// link crosses, so that a fault that is over does not live on by its
// neighbour's losses.
func (v Vote) candidate(w *Window, l *topology.Link, flows []*Flow, opens bool, reasons []string, named func(*topology.Link) bool) Candidate {
	c := Candidate{Component: Component{Link: l}, Method: v.Name(), Opens: opens, Reasons: reasons, Flows: flows}
	var support []*Flow
	for _, f := range w.Flows {
		if !f.counts() || !f.crosses(l) {
			continue
		}
		own := true
		for _, m := range f.Route.Links {
			if m != l && named(m) {
				own = false
			}
		}
		if own {
			support = append(support, f)
		}
	}
	if len(c.Flows) == 0 {
		for _, f := range w.Flows {
			if f.counts() && f.crosses(l) {
				c.Flows = append(c.Flows, f)
			}
		}
	}
	c.First, c.Last = onset(support)
	return c
}

// lull is the least pause between lossy flows that may part noise from the
// fault that came after it.
const lull = 5e9

// onset gives the time from which the flows come without a pause much longer
// than usual, and that of the latest; zeros for none. A stray flow long before
// is noise and no beginning.
func onset(flows []*Flow) (first, last int64) {
	if len(flows) == 0 {
		return 0, 0
	}
	at := make([]int64, len(flows))
	for i, f := range flows {
		at[i] = f.First
		last = max(last, f.Last)
	}
	slices.Sort(at)
	n := len(at)
	usual := int64(0)
	if n > 2 {
		usual = (at[n-1] - at[n/2]) / int64(n-1-n/2) // of the newer half
	}
	i := n - 1
	for i > 0 && at[i]-at[i-1] <= max(lull, 8*usual) {
		i--
	}
	return at[i], last
}
