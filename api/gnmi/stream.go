package gnmi

import (
	"context"
	"math"
	"slices"
	"time"
	"weak"

	"decaf/api/yang"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// sender sends to one subscriber. Only its own goroutine uses it. What it is
// sending may hang for long, so meanwhile it holds no more than that: the events
// that come after are in its queue, and the state is looked at again (weak).
type sender struct {
	t   *Target
	p   *plan
	rpc gnmipb.GNMI_SubscribeServer
	q   *queue
}

// once sends everything there is at present, then sync_response.
func (t *Target) once(ctx context.Context, requests <-chan request, rpc gnmipb.GNMI_SubscribeServer, p *plan) error {
	return t.serveWith(ctx, requests, rpc, p, func(ctx context.Context, s *sender) error {
		if err := s.begin(ctx, time.Now()); err != nil {
			return err
		}
		return s.sync()
	})
}

// serveStream serves mode STREAM until the client or the target ends it.
func (t *Target) serveStream(ctx context.Context, requests <-chan request, rpc gnmipb.GNMI_SubscribeServer, p *plan) error {
	return t.serveWith(ctx, requests, rpc, p, func(ctx context.Context, s *sender) error { return s.stream(ctx) })
}

// serveWith runs work with a sender whose queue is in line for events.
func (t *Target) serveWith(ctx context.Context, requests <-chan request, rpc gnmipb.GNMI_SubscribeServer, p *plan, work func(context.Context, *sender) error) error {
	q := newQueue(t.cfg.Queue, t.cfg.MaxLost, p.wants)
	t.attach(q, p)
	defer t.detach(q, p)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return t.serve(ctx, requests, p, q, func() error { return work(ctx, &sender{t, p, rpc, q}) })
}

// begin sends what there is, as far as it is asked for.
func (s *sender) begin(ctx context.Context, now time.Time) error {
	if !s.p.updatesOnly && !s.p.era.past {
		v := &view{list: s.t.deps.State(now)}
		if err := s.containers(ctx, v, func(v *view, i int) []*gnmipb.Update {
			updates, _ := pick(v.list[i], s.p.all)
			return updates
		}, 0); err != nil {
			return err
		}
	}
	return s.events(ctx, s.p.all, 0)
}

// stream sends what is there, sync_response, and from then on what happens, or as
// much of it as lies in the era that is asked for.
func (s *sender) stream(ctx context.Context) error {
	now := time.Now()
	if s.p.era.past {
		s.p.timers = nil
	}
	timers := make([]*timer, len(s.p.timers))
	for i, spec := range s.p.timers {
		timers[i] = &timer{spec: spec, next: now.Add(spec.every), full: now, event: s.q.joined}
		// What is there counts as sent, with updates_only too: only what differs
		// from it is news.
		if spec.changed && spec.kinds&stateKinds != 0 {
			timers[i].version = s.t.compared(now).version
		}
	}
	if err := s.begin(ctx, now); err != nil {
		return err
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
		for e := s.q.pop(); e.item != nil; e = s.q.pop() {
			told = true
			if err := s.queued(e); err != nil {
				return err
			}
			if err := s.due(ctx, timers, false); err != nil {
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
			case <-s.q.hurry:
			case <-s.t.stopping:
			case <-ctx.Done():
				return status.FromContextError(ctx.Err()).Err()
			}
		}
		if err := s.due(ctx, timers, s.q.looks()); err != nil {
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
		case <-s.q.wake:
		case <-clock.C:
		case <-s.t.stopping:
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	}
}

// containers sends of each container of the state what choose says, in their
// order; duplicates is how many values of theirs were left out before.
func (s *sender) containers(ctx context.Context, v *view, choose func(v *view, i int) []*gnmipb.Update, duplicates int) error {
	held := weak.Make(v)
	var last []*gnmipb.PathElem
	for i := 0; ; i++ {
		if v = held.Value(); v == nil {
			// It hung so long that nobody has this look any more: what is left
			// of it is as it is now.
			v = s.t.compared(time.Now())
			held, i = weak.Make(v), v.after(last, i)
		}
		if i >= len(v.list) {
			return nil
		}
		last = v.list[i].GetPrefix().GetElem()
		updates := choose(v, i)
		if len(updates) == 0 {
			continue
		}
		if err := ctx.Err(); err != nil {
			return status.FromContextError(err).Err()
		}
		if err := s.rpc.SendMsg(s.frame(v.list[i], updates, duplicates)); err != nil {
			return err
		}
	}
}

// events sends of the events that are before the subscriber (queue.come) what any
// of the patterns covers, oldest first.
func (s *sender) events(ctx context.Context, patterns []pattern, duplicates int) error {
	for e := s.q.first(); e.item != nil; e = s.q.first() {
		if err := ctx.Err(); err != nil {
			return status.FromContextError(err).Err()
		}
		if err := s.event(e.item, patterns, duplicates+e.gap); err != nil {
			return err
		}
	}
	return nil
}

// event sends what the patterns cover of an event.
func (s *sender) event(it *item, patterns []pattern, duplicates int) error {
	some, whole := covering(it.prefix, patterns)
	switch {
	case whole && duplicates == 0:
		return s.rpc.SendMsg(it.whole(s.t.deps.Schema, s.p.key))
	case whole:
		return s.rpc.SendMsg(it.again(s.t.deps.Schema, s.p.key, uint32(min(duplicates, math.MaxUint32))))
	case len(some) == 0:
		return nil
	}
	n, updates := it.pick(some)
	return s.send(n, updates, duplicates)
}

// queued sends what is for the subscriber of an event as it happens.
func (s *sender) queued(e queued) error {
	if e.whole && e.gap == 0 {
		return s.rpc.SendMsg(e.item.whole(s.t.deps.Schema, s.p.key))
	}
	return s.event(e.item, s.p.live, e.gap)
}

// send sends some updates of a notification, if there are any, or deletes;
// duplicates is how many values of theirs were left out before.
func (s *sender) send(n *gnmipb.Notification, updates []*gnmipb.Update, duplicates int) error {
	if len(updates) == 0 && len(n.GetDelete()) == 0 {
		return nil
	}
	return s.rpc.SendMsg(s.frame(n, updates, duplicates))
}

func (s *sender) frame(n *gnmipb.Notification, updates []*gnmipb.Update, duplicates int) *frame {
	return newFrame(s.t.deps.Schema, n, updates, s.p.key, uint32(min(duplicates, math.MaxUint32)))
}

func (s *sender) sync() error {
	return s.rpc.Send(&gnmipb.SubscribeResponse{Response: &gnmipb.SubscribeResponse_SyncResponse{SyncResponse: true}})
}

// timer is a timerSpec at work. What it sent it knows by numbers alone.
type timer struct {
	spec    timerSpec
	next    time.Time
	full    time.Time // when all of it was last sent
	version uint64    // of the state that it was last told of (changes)
	event   uint64    // number of the newest event then
}

var stateKinds = setOf(yang.State, yang.Setting)

// due sends what the timers that are due ask for, and those that look for
// changes when something is known to have changed.
func (s *sender) due(ctx context.Context, timers []*timer, changed bool) error {
	if len(timers) == 0 {
		return nil
	}
	now := time.Now()
	for _, tm := range timers {
		if now.Before(tm.next) && !(changed && tm.spec.onChange) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return status.FromContextError(err).Err()
		}
		if ended(s.t.stopping) {
			return nil // what is left to send is what was published
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
		whole := !tm.spec.changed || tm.spec.heartbeat > 0 && now.Sub(tm.full) >= tm.spec.heartbeat
		if whole {
			tm.full = now
		}
		if tm.spec.kinds&stateKinds != 0 {
			if err := s.stateRound(ctx, tm, whole, now, missed); err != nil {
				return err
			}
		}
		if tm.spec.kinds.has(yang.Event) {
			if err := s.eventRound(ctx, tm, whole, missed); err != nil {
				return err
			}
		}
	}
	return nil
}

// stateRound sends the state that a timer is for: all of it, or what changed since
// the round before.
func (s *sender) stateRound(ctx context.Context, tm *timer, all bool, now time.Time, missed int) error {
	var v *view
	var gone []*gnmipb.Path
	since := tm.version
	if !tm.spec.changed {
		v = s.t.state(now)
	} else {
		v = s.t.compared(now)
		tm.version = v.version
		if tm.spec.onChange {
			if since < v.forgotten {
				return status.Errorf(codes.ResourceExhausted, "subscriber too slow: more than %d leaves went since it was last told: read faster, or subscribe to less", maxGone/2)
			}
			gone = v.goneSince(since, tm.spec.pattern, tm.spec.kinds)
		}
	}
	patterns := []pattern{tm.spec.pattern}
	if err := s.containers(ctx, v, func(v *view, i int) []*gnmipb.Update {
		if !all && !v.touched(i, since) {
			return nil
		}
		n := v.list[i]
		if node := walk(s.t.deps.Schema, n.GetPrefix().GetElem()); node == nil || !tm.spec.kinds.has(node.Kind) {
			return nil
		}
		updates, _ := pick(n, patterns)
		if all {
			return updates
		}
		return v.since(i, updates, since)
	}, missed); err != nil {
		return err
	}
	return s.send(&gnmipb.Notification{Timestamp: now.UnixNano(), Delete: gone}, nil, 0)
}

// eventRound sends the events that a timer is for: all of them, or those that
// happened since the round before. One that happened is news, also when it has
// the values of the one whose place it took.
func (s *sender) eventRound(ctx context.Context, tm *timer, all bool, missed int) error {
	since := tm.event
	if !all && s.t.newest() == since {
		return nil
	}
	items := s.t.snapshot()
	if len(items) > 0 {
		tm.event = items[len(items)-1].number
	}
	patterns := []pattern{tm.spec.pattern}
	s.q.come(slices.DeleteFunc(items, func(it *item) bool {
		return !all && it.number <= since || !s.p.era.holds(it) || !covered(it, patterns)
	}))
	return s.events(ctx, patterns, missed)
}

// covered reports whether the patterns may cover something of an event.
func covered(it *item, patterns []pattern) bool {
	some, whole := covering(it.prefix, patterns)
	return whole || len(some) > 0
}
