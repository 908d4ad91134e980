package correlator

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"decaf/topology"
)

// methodHost names findings that rest on what hosts tell of their connections.
const methodHost = "host-evidence"

// Classes of trouble that is a host's own. Loss has the classes of devices;
// these are beside them.
const (
	classHost      = "host"
	classHostReset = "host/reset"       // it resets connections
	classHostZero  = "host/zero-window" // its processes do not read
	classHostSlow  = "host/slow"        // what it sends waits within it
)

// HostRule says what connections must show before a host is named. Several other
// hosts must agree, and the host must stand out from all others: what happens
// everywhere is no host's fault.
type HostRule struct {
	// Spans are how far it looks back, ns: not far, that what has begun shows among
	// what was well, and far, that there are enough connections. The farthest is last.
	Spans []int64
	// Early is how far it looks back besides, ns, for closed windows: hosts tell of
	// those before their tables' interval is over.
	Early int64
	Flows int // connections of the host, at least
	Peers int // other hosts that see it, and at least half of those it has
	// Held are as many of these at a closed window, and at least a third.
	Held int
	// Resets and ResetShare are how many connections must have been reset, and of
	// how many.
	Resets     int
	ResetShare float64
	Zero       float64 // mean time of a closed window, ns
	Slow       float64 // mean round trip, ns, and
	SlowTimes  float64 // this many times the usual one
	Times      float64 // by how much it must stand out otherwise
	Late       int64   // how long ago the trouble may have been when the host is named, ns
}

// DefaultHostRule is tuned for no false finding. On the kernel fabric a host whose
// processes stand still closes its windows for 30 to 100 ms per connection, before one
// in ten of these, a healthy one for less than 0.1; one that sends slowly takes 5 to 30 ms for a round trip where
// others take 0.1.
func DefaultHostRule() HostRule {
	return HostRule{Spans: []int64{9e9, 30e9}, Early: 5e9, Flows: 10, Peers: 2, Held: 3, Resets: 5, ResetShare: 0.1, Zero: 25e6, Slow: 5e6, SlowTimes: 20, Times: 10, Late: 6e9}
}

// connSum adds up records of a pair of hosts.
type connSum struct {
	flows, resets, zero, rtt, timed float64
	times                           [3]connTimes // of the records that show trouble, by trouble
}

// connTimes is when some records were, ns: the first, the last, and how long the
// longest took.
type connTimes struct{ first, last, longest int64 }

// Troubles, as connSum.times has them.
const (
	troubleReset = iota
	troubleZero
	troubleSlow
)

func (s *connSum) add(r *ConnRecord, rule *HostRule) {
	s.flows += r.Flows
	s.resets += r.Resets
	s.zero += r.Zero
	s.rtt += r.RTT
	s.timed += r.Timed
	for i, shows := range [...]bool{r.Resets > 0, rule.waits(r.Zero, r.Flows), mean(r.RTT, r.Timed) >= rule.Slow} {
		if shows {
			s.times[i].add(r)
		}
	}
}

func (t *connTimes) add(r *ConnRecord) {
	at := r.End
	if !r.single { // of a sum, the middle is the best guess
		at = r.Start + (r.End-r.Start)/2
		t.longest = max(t.longest, r.End-r.Start)
	}
	if t.first == 0 || at < t.first {
		t.first = at
	}
	t.last = max(t.last, r.End)
}

func mean(sum, n float64) float64 {
	if n <= 0 {
		return 0
	}
	return sum / n
}

// pair is source and destination, as indexes in Topology.Hosts.
type pair struct{ src, dst int32 }

// tellers are the hosts that sum up their services, and the pairs they do so of. Such
// a sum comes when an interval of the host's tables ends; what is held up is told
// ahead, the rest of its interval is not. Until then rows tell of the rest. As rows
// are of answers as well, only those to whom the host opens connections count.
type tellers struct {
	hosts map[int32]bool
	opens map[pair]bool
}

func tellersOf(rows []ConnRecord, since int64) tellers {
	t := tellers{make(map[int32]bool), make(map[pair]bool)}
	for i := range rows {
		if r := &rows[i]; r.Service && r.End >= since {
			t.hosts[r.Src], t.opens[pair{r.Src, r.Dst}] = true, true
		}
	}
	return t
}

// connSums adds up what hosts told since a moment. Where sums of a host's services
// at another are told, each of its connections there is in one, or will be; else its
// rows count, and the single records of a host that sums up nothing.
func (rule *HostRule) connSums(rows []ConnRecord, since int64, tell tellers) map[pair]*connSum {
	out, unsummed := make(map[pair]*connSum), make(map[pair]*connSum)
	for i := range rows {
		r := &rows[i]
		if r.End < since {
			continue
		}
		k, sums := pair{r.Src, r.Dst}, out
		if !r.Service {
			if sums = unsummed; tell.hosts[r.Src] && (r.single || !tell.opens[k]) {
				continue
			}
		}
		if sums[k] == nil {
			sums[k] = new(connSum)
		}
		sums[k].add(r, rule)
	}
	for k, s := range unsummed {
		if out[k] == nil {
			out[k] = s
		}
	}
	return out
}

// accuse names the hosts that others' connections, or their own, speak against.
// trouble says of which hosts the network may be to blame: none of these is named
// for being slow.
func (r HostRule) accuse(t *topology.Topology, rows []ConnRecord, now int64, trouble func(host string) bool) []Candidate {
	var out []Candidate
	name := func(found []Candidate) {
		for _, c := range found {
			if !slices.ContainsFunc(out, func(x Candidate) bool { return x.Component == c.Component }) {
				c.Opens = now-c.Last <= r.Late
				out = append(out, c)
			}
		}
	}
	last := len(r.Spans) - 1
	tell := tellersOf(rows, now-r.Spans[last])
	long := r.since(t, rows, now, r.Spans[last], tell, nil, trouble)
	if slices.ContainsFunc(rows, func(c ConnRecord) bool { return c.End >= now-r.Early && r.waits(c.Zero, c.Flows) }) {
		name(r.since(t, rows, now, r.Early, tell, long, trouble).early())
	}
	for _, span := range r.Spans[:last] {
		name(r.since(t, rows, now, span, tell, long, trouble).all())
	}
	name(long.all())
	return out
}

// waits says whether so many connections that waited so long at closed windows, ns,
// speak against a host.
func (r *HostRule) waits(zero, flows float64) bool { return mean(zero, flows) >= r.Zero/2 }

// since gathers the records of the last span, ns; long is the case of the longest, nil
// for that itself.
func (r HostRule) since(t *topology.Topology, rows []ConnRecord, now, span int64, tell tellers, long *hostCase, trouble func(host string) bool) *hostCase {
	x := &hostCase{
		HostRule: r, topo: t, span: span, long: long, sums: r.connSums(rows, now-span, tell),
		into: make(map[int32][]pair), from: make(map[int32][]pair), trouble: trouble,
	}
	for k := range x.sums {
		x.order = append(x.order, k)
	}
	slices.SortFunc(x.order, func(a, b pair) int { return cmp.Or(cmp.Compare(a.src, b.src), cmp.Compare(a.dst, b.dst)) })
	for _, k := range x.order {
		x.into[k.dst], x.from[k.src] = append(x.into[k.dst], k), append(x.from[k.src], k)
		s := x.sums[k]
		x.total.flows += s.flows
		x.total.resets += s.resets
		x.total.zero += s.zero
	}
	return x
}

// all names hosts in any trouble.
func (x *hostCase) all() []Candidate {
	var out []Candidate
	for _, h := range slices.Sorted(maps.Keys(x.into)) {
		if c, ok := x.ends(h, x.into[h]); ok {
			out = append(out, c)
		}
		if c, ok := x.reads(h); ok {
			out = append(out, c)
		}
	}
	for _, h := range slices.Sorted(maps.Keys(x.from)) {
		if c, ok := x.sends(h); ok {
			out = append(out, c)
		}
	}
	return out
}

// early names hosts that do not read, before all is told of the time it looks at.
func (x *hostCase) early() []Candidate {
	var out []Candidate
	for _, h := range slices.Sorted(maps.Keys(x.into)) {
		if c, ok := x.reads(h); ok {
			out = append(out, c)
		}
	}
	return out
}

// hostCase is what is known at one moment of the last span.
type hostCase struct {
	HostRule
	topo *topology.Topology
	span int64 // ns
	// long is what is known of the longest span. Of a shorter one not all is told: most
	// tables are of longer intervals, and some connections are told of ahead.
	long    *hostCase
	sums    map[pair]*connSum
	order   []pair
	into    map[int32][]pair // by destination
	from    map[int32][]pair // by source
	total   connSum
	trouble func(host string) bool
}

// agree says whether those pairs that show something are enough of all.
func (x *hostCase) agree(show, of int) bool { return show >= x.Peers && 2*show >= of }

// candidate makes one of the pairs that show something.
func (x *hostCase) candidate(h int32, class string, trouble int, show []pair, peer func(pair) int32, why string) Candidate {
	c := Candidate{
		Component: Component{Node: x.topo.Hosts[h].Name, host: true}, Class: class, Method: methodHost,
		Reasons: []string{why},
	}
	for _, k := range show {
		s := x.sums[k]
		at := s.times[trouble]
		if at.first != 0 && (c.First == 0 || at.first < c.First) {
			c.First = at.first
		}
		c.Last, c.Pace = max(c.Last, at.last), max(c.Pace, at.longest)
		c.Hurt += uint64(s.flows)
		c.Hosts = append(c.Hosts, x.topo.Hosts[peer(k)].Name)
	}
	return c
}

// usual is how many connections a pair should have had, by the longest span.
func (x *hostCase) usual(k pair) float64 {
	if x.long == nil || x.long.sums[k] == nil {
		return 0
	}
	return x.long.sums[k].flows * float64(x.span) / float64(x.long.span)
}

func source(k pair) int32      { return k.src }
func destination(k pair) int32 { return k.dst }

// ends looks for a host that resets connections to it.
func (x *hostCase) ends(h int32, pairs []pair) (Candidate, bool) {
	var show []pair
	n, flows, all := 0.0, 0.0, 0.0
	for _, k := range pairs {
		s := x.sums[k]
		n += s.resets
		flows += max(s.flows, s.resets)
		all += max(s.flows, s.resets, x.usual(k))
		if s.resets > 0 {
			show = append(show, k)
		}
	}
	rest, others := x.total.resets-n, x.total.flows-flows
	standsOut := x.Times*rest <= n || x.Times*mean(rest, others) <= mean(n, all)
	if n < float64(x.Resets) || n < x.ResetShare*all || !standsOut || !x.agree(len(show), len(pairs)) {
		return Candidate{}, false
	}
	return x.candidate(h, classHostReset, troubleReset, show, source, fmt.Sprintf("it reset %.0f of %.0f connections of %d hosts to it; of those to all other hosts %.0f of %.0f were",
		n, flows, len(pairs), rest, others)), true
}

// fill says whether those pairs that wait at a closed window are enough of all. A
// window closes only before connections that send more than it takes, and no network
// closes it: not all need to see it.
func (x *hostCase) fill(show, of int) bool {
	return x.agree(show, of) || show >= x.Held && 3*show >= of
}

// waited is how long connections to a host waited at its closed window, ns, how many
// they are, and how long one to any other host did.
func (x *hostCase) waited(h int32) (zero, flows, elsewhere float64) {
	for _, k := range x.into[h] {
		zero += x.sums[k].zero
		flows += x.sums[k].flows
	}
	return zero, flows, mean(x.total.zero-zero, x.total.flows-flows)
}

// reads looks for a host whose processes do not read what they are sent. Connections
// that nothing is told of yet are as ever, and do not wait.
func (x *hostCase) reads(h int32) (Candidate, bool) {
	pairs := x.into[h]
	var show []pair
	all := 0.0
	for _, k := range pairs {
		s := x.sums[k]
		if x.waits(s.zero, s.flows) {
			show = append(show, k)
		}
		all += max(s.flows, x.usual(k))
	}
	zero, flows, elsewhere := x.waited(h)
	of := len(pairs)
	if x.long != nil {
		_, _, before := x.long.waited(h)
		elsewhere = max(elsewhere, before)
		for _, k := range x.long.into[h] {
			if x.sums[k] == nil {
				of++
				all += x.usual(k)
			}
		}
	}
	if flows < float64(x.Flows) || mean(zero, all) < max(x.Zero, x.Times*elsewhere) || !x.fill(len(show), of) {
		return Candidate{}, false
	}
	return x.candidate(h, classHostZero, troubleZero, show, source, fmt.Sprintf("%.0f connections of %d hosts to it waited %.0f ms each at its closed window; those to other hosts %.1f ms",
		flows, len(pairs), mean(zero, flows)/1e6, elsewhere/1e6)), true
}

// sends looks for a host that sends late, wherever to, while its neighbours, whose
// packets go the same ways, do not.
func (x *hostCase) sends(h int32) (Candidate, bool) {
	name := x.topo.Hosts[h].Name
	pairs := slices.DeleteFunc(slices.Clone(x.from[h]), func(k pair) bool { return x.sums[k].timed == 0 })
	// Most hosts are done here: to look at all others for each is dear.
	late, of := 0, len(pairs)+x.prompt(h)
	for _, k := range pairs {
		if s := x.sums[k]; mean(s.rtt, s.timed) >= x.Slow {
			late++
		}
	}
	if 4*late < 3*of || !x.agree(late, of) {
		return Candidate{}, false
	}
	var others, near []float64
	for _, k := range x.order {
		if s := x.sums[k]; k.src != h && k.dst != h && s.timed > 0 {
			others = append(others, mean(s.rtt, s.timed))
			if x.neighbours(h, k.src) {
				near = append(near, mean(s.rtt, s.timed))
			}
		}
	}
	if len(others) < 3 || len(near) == 0 {
		return Candidate{}, false
	}
	usual := median(others)
	slow := max(x.Slow, x.SlowTimes*usual)
	var show []pair
	rtt, timed := 0.0, 0.0
	for _, k := range pairs {
		s := x.sums[k]
		rtt += s.rtt
		timed += s.timed
		if mean(s.rtt, s.timed) >= slow {
			show = append(show, k)
		}
	}
	if timed < float64(x.Flows) || 4*len(show) < 3*of || !x.agree(len(show), of) || median(near) > slow/x.Times || x.trouble(name) {
		return Candidate{}, false
	}
	return x.candidate(h, classHostSlow, troubleSlow, show, destination, fmt.Sprintf("%.0f connections from it to %d hosts took %.1f ms for a round trip, those of other hosts %.2f ms, those of its neighbours %.2f ms",
		timed, len(pairs), mean(rtt, timed)/1e6, usual/1e6, median(near)/1e6)), true
}

// prompt is to how many others a host sent in time by the longest span, of which no
// round trip is told yet.
func (x *hostCase) prompt(h int32) (n int) {
	if x.long == nil {
		return 0
	}
	for _, k := range x.long.from[h] {
		if s := x.sums[k]; s != nil && s.timed > 0 {
			continue
		}
		if s := x.long.sums[k]; s.timed > 0 && mean(s.rtt, s.timed) < x.Slow {
			n++
		}
	}
	return n
}

// neighbours says whether two hosts hang on the same device.
func (x *hostCase) neighbours(a, b int32) bool {
	at := func(h int32) string {
		if out := x.topo.LinksFrom(x.topo.Hosts[h].Name); len(out) > 0 {
			return out[0].To.Node
		}
		return ""
	}
	return a != b && at(a) != "" && at(a) == at(b)
}

func median(list []float64) float64 {
	sorted := slices.Sorted(slices.Values(list))
	return sorted[len(sorted)/2]
}
