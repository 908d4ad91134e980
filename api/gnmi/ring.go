package gnmi

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/protobuf/proto"
)

// item is one event, with what it was encoded to so far.
type item struct {
	n      atomic.Pointer[gnmipb.Notification] // nil: it is packed
	packed []byte                              // set before n is nil, never changed after
	at     int64                               // its timestamp
	number uint64                              // in the order of publication

	mu     sync.Mutex // for who adds to frames
	frames atomic.Pointer[[]keyedFrame]
}

func newItem(n *gnmipb.Notification) *item {
	it := &item{at: n.GetTimestamp()}
	it.n.Store(n)
	return it
}

// notification is the event. It is not to be changed.
func (it *item) notification() *gnmipb.Notification {
	if n := it.n.Load(); n != nil {
		return n
	}
	n := &gnmipb.Notification{}
	if err := proto.Unmarshal(it.packed, n); err != nil {
		panic(fmt.Sprintf("gnmi target: an event that was encoded cannot be decoded: %v", err))
	}
	return n
}

const (
	// packAfter is how many events come after one in its list before it is packed:
	// until then most who want it have it.
	packAfter = 64
	// packUpdates is how many leaves make it worth it. A decoded leaf takes some ten
	// times its bytes; an event of a drop has few, and there may be many of those.
	packUpdates = 48
)

// pack keeps the bytes of a large event in place of what they stand for.
func (it *item) pack() {
	n := it.n.Load()
	if n == nil || len(n.Update) < packUpdates {
		return
	}
	packed, err := proto.Marshal(n)
	if err != nil {
		return // it stays as it is
	}
	it.mu.Lock()
	defer it.mu.Unlock()
	it.packed = packed
	it.n.Store(nil)
	it.frames.Store(nil)
}

// ring holds the last events of one list.
type ring struct {
	items []*item
	next  int // where the next one goes; once full also the oldest
	full  bool
}

func newRing(n int) *ring { return &ring{items: make([]*item, n)} }

func (r *ring) add(it *item) {
	r.items[r.next] = it
	if len(r.items) > packAfter {
		if old := r.items[(r.next+len(r.items)-packAfter)%len(r.items)]; old != nil {
			old.pack()
		}
	}
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
	name := listOf(it.notification().GetPrefix().GetElem())
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
