package gnmi

import (
	"sync"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
)

// item is one event, with what it was encoded to so far.
type item struct {
	n *gnmipb.Notification

	mu     sync.Mutex
	frames map[frameKey]*frame
}

func newItem(n *gnmipb.Notification) *item { return &item{n: n} }

// ring holds the last events.
type ring struct {
	items []*item
	next  int // where the next one goes; once full also the oldest
	full  bool
}

func newRing(n int) *ring { return &ring{items: make([]*item, n)} }

func (r *ring) add(it *item) {
	r.items[r.next] = it
	if r.next++; r.next == len(r.items) {
		r.next, r.full = 0, true
	}
}

// all returns the events, oldest first, in a slice of its own.
func (r *ring) all() []*item {
	var out []*item
	if r.full {
		out = append(out, r.items[r.next:]...)
	}
	return append(out, r.items[:r.next]...)
}
