package tracer

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"decaf/api/packet"
)

// Whatever comes as ICMP changes a trace only if it quotes a probe of it, by
// five-tuple and nonce; all else is counted as stray or invalid, and nothing
// else happens.
func FuzzAnswers(f *testing.F) {
	const switches = 3
	from := netip.MustParseAddr("10.9.0.1")
	begin := func(v6 bool) (*Tracer, *trace, packet.Probe) {
		flow := tcpFlow("10.0.0.1:40000", "10.0.0.2:443")
		if v6 {
			flow = tcpFlow("[fd00::1]:40000", "[fd00::2]:443")
		}
		t := &Tracer{cfg: DefaultConfig(), log: slog.New(slog.DiscardHandler), live: map[uint32]asker{}, byFlow: map[packet.Flow]*trace{}}
		tr := &trace{id: newIdentity(rand.New(rand.NewPCG(1, 2)).Uint64), flow: flow, wire: flow, wake: make(chan struct{}, 1), start: time.Now()}
		tr.m = newMachine(flow.Dst.Addr(), switches, 15, 2*time.Millisecond, 50*time.Millisecond)
		t.live[tr.id.seq], t.byFlow[flow] = tr, tr
		p := packet.Probe{Flow: flow, BadChecksum: true}
		for ttl := 1; ttl <= switches; ttl++ {
			nth := tr.m.sent(send{ttl: ttl}, 0)
			tr.id.mark(&p, ttl, nth)
		}
		return t, tr, p // the last
	}
	message := func(typ byte, p packet.Probe, keep int) []byte {
		raw, err := p.Marshal(nil)
		if err != nil {
			f.Fatal(err)
		}
		return append([]byte{typ, 0, 0, 0, 0, 0, 0, 0}, raw[:min(keep, len(raw))]...)
	}
	for _, v6 := range []bool{false, true} {
		_, _, p := begin(v6)
		exceeded := byte(11)
		if v6 {
			exceeded = 3
		}
		f.Add(message(exceeded, p, 60), v6) // the answer
		f.Add(message(exceeded, p, 48), v6) // as short as may be
		f.Add(message(exceeded, p, 30), v6)
		f.Add(message(0, p, 60), v6)
		spoofed := p
		spoofed.Seq++
		f.Add(message(exceeded, spoofed, 60), v6)
		spoofed = p
		spoofed.Flow.Dst = netip.AddrPortFrom(p.Flow.Dst.Addr(), 80)
		f.Add(message(exceeded, spoofed, 60), v6)
		spoofed = p
		spoofed.TTL, spoofed.ID = 63, p.ID|63
		f.Add(message(exceeded, spoofed, 60), v6)
	}
	f.Fuzz(func(t *testing.T, b []byte, v6 bool) {
		tr, one, p := begin(v6)
		before := fmt.Sprint(one.m.hops)
		tr.take(b, from, v6, one.start.Add(time.Millisecond))
		s := tr.counters.stats()
		if n := s.Answers + s.AnswersStray + s.AnswersInvalid; n > 1 {
			t.Fatalf("one message counted %d times: %+v", n, s)
		}
		if changed := fmt.Sprint(one.m.hops) != before; changed && s.Answers == 0 {
			t.Fatalf("the trace changed by what was no answer")
		}
		if s.Answers == 0 {
			return
		}
		e, err := packet.ParseICMPError(from, b, v6)
		if err != nil || e.Quoted.Flow != p.Flow || e.Quoted.Seq != p.Seq {
			t.Fatalf("taken for an answer: %+v, %v", e, err)
		}
	})
}
