package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"decaf/api/decafpb"
	"decaf/api/service"
	"decaf/topology"
)

// noon is when the tests take place.
var noon = time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)

func before(d time.Duration) uint64 { return uint64(noon.Add(-d).UnixNano()) }

// fake is a backend with fixed evidence: a silent loss on p0-t1-0>t2-1 that is
// open, an access list on t2-0 that was taken away, and a full queue.
type fake struct {
	topo *topology.Topology

	mu         sync.Mutex
	reports    []*decafpb.FaultReport
	filed      int
	findings   []*decafpb.Finding
	links      []LinkRow
	untold     []string // what the ranking of links cannot tell
	drops      []DropRow
	paths      []*decafpb.Retransmit
	agents     []AgentRow
	flows      FlowRows
	services   FlowRows
	err        error // what every method fails with
	notReady   error
	panics     bool
	asked      Range // the last range
	askedFlows Range // the last of connections
}

func clos(t testing.TB) *topology.Topology {
	t.Helper()
	topo, err := topology.Clos(topology.ClosSpec{Site: "test", Pods: 2, ToRs: 2, T1s: 2, T2s: 2, Hosts: 2})
	if err != nil {
		t.Fatal(err)
	}
	return topo
}

func (f *fake) addr(host string) []byte {
	h, ok := f.topo.Host(host)
	if !ok {
		panic("no host " + host)
	}
	return h.Addresses[0].AsSlice()
}

func (f *fake) flow(src string, srcPort uint32, dst string, dstPort uint32) *decafpb.Flow {
	return &decafpb.Flow{Src: f.addr(src), Dst: f.addr(dst), SrcPort: srcPort, DstPort: dstPort, Protocol: 6}
}

// trace is a path through the named devices; "*" is a silent hop.
func (f *fake) trace(src string, devices ...string) *decafpb.Path {
	p := &decafpb.Path{Status: decafpb.PathStatus_PATH_STATUS_COMPLETE, Distance: uint32(len(devices)), ProbeSeq: 7001, ProbeId: 64, StartNs: before(20 * time.Second), TookNs: 3e6}
	at := src
	for i, d := range devices {
		hop := &decafpb.Hop{Ttl: uint32(i + 1), Probes: 1}
		if links := f.topo.LinkBetween(at, d); d != "*" && len(links) == 1 {
			hop.Status, hop.RttNs = decafpb.HopStatus_HOP_STATUS_ANSWERED, 120e3
			hop.Address = links[0].To.Addr.Addr().AsSlice()
		} else if d != "*" { // after a silent hop, which was t2-0
			hop.Status = decafpb.HopStatus_HOP_STATUS_ANSWERED
			hop.Address = f.topo.LinkBetween("t2-0", d)[0].To.Addr.Addr().AsSlice()
		} else {
			hop.Status, hop.Probes = decafpb.HopStatus_HOP_STATUS_SILENT, 4
			p.Status, p.Why = decafpb.PathStatus_PATH_STATUS_PARTIAL, "hop silent"
		}
		p.Hops = append(p.Hops, hop)
		at = d
	}
	return p
}

func newFake(t testing.TB) *fake {
	f := &fake{topo: clos(t)}
	src, dst := "p0-tor0-h0", "p1-tor1-h1"
	retransmit := func(i int, src, dst string, kind decafpb.RetransmitKind, path *decafpb.Path) *decafpb.Retransmit {
		return &decafpb.Retransmit{
			Origin: &decafpb.Origin{Producer: src, BootId: 0xfeedfacecafebeef, Seq: uint64(i)},
			TimeNs: before(time.Duration(10+i) * time.Second), Flow: f.flow(src, uint32(40000+i), dst, 7000),
			Cookie: uint64(100 + i), Segments: 1, TcpSeq: uint32(900000 + i), TcpEndSeq: uint32(901448 + i), TcpFlags: 0x18,
			Kind: kind, Path: path, ReceivedNs: before(time.Duration(9+i) * time.Second),
		}
	}
	fast, rto, syn := decafpb.RetransmitKind_RETRANSMIT_KIND_FAST, decafpb.RetransmitKind_RETRANSMIT_KIND_RTO, decafpb.RetransmitKind_RETRANSMIT_KIND_SYN
	bad := []string{"p0-tor0", "p0-t1-0", "t2-1", "p1-t1-0", "p1-tor1"}
	f.paths = []*decafpb.Retransmit{
		retransmit(0, src, dst, fast, f.trace(src, bad...)),
		retransmit(1, src, dst, rto, f.trace(src, "p0-tor0", "p0-t1-0", "t2-1", "p1-t1-1", "p1-tor1")),
		retransmit(2, src, dst, fast, f.trace(src, "p0-tor0", "p0-t1-0", "*", "*", "*")),
		retransmit(3, "p0-tor1-h0", "p1-tor0-h0", fast, f.trace("p0-tor1-h0", "p0-tor1", "p0-t1-0", "t2-1", "p1-t1-0", "p1-tor0")),
		retransmit(4, src, dst, syn, &decafpb.Path{Status: decafpb.PathStatus_PATH_STATUS_REFUSED, Why: "token bucket empty"}),
	}
	f.paths[4].WayBackSuspect = true
	drop := func(i int, device, class, in, out string, r *decafpb.Retransmit) *decafpb.DropEvent {
		return &decafpb.DropEvent{
			Origin: &decafpb.Origin{Producer: device, BootId: 17, Seq: uint64(i)}, TimeNs: before(time.Duration(30+i) * time.Second), Class: class,
			Reason: "NETFILTER_DROP", Function: "nft_do_chain", Source: "kernel", Ingress: in, Egress: out, ReceivedNs: before(time.Duration(29+i) * time.Second),
			Packet: &decafpb.Packet{Flow: r.Flow, IpId: 4711, Ttl: 61, Length: 1500, TcpFlags: 0x10, TcpSeq: r.TcpSeq, TcpAck: 5},
		}
	}
	acl := []*decafpb.Retransmit{
		retransmit(20, "p0-tor0-h1", "p1-tor0-h1", rto, f.trace("p0-tor0-h1", "p0-tor0", "p0-t1-1", "*", "*", "*")),
		retransmit(21, "p0-tor1-h1", "p1-tor1-h0", rto, f.trace("p0-tor1-h1", "p0-tor1", "p0-t1-0", "*", "*", "*")),
	}
	d0, d1 := drop(0, "t2-0", "policy/l3/acl", "eth2", "eth4", acl[0]), drop(1, "t2-0", "policy/l3/acl", "eth1", "eth3", acl[1])
	d2 := drop(2, "p0-tor0", "no-buffer", "eth3", "eth1", f.paths[0])
	d2.Reason, d2.Function, d2.Packet.TcpSeq = "QDISC_DROP", "tbf_enqueue", 1
	f.drops = []DropRow{
		{DropEvent: d0, Device: "t2-0", Component: "device t2-0", Matched: true},
		{DropEvent: d1, Device: "t2-0", Component: "device t2-0", Matched: true},
		{DropEvent: d2, Device: "p0-tor0", Component: "link p0-tor0>p0-t1-0"},
		{DropEvent: &decafpb.DropEvent{TimeNs: before(time.Minute), Class: "no-buffer", Source: "counters", Egress: "eth2",
			Prefixes: []*decafpb.Prefix{{Address: []byte{10, 1, 0, 0}, Length: 16}}}, Device: "p0-tor1", Component: "link p0-tor1>p0-t1-1"},
	}
	f.findings = []*decafpb.Finding{
		{
			Id: "f-2", Component: "link p0-t1-0>t2-1", Class: "unknown", Method: "fused", Probability: 0.99995, Votes: 7.5, VotesShare: 0.62,
			FromNs: before(90 * time.Second), LastNs: before(2 * time.Second), DetectedNs: before(84 * time.Second), Flows: 31,
			Hosts: []string{"p0-tor0-h0", "p0-tor0-h1", "p0-tor1-h0", "p0-tor1-h1"},
			Evidence: &decafpb.Evidence{Retransmits: f.paths[:4], RetransmitCount: 33, PathCount: 31, LeftOut: 29,
				Reasons: []string{"for: 31.0 lossy flows lost 31.0 of 2571 packets there, noise alone 0.02 (88.1 nats)", "silent: the agent of t2-1 was not heard all through the time; that it shows no drops says nothing"}},
		},
		{
			Id: "f-1", Component: "device t2-0", Class: "policy/l3/acl", Method: "device-evidence", Probability: 0.97, Equivalent: []string{"link p0-t1-0>t2-0"},
			FromNs: before(8 * time.Minute), LastNs: before(6 * time.Minute), DetectedNs: before(8*time.Minute - 2*time.Second), ResolvedNs: before(6 * time.Minute), Flows: 12,
			Hosts: []string{"p0-tor0-h1", "p0-tor1-h1"}, Interfaces: []string{"eth1", "eth2"},
			Evidence: &decafpb.Evidence{Drops: []*decafpb.DropEvent{d0, d1}, Retransmits: acl, DropCount: 40, RetransmitCount: 38, PathCount: 12, MatchedCount: 35, LeftOut: 74,
				Reasons: []string{"t2-0 dropped 40 packets by access list, 35 of them were sent again by their hosts"}},
		},
	}
	f.links = []LinkRow{
		{Link: "p0-t1-0>t2-1", Votes: 7.5, Share: 0.62, Flows: 31, Weak: 2, Sources: 4, Destinations: 4, Probability: 0.99995, Blamed: true},
		{Link: "p0-tor0>p0-t1-0", Votes: 2.1, Share: 0.17, Flows: 14, Drops: 1, Sources: 2, Destinations: 4},
		{Link: "t2-1>p1-t1-0", Votes: 1.2, Share: 0.1, Flows: 9, Weak: 1, Sources: 4, Destinations: 3, Probability: 0.31},
		{Link: "p1-tor1>p1-tor1-h1", Votes: 0.07, Share: 0.006, Weak: 1, Sources: 1, Destinations: 1},
	}
	f.untold = []string{"link t2-1>p1-t1-0: too few losses to tell from noise (probability 0.31)"}
	for i, d := range f.topo.Devices {
		f.agents = append(f.agents, AgentRow{Name: d.Name, Role: "device", Version: "1.0", Source: "tp_btf", LastSeen: noon.Add(-time.Duration(i) * 100 * time.Millisecond), Fresh: true, BootID: uint64(0xb007 + i), Counters: map[string]uint64{"events_lost_ring": 0}})
	}
	for _, h := range f.topo.Hosts {
		f.agents = append(f.agents, AgentRow{Name: h.Name, Role: "host", Version: "1.0", Source: "tp_btf", LastSeen: noon.Add(-time.Second), Fresh: true, BootID: 0x0123456789abcdef})
	}
	f.tables(bad)
	f.agents[3].Gaps = 12
	f.agents[4].Reports, f.agents[5].Reports = "full", "counters"
	f.agents[5].Fuse, f.agents[5].Unreported, f.agents[5].Suppressed = "counters", []string{"no-buffer", "policy/l3/acl"}, map[string]uint64{"fuse": 812, "threshold": 3}
	f.agents[10].Revision, f.agents[10].Counters = 7, map[string]uint64{"table_records": 120, "table_records_left_out": 4}
	f.agents[5].Counters = map[string]uint64{"aggregates_merged": 40, "drops_missed": 2, "drops_uncounted": 7, "events": 9}
	f.agents[9] = AgentRow{Name: f.agents[9].Name, Role: "device", Error: "connection refused; is `decaf device` running there?"}
	f.agents[13].Fresh, f.agents[13].LastSeen = false, noon.Add(-3*time.Minute)
	f.reports = []*decafpb.FaultReport{
		{Id: "r-2", Src: src, Dst: dst, FromNs: before(5 * time.Minute), ToNs: before(0), FiledNs: before(time.Second), Says: "ssh froze", Verdict: &decafpb.Verdict{
			Verdict: "network", Component: "link p0-t1-0>t2-1", Probability: 0.99995, Votes: 7.5, Finding: "f-2", TimeNs: before(time.Second), Revision: 2,
			Evidence: &decafpb.Evidence{
				Retransmits: []*decafpb.Retransmit{f.paths[0], f.paths[1], f.paths[2], f.paths[4]}, RetransmitCount: 4, PathCount: 3,
				Reasons: []string{"4 flows between p0-tor0-h0 and p1-tor1-h1 lost packets in the window", "finding f-2 (link p0-t1-0>t2-1) was open in the window and is on the traced path of 2 of them"},
			}}},
		{Id: "r-1", Src: "p0-tor0-h1", Dst: "p1-tor0-h1", DstPort: 7000, FromNs: before(12 * time.Minute), ToNs: before(7 * time.Minute), FiledNs: before(7 * time.Minute), Says: "backup failed", Verdict: &decafpb.Verdict{
			Verdict: "network", Component: "device t2-0", Class: "policy/l3/acl", Probability: 0.97, Equivalent: []string{"link p0-t1-0>t2-0"}, Finding: "f-1", TimeNs: before(6 * time.Minute), Revision: 3, Final: true,
			Evidence: &decafpb.Evidence{Drops: []*decafpb.DropEvent{d0}, Retransmits: acl[:1], DropCount: 21, RetransmitCount: 20, PathCount: 6, MatchedCount: 19, LeftOut: 39,
				Reasons: []string{"t2-0 dropped 21 packets of this pair by access list"}}}},
	}
	return f
}

// tables are what hosts tell of their connections: one that loses packets on its way,
// one that is well, as its other end tells of it, one that got no answer, one that was
// reset in a container, one that waits at a closed window, over IPv6.
func (f *fake) tables(bad []string) {
	const open, closed, terminated, failed = decafpb.FlowRecord_STATE_OPEN, decafpb.FlowRecord_STATE_CLOSED, decafpb.FlowRecord_STATE_TERMINATED, decafpb.FlowRecord_STATE_FAILED
	record := func(src string, port uint32, dst string, dstPort uint32, state decafpb.FlowRecord_State) *decafpb.FlowRecord {
		return &decafpb.FlowRecord{
			Origin: &decafpb.Origin{Producer: src}, Flow: f.flow(src, port, dst, dstPort), State: state, Process: "iperf3", Cookie: 0x4a00 + uint64(port),
			StartNs: before(90 * time.Second), EndNs: before(0), Active: true, SampledOf: 1,
			Packets: 5200, BytesSent: 7_530_000, BytesReceived: 81_000, BytesPosted: 7_600_000, BytesRead: 81_000,
			RttMeanNs: 410e3, RttMaxNs: 3.2e6, RttMinNs: 80e3, CwndMeanBytes: 57_920, RwndMeanBytes: 3_145_728, OwnRwndMeanBytes: 65_536,
		}
	}
	part := func(i int, packets, retransmits uint64) FlowPart {
		from := time.Duration(90-30*i) * time.Second
		return FlowPart{StartNs: before(from), EndNs: before(from - 30*time.Second), Packets: packets, Retransmits: retransmits, Bytes: packets * 1448, RTTMeanNs: 410e3, RTTMaxNs: uint64(1+i) * 1e6}
	}
	lossy := FlowRow{FlowRecord: record("p0-tor0-h0", 40000, "p1-tor1-h1", 7000, open), FirstNs: before(10 * time.Minute), Before: true,
		Parts: []FlowPart{part(0, 2000, 0), part(1, 1700, 12), part(2, 1500, 52)}}
	lossy.Retransmits, lossy.Timeouts, lossy.DuplicatesReported, lossy.CwndReductions, lossy.OutOfOrder = 64, 3, 1, 17, 2
	lossy.CwndDeltaBytes, lossy.Reorderings, lossy.RttVarNs, lossy.Uid = -14_480, 5, 40e3, new(uint32) // root's
	lossy.Path = f.trace("p0-tor0-h0", bad...)
	well := FlowRow{FlowRecord: record("p1-tor1-h1", 7000, "p0-tor0-h1", 40002, closed), FirstNs: before(40 * time.Second), Parts: []FlowPart{part(2, 5200, 0)}}
	well.CwndDeltaBytes, well.DurationMs, well.Uid = 43_440, 39_250, proto.Uint32(33)
	well.Inbound, well.Process, well.Active, well.SampledOf = true, "nginx", false, 10
	mute := FlowRow{FlowRecord: record("p0-tor1-h0", 40003, "p1-tor0-h0", 443, failed), FirstNs: before(30 * time.Second)}
	mute.Packets, mute.BytesSent, mute.BytesReceived, mute.RttMeanNs, mute.RttMaxNs, mute.CwndMeanBytes, mute.RwndMeanBytes = 0, 0, 0, 0, 0, 0, 0
	mute.RttMinNs, mute.OwnRwndMeanBytes = 0, 0
	mute.BytesPosted, mute.BytesRead = 0, 0
	mute.Retransmits, mute.Error, mute.Process = 6, 110, "curl"
	reset := FlowRow{FlowRecord: record("p0-tor0-h0", 40004, "p1-tor0-h0", 443, terminated), FirstNs: before(20 * time.Second)}
	reset.Error, reset.ResetsReceived, reset.Container, reset.Process = 104, 1, "docker/3f1b2c9d0e1f", "worker"
	closedWindow := FlowRow{FlowRecord: record("p0-tor0-h1", 40005, "p1-tor0-h1", 5432, open), FirstNs: before(30 * time.Second)}
	closedWindow.ZeroWindowNs, closedWindow.ZeroWindowProbes, closedWindow.DurationMs, closedWindow.Process = 7.4e9, 5, 200, "psql"
	closedWindow.Flow = &decafpb.Flow{Src: netip.MustParseAddr("2001:db8::1").AsSlice(), Dst: netip.MustParseAddr("2001:db8::2").AsSlice(), SrcPort: 40005, DstPort: 5432, Protocol: 6}
	f.flows = FlowRows{Rows: []FlowRow{lossy, mute, reset, closedWindow, well}, Forgotten: 12, Troubled: 1}

	sum := FlowRow{FlowRecord: record("p0-tor0-h0", 0, "p1-tor1-h1", 7000, 0), FirstNs: before(90 * time.Second), Parts: lossy.Parts}
	sum.Flows, sum.NewFlows, sum.ClosedFlows, sum.TerminatedFlows, sum.FailedFlows, sum.Retransmits, sum.Cookie = 31, 12, 9, 2, 1, 64, 0
	sum.ShrunkFlows, sum.CwndDeltaBytes = 4, -120_000
	own := FlowRow{FlowRecord: record("p1-tor1-h1", 7000, "p0-tor0-h0", 0, 0), FirstNs: before(90 * time.Second)}
	own.Flows, own.Inbound, own.Cookie = 31, true, 0
	f.services = FlowRows{Rows: []FlowRow{sum, own}}
}

// quiet empties the fake: a network without a fault.
func (f *fake) quiet() *fake {
	f.findings, f.links, f.untold, f.drops, f.paths, f.reports = nil, nil, nil, nil, nil, nil
	f.flows, f.services = FlowRows{}, FlowRows{}
	for i := range f.agents {
		f.agents[i].Fresh, f.agents[i].Gaps, f.agents[i].Error, f.agents[i].LastSeen = true, 0, "", noon.Add(-time.Second)
	}
	return f
}

func (f *fake) fails() error {
	if f.panics {
		panic("a bug")
	}
	return f.err
}

func cut[R any](rows []R, r Range) []R {
	if r.Limit > 0 && len(rows) > r.Limit {
		r.Omit(len(rows) - r.Limit)
		rows = rows[:r.Limit]
	}
	return rows
}

func (f *fake) FileReport(_ context.Context, r *decafpb.FaultReport) (*decafpb.FaultReport, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.fails(); err != nil {
		return nil, err
	}
	r = proto.Clone(r).(*decafpb.FaultReport)
	f.filed++
	r.Id, r.FiledNs = fmt.Sprintf("r-new%d", f.filed), before(0)
	r.Verdict = &decafpb.Verdict{Verdict: "insufficient-evidence", TimeNs: r.FiledNs, Revision: 1, Evidence: &decafpb.Evidence{Reasons: []string{"the window is not over"}}}
	if _, err := f.topo.ResolveHost(r.Src); err != nil {
		r.Verdict.Verdict = "outside"
	}
	f.reports = append([]*decafpb.FaultReport{r}, f.reports...)
	return r, nil
}

func (f *fake) Report(_ context.Context, id string) (*decafpb.FaultReport, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.fails(); err != nil {
		return nil, err
	}
	for i, r := range f.reports {
		if r.Id != id {
			continue
		}
		if id == "r-new1" { // final when asked for again
			r = proto.Clone(r).(*decafpb.FaultReport)
			r.Verdict = proto.Clone(f.reports[len(f.reports)-1].Verdict).(*decafpb.Verdict)
			f.reports[i] = r
		}
		return r, nil
	}
	return nil, fmt.Errorf("look up: %w", ErrNotFound)
}

func (f *fake) Reports(_ context.Context, r Range) ([]*decafpb.FaultReport, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = r
	return cut(f.reports, r), f.fails()
}

func (f *fake) Findings(_ context.Context, r Range) ([]*decafpb.Finding, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = r
	return cut(f.findings, r), f.fails()
}

func (f *fake) Links(_ context.Context, r Range) (LinkRanking, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = r
	return LinkRanking{Method: "fused", Rows: f.links, Abstained: f.untold}, f.fails() // does not heed the limit: the API does
}

func (f *fake) Drops(_ context.Context, r Range) ([]DropRow, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = r
	return cut(f.drops, r), f.fails()
}

func (f *fake) Paths(_ context.Context, r Range) ([]*decafpb.Retransmit, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = r
	return cut(f.paths, r), f.fails()
}

func (f *fake) Connections(_ context.Context, r Range) (FlowRows, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked, f.askedFlows = r, r
	return f.flows, f.fails()
}

func (f *fake) Services(_ context.Context, r Range) (FlowRows, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = r
	return f.services, f.fails()
}

func (f *fake) Agents(context.Context) ([]AgentRow, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.agents, f.fails()
}

func (f *fake) Topology() *topology.Topology { return f.topo }

func (f *fake) Ready() error { return f.notReady }

var errBus = errors.New("nats: no responders at 192.0.2.1, password hunter2")

// serve starts a real HTTP server over a backend, at a clock that stands.
func serve(t testing.TB, b Backend) string {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Now = func() time.Time { return noon }
	s, err := NewServer(cfg, b, service.NewHealth(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(s.Handler())
	t.Cleanup(srv.Close)
	return srv.URL
}

func prefixes(s ...string) (out []netip.Prefix) {
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}
