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
	prefix []*gnmipb.PathElem // the path of its container: what is known of it without decoding
	atomic bool
	at     int64  // its timestamp
	number uint64 // in the order of publication
	list   *ring  // that it was put in
	nth    uint64 // of those put there

	n       atomic.Pointer[gnmipb.Notification] // nil: it is packed
	packed  []byte                              // its updates as appendUpdates has them; set before n is nil, never changed after
	decoded atomic.Uint32                       // how often some of it was, since it is packed

	mu     sync.Mutex // for who adds to frames
	frames atomic.Pointer[[]keyedFrame]
}

func newItem(n *gnmipb.Notification) *item {
	it := &item{prefix: n.GetPrefix().GetElem(), atomic: n.GetAtomic(), at: n.GetTimestamp()}
	it.n.Store(n)
	return it
}

// pick returns the event, it is not to be changed, and those of its updates that
// any of the patterns covers. Of one that is packed it decodes no others. Who wants
// all of it takes what again writes, and who wants nothing knows by its prefix.
func (it *item) pick(patterns []pattern) (*gnmipb.Notification, []*gnmipb.Update) {
	if n := it.n.Load(); n != nil {
		updates, _ := pick(n, patterns)
		return n, updates
	}
	n := &gnmipb.Notification{Timestamp: it.at, Prefix: &gnmipb.Path{Elem: it.prefix}, Atomic: it.atomic}
	some, whole := covering(it.prefix, patterns)
	if !whole && len(some) == 0 {
		return n, nil
	}
	it.decoded.Add(1)
	path := packedPath{elems: slices.Clone(it.prefix)}
	for field, rest := cutField(it.packed); field != nil; field, rest = cutField(rest) {
		update := within(field)
		if !whole {
			elems := path.below(len(it.prefix), update)
			if !slices.ContainsFunc(some, func(p pattern) bool { return p.covers(elems) }) {
				continue
			}
		}
		u := &gnmipb.Update{}
		if err := proto.Unmarshal(update, u); err != nil {
			panic(fmt.Sprintf("gnmi target: an event that was encoded cannot be decoded: %v", err))
		}
		n.Update = append(n.Update, u)
	}
	return n, n.Update
}

const (
	// packAfter is how many events come after one in its list before it is packed:
	// until then most who want it have it.
	packAfter = 64
	// packUpdates is how many leaves make it worth it. A decoded leaf takes some ten
	// times its bytes. A drop has some 20, and there may be 10,000 of those a second,
	// which is no time to encode each once more; an aggregate with one flow has 35.
	packUpdates = 32
)

// pack keeps the bytes of a large event in place of what they stand for.
func (it *item) pack() {
	n := it.n.Load()
	if n == nil || len(n.Update) < packUpdates || len(n.Delete) > 0 {
		return
	}
	room := rooms.Get().(*[]byte)
	*room = appendUpdates((*room)[:0], nil, n.Update, gnmipb.Encoding_PROTO, 0)
	packed := slices.Clone(*room)
	rooms.Put(room)
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
	added uint64
}

func newRing(n int) *ring { return &ring{items: make([]*item, n)} }

func (r *ring) add(it *item) {
	r.added++
	it.list, it.nth = r, r.added
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

// since is how many came after the event in its list. The caller sees to it that
// none is added meanwhile.
func (it *item) since() uint64 { return it.list.added - it.nth }

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
	name := listOf(it.prefix)
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
