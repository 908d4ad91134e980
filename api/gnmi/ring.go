package gnmi

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
)

// item is one event, with what it was encoded to so far.
type item struct {
	n      *gnmipb.Notification
	number uint64 // in the order of publication

	mu     sync.Mutex // for who adds to frames
	frames atomic.Pointer[[]keyedFrame]
}

func newItem(n *gnmipb.Notification) *item { return &item{n: n} }

// ring holds the last events of one list.
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

// rings has a ring for each list of events, so that a flood in one pushes
// nothing out of another.
type rings struct {
	room   int
	lists  map[string]*ring // bounded by the lists of the schema
	number uint64           // of the last event
}

func newRings(room int) *rings { return &rings{room: room, lists: map[string]*ring{}} }

func (r *rings) add(it *item) {
	r.number++
	it.number = r.number
	name := listOf(it.n.GetPrefix().GetElem())
	list := r.lists[name]
	if list == nil {
		list = newRing(r.room)
		r.lists[name] = list
	}
	list.add(it)
}

// all returns the events of all lists in the order of publication, in a slice of
// its own.
func (r *rings) all() []*item {
	var out []*item
	for _, list := range r.lists {
		out = append(out, list.all()...)
	}
	if len(r.lists) > 1 {
		slices.SortFunc(out, func(a, b *item) int { return cmp.Compare(a.number, b.number) })
	}
	return out
}

// listOf names the list that a path leads into: its names down to the first that
// has a key.
func listOf(path []*gnmipb.PathElem) string {
	var b strings.Builder
	for _, e := range path {
		b.WriteByte('/')
		b.WriteString(e.GetName())
		if len(e.GetKey()) > 0 {
			break
		}
	}
	return b.String()
}
