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
	e, evicted := c.add(flowFrom(1), 5)
	if evicted != 0 || c.get(flowFrom(1), 5) != e {
		t.Error("not found again")
	}
	if c.get(flowFrom(1), 6) != nil || c.get(flowFrom(2), 5) != nil {
		t.Error("found for another flow or epoch")
	}
	c.remove(e)
	c.remove(e)
	if c.get(flowFrom(1), 5) != nil || c.order.Len() != 0 {
		t.Error("still there after removal")
	}
}

func TestCacheForgetsPastEpochsFreely(t *testing.T) {
	c := newCache(100)
	for epoch := range int64(50) {
		for port := range uint16(10) {
			if _, evicted := c.add(flowFrom(port), epoch); evicted != 0 {
				t.Fatalf("epoch %d: a live entry forgotten", epoch)
			}
		}
		if c.order.Len() > 20 || len(c.entries) != c.order.Len() {
			t.Fatalf("epoch %d: %d entries, %d in order", epoch, len(c.entries), c.order.Len())
		}
	}
	if c.get(flowFrom(3), 48) == nil {
		t.Error("the epoch before is gone: records of it still come at its end")
	}
}

func TestCacheIsBounded(t *testing.T) {
	c := newCache(8)
	lost := 0
	for port := range uint16(20) {
		_, evicted := c.add(flowFrom(port), 1)
		lost += evicted
	}
	if len(c.entries) != 8 || lost != 12 || c.get(flowFrom(19), 1) == nil || c.get(flowFrom(0), 1) != nil {
		t.Errorf("%d kept, %d lost", len(c.entries), lost)
	}
}

// An entry that was replaced must not take its successor with it.
func TestCacheRemovesOnlyTheEntryMeant(t *testing.T) {
	c := newCache(1)
	old, _ := c.add(flowFrom(1), 1)
	c.add(flowFrom(2), 1)
	again, _ := c.add(flowFrom(1), 1)
	c.remove(old)
	if c.get(flowFrom(1), 1) != again {
		t.Error("the newer entry went with the older")
	}
}
