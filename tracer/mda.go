package tracer

import (
	"cmp"
	"fmt"
	"math"
	"math/bits"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"decaf/api/packet"
	"decaf/topology"
)

// The multipath detection algorithm (MDA): Augustin, Friedman, Teixeira,
// "Multipath tracing with Paris traceroute", E2EMON 2007, with the stopping
// points of Veitch, Augustin, Friedman, Teixeira, "Failure control in multipath
// route tracing", INFOCOM 2009. Flows that differ in their source port are sent
// through each node until, had it one next hop more than were seen, it would
// have shown with the confidence asked for.

// stopping gives how many flows have to be seen going on from a node where k
// next hops were found, so that a further one, if flows spread evenly, has
// been missed with a probability of at most epsilon: the smallest n with
// Σ (−1)^(i+1) C(K,i) (1−i/K)^n ≤ epsilon, K = k+1.
func stopping(k int, epsilon float64) int {
	key := struct {
		k       int
		epsilon float64
	}{k, epsilon}
	if n, ok := stoppings.Load(key); ok {
		return n.(int)
	}
	n := k + 1
	for missed(k+1, n) > epsilon {
		n++
	}
	stoppings.Store(key, n)
	return n
}

var stoppings sync.Map // of the above; few keys, asked for all the time

// missed is the probability that n flows spread evenly over all of k ways leave
// one of them unused.
func missed(k, n int) float64 {
	sum, choose := 0.0, 1.0
	for i := 1; i < k; i++ {
		choose *= float64(k-i+1) / float64(i)
		term := choose * math.Pow(1-float64(i)/float64(k), float64(n))
		if i%2 == 0 {
			term = -term
		}
		sum += term
		if math.Abs(term) < 1e-12 {
			break
		}
	}
	return min(max(sum, 0), 1)
}

// maxNodes bounds the nodes of one TTL.
const maxNodes = 1024

// repeats is how often one flow is sent again through a node with several next
// hops, to see whether it always takes the same.
const repeats = 5

// mda enumerates the paths to a destination. It does no I/O, has no lock and reads
// no clock; all times are offsets from its start. It is used as machine is.
type mda struct {
	epsilon         float64
	resend, timeout time.Duration // of one probe
	dst             netip.Addr
	maxFlows        int
	levels          []*level // by TTL-1
	at              int      // the one being worked on; len(levels) when none is
	flows           int      // made so far; 0 is the flow that was asked about
	sentProbes      int
	full            bool // more flows were needed than maxFlows
	finishing       bool
	over            time.Duration // -1 while it is not
}

// level is one TTL.
type level struct {
	asks  []ask // by flow
	nodes []mdaNode
	index map[netip.Addr]int
}

type mdaNode struct {
	address   netip.Addr // invalid: silent
	end       bool       // the path ends here: the destination, or it refuses
	meaning   string     // of a refusal
	name      string
	mpls      []uint32
	rtt       time.Duration // least seen
	perPacket bool          // flows do not keep to one next hop behind it
	checked   bool
}

// ask is one flow at one TTL.
type ask struct {
	state  askState
	node   int // in level.nodes, once answered
	sentAt []time.Duration
	next   time.Duration // of the resend
	gap    time.Duration // to the one after
	until  time.Duration // when it is given up; -1: to be set with the next probe
	// again counts the repeats wished for, got and answered otherwise.
	again, got, other int
}

type askState uint8

const (
	unasked askState = iota
	waiting
	answered
	silent
)

// mdaProbe is one probe to send.
type mdaProbe struct{ flow, ttl int }

// newMDA enumerates over a number of switches, with a probability of at most
// epsilon per node to miss a next hop.
func newMDA(dst netip.Addr, switches, maxFlows int, epsilon float64, resend, timeout time.Duration) *mda {
	e := &mda{epsilon: epsilon, resend: resend, timeout: timeout, dst: dst, maxFlows: maxFlows, over: -1}
	for range switches {
		e.levels = append(e.levels, &level{index: make(map[netip.Addr]int)})
	}
	return e
}

// due returns the probes to send now and when to ask again; done when it is over.
// Each probe is recorded as sent.
func (e *mda) due(now time.Duration, buf []mdaProbe) (out []mdaProbe, next time.Duration, done bool) {
	out = buf[:0]
	if e.over >= 0 {
		return out, 0, true
	}
	next = now + e.timeout
	for {
		planned := len(out)
		out, next = e.resends(out, now, next)
		if !e.plan() && !e.waiting() {
			if e.at < len(e.levels) && !e.ended() {
				e.at++
				continue
			}
			if !e.finishing {
				e.finishing, e.at = true, len(e.levels)
				e.finish()
				continue
			}
			e.over = now
			return out[:0], 0, true
		}
		if len(out) == planned && !e.fresh() {
			return out, next, false
		}
	}
}

// resends sends what was just planned and what stayed unanswered, and gives up
// what did so for too long.
func (e *mda) resends(out []mdaProbe, now, next time.Duration) ([]mdaProbe, time.Duration) {
	for ttl, l := range e.levels {
		for f := range l.asks {
			a := &l.asks[f]
			if a.state != waiting && a.got >= a.again {
				continue
			}
			switch {
			case len(a.sentAt) > 0 && a.until >= 0 && now >= a.until:
				if a.state == waiting {
					a.state = silent
				}
				a.again = a.got
				continue
			case now >= a.next:
				n := 1
				if a.state == answered {
					n = a.again - a.got
				}
				if len(a.sentAt) == 0 || a.until < 0 {
					a.until, a.gap = now+e.timeout, e.resend
				}
				a.next = now + a.gap
				a.gap *= 2
				for range n {
					a.sentAt = append(a.sentAt, now)
					out = append(out, mdaProbe{flow: f, ttl: ttl + 1})
					e.sentProbes++
				}
			}
			next = min(next, a.next, a.until)
		}
	}
	return out, next
}

// fresh says whether something was planned and not yet sent.
func (e *mda) fresh() bool {
	for _, l := range e.levels {
		for i := range l.asks {
			if a := &l.asks[i]; a.state == waiting && len(a.sentAt) == 0 || a.got < a.again && a.until < 0 {
				return true
			}
		}
	}
	return false
}

func (e *mda) waiting() bool {
	for _, l := range e.levels {
		for i := range l.asks {
			if a := &l.asks[i]; a.state == waiting || a.got < a.again {
				return true
			}
		}
	}
	return false
}

// ask plans a flow at a TTL-1; false if it was before.
func (e *mda) ask(flow, at int) bool {
	l := e.levels[at]
	for len(l.asks) <= flow {
		l.asks = append(l.asks, ask{})
	}
	if l.asks[flow].state != unasked {
		return false
	}
	l.asks[flow].state = waiting
	return true
}

// create makes n more flows, as far as allowed, and plans them at a TTL-1.
func (e *mda) create(n, at int) (made int) {
	for ; made < n; made++ {
		if e.flows >= e.maxFlows {
			e.full = true
			break
		}
		e.ask(e.flows, at)
		e.flows++
	}
	return made
}

// plan asks for what the TTL worked on still needs. It reports whether anything
// was planned.
func (e *mda) plan() (planned bool) {
	if e.at >= len(e.levels) {
		return false
	}
	l := e.levels[e.at]
	parents := e.parents()
	short, lacking := 0, 0
	for _, p := range parents {
		g := e.count(p)
		want := stopping(max(g.nexts, 1), e.epsilon)
		// Flows that got no answer count where none gets one; else others are tried
		// instead, but not for ever.
		n := g.answered
		if n == 0 {
			n = g.silent
		}
		deficit := want - n - g.waiting
		if g.answered+g.silent+g.waiting >= 3*want {
			deficit = 0
		}
		for _, f := range g.unasked {
			if deficit <= 0 {
				break
			}
			if e.ask(f, e.at) {
				deficit--
				planned = true
			}
		}
		if deficit > 0 {
			short += deficit
			lacking++
		}
		if deficit <= 0 && g.waiting == 0 && g.nexts > 1 && e.repeat(p, g.sample) {
			planned = true
		}
	}
	if short == 0 || len(parents) == 0 {
		return planned
	}
	at := e.at
	if !parents[0].whole {
		// Which of the nodes before a new flow comes to has to be seen first. The
		// answers of those under way may do.
		at--
		for i := range e.levels[at].asks {
			if e.levels[at].asks[i].state == waiting {
				return planned
			}
		}
		short = (short*len(e.levels[at].nodes) + lacking - 1) / lacking
	}
	if e.create(short, at) > 0 {
		planned = true
	} else if len(l.nodes) > 0 {
		e.full = true
	}
	return planned
}

// parent is a node before the TTL worked on, by number; whole is every flow's.
type parent struct {
	node  int
	whole bool
}

// parents are the nodes of the TTL before that flows go on from. Where there is
// but one, every flow comes through it.
func (e *mda) parents() []parent {
	if e.at == 0 {
		return []parent{{whole: true, node: -1}}
	}
	before := e.levels[e.at-1]
	if len(before.nodes) <= 1 {
		return []parent{{whole: true, node: len(before.nodes) - 1}}
	}
	var out []parent
	for n := range before.nodes {
		if !before.nodes[n].end {
			out = append(out, parent{node: n})
		}
	}
	return out
}

// group is what is known of the flows that go on from a node.
type group struct {
	answered, silent, waiting int
	nexts                     int // next hops seen
	unasked                   []int
	sample                    int // an answered flow, -1 none
}

func (e *mda) count(p parent) group {
	g := group{sample: -1}
	l := e.levels[e.at]
	next := make(map[int]bool)
	for f := range e.flows {
		if !p.whole {
			if before := e.levels[e.at-1].asks; f >= len(before) || before[f].state != answered || before[f].node != p.node {
				continue
			}
		}
		state := unasked
		if f < len(l.asks) {
			state = l.asks[f].state
		}
		switch state {
		case unasked:
			g.unasked = append(g.unasked, f)
		case waiting:
			g.waiting++
		case silent:
			g.silent++
		case answered:
			g.answered++
			next[l.asks[f].node] = true
			if g.sample < 0 {
				g.sample = f
			}
		}
	}
	g.nexts = len(next)
	return g
}

// repeat sends one flow some more times behind a node with several next hops.
func (e *mda) repeat(p parent, flow int) bool {
	checked := &e.levels[e.at].asks[flow]
	if p.node >= 0 {
		n := &e.levels[e.at-1].nodes[p.node]
		if n.checked {
			return false
		}
		n.checked = true
	} else if checked.again > 0 || checked.got > 0 {
		return false
	}
	checked.again = repeats
	checked.next, checked.until = 0, -1
	return true
}

// ended says whether no flow goes on from the TTL worked on.
func (e *mda) ended() bool {
	l := e.levels[e.at]
	return len(l.nodes) > 0 && !slices.ContainsFunc(l.nodes, func(n mdaNode) bool { return !n.end })
}

// finish asks for what keeps whole paths from being known: the flows seen at the
// last TTL with several nodes, at the others with several.
func (e *mda) finish() {
	last := -1
	for i, l := range e.levels {
		if len(l.nodes) > 1 {
			last = i
		}
	}
	if last < 0 {
		return
	}
	for f := range e.levels[last].asks {
		if e.levels[last].asks[f].state != answered {
			continue
		}
		for i := range last {
			if len(e.levels[i].nodes) > 1 {
				e.ask(f, i)
			}
		}
	}
}

// answer takes an ICMP error for a probe. It reports whether to ask due at once.
func (e *mda) answer(flow int, a answer, now time.Duration) (wake bool) {
	if e.over >= 0 || a.ttl < 1 || a.ttl > len(e.levels) || flow < 0 || flow >= e.flows {
		return false
	}
	l := e.levels[a.ttl-1]
	if flow >= len(l.asks) {
		return false
	}
	k := &l.asks[flow]
	end := a.from == e.dst || a.kind == packet.Unreachable
	if !end && a.kind != packet.TimeExceeded || k.state == unasked || len(k.sentAt) == 0 {
		return false
	}
	at := a.from
	if a.inbound.IsValid() && !end {
		at = a.inbound
	}
	i, known := l.index[at]
	if !known {
		if len(l.nodes) >= maxNodes {
			return false
		}
		i = len(l.nodes)
		l.index[at] = i
		n := mdaNode{address: at, end: end, name: a.name, mpls: a.mpls}
		if a.from != e.dst && end {
			n.meaning = a.meaning
		}
		l.nodes = append(l.nodes, n)
	}
	if rtt := (&hop{sentAt: k.sentAt}).roundTrip(a.nth, now); rtt > 0 && (l.nodes[i].rtt == 0 || rtt < l.nodes[i].rtt) {
		l.nodes[i].rtt = rtt
	}
	switch {
	case k.state != answered: // also what was given up: better late
		k.state, k.node = answered, i
	case k.again > k.got:
		k.got++
		if i != k.node {
			k.other++
			e.markPerPacket(a.ttl-1, flow)
		}
	case i != k.node:
		k.other++
		e.markPerPacket(a.ttl-1, flow)
	}
	return !e.busy()
}

// markPerPacket notes at the node before that a flow did not keep to one way.
func (e *mda) markPerPacket(at, flow int) {
	if at == 0 {
		return
	}
	if n := e.nodeOf(flow, at-1); n >= 0 {
		e.levels[at-1].nodes[n].perPacket = true
	}
}

// busy says whether answers are still to come before anything can be decided.
func (e *mda) busy() bool {
	at := min(e.at, len(e.levels)-1)
	for i := max(at-1, 0); i <= at; i++ {
		for j := range e.levels[i].asks {
			if a := &e.levels[i].asks[j]; a.state == waiting || a.got < a.again {
				return true
			}
		}
	}
	return false
}

// nodeOf gives the node a flow comes through at a TTL-1, -1 if that is not
// known. Through the only one there is comes every flow.
func (e *mda) nodeOf(flow, at int) int {
	l := e.levels[at]
	if flow < len(l.asks) && l.asks[flow].state == answered {
		return l.asks[flow].node
	}
	if len(l.nodes) == 1 {
		return 0
	}
	return -1
}

// Fan is what an enumeration found: the nodes and links that flows between two
// hosts go over.
type Fan struct {
	// Hops holds the nodes by TTL, from 1. A TTL that never answered has one node
	// without an address.
	Hops [][]Node
	// Links join nodes of one TTL and the next.
	Links []FanLink
	// Paths are the ways that flows were seen to take from end to end, most used
	// first; Possible is how many the links allow.
	Paths    []FanPath
	Possible uint64
	// Own is the place in Paths of the flow that was asked about, -1 when a hop of
	// it did not answer.
	Own int
	// Complete is whether every node was seen often enough for the confidence
	// asked for; Why says what is missing or odd, also of a complete one.
	Complete bool
	Why      string
	Flows    int      // tried
	Ports    []uint16 // their source ports
	Labels   []uint32 // and IPv6 flow labels, 0 none; nil for IPv4
	Probes   int
	Took     time.Duration
}

// Node is an interface that answered at some TTL.
type Node struct {
	Address   netip.Addr // invalid: nobody answered
	End       bool       // the destination, or who refused: see Meaning
	Meaning   string
	Interface string   // in the router's words (RFC 5837)
	MPLS      []uint32 // as in Path
	RTT       time.Duration
	// PerPacket is whether packets of one flow went on by several next hops.
	PerPacket bool
	Flows     int // seen here
}

// FanLink joins node From of Hops[TTL-1] and node To of Hops[TTL].
type FanLink struct {
	TTL, From, To int
	Flows         int // seen on it
}

// FanPath is one way.
type FanPath struct {
	Nodes []int // by TTL, place in Hops
	Flows []int // numbers of those seen on it; 0 is the one asked about
}

// fan tells what was found.
func (e *mda) fan() *Fan {
	f := &Fan{Own: -1, Flows: e.flows, Probes: e.sentProbes, Took: e.over}
	var why []string
	length := len(e.levels)
	for i := range e.levels {
		if l := e.levels[i]; len(l.nodes) > 0 && !slices.ContainsFunc(l.nodes, func(n mdaNode) bool { return !n.end }) {
			length = i + 1
			break
		}
	}
	f.Complete = !e.full
	if e.full {
		why = append(why, fmt.Sprintf("more than %d flows would be needed", e.maxFlows))
	}
	for ttl, l := range e.levels[:length] {
		nodes := make([]Node, 0, len(l.nodes))
		mute := 0
		for i := range l.asks {
			if l.asks[i].state == silent {
				mute++
			}
		}
		for _, n := range l.nodes {
			nodes = append(nodes, Node{Address: n.address, End: n.end, Meaning: n.meaning, Interface: n.name, MPLS: n.mpls, RTT: n.rtt, PerPacket: n.perPacket})
			if n.meaning != "" {
				why = append(why, fmt.Sprintf("%s says at TTL %d: %s", n.address, ttl+1, n.meaning))
			}
			if n.perPacket {
				f.Complete = false
				why = append(why, fmt.Sprintf("%s (TTL %d) balances packets of one flow one by one: what lies behind it are no paths of flows", n.address, ttl+1))
			}
		}
		switch {
		case len(nodes) == 0:
			nodes = []Node{{}}
			f.Complete = false
			why = append(why, fmt.Sprintf("TTL %d silent", ttl+1))
		case mute > 0:
			f.Complete = false
			why = append(why, fmt.Sprintf("TTL %d silent to %d of %d flows", ttl+1, mute, len(l.asks)))
		}
		if len(l.nodes) >= maxNodes {
			f.Complete = false
			why = append(why, fmt.Sprintf("TTL %d: no more than %d nodes are kept", ttl+1, maxNodes))
		}
		f.Hops = append(f.Hops, nodes)
	}
	why = append(why, f.loops()...)
	f.walk(e)
	f.Why = strings.Join(why, "; ")
	return f
}

// loops names the addresses that answered at several TTLs.
func (f *Fan) loops() (why []string) {
	first := make(map[netip.Addr]int)
	for i, nodes := range f.Hops {
		for _, n := range nodes {
			if ttl, ok := first[n.Address]; ok && n.Address.IsValid() && !n.End {
				why = append(why, fmt.Sprintf("%s answered at TTL %d and %d: a routing loop, or paths of different length", n.Address, ttl, i+1))
			} else if !ok {
				first[n.Address] = i + 1
			}
		}
	}
	return why
}

// walk fills in links and paths from the flows.
func (f *Fan) walk(e *mda) {
	links := make(map[FanLink]int)
	paths := make(map[string]int)
	for flow := range e.flows {
		nodes := make([]int, 0, len(f.Hops))
		whole := true
		for i := range f.Hops {
			n := 0 // of a silent TTL
			if len(e.levels[i].nodes) > 0 {
				n = e.nodeOf(flow, i)
			}
			if n >= 0 && i < len(e.levels) && flow < len(e.levels[i].asks) && e.levels[i].asks[flow].state == answered {
				f.Hops[i][n].Flows++
			}
			if n >= 0 && i > 0 && len(nodes) == i && nodes[i-1] >= 0 {
				links[FanLink{TTL: i, From: nodes[i-1], To: n}]++
			}
			nodes = append(nodes, n)
			if n < 0 {
				whole = false
			} else if f.Hops[i][n].End {
				break
			}
		}
		if !whole {
			continue
		}
		key := fmt.Sprint(nodes)
		at, ok := paths[key]
		if !ok {
			at = len(f.Paths)
			paths[key] = at
			f.Paths = append(f.Paths, FanPath{Nodes: nodes})
		}
		f.Paths[at].Flows = append(f.Paths[at].Flows, flow)
	}
	for l, n := range links {
		l.Flows = n
		f.Links = append(f.Links, l)
	}
	slices.SortFunc(f.Links, func(a, b FanLink) int {
		return cmp.Or(a.TTL-b.TTL, a.From-b.From, a.To-b.To)
	})
	f.countPossible()
	slices.SortStableFunc(f.Paths, func(a, b FanPath) int { return len(b.Flows) - len(a.Flows) })
	for i, p := range f.Paths {
		if slices.Contains(p.Flows, 0) {
			f.Own = i
		}
	}
}

// Walks gives the paths as package topology learns from them.
func (f *Fan) Walks(flow packet.Flow) []topology.Walk {
	var out []topology.Walk
	for _, p := range f.Paths {
		w := topology.Walk{Src: flow.Src.Addr(), Dst: flow.Dst.Addr()}
		for i, n := range p.Nodes {
			node := f.Hops[i][n]
			if node.End {
				break // the destination, or nobody knows how it goes on
			}
			w.Hops = append(w.Hops, node.Address)
			w.Names = append(w.Names, node.Interface)
		}
		if last := len(p.Nodes) - 1; f.Hops[last][p.Nodes[last]].Meaning != "" {
			w.Dst = netip.Addr{} // refused on the way
		}
		out = append(out, w)
	}
	return out
}

// countPossible counts the ways through the links, up to the largest uint64.
func (f *Fan) countPossible() {
	ways := make([]uint64, 0) // to each node of the TTL before
	for i, nodes := range f.Hops {
		here := make([]uint64, len(nodes))
		if i == 0 {
			for n := range here {
				here[n] = 1
			}
		}
		for _, l := range f.Links {
			if l.TTL == i && i > 0 {
				sum, carry := bits.Add64(here[l.To], ways[l.From], 0)
				if carry != 0 {
					sum = math.MaxUint64
				}
				here[l.To] = sum
			}
		}
		ways = here
		for n := range nodes {
			if last := i == len(f.Hops)-1; last || nodes[n].End {
				sum, carry := bits.Add64(f.Possible, ways[n], 0)
				if carry != 0 {
					sum = math.MaxUint64
				}
				f.Possible = sum
			}
		}
	}
}
