package hostagent

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"decaf/api/decafpb"
	"decaf/api/packet"
	"decaf/tracer"
)

// still returns an agent whose kernel is the test.
func still(cfg Config, t PathTracer) (*Agent, *recorder, func()) {
	rec := newRecorder()
	a := New(cfg, Deps{Publisher: rec, Tracer: t})
	a.workers = startWorkers(context.Background(), cfg.Trace.Workers, cfg.Trace.Queue, t, a.traced)
	return a, rec, a.workers.stop
}

func eventOf(port uint16, change func(*event)) event {
	e := event{
		what: whatRetransmit, flags: flagACK, segments: 1, seq: 1, endSeq: 2, cookie: uint64(port),
		src: netip.MustParseAddrPort("10.0.0.1:40000"),
		dst: netip.AddrPortFrom(netip.MustParseAddr("10.0.0.2"), port),
	}
	if change != nil {
		change(&e)
	}
	return e
}

// spentTracer has no budget.
type spentTracer struct{ tracerFunc }

func (spentTracer) Spent() time.Duration { return time.Second }

// Without budget a record goes out at once and says so, and no worker is asked;
// when there is budget again the flow may be traced.
func TestSpentBudgetAsksNoWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		traces := 0
		trace := tracerFunc(func(context.Context, packet.Flow, int64) *decafpb.Path {
			traces++
			return pathOf(decafpb.PathStatus_PATH_STATUS_COMPLETE)
		})
		a, rec, stop := still(DefaultConfig(), spentTracer{trace})
		a.handle(eventOf(1, nil))
		if all := rec.all(); len(all) != 1 || all[0].GetPath().GetStatus() != decafpb.PathStatus_PATH_STATUS_REFUSED || traces != 0 {
			t.Errorf("%v after %d traces, want one record, refused, and no trace", all, traces)
		}
		a.workers.tracer = trace
		a.handle(eventOf(1, func(e *event) { e.over = true }))
		if all := rec.all(); len(all) != 2 || all[1].GetPath().GetStatus() != decafpb.PathStatus_PATH_STATUS_REFUSED || traces != 0 {
			t.Errorf("%v after %d traces, want what came before there was budget refused", all, traces)
		}
		a.handle(eventOf(1, nil))
		stop()
		if all := rec.all(); len(all) != 3 || all[2].GetPath().GetStatus() != decafpb.PathStatus_PATH_STATUS_COMPLETE || traces != 1 {
			t.Errorf("%v after %d traces, want a third record, traced", all, traces)
		}
	})
}

// However slow the tracer is, no event waits for it, and every event becomes a
// record that says what became of its trace.
func TestSlowTracerHoldsNoEventUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := DefaultConfig()
		cfg.Trace.Workers, cfg.Trace.Queue = 2, 4
		const took = time.Hour
		a, rec, stop := still(cfg, tracerFunc(func(ctx context.Context, f packet.Flow, _ int64) *decafpb.Path {
			time.Sleep(took)
			return pathOf(decafpb.PathStatus_PATH_STATUS_COMPLETE)
		}))
		start := time.Now()
		for port := range uint16(2) {
			a.handle(eventOf(port, nil))
		}
		synctest.Wait() // the workers have these two
		for port := uint16(2); port < 10; port++ {
			a.handle(eventOf(port, nil))
		}
		a.handle(eventOf(0, nil)) // waits for the first
		a.handle(eventOf(0, func(e *event) { e.what, e.totalRetrans, e.dsackDups = whatClosed, 2, 2 }))
		if d := time.Since(start); d != 0 {
			t.Errorf("the event loop stood still for %v", d)
		}
		if n := len(rec.all()); n != 4 {
			t.Errorf("%d records at once, want the 4 that found the queue full", n)
		}
		stop()
		byStatus := map[decafpb.PathStatus]int{}
		for _, r := range rec.all() {
			if !r.GetUndone() {
				byStatus[r.GetPath().GetStatus()]++
			}
		}
		if byStatus[decafpb.PathStatus_PATH_STATUS_COMPLETE] != 6 || byStatus[decafpb.PathStatus_PATH_STATUS_REFUSED] != 4 ||
			byStatus[decafpb.PathStatus_PATH_STATUS_CACHED] != 1 {
			t.Errorf("paths %v, want 6 complete, 4 refused, 1 cached", byStatus)
		}
		// The three of flow 0 in order: traced, cached, taken back.
		var zero []*decafpb.Retransmit
		for _, r := range rec.all() {
			if r.GetCookie() == 0 {
				zero = append(zero, r)
			}
		}
		if len(zero) != 3 || !zero[2].GetUndone() || zero[1].GetPath().GetStatus() != decafpb.PathStatus_PATH_STATUS_CACHED {
			t.Errorf("records of the first flow: %v", zero)
		}
		for name, want := range map[string]uint64{
			countEvents: 12, countRecords: 11, countSegments: 11, countQueueFull: 4, countClosed: 1, countUndone: 1,
			countComplete: 6, countRefused: 4, countCached: 1,
		} {
			if got := a.Counters()[name]; got != want {
				t.Errorf("%s = %d, want %d", name, got, want)
			}
		}
	})
}

// startingTracer can start traces, and takes an hour for each.
type startingTracer struct {
	tracerFunc
	started *[]uint16 // destination ports, in the event loop
}

func (t startingTracer) Start(r tracer.Request) func(context.Context) *decafpb.Path {
	*t.started = append(*t.started, r.Flow.Dst.Port())
	return func(ctx context.Context) *decafpb.Path {
		time.Sleep(time.Hour)
		return pathOf(decafpb.PathStatus_PATH_STATUS_COMPLETE)
	}
}

// The probes of a trace leave in the event loop's step itself, as long as there
// is a worker for what follows; later ones wait for one.
func TestProbesLeaveAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := DefaultConfig()
		cfg.Trace.Workers, cfg.Trace.Queue = 2, 4
		var started []uint16
		traced := make(chan uint16, 1)
		trace := startingTracer{tracerFunc(func(_ context.Context, f packet.Flow, _ int64) *decafpb.Path {
			traced <- f.Dst.Port()
			return pathOf(decafpb.PathStatus_PATH_STATUS_COMPLETE)
		}), &started}
		a, rec, stop := still(cfg, trace)
		for port, want := range []int{1, 2, 2} {
			a.handle(eventOf(uint16(port), nil))
			if len(started) != want {
				t.Errorf("%d traces started after retransmission %d, want %d", len(started), port+1, want)
			}
		}
		time.Sleep(2 * time.Hour) // until the workers are free again
		a.handle(eventOf(3, nil))
		if !slices.Equal(started, []uint16{0, 1, 3}) {
			t.Errorf("started %v, want flows 0, 1 and 3", started)
		}
		stop()
		if port := <-traced; port != 2 {
			t.Errorf("a worker traced flow %d, want the one that found none free", port)
		}
		for _, r := range rec.all() {
			if r.GetPath().GetStatus() != decafpb.PathStatus_PATH_STATUS_COMPLETE {
				t.Errorf("record %v, want a path", r)
			}
		}
		if n := len(rec.all()); n != 4 {
			t.Errorf("%d records, want 4", n)
		}
	})
}

// What the rules leave out is counted under its name and published nowhere.
func TestLeftOutIsCounted(t *testing.T) {
	cfg := DefaultConfig()
	cfg.IgnoreNetworks = []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")}
	a, rec, stop := still(cfg, tracerFunc(complete))
	away := func(e *event) { e.dst = netip.MustParseAddrPort("10.9.0.1:4222") }
	a.handle(eventOf(1, away))
	a.handle(eventOf(1, func(e *event) { away(e); e.what, e.totalRetrans, e.dsackDups = whatClosed, 1, 1 }))
	a.handle(eventOf(1, func(e *event) { e.err = -16 }))
	a.handle(eventOf(1, func(e *event) { e.what, e.totalRetrans = whatClosed, 1 }))
	a.handle(eventOf(1, func(e *event) { e.err = -1 }))
	stop()
	all := rec.all()
	if len(all) != 1 || !strings.Contains(all[0].GetLocalCause(), "packet filter") || all[0].GetPath().GetStatus() != decafpb.PathStatus_PATH_STATUS_SKIPPED {
		t.Errorf("records %v, want the one with a local cause, not traced", all)
	}
	for name, want := range map[string]uint64{
		countEvents: 5, countIgnored: 2, countNotSent: 1, countClosed: 1, countUndone: 0, countLocal: 1, countSkipped: 1,
	} {
		if got := a.Counters()[name]; got != want {
			t.Errorf("%s = %d, want %d", name, got, want)
		}
	}
}

// A tracer that gives nothing does not stop the record.
func TestTracerWithoutAnswer(t *testing.T) {
	a, rec, stop := still(DefaultConfig(), tracerFunc(func(context.Context, packet.Flow, int64) *decafpb.Path { return nil }))
	a.handle(eventOf(1, nil))
	stop()
	if all := rec.all(); len(all) != 1 || all[0].GetPath().GetStatus() != decafpb.PathStatus_PATH_STATUS_FAILED || all[0].GetPath().GetWhy() == "" {
		t.Errorf("records %v, want one that failed, and why", all)
	}
}

// A heartbeat comes at once and at each interval, with all counters.
func TestHeartbeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := DefaultConfig()
		rec := newRecorder()
		a := New(cfg, Deps{
			Publisher: rec, Tracer: tracerFunc(complete), Version: "v1",
			Counters: func() map[string]uint64 { return map[string]uint64{"probes": 3} },
		})
		name := sourceBTF
		a.seenBy.Store(&name)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		a.heartbeats(ctx, func() {})
		beats := rec.beats()
		if len(beats) != 3 { // at 0, 2 and 4 seconds
			t.Fatalf("%d heartbeats in 5 s, want 3", len(beats))
		}
		h := beats[2]
		if h.GetRole() != "host" || h.GetVersion() != "v1" || h.GetSource() != "tp_btf" || h.GetTimeNs()-beats[1].GetTimeNs() != 2e9 {
			t.Errorf("heartbeat %v", h)
		}
		for _, name := range append(counted[:], countLostRing, "probes") {
			if _, ok := h.GetCounters()[name]; !ok {
				t.Errorf("the heartbeat does not say %s", name)
			}
		}
	})
}

func TestRunNeedsItsParts(t *testing.T) {
	if err := New(DefaultConfig(), Deps{}).Run(t.Context()); err == nil {
		t.Error("ran without publisher and tracer")
	}
}
