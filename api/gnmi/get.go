package gnmi

import (
	"context"
	"time"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"github.com/openconfig/gnmi/proto/gnmi_ext"
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
	if err := checkExtensions(req.GetExtension()); err != nil {
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
		n, err := t.get(req, p, all, now)
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
		all = append(all, it.n)
	}
	return all
}

func (t *Target) get(req *gnmipb.GetRequest, path *gnmipb.Path, all []*gnmipb.Notification, now time.Time) (*gnmipb.Notification, error) {
	origin, err := t.origin(req.GetPrefix(), path)
	if err != nil {
		return nil, err
	}
	pattern, err := join(req.GetPrefix(), path, t.deps.Models)
	if err != nil {
		return nil, err
	}
	if _, err := resolve(t.deps.Schema, pattern); err != nil {
		return nil, err
	}
	out := &gnmipb.Notification{
		Timestamp: now.UnixNano(),
		Prefix:    &gnmipb.Path{Target: req.GetPrefix().GetTarget(), Origin: origin},
	}
	if req.GetType() == gnmipb.GetRequest_CONFIG {
		return out, nil // there is none: all of it is state
	}
	// In JSON a node is one value, the whole subtree under it. PROTO has a
	// value for each leaf.
	var leaves []located
	for _, n := range all {
		updates, _ := pick(n, [][]*gnmipb.PathElem{pattern})
		for _, u := range updates {
			leaves = append(leaves, located{absolute(n, u), u.GetVal()})
		}
	}
	if len(leaves) == 0 {
		return nil, status.Errorf(codes.NotFound, "path %s: no data at present", show(pattern))
	}
	if req.GetEncoding() == gnmipb.Encoding_PROTO {
		for _, l := range leaves {
			out.Update = append(out.Update, &gnmipb.Update{Path: &gnmipb.Path{Elem: l.path}, Val: l.val})
		}
		return out, nil
	}
	out.Update = t.subtrees(pattern, leaves, req.GetEncoding())
	return out, nil
}

// subtrees returns one update for each node that the pattern means.
func (t *Target) subtrees(pattern []*gnmipb.PathElem, leaves []located, e gnmipb.Encoding) []*gnmipb.Update {
	many := false
	for _, el := range pattern {
		many = many || el.Name == anyMany
	}
	type group struct {
		path   []*gnmipb.PathElem
		leaves []located
	}
	var groups []*group
	by := map[string]*group{}
	for _, l := range leaves {
		depth := len(pattern)
		if many {
			depth = len(l.path) // which node "..." means is not told: the leaf itself
		}
		id := show(l.path[:depth])
		g := by[id]
		if g == nil {
			g = &group{path: l.path[:depth]}
			by[id] = g
			groups = append(groups, g)
		}
		g.leaves = append(g.leaves, l)
	}
	var out []*gnmipb.Update
	for _, g := range groups {
		out = append(out, &gnmipb.Update{
			Path: &gnmipb.Path{Elem: g.path},
			Val:  jsonValue(subtree(t.deps.Schema, t.module(), len(g.path), g.leaves, e), e),
		})
	}
	return out
}

// module is the module of the top names.
func (t *Target) module() string {
	if len(t.deps.Models) == 0 {
		return ""
	}
	return t.deps.Models[0].GetName()
}

// checkExtensions refuses those that change what a call means; others may be
// passed over (gNMI specification, section 2.7.1).
func checkExtensions(list []*gnmi_ext.Extension) error {
	for _, x := range list {
		switch x.GetExt().(type) {
		case *gnmi_ext.Extension_History:
			return status.Error(codes.Unimplemented, "extension history is not supported")
		case *gnmi_ext.Extension_Depth:
			return status.Error(codes.Unimplemented, "extension depth is not supported")
		}
	}
	return nil
}
