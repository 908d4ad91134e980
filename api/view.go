package api

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"decaf/api/decafpb"
	"decaf/topology"
)

// The JSON of the API. Times are told twice: in RFC 3339 for people, as
// <name>, and as <name>_ns, nanoseconds since the Unix epoch, for programs;
// a time that is not known is absent as text and 0 as a number. Numbers of 64
// random bits (boot ids) are hexadecimal text, since many JSON readers keep
// only 53 bits. Lists are never null.

// FlowView is a five-tuple.
type FlowView struct {
	Src      string `json:"src"`
	Dst      string `json:"dst"`
	SrcPort  uint32 `json:"src_port"`
	DstPort  uint32 `json:"dst_port"`
	Protocol string `json:"protocol"` // "tcp", "udp", "icmp", "icmpv6", or IANA's number
}

// String is "10.0.0.1:5 > 10.0.1.1:80 tcp".
func (f FlowView) String() string {
	end := func(addr string, port uint32) string {
		switch {
		case port == 0:
			return addr
		case strings.Contains(addr, ":"):
			return "[" + addr + "]:" + strconv.FormatUint(uint64(port), 10)
		}
		return addr + ":" + strconv.FormatUint(uint64(port), 10)
	}
	return end(f.Src, f.SrcPort) + " > " + end(f.Dst, f.DstPort) + " " + f.Protocol
}

// OriginView names a record for ever.
type OriginView struct {
	Producer string `json:"producer"`
	BootID   string `json:"boot_id"` // hexadecimal
	Seq      uint64 `json:"seq"`
}

// DropView is one packet that a device dropped. The fields from flow to length
// are absent when the device could not show the packet; then prefixes may say
// which address ranges it concerned.
type DropView struct {
	Device     string      `json:"device"`
	Component  string      `json:"component,omitempty"` // "link a>b" or "device d"
	Time       string      `json:"time,omitempty"`
	TimeNS     uint64      `json:"time_ns"`
	Class      string      `json:"class"`
	Reason     string      `json:"reason,omitempty"`
	Function   string      `json:"function,omitempty"`
	Source     string      `json:"source,omitempty"`
	Ingress    string      `json:"ingress,omitempty"`
	Egress     string      `json:"egress,omitempty"`
	Queue      uint32      `json:"queue,omitempty"`
	Flow       *FlowView   `json:"flow,omitempty"`
	SrcHost    string      `json:"src_host,omitempty"`
	DstHost    string      `json:"dst_host,omitempty"`
	TCPSeq     *uint32     `json:"tcp_seq,omitempty"`
	TCPAck     *uint32     `json:"tcp_ack,omitempty"`
	TCPFlags   string      `json:"tcp_flags,omitempty"` // "SYN ACK"
	IPID       *uint32     `json:"ip_id,omitempty"`
	TTL        *uint32     `json:"ttl,omitempty"`
	Length     uint32      `json:"length,omitempty"` // bytes, from the IP header on
	Prefixes   []string    `json:"prefixes,omitempty"`
	Matched    bool        `json:"matched"` // a host sent the same five-tuple and TCP sequence again
	ReceivedNS uint64      `json:"received_ns,omitempty"`
	Origin     *OriginView `json:"origin,omitempty"`
}

// HopView is what one TTL showed.
type HopView struct {
	TTL       uint32   `json:"ttl"`
	Status    string   `json:"status"` // answered, silent, unreachable, destination
	Address   string   `json:"address,omitempty"`
	Node      string   `json:"node,omitempty"`      // who that is in the topology
	Interface string   `json:"interface,omitempty"` // the one the packet came in by
	RTTNS     uint64   `json:"rtt_ns,omitempty"`
	Probes    uint32   `json:"probes,omitempty"`
	Others    []string `json:"others,omitempty"` // further addresses that answered
}

// PathView is a trace of one flow.
type PathView struct {
	Flow      *FlowView `json:"flow,omitempty"`
	SrcHost   string    `json:"src_host,omitempty"`
	DstHost   string    `json:"dst_host,omitempty"`
	Status    string    `json:"status"` // complete, partial, refused, failed, cached, skipped
	Why       string    `json:"why,omitempty"`
	Distance  uint32    `json:"distance,omitempty"`
	Hops      []HopView `json:"hops"`
	Links     []string  `json:"links"` // directed links that the trace shows, in order
	Time      string    `json:"time,omitempty"`
	TimeNS    uint64    `json:"time_ns,omitempty"`
	TookNS    uint64    `json:"took_ns,omitempty"`
	ProbeSeq  uint32    `json:"probe_seq,omitempty"`
	FlowLabel uint32    `json:"flow_label,omitempty"` // of the probes, over IPv6
	ProbeID   uint32    `json:"probe_id,omitempty"`
	SeenTimes int       `json:"seen_times,omitempty"` // in evidence: retransmits that share it
}

// RetransmitView is one retransmission as its host saw it.
type RetransmitView struct {
	Host       string      `json:"host"`
	Time       string      `json:"time,omitempty"`
	TimeNS     uint64      `json:"time_ns"`
	Flow       *FlowView   `json:"flow,omitempty"`
	SrcHost    string      `json:"src_host,omitempty"`
	DstHost    string      `json:"dst_host,omitempty"`
	Kind       string      `json:"kind"` // syn, syn-ack, tlp, fast, rto
	Segments   uint32      `json:"segments"`
	TCPSeq     uint32      `json:"tcp_seq"`
	TCPEndSeq  uint32      `json:"tcp_end_seq"`
	TCPFlags   string      `json:"tcp_flags,omitempty"`
	WayBack    bool        `json:"way_back_suspect,omitempty"`
	LocalCause string      `json:"local_cause,omitempty"`
	Undone     bool        `json:"undone,omitempty"`
	Matched    bool        `json:"matched"` // in evidence: a device drop of the same five-tuple and TCP sequence is listed
	PathStatus string      `json:"path_status"`
	PathIndex  *int        `json:"path_index,omitempty"` // in evidence: its trace among paths, from 0
	Path       *PathView   `json:"path,omitempty"`       // in lists of paths; in evidence see its paths
	ReceivedNS uint64      `json:"received_ns,omitempty"`
	Origin     *OriginView `json:"origin,omitempty"`
}

// CountsView counts evidence, listed or not.
type CountsView struct {
	Drops       uint64 `json:"drops"`
	Retransmits uint64 `json:"retransmits"`
	Paths       uint64 `json:"paths"`
	Matched     uint64 `json:"matched"`
}

// EvidenceView is what a finding or a verdict rests on.
type EvidenceView struct {
	Drops       []DropView       `json:"drops"`
	Retransmits []RetransmitView `json:"retransmits"`
	Paths       []PathView       `json:"paths"` // the distinct traces of the retransmits
	Counts      CountsView       `json:"counts"`
	LeftOut     uint64           `json:"left_out"`
	Reasons     []string         `json:"reasons"`
}

// FindingView is a blamed component over time.
type FindingView struct {
	ID          string       `json:"id"`
	Component   string       `json:"component"`
	Class       string       `json:"class"`                // of the drops, or silent or unknown when no device told of any
	Congestion  string       `json:"congestion,omitempty"` // of class no-buffer: when, in words
	Method      string       `json:"method"`
	State       string       `json:"state"`       // open, resolved
	Probability float64      `json:"probability"` // 0 where a rule found it that knows none: method vote, and findings of hosts and of devices that are down
	Equivalent  []string     `json:"equivalent"`  // components that the evidence cannot tell from this one
	Votes       float64      `json:"votes"`
	VotesShare  float64      `json:"votes_share"`
	From        string       `json:"from,omitempty"`
	FromNS      uint64       `json:"from_ns"`
	Last        string       `json:"last,omitempty"`
	LastNS      uint64       `json:"last_ns"`
	Detected    string       `json:"detected,omitempty"`
	DetectedNS  uint64       `json:"detected_ns"`
	Resolved    string       `json:"resolved,omitempty"`
	ResolvedNS  uint64       `json:"resolved_ns"`    // 0 while open
	Late        bool         `json:"late,omitempty"` // found when evidence of its time came late
	Flows       uint64       `json:"flows"`
	Hosts       []string     `json:"hosts"`
	Interfaces  []string     `json:"interfaces"`
	Evidence    EvidenceView `json:"evidence"`
}

// VerdictView answers a report.
type VerdictView struct {
	Verdict     string       `json:"verdict"`
	Component   string       `json:"component"`
	Class       string       `json:"class"`
	Probability float64      `json:"probability"`
	Equivalent  []string     `json:"equivalent"`
	Votes       float64      `json:"votes"`
	Finding     string       `json:"finding,omitempty"`
	Time        string       `json:"time,omitempty"`
	TimeNS      uint64       `json:"time_ns"`
	Revision    uint64       `json:"revision"`
	Final       bool         `json:"final"`
	Evidence    EvidenceView `json:"evidence"`
}

// ReportView is a fault report with its verdict; verdict is null until there
// is one.
type ReportView struct {
	ID      string       `json:"id"`
	Src     string       `json:"src"`
	Dst     string       `json:"dst"`
	SrcPort uint32       `json:"src_port,omitempty"`
	DstPort uint32       `json:"dst_port,omitempty"`
	From    string       `json:"from,omitempty"`
	FromNS  uint64       `json:"from_ns"`
	To      string       `json:"to,omitempty"`
	ToNS    uint64       `json:"to_ns"`
	Filed   string       `json:"filed,omitempty"`
	FiledNS uint64       `json:"filed_ns"`
	Says    string       `json:"says"`
	Verdict *VerdictView `json:"verdict"`
}

// LinkView is one link in the ranking.
type LinkView struct {
	Link         string  `json:"link"`
	Component    string  `json:"component"` // "link " + link
	Votes        float64 `json:"votes"`
	Share        float64 `json:"share"` // of all votes cast, 0..1
	Flows        int     `json:"flows"`
	Weak         int     `json:"weak"`
	Drops        uint64  `json:"drops"`
	Sources      int     `json:"sources"`
	Destinations int     `json:"destinations"`
	Probability  float64 `json:"probability"` // that it, or one like it, is at fault; 0 with the method vote
	Blamed       bool    `json:"blamed"`
}

// LinksView is the ranking of links.
type LinksView struct {
	List[LinkView]
	Method    string   `json:"method"`    // "fused", "vote"
	Abstained []string `json:"abstained"` // what could not be told, and why
}

// AgentView is the health of one producer of evidence.
type AgentView struct {
	Name       string            `json:"name"`
	Role       string            `json:"role"`
	Version    string            `json:"version,omitempty"`
	Source     string            `json:"source,omitempty"`
	LastSeen   string            `json:"last_seen,omitempty"`
	LastSeenNS uint64            `json:"last_seen_ns"`
	Fresh      bool              `json:"fresh"`
	Reports    string            `json:"reports,omitempty"`    // what a device tells of as its fuse and settings are
	BootID     string            `json:"boot_id,omitempty"`    // hexadecimal
	Fuse       string            `json:"fuse,omitempty"`       // what a device's fuse allows of it: full, sampled, counters, off
	Unreported []string          `json:"unreported,omitempty"` // classes of drops that a device tells nothing of
	Suppressed map[string]uint64 `json:"suppressed,omitempty"` // a device's drops without an event of their own, by why
	Revision   uint64            `json:"revision,omitempty"`   // of its settings, see "decaf agents config"
	Gaps       uint64            `json:"gaps"`
	Counters   map[string]uint64 `json:"counters"`
	Error      string            `json:"error,omitempty"`
}

// TopologyView is the network as configured. TLS files are not shown.
type TopologyView struct {
	Site    string         `json:"site"`
	Devices []DeviceView   `json:"devices"`
	Hosts   []HostView     `json:"hosts"`
	Links   []TopoLinkView `json:"links"` // directed
}

// DeviceView is a device of the topology.
type DeviceView struct {
	Name string            `json:"name"`
	Tier string            `json:"tier,omitempty"`
	Pod  string            `json:"pod,omitempty"`
	Tags map[string]string `json:"tags,omitempty"`
	GNMI string            `json:"gnmi,omitempty"` // host:port
}

// HostView is a host of the topology.
type HostView struct {
	Name      string            `json:"name"`
	Addresses []string          `json:"addresses"`
	Tags      map[string]string `json:"tags,omitempty"`
}

// TopoLinkView is a directed link of the topology.
type TopoLinkView struct {
	Name string  `json:"name"`
	From EndView `json:"from"`
	To   EndView `json:"to"`
}

// EndView is one end of a link.
type EndView struct {
	Node      string `json:"node"`
	Interface string `json:"interface"`
	Address   string `json:"address,omitempty"`  // CIDR
	Address6  string `json:"address6,omitempty"` // of IPv6, beside it
}

// List is what every list endpoint answers.
type List[T any] struct {
	Items   []T `json:"items"`
	LeftOut int `json:"left_out"` // matched too, but beyond the limit
}

// Views turns records into JSON views, naming addresses by a topology.
type Views struct {
	topo *topology.Topology
}

// NewViews returns Views over t, which may be nil: then nothing is named.
func NewViews(t *topology.Topology) Views {
	if t == nil {
		t = &topology.Topology{}
	}
	return Views{topo: t}
}

func timeText(ns uint64) string {
	if ns == 0 || ns > 1<<63-1 {
		return ""
	}
	return stamp(time.Unix(0, int64(ns)))
}

func address(b []byte) string {
	a, ok := netip.AddrFromSlice(b)
	if !ok {
		return ""
	}
	return a.Unmap().String()
}

// Flow views a five-tuple; nil for nil.
func (v Views) Flow(f *decafpb.Flow) *FlowView {
	if f == nil {
		return nil
	}
	return &FlowView{Src: address(f.Src), Dst: address(f.Dst), SrcPort: f.SrcPort, DstPort: f.DstPort, Protocol: protocol(f.Protocol)}
}

func protocol(n uint32) string {
	switch n {
	case 1:
		return "icmp"
	case 6:
		return "tcp"
	case 17:
		return "udp"
	case 58:
		return "icmpv6"
	}
	return strconv.FormatUint(uint64(n), 10)
}

func (v Views) host(addr []byte) string {
	a, ok := netip.AddrFromSlice(addr)
	if !ok {
		return ""
	}
	h, ok := v.topo.HostAt(a.Unmap())
	if !ok {
		return ""
	}
	return h.Name
}

func tcpFlags(bits uint32) string {
	var set []string
	for i, name := range []string{"FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"} {
		if bits&(1<<i) != 0 {
			set = append(set, name)
		}
	}
	return strings.Join(set, " ")
}

func origin(o *decafpb.Origin) *OriginView {
	if o == nil {
		return nil
	}
	return &OriginView{Producer: o.Producer, BootID: hex64(o.BootId), Seq: o.Seq}
}

func hex64(n uint64) string { return fmt.Sprintf("%016x", n) }

// Drop views a drop. Device and component are taken from the row, or else
// from the event and the topology.
func (v Views) Drop(row DropRow) DropView {
	d := row.DropEvent
	if d == nil {
		d = &decafpb.DropEvent{}
	}
	out := DropView{
		Device: row.Device, Component: row.Component, Matched: row.Matched,
		Time: timeText(d.TimeNs), TimeNS: d.TimeNs, Class: d.Class, Reason: d.Reason,
		Function: d.Function, Source: d.Source, Ingress: d.Ingress, Egress: d.Egress, Queue: d.Queue,
		ReceivedNS: d.ReceivedNs, Origin: origin(d.Origin),
	}
	if out.Device == "" {
		out.Device = d.GetOrigin().GetProducer()
	}
	if p := d.Packet; p != nil {
		out.Flow = v.Flow(p.Flow)
		out.TTL, out.Length = &p.Ttl, p.Length
		if f := p.Flow; f != nil {
			out.SrcHost, out.DstHost = v.host(f.Src), v.host(f.Dst)
			if len(f.Src) == 4 {
				out.IPID = &p.IpId
			}
			if f.Protocol == 6 {
				out.TCPSeq, out.TCPAck, out.TCPFlags = &p.TcpSeq, &p.TcpAck, tcpFlags(p.TcpFlags)
			}
		}
	}
	for _, p := range d.Prefixes {
		if a, ok := netip.AddrFromSlice(p.Address); ok {
			out.Prefixes = append(out.Prefixes, netip.PrefixFrom(a.Unmap(), int(min(p.Length, 128))).String())
		}
	}
	return out
}

// word turns an enum's name into the API's: HOP_STATUS_SILENT into silent.
func word(name, prefix string) string {
	w := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(name, prefix), "_", "-"))
	if w == "unspecified" {
		return "unknown"
	}
	return w
}

// Path views a trace of flow; nil for nil.
func (v Views) Path(p *decafpb.Path, flow *decafpb.Flow) *PathView {
	if p == nil {
		return nil
	}
	out := &PathView{
		Flow: v.Flow(flow), Status: word(p.Status.String(), "PATH_STATUS_"), Why: p.Why, Distance: p.Distance,
		Hops: []HopView{}, Links: []string{}, Time: timeText(p.StartNs), TimeNS: p.StartNs, TookNS: p.TookNs,
		ProbeSeq: p.ProbeSeq, ProbeID: p.ProbeId, FlowLabel: p.FlowLabel,
	}
	if flow != nil {
		out.SrcHost, out.DstHost = v.host(flow.Src), v.host(flow.Dst)
	}
	last, whole := "", len(p.Hops) > 0
	for i, h := range p.Hops {
		hop := HopView{TTL: h.Ttl, Status: word(h.Status.String(), "HOP_STATUS_"), Address: address(h.Address), RTTNS: h.RttNs, Probes: h.Probes}
		for _, o := range h.Others {
			hop.Others = append(hop.Others, address(o))
		}
		if a, ok := netip.AddrFromSlice(h.Address); ok {
			if in, ok := v.topo.InterfaceAt(a.Unmap()); ok {
				hop.Node, hop.Interface = in.Node, in.Name
				// The answer names the inbound interface
				// (icmp_errors_use_inbound_ifaddr, or RFC 5837), and an
				// interface has one link into it: the link is known even when
				// the hop before was silent.
				if link, ok := v.topo.LinkInto(in.Node, in.Name); ok {
					out.Links = append(out.Links, link.Name)
				}
			}
		}
		whole = whole && hop.Node != "" && int(h.Ttl) == i+1
		last = hop.Node
		out.Hops = append(out.Hops, hop)
	}
	// The destination is never probed, so the last link is the topology's to
	// tell: of a whole path, from its last device to the host.
	if whole && out.DstHost != "" && last != out.DstHost && (p.Distance == 0 || int(p.Distance) == len(p.Hops)) {
		if links := v.topo.LinkBetween(last, out.DstHost); len(links) == 1 {
			out.Links = append(out.Links, links[0].Name)
		}
	}
	return out
}

// Retransmit views a retransmit with its path.
func (v Views) Retransmit(r *decafpb.Retransmit) RetransmitView {
	out := RetransmitView{
		Host: r.GetOrigin().GetProducer(), Time: timeText(r.TimeNs), TimeNS: r.TimeNs, Flow: v.Flow(r.Flow),
		Kind: word(r.Kind.String(), "RETRANSMIT_KIND_"), Segments: r.Segments, TCPSeq: r.TcpSeq, TCPEndSeq: r.TcpEndSeq,
		TCPFlags: tcpFlags(r.TcpFlags), WayBack: r.WayBackSuspect, LocalCause: r.LocalCause, Undone: r.Undone,
		PathStatus: "none", Path: v.Path(r.Path, r.Flow), ReceivedNS: r.ReceivedNs, Origin: origin(r.Origin),
	}
	if r.Flow != nil {
		out.SrcHost, out.DstHost = v.host(r.Flow.Src), v.host(r.Flow.Dst)
	}
	if out.Host == "" {
		out.Host = out.SrcHost
	}
	if out.Path != nil {
		out.PathStatus = out.Path.Status
	}
	return out
}

// packetID is what a device drop and a host's retransmit of it share.
type packetID struct {
	flow FlowView
	seq  uint32
}

// Evidence views evidence; nil is none.
func (v Views) Evidence(e *decafpb.Evidence) EvidenceView {
	out := EvidenceView{Drops: []DropView{}, Retransmits: []RetransmitView{}, Paths: []PathView{}, Reasons: []string{}}
	if e == nil {
		return out
	}
	sent := make(map[packetID]bool, len(e.Retransmits))
	for _, r := range e.Retransmits {
		if f := v.Flow(r.Flow); f != nil {
			sent[packetID{*f, r.TcpSeq}] = true
		}
	}
	dropped := make(map[packetID]bool, len(e.Drops))
	for _, d := range e.Drops {
		row := DropRow{DropEvent: d, Device: d.GetOrigin().GetProducer()}
		drop := v.Drop(row)
		drop.Component = v.component(drop)
		if drop.Flow != nil && drop.TCPSeq != nil {
			id := packetID{*drop.Flow, *drop.TCPSeq}
			drop.Matched = sent[id]
			dropped[id] = true
		}
		out.Drops = append(out.Drops, drop)
	}
	type trace struct {
		flow  FlowView
		links string
		seq   uint32
	}
	seen := make(map[trace]int)
	for _, r := range e.Retransmits {
		rv := v.Retransmit(r)
		if path := rv.Path; path != nil && len(path.Hops) > 0 {
			key := trace{links: strings.Join(path.Links, " "), seq: path.ProbeSeq}
			if path.Flow != nil {
				key.flow = *path.Flow
			}
			at, ok := seen[key]
			if !ok {
				at = len(out.Paths)
				seen[key] = at
				out.Paths = append(out.Paths, *path)
			}
			out.Paths[at].SeenTimes++
			rv.PathIndex = &at
		}
		rv.Path = nil
		if rv.Flow != nil {
			rv.Matched = dropped[packetID{*rv.Flow, rv.TCPSeq}]
		}
		out.Retransmits = append(out.Retransmits, rv)
	}
	out.Counts = CountsView{Drops: e.DropCount, Retransmits: e.RetransmitCount, Paths: e.PathCount, Matched: e.MatchedCount}
	out.LeftOut = e.LeftOut
	out.Reasons = append(out.Reasons, e.Reasons...)
	return out
}

// component names what a drop in evidence is laid to: the rule of design.md
// section 8, a full queue blames its egress link, all else the device.
func (v Views) component(d DropView) string {
	if d.Class == "no-buffer" || strings.HasPrefix(d.Class, "no-buffer/") {
		if link, ok := v.topo.LinkFrom(d.Device, d.Egress); ok {
			return "link " + link.Name
		}
	}
	if d.Device == "" {
		return ""
	}
	return "device " + d.Device
}

// Finding views a finding.
func (v Views) Finding(f *decafpb.Finding) FindingView {
	state := "open"
	if f.ResolvedNs != 0 {
		state = "resolved"
	}
	return FindingView{
		ID: f.Id, Component: f.Component, Class: f.Class, Congestion: congestion(f), Method: f.Method, State: state,
		Probability: f.Probability, Equivalent: texts(f.Equivalent), Votes: f.Votes, VotesShare: f.VotesShare,
		From: timeText(f.FromNs), FromNS: f.FromNs, Last: timeText(f.LastNs), LastNS: f.LastNs,
		Detected: timeText(f.DetectedNs), DetectedNS: f.DetectedNs, Resolved: timeText(f.ResolvedNs), ResolvedNS: f.ResolvedNs, Late: f.Late,
		Flows: f.Flows, Hosts: texts(f.Hosts), Interfaces: texts(f.Interfaces), Evidence: v.Evidence(f.Evidence),
	}
}

func texts(s []string) []string { return append([]string{}, s...) }

// Verdict views a verdict; nil for nil.
func (v Views) Verdict(d *decafpb.Verdict) *VerdictView {
	if d == nil {
		return nil
	}
	return &VerdictView{
		Verdict: d.Verdict, Component: d.Component, Class: d.Class, Probability: d.Probability,
		Equivalent: texts(d.Equivalent), Votes: d.Votes,
		Finding: d.Finding, Time: timeText(d.TimeNs), TimeNS: d.TimeNs, Revision: d.Revision, Final: d.Final,
		Evidence: v.Evidence(d.Evidence),
	}
}

// Report views a fault report.
func (v Views) Report(r *decafpb.FaultReport) ReportView {
	return ReportView{
		ID: r.Id, Src: r.Src, Dst: r.Dst, SrcPort: r.SrcPort, DstPort: r.DstPort,
		From: timeText(r.FromNs), FromNS: r.FromNs, To: timeText(r.ToNs), ToNS: r.ToNs,
		Filed: timeText(r.FiledNs), FiledNS: r.FiledNs, Says: r.Says, Verdict: v.Verdict(r.Verdict),
	}
}

// Link views a row of the ranking.
func (v Views) Link(l LinkRow) LinkView {
	return LinkView{Link: l.Link, Component: "link " + l.Link, Votes: l.Votes, Share: l.Share, Flows: l.Flows, Weak: l.Weak,
		Drops: l.Drops, Sources: l.Sources, Destinations: l.Destinations, Probability: l.Probability, Blamed: l.Blamed}
}

// Links views the ranking.
func (v Views) Links(r LinkRanking, rng Range) LinksView {
	return LinksView{List: each(r.Rows, rng, v.Link), Method: r.Method, Abstained: texts(r.Abstained)}
}

// Agent views an agent.
func (v Views) Agent(a AgentRow) AgentView {
	out := AgentView{Name: a.Name, Role: a.Role, Version: a.Version, Source: a.Source, Fresh: a.Fresh,
		Reports: a.Reports, Fuse: a.Fuse, Unreported: slices.Clone(a.Unreported), Suppressed: maps.Clone(a.Suppressed), Revision: a.Revision, Gaps: a.Gaps, Counters: map[string]uint64{}, Error: a.Error}
	if !a.LastSeen.IsZero() {
		out.LastSeen, out.LastSeenNS = stamp(a.LastSeen), uint64(a.LastSeen.UnixNano())
	}
	if a.BootID != 0 {
		out.BootID = hex64(a.BootID)
	}
	maps.Copy(out.Counters, a.Counters)
	return out
}

// Topology views the topology.
func (v Views) Topology() TopologyView {
	out := TopologyView{Site: v.topo.Site, Devices: []DeviceView{}, Hosts: []HostView{}, Links: []TopoLinkView{}}
	for _, d := range v.topo.Devices {
		dv := DeviceView{Name: d.Name, Tier: d.Tier, Pod: d.Pod, Tags: d.Tags}
		if d.GNMI != nil {
			dv.GNMI = d.GNMI.Address
		}
		out.Devices = append(out.Devices, dv)
	}
	for _, h := range v.topo.Hosts {
		hv := HostView{Name: h.Name, Addresses: []string{}, Tags: h.Tags}
		for _, a := range h.Addresses {
			hv.Addresses = append(hv.Addresses, a.String())
		}
		out.Hosts = append(out.Hosts, hv)
	}
	end := func(i *topology.Interface) EndView {
		e := EndView{Node: i.Node, Interface: i.Name}
		if i.Addr.IsValid() {
			e.Address = i.Addr.String()
		}
		if i.Addr6.IsValid() {
			e.Address6 = i.Addr6.String()
		}
		return e
	}
	for _, l := range v.topo.Links {
		out.Links = append(out.Links, TopoLinkView{Name: l.Name, From: end(l.From), To: end(l.To)})
	}
	return out
}
