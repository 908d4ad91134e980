package gnmi

import (
	"strconv"
	"strings"

	"decaf/api/yang"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
)

// Leaf is a value, in its native type, with its path from the root.
type Leaf struct {
	Path []*gnmipb.PathElem
	Val  *gnmipb.TypedValue
}

// branch is a container or list entry on its way to JSON: members in a map,
// lists as arrays of entries found again by their keys.
type branch struct {
	members map[string]any // any: plain value, *branch, or *entries
}

type entries struct {
	list []*branch
	by   map[string]*branch
}

func newBranch() *branch { return &branch{members: map[string]any{}} }

// subtree returns the JSON value of the node at path, depth elements deep,
// from leaves that all lie at or below it: an object, or the value itself
// where the node is a leaf. Entries of lists carry their keys (RFC 7951,
// section 5.4); in JSON_IETF the top names carry their module (section 4).
func subtree(schema *yang.Node, depth int, leaves []Leaf, e gnmipb.Encoding) any {
	root := newBranch()
	for _, l := range leaves {
		if len(l.Path) == depth {
			return plain(walk(schema, l.Path), l.Val, e)
		}
		node := walk(schema, l.Path[:depth])
		at := root
		if depth > 0 {
			at.keys(node, l.Path[depth-1], e)
		}
		for _, el := range l.Path[depth : len(l.Path)-1] {
			node = walk(node, []*gnmipb.PathElem{el})
			at = at.down(node, el, e)
		}
		last := l.Path[len(l.Path)-1]
		leaf := walk(node, []*gnmipb.PathElem{last})
		at.members[memberName(leaf, last.GetName(), e)] = plain(leaf, l.Val, e)
	}
	out := root.json()
	if e != gnmipb.Encoding_JSON_IETF {
		return out
	}
	// The top names carry their module, also where it began above them.
	module := ""
	if len(leaves) > 0 {
		for node, rest := schema, leaves[0].Path[:depth]; len(rest) > 0 && node != nil; rest = rest[1:] {
			if node = node.Child(rest[0].GetName()); node != nil && node.Module != "" {
				module = node.Module
			}
		}
	}
	named := make(map[string]any, len(out))
	for k, v := range out {
		if module != "" && !strings.Contains(k, ":") {
			k = module + ":" + k
		}
		named[k] = v
	}
	return named
}

// memberName is the name of a member of an object: in JSON_IETF where a module
// begins with its name (RFC 7951, section 4).
func memberName(node *yang.Node, name string, e gnmipb.Encoding) string {
	if e == gnmipb.Encoding_JSON_IETF && node != nil && node.Module != "" {
		return node.Module + ":" + name
	}
	return name
}

// down returns the branch of a child, made when it is not there yet.
func (b *branch) down(node *yang.Node, el *gnmipb.PathElem, e gnmipb.Encoding) *branch {
	name := memberName(node, el.GetName(), e)
	if len(el.GetKey()) == 0 {
		c, ok := b.members[name].(*branch)
		if !ok {
			c = newBranch()
			b.members[name] = c
		}
		return c
	}
	list, ok := b.members[name].(*entries)
	if !ok {
		list = &entries{by: map[string]*branch{}}
		b.members[name] = list
	}
	id := show([]*gnmipb.PathElem{el})
	c := list.by[id]
	if c == nil {
		c = newBranch()
		c.keys(node, el, e)
		list.by[id] = c
		list.list = append(list.list, c)
	}
	return c
}

// keys puts the key leaves of a list entry into it.
func (b *branch) keys(node *yang.Node, el *gnmipb.PathElem, e gnmipb.Encoding) {
	for k, v := range el.GetKey() {
		var leaf *yang.Node
		if node != nil {
			leaf = node.Child(k)
		}
		b.members[k] = plain(leaf, keyValue(leaf, v), e)
	}
}

// keyValue gives a key, which paths write as a string, its own type.
func keyValue(leaf *yang.Node, v string) *gnmipb.TypedValue {
	if leaf != nil && (leaf.Type == yang.Uint || leaf.Type == yang.Uint64) {
		if u, err := strconv.ParseUint(v, 10, 64); err == nil {
			return &gnmipb.TypedValue{Value: &gnmipb.TypedValue_UintVal{UintVal: u}}
		}
	}
	return &gnmipb.TypedValue{Value: &gnmipb.TypedValue_StringVal{StringVal: v}}
}

func (b *branch) json() map[string]any {
	out := make(map[string]any, len(b.members))
	for k, v := range b.members {
		switch x := v.(type) {
		case *branch:
			out[k] = x.json()
		case *entries:
			list := make([]any, len(x.list))
			for i, c := range x.list {
				list[i] = c.json()
			}
			out[k] = list
		default:
			out[k] = v
		}
	}
	return out
}
