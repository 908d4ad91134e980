package gnmi

import (
	"context"
	"time"

	"decaf/api/yang"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Set implements gnmi.GNMI: all operations of a request take effect together, in
// the order delete, replace, update, or none does (gNMI specification, section
// 3.4.3).
func (t *Target) Set(ctx context.Context, req *gnmipb.SetRequest) (*gnmipb.SetResponse, error) {
	if t.deps.Settings == nil {
		return nil, status.Error(codes.Unimplemented, "this target has state only: there is nothing to set")
	}
	if err := t.mayWrite(ctx); err != nil {
		return nil, err
	}
	if _, err := readExtensions(req.GetExtension(), callSet); err != nil {
		return nil, err
	}
	ops, err := t.operations(req)
	if err != nil {
		return nil, err
	}
	err = t.deps.Settings.Edit(ctx, func(now []Leaf) ([]Leaf, error) {
		tree := newTree(t.deps.Schema, t.deps.Models, now)
		if len(req.GetUnionReplace()) > 0 {
			tree.leaves = map[string]Leaf{}
		}
		for _, o := range ops {
			if err := o.do(tree); err != nil {
				return nil, err
			}
		}
		if err := tree.whole(); err != nil {
			return nil, err
		}
		if len(tree.leaves) > maxSettings {
			return nil, status.Errorf(codes.ResourceExhausted, "%d leaves would be set: at most %d", len(tree.leaves), maxSettings)
		}
		return tree.list(), nil
	})
	if err != nil {
		if _, ok := status.FromError(err); !ok {
			err = status.Error(codes.Internal, err.Error())
		}
		return nil, err
	}
	t.Changed()
	resp := &gnmipb.SetResponse{Timestamp: time.Now().UnixNano(), Prefix: req.GetPrefix()}
	for _, o := range ops {
		resp.Response = append(resp.Response, &gnmipb.UpdateResult{Path: o.asked, Op: o.op})
	}
	return resp, nil
}

// operation is one change that a Set asks for.
type operation struct {
	op    gnmipb.UpdateResult_Operation
	asked *gnmipb.Path // as the client wrote it
	path  []*gnmipb.PathElem
	val   *gnmipb.TypedValue
}

// operations checks the paths of a request and returns what it asks for, in the
// order in which it is to be done.
func (t *Target) operations(req *gnmipb.SetRequest) ([]operation, error) {
	n := len(req.GetDelete()) + len(req.GetReplace()) + len(req.GetUpdate())
	union := len(req.GetUnionReplace())
	switch {
	case union > 0 && n > 0:
		return nil, status.Error(codes.InvalidArgument, "union_replace with other operations: it replaces everything, use it alone")
	case n+union > maxPaths:
		return nil, status.Errorf(codes.InvalidArgument, "%d operations in one request: at most %d", n+union, maxPaths)
	}
	var out []operation
	add := func(op gnmipb.UpdateResult_Operation, path *gnmipb.Path, u *gnmipb.Update) error {
		if _, err := t.origin(req.GetPrefix(), path); err != nil {
			return err
		}
		elems, err := join(req.GetPrefix(), path, t.deps.Models)
		if err != nil {
			return err
		}
		nodes, err := resolve(t.deps.Schema, elems)
		if err != nil {
			return err
		}
		if !anyWritable(nodes) {
			return readOnly(elems)
		}
		//lint:ignore SA1019 clients older than gNMI 0.4 fill this field
		if u != nil && u.GetValue() != nil {
			return status.Errorf(codes.InvalidArgument, "path %s uses the deprecated field value: use val (gNMI 0.4 or later)", show(elems))
		}
		if op != gnmipb.UpdateResult_DELETE {
			if wild(elems) {
				return status.Errorf(codes.InvalidArgument, "path %s has a wildcard: only what is deleted may", show(elems))
			}
			if list, key := missingKey(t.deps.Schema, elems); key != "" {
				return status.Errorf(codes.InvalidArgument, "path %s: which %s? Give its %s", show(elems), list, key)
			}
		}
		out = append(out, operation{op: op, asked: path, path: elems, val: u.GetVal()})
		return nil
	}
	for _, p := range req.GetDelete() {
		if err := add(gnmipb.UpdateResult_DELETE, p, nil); err != nil {
			return nil, err
		}
	}
	for _, list := range []struct {
		op      gnmipb.UpdateResult_Operation
		updates []*gnmipb.Update
	}{
		{gnmipb.UpdateResult_REPLACE, req.GetReplace()},
		{gnmipb.UpdateResult_UPDATE, req.GetUpdate()},
		{gnmipb.UpdateResult_UNION_REPLACE, req.GetUnionReplace()},
	} {
		for _, u := range list.updates {
			if err := add(list.op, u.GetPath(), u); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

func anyWritable(nodes []*yang.Node) bool {
	for _, n := range nodes {
		if n.Writable {
			return true
		}
	}
	return false
}

// do changes the tree.
func (o operation) do(t *tree) error {
	switch o.op {
	case gnmipb.UpdateResult_DELETE:
		t.remove(o.path)
		return nil
	case gnmipb.UpdateResult_REPLACE:
		t.remove(o.path)
	case gnmipb.UpdateResult_UNION_REPLACE:
		part := newTree(t.schema, t.models, nil)
		if err := part.merge(o.path, o.val); err != nil {
			return err
		}
		for name, l := range part.leaves {
			if other, ok := t.leaves[name]; ok && !proto.Equal(other.Val, l.Val) {
				return status.Errorf(codes.InvalidArgument, "path %s: union_replace gives it two values", name)
			}
			t.leaves[name] = l
		}
		return nil
	}
	return t.merge(o.path, o.val)
}
