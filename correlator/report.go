package correlator

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"decaf/api"
	"decaf/api/decafpb"
	"decaf/api/packet"
)

// ReportRule says how fault reports are answered. Times in ns.
type ReportRule struct {
	Window int64 // how far before the filing a report looks by default
	Grace  int64 // how long after its window late evidence may revise the verdict
	// Longest bounds a report's window: evidence is not held longer.
	Longest int64
}

// DefaultReportRule looks five minutes back and waits one minute for evidence.
func DefaultReportRule() ReportRule {
	return ReportRule{Window: 5 * 60e9, Grace: 60e9, Longest: 24 * 3600e9}
}

// Verdicts of the design, those that this engine can reach.
const (
	verdictNetwork      = "network"
	verdictSource       = "source-host"
	verdictDestination  = "destination-host"
	verdictServer       = "server"
	verdictNotNetwork   = "not-network"
	verdictOutside      = "outside"
	verdictInsufficient = "insufficient-evidence"
)

// freshness says whether a host's agent was heard all through a window, and if
// not, why, in words.
type freshness func(host string, from, to int64) (bool, string)

// Check fills in what a report leaves open and refuses what makes no sense;
// errors are for the one who filed it.
func (r ReportRule) Check(pb *decafpb.FaultReport, now int64) error {
	if pb.GetSrcPort() > 65535 || pb.GetDstPort() > 65535 {
		return api.BadRequest("ports %d and %d: a port is at most 65535", pb.GetSrcPort(), pb.GetDstPort())
	}
	if pb.GetToNs() == 0 {
		pb.ToNs = uint64(now)
	}
	if pb.GetFromNs() == 0 {
		pb.FromNs = pb.GetToNs() - min(uint64(r.Window), pb.GetToNs())
	}
	switch from, to := pb.GetFromNs(), pb.GetToNs(); {
	case from >= to:
		return api.BadRequest("the window ends %s before it begins: give from before to", describeSpan(to, from))
	case to > uint64(now+r.Longest):
		return api.BadRequest("the window ends more than %s from now: file the report when it is over", describeSpan(0, uint64(r.Longest)))
	case to-from > uint64(r.Longest):
		return api.BadRequest("the window is longer than %s: ask about less", describeSpan(0, uint64(r.Longest)))
	}
	return nil
}

// Answer gives the verdict on a report by what is known now. The error is for
// the one who filed it: an end that is no host, or both the same.
func (e *Engine) Answer(pb *decafpb.FaultReport, fresh freshness, now int64) (*decafpb.Verdict, error) {
	v := &decafpb.Verdict{TimeNs: uint64(now), Evidence: &decafpb.Evidence{}}
	from, to := int64(pb.GetFromNs()), int64(pb.GetToNs())
	v.Final = now > to+e.cfg.Report.Grace
	say := func(format string, args ...any) {
		v.Evidence.Reasons = append(v.Evidence.Reasons, fmt.Sprintf(format, args...))
	}

	src, outside, err := e.end("source", pb.GetSrc())
	if err != nil {
		return nil, err
	}
	if outside != "" {
		say("%s", outside)
	}
	dst, outside, err := e.end("destination", pb.GetDst())
	if err != nil {
		return nil, err
	}
	if outside != "" {
		say("%s", outside)
	}
	if src == "" || dst == "" {
		v.Verdict = verdictOutside
		say("the path leaves the instrumented network; what happened there is not known")
		return v, nil
	}
	if src == dst {
		return nil, api.BadRequest("source and destination are both host %s: name two hosts", src)
	}

	c := e.gather(src, dst, pb, from, to+e.cfg.Report.Grace)
	if best := c.best(); best != nil {
		v.Verdict = best.verdict(src)
		v.Component, v.Class, v.Finding = best.pb.GetComponent(), best.pb.GetClass(), best.pb.GetId()
		v.Probability, v.Votes, v.Equivalent = best.pb.GetProbability(), best.pb.GetVotes(), best.pb.GetEquivalent()
		var reasons []string
		if best.component.host && best.own == 0 {
			reasons = append(reasons, fmt.Sprintf("%s is one of the ends of this pair, and in trouble by itself", v.Component))
		} else if best.own > 0 {
			reasons = append(reasons, fmt.Sprintf("%d of this pair's %d lossy flows crossed %s or were dropped there", best.own, len(c.flows), v.Component))
		} else {
			reasons = append(reasons, fmt.Sprintf("%s is on one of the paths of this pair; none of its own lossy flows is known to have crossed it", v.Component))
		}
		reasons = append(reasons, best.pb.GetEvidence().GetReasons()...)
		drops, flows := e.evidenceFor(best, c, from, to+e.cfg.Report.Grace)
		v.Evidence = evidenceOf(drops, flows, reasons, func(f *Flow) bool { return slices.Contains(c.flows, f) })
		return v, nil
	}

	v.Evidence = evidenceOf(nil, c.flows, nil, nil)
	serious := 0
	for _, f := range c.flows {
		serious += btoi(!f.loneProbe())
	}
	freshBoth := true
	for _, host := range []string{src, dst} {
		if ok, why := fresh(host, from, min(to, now)); !ok {
			freshBoth = false
			say("%s", why)
		}
	}
	switch {
	case serious > 0:
		v.Verdict = verdictInsufficient
		say("%d connections of this pair sent again what was lost or late, but no component stands out as the cause", serious)
	case !freshBoth:
		v.Verdict = verdictInsufficient
		say("no loss is known of, but its absence is not known either")
	default:
		v.Verdict = verdictNotNetwork
		say("both hosts' agents were heard all through the window, no connection of this pair lost anything that matters, and no finding touches its paths")
		if n := len(c.flows); n > 0 {
			say("%d connections sent a lone tail probe, which lost or late acknowledgements cause too", n)
		}
	}
	return v, nil
}

// end finds the host that a report names. An address that belongs to no one
// here lies outside, which is said; what is neither is an error.
func (e *Engine) end(which, nameOrAddr string) (host, outside string, err error) {
	h, err := e.topo.ResolveHost(nameOrAddr)
	if err == nil {
		return h.Name, "", nil
	}
	if a, perr := netip.ParseAddr(nameOrAddr); perr == nil {
		if _, ours := e.topo.InterfaceAt(a); !ours {
			return "", fmt.Sprintf("%s address %s belongs to no host of the topology", which, a), nil
		}
	}
	return "", "", api.BadRequest("%s: %s", which, err)
}

// suspect is a finding that may explain a report.
type suspect struct {
	pb        *decafpb.Finding
	component Component
	own       int     // lossy flows of the pair that crossed it, or that its drops explain
	echo      int     // of the pair, whose acknowledgements may have crossed it
	share     float64 // of the pair's flows, in the likelier direction, that cross it by ECMP
}

// verdict is the word for a finding that explains a report from this source.
func (s *suspect) verdict(src string) string {
	switch {
	case !s.component.host:
		return verdictNetwork
	case s.component.Node == src:
		return verdictSource
	case isClass(s.pb.GetClass(), classHost) && s.pb.GetClass() != classHostSlow:
		return verdictServer
	}
	return verdictDestination
}

// reportCase is what is known about a pair in a window.
type reportCase struct {
	flows    []*Flow
	suspects []suspect
}

// gather collects a pair's lossy flows, in both directions, and the findings
// of the time that its paths touch.
func (e *Engine) gather(src, dst string, pb *decafpb.FaultReport, from, to int64) *reportCase {
	c := &reportCase{}
	for _, f := range e.store.order {
		forward := f.Src == src && f.Dst == dst
		if !forward && (f.Src != dst || f.Dst != src) {
			continue
		}
		a, b := f.Key.Src.Port(), f.Key.Dst.Port()
		if !forward {
			a, b = b, a
		}
		if p := pb.GetSrcPort(); p != 0 && p != uint32(a) {
			continue
		}
		if p := pb.GetDstPort(); p != 0 && p != uint32(b) {
			continue
		}
		if f.Undone() || !f.overlaps(from, to+1) {
			continue
		}
		c.flows = append(c.flows, f)
	}
	for _, pb := range e.findings {
		if int64(pb.GetFromNs()) > to || pb.GetResolvedNs() != 0 && int64(pb.GetResolvedNs()) < from {
			continue
		}
		comp, ok := parseComponent(e.topo, pb.GetComponent())
		if !ok {
			continue
		}
		s := suspect{pb: pb, component: comp}
		own := comp.host && isClass(pb.GetClass(), classHost)
		if own && comp.Node != src && comp.Node != dst {
			continue
		}
		for _, f := range c.flows {
			switch {
			case own: // it loses nothing: the losses are something else's
			case comp.on(f) || e.droppedAt(f, comp) || pb.GetClass() == classDown && e.downs.explains(comp, f, e.paths):
				s.own++
			case !f.Proof() && e.paths.mayCross(f.Dst, f.Src, comp):
				s.echo++
			}
		}
		s.share = max(e.paths.shareOf(src, dst, comp), e.paths.shareOf(dst, src, comp))
		if s.own > 0 || s.share > 0 {
			c.suspects = append(c.suspects, s)
		}
	}
	return c
}

// best is the finding that explains most of the pair's own losses; without any,
// the one most likely to be on its way. Nil when there is none.
func (c *reportCase) best() *suspect {
	if len(c.suspects) == 0 {
		return nil
	}
	top := slices.MaxFunc(c.suspects, func(a, b suspect) int {
		return cmp.Or(cmp.Compare(a.own, b.own), cmp.Compare(a.echo, b.echo), cmp.Compare(a.share, b.share),
			cmp.Compare(a.pb.GetFlows(), b.pb.GetFlows()), -cmp.Compare(a.pb.GetComponent(), b.pb.GetComponent()))
	})
	return &top
}

// droppedAt says whether a drop of the component explains the flow.
func (e *Engine) droppedAt(f *Flow, c Component) bool {
	return slices.ContainsFunc(e.store.join(f).Drops, func(d *Drop) bool { return d.Component == c })
}

// evidenceFor gathers what speaks for a suspect in the report's window: the
// component's drops, the pair's lossy flows, and the others that crossed it.
func (e *Engine) evidenceFor(s *suspect, c *reportCase, from, to int64) ([]*Drop, []*Flow) {
	from = max(from, int64(s.pb.GetFromNs())-clockSlack)
	if last := int64(s.pb.GetLastNs()) + clockSlack; s.pb.GetResolvedNs() != 0 {
		to = min(to, last)
	}
	var drops []*Drop
	tuples := make(map[FlowKey]bool)
	for _, d := range e.store.drops {
		if d.evidence() && (d.Component == s.component || s.pb.GetClass() == classDown && d.Component.within(s.component)) && d.Time >= from && d.Time <= to {
			drops = append(drops, d)
			tuples[FlowKey{Flow: d.Tuple}] = true
		}
	}
	var flows []*Flow
	for _, f := range e.store.order {
		own := slices.Contains(c.flows, f)
		if !own && (f.Undone() || !f.overlaps(from, to+1)) {
			continue
		}
		if s.component.on(f) && (own || f.counts()) || slices.ContainsFunc(f.tuples(), func(t packet.Flow) bool { return tuples[FlowKey{Flow: t}] || tuples[FlowKey{Flow: t.Reverse()}] }) {
			flows = append(flows, f)
		}
	}
	return drops, flows
}

// better says whether a verdict tells more than, or other than, the one before.
func better(old, v *decafpb.Verdict) bool {
	if old == nil || old.GetVerdict() != v.GetVerdict() || old.GetComponent() != v.GetComponent() ||
		old.GetClass() != v.GetClass() || old.GetFinding() != v.GetFinding() || old.GetFinal() != v.GetFinal() {
		return true
	}
	a, b := old.GetEvidence(), v.GetEvidence()
	// More of the same is told in steps, not with each packet.
	const step = 5e9
	return v.GetTimeNs()-old.GetTimeNs() >= step &&
		(a.GetDropCount() != b.GetDropCount() || a.GetRetransmitCount() != b.GetRetransmitCount()) ||
		len(a.GetDrops()) == 0 && len(b.GetDrops()) > 0 || a.GetMatchedCount() == 0 && b.GetMatchedCount() > 0
}

func describeSpan(from, to uint64) string { return fmt.Sprintf("%.3g s", float64(to-from)/1e9) }
