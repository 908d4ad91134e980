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
	newest  int64 // epoch; the clock may have been set back since a higher one
	entries map[cacheKey]*list.Element
	order   *list.List // of *entry, oldest first
}

type cacheKey struct {
	flow  packet.Flow
	label uint32 // of its IPv6 packets: with another it is sent another way
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
func (c *cache) get(key cacheKey) *entry {
	if el := c.entries[key]; el != nil {
		return el.Value.(*entry)
	}
	return nil
}

// add makes an entry and returns how many had to be forgotten before their
// epoch was over, to stay within bounds. Entries of epochs other than the last two
// go at no loss: nobody asks for them again, unless the clock was set. Epochs below
// 0 are of no clock, and are over at once.
func (c *cache) add(key cacheKey) (e *entry, evicted int) {
	if key.epoch > c.newest || key.epoch >= 0 && key.epoch < c.newest-1 {
		c.newest = key.epoch
	}
	for el := c.order.Front(); el != nil; el = c.order.Front() {
		old := el.Value.(*entry)
		stale := old.key.epoch < c.newest-1 || old.key.epoch > c.newest
		if !stale && c.order.Len() < c.max {
			break
		}
		c.remove(old)
		if !stale {
			evicted++
		}
	}
	e = &entry{key: key, done: make(chan struct{})}
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
