package tracer

import (
	"net/netip"
	"testing"
	"time"
)

// What was found out of right checksums holds for a while, and for so many
// destinations.
func TestChecksumsAreRemembered(t *testing.T) {
	var c checksums
	now := time.Unix(1e9, 0)
	to := func(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}) }
	want := func(what string, to netip.Addr, after time.Duration, from int, fails bool) {
		t.Helper()
		if f, no := c.of(to, now.Add(after)); f != from || no != fails {
			t.Errorf("%s: from TTL %d, no help %v; want %d, %v", what, f, no, from, fails)
		}
	}
	want("nothing known", to(1), 0, 0, false)
	c.learn(to(1), 3, now)
	c.learn(to(2), 0, now)
	want("needed", to(1), checksumsHold-1, 3, false)
	want("no help", to(2), checksumsHold-1, 0, true)
	want("too long ago", to(1), checksumsHold, 0, false)
	want("too long ago", to(2), checksumsHold, 0, false)
	if n := len(c.found); n != 0 {
		t.Errorf("%d kept that hold no more", n)
	}
	for i := range 2 * maxChecksums {
		c.learn(to(i), 1, now)
	}
	if n := len(c.found); n != maxChecksums || c.forgotten() != maxChecksums {
		t.Errorf("%d destinations kept, %d forgotten", n, c.forgotten())
	}
}

// A trace says what it found out of right checksums, once.
func TestTraceTellsOfChecksums(t *testing.T) {
	for _, c := range []struct {
		what, network string
		from, want    int
		told          bool
	}{
		{"no silence", "a 1ms\nb 1ms\nc 1ms", 0, 0, false},
		{"needed from TTL 2 on", "a 1ms\nb 1ms plain\nc 1ms plain", 0, 2, true},
		{"known", "a 1ms\nb 1ms plain\nc 1ms plain", 2, 0, false},
		{"no help", "a 1ms\n-\n-", 0, 0, true},
		{"no help for once", "a 1ms\n-\n-", 2, 0, false},
		{"the answer does not say to which", "a 1ms\nb 1ms plain nameless\n-", 0, 0, false},
	} {
		m := newTestMachine(3, 0)
		m.old, m.rightFrom = true, c.from
		play(m, parseNetwork(t, c.network))
		if from, told := m.checksums(); from != c.want || told != c.told {
			t.Errorf("%s: %d, %v; want %d, %v", c.what, from, told, c.want, c.told)
		}
	}
}

// A right checksum goes out only as an old segment of a connection, or where there
// is none, and no further than the last switch.
func TestRightChecksumsDisturbNobody(t *testing.T) {
	for _, c := range []struct {
		what       string
		distance   int
		old, fresh bool
		want       bool
	}{
		{"it is not known where the connection stands", 3, false, false, false},
		{"an old segment", 3, true, false, true},
		{"no connection", 3, false, true, true},
		{"it is not known how far the other end is", 0, true, false, false},
	} {
		m := newTestMachine(c.distance, 3)
		m.old, m.fresh, m.rightFrom = c.old, c.fresh, 2
		play(m, parseNetwork(t, "a 1ms\nb 1ms lose=9\n-"))
		sent := false
		for _, h := range m.hops {
			for _, plain := range h.plain {
				sent = sent || plain
			}
		}
		if sent != c.want {
			t.Errorf("%s: a right checksum was sent: %v", c.what, sent)
		}
	}
}
