package gnmi

import (
	"context"
	"slices"
	"time"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

const (
	// maxPaths bounds the paths of one request.
	maxPaths = 256
	// maxAnswer bounds the bytes of an answer: a gRPC client takes no more unless it
	// is told to, and says nothing of use when more comes.
	maxAnswer = 4 << 20
	// largeAnswer is from where on answers are made one at a time: what a value
	// takes on the way is a multiple of its bytes.
	largeAnswer = maxAnswer / 64
)

// Get implements gnmi.GNMI: one notification per path.
func (t *Target) Get(ctx context.Context, req *gnmipb.GetRequest) (*gnmipb.GetResponse, error) {
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
	a := &answer{t: t, req: req}
	defer a.done()
	for _, p := range paths {
		if err := a.ask(p, ext.depth); err != nil {
			return nil, err
		}
	}
	now := time.Now()
	if err := a.collect(ctx, now); err != nil {
		return nil, err
	}
	return a.response(now)
}

// answer is what a Get comes to.
type answer struct {
	t      *Target
	req    *gnmipb.GetRequest
	asked  []*asked
	size   int // bytes it has at least
	making bool
}

// asked is one path of a Get.
type asked struct {
	at     pattern
	origin string
	there  bool // there is something, if not of the type or depth asked for
	leaves []Leaf
}

// ask checks a path.
func (a *answer) ask(path *gnmipb.Path, depth int) error {
	origin, err := a.t.origin(a.req.GetPrefix(), path)
	if err != nil {
		return err
	}
	elems, err := join(a.req.GetPrefix(), path, a.t.deps.Models)
	if err != nil {
		return err
	}
	if _, err := resolve(a.t.deps.Schema, elems); err != nil {
		return err
	}
	a.asked = append(a.asked, &asked{at: pattern{elems, depth}, origin: origin})
	return nil
}

// collect finds the leaves: state, then events, of which those are decoded that
// some of a path may be of.
func (a *answer) collect(ctx context.Context, now time.Time) error {
	for _, n := range a.t.deps.State(now) {
		for _, q := range a.asked {
			if err := a.add(ctx, q, n); err != nil {
				return err
			}
		}
	}
	all := make([]pattern, len(a.asked))
	for i, q := range a.asked {
		all[i] = pattern{elems: q.at.elems}
	}
	for _, it := range a.t.snapshot() {
		if n, updates := it.pick(all); len(updates) > 0 {
			for _, q := range a.asked {
				if err := a.add(ctx, q, n); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// add takes those leaves of a notification that the path means.
func (a *answer) add(ctx context.Context, q *asked, n *gnmipb.Notification) error {
	updates, _ := pick(n, []pattern{{elems: q.at.elems}})
	for _, u := range updates {
		q.there = true
		l := Leaf{absolute(n, u), u.GetVal()}
		if !q.at.covers(l.Path) || !a.t.isOf(a.req.GetType(), l.Path) {
			continue
		}
		q.leaves = append(q.leaves, l)
		a.size += len(l.Path[len(l.Path)-1].GetName()) + len(`"":0`)
	}
	if a.size > maxAnswer {
		return errAnswer
	}
	if a.size < largeAnswer || a.making {
		return ctx.Err()
	}
	select {
	case a.t.making <- struct{}{}:
		a.making = true
		return nil
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
}

// done lets the next large answer be made.
func (a *answer) done() {
	if a.making {
		<-a.t.making
	}
}

var errAnswer = status.Errorf(codes.ResourceExhausted, "the answer is more than %d bytes, and gRPC clients take no more in one message: subscribe with mode ONCE, which sends it in parts, or ask for a narrower path", maxAnswer)

// response is what was collected, as the client asked for it.
func (a *answer) response(now time.Time) (*gnmipb.GetResponse, error) {
	resp := &gnmipb.GetResponse{}
	size := 0
	for _, q := range a.asked {
		if !q.there {
			return nil, status.Errorf(codes.NotFound, "path %s: no data at present", show(q.at.elems))
		}
		out := &gnmipb.Notification{
			Timestamp: now.UnixNano(),
			Prefix:    &gnmipb.Path{Target: a.req.GetPrefix().GetTarget(), Origin: q.origin},
		}
		// In JSON a node is one value, the whole subtree under it. PROTO has a
		// value for each leaf.
		if a.req.GetEncoding() == gnmipb.Encoding_PROTO {
			for _, l := range q.leaves {
				out.Update = append(out.Update, &gnmipb.Update{Path: &gnmipb.Path{Elem: l.Path}, Val: l.Val})
			}
		} else {
			out.Update = a.t.subtrees(q.at.elems, q.leaves, a.req.GetEncoding())
		}
		if size += proto.Size(out); size > maxAnswer {
			return nil, errAnswer
		}
		resp.Notification = append(resp.Notification, out)
	}
	if proto.Size(resp) > maxAnswer {
		return nil, errAnswer
	}
	return resp, nil
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
