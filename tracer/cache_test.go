package tracer

import (
	"net/netip"
	"testing"

	"decaf/api/packet"
)

func flowFrom(port uint16) packet.Flow {
	f := flow4(packet.TCP)
	f.Src = netip.AddrPortFrom(f.Src.Addr(), port)
	return f
}

func TestCacheKnowsFlowAndEpoch(t *testing.T) {
	c := newCache(10)
	e, evicted := c.add(cacheKey{flow: flowFrom(1), epoch: 5})
	if evicted != 0 || c.get(cacheKey{flow: flowFrom(1), epoch: 5}) != e {
		t.Error("not found again")
	}
	if c.get(cacheKey{flow: flowFrom(1), epoch: 6}) != nil || c.get(cacheKey{flow: flowFrom(2), epoch: 5}) != nil {
		t.Error("found for another flow or epoch")
	}
	c.remove(e)
	c.remove(e)
	if c.get(cacheKey{flow: flowFrom(1), epoch: 5}) != nil || c.order.Len() != 0 {
		t.Error("still there after removal")
	}
}

func TestCacheForgetsPastEpochsFreely(t *testing.T) {
	c := newCache(100)
	for epoch := range int64(50) {
		for port := range uint16(10) {
			if _, evicted := c.add(cacheKey{flow: flowFrom(port), epoch: epoch}); evicted != 0 {
				t.Fatalf("epoch %d: a live entry forgotten", epoch)
			}
		}
		if c.order.Len() > 20 || len(c.entries) != c.order.Len() {
			t.Fatalf("epoch %d: %d entries, %d in order", epoch, len(c.entries), c.order.Len())
		}
	}
	if c.get(cacheKey{flow: flowFrom(3), epoch: 48}) == nil {
		t.Error("the epoch before is gone: records of it still come at its end")
	}
}

func TestCacheIsBounded(t *testing.T) {
	c := newCache(8)
	lost := 0
	for port := range uint16(20) {
		_, evicted := c.add(cacheKey{flow: flowFrom(port), epoch: 1})
		lost += evicted
	}
	if len(c.entries) != 8 || lost != 12 || c.get(cacheKey{flow: flowFrom(19), epoch: 1}) == nil || c.get(cacheKey{flow: flowFrom(0), epoch: 1}) != nil {
		t.Errorf("%d kept, %d lost", len(c.entries), lost)
	}
}

// An entry that was replaced must not take its successor with it.
func TestCacheRemovesOnlyTheEntryMeant(t *testing.T) {
	c := newCache(1)
	old, _ := c.add(cacheKey{flow: flowFrom(1), epoch: 1})
	c.add(cacheKey{flow: flowFrom(2), epoch: 1})
	again, _ := c.add(cacheKey{flow: flowFrom(1), epoch: 1})
	c.remove(old)
	if c.get(cacheKey{flow: flowFrom(1), epoch: 1}) != again {
		t.Error("the newer entry went with the older")
	}
}

// After the clock was set back traces are kept as before, and those of the time
// it was set back over go.
func TestCacheAfterAClockSetBack(t *testing.T) {
	c := newCache(100)
	c.add(cacheKey{flow: flowFrom(1), epoch: 1000})
	for port := range uint16(10) {
		if _, evicted := c.add(cacheKey{flow: flowFrom(port), epoch: 500}); evicted != 0 {
			t.Errorf("%d evicted", evicted)
		}
	}
	for port := range uint16(10) {
		if c.get(cacheKey{flow: flowFrom(port), epoch: 500}) == nil {
			t.Errorf("flow %d of this epoch is gone", port)
		}
	}
	if c.get(cacheKey{flow: flowFrom(1), epoch: 1000}) != nil {
		t.Error("one of the future is kept")
	}
	// Nobody's epochs move nothing.
	c.add(cacheKey{flow: flowFrom(99), epoch: -7})
	c.add(cacheKey{flow: flowFrom(98), epoch: 500})
	if c.get(cacheKey{flow: flowFrom(3), epoch: 500}) == nil || c.newest != 500 {
		t.Errorf("newest epoch %d", c.newest)
	}
	if c.get(cacheKey{flow: flowFrom(3), label: 1, epoch: 500}) != nil {
		t.Error("found for another flow label")
	}
}
