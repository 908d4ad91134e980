package correlator

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"decaf/api"
	"decaf/api/decafpb"
)

// However few are asked for, they are the first of all.
func TestShortlist(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(3, 4))
	for limit := range 12 {
		for n := range 60 {
			s := shortlist{limit: limit}
			var all []chosen
			for i := range n {
				c := chosen{toldConn: &toldConn{cookie: uint64(i)}, key: float64(rng.IntN(9)), end: rng.Int64N(3)}
				all = append(all, c)
				if s.takes(c) {
					s.keep(c)
				}
			}
			slices.SortFunc(all, chosen.before)
			if limit > 0 {
				all = all[:min(n, limit)]
			}
			if got := s.cut(); s.given != n || !slices.Equal(got, all) {
				t.Fatalf("%d of %d: wrong ones", limit, n)
			}
		}
	}
}

// between does something whenever the evidence is let go.
type between struct{ do func() }

func (between) Lock()     {}
func (b between) Unlock() { b.do() }

// While it is looked at, the table goes on: connections come, go and are told more of.
// Each that was there and stays is in the answer, once, as it was at one moment; what
// came later is not, even if it is another of the same name.
func TestTableGoesOnWhileItIsAskedFor(t *testing.T) {
	t.Parallel()
	const conns = 5 * connsPerLook
	for _, limit := range []int{0, 100} {
		s, x := tableStore(t, 64<<20)
		tell := func(port uint32, end int64, change func(*decafpb.FlowRecord)) {
			s.AddFlow(with(x.conn(h0, h1, port, stOpen, end), change), end*second)
		}
		for i := range uint32(conns) {
			tell(1+i, 130, func(*decafpb.FlowRecord) {})
		}
		rng := rand.New(rand.NewPCG(7, uint64(limit)))
		gone, newest := map[uint64]bool{}, uint32(conns)
		looks := 0
		goOn := func() {
			looks++
			for range 40 {
				// More of one that is there: in order, late, and until it is folded.
				port := 1 + rng.Uint32N(conns)
				for n := range int64(rng.IntN(2 * maxParts)) {
					tell(port, 160+n-rng.Int64N(50), func(r *decafpb.FlowRecord) { r.Retransmits = 3 })
				}
				// Two go, and two of their names come, each in the other's place: their
				// host was started anew.
				two := []uint32{1 + rng.Uint32N(conns), 1 + rng.Uint32N(conns)}
				for _, port := range two {
					if c := s.told.single.ofCookie[cookieKey{s.traffic.known(h0), uint64(port)}]; c != nil {
						s.told.single.forget(c)
						gone[uint64(port)] = true
					}
				}
				for _, port := range two {
					tell(port, 170, func(*decafpb.FlowRecord) {})
				}
				newest++
				tell(newest, 170, func(r *decafpb.FlowRecord) { r.Retransmits = 1 << 20 })
			}
		}
		omitted := 0
		rows, err := s.connections(api.Range{Limit: limit, Omitted: &omitted}).answer(t.Context(), between{goOn})
		if err != nil || looks < conns/connsPerLook {
			t.Fatalf("%d looks, %v", looks, err)
		}
		seen := map[uint64]bool{}
		for _, r := range rows.Rows {
			if seen[r.GetCookie()] || r.GetCookie() > conns {
				t.Errorf("limit %d: connection %d twice, or it came later", limit, r.GetCookie())
			}
			seen[r.GetCookie()] = true
			var packets, retransmits uint64
			for _, p := range r.Parts {
				packets, retransmits = packets+p.Packets, retransmits+p.Retransmits
			}
			// What was first told of it, 100 packets, and 3 sent again with each 100 more.
			if packets != r.GetPackets() || retransmits != r.GetRetransmits() || (packets-100)/100*3 != retransmits {
				t.Errorf("limit %d: of no one moment: %d of %d packets, %d of %d retransmits", limit, packets, r.GetPackets(), retransmits, r.GetRetransmits())
			}
		}
		if !slices.IsSortedFunc(rows.Rows, func(a, b api.FlowRow) int { return int(b.GetRetransmits()) - int(a.GetRetransmits()) }) {
			t.Errorf("limit %d: out of order", limit)
		}
		if limit > 0 {
			if len(rows.Rows) != limit || omitted < conns-len(gone)-limit || omitted > conns-limit {
				t.Errorf("%d rows, %d left out", len(rows.Rows), omitted)
			}
			continue
		}
		for i := range uint64(conns) {
			if !seen[1+i] && !gone[1+i] {
				t.Errorf("connection %d was there all the time, and is not in the answer", 1+i)
			}
		}
	}
}

// Many ask while evidence comes: for the race detector.
func TestTableIsAskedForWhileEvidenceComes(t *testing.T) {
	t.Parallel()
	s, x := tableStore(t, 1<<20)
	var evidence sync.Mutex
	add := func(port uint32, end int64) {
		evidence.Lock()
		defer evidence.Unlock()
		s.AddFlow(x.conn(h0, h1, port, stOpen, end), end*second)
	}
	for i := range uint32(3000) {
		add(1+i%1000, 130+int64(i/1000))
	}
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for range 20 {
				rows, err := s.connections(api.Range{Limit: 200, Sort: api.ByNewest}).answer(t.Context(), &evidence)
				if err != nil || len(rows.Rows) != 200 {
					t.Errorf("%d rows, %v", len(rows.Rows), err)
				}
			}
		})
	}
	for i := range uint32(20_000) {
		add(1+i%1000, 140+int64(i/1000)-int64(i%3))
	}
	wg.Wait()
}

// Whoever has gone away is not worked for.
func TestNobodyWaitsForTheAnswer(t *testing.T) {
	t.Parallel()
	s, x := tableStore(t, 64<<20)
	for i := range uint32(5 * connsPerLook) {
		s.AddFlow(x.conn(h0, h1, 1+i, stOpen, 130), 130*second)
	}
	ctx, cancel := context.WithCancel(t.Context())
	looks := 0
	if _, err := s.connections(api.Range{}).answer(ctx, between{func() { looks++; cancel() }}); !errors.Is(err, context.Canceled) || looks != 1 {
		t.Errorf("%d looks, %v", looks, err)
	}
}

// stopwatch is a lock that notes how long it was held at most.
type stopwatch struct {
	since   time.Time
	longest time.Duration
}

func (w *stopwatch) Lock()   { w.since = time.Now() }
func (w *stopwatch) Unlock() { w.longest = max(w.longest, time.Since(w.since)) }

// How long the evidence waits at most, while someone looks at a full table, and how long
// the answer takes. Of each connection several intervals are told, and what was sent
// again of one in fifty was traced.
func BenchmarkConnections(b *testing.B) {
	topo := published(b)
	s, x := NewStore(topo, DefaultStoreLimits()), newTeller(topo)
	for n := range int64(3) {
		for i := range uint32(60_000) {
			r := x.conn(topo.Hosts[int(i)%len(topo.Hosts)].Name, topo.Hosts[int(i*7+1)%len(topo.Hosts)].Name, 1000+i, stOpen, 130+30*n)
			r.Cookie, r.Retransmits = uint64(i+1), uint64(btoi(i%50 == 0))*uint64(i%977)
			s.AddFlow(r, 200*second)
		}
	}
	for _, rt := range lossyArrivals(topo, 1200, 100*second) {
		s.AddRetransmit(rt, 200*second)
	}
	for _, c := range []struct {
		name string
		r    api.Range
	}{
		{"all", api.Range{Limit: 100}},
		{"host", api.Range{Limit: 100, Host: topo.Hosts[3].Name}},
		{"trouble", api.Range{Limit: 100, Trouble: true}},
		{"all-10000", api.Range{Limit: 10_000}},
		{"link-10000", api.Range{Limit: 10_000, Component: fmt.Sprint(Component{Link: topo.Links[0]})}},
	} {
		b.Run(c.name, func(b *testing.B) {
			var held stopwatch
			var rows api.FlowRows
			for b.Loop() {
				c.r.Omitted = new(int)
				var err error
				if rows, err = s.connections(c.r).answer(b.Context(), &held); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(held.longest.Microseconds())/1e3, "ms-held")
			b.ReportMetric(float64(len(rows.Rows)), "rows")
			b.ReportMetric(float64(s.Stats().Table.held), "connections")
		})
	}
}
