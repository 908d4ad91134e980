package gnmi

import (
	"context"
	"time"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/grpc/codes"
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
		if err := s.state(p.all, time.Now()); err != nil {
			return err
		}
		if err := s.events(p.all, t.snapshot()); err != nil {
			return err
		}
	}
	return s.sync()
}

// serveStream serves mode STREAM until the client or the target ends it.
func (t *Target) serveStream(ctx context.Context, requests <-chan request, rpc gnmipb.GNMI_SubscribeServer, p *plan) error {
	q := newQueue(t.cfg.Queue, t.cfg.MaxLost, func(it *item) bool {
		updates, _ := pick(it.n, p.live)
		return len(updates) > 0
	})
	present := t.attach(q)
	defer t.detach(q)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &sender{t, p, rpc}
	return t.serve(ctx, requests, p, q, func() error { return s.stream(ctx, q, present) })
}

// stream sends what is there, sync_response, and from then on what happens.
func (s *sender) stream(ctx context.Context, q *queue, present []*item) error {
	now := time.Now()
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
	if !s.p.updatesOnly {
		if err := s.state(s.p.all, now); err != nil {
			return err
		}
		if err := s.events(s.p.all, present); err != nil {
			return err
		}
	}
	if err := s.sync(); err != nil {
		return err
	}
	clock := time.NewTimer(time.Hour)
	defer clock.Stop()
	for {
		for it := q.pop(); it != nil; it = q.pop() {
			if err := s.event(s.p.live, it); err != nil {
				return err
			}
			if err := s.due(timers); err != nil {
				return err
			}
		}
		if err := s.due(timers); err != nil {
			return err
		}
		wait := time.Hour
		now := time.Now()
		for _, tm := range timers {
			wait = min(wait, max(tm.next.Sub(now), 0))
		}
		clock.Reset(wait)
		select {
		case <-q.wake:
		case <-clock.C:
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	}
}

// state sends the state that any of the patterns covers.
func (s *sender) state(patterns [][]*gnmipb.PathElem, now time.Time) error {
	for _, n := range s.t.deps.State(now) {
		updates, _ := pick(n, patterns)
		if err := s.send(n, updates); err != nil {
			return err
		}
	}
	return nil
}

// events sends those events, or parts of them, that any of the patterns
// covers, oldest first.
func (s *sender) events(patterns [][]*gnmipb.PathElem, items []*item) error {
	for _, it := range items {
		if err := s.event(patterns, it); err != nil {
			return err
		}
	}
	return nil
}

func (s *sender) event(patterns [][]*gnmipb.PathElem, it *item) error {
	updates, whole := pick(it.n, patterns)
	if !whole {
		return s.send(it.n, updates)
	}
	f, err := it.whole(s.t.deps.Schema, s.p.key)
	if err != nil {
		return status.Errorf(codes.Internal, "encode event: %v", err)
	}
	return s.rpc.SendMsg(f)
}

// send sends some updates of a notification, if there are any, or deletes.
func (s *sender) send(n *gnmipb.Notification, updates []*gnmipb.Update) error {
	if len(updates) == 0 && len(n.GetDelete()) == 0 {
		return nil
	}
	f, err := marshal(encodeNotification(s.t.deps.Schema, n, updates, s.p.key))
	if err != nil {
		return status.Errorf(codes.Internal, "encode notification: %v", err)
	}
	return s.rpc.SendMsg(f)
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
	last map[string]located
}

// look returns what the timer's path covers at present.
func (s *sender) look(tm *timer, now time.Time) []*gnmipb.Notification {
	var out []*gnmipb.Notification
	add := func(n *gnmipb.Notification) {
		if updates, _ := pick(n, [][]*gnmipb.PathElem{tm.spec.pattern}); len(updates) > 0 {
			out = append(out, &gnmipb.Notification{Timestamp: n.GetTimestamp(), Prefix: n.GetPrefix(), Atomic: n.GetAtomic(), Update: updates})
		}
	}
	if tm.spec.state {
		for _, n := range s.t.deps.State(now) {
			add(n)
		}
	}
	if tm.spec.events {
		for _, it := range s.t.snapshot() {
			add(it.n)
		}
	}
	return out
}

// due sends what the timers that are due ask for.
func (s *sender) due(timers []*timer) error {
	now := time.Now()
	for _, tm := range timers {
		if now.Before(tm.next) {
			continue
		}
		// A subscriber that was too slow for several rounds gets one: state
		// coalesces.
		for tm.next = tm.next.Add(tm.spec.every); !now.Before(tm.next); tm.next = now.Add(tm.spec.every) {
		}
		seen := s.look(tm, now)
		whole := !tm.spec.changed || tm.spec.heartbeat > 0 && now.Sub(tm.full) >= tm.spec.heartbeat
		if whole {
			tm.full = now
		}
		for _, n := range tm.news(seen, whole, now) {
			if err := s.send(n, n.GetUpdate()); err != nil {
				return err
			}
		}
	}
	return nil
}

// news returns what is to be sent of what was seen, and remembers it.
func (tm *timer) news(seen []*gnmipb.Notification, whole bool, now time.Time) []*gnmipb.Notification {
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
				if before, ok := old[show(absolute(n, u))]; !ok || !proto.Equal(before.val, u.GetVal()) {
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
	if tm.spec.gone {
		gone := &gnmipb.Notification{Timestamp: now.UnixNano()}
		for name, l := range old {
			if _, still := tm.last[name]; !still {
				gone.Delete = append(gone.Delete, &gnmipb.Path{Elem: l.path})
			}
		}
		if len(gone.Delete) > 0 {
			out = append(out, gone)
		}
	}
	return out
}

// note remembers what was seen.
func (tm *timer) note(seen []*gnmipb.Notification) {
	tm.last = map[string]located{}
	for _, n := range seen {
		for _, u := range n.GetUpdate() {
			path := absolute(n, u)
			tm.last[show(path)] = located{path, u.GetVal()}
		}
	}
}
