package api

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The columns of each verb. CSV has every column, in full; tables have those
// with text.

func number[N ~int | ~uint32 | ~uint64](n N) string { return fmt.Sprintf("%d", n) }

func decimal(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }

// some writes a number unless it is zero: a finding by device evidence has no
// votes.
func some(f float64, write func(float64) string) string {
	if f == 0 {
		return ""
	}
	return write(f)
}

// moment writes a time for tables: to the millisecond, UTC.
func moment(ns uint64) string {
	if ns == 0 || ns > 1<<63-1 {
		return ""
	}
	return time.Unix(0, int64(ns)).UTC().Format("2006-01-02 15:04:05.000")
}

// yes is for tables, strconv.FormatBool for CSV.
func yes(b bool, word string) string {
	if b {
		return word
	}
	return ""
}

func port(p uint32) string {
	if p == 0 {
		return ""
	}
	return number(p)
}

func endOf(host string, p uint32) string {
	if p == 0 {
		return host
	}
	return net.JoinHostPort(host, number(p))
}

// anyOf shows a column if some row has something for it.
func anyOf[V any](has func(V) bool) func([]V) bool {
	return func(rows []V) bool { return slices.ContainsFunc(rows, has) }
}

func findingColumns() []column[FindingView] {
	return []column[FindingView]{
		{name: "id", text: func(f FindingView) string { return f.ID }},
		{name: "state", text: func(f FindingView) string { return f.State }},
		{name: "component", text: func(f FindingView) string { return f.Component }},
		{name: "interfaces", text: func(f FindingView) string { return strings.Join(f.Interfaces, " ") },
			show: anyOf(func(f FindingView) bool { return len(f.Interfaces) > 0 })},
		{name: "class", text: FindingView.what, raw: func(f FindingView) string { return f.Class }},
		{name: "method", text: func(f FindingView) string { return f.Method }},
		{name: "from", text: func(f FindingView) string { return moment(f.FromNS) }, raw: func(f FindingView) string { return f.From }},
		{name: "detected", raw: func(f FindingView) string { return f.Detected }},
		{name: "last", raw: func(f FindingView) string { return f.Last }},
		{name: "resolved", text: func(f FindingView) string { return moment(f.ResolvedNS) }, raw: func(f FindingView) string { return f.Resolved }},
		{name: "probability", text: func(f FindingView) string { return some(f.Probability, sure) }, raw: func(f FindingView) string { return decimal(f.Probability) }},
		{name: "equivalent", text: func(f FindingView) string { return strings.Join(f.Equivalent, ", ") },
			show: anyOf(func(f FindingView) bool { return len(f.Equivalent) > 0 })},
		{name: "votes", text: func(f FindingView) string { return some(f.Votes, votes) }, raw: func(f FindingView) string { return decimal(f.Votes) }},
		{name: "share", text: func(f FindingView) string { return some(f.VotesShare, percent) }, raw: func(f FindingView) string { return decimal(f.VotesShare) }},
		{name: "flows", text: func(f FindingView) string { return number(f.Flows) }},
		{name: "hosts", text: func(f FindingView) string { return number(len(f.Hosts)) }, raw: func(f FindingView) string { return strings.Join(f.Hosts, " ") }},
		{name: "drops", text: func(f FindingView) string { return number(f.Evidence.Counts.Drops) }},
		{name: "retransmits", raw: func(f FindingView) string { return number(f.Evidence.Counts.Retransmits) }},
		{name: "matched", text: func(f FindingView) string { return number(f.Evidence.Counts.Matched) }},
	}
}

func reportColumns() []column[ReportView] {
	verdict := func(get func(VerdictView) string) func(ReportView) string {
		return func(r ReportView) string {
			if r.Verdict == nil {
				return ""
			}
			return get(*r.Verdict)
		}
	}
	return []column[ReportView]{
		{name: "id", text: func(r ReportView) string { return r.ID }},
		{name: "filed", text: func(r ReportView) string { return moment(r.FiledNS) }, raw: func(r ReportView) string { return r.Filed }},
		{name: "src", text: func(r ReportView) string { return endOf(r.Src, r.SrcPort) }, raw: func(r ReportView) string { return r.Src }},
		{name: "src_port", raw: func(r ReportView) string { return port(r.SrcPort) }},
		{name: "dst", text: func(r ReportView) string { return endOf(r.Dst, r.DstPort) }, raw: func(r ReportView) string { return r.Dst }},
		{name: "dst_port", raw: func(r ReportView) string { return port(r.DstPort) }},
		{name: "from", raw: func(r ReportView) string { return r.From }},
		{name: "to", raw: func(r ReportView) string { return r.To }},
		{name: "verdict", text: verdict(func(v VerdictView) string { return v.Verdict })},
		{name: "component", text: verdict(func(v VerdictView) string { return v.Component })},
		{name: "class", text: verdict(func(v VerdictView) string { return v.Class })},
		{name: "probability", text: verdict(func(v VerdictView) string { return some(v.Probability, sure) }), raw: verdict(func(v VerdictView) string { return decimal(v.Probability) })},
		{name: "equivalent", raw: verdict(func(v VerdictView) string { return strings.Join(v.Equivalent, ", ") })},
		{name: "votes", raw: verdict(func(v VerdictView) string { return decimal(v.Votes) })},
		{name: "final", text: verdict(func(v VerdictView) string { return yes(v.Final, "final") }), raw: verdict(func(v VerdictView) string { return strconv.FormatBool(v.Final) })},
		{name: "finding", raw: verdict(func(v VerdictView) string { return v.Finding })},
		{name: "drops", raw: verdict(func(v VerdictView) string { return number(v.Evidence.Counts.Drops) })},
		{name: "retransmits", raw: verdict(func(v VerdictView) string { return number(v.Evidence.Counts.Retransmits) })},
		{name: "matched", raw: verdict(func(v VerdictView) string { return number(v.Evidence.Counts.Matched) })},
		{name: "says", text: func(r ReportView) string { return short(60, r.Says) }, raw: func(r ReportView) string { return r.Says }},
	}
}

func linkColumns() []column[LinkView] {
	return []column[LinkView]{
		{name: "link", text: func(l LinkView) string { return l.Link }},
		{name: "votes", text: func(l LinkView) string { return votes(l.Votes) }, raw: func(l LinkView) string { return decimal(l.Votes) }},
		{name: "share", text: func(l LinkView) string { return percent(l.Share) }, raw: func(l LinkView) string { return decimal(l.Share) }},
		{name: "flows", text: func(l LinkView) string { return number(l.Flows) }},
		{name: "weak", text: func(l LinkView) string { return number(l.Weak) }},
		{name: "sources", text: func(l LinkView) string { return number(l.Sources) }},
		{name: "destinations", text: func(l LinkView) string { return number(l.Destinations) }},
		{name: "probability", text: func(l LinkView) string { return some(l.Probability, sure) }, raw: func(l LinkView) string { return decimal(l.Probability) }},
		{name: "drops", text: func(l LinkView) string { return number(l.Drops) }},
		{name: "blamed", text: func(l LinkView) string { return yes(l.Blamed, "blamed") }, raw: func(l LinkView) string { return strconv.FormatBool(l.Blamed) }},
	}
}

func flowOf(f *FlowView) FlowView {
	if f == nil {
		return FlowView{}
	}
	return *f
}

func optional(n *uint32) string {
	if n == nil {
		return ""
	}
	return number(*n)
}

func dropColumns() []column[DropView] {
	return []column[DropView]{
		{name: "time", text: func(d DropView) string { return moment(d.TimeNS) }, raw: func(d DropView) string { return d.Time }},
		{name: "time_ns", raw: func(d DropView) string { return number(d.TimeNS) }},
		{name: "device", text: func(d DropView) string { return d.Device }},
		{name: "component", raw: func(d DropView) string { return d.Component }},
		{name: "class", text: func(d DropView) string { return d.Class }},
		{name: "reason", raw: func(d DropView) string { return d.Reason }},
		{name: "function", raw: func(d DropView) string { return d.Function }},
		{name: "source", raw: func(d DropView) string { return d.Source }},
		{name: "ingress", text: func(d DropView) string { return d.Ingress }},
		{name: "egress", text: func(d DropView) string { return d.Egress }},
		{name: "flow", text: func(d DropView) string {
			if d.Flow == nil {
				return strings.Join(d.Prefixes, " ")
			}
			return ends(d.Flow, d.SrcHost, d.DstHost)
		}, raw: func(d DropView) string {
			if d.Flow == nil {
				return ""
			}
			return d.Flow.String()
		}},
		{name: "src", raw: func(d DropView) string { return flowOf(d.Flow).Src }},
		{name: "src_port", raw: func(d DropView) string { return port(flowOf(d.Flow).SrcPort) }},
		{name: "dst", raw: func(d DropView) string { return flowOf(d.Flow).Dst }},
		{name: "dst_port", raw: func(d DropView) string { return port(flowOf(d.Flow).DstPort) }},
		{name: "protocol", raw: func(d DropView) string { return flowOf(d.Flow).Protocol }},
		{name: "tcp_seq", text: func(d DropView) string { return optional(d.TCPSeq) }},
		{name: "tcp_flags", text: func(d DropView) string { return d.TCPFlags }},
		{name: "ttl", raw: func(d DropView) string { return optional(d.TTL) }},
		{name: "length", raw: func(d DropView) string { return number(d.Length) }},
		{name: "matched", text: func(d DropView) string { return yes(d.Matched, "sent again") }, raw: func(d DropView) string { return strconv.FormatBool(d.Matched) }},
	}
}

// chain writes links as the nodes they join: "a > b > c", and "…" where a hop
// between is not known.
func chain(links []string) string {
	var b strings.Builder
	at := ""
	for _, l := range links {
		from, to, ok := strings.Cut(l, ">")
		if !ok {
			continue
		}
		from, _, _ = strings.Cut(from, ":")
		to, _, _ = strings.Cut(to, ":")
		switch {
		case at == "":
			b.WriteString(from)
		case at != from:
			b.WriteString(" > … > " + from)
		}
		b.WriteString(" > " + to)
		at = to
	}
	return b.String()
}

func pathColumns() []column[RetransmitView] {
	path := func(get func(PathView) string) func(RetransmitView) string {
		return func(r RetransmitView) string {
			if r.Path == nil {
				return ""
			}
			return get(*r.Path)
		}
	}
	return []column[RetransmitView]{
		{name: "time", text: func(r RetransmitView) string { return moment(r.TimeNS) }, raw: func(r RetransmitView) string { return r.Time }},
		{name: "time_ns", raw: func(r RetransmitView) string { return number(r.TimeNS) }},
		{name: "host", raw: func(r RetransmitView) string { return r.Host }},
		{name: "kind", text: func(r RetransmitView) string { return r.Kind }},
		{name: "flow", text: func(r RetransmitView) string { return ends(r.Flow, r.SrcHost, r.DstHost) }, raw: func(r RetransmitView) string {
			if r.Flow == nil {
				return ""
			}
			return r.Flow.String()
		}},
		{name: "src", raw: func(r RetransmitView) string { return flowOf(r.Flow).Src }},
		{name: "src_port", raw: func(r RetransmitView) string { return port(flowOf(r.Flow).SrcPort) }},
		{name: "dst", raw: func(r RetransmitView) string { return flowOf(r.Flow).Dst }},
		{name: "dst_port", raw: func(r RetransmitView) string { return port(flowOf(r.Flow).DstPort) }},
		{name: "protocol", raw: func(r RetransmitView) string { return flowOf(r.Flow).Protocol }},
		{name: "tcp_seq", text: func(r RetransmitView) string { return number(r.TCPSeq) }},
		{name: "segments", raw: func(r RetransmitView) string { return number(r.Segments) }},
		{name: "trace", text: func(r RetransmitView) string { return r.PathStatus }},
		{name: "why", raw: path(func(p PathView) string { return p.Why })},
		{name: "path", text: path(func(p PathView) string { return chain(p.Links) }), raw: path(func(p PathView) string { return strings.Join(p.Links, " ") })},
		{name: "hops", raw: path(func(p PathView) string {
			hops := make([]string, 0, len(p.Hops))
			for _, h := range p.Hops {
				if h.Address == "" {
					hops = append(hops, "*")
					continue
				}
				hops = append(hops, h.Address)
			}
			return strings.Join(hops, " ")
		})},
	}
}

func agentColumns(now time.Time) []column[AgentView] {
	return []column[AgentView]{
		{name: "role", text: func(a AgentView) string { return a.Role }},
		{name: "name", text: func(a AgentView) string { return a.Name }},
		{name: "state", text: func(a AgentView) string {
			if a.Fresh {
				return "fresh"
			}
			return "silent"
		}},
		{name: "last_seen", text: func(a AgentView) string { return ago(now, a.LastSeenNS) }, raw: func(a AgentView) string { return a.LastSeen }},
		{name: "gaps", text: func(a AgentView) string { return number(a.Gaps) }},
		{name: "reports", text: func(a AgentView) string { return a.Reports }},
		{name: "left_out", text: func(a AgentView) string { return leftOutShort(a.Counters) }, raw: func(a AgentView) string { return strings.Join(leftOut(a.Counters), " ") }},
		{name: "version", text: func(a AgentView) string { return a.Version }},
		{name: "source", text: func(a AgentView) string { return a.Source }},
		{name: "boot_id", raw: func(a AgentView) string { return a.BootID }},
		{name: "revision", text: func(a AgentView) string { return count(a.Revision) }, raw: func(a AgentView) string { return number(a.Revision) },
			show: anyOf(func(a AgentView) bool { return a.Revision > 0 })},
		{name: "fuse", raw: func(a AgentView) string { return a.Fuse }},
		{name: "unreported", raw: func(a AgentView) string { return strings.Join(a.Unreported, " ") }},
		{name: "suppressed", raw: func(a AgentView) string { return counters(a.Suppressed) }},
		{name: "counters", raw: func(a AgentView) string { return counters(a.Counters) }},
		{name: "error", text: func(a AgentView) string { return a.Error }},
	}
}

// counters writes counters by name: "events=5 events_lost=0".
func counters(of map[string]uint64) string {
	var b []string
	for _, name := range slices.Sorted(maps.Keys(of)) {
		b = append(b, fmt.Sprintf("%s=%d", name, of[name]))
	}
	return strings.Join(b, " ")
}

func deviceColumns() []column[DeviceView] {
	return []column[DeviceView]{
		{name: "device", text: func(d DeviceView) string { return d.Name }},
		{name: "tier", text: func(d DeviceView) string { return d.Tier }},
		{name: "pod", text: func(d DeviceView) string { return d.Pod }},
		{name: "gnmi", text: func(d DeviceView) string { return d.GNMI }},
	}
}

func hostColumns() []column[HostView] {
	return []column[HostView]{
		{name: "host", text: func(h HostView) string { return h.Name }},
		{name: "addresses", text: func(h HostView) string { return strings.Join(h.Addresses, " ") }},
	}
}

func topoLinkColumns() []column[TopoLinkView] {
	with6 := anyOf(func(l TopoLinkView) bool { return l.From.Address6 != "" || l.To.Address6 != "" })
	return []column[TopoLinkView]{
		{name: "link", text: func(l TopoLinkView) string { return l.Name }},
		{name: "from", text: func(l TopoLinkView) string { return l.From.Node }},
		{name: "from_interface", text: func(l TopoLinkView) string { return l.From.Interface }},
		{name: "from_address", text: func(l TopoLinkView) string { return l.From.Address }},
		{name: "from_address6", text: func(l TopoLinkView) string { return l.From.Address6 }, show: with6},
		{name: "to", text: func(l TopoLinkView) string { return l.To.Node }},
		{name: "to_interface", text: func(l TopoLinkView) string { return l.To.Interface }},
		{name: "to_address", text: func(l TopoLinkView) string { return l.To.Address }},
		{name: "to_address6", text: func(l TopoLinkView) string { return l.To.Address6 }, show: with6},
	}
}
