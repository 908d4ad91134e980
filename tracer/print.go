package tracer

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"decaf/api/decafpb"
	"decaf/api/packet"
	"decaf/topology"
)

// printer shows what a trace found.
type printer struct {
	w          io.Writer
	json       bool
	lines      bool // one JSON object a line
	flow       packet.Flow
	topology   *topology.Topology // may be nil
	lookup     bool               // of names
	confidence int

	names   map[netip.Addr]string
	answers []int  // by TTL-1
	says    string // of the destination's port
}

// observe notes what a path has no place for.
func (p *printer) observe(m *machine) {
	p.answers = p.answers[:0]
	for i := range m.hops {
		p.answers = append(p.answers, m.hops[i].got)
	}
	p.says = m.says
}

func (p *printer) print(ctx context.Context, path *decafpb.Path, fan *Fan) error {
	p.name(ctx, path, fan)
	if p.json {
		var v any = p.pathView(path)
		if fan != nil {
			v = p.fanView(path, fan)
		}
		enc := json.NewEncoder(p.w)
		if !p.lines {
			enc.SetIndent("", "  ")
		}
		return enc.Encode(v)
	}
	if fan != nil {
		return p.fan(path, fan)
	}
	return p.table(path)
}

// patience is for all look-ups of names together.
const patience = 500 * time.Millisecond

// name finds names: the topology's, else the resolver's. Those that do not come
// in time are left out.
func (p *printer) name(ctx context.Context, path *decafpb.Path, fan *Fan) {
	p.names = make(map[netip.Addr]string)
	var all []netip.Addr
	for _, h := range path.GetHops() {
		for _, b := range append([][]byte{h.GetAddress()}, h.GetOthers()...) {
			if a, ok := netip.AddrFromSlice(b); ok {
				all = append(all, a)
			}
		}
	}
	if fan != nil {
		for _, nodes := range fan.Hops {
			for _, n := range nodes {
				if n.Address.IsValid() {
					all = append(all, n.Address)
				}
			}
		}
	}
	slices.SortFunc(all, netip.Addr.Compare)
	all = slices.Compact(all)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var mu sync.Mutex
	var looking sync.WaitGroup
	slots := make(chan struct{}, 16)
	for _, a := range all {
		if p.topology != nil {
			if i, ok := p.topology.InterfaceAt(a); ok {
				p.names[a] = i.String()
				continue
			}
			if h, ok := p.topology.HostAt(a); ok {
				p.names[a] = h.Name
				continue
			}
		}
		if !p.lookup {
			continue
		}
		looking.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			names, err := net.DefaultResolver.LookupAddr(ctx, a.String())
			if err != nil || len(names) == 0 {
				return // an address without a name is the usual case
			}
			mu.Lock()
			defer mu.Unlock()
			p.names[a] = strings.TrimSuffix(printable(names[0]), ".")
		})
	}
	looking.Wait()
}

// printable keeps what others chose from driving a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return -1
		}
		return r
	}, s)
}

func hopStatusWord(s decafpb.HopStatus) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "HOP_STATUS_"))
}

func addressText(b []byte) string {
	if a, ok := netip.AddrFromSlice(b); ok {
		return a.String()
	}
	return ""
}

func rttText(d time.Duration) string {
	if d <= 0 {
		return "-"
	}
	return d.Round(time.Microsecond).String()
}

// labelText gives a label stack as people write it: labels, and the traffic class
// where it says something.
func labelText(stack []uint32) string {
	var out []string
	for _, l := range stack {
		s := strconv.Itoa(int(l >> 12))
		if tc := l >> 9 & 7; tc != 0 {
			s += fmt.Sprintf("/tc%d", tc)
		}
		out = append(out, s)
	}
	return strings.Join(out, ",")
}

func (p *printer) head(path *decafpb.Path) {
	fmt.Fprintf(p.w, "%s: %s", p.flow, statusWord(path.GetStatus()))
	if path.GetWhy() != "" {
		fmt.Fprintf(p.w, ": %s", path.GetWhy())
	}
	fmt.Fprintf(p.w, " (%s)\n", time.Duration(path.GetTookNs()).Round(time.Microsecond))
	if f, err := packet.FlowFromPB(path.GetProbed()); err == nil {
		fmt.Fprintf(p.w, "on the wire: %s\n", f)
	}
}

// column is one of a table; empty ones are left out.
type column struct {
	title string
	cells []string
	must  bool
}

func printColumns(w io.Writer, columns []column) error {
	columns = slices.DeleteFunc(columns, func(c column) bool {
		return !c.must && !slices.ContainsFunc(c.cells, func(s string) bool { return s != "" })
	})
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for row := -1; row < len(columns[0].cells); row++ {
		for i, c := range columns {
			text := c.title
			if row >= 0 {
				if text = c.cells[row]; text == "" && i < len(columns)-1 {
					text = "-"
				}
			}
			if i > 0 {
				fmt.Fprint(tw, "\t")
			}
			fmt.Fprint(tw, text)
		}
		fmt.Fprintln(tw)
	}
	return tw.Flush()
}

func (p *printer) table(path *decafpb.Path) error {
	p.head(path)
	if len(path.GetHops()) == 0 {
		return nil
	}
	c := []column{{title: "TTL", must: true}, {title: "ADDRESS", must: true}, {title: "NAME"}, {title: "RTT", must: true}, {title: "PROBES", must: true}, {title: "LOST", must: true},
		{title: "MPLS"}, {title: "INTERFACE"}, {title: "SAYS"}, {title: "ALSO FROM"}}
	for i, h := range path.GetHops() {
		a, _ := netip.AddrFromSlice(h.GetAddress())
		text, says := addressText(h.GetAddress()), ""
		switch h.GetStatus() {
		case decafpb.HopStatus_HOP_STATUS_SILENT:
			text = "*"
		case decafpb.HopStatus_HOP_STATUS_UNREACHABLE:
			says = "unreachable"
		case decafpb.HopStatus_HOP_STATUS_DESTINATION:
			says = strings.TrimSpace("destination " + p.says)
		}
		var others []string
		for _, o := range h.GetOthers() {
			others = append(others, addressText(o))
		}
		for j, cell := range []string{
			strconv.Itoa(int(h.GetTtl())), text, p.names[a], rttText(time.Duration(h.GetRttNs())), strconv.Itoa(int(h.GetProbes())), strconv.Itoa(p.lost(i, h)),
			labelText(h.GetMpls()), printable(h.GetInterface()), says, strings.Join(others, " "),
		} {
			c[j].cells = append(c[j].cells, cell)
		}
	}
	return printColumns(p.w, c)
}

// lost is how many probes of a hop had no answer while the trace lasted.
func (p *printer) lost(i int, h *decafpb.Hop) int {
	if i >= len(p.answers) || h.GetStatus() == decafpb.HopStatus_HOP_STATUS_DESTINATION {
		return 0
	}
	return max(int(h.GetProbes())-p.answers[i], 0)
}

// fan prints an enumeration: picture, nodes, paths.
func (p *printer) fan(path *decafpb.Path, f *Fan) error {
	fmt.Fprintf(p.w, "%s: %d paths seen, %d possible by their links, %d%% sure at every switch", p.flow, len(f.Paths), f.Possible, p.confidence)
	if !f.Complete {
		fmt.Fprint(p.w, ", incomplete")
	}
	fmt.Fprintf(p.w, " (%d flows, %d probes, %s)\n", f.Flows, f.Probes, (time.Duration(path.GetTookNs()) + f.Took).Round(time.Microsecond))
	if f.Why != "" {
		fmt.Fprintln(p.w, f.Why)
	}
	fmt.Fprintf(p.w, "\n%s\n", picture(f, p.flow))
	c := []column{{title: "TTL", must: true}, {title: "ADDRESS", must: true}, {title: "NAME"}, {title: "RTT", must: true}, {title: "FLOWS", must: true}, {title: "MPLS"}, {title: "INTERFACE"}, {title: "SAYS"}}
	for i, nodes := range f.Hops {
		for _, n := range slices.SortedFunc(slices.Values(nodes), func(a, b Node) int { return a.Address.Compare(b.Address) }) {
			says := n.Meaning
			if n.PerPacket {
				says = "balances packet by packet"
			}
			for j, cell := range []string{strconv.Itoa(i + 1), nodeText(n), p.names[n.Address], rttText(n.RTT), strconv.Itoa(n.Flows), labelText(n.MPLS), printable(n.Interface), says} {
				c[j].cells = append(c[j].cells, cell)
			}
		}
	}
	if err := printColumns(p.w, c); err != nil {
		return err
	}
	fmt.Fprintln(p.w)
	c = []column{{title: "PATH", must: true}, {title: "FLOWS", must: true}, {title: "SOURCE PORTS", must: true}, {title: "FLOW LABELS"}, {title: "BY", must: true}}
	for i, way := range f.Paths {
		mark := ""
		if i == f.Own {
			mark = " (this flow's)"
		}
		for j, cell := range []string{strconv.Itoa(i+1) + mark, strconv.Itoa(len(way.Flows)), firstFew(f.Ports, way), firstFew(f.Labels, way), strings.Join(f.texts(way), " ")} {
			c[j].cells = append(c[j].cells, cell)
		}
	}
	return printColumns(p.w, c)
}

func nodeText(n Node) string {
	if !n.Address.IsValid() {
		return "*"
	}
	return n.Address.String()
}

// texts are the nodes of a path in words.
func (f *Fan) texts(way FanPath) []string {
	var out []string
	for i, n := range way.Nodes {
		out = append(out, nodeText(f.Hops[i][n]))
	}
	return out
}

// firstFew gives what some flows of a path have, of what all have; "" where that is
// nothing.
func firstFew[T uint16 | uint32](all []T, way FanPath) string {
	var out []string
	for _, flow := range way.Flows[:min(3, len(way.Flows))] {
		if flow >= len(all) {
			return ""
		}
		out = append(out, strconv.Itoa(int(all[flow])))
	}
	if len(way.Flows) > 3 {
		out = append(out, "…")
	}
	return strings.Join(out, ",")
}

// The JSON has the keys of the API's paths.
type pathView struct {
	Flow      flowView  `json:"flow"`
	Probed    *flowView `json:"probed,omitempty"`
	Status    string    `json:"status"`
	Why       string    `json:"why,omitempty"`
	Distance  uint32    `json:"distance,omitempty"`
	Hops      []hopView `json:"hops"`
	Port      string    `json:"port,omitempty"` // open, closed
	Time      string    `json:"time"`
	TimeNS    uint64    `json:"time_ns"`
	TookNS    uint64    `json:"took_ns,omitempty"`
	ProbeSeq  uint32    `json:"probe_seq,omitempty"`
	FlowLabel uint32    `json:"flow_label,omitempty"`
	ProbeID   uint32    `json:"probe_id,omitempty"`
}

type flowView struct {
	Src      string `json:"src"`
	Dst      string `json:"dst"`
	SrcPort  uint16 `json:"src_port"`
	DstPort  uint16 `json:"dst_port"`
	Protocol string `json:"protocol"`
}

type hopView struct {
	TTL       uint32   `json:"ttl"`
	Status    string   `json:"status"`
	Address   string   `json:"address,omitempty"`
	Name      string   `json:"name,omitempty"`
	RTTNS     uint64   `json:"rtt_ns,omitempty"`
	Probes    uint32   `json:"probes,omitempty"`
	Lost      int      `json:"lost"`
	MPLS      []uint32 `json:"mpls,omitempty"` // labels alone, outermost first
	Interface string   `json:"interface,omitempty"`
	Others    []string `json:"others,omitempty"`
}

type fanView struct {
	Flow       flowView      `json:"flow"`
	Confidence int           `json:"confidence"`
	Complete   bool          `json:"complete"`
	Why        string        `json:"why,omitempty"`
	Hops       []fanHopView  `json:"hops"`
	Links      []fanLinkView `json:"links"`
	Paths      []fanPathView `json:"paths"`
	Possible   uint64        `json:"possible_paths"`
	Flows      int           `json:"flows"`
	Probes     int           `json:"probes"`
	TookNS     int64         `json:"took_ns"` // without the first path
	Path       pathView      `json:"path"`    // of the flow itself, traced first
}

type fanHopView struct {
	TTL   int        `json:"ttl"`
	Nodes []nodeView `json:"nodes"`
}

type nodeView struct {
	Address   string   `json:"address,omitempty"` // none: silent
	Name      string   `json:"name,omitempty"`
	Interface string   `json:"interface,omitempty"`
	MPLS      []uint32 `json:"mpls,omitempty"`
	RTTNS     int64    `json:"rtt_ns,omitempty"`
	Flows     int      `json:"flows"`
	PerPacket bool     `json:"per_packet,omitempty"`
	Says      string   `json:"says,omitempty"`
}

type fanLinkView struct {
	TTL   int    `json:"ttl"` // of from
	From  string `json:"from"`
	To    string `json:"to"`
	Flows int    `json:"flows"`
}

type fanPathView struct {
	Own   bool     `json:"own"`
	Flows int      `json:"flows"`
	Ports []uint16 `json:"src_ports"`
	// Labels are IPv6 flow labels, of the same flows.
	Labels []uint32 `json:"flow_labels,omitempty"`
	Nodes  []string `json:"nodes"`
}

func viewOf(f packet.Flow) flowView {
	return flowView{
		Src: f.Src.Addr().String(), SrcPort: f.Src.Port(),
		Dst: f.Dst.Addr().String(), DstPort: f.Dst.Port(),
		Protocol: "tcp",
	}
}

func bareLabels(stack []uint32) (out []uint32) {
	for _, l := range stack {
		out = append(out, l>>12)
	}
	return out
}

func (p *printer) pathView(path *decafpb.Path) pathView {
	v := pathView{
		Flow:      viewOf(p.flow),
		Status:    statusWord(path.GetStatus()),
		Why:       path.GetWhy(),
		Distance:  path.GetDistance(),
		Hops:      []hopView{},
		Port:      p.says,
		Time:      time.Unix(0, int64(path.GetStartNs())).UTC().Format(time.RFC3339Nano),
		TimeNS:    path.GetStartNs(),
		TookNS:    path.GetTookNs(),
		ProbeSeq:  path.GetProbeSeq(),
		FlowLabel: path.GetFlowLabel(),
		ProbeID:   path.GetProbeId(),
	}
	if f, err := packet.FlowFromPB(path.GetProbed()); err == nil {
		wire := viewOf(f)
		v.Probed = &wire
	}
	for i, h := range path.GetHops() {
		a, _ := netip.AddrFromSlice(h.GetAddress())
		hv := hopView{TTL: h.GetTtl(), Status: hopStatusWord(h.GetStatus()), Address: addressText(h.GetAddress()), Name: p.names[a],
			RTTNS: h.GetRttNs(), Probes: h.GetProbes(), Lost: p.lost(i, h), MPLS: bareLabels(h.GetMpls()), Interface: h.GetInterface()}
		for _, o := range h.GetOthers() {
			hv.Others = append(hv.Others, addressText(o))
		}
		v.Hops = append(v.Hops, hv)
	}
	return v
}

func (p *printer) fanView(path *decafpb.Path, f *Fan) fanView {
	v := fanView{
		Flow: viewOf(p.flow), Confidence: p.confidence, Complete: f.Complete, Why: f.Why, Possible: f.Possible,
		Flows: f.Flows, Probes: f.Probes, TookNS: int64(f.Took), Path: p.pathView(path),
		Hops: []fanHopView{}, Links: []fanLinkView{}, Paths: []fanPathView{},
	}
	for i, nodes := range f.Hops {
		h := fanHopView{TTL: i + 1}
		for _, n := range nodes {
			nv := nodeView{Name: p.names[n.Address], Interface: n.Interface, MPLS: bareLabels(n.MPLS), RTTNS: int64(n.RTT), Flows: n.Flows, PerPacket: n.PerPacket, Says: n.Meaning}
			if n.Address.IsValid() {
				nv.Address = n.Address.String()
			}
			h.Nodes = append(h.Nodes, nv)
		}
		v.Hops = append(v.Hops, h)
	}
	for _, l := range f.Links {
		v.Links = append(v.Links, fanLinkView{TTL: l.TTL, From: nodeText(f.Hops[l.TTL-1][l.From]), To: nodeText(f.Hops[l.TTL][l.To]), Flows: l.Flows})
	}
	for i, way := range f.Paths {
		pv := fanPathView{Own: i == f.Own, Flows: len(way.Flows), Nodes: f.texts(way)}
		for _, flow := range way.Flows {
			pv.Ports = append(pv.Ports, f.Ports[flow])
			if f.Labels != nil {
				pv.Labels = append(pv.Labels, f.Labels[flow])
			}
		}
		v.Paths = append(v.Paths, pv)
	}
	return v
}
