package device

import (
	"fmt"
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
	return observed{packets: 1, event: &decafpb.DropEvent{Source: source, Reason: "told by " + source, Class: source, Function: source, Packet: &decafpb.Packet{Flow: f.PB(), IpId: id, TcpSeq: seq}}}
}

func TestRuleNames(t *testing.T) {
	type step struct {
		at      int // ms
		log     string
		port    uint16
		id, seq uint32
	}
	const drop = ""
	for _, c := range []struct {
		name         string
		steps        []step
		want         []string // who names each drop
		named, alone uint64
	}{
		{"logged and dropped", []step{{0, "a", 80, 1, 1}, {1, drop, 80, 1, 1}}, []string{"a"}, 1, 0},
		{"dropped without a log", []step{{0, drop, 80, 1, 1}}, []string{"kernel"}, 0, 0},
		{"logged, not dropped", []step{{0, "a", 80, 1, 1}}, nil, 0, 1},
		{"another ip id is another packet", []step{{0, "a", 80, 1, 1}, {1, drop, 80, 2, 1}}, []string{"kernel"}, 0, 1},
		{"another sequence is another packet", []step{{0, "a", 80, 1, 1}, {1, drop, 80, 1, 2}}, []string{"kernel"}, 0, 1},
		{"another flow is another packet", []step{{0, "a", 80, 1, 1}, {1, drop, 81, 1, 1}}, []string{"kernel"}, 0, 1},
		{"alike, in order", []step{{0, "a", 80, 1, 1}, {1, "b", 80, 1, 1}, {2, drop, 80, 1, 1}, {3, drop, 80, 1, 1}, {4, drop, 80, 1, 1}}, []string{"a", "b", "kernel"}, 2, 0},
		{"too far apart", []step{{0, "a", 80, 1, 1}, {101, drop, 80, 1, 1}}, []string{"kernel"}, 0, 1},
		{"at the edge", []step{{0, "a", 80, 1, 1}, {100, drop, 80, 1, 1}}, []string{"a"}, 1, 0},
		{"the first is too old, the second is not", []step{{0, "a", 80, 1, 1}, {50, "b", 80, 1, 1}, {120, drop, 80, 1, 1}}, []string{"b"}, 1, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			start := time.Unix(1000, 0)
			var got []string
			r := newRuleNames(100*time.Millisecond, 1000)
			for _, s := range c.steps {
				now := start.Add(time.Duration(s.at) * time.Millisecond)
				if s.log != drop {
					o := sight(s.log, s.port, s.id, s.seq)
					o.known = true
					r.logged(now, o)
					continue
				}
				o := r.dropped(now, sight("kernel", s.port, s.id, s.seq))
				by := o.event.Source
				got = append(got, by)
				if o.event.Reason != "told by "+by || o.event.Class != by || o.event.Function != "kernel" || o.known != (by != "kernel") {
					t.Errorf("%v, known %v", o.event, o.known)
				}
			}
			named, alone, crowded := r.counts(start.Add(time.Second))
			if !slices.Equal(got, c.want) || named != c.named || alone != c.alone || crowded != 0 {
				t.Errorf("named by %q, %d named, %d alone, %d crowded; want %q, %d, %d, 0", got, named, alone, crowded, c.want, c.named, c.alone)
			}
			if len(r.order) != 0 || len(r.byKey) != 0 {
				t.Errorf("%d names and %d keys left", len(r.order), len(r.byKey))
			}
			none := observed{event: &decafpb.DropEvent{Source: "no packet"}}
			r.logged(start, none)
			if o := r.dropped(start, none); o.event.Source != "no packet" || r.alone != c.alone+1 {
				t.Errorf("without a packet: %v, %d alone", o.event, r.alone)
			}
		})
	}
}

// However logs and drops of packets, many of them alike, come in, each drop that
// was logged has its own name and no other has one.
func TestRuleNamesAgainstTruth(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	r := newRuleNames(time.Hour, 1<<20)
	now := time.Unix(1000, 0)
	waiting := map[uint32][]string{} // names by packet, in order
	named, alone := uint64(0), 0
	for i := range 100_000 {
		id := rnd.Uint32N(300)
		if rnd.IntN(2) == 0 {
			name := fmt.Sprint(i)
			waiting[id] = append(waiting[id], name)
			r.logged(now, sight(name, 80, id, 1))
			continue
		}
		want := "kernel"
		if len(waiting[id]) > 0 {
			want, waiting[id] = waiting[id][0], waiting[id][1:]
			named++
		}
		if got := r.dropped(now, sight("kernel", 80, id, 1)).event.Source; got != want {
			t.Fatalf("step %d: named by %s, want %s", i, got, want)
		}
	}
	for _, names := range waiting {
		alone += len(names)
	}
	if n, a, crowded := r.counts(now.Add(2 * time.Hour)); n != named || a != uint64(alone) || crowded != 0 {
		t.Errorf("%d named, %d alone, %d crowded; want %d, %d, 0", n, a, crowded, named, alone)
	}
}

// In a flood it remembers no more than it may.
func TestRuleNamesAreBounded(t *testing.T) {
	r := newRuleNames(time.Hour, 100)
	now := time.Unix(1000, 0)
	for i := range uint32(10_000) {
		r.logged(now, sight("a", 80, i%7, i/2))
		if len(r.order)-r.first > 100 || len(r.byKey) > 100 || len(r.order) > 201 {
			t.Fatalf("%d names, %d keys, %d places", len(r.order)-r.first, len(r.byKey), len(r.order))
		}
	}
	if _, _, crowded := r.counts(now); crowded != 9_900 {
		t.Errorf("%d forgotten early, want 9900", crowded)
	}
}

// BenchmarkRuleNames is a flood of packets that cannot be told apart, logged and
// dropped: one operation is one packet.
func BenchmarkRuleNames(b *testing.B) {
	r := newRuleNames(ruleNameWindow, maxRuleNames)
	log, drop := sight("a", 80, 0, 0), sight("kernel", 80, 0, 0)
	now := time.Unix(1000, 0)
	b.ReportAllocs()
	for b.Loop() {
		now = now.Add(time.Microsecond)
		r.logged(now, log)
		r.dropped(now, drop)
	}
}
