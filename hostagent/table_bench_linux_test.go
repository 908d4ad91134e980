package hostagent

import (
	"math/rand/v2"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"decaf/api/bus"
	"decaf/api/decafpb"
)

// BenchmarkTables is what the tables cost with 20,000 connections: an op is an
// interval of 30 s, with the six dumps in it, to the records at NATS.
func BenchmarkTables(b *testing.B) {
	const conns = 20_000
	log := testLog(b)
	cfg := bus.DefaultServerConfig()
	cfg.Listen, cfg.Dir, cfg.Site = "127.0.0.1:0", b.TempDir(), "lab"
	srv, err := bus.StartServer(cfg, log)
	if err != nil {
		b.Fatal(err)
	}
	defer srv.Stop()
	conn, err := bus.Connect(b.Context(), bus.ConnConfig{Server: srv, Site: "lab"}, log)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	if err := conn.EnsureStreams(b.Context()); err != nil {
		b.Fatal(err)
	}
	pub := bus.NewPublisher(conn, "a", bus.PublisherOptions{})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)

	def := DefaultConfig()
	tables := newTables(tableLimits{records: def.Tables.MaxRecords, services: def.Tables.MaxServices}, def.tableSettings())
	table := newFlowTable(flowLimits{flows: def.Flows.MaxFlows, rows: def.Flows.MaxRows}, tables)
	rng := rand.New(rand.NewPCG(1, 2))
	sample := func(i int) *flowSample {
		return &flowSample{
			cookie: uint64(i + 1), state: tcpEstablished, connStory: connStory{opened: 1, process: "nginx"},
			src: netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), 443), dst: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 5), byte(i)}), uint16(30000+i%30000)),
			rtt: 100 * time.Microsecond, cwnd: 14480, rwnd: 65536, ownRwnd: 64256 + uint64(i%999)*64,
			rttMin: time.Duration(60+rng.IntN(20)) * time.Microsecond, uid: 33,
		}
	}
	samples := make([]*flowSample, conns)
	for i := range samples {
		samples[i] = sample(i)
	}
	now := uint64(0)
	start := time.Now().UnixNano()
	for b.Loop() {
		for range 6 {
			now += 5e9
			table.beginDump(now)
			for _, s := range samples {
				n := uint32(rng.IntN(40))
				s.packets += n
				s.bytes += uint64(n) * 700
				s.posted, s.received, s.read = s.bytes, s.received+uint64(n)*60, s.received+uint64(n)*60
				s.rtt = time.Duration(80+rng.IntN(90)) * time.Microsecond
				s.rttVar, s.cwnd = s.rtt/4, uint64(10+rng.IntN(30))*1448
				table.live(s)
			}
			table.endDump(dumpAll)
			table.take(start, start+5e9, func(*decafpb.FlowRecord) {})
		}
		tables.take(start, start+30e9, table.flows, func(r *decafpb.FlowRecord) { pub.Publish(r) })
		start += 30e9
	}
	until(b, "NATS has stored all", func() bool { return pub.Stats().Waiting == 0 })
	runtime.GC()
	runtime.ReadMemStats(&after)
	s := pub.Stats()
	if tables.stats.recordsLeftOut != 0 || s.Stored != tables.stats.records+tables.stats.services || s.Stored < uint64(conns*b.N) {
		b.Errorf("%+v, %+v", tables.stats, s)
	}
	b.ReportMetric(float64(s.Bytes)/float64(s.Stored), "B/record")
	b.ReportMetric(float64(s.Bytes)/float64(b.N)/30, "B/s_at_30s")
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(1<<20), "heap_MiB")
	if err := pub.Close(b.Context()); err != nil {
		b.Error(err)
	}
	runtime.KeepAlive(samples)
}
