package yang

import (
	"fmt"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
)

// statePath builds /loss/a/b[key=value]/state.
func statePath(container, list, key, value string) *gnmipb.Path {
	p := &gnmipb.Path{Elem: []*gnmipb.PathElem{{Name: "loss"}, {Name: container}}}
	if list != "" {
		p.Elem = append(p.Elem, &gnmipb.PathElem{Name: list, Key: map[string]string{key: value}})
	}
	p.Elem = append(p.Elem, &gnmipb.PathElem{Name: "state"})
	return p
}

// encode appends the updates of a record's known leaves, relative to its state
// container.
func encode[T any](out []*gnmipb.Update, table []leaf[T], rec *T) []*gnmipb.Update {
	for i := range table {
		if v := table[i].value(rec); v != nil {
			out = append(out, &gnmipb.Update{Path: table[i].path, Val: v})
		}
	}
	return out
}

func find[T any](table []leaf[T], name string) *leaf[T] {
	for i := range table {
		if table[i].name == name {
			return &table[i]
		}
	}
	return nil
}

// under strips the state container of a list entry (or, with list "", of a
// container) off the path of an update, wherever the notification cut it into
// prefix and path. It returns the key and the rest, nil when the update lies
// elsewhere.
func under(n *gnmipb.Notification, u *gnmipb.Update, container, list, key string) (string, []*gnmipb.PathElem) {
	value, rest := inside(n, u, container, list, key)
	if len(rest) < 2 || rest[0].GetName() != "state" {
		return "", nil
	}
	return value, rest[1:]
}

// inside is under for all of the entry: what it returns begins with the name of
// a child of the entry.
func inside(n *gnmipb.Notification, u *gnmipb.Update, container, list, key string) (string, []*gnmipb.PathElem) {
	prefix, path := n.GetPrefix().GetElem(), u.GetPath().GetElem()
	at := func(i int) *gnmipb.PathElem {
		if i < len(prefix) {
			return prefix[i]
		}
		if i -= len(prefix); i < len(path) {
			return path[i]
		}
		return nil
	}
	// Names may carry their module, decaf-loss:loss.
	named := func(i int, want string) bool {
		name := at(i).GetName()
		return name == want || name == Module+":"+want
	}
	i := 0
	if !named(i, "loss") || !named(i+1, container) {
		return "", nil
	}
	i += 2
	value := ""
	if list != "" {
		if !named(i, list) {
			return "", nil
		}
		v, ok := at(i).GetKey()[key]
		if !ok {
			return "", nil
		}
		value = v
		i++
	}
	var rest []*gnmipb.PathElem
	for ; at(i) != nil; i++ {
		rest = append(rest, at(i))
	}
	return value, rest
}

// decode fills a record from the updates of a notification that lie in the
// given container. It returns the list key (the same for all updates) and
// whether there was any; leaves that the table does not know are passed over,
// since a later revision of the module may have more.
func decode(n *gnmipb.Notification, container, list, key string, set func(leaf []*gnmipb.PathElem, v *gnmipb.TypedValue) error) (string, bool, error) {
	return decodeBy(under, n, container, list, key, set)
}

// decodeBy is decode with what takes paths apart: under or inside.
func decodeBy(apart func(*gnmipb.Notification, *gnmipb.Update, string, string, string) (string, []*gnmipb.PathElem),
	n *gnmipb.Notification, container, list, key string, set func(leaf []*gnmipb.PathElem, v *gnmipb.TypedValue) error) (string, bool, error) {
	value, any := "", false
	for _, u := range n.GetUpdate() {
		k, rest := apart(n, u, container, list, key)
		if rest == nil {
			if any {
				return "", true, fmt.Errorf("notification mixes %s with other data", container)
			}
			continue
		}
		if any && k != value {
			return "", true, fmt.Errorf("notification holds %s %q and %q: want one each", list, value, k)
		}
		value, any = k, true
		if err := set(rest, u.GetVal()); err != nil {
			return "", true, fmt.Errorf("%s %s: leaf %s: %w", container, k, rest[len(rest)-1].GetName(), err)
		}
	}
	return value, any, nil
}
