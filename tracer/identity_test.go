package tracer

import (
	"math"
	"math/rand/v2"
	"testing"

	"decaf/api/packet"
)

// quoteOf is what a router quotes of a probe: all of it, or the IP header and 8
// bytes.
func quoteOf(p packet.Probe, whole bool) *packet.Quote {
	q := &packet.Quote{Flow: p.Flow, IPID: p.ID, Seq: p.Seq, HasSeq: true}
	if whole {
		q.Ack, q.HasAck = p.Ack, true
	}
	return q
}

func TestIdentityIsReadBack(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		id := newIdentity(random.Uint64)
		if id.seq == 0 || id.id == 0 || id.id&maxTTL != 0 {
			t.Fatalf("%+v", id)
		}
		for ttl := 1; ttl <= maxTTL; ttl++ {
			for _, nth := range []int{0, 1, 5, 63} {
				var p packet.Probe
				id.mark(&p, ttl, nth)
				if p.ID == 0 || p.Seq != id.seq || p.ID&^maxTTL != id.id || int(p.TTL) != ttl {
					t.Fatalf("%+v marks %+v", id, p)
				}
				if gotTTL, gotRound, ok := id.read(quoteOf(p, true), false); !ok || gotTTL != ttl || gotRound != nth {
					t.Fatalf("IPv4: TTL %d nth %d read as %d %d %v", ttl, nth, gotTTL, gotRound, ok)
				}
				if gotTTL, gotRound, ok := id.read(quoteOf(p, false), false); !ok || gotTTL != ttl || gotRound != -1 {
					t.Fatalf("IPv4, 8 bytes: TTL %d read as %d %d %v", ttl, gotTTL, gotRound, ok)
				}
				q := quoteOf(p, true)
				q.IPID = 0
				if gotTTL, gotRound, ok := id.read(q, true); !ok || gotTTL != ttl || gotRound != nth {
					t.Fatalf("IPv6: TTL %d nth %d read as %d %d %v", ttl, nth, gotTTL, gotRound, ok)
				}
			}
		}
	}
}

func TestIdentityOfOthers(t *testing.T) {
	id := identity{seq: 0xcafe, id: 0x7000 &^ maxTTL, ack: 0xbeef << (2 * ttlBits)}
	var p packet.Probe
	id.mark(&p, 3, 0)
	for name, c := range map[string]struct {
		change func(*packet.Quote)
		v6     bool
	}{
		"another sequence":         {func(q *packet.Quote) { q.Seq++ }, false},
		"no sequence":              {func(q *packet.Quote) { q.HasSeq = false }, false},
		"another id":               {func(q *packet.Quote) { q.IPID += 64 }, false},
		"IPv6: no acknowledgement": {func(q *packet.Quote) { q.HasAck = false }, true},
		"IPv6: another one":        {func(q *packet.Quote) { q.Ack += 1 << 12 }, true},
	} {
		q := quoteOf(p, true)
		c.change(q)
		if _, _, ok := id.read(q, c.v6); ok {
			t.Errorf("%s: taken for ours", name)
		}
	}
}

// Draws that would give a zero are thrown away.
func TestIdentityIsNeverZero(t *testing.T) {
	draws := []uint64{0, 1 << 32, 7, math.MaxUint64}
	id := newIdentity(func() uint64 { d := draws[0]; draws = draws[1:]; return d })
	if len(draws) != 0 || id.seq != math.MaxUint32 || id.id != 0xffc0 || id.ack != 0xfffff000 {
		t.Errorf("%+v with %d draws left", id, len(draws))
	}
}
