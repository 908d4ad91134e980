package device

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"decaf/api/decafpb"
	"decaf/api/packet"
)

// sight is an event of a source about a packet.
func sight(source string, port uint16, id, seq uint32) observed {
	f := packet.Flow{Src: netip.MustParseAddrPort("10.0.0.1:40000"), Dst: netip.AddrPortFrom(netip.MustParseAddr("10.0.0.2"), port), Proto: packet.TCP}
	return observed{packets: 1, event: &decafpb.DropEvent{Source: source, Reason: "told by " + source, Function: source, Packet: &decafpb.Packet{Flow: f.PB(), IpId: id, TcpSeq: seq}}}
}

func TestDuplicates(t *testing.T) {
	const kernel, nflog = 0, 1
	type step struct {
		at     int // ms
		source uint8
		port   uint16
		id     uint32
		seq    uint32
		part   part
	}
	none := observed{event: &decafpb.DropEvent{Source: "no packet"}}
	for _, c := range []struct {
		name          string
		steps         []step
		want          []string // ms, source, function and port of what is given on
		merged, alone uint64
	}{
		{"two sources, one packet", []step{{0, nflog, 80, 1, 1, tells}, {1, kernel, 80, 1, 1, tells}}, []string{"0 1 1:80"}, 1, 0},
		{"another ip id is another packet", []step{{0, nflog, 80, 1, 1, tells}, {1, kernel, 80, 2, 1, tells}}, []string{"0 1 1:80", "1 0 0:80"}, 0, 0},
		{"another sequence is another packet", []step{{0, nflog, 80, 1, 1, tells}, {1, kernel, 80, 1, 2, tells}}, []string{"0 1 1:80", "1 0 0:80"}, 0, 0},
		{"another flow is another packet", []step{{0, nflog, 80, 1, 1, tells}, {1, kernel, 81, 1, 1, tells}}, []string{"0 1 1:80", "1 0 0:81"}, 0, 0},
		{"one source twice: two packets", []step{{0, kernel, 80, 1, 1, tells}, {1, kernel, 80, 1, 1, tells}}, []string{"0 0 0:80", "1 0 0:80"}, 0, 0},
		{"two packets, two sources", []step{{0, kernel, 80, 1, 1, tells}, {1, kernel, 80, 1, 1, tells}, {2, nflog, 80, 1, 1, tells}, {3, nflog, 80, 1, 1, tells}, {4, nflog, 80, 1, 1, tells}},
			[]string{"0 0 0:80", "1 0 0:80", "4 1 1:80"}, 2, 0},
		{"three sources", []step{{0, kernel, 80, 1, 1, tells}, {1, nflog, 80, 1, 1, tells}, {2, 2, 80, 1, 1, tells}}, []string{"0 0 0:80"}, 2, 0},
		{"too far apart", []step{{0, nflog, 80, 1, 1, tells}, {101, kernel, 80, 1, 1, tells}}, []string{"0 1 1:80", "101 0 0:80"}, 0, 0},
		{"at the edge", []step{{0, nflog, 80, 1, 1, tells}, {100, kernel, 80, 1, 1, tells}}, []string{"0 1 1:80"}, 1, 0},
		{"held for its name", []step{{0, kernel, 80, 1, 1, waits}, {3, nflog, 80, 1, 1, names}}, []string{"3 1 0:80"}, 1, 0},
		{"the name came first", []step{{0, nflog, 80, 1, 1, names}, {3, kernel, 80, 1, 1, waits}}, []string{"3 1 0:80"}, 1, 0},
		{"the name of an event that does not wait", []step{{0, nflog, 80, 1, 1, names}, {3, kernel, 80, 1, 1, tells}}, []string{"3 1 0:80"}, 1, 0},
		{"two packets, two names", []step{{0, nflog, 80, 1, 1, names}, {0, nflog, 80, 1, 1, names}, {1, kernel, 80, 1, 1, waits}, {2, kernel, 80, 1, 1, waits}}, []string{"1 1 0:80", "2 1 0:80"}, 2, 0},
		{"a name alone: logged, not dropped", []step{{0, nflog, 80, 1, 1, names}}, nil, 0, 1},
		{"held in vain", []step{{0, kernel, 80, 1, 1, waits}, {50, kernel, 81, 1, 1, tells}}, []string{"5 0 0:80", "50 0 0:81"}, 0, 0},
		{"a name too late", []step{{0, kernel, 80, 1, 1, waits}, {50, nflog, 80, 1, 1, names}}, []string{"5 0 0:80"}, 1, 0},
		{"held at the end", []step{{0, kernel, 80, 1, 1, waits}}, []string{"5 0 0:80"}, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			start := time.Unix(1000, 0)
			now := start
			var got []string
			d := newDuplicates(100*time.Millisecond, 5*time.Millisecond, 1000, func(o observed) {
				got = append(got, fmt.Sprintf("%d %s %s:%d", now.Sub(start).Milliseconds(), o.event.Source, o.event.Function, o.event.Packet.GetFlow().GetDstPort()))
				if want := "told by " + o.event.Source; o.event.Packet != nil && o.event.Reason != want {
					t.Errorf("reason %q, want %q", o.event.Reason, want)
				}
			})
			advance := func(to time.Time) {
				for at, ok := d.next(); ok && !at.After(to); at, ok = d.next() {
					now = at
					d.due(now)
				}
				now = to
			}
			for _, s := range c.steps {
				advance(start.Add(time.Duration(s.at) * time.Millisecond))
				d.take(now, s.source, sight(fmt.Sprint(s.source), s.port, s.id, s.seq), s.part)
			}
			advance(start.Add(time.Second))
			d.flush()
			if !slices.Equal(got, c.want) || d.merged != c.merged || d.alone != c.alone {
				t.Errorf("gave on %q, merged %d, %d alone; want %q, %d, %d", got, d.merged, d.alone, c.want, c.merged, c.alone)
			}
			if len(d.order) != 0 || len(d.byKey) != 0 {
				t.Errorf("%d sightings and %d keys left", len(d.order), len(d.byKey))
			}
			got, d.alone = nil, 0
			d.take(now, kernel, none, waits)
			d.take(now, nflog, none, names)
			if len(got) != 1 || d.alone != 1 {
				t.Errorf("events without a packet: %d given on, %d alone; want 1 and 1", len(got), d.alone)
			}
		})
	}
}

// However the sightings of packets, many of them alike, come in: one event for
// each that the kernel dropped, none for one that was logged and let through,
// and a name on each that has one.
func TestDuplicatesAgainstTruth(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for round := range 50 {
		type coming struct {
			at     time.Duration
			source uint8
			id     uint32
		}
		var all []coming
		dropped, named, alone := map[uint32]int{}, map[uint32]int{}, uint64(0)
		for i := range 2000 {
			id := rnd.Uint32N(300)
			at := time.Duration(i) * 20 * time.Millisecond // alike ones are no nearer
			seen := 1 + rnd.IntN(3)
			if seen&1 != 0 {
				dropped[id]++
				all = append(all, coming{at + time.Duration(rnd.Int64N(int64(4*time.Millisecond))), 0, id})
			}
			if seen&2 != 0 {
				all = append(all, coming{at + time.Duration(rnd.Int64N(int64(4*time.Millisecond))), 1, id})
			}
			switch seen {
			case 2:
				alone++
			case 3:
				named[id]++
			}
		}
		slices.SortStableFunc(all, func(a, b coming) int { return int(a.at - b.at) })
		got, gotNamed := map[uint32]int{}, map[uint32]int{}
		d := newDuplicates(10*time.Millisecond, 5*time.Millisecond, 100, func(o observed) {
			got[o.event.Packet.IpId]++
			if o.event.Source == "1" {
				gotNamed[o.event.Packet.IpId]++
			}
		})
		start := time.Unix(1000, 0)
		for _, c := range all {
			p := waits
			if c.source == 1 {
				p = names
			}
			d.take(start.Add(c.at), c.source, sight(fmt.Sprint(c.source), 80, c.id, 1), p)
		}
		d.flush()
		if !maps.Equal(got, dropped) || !maps.Equal(gotNamed, named) || d.alone != alone {
			t.Fatalf("round %d: events %v, want %v; named %v, want %v; %d alone, want %d", round, got, dropped, gotNamed, named, d.alone, alone)
		}
		if d.crowded != 0 {
			t.Fatalf("%d forgotten early", d.crowded)
		}
	}
}

// One after the other, each is held as long as it should be and no longer.
func TestDuplicatesHoldOnTime(t *testing.T) {
	start := time.Unix(1000, 0)
	now := start
	given := 0
	d := newDuplicates(20*time.Millisecond, 5*time.Millisecond, 1000, func(o observed) {
		if want := start.Add(time.Duration(o.event.Packet.IpId+5) * time.Millisecond); !now.Equal(want) {
			t.Fatalf("packet %d given on after %s, want after %s", o.event.Packet.IpId, now.Sub(start), want.Sub(start))
		}
		given++
	})
	for i := range uint32(1000) {
		now = start.Add(time.Duration(i) * time.Millisecond)
		d.take(now, 0, sight("0", 80, i, 1), waits)
	}
	if given != 995 {
		t.Errorf("%d given on, want 995", given)
	}
}

// In a flood it remembers no more than it may, and loses no event.
func TestDuplicatesAreBounded(t *testing.T) {
	given := 0
	d := newDuplicates(time.Hour, time.Hour, 100, func(observed) { given++ })
	now := time.Unix(1000, 0)
	for i := range uint32(10_000) {
		d.take(now, 0, sight("0", 80, i%7, i), waits)
		if len(d.order)-d.first > 100 || len(d.byKey) > 100 || len(d.order) > 201 {
			t.Fatalf("%d sightings, %d keys, %d places", len(d.order)-d.first, len(d.byKey), len(d.order))
		}
	}
	d.flush()
	if given != 10_000 || d.crowded != 9_900 {
		t.Errorf("%d given on, %d forgotten early; want 10000 and 9900", given, d.crowded)
	}
}

// BenchmarkDuplicates is a flood of packets that cannot be told apart, which one
// source sees: one operation is one event.
func BenchmarkDuplicates(b *testing.B) {
	d := newDuplicates(100*time.Millisecond, 5*time.Millisecond, 1<<16, func(observed) {})
	o := sight("0", 80, 0, 0)
	now := time.Unix(1000, 0)
	b.ReportAllocs()
	for b.Loop() {
		now = now.Add(time.Microsecond)
		d.take(now, 0, o, waits)
	}
}
