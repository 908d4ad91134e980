package gnmi

import (
	"maps"
	"slices"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
)

// pick returns those updates of a notification that any of the patterns
// covers; all of them, in the same slice, when the whole container is covered.
func pick(n *gnmipb.Notification, patterns []pattern) (updates []*gnmipb.Update, whole bool) {
	prefix := n.GetPrefix().GetElem()
	var partly []pattern
	for _, p := range patterns {
		if p.coversAll(prefix) {
			return n.GetUpdate(), true
		}
		if mayCover(p.elems, prefix) {
			partly = append(partly, p)
		}
	}
	if len(partly) == 0 {
		return nil, false
	}
	path := slices.Clone(prefix)
	for _, u := range n.GetUpdate() {
		path = append(path[:len(prefix)], u.GetPath().GetElem()...)
		for _, p := range partly {
			if p.covers(path) {
				updates = append(updates, u)
				break
			}
		}
	}
	return updates, false
}

// absolute returns the path of an update of a notification, from the root.
func absolute(n *gnmipb.Notification, u *gnmipb.Update) []*gnmipb.PathElem {
	prefix, path := n.GetPrefix().GetElem(), u.GetPath().GetElem()
	return append(prefix[:len(prefix):len(prefix)], path...)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
