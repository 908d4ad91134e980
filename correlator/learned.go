package correlator

import (
	"cmp"
	"context"
	"encoding/hex"
	"maps"
	"net/netip"
	"slices"
	"time"

	"decaf/api"
	"decaf/api/decafpb"
	"decaf/topology"

	"google.golang.org/protobuf/proto"
)

// Bounds of what is kept of surveys.
const (
	// maxSurveyBytes is their size as records: they share a bucket of 16 MiB.
	maxSurveyBytes = 10 << 20
	// surveyAhead is how far a host's clock may be ahead, ns. A survey of a later time
	// would stand in the way of all that follow, and for longer than surveyAge.
	surveyAhead = int64(5 * time.Minute)
)

// SurveyAge is how long the newest survey of a pair of addresses counts, ns: twice as
// long as the longest pause between two.
const SurveyAge = int64(48 * time.Hour)

// surveys holds the newest survey of each pair of addresses. Pure; the engine's
// owner guards it.
type surveys struct {
	of    map[surveyPair]*decafpb.Survey
	bytes int
	// claims are whose the sources are, where no file says so: the first's who surveyed
	// from there, for as long as that counts. nil: a file does.
	claims map[netip.Addr]claim
	// forgotten counts those that made room for others, foreign those whose source
	// is another host's address than their producer's, ahead those of a time to come.
	forgotten, foreign, ahead uint64
	changes                   uint64 // of of
}

// claim is a host's to an address, by so many surveys.
type claim struct {
	host    string
	surveys int
}

type surveyPair struct{ src, dst netip.Addr }

func newSurveys() *surveys { return &surveys{of: make(map[surveyPair]*decafpb.Survey)} }

func pairOf(s *decafpb.Survey) (p surveyPair, ok bool) {
	src, okS := netip.AddrFromSlice(s.GetSrc())
	dst, okD := netip.AddrFromSlice(s.GetDst())
	return surveyPair{src.Unmap(), dst.Unmap()}, okS && okD
}

// key names a pair in the bucket.
func (p surveyPair) key() string {
	return "survey." + hex.EncodeToString(p.src.AsSlice()) + "." + hex.EncodeToString(p.dst.AsSlice())
}

// add takes a survey at a moment, ns; top says whose addresses are whose. It returns
// whether the survey is the newest of its pair, and those that had to go for it.
func (v *surveys) add(s *decafpb.Survey, top *topology.Topology, now int64) (newest bool, gone []surveyPair) {
	p, ok := pairOf(s)
	switch {
	case !ok:
		return false, nil
	case s.GetTimeNs() > uint64(now+surveyAhead):
		v.ahead++
		return false, nil
	case outdated(s, now):
		return false, nil
	}
	if owner := v.owner(p.src, top); owner != "" && owner != s.GetOrigin().GetProducer() {
		v.foreign++
		return false, nil
	}
	before := v.of[p]
	if before != nil && before.GetTimeNs() >= s.GetTimeNs() {
		return false, nil
	}
	if before != nil {
		v.forget(p)
	}
	v.bytes += proto.Size(s)
	v.of[p] = s
	v.changes++
	if v.claims != nil {
		v.claims[p.src] = claim{s.GetOrigin().GetProducer(), v.claims[p.src].surveys + 1}
	}
	for v.bytes > maxSurveyBytes && len(v.of) > 1 {
		oldest := p
		for q, one := range v.of {
			if q != p && (oldest == p || one.GetTimeNs() < v.of[oldest].GetTimeNs()) {
				oldest = q
			}
		}
		v.forget(oldest)
		v.forgotten++
		gone = append(gone, oldest)
	}
	return true, gone
}

// owner is the host whose an address is; "" where nobody knows.
func (v *surveys) owner(a netip.Addr, top *topology.Topology) string {
	if v.claims != nil {
		return v.claims[a].host
	}
	if h, ok := top.HostAt(a); ok {
		return h.Name
	}
	return ""
}

func (v *surveys) forget(p surveyPair) {
	v.bytes -= proto.Size(v.of[p])
	delete(v.of, p)
	v.changes++
	if c, ok := v.claims[p.src]; ok {
		if c.surveys--; c.surveys == 0 {
			delete(v.claims, p.src)
		} else {
			v.claims[p.src] = c
		}
	}
}

// outdated says of a survey whether it is too old to count.
func outdated(s *decafpb.Survey, now int64) bool { return int64(s.GetTimeNs()) < now-SurveyAge }

// expire drops what is too old to count.
func (v *surveys) expire(now int64) (gone []surveyPair) {
	for p, s := range v.of {
		if outdated(s, now) {
			v.forget(p)
			gone = append(gone, p)
		}
	}
	return gone
}

// list gives them by source and destination.
func (v *surveys) list() []*decafpb.Survey {
	keys := slices.SortedFunc(maps.Keys(v.of), func(a, b surveyPair) int {
		return cmp.Or(a.src.Compare(b.src), a.dst.Compare(b.dst))
	})
	out := make([]*decafpb.Survey, len(keys))
	for i, k := range keys {
		out[i] = v.of[k]
	}
	return out
}

// survey takes what a host's agent sent.
func (c *Correlator) survey(s *decafpb.Survey, now int64) {
	c.unsaveSurveys(c.surveys.expire(now))
	ahead := c.surveys.ahead
	newest, gone := c.surveys.add(s, c.cfg.Topology, now)
	if ahead == 0 && c.surveys.ahead > 0 {
		c.log.Warn("a survey of a time to come is left out, the rest are only counted: is a clock wrong?", "host", s.GetOrigin().GetProducer(),
			"time", time.Unix(0, int64(s.GetTimeNs())).UTC(), "here", time.Unix(0, now).UTC())
	}
	if p, ok := pairOf(s); ok && newest {
		c.saves.put(saveSurvey, p.key(), s)
	}
	c.unsaveSurveys(gone)
}

// unsaveSurveys queues that what is stored of these pairs is deleted.
func (c *Correlator) unsaveSurveys(list []surveyPair) {
	for _, p := range list {
		c.saves.put(saveSurvey, p.key(), nil)
	}
}

// restoreSurveys takes up those of earlier runs, which are stored for as long as they
// count: the evidence they came with is read again of the last minutes only.
func (c *Correlator) restoreSurveys(list []*decafpb.Survey, now int64) {
	var gone []surveyPair
	for _, s := range list {
		p, ok := pairOf(s)
		if ok && (outdated(s, now) || s.GetTimeNs() > uint64(now+surveyAhead)) {
			gone = append(gone, p)
			continue
		}
		_, out := c.surveys.add(s, c.cfg.Topology, now)
		gone = append(gone, out...)
	}
	c.unsaveSurveys(gone)
}

// walksOf are the paths of a survey.
func walksOf(s *decafpb.Survey) (out []topology.Walk) {
	p, _ := pairOf(s)
	nodes := make([]netip.Addr, len(s.GetNodes())+1) // 0: nobody answered
	for i, n := range s.GetNodes() {
		a, _ := netip.AddrFromSlice(n.GetAddress())
		nodes[i+1] = a.Unmap()
	}
	for _, w := range s.GetWalks() {
		walk := topology.Walk{Src: p.src, Dst: p.dst}
		if w.GetUnreached() {
			walk.Dst = netip.Addr{}
		}
		for _, h := range w.GetHops() {
			name := ""
			if h > 0 {
				name = s.GetNodes()[h-1].GetInterface()
			}
			walk.Hops, walk.Names = append(walk.Hops, nodes[h]), append(walk.Names, name)
		}
		out = append(out, walk)
	}
	return out
}

// Learned implements api.Backend: what the surveys of all hosts say of the
// network, by one version of the Internet Protocol; 0 takes the one with more
// of them.
func (c *Correlator) Learned(_ context.Context, ip int) (api.Learned, error) {
	c.mu.Lock()
	gone := c.surveys.expire(c.now().UnixNano())
	all := c.surveys.list()
	out := api.Learned{Forgotten: c.surveys.forgotten, Foreign: c.surveys.foreign}
	c.unsaveSurveys(gone)
	c.mu.Unlock()

	sixes := 0
	for _, s := range all {
		if len(s.GetSrc()) == 16 {
			sixes++
		}
	}
	if ip == 0 {
		if ip = 4; sixes > len(all)-sixes {
			ip = 6
		}
	}
	out.IP = ip
	hosts := make(map[netip.Addr]string)
	var walks []topology.Walk
	for _, s := range all {
		if (len(s.GetSrc()) == 16) != (ip == 6) {
			out.OtherIP++
			continue
		}
		p, _ := pairOf(s)
		hosts[p.src] = s.GetOrigin().GetProducer()
		out.Surveys = append(out.Surveys, s)
		walks = append(walks, walksOf(s)...)
	}
	for _, s := range out.Surveys {
		p, _ := pairOf(s)
		for _, a := range []netip.Addr{p.src, p.dst} {
			// A file's word stands above a host's; what was learned before does not.
			if h, ok := c.cfg.Topology.HostAt(a); ok && (c.surveys.claims == nil || hosts[a] == "") {
				hosts[a] = h.Name
			}
		}
	}
	out.Hosts = hosts
	out.Walks = len(walks)
	if len(walks) > 0 {
		top, learning, err := topology.Learn(c.cfg.Site, walks, hosts)
		out.Topology, out.Learning = top, learning
		if err != nil {
			out.Why = err.Error()
		}
	}
	if len(c.cfg.Topology.Links) > 0 {
		compared := c.cfg.Topology.Compare(walks)
		out.Compared = &compared
	}
	return out, nil
}

// Unfiled tells the correlator, before it runs, that its topology comes from surveys and
// not from a file. Then it does not say whose addresses are whose: whoever surveyed from
// one first has it, for as long as that counts. Nor does it say which hosts there are:
// each that is heard of is one.
func (c *Correlator) Unfiled() {
	c.surveys.claims = make(map[netip.Addr]claim)
	c.agents.admits = true
}

// Hosts are those whose agents were heard of, and when last, ns.
func (c *Correlator) Hosts() map[string]int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make(map[string]int64)
	for name, p := range c.agents.byName {
		if p.role == "host" && p.last > 0 {
			out[name] = p.last
		}
	}
	return out
}

// SurveyCounts are of what hosts told of equal-cost paths.
type SurveyCounts struct {
	Held    int
	Changes uint64 // of those held, since the start
	// Left out since the start: forgotten for others, of another host's address, of a
	// time to come.
	Forgotten, Foreign, Ahead uint64
}

// Surveys counts them.
func (c *Correlator) Surveys() SurveyCounts {
	c.mu.Lock()
	defer c.mu.Unlock()
	v := c.surveys
	return SurveyCounts{Held: len(v.of), Changes: v.changes, Forgotten: v.forgotten, Foreign: v.foreign, Ahead: v.ahead}
}

// Shown is what was learned, with when each address was seen last.
func Shown(l api.Learned) topology.Shown {
	out := topology.Shown{Topology: l.Topology, At: make(map[netip.Addr]int64)}
	for _, s := range l.Surveys {
		see := func(address []byte) {
			if a, ok := netip.AddrFromSlice(address); ok {
				out.At[a.Unmap()] = max(out.At[a.Unmap()], int64(s.GetTimeNs()))
			}
		}
		see(s.GetSrc())
		see(s.GetDst())
		for _, n := range s.GetNodes() {
			see(n.GetAddress())
		}
	}
	return out
}
