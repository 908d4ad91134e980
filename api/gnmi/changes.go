package gnmi

import (
	"cmp"
	"slices"
	"sync"

	"decaf/api/yang"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/protobuf/proto"
)

// maxGone bounds the leaves that are remembered because they went: a Set may take
// all settings at once, and state goes with them.
const maxGone = 2 * maxSettings

// changes is which leaves of the state changed when, by the looks at it. It is kept
// once for all: who wants changes alone remembers a version, up to which it was told,
// and no leaves. It is bounded by what there is at one time, and by maxGone.
type changes struct {
	version uint64 // of the last look by which something had changed
	look    uint64
	leaves  map[string]*tracked // by path
	gone    []departure         // by version, then path; replaced as a whole, never changed
	// forgotten is the version up to which departures are no longer known.
	forgotten uint64
}

// tracked is a leaf that there is, or was.
type tracked struct {
	Leaf           // of one that went Val is nil
	kind yang.Kind // of its container
	at   uint64    // version at which it became so
	look uint64    // that saw it last
}

// departure is a leaf that went.
type departure struct {
	name string // its path in one
	path []*gnmipb.PathElem
	kind yang.Kind
	at   uint64
}

// view is the state as one look has it. It is shared, and never changed.
type view struct {
	list []*gnmipb.Notification
	// What changes.compare adds: when each update of each notification last
	// changed, what went, and the version that this is.
	at        [][]uint64
	gone      []departure
	forgotten uint64
	version   uint64
	entries   func() map[string]bool // the list entries there are, by path
}

// compare holds a look against those before it.
func (c *changes) compare(schema *yang.Node, v *view) {
	if c.leaves == nil {
		c.leaves = map[string]*tracked{}
	}
	c.look++
	next, back := c.version+1, false
	v.at = make([][]uint64, len(v.list))
	for i, n := range v.list {
		v.at[i] = make([]uint64, len(n.GetUpdate()))
		prefix := n.GetPrefix().GetElem()
		kind := yang.State
		if node := walk(schema, prefix); node != nil {
			kind = node.Kind
		}
		container := show(prefix)
		for j, u := range n.GetUpdate() {
			name := container + show(u.GetPath().GetElem())
			l := c.leaves[name]
			switch {
			case l == nil:
				l = &tracked{at: next}
				c.leaves[name] = l
			case l.Val == nil:
				back, l.at = true, next
			case !same(l.Val, u.GetVal()):
				l.at = next
			}
			l.Leaf, l.kind, l.look = Leaf{absolute(n, u), u.GetVal()}, kind, c.look
			if l.at == next {
				c.version = next
			}
			v.at[i][j] = l.at
		}
	}
	var left []departure
	for name, l := range c.leaves {
		if l.look != c.look && l.Val != nil {
			l.Val, l.at, c.version = nil, next, next
			left = append(left, departure{name, l.Path, l.kind, next})
		}
	}
	c.depart(left, back)
	v.gone, v.forgotten, v.version = c.gone, c.forgotten, c.version
	v.entries = sync.OnceValue(v.listEntries)
}

// depart adds what went anew, takes out what came back, and forgets the oldest when
// it is too much.
func (c *changes) depart(left []departure, back bool) {
	if back {
		c.gone = slices.DeleteFunc(slices.Clone(c.gone), func(d departure) bool { return c.leaves[d.name].Val != nil })
	}
	slices.SortFunc(left, func(a, b departure) int { return cmp.Compare(a.name, b.name) })
	c.gone = append(c.gone, left...)
	if len(c.gone) <= maxGone {
		return
	}
	// Versions go as a whole, those of half the room: not each time anew.
	c.forgotten = c.gone[len(c.gone)-maxGone/2-1].at
	for len(c.gone) > 0 && c.gone[0].at <= c.forgotten {
		delete(c.leaves, c.gone[0].name)
		c.gone = c.gone[1:]
	}
	c.gone = slices.Clone(c.gone)
}

// same is proto.Equal, quick for what most values are.
func same(a, b *gnmipb.TypedValue) bool {
	switch x := a.GetValue().(type) {
	case *gnmipb.TypedValue_UintVal:
		y, ok := b.GetValue().(*gnmipb.TypedValue_UintVal)
		return ok && x.UintVal == y.UintVal
	case *gnmipb.TypedValue_StringVal:
		y, ok := b.GetValue().(*gnmipb.TypedValue_StringVal)
		return ok && x.StringVal == y.StringVal
	}
	return a == b || proto.Equal(a, b)
}

// touched reports whether any leaf of notification i changed after a version.
func (v *view) touched(i int, version uint64) bool {
	return slices.ContainsFunc(v.at[i], func(at uint64) bool { return at > version })
}

// after returns which notification to go on with after the container at a path,
// which was before number i in an earlier look.
func (v *view) after(path []*gnmipb.PathElem, i int) int {
	name := show(path)
	for j, n := range v.list {
		if path != nil && show(n.GetPrefix().GetElem()) == name {
			return j + 1
		}
	}
	return i // it is gone
}

// since returns those of the updates that changed after a version: of an atomic
// container all or none. They are updates of notification i, in its order.
func (v *view) since(i int, updates []*gnmipb.Update, version uint64) []*gnmipb.Update {
	var out []*gnmipb.Update
	j := 0
	for _, u := range updates {
		for v.list[i].Update[j] != u {
			j++
		}
		if v.at[i][j] > version {
			if v.list[i].GetAtomic() {
				return updates
			}
			out = append(out, u)
		}
		j++
	}
	return out
}

// goneSince returns what of the kinds that a pattern covers went after a version:
// list entries as such where nothing is left of one, otherwise leaf by leaf.
func (v *view) goneSince(version uint64, p pattern, kinds kindSet) []*gnmipb.Path {
	first, _ := slices.BinarySearchFunc(v.gone, version+1, func(d departure, at uint64) int { return cmp.Compare(d.at, at) })
	var out []*gnmipb.Path
	told := map[string]bool{}
	for _, d := range v.gone[first:] {
		if !kinds.has(d.kind) || !p.covers(d.path) {
			continue
		}
		path := d.path
		for i := range path {
			// Not above what the client asked for: it may not know of that.
			entry := path[:i+1]
			if len(path[i].GetKey()) > 0 && !v.entries()[show(entry)] && reach(p.elems, entry) >= 0 {
				path = entry
				break
			}
		}
		if id := show(path); !told[id] {
			told[id] = true
			out = append(out, &gnmipb.Path{Elem: path})
		}
	}
	return out
}

func (v *view) listEntries() map[string]bool {
	out := map[string]bool{}
	for _, n := range v.list {
		path := n.GetPrefix().GetElem()
		for i, e := range path {
			if len(e.GetKey()) > 0 {
				out[show(path[:i+1])] = true
			}
		}
	}
	return out
}
