package gnmi

import (
	"context"
	"slices"
	"time"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// maxPaths bounds the paths of one request.
const maxPaths = 256

// Get implements gnmi.GNMI: one notification per path.
func (t *Target) Get(_ context.Context, req *gnmipb.GetRequest) (*gnmipb.GetResponse, error) {
	if err := checkEncoding(req.GetEncoding()); err != nil {
		return nil, err
	}
	if err := t.checkModels(req.GetUseModels()); err != nil {
		return nil, err
	}
	ext, err := readExtensions(req.GetExtension(), callGet)
	if err != nil {
		return nil, err
	}
	if _, ok := gnmipb.GetRequest_DataType_name[int32(req.GetType())]; !ok {
		return nil, status.Errorf(codes.InvalidArgument, "data type %d does not exist: ask for ALL, CONFIG, STATE or OPERATIONAL", req.GetType())
	}
	paths := req.GetPath()
	if len(paths) == 0 && req.GetPrefix() != nil {
		paths = []*gnmipb.Path{{}}
	}
	switch {
	case len(paths) == 0:
		return nil, status.Error(codes.InvalidArgument, "no path: give at least one, / is the root")
	case len(paths) > maxPaths:
		return nil, status.Errorf(codes.InvalidArgument, "%d paths in one request: at most %d", len(paths), maxPaths)
	}
	now := time.Now()
	all := t.everything(now)
	resp := &gnmipb.GetResponse{}
	for _, p := range paths {
		n, err := t.get(req, p, ext.depth, all, now)
		if err != nil {
			return nil, err
		}
		resp.Notification = append(resp.Notification, n)
	}
	return resp, nil
}

// everything returns what the target knows at present: state, then events.
func (t *Target) everything(now time.Time) []*gnmipb.Notification {
	all := t.deps.State(now)
	all = all[:len(all):len(all)]
	for _, it := range t.snapshot() {
		all = append(all, it.notification())
	}
	return all
}

func (t *Target) get(req *gnmipb.GetRequest, path *gnmipb.Path, depth int, all []*gnmipb.Notification, now time.Time) (*gnmipb.Notification, error) {
	origin, err := t.origin(req.GetPrefix(), path)
	if err != nil {
		return nil, err
	}
	elems, err := join(req.GetPrefix(), path, t.deps.Models)
	if err != nil {
		return nil, err
	}
	if _, err := resolve(t.deps.Schema, elems); err != nil {
		return nil, err
	}
	out := &gnmipb.Notification{
		Timestamp: now.UnixNano(),
		Prefix:    &gnmipb.Path{Target: req.GetPrefix().GetTarget(), Origin: origin},
	}
	// In JSON a node is one value, the whole subtree under it. PROTO has a
	// value for each leaf.
	var leaves []Leaf
	there := false
	for _, n := range all {
		updates, _ := pick(n, []pattern{{elems: elems}})
		for _, u := range updates {
			there = true
			l := Leaf{absolute(n, u), u.GetVal()}
			if (pattern{elems, depth}).covers(l.Path) && t.isOf(req.GetType(), l.Path) {
				leaves = append(leaves, l)
			}
		}
	}
	if !there {
		return nil, status.Errorf(codes.NotFound, "path %s: no data at present", show(elems))
	}
	if req.GetEncoding() == gnmipb.Encoding_PROTO {
		for _, l := range leaves {
			out.Update = append(out.Update, &gnmipb.Update{Path: &gnmipb.Path{Elem: l.Path}, Val: l.Val})
		}
		return out, nil
	}
	out.Update = t.subtrees(elems, leaves, req.GetEncoding())
	return out, nil
}

// isOf reports whether a leaf is of the type of data that a Get asks for.
// OPERATIONAL is state that is no copy of what can be set (gNMI specification,
// section 3.3.1).
func (t *Target) isOf(typ gnmipb.GetRequest_DataType, leaf []*gnmipb.PathElem) bool {
	if typ == gnmipb.GetRequest_ALL {
		return true
	}
	node := walk(t.deps.Schema, leaf)
	writable := node != nil && node.Writable
	switch {
	case typ == gnmipb.GetRequest_CONFIG:
		return writable
	case typ == gnmipb.GetRequest_STATE || writable:
		return !writable
	}
	twin := slices.Clone(leaf)
	for i, e := range twin {
		if e.GetName() == "state" {
			twin[i] = &gnmipb.PathElem{Name: "config"}
			return walk(t.deps.Schema, twin) == nil
		}
	}
	return true
}

// subtrees returns one update for each node that the pattern means.
func (t *Target) subtrees(pattern []*gnmipb.PathElem, leaves []Leaf, e gnmipb.Encoding) []*gnmipb.Update {
	many := false
	for _, el := range pattern {
		many = many || el.Name == anyMany
	}
	type group struct {
		path   []*gnmipb.PathElem
		leaves []Leaf
	}
	var groups []*group
	by := map[string]*group{}
	for _, l := range leaves {
		depth := len(pattern)
		if many {
			depth = len(l.Path) // which node "..." means is not told: the leaf itself
		}
		id := show(l.Path[:depth])
		g := by[id]
		if g == nil {
			g = &group{path: l.Path[:depth]}
			by[id] = g
			groups = append(groups, g)
		}
		g.leaves = append(g.leaves, l)
	}
	var out []*gnmipb.Update
	for _, g := range groups {
		out = append(out, &gnmipb.Update{
			Path: &gnmipb.Path{Elem: g.path},
			Val:  jsonValue(subtree(t.deps.Schema, len(g.path), g.leaves, e), e),
		})
	}
	return out
}
