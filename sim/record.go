package sim

import (
	"cmp"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"decaf/api"
	"decaf/api/packet"
	"decaf/sim/replay"
	"decaf/sim/scenario"
	"decaf/topology"
)

// recordEpoch is how long the epochs of a recording are.
const recordEpoch = 30 * time.Second

// connectionTime is the longest that retransmits of one five-tuple belong to one
// connection: no connection of a fabric lives longer, and no port is used again
// sooner.
const connectionTime = 60 * time.Second

// recordSlack is how long after a host's word on a connection that has ended its last
// retransmit may have been.
const recordSlack = 2 * time.Second

// recorder turns what a run saw into the epochs of a recording.
type recorder struct {
	topo     *topology.Topology
	graph    *replay.Topology
	scenario *scenario.Scenario
	began    time.Time
	said     *testimony
	truth    *fabricTruth
	epochs   []*replay.Epoch
	// sent are the segments that hosts sent again, and of which flow line.
	sent map[segment]flowLine
	// dropped are the segments that devices say they dropped, and hurt their flows;
	// decaf's own probes are not among them.
	dropped map[segment]bool
	hurt    map[packet.Flow]bool
	wayBack int // connections left out
}

// segment is a TCP segment of a flow.
type segment struct {
	flow packet.Flow
	seq  uint32
}

type flowLine struct {
	epoch int
	flow  int32
}

// record writes what agents said in a run, and the truth, in epochs of 30 s since its
// start (replay's format), and gives how many connections it left out: the format says
// that a flow lost packets on its path, so what may have been lost on the way back is
// not in it.
//
// A lossy connection's packets are as its host counted them; where hosts do not, they
// are what a connection of the scenario has on average.
func record(w io.Writer, t *topology.Topology, s *scenario.Scenario, began time.Time, said *testimony, truth *fabricTruth) (leftOut int, err error) {
	graph, err := replay.FromTopology(t)
	if err != nil {
		return 0, err
	}
	r := &recorder{
		topo: t, graph: graph, scenario: s, began: began, said: said, truth: truth,
		sent: make(map[segment]flowLine), dropped: make(map[segment]bool), hurt: make(map[packet.Flow]bool),
	}
	for from := time.Duration(0); from < s.Duration; from += recordEpoch {
		to := min(from+recordEpoch, s.Duration)
		r.epochs = append(r.epochs, &replay.Epoch{StartNS: r.ns(from), EndNS: r.ns(to), Truth: new(replay.Truth)})
	}
	r.drops()
	if err := r.lossy(); err != nil {
		return 0, err
	}
	r.lossFree()
	for _, e := range r.epochs {
		r.instrumented(e)
	}
	r.faults()
	r.causes()
	return r.wayBack, replay.Write(w, graph, r.epochs...)
}

func (r *recorder) ns(at time.Duration) uint64 { return uint64(r.began.Add(at).UnixNano()) }

// epoch is the one of a time. What comes after the run's end belongs to its last: it
// began before.
func (r *recorder) epoch(ns uint64) int {
	i := int(time.Unix(0, int64(ns)).Sub(r.began) / recordEpoch)
	return min(max(i, 0), len(r.epochs)-1)
}

// host gives the number of the host of an address.
func (r *recorder) host(a netip.Addr) (replay.NodeID, bool) {
	h, ok := r.topo.HostAt(a)
	if !ok {
		return replay.None, false
	}
	n, ok := r.graph.Node(h.Name)
	return n, ok
}

// lossy writes a line for each connection that sent something again.
func (r *recorder) lossy() error {
	byFlow := make(map[packet.Flow][]*api.RetransmitView)
	var order []packet.Flow
	for i := range r.said.retransmits {
		x := &r.said.retransmits[i]
		f, err := flowOf(x.Flow)
		if err != nil {
			return fmt.Errorf("a retransmit of %s: %w", x.Host, err)
		}
		if byFlow[f] == nil {
			order = append(order, f)
		}
		byFlow[f] = append(byFlow[f], x)
	}
	counted := make(map[packet.Flow][]flowRow)
	for _, row := range r.said.flows {
		if row.flow.Src.Port() != 0 {
			counted[row.flow] = append(counted[row.flow], row)
		}
	}
	for _, f := range order {
		list := byFlow[f]
		slices.SortStableFunc(list, func(a, b *api.RetransmitView) int { return cmp.Compare(a.TimeNS, b.TimeNS) })
		for len(list) > 0 {
			n := 1
			for n < len(list) && list[n].TimeNS-list[0].TimeNS <= uint64(connectionTime) {
				n++
			}
			r.connection(f, list[:n], counted[f])
			list = list[n:]
		}
	}
	return nil
}

// connection writes the line of one connection, unless its packets may have arrived.
// What its host itself dropped tells of no network.
func (r *recorder) connection(f packet.Flow, list []*api.RetransmitView, counted []flowRow) {
	src, okSrc := r.host(f.Src.Addr())
	dst, okDst := r.host(f.Dst.Addr())
	list = slices.DeleteFunc(slices.Clone(list), func(x *api.RetransmitView) bool { return x.LocalCause != "" })
	if !okSrc || !okDst || len(list) == 0 {
		return
	}
	line := replay.Flow{Src: src, Dst: dst}
	var path []replay.LinkID
	var undone, seen, told bool
	for _, x := range list {
		if x.Undone {
			undone = true
		} else {
			line.Retransmits += max(uint64(x.Segments), 1)
			seen = seen || r.dropped[segment{f, x.TCPSeq}]
			told = told || tells(x)
		}
		if p := r.path(src, x.Path); len(p) > len(path) {
			path = p
		}
	}
	if !undone && !seen && (!told || r.hurt[f.Reverse()]) {
		r.wayBack++
		return
	}
	first := list[0].TimeNS
	line.Between = replay.Between{FirstNS: first, LastNS: list[len(list)-1].TimeNS}
	line.Packets = line.Retransmits + uint64(r.scenario.Traffic.PacketsMin+r.scenario.Traffic.PacketsMax)/2
	for _, row := range counted {
		if row.startNS <= first && first <= row.endNS+uint64(recordSlack) {
			line.Packets = max(row.packets, line.Retransmits)
		}
	}
	if undone { // all that was sent again had arrived
		line.Retransmits, line.Between, path = 0, replay.Between{}, nil
	}
	at := r.epoch(first)
	e := r.epochs[at]
	if path == nil {
		e.AddFlow(line)
	} else {
		e.AddFlow(line, path)
	}
	if line.Retransmits > 0 {
		for _, x := range list {
			r.sent[segment{f, x.TCPSeq}] = flowLine{at, int32(len(e.Flows) - 1)}
		}
	}
}

// tells says whether data was sent again for want of an acknowledgement that ought to
// have come: a handshake, a close and a lone probe of the tail are repeated when an
// answer to them is lost.
func tells(x *api.RetransmitView) bool {
	closing := strings.Contains(x.TCPFlags, "FIN") && x.TCPEndSeq-x.TCPSeq == 1
	return (x.Kind == "fast" || x.Kind == "rto") && !x.WayBack && !closing && !strings.Contains(x.TCPFlags, "SYN")
}

// path gives a trace's links from the source on, as far as none is missing.
func (r *recorder) path(src replay.NodeID, p *api.PathView) []replay.LinkID {
	if p == nil {
		return nil
	}
	var out []replay.LinkID
	at := src
	for _, name := range p.Links {
		l, ok := r.link(name)
		if !ok || r.graph.From(l) != at {
			break
		}
		out = append(out, l)
		at = r.graph.To(l)
	}
	return out
}

func (r *recorder) link(name string) (replay.LinkID, bool) {
	l, ok := r.topo.Link(name)
	if !ok {
		return 0, false
	}
	from, okFrom := r.graph.Node(l.From.Node)
	to, okTo := r.graph.Node(l.To.Node)
	id, ok := r.graph.Link(from, to)
	return id, ok && okFrom && okTo
}

// lossFree writes what hosts counted of flows that lost nothing.
func (r *recorder) lossFree() {
	for _, row := range r.said.flows {
		if row.flow.Src.Port() != 0 {
			continue
		}
		src, okSrc := r.host(row.flow.Src.Addr())
		dst, okDst := r.host(row.flow.Dst.Addr())
		if okSrc && okDst {
			e := r.epochs[r.epoch(row.startNS+(row.endNS-row.startNS)/2)]
			e.AddFlow(replay.Flow{Src: src, Dst: dst, Packets: row.packets})
		}
	}
}

// drops writes what devices say they dropped, decaf's own probes left out. Where a
// device gives the figure of a counter beside its events, the higher of both counts.
func (r *recorder) drops() {
	type place struct {
		epoch  int
		device replay.NodeID
		from   replay.NodeID
		to     replay.NodeID
		class  string
	}
	type count struct{ events, counted uint64 }
	probes := make(map[segment]bool)
	for _, x := range r.said.retransmits {
		if x.Path != nil && x.Path.ProbeSeq != 0 {
			if f, err := flowOf(x.Flow); err == nil {
				probes[segment{f, x.Path.ProbeSeq}] = true
			}
		}
	}
	counts := make(map[place]*count)
	var order []place
	at := func(ns uint64, device, class, ingress, egress string) *count {
		n, ok := r.graph.Node(device)
		if !ok {
			return new(count)
		}
		p := place{r.epoch(ns), n, replay.None, replay.None, class}
		// As scenarios lay the blame: a full queue is its egress link's, errors of a
		// port are the link's into it, all else the device's.
		switch {
		case class == "no-buffer" || strings.HasPrefix(class, "no-buffer/"):
			if l, ok := r.topo.LinkFrom(device, egress); ok {
				p.to, _ = r.graph.Node(l.To.Node)
			}
		case strings.HasPrefix(class, "errors/l2/"):
			if l, ok := r.topo.LinkInto(device, ingress); ok {
				p.from, _ = r.graph.Node(l.From.Node)
			}
		}
		if counts[p] == nil {
			counts[p] = new(count)
			order = append(order, p)
		}
		return counts[p]
	}
	for _, d := range r.said.drops {
		if d.Flow != nil {
			f, err := flowOf(d.Flow)
			if err != nil || f.Proto != packet.TCP { // ICMP errors answer probes
				continue
			}
			if d.TCPSeq != nil {
				s := segment{f, *d.TCPSeq}
				if probes[s] {
					continue
				}
				r.dropped[s] = true
			}
			r.hurt[f] = true
		}
		at(d.TimeNS, d.Device, d.Class, d.Ingress, d.Egress).events++
	}
	for _, c := range r.said.counters {
		at(c.atNS, c.device, c.class, c.ingress, "").counted += c.packets
	}
	for _, p := range order {
		r.epochs[p.epoch].Drops = append(r.epochs[p.epoch].Drops, replay.Drop{
			Device: p.device, From: p.from, To: p.to, Class: p.class, Count: max(counts[p].events, counts[p].counted),
		})
	}
}

// instrumented lists the devices that were heard all through an epoch.
func (r *recorder) instrumented(e *replay.Epoch) {
	for _, d := range r.topo.Devices {
		if ok, _ := r.said.heard.all(d.Name, int64(e.StartNS), int64(e.EndNS)); !ok {
			continue
		}
		if n, ok := r.graph.Node(d.Name); ok {
			e.Instrumented = append(e.Instrumented, n)
		}
	}
}

// faults writes which components were at fault in an epoch. Hosts that are slow or
// refuse are not among them: this form of evidence cannot show them.
func (r *recorder) faults() {
	for _, f := range r.scenario.Faults {
		c, ok := r.graph.Component(f.Component())
		if !ok || c.Kind == replay.KindHost {
			continue
		}
		for _, w := range f.Windows(r.scenario.Duration) {
			for _, e := range r.epochs {
				if r.ns(w.Start) >= e.EndNS || r.ns(w.End) <= e.StartNS {
					continue
				}
				if c.Kind == replay.KindLink {
					e.Truth.Links = appendOnce(e.Truth.Links, replay.LinkID(c.ID))
				} else {
					e.Truth.Devices = appendOnce(e.Truth.Devices, replay.NodeID(c.ID))
				}
			}
		}
	}
}

// causes writes where lossy flows lost the segments that their hosts sent again.
func (r *recorder) causes() {
	for _, x := range r.truth.losses {
		line, ok := r.sent[segment{x.flow, x.seq}]
		if l, known := r.link(x.link); ok && known && !x.probe {
			e := r.epochs[line.epoch]
			e.Truth.Causes = append(e.Truth.Causes, replay.Cause{Flow: line.flow, Link: l})
		}
	}
	for _, e := range r.epochs {
		slices.SortFunc(e.Truth.Causes, func(a, b replay.Cause) int { return cmp.Or(cmp.Compare(a.Flow, b.Flow), cmp.Compare(a.Link, b.Link)) })
		e.Truth.Causes = slices.Compact(e.Truth.Causes)
	}
}

func appendOnce[T comparable](list []T, x T) []T {
	if slices.Contains(list, x) {
		return list
	}
	return append(list, x)
}

// flowOf reads a five-tuple as the API shows it.
func flowOf(v *api.FlowView) (packet.Flow, error) {
	if v == nil {
		return packet.Flow{}, fmt.Errorf("it has no flow")
	}
	src, err := netip.ParseAddr(v.Src)
	if err != nil {
		return packet.Flow{}, err
	}
	dst, err := netip.ParseAddr(v.Dst)
	if err != nil {
		return packet.Flow{}, err
	}
	protocols := map[string]uint8{"tcp": packet.TCP, "icmp": packet.ICMP, "icmpv6": packet.ICMPv6}
	return packet.Flow{
		Src: netip.AddrPortFrom(src, uint16(v.SrcPort)), Dst: netip.AddrPortFrom(dst, uint16(v.DstPort)), Proto: protocols[v.Protocol],
	}, nil
}
