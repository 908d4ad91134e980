package tracer

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"decaf/api/decafpb"
	"decaf/api/packet"
)

// scenario is one network situation and what a trace through it must show. The
// network is written one line per TTL:
//
//	a 1ms              router a answers each probe after 1 ms
//	a 1ms lose=2       the first two probes are lost
//	a,b 1ms            answers come from a and b in turn
//	a 1ms refuses      destination unreachable instead of time exceeded
//	dst 1ms            the destination itself answers
//	a 1ms nameless     quotes too little to tell which of several probes it means
//	a>b@5ms 1ms        a answers probes sent before 5 ms, b those after
//	a 1ms plain        answers only probes with a right checksum
//	a 1ms mpls=16,17 port=ge-0/0/1 at=b   says so in extensions
//	-                  nothing ever answers
//
// and the result in the same manner: status and duration, then per TTL who
// answered, the round trip time if known and the number of probes.
type scenario struct {
	name     string
	distance int  // 0 unknown
	limit    int  // highest TTL, 15 if 0
	fresh    bool // there is no connection
	from     int  // TTL from which right checksums were needed before
	fails    bool // they were no help before
	network  string
	want     string
	why      string
}

var scenarios = []scenario{
	{
		name: "all answer", distance: 3,
		network: "a 1ms\nb 1ms\nc 1ms",
		want:    "complete 1ms\na 1ms x1\nb 1ms x1\nc 1ms x1",
	}, {
		name: "one switch between", distance: 1,
		network: "a 1ms",
		want:    "complete 1ms\na 1ms x1",
	}, {
		name: "a lost probe is sent again after 2 ms, no other is", distance: 3,
		network: "a 1ms\nb 1ms lose=1\nc 1ms",
		want:    "complete 4ms\na 1ms x2\nb 1ms x2\nc 1ms x2",
	}, {
		name: "three times lost: 2, 6, 14 ms", distance: 2,
		network: "a 1ms lose=3\nb 1ms",
		want:    "complete 16ms\na 1ms x4\nb 1ms x2",
	}, {
		name: "a silent switch is a hole, told after the timeout", distance: 3,
		network: "a 1ms\n-\nc 1ms",
		want:    "partial 50ms\na 1ms x1\nsilent x5\nc 1ms x1",
		why:     "1 of 3 hops silent, first TTL 2 after 5 probes",
	}, {
		name: "all lost behind a switch", distance: 4,
		network: "a 1ms\n-\n-\n-",
		want:    "partial 50ms\na 1ms x1\nsilent x5\nsilent x5\nsilent x5",
		why:     "3 of 4 hops silent, first TTL 2 after 5 probes",
	}, {
		name: "nothing answers", distance: 2,
		network: "-\n-",
		want:    "failed 50ms\nsilent x5\nsilent x5",
		why:     "nothing answered",
	}, {
		name: "slower than the resend: the round tells which probe was answered", distance: 2,
		network: "a 1ms\nb 9ms",
		want:    "complete 9ms\na 1ms x1\nb 9ms x3",
	}, {
		name: "slower than the resend, and the answer does not say which: no guess", distance: 1,
		network: "a 9ms nameless",
		want:    "complete 9ms\na ? x3",
	}, {
		name: "one probe needs no telling", distance: 1,
		network: "a 1ms nameless",
		want:    "complete 1ms\na 1ms x1",
	}, {
		name: "slower than the timeout", distance: 2,
		network: "a 1ms\nb 60ms",
		want:    "partial 50ms\na 1ms x1\nsilent x5",
		why:     "1 of 2 hops silent, first TTL 2 after 5 probes",
	}, {
		name: "a switch without a route: it refuses this TTL and all above", distance: 5,
		network: "a 1ms\nb 1ms\nc 1ms refuses\nc 1ms refuses\nc 1ms refuses",
		want:    "partial 1ms\na 1ms x1\nb 1ms x1\nc unreachable 1ms x1",
		why:     "c says at TTL 3: network unreachable",
	}, {
		name: "the refusal of a higher TTL comes first", distance: 4,
		network: "a 1ms\nb 1ms refuses lose=1\nb 1ms refuses\nb 1ms refuses",
		want:    "partial 4ms\na 1ms x2\nb unreachable 1ms x2",
		why:     "b says at TTL 2: network unreachable",
	}, {
		name: "refused behind a hole", distance: 3,
		network: "-\nb 1ms refuses\nb 1ms refuses",
		want:    "partial 50ms\nsilent x5\nb unreachable 1ms x1",
		why:     "b says at TTL 2: network unreachable; 1 of 2 hops silent, first TTL 1 after 5 probes",
	}, {
		name: "packets of one flow over several switches: all are named", distance: 2,
		network: "a,b 3ms\nc 9ms",
		want:    "partial 9ms\na 3ms x6 also b\nc 9ms x3",
		why:     "TTL 1: 10.0.0.1 and 1 more answered: packets of this flow are balanced one by one",
	}, {
		name: "a hop whose probe was lost: its neighbours are asked once more, of the same time", distance: 3,
		network: "a 1ms\nb 1ms lose=1\nc 1ms",
		want:    "complete 4ms\na 1ms x2\nb 1ms x2\nc 1ms x2",
	}, {
		name: "the path changed before the resend: the hops are not of one path", distance: 3,
		network: "a 1ms\nb>d@1500us 1ms\nc>e@1500us 1ms lose=1",
		want:    "partial 5ms\na 1ms x1\nb 1ms x6 also d\ne 1ms x2",
		why:     "TTL 2: 10.0.0.2 and 1 more answered: the path changed while it was traced",
	}, {
		name: "a routing loop", distance: 5,
		network: "a 1ms\nb 1ms\nc 1ms\nb 1ms\nc 1ms",
		want:    "partial 1ms\na 1ms x1\nb 1ms x1\nc 1ms x1\nb 1ms x1\nc 1ms x1",
		why:     "10.0.0.2 answered at TTL 2 and 4: a routing loop; 10.0.0.3 answered at TTL 3 and 5: a routing loop",
	}, {
		name: "something behind b drops wrong checksums: right ones follow where nothing answers", distance: 4,
		network: "a 1ms\nb 1ms\nc 1ms plain\nd 1ms plain",
		want:    "complete 8ms\na 1ms x1\nb 1ms x2\nc 1ms x3\nd 1ms x3",
	}, {
		name: "what routers say in extensions", distance: 2,
		network: "a 1ms mpls=16,17 port=ge-0/0/1\nb 1ms at=c port=eth0",
		want:    "complete 1ms\na 1ms x1 ge-0/0/1 [16 17]\nc 1ms x1 eth0",
	}, {
		name: "they were needed before: no time is lost", distance: 4, from: 3,
		network: "a 1ms\nb 1ms\nc 1ms plain\nd 1ms plain",
		want:    "complete 1ms\na 1ms x1\nb 1ms x1\nc 1ms x1\nd 1ms x1",
	}, {
		name: "they were no help before: they are not sent", distance: 4, fails: true,
		network: "a 1ms\nb 1ms\nc 1ms plain\nd 1ms plain",
		want:    "partial 50ms\na 1ms x1\nb 1ms x1\nsilent x5\nsilent x5",
		why:     "2 of 4 hops silent, first TTL 3 after 5 probes",
	}, {
		name: "distance unknown, a connection: hop by hop, and two probes at most behind the last", limit: 6,
		network: "a 1ms\nb 1ms\nc 1ms\n-\n-\n-",
		want:    "partial 50ms\na 1ms x1\nb 1ms x1\nc 1ms x1",
		why:     "distance unknown, nothing answered beyond TTL 3",
	}, {
		name: "distance unknown, a connection: one lost probe is no end", limit: 6,
		network: "a 1ms\nb 1ms lose=1\nc 1ms\n-\n-\n-",
		want:    "partial 50ms\na 1ms x2\nb 1ms x2\nc 1ms x1",
		why:     "distance unknown, nothing answered beyond TTL 3",
	}, {
		name: "distance unknown, a connection: what is silent may be the host", limit: 6,
		network: "a 1ms\n-\nc 1ms\n-\n-\n-",
		want:    "partial 50ms\na 1ms x1",
		why:     "distance unknown, nothing answered beyond TTL 1",
	}, {
		name: "distance unknown: the path is as long as what answered", limit: 6, fresh: true,
		network: "a 1ms\nb 1ms\n-\n-\n-\n-",
		want:    "partial 50ms\na 1ms x1\nb 1ms x1",
		why:     "distance unknown, nothing answered beyond TTL 2",
	}, {
		name: "distance unknown: holes are probed again, what lies beyond is not", limit: 6, fresh: true,
		network: "a 1ms\n-\nc 1ms\n-\n-\n-",
		want:    "partial 50ms\na 1ms x1\nsilent x5\nc 1ms x1",
		why:     "1 of 3 hops silent, first TTL 2 after 5 probes",
	}, {
		name: "distance unknown and the destination answers", limit: 6, fresh: true,
		network: "a 1ms\nb 1ms\ndst 1ms\ndst 1ms\ndst 1ms\ndst 1ms",
		want:    "complete 1ms\na 1ms x1\nb 1ms x1\ndst destination 1ms x1",
	}, {
		name: "distance unknown and nothing answers", limit: 3,
		network: "-\n-\n-",
		want:    "failed 50ms",
		why:     "nothing answered",
	}, {
		name: "nearer than the topology says", distance: 4,
		network: "a 1ms\ndst 1ms\ndst 1ms\ndst 1ms",
		want:    "partial 1ms\na 1ms x1\ndst destination 1ms x1",
		why:     "destination answered at TTL 2, nearer than the 4 switches expected",
	}, {
		name: "further than the highest TTL", distance: 3, limit: 2,
		network: "a 1ms\nb 1ms\nc 1ms",
		want:    "partial 1ms\na 1ms x1\nb 1ms x1",
		why:     "destination is 3 switches away, traced no further than TTL 2",
	},
}

// address gives a router of a scenario its address.
func address(name string) netip.Addr {
	if name == "dst" {
		return netip.MustParseAddr("10.0.0.99")
	}
	return netip.AddrFrom4([4]byte{10, 0, 0, name[0] - 'a' + 1})
}

func routerName(a netip.Addr) string {
	if a == address("dst") {
		return "dst"
	}
	b := a.As4()
	return string(rune('a' + b[3] - 1))
}

// router is one line of a scenario's network.
type router struct {
	names    []string // nil: silent
	delay    time.Duration
	lose     int
	refuses  bool
	nameless bool
	plain    bool
	until    time.Duration // when the second name takes over
	mpls     []uint32
	port, at string
	probed   int
}

func parseNetwork(t *testing.T, s string) []*router {
	t.Helper()
	var out []*router
	for line := range strings.SplitSeq(s, "\n") {
		r := &router{}
		for i, word := range strings.Fields(line) {
			key, value, _ := strings.Cut(word, "=")
			var err error
			switch {
			case word == "-":
			case i == 0 && strings.Contains(word, ">"):
				names, at, _ := strings.Cut(word, "@")
				r.names = strings.Split(names, ">")
				r.until, err = time.ParseDuration(at)
			case i == 0:
				r.names = strings.Split(word, ",")
			case key == "plain":
				r.plain = true
			case key == "port":
				r.port = value
			case key == "at":
				r.at = value
			case key == "mpls":
				for l := range strings.SplitSeq(value, ",") {
					var n uint64
					n, err = strconv.ParseUint(l, 10, 32)
					r.mpls = append(r.mpls, uint32(n))
				}
			case i == 1:
				r.delay, err = time.ParseDuration(word)
			case key == "lose":
				r.lose, err = strconv.Atoi(value)
			case key == "refuses":
				r.refuses = true
			case key == "nameless":
				r.nameless = true
			default:
				err = fmt.Errorf("unknown word")
			}
			if err != nil {
				t.Fatalf("network line %q, word %q: %v", line, word, err)
			}
		}
		out = append(out, r)
	}
	return out
}

// play runs a machine through a network in its own time.
func play(m *machine, network []*router) {
	type flight struct {
		at time.Duration
		a  answer
	}
	var flying []flight
	var now time.Duration
	for {
		send, next, done := m.due(now, nil)
		if done {
			return
		}
		for _, p := range send {
			nth := m.sent(p, now)
			r := network[p.ttl-1]
			n := r.probed
			r.probed++
			if n < r.lose || r.names == nil || r.plain && !p.plain {
				continue
			}
			name := r.names[(n-r.lose)%len(r.names)]
			if r.until > 0 {
				name = r.names[0]
				if now >= r.until {
					name = r.names[1]
				}
			}
			a := answer{ttl: p.ttl, nth: nth, from: address(name), kind: packet.TimeExceeded, meaning: "time exceeded", mpls: r.mpls, name: r.port}
			if r.at != "" {
				a.inbound = address(r.at)
			}
			if r.nameless {
				a.nth = -1
			}
			if r.refuses || name == "dst" {
				a.kind, a.meaning = packet.Unreachable, "network unreachable"
			}
			flying = append(flying, flight{now + r.delay, a})
		}
		slices.SortStableFunc(flying, func(a, b flight) int { return int(a.at - b.at) })
		if len(flying) > 0 && flying[0].at < next {
			f := flying[0]
			flying = flying[1:]
			now = f.at
			m.answer(f.a, now)
			continue
		}
		now = next
	}
}

func render(p *decafpb.Path, took time.Duration) string {
	lines := []string{fmt.Sprintf("%s %s", statusWord(p.GetStatus()), took)}
	for i, h := range p.GetHops() {
		if int(h.GetTtl()) != i+1 {
			lines = append(lines, fmt.Sprintf("TTL %d in place %d", h.GetTtl(), i+1))
		}
		var words []string
		if a, ok := netip.AddrFromSlice(h.GetAddress()); ok {
			words = append(words, routerName(a))
		}
		if h.GetStatus() != decafpb.HopStatus_HOP_STATUS_ANSWERED {
			words = append(words, hopStatusWord(h.GetStatus()))
		}
		switch {
		case h.GetStatus() == decafpb.HopStatus_HOP_STATUS_SILENT:
		case h.GetRttNs() == 0:
			words = append(words, "?")
		default:
			words = append(words, time.Duration(h.GetRttNs()).String())
		}
		words = append(words, fmt.Sprint("x", h.GetProbes()))
		for _, o := range h.GetOthers() {
			a, _ := netip.AddrFromSlice(o)
			words = append(words, "also", routerName(a))
		}
		if h.GetInterface() != "" {
			words = append(words, h.GetInterface())
		}
		if len(h.GetMpls()) > 0 {
			words = append(words, fmt.Sprint(h.GetMpls()))
		}
		lines = append(lines, strings.Join(words, " "))
	}
	return strings.Join(lines, "\n")
}

func newTestMachine(distance, limit int) *machine {
	if limit == 0 {
		limit = 15
	}
	return newMachine(address("dst"), distance, limit, 2*time.Millisecond, 50*time.Millisecond)
}

func TestTraces(t *testing.T) {
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			m := newTestMachine(s.distance, s.limit)
			m.fresh, m.old, m.rightFrom, m.rightFails = s.fresh, !s.fresh, s.from, s.fails
			routers := parseNetwork(t, s.network)
			play(m, routers)
			p := m.path("")
			if s.distance == 0 && !s.fresh {
				for ttl, r := range routers[len(p.GetHops()):] {
					if most := carefulProbes; r.probed > most || ttl > 0 && r.probed > 0 {
						t.Errorf("%d probes of a TTL that may be the host's or beyond", r.probed)
					}
				}
			}
			if got := render(p, m.over); got != s.want {
				t.Errorf("got\n%s\nwant\n%s", got, s.want)
			}
			why := s.why
			for _, r := range []string{"b", "c"} {
				why = strings.Replace(why, r+" says", address(r).String()+" says", 1)
			}
			if p.GetWhy() != why {
				t.Errorf("why: %q, want %q", p.GetWhy(), why)
			}
			if int(p.GetDistance()) != s.distance {
				t.Errorf("distance %d", p.GetDistance())
			}
		})
	}
}

// exceeded is a router's answer to the probe number nth of a TTL.
func exceeded(ttl, nth int, from string) answer {
	return answer{ttl: ttl, nth: nth, from: address(from), kind: packet.TimeExceeded}
}

// Answers that no machine can have caused, and answers after the end, change
// nothing.
func TestImpossibleAnswers(t *testing.T) {
	m := newTestMachine(2, 0)
	m.due(0, nil)
	m.sent(send{ttl: 1}, 0)
	m.sent(send{ttl: 2}, 0)
	for _, ttl := range []int{-1, 0, 3, 63} {
		if m.answer(exceeded(ttl, 0, "a"), time.Millisecond) {
			t.Errorf("TTL %d ended the trace", ttl)
		}
	}
	for _, kind := range []packet.Kind{packet.KindOther, packet.PacketTooBig, packet.ReassemblyExpiry} {
		m.answer(answer{ttl: 1, from: address("a"), kind: kind}, time.Millisecond)
	}
	if m.top != 0 {
		t.Error("an answer that is none was taken")
	}
	for _, nth := range []int{-1, 0, 1, 62} {
		if h := (&hop{sentAt: []time.Duration{-1}, probes: 1}); h.roundTrip(nth, 5) != 0 {
			t.Errorf("number %d: a time for a probe that did not leave", nth)
		}
	}
	m.answer(exceeded(1, 0, "a"), time.Millisecond)
	m.answer(exceeded(1, 0, "c"), time.Millisecond) // one probe answered twice
	if !m.answer(exceeded(2, 0, "b"), time.Millisecond) {
		t.Error("the last answer did not end the trace")
	}
	if m.answer(exceeded(2, 0, "c"), 2*time.Millisecond) {
		t.Error("it ended twice")
	}
	for _, h := range m.path("").GetHops() {
		if len(h.GetOthers()) != 0 {
			t.Error("a second answer to one probe, or one after the end, was taken")
		}
	}
}

// A router that answers from ever new addresses cannot fill our memory.
func TestOthersAreBounded(t *testing.T) {
	m := newTestMachine(2, 0)
	m.due(0, nil)
	for i := range 1000 {
		m.sent(send{ttl: 1}, 0)
		a := exceeded(1, i, "a")
		a.from = netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		m.answer(a, 1)
	}
	if n := len(m.path("").GetHops()[0].GetOthers()); n != maxOthers {
		t.Errorf("%d kept, want %d", n, maxOthers)
	}
	if n := len(m.hops[0].saw); n > maxTTL+1 {
		t.Errorf("%d answers kept", n)
	}
}

// A probe that could not be sent is not counted as sent.
func TestUnsentProbes(t *testing.T) {
	m := newTestMachine(1, 0)
	m.due(0, nil)
	m.sent(send{ttl: 1}, 0)
	m.unsent(1)
	m.due(2*time.Millisecond, nil)
	m.sent(send{ttl: 1}, 2*time.Millisecond)
	m.answer(exceeded(1, 1, "a"), 3*time.Millisecond)
	if got, want := render(m.path(""), m.over), "complete 3ms\na 1ms x1"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// The TTL of a packet from the destination says where the path ends, unless
// something answered from further away.
func TestDistanceIsLearnt(t *testing.T) {
	begin := func() *machine {
		m := newTestMachine(0, 6)
		m.fresh = true
		due, _, _ := m.due(0, nil)
		for _, p := range due {
			m.sent(p, 0)
		}
		m.answer(exceeded(1, 0, "a"), time.Millisecond)
		m.answer(exceeded(2, 0, "b"), time.Millisecond)
		return m
	}
	m := begin()
	if !m.learn(2, 2*time.Millisecond) {
		t.Error("all has answered, and it is not over")
	}
	if got, want := render(m.path(""), m.over), "complete 2ms\na 1ms x1\nb 1ms x1"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	m = begin()
	if m.learn(3, 2*time.Millisecond) || m.expected() != 3 {
		t.Errorf("a hop is missing: expected %d", m.expected())
	}
	m.reach("open", 4*time.Millisecond)
	m.answer(exceeded(3, 0, "c"), 3*time.Millisecond)
	if got, want := render(m.path(""), m.over), "complete 3ms\na 1ms x1\nb 1ms x1\nc 3ms x1\ndst destination 4ms x1"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	m = begin()
	m.learn(3, 2*time.Millisecond)
	if m.answer(exceeded(4, 0, "d"), 3*time.Millisecond); m.distance != 0 || m.expected() != 6 {
		t.Errorf("a switch answered from further away, and the distance is still %d", m.distance)
	}
	for _, distance := range []int{-1, 0, 1, 7} {
		if m := begin(); m.learn(distance, 2*time.Millisecond) || m.distance != 0 || len(m.hops) != 6 {
			t.Errorf("%d switches away was believed", distance)
		}
	}
}

// Where the distance of a connection's other end becomes known while it is traced
// hop by hop, all that is left of the path is probed at once.
func TestDistanceIsLearntHopByHop(t *testing.T) {
	m := newTestMachine(0, 6)
	if due, _, _ := m.due(0, nil); len(due) != 1 || due[0].ttl != 1 {
		t.Fatalf("%v, want TTL 1 alone", due)
	}
	m.sent(send{ttl: 1}, 0)
	if !m.learn(4, time.Millisecond) {
		t.Fatal("not asked what to send")
	}
	due, _, _ := m.due(time.Millisecond, nil)
	if len(due) != 3 || due[0].ttl != 2 || due[2].ttl != 4 {
		t.Errorf("%v, want TTLs 2 to 4", due)
	}
}

func TestHintIsForPathsThatAreNotWhole(t *testing.T) {
	m := newTestMachine(2, 0)
	m.due(0, nil)
	m.sent(send{ttl: 1}, 0)
	m.sent(send{ttl: 2}, 0)
	m.answer(exceeded(1, 0, "a"), 1)
	m.stop(2)
	if why := m.path("given up").GetWhy(); !strings.HasSuffix(why, "; given up") {
		t.Errorf("%q", why)
	}
}
