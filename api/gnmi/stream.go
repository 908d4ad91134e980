package gnmi

import (
	"context"
	"math"
	"time"

	"decaf/api/yang"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// sender sends to one subscriber. Only its own goroutine uses it.
type sender struct {
	t   *Target
	p   *plan
	rpc gnmipb.GNMI_SubscribeServer
}

// once sends everything there is at present, then sync_response.
func (t *Target) once(rpc gnmipb.GNMI_SubscribeServer, p *plan) error {
	s := &sender{t, p, rpc}
	if !p.updatesOnly {
		if !p.era.past {
			if err := s.state(p.all, time.Now()); err != nil {
				return err
			}
		}
		if err := s.events(p.all, t.snapshot()); err != nil {
			return err
		}
	}
	return s.sync()
}

// serveStream serves mode STREAM until the client or the target ends it.
func (t *Target) serveStream(ctx context.Context, requests <-chan request, rpc gnmipb.GNMI_SubscribeServer, p *plan) error {
	q := newQueue(t.cfg.Queue, t.cfg.MaxLost, p.wants)
	present := t.attach(q, p)
	defer t.detach(q, p)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &sender{t, p, rpc}
	return t.serve(ctx, requests, p, q, func() error { return s.stream(ctx, q, present) })
}

// stream sends what is there, sync_response, and from then on what happens, or as
// much of it as lies in the era that is asked for.
func (s *sender) stream(ctx context.Context, q *queue, there []*item) error {
	now := time.Now()
	if s.p.era.past {
		s.p.timers = nil
	}
	timers := make([]*timer, len(s.p.timers))
	for i, spec := range s.p.timers {
		timers[i] = &timer{spec: spec, next: now.Add(spec.every), full: now}
	}
	// What is there counts as sent, with updates_only too: only what differs
	// from it is news.
	for _, tm := range timers {
		if tm.spec.changed {
			tm.note(s.look(tm, now))
		}
	}
	if !s.p.updatesOnly && !s.p.era.past {
		if err := s.state(s.p.all, now); err != nil {
			return err
		}
	}
	// What happened in the range that is asked for is an update, not what was
	// there before.
	if !s.p.updatesOnly || s.p.era != present {
		if err := s.events(s.p.all, there); err != nil {
			return err
		}
	}
	if err := s.sync(); err != nil {
		return err
	}
	clock := time.NewTimer(time.Hour)
	defer clock.Stop()
	gather := time.NewTimer(time.Hour)
	defer gather.Stop()
	for {
		over := !s.p.era.open() && time.Now().UnixNano() >= s.p.era.to
		stopping := ended(s.t.stopping) // nothing is published after that
		told := false
		for e := q.pop(); e.item != nil; e = q.pop() {
			told = true
			if err := s.queued(e); err != nil {
				return err
			}
			if err := s.due(timers, false); err != nil {
				return err
			}
		}
		switch {
		case over:
			return nil
		case stopping:
			return errStopping
		case told:
			// Those that come soon go together: to wake everybody for each of
			// many events costs more than the events.
			gather.Reset(s.t.cfg.Gather)
			select {
			case <-gather.C:
			case <-q.hurry:
			case <-s.t.stopping:
			case <-ctx.Done():
				return status.FromContextError(ctx.Err()).Err()
			}
		}
		if err := s.due(timers, q.looks()); err != nil {
			return err
		}
		wait := time.Hour
		now := time.Now()
		if !s.p.era.open() {
			wait = min(wait, time.Duration(s.p.era.to-now.UnixNano()))
		}
		for _, tm := range timers {
			wait = min(wait, max(tm.next.Sub(now), 0))
		}
		clock.Reset(max(wait, 0))
		select {
		case <-q.wake:
		case <-clock.C:
		case <-s.t.stopping:
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	}
}

// state sends the state that any of the patterns covers.
func (s *sender) state(patterns []pattern, now time.Time) error {
	for _, n := range s.t.deps.State(now) {
		updates, _ := pick(n, patterns)
		if err := s.send(n, updates, 0); err != nil {
			return err
		}
	}
	return nil
}

// events sends those events of the plan's era, or parts of them, that any of the
// patterns covers, oldest first.
func (s *sender) events(patterns []pattern, items []*item) error {
	for _, it := range items {
		if !s.p.era.holds(it) {
			continue
		}
		n := it.notification()
		updates, whole := pick(n, patterns)
		var err error
		if whole {
			err = s.rpc.SendMsg(it.whole(s.t.deps.Schema, s.p.key))
		} else {
			err = s.send(n, updates, 0)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// queued sends what is for the subscriber of an event as it happens.
func (s *sender) queued(e queued) error {
	if e.whole && e.gap == 0 {
		return s.rpc.SendMsg(e.item.whole(s.t.deps.Schema, s.p.key))
	}
	n := e.notification()
	updates, _ := pick(n, s.p.live)
	return s.send(n, updates, e.gap)
}

// send sends some updates of a notification, if there are any, or deletes;
// duplicates is how many values of theirs were left out before.
func (s *sender) send(n *gnmipb.Notification, updates []*gnmipb.Update, duplicates int) error {
	if len(updates) == 0 && len(n.GetDelete()) == 0 {
		return nil
	}
	return s.rpc.SendMsg(newFrame(s.t.deps.Schema, n, updates, s.p.key, uint32(min(duplicates, math.MaxUint32))))
}

func (s *sender) sync() error {
	return s.rpc.Send(&gnmipb.SubscribeResponse{Response: &gnmipb.SubscribeResponse_SyncResponse{SyncResponse: true}})
}

// timer is a timerSpec at work.
type timer struct {
	spec timerSpec
	next time.Time
	full time.Time // when all of it was last sent
	// last holds what was sent, by path, if only changes shall be: bounded by
	// what there is at one time.
	last map[string]Leaf
}

// look returns what the timer's path covers at present.
func (s *sender) look(tm *timer, now time.Time) []*gnmipb.Notification {
	var out []*gnmipb.Notification
	add := func(n *gnmipb.Notification) {
		if updates, _ := pick(n, []pattern{tm.spec.pattern}); len(updates) > 0 {
			out = append(out, &gnmipb.Notification{Timestamp: n.GetTimestamp(), Prefix: n.GetPrefix(), Atomic: n.GetAtomic(), Update: updates})
		}
	}
	if tm.spec.kinds&setOf(yang.State, yang.Setting) != 0 {
		for _, n := range s.t.state(now) {
			if node := walk(s.t.deps.Schema, n.GetPrefix().GetElem()); node != nil && tm.spec.kinds.has(node.Kind) {
				add(n)
			}
		}
	}
	if tm.spec.kinds.has(yang.Event) {
		for _, it := range s.t.snapshot() {
			if s.p.era.holds(it) {
				add(it.notification())
			}
		}
	}
	return out
}

// due sends what the timers that are due ask for, and those that look for
// changes when something is known to have changed.
func (s *sender) due(timers []*timer, changed bool) error {
	if len(timers) == 0 {
		return nil
	}
	now := time.Now()
	for _, tm := range timers {
		if now.Before(tm.next) && !(changed && tm.spec.onChange) {
			continue
		}
		// A subscriber that was too slow for several rounds gets one: state
		// coalesces. What was left out is told where each round would have sent.
		missed := 0
		if late := now.Sub(tm.next); late >= 0 {
			if missed = int(late / tm.spec.every); missed > 0 {
				tm.next = now
			}
			tm.next = tm.next.Add(tm.spec.every)
		}
		if tm.spec.changed || tm.spec.again {
			missed = 0
		}
		seen := s.look(tm, now)
		whole := !tm.spec.changed || tm.spec.heartbeat > 0 && now.Sub(tm.full) >= tm.spec.heartbeat
		if whole {
			tm.full = now
		}
		for _, n := range tm.news(seen, whole, now, s.entries) {
			if err := s.send(n, n.GetUpdate(), missed); err != nil {
				return err
			}
		}
	}
	return nil
}

// news returns what is to be sent of what was seen, and remembers it; entries
// tells of the list entries there are.
func (tm *timer) news(seen []*gnmipb.Notification, whole bool, now time.Time, entries func(time.Time) map[string]bool) []*gnmipb.Notification {
	if !tm.spec.changed {
		return seen
	}
	old := tm.last
	tm.note(seen)
	var out []*gnmipb.Notification
	for _, n := range seen {
		if !whole {
			var updates []*gnmipb.Update
			for _, u := range n.GetUpdate() {
				if before, ok := old[show(absolute(n, u))]; !ok || !proto.Equal(before.Val, u.GetVal()) {
					updates = append(updates, u)
				}
			}
			if len(updates) == 0 {
				continue
			}
			if !n.GetAtomic() { // of an atomic one all or nothing
				n.Update = updates
			}
		}
		out = append(out, n)
	}
	if tm.spec.onChange {
		if gone := tm.gone(old, func() map[string]bool { return entries(now) }); len(gone) > 0 {
			out = append(out, &gnmipb.Notification{Timestamp: now.UnixNano(), Delete: gone})
		}
	}
	return out
}

// entries returns the list entries of the state at present, by path.
func (s *sender) entries(now time.Time) map[string]bool {
	out := map[string]bool{}
	for _, n := range s.t.state(now) {
		path := n.GetPrefix().GetElem()
		for i, e := range path {
			if len(e.GetKey()) > 0 {
				out[show(path[:i+1])] = true
			}
		}
	}
	return out
}

// gone returns what is there no longer: list entries as such where nothing is
// left of one, otherwise leaf by leaf.
func (tm *timer) gone(old map[string]Leaf, entries func() map[string]bool) []*gnmipb.Path {
	var out []*gnmipb.Path
	var there map[string]bool
	told := map[string]bool{}
	for _, name := range sortedKeys(old) {
		if _, still := tm.last[name]; still {
			continue
		}
		if there == nil {
			there = entries()
		}
		path := old[name].Path
		for i := range path {
			// Not above what the client asked for: it may not know of that.
			entry := path[:i+1]
			if len(path[i].GetKey()) > 0 && !there[show(entry)] && reach(tm.spec.pattern.elems, entry) >= 0 {
				path = entry
				break
			}
		}
		if id := show(path); !told[id] {
			told[id] = true
			out = append(out, &gnmipb.Path{Elem: path})
		}
	}
	return out
}

// note remembers what was seen.
func (tm *timer) note(seen []*gnmipb.Notification) {
	tm.last = map[string]Leaf{}
	for _, n := range seen {
		for _, u := range n.GetUpdate() {
			path := absolute(n, u)
			tm.last[show(path)] = Leaf{path, u.GetVal()}
		}
	}
}
