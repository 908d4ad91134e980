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
//	-                  nothing ever answers
//
// and the result in the same manner: status and duration, then per TTL who
// answered, the round trip time if known and the number of probes.
type scenario struct {
	name     string
	distance int // 0 unknown
	limit    int // highest TTL, 15 if 0
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
		want:    "complete 3ms\na 1ms x1\nb 1ms x2\nc 1ms x1",
	}, {
		name: "three times lost: 2, 6, 14 ms", distance: 2,
		network: "a 1ms lose=3\nb 1ms",
		want:    "complete 15ms\na 1ms x4\nb 1ms x1",
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
		want:    "partial 3ms\na 1ms x1\nb unreachable 1ms x2",
		why:     "b says at TTL 2: network unreachable",
	}, {
		name: "refused behind a hole", distance: 3,
		network: "-\nb 1ms refuses\nb 1ms refuses",
		want:    "partial 50ms\nsilent x5\nb unreachable 1ms x1",
		why:     "b says at TTL 2: network unreachable; 1 of 2 hops silent, first TTL 1 after 5 probes",
	}, {
		name: "packets of one flow over several switches: all are named", distance: 2,
		network: "a,b 3ms\nc 9ms",
		want:    "complete 9ms\na 3ms x2 also b\nc 9ms x3",
	}, {
		name: "distance unknown: the path is as long as what answered", limit: 6,
		network: "a 1ms\nb 1ms\n-\n-\n-\n-",
		want:    "partial 50ms\na 1ms x1\nb 1ms x1",
		why:     "distance unknown, nothing answered beyond TTL 2",
	}, {
		name: "distance unknown: holes are probed again, what lies beyond is not", limit: 6,
		network: "a 1ms\n-\nc 1ms\n-\n-\n-",
		want:    "partial 50ms\na 1ms x1\nsilent x5\nc 1ms x1",
		why:     "1 of 3 hops silent, first TTL 2 after 5 probes",
	}, {
		name: "distance unknown and the destination answers", limit: 6,
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
			case i == 0:
				r.names = strings.Split(word, ",")
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
	type answer struct {
		at         time.Duration
		ttl, round int
		r          *router
		from       string
	}
	var flying []answer
	var now time.Duration
	for {
		send, next, done := m.due(now, nil)
		if done {
			return
		}
		for _, ttl := range send {
			m.sent(ttl, now)
			r := network[ttl-1]
			n := r.probed
			r.probed++
			if n < r.lose || r.names == nil {
				continue
			}
			round := m.sentRound()
			if r.nameless {
				round = -1
			}
			flying = append(flying, answer{now + r.delay, ttl, round, r, r.names[(n-r.lose)%len(r.names)]})
		}
		slices.SortStableFunc(flying, func(a, b answer) int { return int(a.at - b.at) })
		if len(flying) > 0 && flying[0].at < next {
			a := flying[0]
			flying = flying[1:]
			now = a.at
			kind, meaning := packet.TimeExceeded, "time exceeded"
			if a.r.refuses || a.from == "dst" {
				kind, meaning = packet.Unreachable, "network unreachable"
			}
			m.answer(a.ttl, a.round, address(a.from), kind, meaning, now)
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
			play(m, parseNetwork(t, s.network))
			p := m.path("")
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

// Answers that no machine can have caused, and answers after the end, change
// nothing.
func TestImpossibleAnswers(t *testing.T) {
	m := newTestMachine(2, 0)
	m.due(0, nil)
	m.sent(1, 0)
	m.sent(2, 0)
	for _, ttl := range []int{-1, 0, 3, 63} {
		if m.answer(ttl, 0, address("a"), packet.TimeExceeded, "", time.Millisecond) {
			t.Errorf("TTL %d ended the trace", ttl)
		}
	}
	for _, kind := range []packet.Kind{packet.KindOther, packet.PacketTooBig, packet.ReassemblyExpiry} {
		m.answer(1, 0, address("a"), kind, "", time.Millisecond)
	}
	if m.top != 0 {
		t.Error("an answer that is none was taken")
	}
	for _, round := range []int{-1, 0, 1, 62} {
		if h := (&hop{sentAt: []time.Duration{-1}, probes: 1}); h.roundTrip(round, 5) != 0 {
			t.Errorf("round %d: a time for a probe that did not leave", round)
		}
	}
	m.answer(1, 0, address("a"), packet.TimeExceeded, "", time.Millisecond)
	if !m.answer(2, 0, address("b"), packet.TimeExceeded, "", time.Millisecond) {
		t.Error("the last answer did not end the trace")
	}
	if m.answer(2, 0, address("c"), packet.TimeExceeded, "", 2*time.Millisecond) {
		t.Error("it ended twice")
	}
	if len(m.path("").GetHops()[1].GetOthers()) != 0 {
		t.Error("an answer after the end was taken")
	}
}

// A router that answers from ever new addresses cannot fill our memory.
func TestOthersAreBounded(t *testing.T) {
	m := newTestMachine(2, 0)
	m.due(0, nil)
	m.sent(1, 0)
	for i := range 100 {
		m.answer(1, 0, netip.AddrFrom4([4]byte{10, 1, 0, byte(i)}), packet.TimeExceeded, "", 1)
	}
	if n := len(m.path("").GetHops()[0].GetOthers()); n != maxOthers {
		t.Errorf("%d kept, want %d", n, maxOthers)
	}
}

// A probe that could not be sent is not counted as sent.
func TestUnsentProbes(t *testing.T) {
	m := newTestMachine(1, 0)
	m.due(0, nil)
	m.sent(1, 0)
	m.unsent(1)
	m.due(2*time.Millisecond, nil)
	m.sent(1, 2*time.Millisecond)
	m.answer(1, -1, address("a"), packet.TimeExceeded, "", 3*time.Millisecond)
	if got, want := render(m.path(""), m.over), "complete 3ms\na 1ms x1"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestHintIsForPathsThatAreNotWhole(t *testing.T) {
	m := newTestMachine(2, 0)
	m.due(0, nil)
	m.sent(1, 0)
	m.sent(2, 0)
	m.answer(1, 0, address("a"), packet.TimeExceeded, "", 1)
	m.stop(2)
	if why := m.path("given up").GetWhy(); !strings.HasSuffix(why, "; given up") {
		t.Errorf("%q", why)
	}
}
