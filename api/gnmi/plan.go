package gnmi

import (
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
	all         [][]*gnmipb.PathElem // every path
	live        [][]*gnmipb.PathElem // those whose events come as they happen
	timers      []timerSpec
}

// timerSpec is one path that is looked at again and again.
type timerSpec struct {
	pattern []*gnmipb.PathElem
	every   time.Duration
	state   bool // look at state
	events  bool // and at the events in the ring
	changed bool // send only what changed since it was last sent by this timer
	// heartbeat: with changed, send all of it after this long all the same; 0
	// is never.
	heartbeat time.Duration
	gone      bool // tell of leaves that vanished (ON_CHANGE)
}

// newPlan checks a subscription against the schema and the limits.
func (t *Target) newPlan(list *gnmipb.SubscriptionList) (*plan, error) {
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
	p := &plan{mode: list.GetMode(), updatesOnly: list.GetUpdatesOnly()}
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
		pattern, err := join(list.GetPrefix(), s.GetPath(), t.deps.Models)
		if err != nil {
			return nil, err
		}
		nodes, err := resolve(t.deps.Schema, pattern)
		if err != nil {
			return nil, err
		}
		p.all = append(p.all, pattern)
		if p.mode != gnmipb.SubscriptionList_STREAM {
			continue // the fields of Subscription are for STREAM alone
		}
		state, events := kinds(nodes)
		if err := t.planStream(p, s, pattern, state, events); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (t *Target) planStream(p *plan, s *gnmipb.Subscription, pattern []*gnmipb.PathElem, state, events bool) error {
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
			return status.Errorf(codes.InvalidArgument, "path %s: %s %s is less than this target can do: %s or more, or 0 for the shortest", show(pattern), name, d, t.cfg.MinSample)
		}
	}
	onChange := func() {
		p.live = append(p.live, pattern)
		if heartbeat > 0 && events {
			p.timers = append(p.timers, timerSpec{pattern: pattern, every: heartbeat, events: true})
		}
	}
	switch s.GetMode() {
	case gnmipb.SubscriptionMode_TARGET_DEFINED:
		if interval != 0 {
			return status.Errorf(codes.InvalidArgument, "path %s: sample_interval with TARGET_DEFINED: the target chooses, use SAMPLE to choose yourself", show(pattern))
		}
		if events {
			onChange()
		}
		if state {
			p.timers = append(p.timers, timerSpec{pattern: pattern, every: t.cfg.Sample, state: true, changed: s.GetSuppressRedundant(), heartbeat: heartbeat})
		}
	case gnmipb.SubscriptionMode_ON_CHANGE:
		if events {
			onChange()
		}
		if state {
			p.timers = append(p.timers, timerSpec{pattern: pattern, every: t.cfg.Scan, state: true, changed: true, heartbeat: heartbeat, gone: true})
		}
	case gnmipb.SubscriptionMode_SAMPLE:
		if interval == 0 {
			interval = t.cfg.MinSample
		}
		p.timers = append(p.timers, timerSpec{pattern: pattern, every: interval, state: state, events: events, changed: s.GetSuppressRedundant(), heartbeat: heartbeat})
	default:
		return status.Errorf(codes.InvalidArgument, "path %s: subscription mode %d does not exist: use TARGET_DEFINED, ON_CHANGE or SAMPLE", show(pattern), s.GetMode())
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
func kinds(nodes []*yang.Node) (state, events bool) {
	for _, top := range nodes {
		for _, n := range descendants(top) {
			if n.Leaf() {
				state = state || n.Kind == yang.State
				events = events || n.Kind == yang.Event
			}
		}
	}
	return state, events
}
