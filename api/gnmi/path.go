package gnmi

import (
	"slices"
	"strings"

	"decaf/api/yang"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	anyOne  = "*"   // one element, or any value of a key
	anyMany = "..." // any number of elements
	// maxElems bounds the depth of a path, maxMany its "...": matching
	// several of them backtracks.
	maxElems = 32
	maxMany  = 2
)

// join puts a prefix and a path together and checks their form. Names may be
// qualified by a module, "decaf-loss:loss"; the qualifier is dropped. The
// error is INVALID_ARGUMENT.
func join(prefix, path *gnmipb.Path, models []*gnmipb.ModelData) ([]*gnmipb.PathElem, error) {
	var out []*gnmipb.PathElem
	many := 0
	for _, p := range []*gnmipb.Path{prefix, path} {
		//lint:ignore SA1019 clients older than gNMI 0.4 fill this field alone
		if len(p.GetElem()) == 0 && len(p.GetElement()) > 0 {
			return nil, status.Errorf(codes.InvalidArgument, "path uses the deprecated field element: use elem (gNMI 0.4 or later)")
		}
		for _, e := range p.GetElem() {
			name := e.GetName()
			if m, rest, ok := strings.Cut(name, ":"); ok && known(m, models) {
				name = rest
			}
			if name == "" {
				return nil, status.Errorf(codes.InvalidArgument, "path %s has an element without a name", show(append(out, e)))
			}
			if name == anyMany {
				if many++; many > maxMany || len(e.GetKey()) > 0 {
					return nil, status.Errorf(codes.InvalidArgument, "path %s: at most %d elements may be \"...\", and they take no keys", show(append(out, e)), maxMany)
				}
			}
			for k, v := range e.GetKey() {
				if k == "" || v == "" {
					return nil, status.Errorf(codes.InvalidArgument, "path %s has a key without a name or value", show(append(out, e)))
				}
			}
			out = append(out, &gnmipb.PathElem{Name: name, Key: e.GetKey()})
		}
	}
	if len(out) > maxElems {
		return nil, status.Errorf(codes.InvalidArgument, "path has %d elements, at most %d make sense here", len(out), maxElems)
	}
	return out, nil
}

func known(module string, models []*gnmipb.ModelData) bool {
	for _, m := range models {
		if m.GetName() == module {
			return true
		}
	}
	return false
}

// resolve returns the schema nodes that a pattern can mean. The error is
// INVALID_ARGUMENT for a key that the list does not have, UNIMPLEMENTED for a
// path that no model has.
func resolve(root *yang.Node, pattern []*gnmipb.PathElem) ([]*yang.Node, error) {
	at := []*yang.Node{root}
	for i, e := range pattern {
		var next []*yang.Node
		badKey := ""
		for _, n := range at {
			switch e.Name {
			case anyMany:
				next = append(next, descendants(n)...)
				continue
			case anyOne:
				next = append(next, n.Children...)
				continue
			}
			c := n.Child(e.Name)
			if c == nil {
				continue
			}
			ok := true
			for k := range e.Key {
				if !c.HasKey(k) {
					ok, badKey = false, k
				}
			}
			if ok {
				next = append(next, c)
			}
		}
		if len(next) == 0 {
			if badKey != "" {
				return nil, status.Errorf(codes.InvalidArgument, "path %s: %s has no key %q", show(pattern), e.Name, badKey)
			}
			return nil, status.Errorf(codes.Unimplemented, "path %s: no model here has %s: Capabilities lists the models", show(pattern), show(pattern[:i+1]))
		}
		at = unique(next)
	}
	return at, nil
}

// descendants returns the node and all below it: "..." may be no element.
func descendants(n *yang.Node) []*yang.Node {
	out := []*yang.Node{n}
	for _, c := range n.Children {
		out = append(out, descendants(c)...)
	}
	return out
}

func unique(nodes []*yang.Node) []*yang.Node {
	seen := make(map[*yang.Node]bool, len(nodes))
	out := nodes[:0]
	for _, n := range nodes {
		if !seen[n] {
			seen[n] = true
			out = append(out, n)
		}
	}
	return out
}

// pattern is a path that may have wildcards, and how many levels below what it
// means belong to it; 0 is all of them (gNMI depth extension).
type pattern struct {
	elems []*gnmipb.PathElem
	depth int
}

// covers reports whether the pattern means the leaf at path, or something above
// it that is near enough.
func (p pattern) covers(path []*gnmipb.PathElem) bool {
	below := reach(p.elems, path)
	return below >= 0 && (p.depth == 0 || below <= p.depth)
}

// coversAll reports whether the pattern means everything below the container at
// path.
func (p pattern) coversAll(path []*gnmipb.PathElem) bool {
	return p.depth == 0 && reach(p.elems, path) >= 0
}

// contains reports whether the pattern covers all that another does, as far as that
// is to be seen at once.
func (p pattern) contains(of pattern) bool {
	if p.depth == of.depth && show(p.elems) == show(of.elems) {
		return true
	}
	many := slices.ContainsFunc(of.elems, func(e *gnmipb.PathElem) bool { return e.Name == anyMany })
	return p.depth == 0 && !many && reach(p.elems, of.elems) >= 0
}

// reach returns how many levels the path lies below what the pattern means, -1
// when it does not: a subscription to a container is one to all below. A key
// that the pattern leaves out is any; of several ways to take "..." the one that
// comes nearest to the path counts.
func reach(pattern, path []*gnmipb.PathElem) int {
	for i, e := range pattern {
		if e.Name == anyMany {
			nearest := -1
			for skip := 0; skip <= len(path)-i; skip++ {
				if below := reach(pattern[i+1:], path[i+skip:]); below >= 0 && (nearest < 0 || below < nearest) {
					nearest = below
				}
			}
			return nearest
		}
		if i >= len(path) || !elemCovers(e, path[i]) {
			return -1
		}
	}
	return len(path) - len(pattern)
}

func elemCovers(e, of *gnmipb.PathElem) bool {
	if e.Name != anyOne && e.Name != of.Name {
		return false
	}
	for k, v := range e.Key {
		if v != anyOne && v != of.Key[k] {
			return false
		}
	}
	return true
}

// mayCover reports whether the pattern can cover anything below the container
// at path: it is a cheap test before looking at each leaf.
func mayCover(pattern, path []*gnmipb.PathElem) bool {
	for i, e := range pattern {
		if e.Name == anyMany || i >= len(path) {
			return true
		}
		if !elemCovers(e, path[i]) {
			return false
		}
	}
	return true
}

// wild reports whether the pattern can mean several paths.
func wild(pattern []*gnmipb.PathElem) bool {
	for _, e := range pattern {
		if e.Name == anyMany || e.Name == anyOne {
			return true
		}
		for _, v := range e.Key {
			if v == anyOne {
				return true
			}
		}
	}
	return false
}

// missingKey names a key that the path leaves out, with its list; "" when it has
// them all. The path has no wildcards and is in the schema.
func missingKey(root *yang.Node, path []*gnmipb.PathElem) (list, key string) {
	at := root
	for _, e := range path {
		at = at.Child(e.Name)
		for _, k := range at.Keys {
			if e.Key[k] == "" {
				return e.Name, k
			}
		}
	}
	return "", ""
}

// show writes a path as people do: /a/b[k=v]/c.
func show(elems []*gnmipb.PathElem) string {
	if len(elems) == 0 {
		return "/"
	}
	var b strings.Builder
	for _, e := range elems {
		b.WriteByte('/')
		b.WriteString(e.GetName())
		for _, k := range sortedKeys(e.GetKey()) {
			b.WriteString("[" + k + "=" + strings.ReplaceAll(e.Key[k], "]", `\]`) + "]")
		}
	}
	return b.String()
}
