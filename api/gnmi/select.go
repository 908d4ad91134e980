package gnmi

import (
	"maps"
	"slices"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
)

// covering sorts out what patterns mean of the container at a path: all of it, or
// those of them that may mean some of it.
func covering(path []*gnmipb.PathElem, patterns []pattern) (some []pattern, whole bool) {
	for _, p := range patterns {
		if p.coversAll(path) {
			return nil, true
		}
		if mayCover(p.elems, path) {
			some = append(some, p)
		}
	}
	return some, false
}

// pick returns those updates of a notification that any of the patterns
// covers; all of them, in the same slice, when the whole container is covered.
func pick(n *gnmipb.Notification, patterns []pattern) (updates []*gnmipb.Update, whole bool) {
	prefix := n.GetPrefix().GetElem()
	some, whole := covering(prefix, patterns)
	switch {
	case whole:
		return n.GetUpdate(), true
	case len(some) == 0:
		return nil, false
	}
	path := slices.Clone(prefix)
	for _, u := range n.GetUpdate() {
		path = append(path[:len(prefix)], u.GetPath().GetElem()...)
		for _, p := range some {
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
