package tracer

import (
	"container/list"

	"decaf/api/decafpb"
	"decaf/api/packet"
)

// cache holds each flow's trace for its epoch, under way or over, so that one
// is made and all others who ask share it. It has no lock and no clock of its own.
type cache struct {
	max     int
	newest  int64 // highest epoch seen
	entries map[cacheKey]*list.Element
	order   *list.List // of *entry, oldest first
}

type cacheKey struct {
	flow  packet.Flow
	epoch int64
}

// entry is a trace that others can wait for. path is set before done is closed; nil
// then means that it came to nothing and whoever waited should try for itself.
type entry struct {
	key  cacheKey
	done chan struct{}
	path *decafpb.Path
}

func newCache(max int) *cache {
	return &cache{max: max, entries: make(map[cacheKey]*list.Element), order: list.New()}
}

// get returns the entry of a flow and epoch, nil if there is none.
func (c *cache) get(flow packet.Flow, epoch int64) *entry {
	if el := c.entries[cacheKey{flow, epoch}]; el != nil {
		return el.Value.(*entry)
	}
	return nil
}

// add makes an entry and returns how many had to be forgotten before their
// epoch was over, to stay within bounds. Entries of epochs before the last two
// go at no loss: nobody asks for them again.
func (c *cache) add(flow packet.Flow, epoch int64) (e *entry, evicted int) {
	c.newest = max(c.newest, epoch)
	for el := c.order.Front(); el != nil; el = c.order.Front() {
		old := el.Value.(*entry)
		stale := old.key.epoch < c.newest-1
		if !stale && c.order.Len() < c.max {
			break
		}
		c.remove(old)
		if !stale {
			evicted++
		}
	}
	e = &entry{key: cacheKey{flow, epoch}, done: make(chan struct{})}
	c.entries[e.key] = c.order.PushBack(e)
	return e, evicted
}

// remove forgets an entry, if it is still there.
func (c *cache) remove(e *entry) {
	if el := c.entries[e.key]; el != nil && el.Value.(*entry) == e {
		delete(c.entries, e.key)
		c.order.Remove(el)
	}
}
