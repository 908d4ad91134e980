package gnmi

import (
	"slices"
	"time"

	"decaf/api/yang"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// plan is what a SubscriptionList asks for, checked and spelled out.
type plan struct {
	mode        gnmipb.SubscriptionList_Mode
	updatesOnly bool
	key         frameKey
	era         era
	all         []pattern // every path
	live        []pattern // those whose events come as they happen
	timers      []timerSpec
}

// wants tells whether an event as it happens, or some of it, is asked for, and
// whether all of it is.
func (p *plan) wants(it *item) (some, whole bool) {
	patterns, whole := covering(it.prefix, p.live)
	if some = whole; len(patterns) > 0 {
		_, updates := it.pick(patterns)
		some = len(updates) > 0
	}
	return some && p.era.holds(it), whole
}

// timerSpec is one path that is looked at again and again.
type timerSpec struct {
	pattern pattern
	every   time.Duration
	kinds   kindSet // of what to look at
	changed bool    // send only what changed since it was last sent by this timer
	again   bool    // what it sends is no news: a heartbeat
	// heartbeat: with changed, send all of it after this long all the same; 0
	// is never.
	heartbeat time.Duration
	onChange  bool // look too when told to, and tell of what vanished
}

// contains reports whether the timer sends all that another does, when that does.
func (s timerSpec) contains(of timerSpec) bool {
	return s.pattern.contains(of.pattern) && s.kinds&of.kinds == of.kinds && s.every == of.every && s.changed == of.changed && s.again == of.again && s.heartbeat == of.heartbeat && s.onChange == of.onChange
}

// outermost returns those of a list that none of the others contains: what is asked
// for twice is looked at, and sent, once.
func outermost[T any](list []T, contains func(T, T) bool) []T {
	var out []T
	for _, x := range list {
		if !slices.ContainsFunc(out, func(y T) bool { return contains(y, x) }) {
			out = append(slices.DeleteFunc(out, func(y T) bool { return contains(x, y) }), x)
		}
	}
	return out
}

// kindSet is a set of kinds of data.
type kindSet uint8

func setOf(kinds ...yang.Kind) (s kindSet) {
	for _, k := range kinds {
		s |= 1 << k
	}
	return s
}

func (s kindSet) has(k yang.Kind) bool { return s&(1<<k) != 0 }

// newPlan checks a subscription against the schema and the limits.
func (t *Target) newPlan(list *gnmipb.SubscriptionList, ext extensions, now time.Time) (*plan, error) {
	if err := checkEncoding(list.GetEncoding()); err != nil {
		return nil, err
	}
	if err := t.checkModels(list.GetUseModels()); err != nil {
		return nil, err
	}
	if _, ok := gnmipb.SubscriptionList_Mode_name[int32(list.GetMode())]; !ok {
		return nil, status.Errorf(codes.InvalidArgument, "subscription list mode %d does not exist: ask for STREAM, ONCE or POLL", list.GetMode())
	}
	subs := list.GetSubscription()
	switch {
	case len(subs) == 0:
		return nil, status.Error(codes.InvalidArgument, "no subscription in the list: give at least one path, / is the root")
	case len(subs) > maxPaths:
		return nil, status.Errorf(codes.InvalidArgument, "%d subscriptions in one list: at most %d", len(subs), maxPaths)
	}
	era, err := readHistory(ext.history, list.GetMode(), now)
	if err != nil {
		return nil, err
	}
	p := &plan{mode: list.GetMode(), updatesOnly: list.GetUpdatesOnly(), era: era}
	p.key = frameKey{encoding: list.GetEncoding(), target: list.GetPrefix().GetTarget()}
	for i, s := range subs {
		origin, err := t.origin(list.GetPrefix(), s.GetPath())
		if err != nil {
			return nil, err
		}
		if i > 0 && origin != p.key.origin {
			return nil, status.Errorf(codes.InvalidArgument, "subscriptions with origins %q and %q in one list: use one call for each", p.key.origin, origin)
		}
		p.key.origin = origin
		elems, err := join(list.GetPrefix(), s.GetPath(), t.deps.Models)
		if err != nil {
			return nil, err
		}
		nodes, err := resolve(t.deps.Schema, elems)
		if err != nil {
			return nil, err
		}
		at := pattern{elems, ext.depth}
		p.all = append(p.all, at)
		if p.mode != gnmipb.SubscriptionList_STREAM {
			continue // the fields of Subscription are for STREAM alone
		}
		if err := t.planStream(p, s, at, kinds(nodes)); err != nil {
			return nil, err
		}
	}
	p.all, p.live, p.timers = outermost(p.all, pattern.contains), outermost(p.live, pattern.contains), outermost(p.timers, timerSpec.contains)
	return p, nil
}

func (t *Target) planStream(p *plan, s *gnmipb.Subscription, at pattern, have kindSet) error {
	interval, err := duration("sample_interval", s.GetSampleInterval())
	if err != nil {
		return err
	}
	heartbeat, err := duration("heartbeat_interval", s.GetHeartbeatInterval())
	if err != nil {
		return err
	}
	for name, d := range map[string]time.Duration{"sample_interval": interval, "heartbeat_interval": heartbeat} {
		if d != 0 && d < t.cfg.MinSample {
			return status.Errorf(codes.InvalidArgument, "path %s: %s %s is less than this target can do: %s or more, or 0 for the shortest", show(at.elems), name, d, t.cfg.MinSample)
		}
	}
	timer := func(every time.Duration, kinds kindSet) *timerSpec {
		if kinds&have == 0 {
			return &timerSpec{}
		}
		p.timers = append(p.timers, timerSpec{pattern: at, every: every, kinds: kinds & have})
		return &p.timers[len(p.timers)-1]
	}
	events := func() {
		if !have.has(yang.Event) {
			return
		}
		p.live = append(p.live, at)
		if heartbeat > 0 {
			timer(heartbeat, setOf(yang.Event)).again = true
		}
	}
	onChange := func(kinds kindSet) {
		tm := timer(t.cfg.Scan, kinds)
		tm.changed, tm.heartbeat, tm.onChange = true, heartbeat, true
	}
	switch s.GetMode() {
	case gnmipb.SubscriptionMode_TARGET_DEFINED:
		if interval != 0 {
			return status.Errorf(codes.InvalidArgument, "path %s: sample_interval with TARGET_DEFINED: the target chooses, use SAMPLE to choose yourself", show(at.elems))
		}
		events()
		onChange(setOf(yang.Setting))
		tm := timer(t.cfg.Sample, setOf(yang.State))
		tm.changed, tm.heartbeat = s.GetSuppressRedundant(), heartbeat
	case gnmipb.SubscriptionMode_ON_CHANGE:
		events()
		onChange(setOf(yang.State, yang.Setting))
	case gnmipb.SubscriptionMode_SAMPLE:
		if interval == 0 {
			interval = t.cfg.MinSample
		}
		tm := timer(interval, setOf(yang.State, yang.Setting, yang.Event))
		tm.changed, tm.heartbeat = s.GetSuppressRedundant(), heartbeat
	default:
		return status.Errorf(codes.InvalidArgument, "path %s: subscription mode %d does not exist: use TARGET_DEFINED, ON_CHANGE or SAMPLE", show(at.elems), s.GetMode())
	}
	return nil
}

func duration(name string, ns uint64) (time.Duration, error) {
	const most = 1 << 62 // 146 years
	if ns > most {
		return 0, status.Errorf(codes.InvalidArgument, "%s of %d ns is too long", name, ns)
	}
	return time.Duration(ns), nil
}

// kinds tells which kinds of data lie at or below the nodes.
func kinds(nodes []*yang.Node) (s kindSet) {
	for _, top := range nodes {
		for _, n := range descendants(top) {
			if n.Leaf() {
				s |= setOf(n.Kind)
			}
		}
	}
	return s
}
