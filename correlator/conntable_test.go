package correlator

import (
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"decaf/api"
	"decaf/api/decafpb"
	"decaf/api/packet"
	"decaf/topology"

	"google.golang.org/protobuf/proto"
)

const (
	stNew        = decafpb.FlowRecord_STATE_NEW
	stOpen       = decafpb.FlowRecord_STATE_OPEN
	stClosed     = decafpb.FlowRecord_STATE_CLOSED
	stTerminated = decafpb.FlowRecord_STATE_TERMINATED
	stFailed     = decafpb.FlowRecord_STATE_FAILED
)

// teller makes flow records as hosts send them.
type teller struct {
	topo *topology.Topology
	seq  map[string]uint64
}

func newTeller(topo *topology.Topology) *teller { return &teller{topo, map[string]uint64{}} }

// conn is a record of the connection from port p of one host to port 443 of another,
// of the interval that ends at end (in s) and lasted 30 s.
func (x *teller) conn(src, dst string, p uint32, state decafpb.FlowRecord_State, end int64) *decafpb.FlowRecord {
	x.seq[src]++
	a, _ := x.topo.Host(src)
	r := &decafpb.FlowRecord{
		Origin:  &decafpb.Origin{Producer: src, BootId: 1, Seq: x.seq[src]},
		StartNs: uint64((end - 30) * second), EndNs: uint64(end * second), State: state, Cookie: uint64(p), Active: true,
		Flow:    &decafpb.Flow{Src: a.Addresses[0].AsSlice(), SrcPort: p, DstPort: 443, Protocol: 6},
		Packets: 100, BytesSent: 100_000, BytesReceived: 1000, RttMeanNs: 1e6, RttMaxNs: 2e6, CwndMeanBytes: 14480, RwndMeanBytes: 65536,
	}
	if b, ok := x.topo.Host(dst); ok {
		r.Flow.Dst = b.Addresses[0].AsSlice()
	} else {
		r.Flow.Dst = netip.MustParseAddr(dst).AsSlice()
	}
	return r
}

// service is a sum of connections to port 443, and row one of loss-free ones.
func (x *teller) service(src, dst string, flows uint64, end int64) *decafpb.FlowRecord {
	r := x.conn(src, dst, 1, 0, end)
	r.Cookie, r.Flow.SrcPort, r.Flows = 0, 0, flows
	return r
}

func (x *teller) row(src, dst string, flows uint64, end int64) *decafpb.FlowRecord {
	r := x.service(src, dst, flows, end)
	r.Flow.DstPort, r.State = 0, stClosed
	return r
}

func with(r *decafpb.FlowRecord, change func(*decafpb.FlowRecord)) *decafpb.FlowRecord {
	change(r)
	return r
}

func tableStore(t testing.TB, bytes int) (*Store, *teller) {
	t.Helper()
	topo := smallClos(t)
	l := DefaultStoreLimits()
	l.TableBytes = bytes
	return NewStore(topo, l), newTeller(topo)
}

// shown is what is answered.
func shown(q *connQuery) api.FlowRows {
	rows, err := q.answer(context.Background(), new(sync.Mutex))
	if err != nil {
		panic(err)
	}
	return rows
}

// describeRows lists rows as "host:port retransmits/packets".
func describeRows(rows api.FlowRows) string {
	var out []string
	for _, r := range rows.Rows {
		out = append(out, fmt.Sprintf("%s:%d %d/%d", r.GetOrigin().GetProducer(), r.GetFlow().GetSrcPort(), r.GetRetransmits(), r.GetPackets()))
	}
	return strings.Join(out, ", ")
}

const h0, h1, h2 = "p0-tor0-h0", "p1-tor1-h1", "p0-tor1-h0"

// What a connection did is summed up over the time asked for, interval by interval;
// what it is, the newest record says.
func TestConnectionOverTime(t *testing.T) {
	t.Parallel()
	s, x := tableStore(t, 1<<20)
	first := with(x.conn(h0, h1, 4000, stNew, 130), func(r *decafpb.FlowRecord) { r.Process = "curl" })
	s.AddFlow(first, 130*second)
	s.AddFlow(first, 131*second) // again: no difference
	last := with(x.conn(h0, h1, 4000, stTerminated, 190), func(r *decafpb.FlowRecord) {
		r.StartNs, r.Process, r.Container, r.Error = uint64(180*second), "curl", "docker/1", errReset
		r.Retransmits, r.ResetsReceived, r.RttMeanNs, r.RttMaxNs, r.ZeroWindowNs, r.CwndReductions = 7, 1, 4e6, 9e6, 3e6, 2
	})
	s.AddFlow(last, 190*second)
	// The interval between comes late.
	s.AddFlow(with(x.conn(h0, h1, 4000, stOpen, 160), func(r *decafpb.FlowRecord) { r.Retransmits = 1 }), 200*second)

	all := shown(s.connections(api.Range{}))
	if len(all.Rows) != 1 {
		t.Fatalf("%d rows", len(all.Rows))
	}
	r := all.Rows[0]
	if r.State != stTerminated || r.Error != errReset || r.Process != "curl" || r.Container != "docker/1" || r.Cookie != 4000 {
		t.Errorf("not as the newest record says: %v", r)
	}
	// 30 s and 30 s of 1 ms, 10 s of 4.
	if r.Packets != 300 || r.BytesSent != 300_000 || r.Retransmits != 8 || r.ResetsReceived != 1 || r.RttMaxNs != 9e6 || r.ZeroWindowNs != 3e6 || r.CwndReductions != 2 ||
		r.RttMeanNs != 100_000_000/70 || r.CwndMeanBytes != 14480 || r.StartNs != uint64(100*second) || r.EndNs != uint64(190*second) {
		t.Errorf("wrong sums: %v", r)
	}
	if r.FirstNs != uint64(100*second) || r.Before || len(r.Parts) != 3 || r.Parts[1].Retransmits != 1 || r.Parts[2].Retransmits != 7 {
		t.Errorf("wrong history: %+v", r)
	}
	f := func(from, to int64, want string) {
		t.Helper()
		if got := describeRows(shown(s.connections(api.Range{From: time.Unix(from, 0), To: time.Unix(to, 0)}))); got != want {
			t.Errorf("%d to %d: %q, want %q", from, to, got, want)
		}
	}
	f(100, 120, "p0-tor0-h0:4000 0/100")
	f(135, 159, "p0-tor0-h0:4000 1/100")
	f(170, 1000, "p0-tor0-h0:4000 7/100")
	f(200, 1000, "")
	if rows := shown(s.connections(api.Range{From: time.Unix(100, 0), To: time.Unix(120, 0), Trouble: true})); len(rows.Rows) != 0 {
		t.Error("its trouble came later")
	}
}

// However long a connection lives, it is held in few parts, and nothing is lost.
func TestLongConnectionIsFolded(t *testing.T) {
	t.Parallel()
	s, x := tableStore(t, 1<<20)
	for i := range int64(1000) {
		end := 100 + i
		s.AddFlow(with(x.conn(h0, h1, 4000, stOpen, end), func(r *decafpb.FlowRecord) { r.StartNs, r.Retransmits = uint64((end-1)*second), 1 }), end*second)
	}
	r := shown(s.connections(api.Range{})).Rows[0]
	if len(r.Parts) > maxParts || r.Packets != 100_000 || r.Retransmits != 1000 || r.BytesSent != 100_000_000 || !r.Before || r.RttMeanNs != 1e6 {
		t.Errorf("%d parts, %v", len(r.Parts), r)
	}
	if p := r.Parts[len(r.Parts)-1]; p.EndNs-p.StartNs != uint64(second) {
		t.Errorf("the latest is not in detail: %v", p)
	}
	if st := s.Stats().Table; st.held != 1 || st.records != 1000 {
		t.Errorf("%+v", st)
	}
}

// When there is no more room, those go first that are quiet and over, then what is
// idle, then what is active, the oldest before the others; trouble stays longest.
func TestConnectionsMakeRoom(t *testing.T) {
	t.Parallel()
	s, x := tableStore(t, 0)
	one := func() int {
		probe := newConnTable(1 << 20)
		r := x.conn(h0, h1, 1, stOpen, 130)
		probe.add(0, tupleOf(t, r), r)
		return probe.bytes
	}()
	const room = 8
	s.told.single.limit = room * one
	add := func(port uint32, state decafpb.FlowRecord_State, change func(*decafpb.FlowRecord)) {
		s.AddFlow(with(x.conn(h0, h1, port, state, 130), change), 130*second)
	}
	same := func(*decafpb.FlowRecord) {}
	idle := func(r *decafpb.FlowRecord) { r.Active, r.Packets = false, 0 }
	lost := func(r *decafpb.FlowRecord) { r.Retransmits = 1 }
	add(1, stOpen, lost)
	add(2, stOpen, same)
	add(3, stOpen, same)
	add(4, stOpen, idle)
	add(5, stClosed, same)
	add(6, stClosed, lost)
	add(7, stClosed, same)
	add(8, stFailed, same)
	held := func() (ports []uint16) {
		for _, c := range s.told.single.slots {
			if c != nil {
				ports = append(ports, c.flow.Src.Port())
			}
		}
		slices.Sort(ports)
		return ports
	}
	for i, gone := range []uint16{5, 7, 4, 2, 3} {
		before := held()
		add(uint32(100+i), stOpen, lost)
		if now := held(); slices.Contains(now, gone) || !slices.Contains(before, gone) || len(now) != room {
			t.Errorf("after %d more: %v, then %v: %d should have gone", i+1, before, now, gone)
		}
	}
	if st := s.Stats().Table; st.forgotten != 5 || st.troubled != 0 {
		t.Errorf("%+v", st)
	}
	add(200, stOpen, lost) // there is but trouble now: the oldest goes
	rows := shown(s.connections(api.Range{}))
	if slices.Contains(held(), 1) || rows.Forgotten != 6 || rows.Troubled != 1 {
		t.Errorf("%v, %d forgotten, %d with trouble", held(), rows.Forgotten, rows.Troubled)
	}
	// What comes again stays; what shows trouble no more is of interest still.
	s.AddFlow(x.conn(h0, h1, 6, stClosed, 160), 160*second)
	add(201, stOpen, lost)
	if now := held(); !slices.Contains(now, 6) || slices.Contains(now, 8) {
		t.Errorf("%v", now)
	}
	if st := s.told.single; st.bytes > st.limit || st.stats.held != len(held()) || len(st.ofCookie) != len(held()) {
		t.Errorf("%d bytes of %d, %d held, %d named", st.bytes, st.limit, st.stats.held, len(st.ofCookie))
	}
	s.Prune(130*second + s.limits.Retention + 1)
	// 201, which came after the newer word of 6, goes with that.
	if now := held(); !slices.Equal(now, []uint16{6, 201}) {
		t.Errorf("after the retention: %v", now)
	}
	s.Prune(200*second + s.limits.Retention)
	if st := s.told.single; st.bytes != 0 || st.stats.held != 0 || len(st.ofCookie) != 0 {
		t.Errorf("empty, but %d bytes, %+v", st.bytes, st.stats)
	}
}

// A host tells the same in several ways; it is shown once.
func TestOneConnectionOnce(t *testing.T) {
	t.Parallel()
	s, x := tableStore(t, 1<<20)
	bare := func(port uint32, end int64) *decafpb.FlowRecord {
		return with(x.conn(h0, h1, port, stOpen, end), func(r *decafpb.FlowRecord) { r.Cookie, r.Retransmits = 0, 5 })
	}
	f := func(want string, add ...*decafpb.FlowRecord) {
		t.Helper()
		for _, r := range add {
			s.AddFlow(r, int64(r.GetEndNs()))
		}
		if got := describeRows(shown(s.connections(api.Range{Sort: api.ByNewest}))); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	f("p0-tor0-h0:4000 5/100", bare(4000, 110)) // all that there is of a host without tables
	f("p0-tor0-h0:4000 3/100", with(x.conn(h0, h1, 4000, stNew, 130), func(r *decafpb.FlowRecord) { r.Retransmits = 3 }))
	f("p0-tor0-h0:4000 3/100", bare(4000, 135), bare(4001, 135))
	// Its tables are switched off.
	f("p0-tor0-h0:4001 5/100, p0-tor0-h0:4000 3/100", bare(4001, 130+tablesPause/second))
	// A host started anew gives its cookies to others.
	f("p0-tor0-h0:5000 0/100, p0-tor0-h0:4001 5/100", with(x.conn(h0, h1, 5000, stNew, 900), func(r *decafpb.FlowRecord) { r.Cookie = 4000 }))
	if st := s.told.single; st.stats.held != 2 || len(st.ofCookie) != 1 || len(st.ofFlow) != 1 {
		t.Errorf("%+v, %d, %d", st.stats, len(st.ofCookie), len(st.ofFlow))
	}
}

// Sums per service: of an open connection that several intervals count, one; rows of
// loss-free connections only where there are no sums.
func TestServices(t *testing.T) {
	t.Parallel()
	s, x := tableStore(t, 1<<20)
	for _, r := range []*decafpb.FlowRecord{
		x.row(h0, h1, 9, 110),
		x.row(h2, h1, 4, 110),
		x.row(h2, h1, 5, 140),
		with(x.service(h0, h1, 10, 130), func(r *decafpb.FlowRecord) { r.NewFlows, r.ClosedFlows, r.FailedFlows = 3, 2, 1 }),
		with(x.service(h0, h1, 8, 160), func(r *decafpb.FlowRecord) { r.NewFlows, r.ClosedFlows, r.TerminatedFlows = 1, 1, 2 }),
		with(x.service(h1, h0, 8, 160), func(r *decafpb.FlowRecord) {
			r.Inbound, r.Flow.SrcPort, r.Flow.DstPort = true, 443, 0
		}),
		x.row(h0, h1, 9, 165),
	} {
		s.AddFlow(r, int64(r.GetEndNs()))
	}
	var got []string
	for _, r := range shown(s.services(api.Range{})).Rows {
		got = append(got, fmt.Sprintf("%s %d>%d: %d, %d new, %d closed, %d terminated, %d failed", r.GetOrigin().GetProducer(),
			r.GetFlow().GetSrcPort(), r.GetFlow().GetDstPort(), r.Flows, r.NewFlows, r.ClosedFlows, r.TerminatedFlows, r.FailedFlows))
	}
	slices.Sort(got)
	want := []string{
		"p0-tor0-h0 0>443: 11, 4 new, 3 closed, 2 terminated, 1 failed", // 8 at the end, 3 ended before
		"p0-tor1-h0 0>0: 9, 0 new, 0 closed, 0 terminated, 0 failed",
		"p1-tor1-h1 443>0: 8, 0 new, 0 closed, 0 terminated, 0 failed",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q\nwant %q", got, want)
	}
	if rows := shown(s.services(api.Range{Trouble: true})); len(rows.Rows) != 1 || rows.Rows[0].GetOrigin().GetProducer() != h0 {
		t.Errorf("with trouble: %s", describeRows(rows))
	}
	if n := len(shown(s.connections(api.Range{})).Rows); n != 0 {
		t.Errorf("%d sums among the connections", n)
	}
}

// Every filter and every order, and what is left out.
func TestConnectionsAskedFor(t *testing.T) {
	t.Parallel()
	s, x := tableStore(t, 1<<20)
	for _, r := range []*decafpb.FlowRecord{
		with(x.conn(h0, h1, 1, stOpen, 130), func(r *decafpb.FlowRecord) { r.Retransmits, r.Packets = 10, 1000 }),
		with(x.conn(h0, h2, 2, stClosed, 140), func(r *decafpb.FlowRecord) { r.Retransmits, r.Packets = 5, 10 }),
		with(x.conn(h2, h1, 3, stFailed, 150), func(r *decafpb.FlowRecord) { r.Retransmits, r.Packets, r.RttMeanNs = 3, 0, 0 }),
		with(x.conn(h2, "198.51.100.7", 4, stOpen, 160), func(r *decafpb.FlowRecord) { r.BytesReceived, r.Flow.DstPort = 1e9, 53 }),
		with(x.conn(h1, h0, 5, stOpen, 170), func(r *decafpb.FlowRecord) { r.ZeroWindowNs, r.RttMeanNs = 5e9, 80e6 }),
		with(x.conn(h1, h0, 6, stTerminated, 180), func(r *decafpb.FlowRecord) { r.ResetsSent = 1 }),
	} {
		s.AddFlow(r, int64(r.GetEndNs()))
	}
	f := func(want string, change func(*api.Range)) {
		t.Helper()
		r := api.Range{Omitted: new(int)}
		change(&r)
		var ports []string
		for _, row := range shown(s.connections(r)).Rows {
			ports = append(ports, fmt.Sprint(row.GetFlow().GetSrcPort()))
		}
		if got := strings.Join(ports, " "); got != want {
			t.Errorf("%+v: %s, want %s", r, got, want)
		}
	}
	prefix := func(p string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(p)} }
	f("1 2 3 6 5 4", func(*api.Range) {})
	f("2 1 6 5 4 3", func(r *api.Range) { r.Sort = api.ByLoss }) // 3 sent no data
	f("5 6 4 2 1 3", func(r *api.Range) { r.Sort = api.ByRTT })
	f("4 6 5 3 2 1", func(r *api.Range) { r.Sort = api.ByBytes })
	f("5 6 4 3 2 1", func(r *api.Range) { r.Sort = api.ByZeroWindow })
	f("6 5 4 3 2 1", func(r *api.Range) { r.Sort = api.ByNewest })
	f("3 4", func(r *api.Range) { r.Host = h2 })
	f("", func(r *api.Range) { r.Host = "p0-tor0-h1" })
	f("1 2 3 6 5", func(r *api.Range) { r.Trouble = true })
	f("3", func(r *api.Range) { r.State = stFailed })
	f("4", func(r *api.Range) { r.Port = 53 })
	f("2", func(r *api.Range) { r.Port = 2 })
	f("4", func(r *api.Range) { r.Flow.Dst = prefix("198.51.100.0/24") })
	f("1 3", func(r *api.Range) { r.Flow.Src, r.Flow.SrcPort = prefix("10.1.1.3/32"), 443 })
	f("3 6 5 4", func(r *api.Range) { r.From = time.Unix(145, 0) })
	f("1 2 6 5", func(r *api.Range) { r.Component = "host " + h0 })
	f("1 2 3 6 5 4", func(r *api.Range) { r.To = time.Unix(151, 0) })
	f("1 2 3 5 4", func(r *api.Range) { r.To = time.Unix(150, 0) })
	r := api.Range{Limit: 2, Omitted: new(int)}
	if got := describeRows(shown(s.connections(r))); got != "p0-tor0-h0:1 10/1000, p0-tor0-h0:2 5/10" || *r.Omitted != 4 {
		t.Errorf("%s, %d left out", got, *r.Omitted)
	}
}

// The path of a connection is that of a trace made for a retransmit of it; so one may
// ask for the connections that crossed a component.
func TestConnectionsOfAComponent(t *testing.T) {
	t.Parallel()
	topo := smallClos(t)
	s, x := NewStore(topo, DefaultStoreLimits()), newTeller(topo)
	rts := lossyArrivals(topo, 4, 100*second)
	for i, rt := range rts {
		src, _ := topo.HostAt(netip.AddrFrom4([4]byte(rt.GetFlow().GetSrc())))
		rt.Cookie = uint64(i + 1)
		if i == 3 { // its host names no cookies
			rt.Cookie = 9
		}
		rt.Origin.Seq = uint64(i + 1)
		s.AddRetransmit(rt, 130*second)
		r := x.conn(src.Name, h1, 1, stOpen, 130)
		r.Flow, r.Cookie, r.Retransmits = rt.GetFlow(), uint64(i+1)%4, 1
		r.Origin.Seq += 100
		s.AddFlow(r, 130*second)
	}
	s.AddFlow(x.conn(h0, h1, 77, stOpen, 130), 130*second) // never traced
	rows := shown(s.connections(api.Range{}))
	if len(rows.Rows) != 5 {
		t.Fatalf("%s", describeRows(rows))
	}
	crossed := make(map[string]int)
	for _, r := range rows.Rows {
		if (r.GetPath() == nil) != (r.GetFlow().GetSrcPort() == 77) {
			t.Errorf("%v: path %v", r.GetFlow(), r.GetPath())
		}
		if r.GetPath() == nil {
			continue
		}
		for _, f := range s.order {
			if f.Key.Flow == tupleOf(t, r.FlowRecord) {
				for _, l := range f.Route.Links {
					crossed["link "+l.Name]++
				}
			}
		}
	}
	if len(crossed) < 6 {
		t.Fatalf("too few links crossed: %v", crossed)
	}
	for _, l := range topo.Links {
		if got, want := len(shown(s.connections(api.Range{Component: "link " + l.Name})).Rows), crossed["link "+l.Name]; got != want {
			t.Errorf("%s: %d connections, want %d", l.Name, got, want)
		}
	}
}

func tupleOf(t testing.TB, r *decafpb.FlowRecord) packet.Flow {
	t.Helper()
	f, err := packet.FlowFromPB(r.GetFlow())
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// What the tables cost the ingest of 100,000 records, of 40,000 connections, in
// batches as the bus hands them over: without tables, with them, and when they are
// full and each record has another one evicted.
func BenchmarkIngestOfConnections(b *testing.B) {
	topo := published(b)
	const records, perBatch = 100_000, 250
	var wire [][]byte
	batch := &decafpb.Batch{}
	x := newTeller(topo)
	for i := range records {
		host, peer := topo.Hosts[i%len(topo.Hosts)].Name, topo.Hosts[(i*7+1)%len(topo.Hosts)].Name
		port, end := uint32(1000+i%40_000), 130+30*int64(i/40_000)
		batch.Flows = append(batch.Flows, with(x.conn(host, peer, port, stOpen, end), func(r *decafpb.FlowRecord) {
			r.Process, r.Retransmits = "nginx", uint64(btoi(i%50 == 0))
		}))
		if len(batch.Flows) == perBatch {
			raw, err := proto.Marshal(batch)
			if err != nil {
				b.Fatal(err)
			}
			wire, batch = append(wire, raw), &decafpb.Batch{}
		}
	}
	for _, c := range []struct {
		name  string
		bytes int
	}{{"without", 0}, {"64MB", 64 << 20}, {"full", 4 << 20}} {
		b.Run(c.name, func(b *testing.B) {
			l := DefaultStoreLimits()
			l.TableBytes = c.bytes
			var s *Store
			var before, after runtime.MemStats
			for b.Loop() {
				b.StopTimer()
				s = nil
				runtime.GC()
				runtime.ReadMemStats(&before)
				s = NewStore(topo, l)
				b.StartTimer()
				for _, raw := range wire {
					var batch decafpb.Batch
					if err := proto.Unmarshal(raw, &batch); err != nil {
						b.Fatal(err)
					}
					for _, r := range batch.GetFlows() {
						s.AddFlow(r, 200*second)
					}
				}
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/records, "ns/record")
			b.ReportMetric((float64(after.HeapAlloc)-float64(before.HeapAlloc))/1e6, "MB")
			b.ReportMetric(float64(s.Stats().Table.heldBytes)/1e6, "MB-counted")
			b.ReportMetric(float64(s.Stats().Table.held), "held")
		})
	}
}

// What a host publishes on the bus is shown, over real NATS, also by a service that
// was started after it came.
func TestConnectionsOverTheBus(t *testing.T) {
	b := newBench(t)
	c, stop := b.start()
	x := newTeller(b.topo)
	at := time.Now().Unix()
	r := with(x.conn(h0, h1, 4000, stOpen, at), func(r *decafpb.FlowRecord) { r.Retransmits, r.Process = 3, "curl" })
	sum := with(x.service(h0, h1, 4, at), func(r *decafpb.FlowRecord) { r.FailedFlows = 1 })
	b.hosts[h0].Publish(r)
	b.hosts[h0].Publish(sum)
	see := func(c *Correlator) {
		t.Helper()
		b.until("the connection and the service are shown", func() bool {
			conns, err := c.Connections(t.Context(), api.Range{Host: h0, Trouble: true})
			must(t, err)
			sums, err := c.Services(t.Context(), api.Range{Port: 443, Trouble: true})
			must(t, err)
			return len(conns.Rows) == 1 && len(sums.Rows) == 1 && conns.Rows[0].Process == "curl" && conns.Rows[0].Retransmits == 3 && sums.Rows[0].FailedFlows == 1
		})
	}
	see(c)
	stop()
	c, _ = b.start()
	see(c)
}
