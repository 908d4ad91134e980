package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"decaf/api/yang"
)

// tellAll has an agent tell of each drop, whatever that costs.
const tellAll = "ring: 65536\nreport: {threshold: 1000000}\nfuse: {cpu: 64, memory_bytes: 8589934592, events: 1000000, queue: 1}\n"

// slowRate is the events a second beside which a subscriber never reads.
const slowRate = 10_000

// fanOut is a figure of how many events reach all who listen.
type fanOut struct {
	fan
	metric, what string
}

// fanOuts are measured in turn.
var fanOuts = []fanOut{
	{fan{1, true}, "fanout1_events_per_s", "events to one subscriber over mutual TLS, without loss"},
	{fan{16, true}, "fanout16_events_per_s", "events to each of 16 subscribers over mutual TLS, without loss, the agent's budgets raised"},
	{fan{16, false}, "fanout16_plain_events_per_s", "the same in plain text"},
}

// fanOut finds, by steps of half as many again, the most events a second that
// reach every subscriber without loss.
func (b *deviceRun) fanOut(ctx context.Context) error {
	for _, f := range fanOuts {
		cpu := 0.0
		best := 0.0
		for rate := 2000.0; ; rate *= 1.5 {
			r, err := b.fan(ctx, f.fan, rate)
			if err != nil {
				return err
			}
			b.Log("%d subscribers, TLS %v, %.0f events/s offered: %.0f reached each, %d missed, agent at %.0f %% of a core", f.subscribers, f.secure, rate, r.reached, r.missed, r.cpu)
			if r.missed == 0 {
				best, cpu = max(best, r.reached), r.cpu
			}
			if r.missed > 0 || r.reached < 0.8*rate {
				break
			}
		}
		b.result(f.metric, best, "1/s", f.what)
		b.result(strings.TrimSuffix(f.metric, "events_per_s")+"agent_cpu_pct", cpu, "% of a core", "the agent's process meanwhile")
	}
	return nil
}

// fan is who listens, each on a connection of its own.
type fan struct {
	subscribers int
	secure      bool // mutual TLS
}

// reach is how far events came.
type reach struct {
	offered, reached float64 // events a second; reached: each subscriber
	missed           uint64  // events that did not reach all of them
	cpu              float64 // of the agent, in % of a core
}

// fan sends drops at a rate to an agent that tells of each.
func (b *deviceRun) fan(ctx context.Context, f fan, rate float64) (reach, error) {
	a, err := b.startOver(ctx, tellAll, f.secure)
	if err != nil {
		return reach{}, err
	}
	defer a.stop()
	l, err := a.listen(ctx, f.subscribers)
	if err != nil {
		return reach{}, err
	}
	defer l.close()
	run, stop := context.WithTimeout(ctx, b.Duration)
	defer stop()
	return b.offer(run, a, l, rate)
}

// offer sends drops at a rate until ctx ends and waits for the subscribers.
func (b *deviceRun) offer(ctx context.Context, a *deviceAgent, l *audience, rate float64) (reach, error) {
	before, err := a.cpu()
	if err != nil {
		return reach{}, err
	}
	begin := time.Now()
	sent, err := b.flood.run(ctx, rate)
	took := time.Since(begin).Seconds()
	after, errCPU := a.cpu()
	if err := errors.Join(err, errCPU); err != nil {
		return reach{}, err
	}
	// What is under way arrives; a second of nothing new is the end.
	least, since := l.least(), time.Now()
	for least < sent && time.Since(since) < time.Second {
		time.Sleep(10 * time.Millisecond)
		if now := l.least(); now != least {
			least, since = now, time.Now()
		}
	}
	// One that was told to be too slow is as far as it came.
	l.end()
	return reach{
		offered: float64(sent) / took, reached: float64(least) / took,
		missed: max(sent-min(least, sent), l.holes.Load()), cpu: 100 * (after - before).Seconds() / took,
	}, nil
}

// audience are subscribers to an agent's events: the first decodes what comes and
// checks its sequence, the others count.
type audience struct {
	cancel  context.CancelFunc
	clients []*deviceClient
	waits   []func() error
	counts  []atomic.Uint64
	holes   atomic.Uint64
}

func (a *deviceAgent) listen(ctx context.Context, subscribers int) (_ *audience, err error) {
	l := &audience{counts: make([]atomic.Uint64, subscribers)}
	ctx, l.cancel = context.WithCancel(ctx)
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	for i := range subscribers {
		c, err := a.dial()
		if err != nil {
			return nil, err
		}
		l.clients = append(l.clients, c)
		var wait func() error
		if i > 0 {
			wait, err = c.countFrames(ctx, "events", func() { l.counts[i].Add(1) })
		} else {
			last := uint64(0)
			wait, err = c.watch(ctx, "events", func(u *gnmipb.Notification, _ time.Time) error {
				ev, is, err := yang.DecodeEvent(u)
				if err == nil && is {
					l.holes.Add(ev.Origin.Seq - last - 1)
					last = ev.Origin.Seq
					l.counts[0].Add(1)
				}
				return err
			})
		}
		if err != nil {
			return nil, err
		}
		l.waits = append(l.waits, wait)
	}
	return l, nil
}

// least is how many events all of them have.
func (l *audience) least() uint64 {
	least := l.counts[0].Load()
	for i := 1; i < len(l.counts); i++ {
		n := l.counts[i].Load()
		least = min(least, n-min(n, 1)) // the sync_response
	}
	return least
}

// end ends the subscriptions; which of them had ended before shows in the counts.
func (l *audience) end() {
	l.cancel()
	for _, wait := range l.waits {
		_ = wait()
	}
	l.waits = nil
}

func (l *audience) close() {
	l.end()
	for _, c := range l.clients {
		c.close()
	}
}

// slowReader has a 17th subscriber that never reads beside 16 that do, all over
// mutual TLS: it is to be ended, and they are to lose nothing.
func (b *deviceRun) slowReader(ctx context.Context) error {
	took, r, err := b.slow(ctx, 16, slowRate, time.Minute)
	if err != nil {
		return err
	}
	ended := 0.0
	if took > 0 {
		ended = 1
		b.result("fanout_slow_reader_s", took.Seconds(), "s", "until it is ended")
	}
	b.result("fanout_slow_reader_ended", ended, "", "1: a subscriber that never reads is ended with RESOURCE_EXHAUSTED")
	b.result("fanout_slow_reader_events_per_s", r.offered, "1/s", "events meanwhile")
	b.result("fanout_slow_reader_others_missed", float64(r.missed), "", "events that did not reach all 16 others meanwhile")
	b.result("fanout_slow_reader_agent_cpu_pct", r.cpu, "% of a core", "the agent's process meanwhile")
	return nil
}

// slow offers events at a rate until a subscriber that never reads is ended,
// which took so long, or for as long as that; took is 0 when it is not.
func (b *deviceRun) slow(ctx context.Context, subscribers int, rate float64, longest time.Duration) (took time.Duration, r reach, err error) {
	a, err := b.startOver(ctx, tellAll, true)
	if err != nil {
		return 0, r, err
	}
	defer a.stop()
	l, err := a.listen(ctx, subscribers)
	if err != nil {
		return 0, r, err
	}
	defer l.close()
	// A window that does not grow: how much gRPC takes for who does not read is
	// the client's choice.
	deaf, err := a.dial(grpc.WithInitialWindowSize(1<<16), grpc.WithInitialConnWindowSize(1<<16))
	if err != nil {
		return 0, r, err
	}
	defer deaf.close()
	s, err := gnmipb.NewGNMIClient(deaf.conn).Subscribe(ctx)
	if err == nil {
		err = s.Send(&gnmipb.SubscribeRequest{Request: &gnmipb.SubscribeRequest_Subscribe{Subscribe: lossPath("events")}})
	}
	if err != nil {
		return 0, r, fmt.Errorf("subscribe: %w", err)
	}
	// The agent says how many subscribers it has.
	count := func(n int) func() (bool, error) {
		return func() (bool, error) { have, err := a.subscribers(ctx); return have == n, err }
	}
	joined, err := until(ctx, 20*time.Second, count(subscribers+1))
	if err == nil && !joined {
		err = errors.New("the agent does not count its subscribers")
	}
	if err != nil {
		return 0, r, err
	}
	run, stop := context.WithTimeout(ctx, longest)
	defer stop()
	gone := make(chan error, 1)
	begin := time.Now()
	go func() {
		ended, err := until(run, longest, count(subscribers))
		if ended {
			took = time.Since(begin)
		}
		// And for as long as any other measurement.
		if rest := b.Duration - time.Since(begin); err == nil && rest > 0 {
			select {
			case <-time.After(rest):
			case <-run.Done():
			}
		}
		stop()
		gone <- err
	}()
	r, err = b.offer(run, a, l, rate)
	stop()
	if err := errors.Join(err, <-gone); err != nil || took == 0 {
		return 0, r, err
	}
	for {
		if _, err := s.Recv(); status.Code(err) == codes.ResourceExhausted {
			return took, r, nil
		} else if err != nil {
			return 0, r, fmt.Errorf("a subscriber that never read was ended otherwise: %w", err)
		}
	}
}

// subscribers is how many the agent has.
func (a *deviceAgent) subscribers(ctx context.Context) (int, error) {
	path := &gnmipb.Path{Elem: []*gnmipb.PathElem{{Name: "loss"}, {Name: "agent"}, {Name: "state"}, {Name: "subscribers"}}}
	resp, err := gnmipb.NewGNMIClient(a.conn).Get(ctx, &gnmipb.GetRequest{Path: []*gnmipb.Path{path}, Encoding: gnmipb.Encoding_PROTO})
	if err != nil {
		return 0, fmt.Errorf("get the number of subscribers: %w", err)
	}
	for _, n := range resp.GetNotification() {
		for _, u := range n.GetUpdate() {
			return int(u.GetVal().GetUintVal()), nil
		}
	}
	return 0, errors.New("get the number of subscribers: an empty answer")
}

// until tries every 10 ms until it holds, for so long; it does not when ctx ends.
func until(ctx context.Context, most time.Duration, holds func() (bool, error)) (bool, error) {
	for end := time.Now().Add(most); ctx.Err() == nil && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if ok, err := holds(); ok || err != nil && ctx.Err() == nil {
			return ok, err
		}
	}
	return false, nil
}
