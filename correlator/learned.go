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
	// surveyAge is how long the newest survey of a pair counts, ns: twice as long
	// as the longest pause between two.
	surveyAge = int64(48 * time.Hour)
)

// surveys holds the newest survey of each pair of addresses. Pure; the engine's
// owner guards it.
type surveys struct {
	of    map[surveyPair]*decafpb.Survey
	bytes int
	// forgotten counts those that made room for others, foreign those whose source
	// is another host's address than their producer's.
	forgotten, foreign uint64
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

// add takes a survey; top says whose addresses are whose. It returns whether
// the survey is the newest of its pair, and those that had to go for it.
func (v *surveys) add(s *decafpb.Survey, top *topology.Topology) (newest bool, gone []surveyPair) {
	p, ok := pairOf(s)
	if !ok {
		return false, nil
	}
	if h, ok := top.HostAt(p.src); ok && h.Name != s.GetOrigin().GetProducer() {
		v.foreign++
		return false, nil
	}
	before := v.of[p]
	if before != nil && before.GetTimeNs() >= s.GetTimeNs() {
		return false, nil
	}
	v.bytes += proto.Size(s) - proto.Size(before)
	v.of[p] = s
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

func (v *surveys) forget(p surveyPair) {
	v.bytes -= proto.Size(v.of[p])
	delete(v.of, p)
}

// outdated says of a survey whether it is too old to count.
func outdated(s *decafpb.Survey, now int64) bool { return int64(s.GetTimeNs()) < now-surveyAge }

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
	newest, gone := c.surveys.add(s, c.cfg.Topology)
	if p, ok := pairOf(s); ok && newest {
		c.saves.put(saveSurvey, p.key(), s)
	}
	c.unsaveSurveys(append(gone, c.surveys.expire(now)...))
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
		if p, ok := pairOf(s); ok && outdated(s, now) {
			gone = append(gone, p)
			continue
		}
		_, out := c.surveys.add(s, c.cfg.Topology)
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
			if h, ok := c.cfg.Topology.HostAt(a); ok {
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
