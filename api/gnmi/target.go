package gnmi

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"decaf/api/service"
	"decaf/api/yang"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"
)

// Config is what the engine needs to know. DefaultConfig has a good value for
// all but TLS.
type Config struct {
	Listen string      // "host:port"; off-loopback TLS is a must
	TLS    *tls.Config // nil: plain text

	Ring           int           // events kept of each list; at least 1
	Queue          int           // events waiting for one subscriber; then the oldest goes
	MaxLost        int           // events one subscriber may lose before its stream ends
	MaxSubscribers int           // open Subscribe calls
	MinSample      time.Duration // shortest sample interval, and what interval 0 means
	Sample         time.Duration // interval of state under TARGET_DEFINED
	Scan           time.Duration // how often state under ON_CHANGE is looked at
	Gather         time.Duration // after events were sent, how long those that follow may wait for one another
	Drain          time.Duration // at the end, how long subscribers may take to read what is left
}

// DefaultConfig listens on the port IANA gave to gNMI, on loopback.
func DefaultConfig() Config {
	return Config{
		Listen:         "127.0.0.1:9339",
		Ring:           1024,
		Queue:          4096,
		MaxLost:        65536,
		MaxSubscribers: 1024,
		MinSample:      100 * time.Millisecond,
		Sample:         2 * time.Second,
		Scan:           time.Second,
		Gather:         2 * time.Millisecond,
		Drain:          2 * time.Second,
	}
}

// Deps is what the engine stands on.
type Deps struct {
	Schema *yang.Node          // its root has no name
	Models []*gnmipb.ModelData // what Capabilities lists
	// State returns the present values of all containers of kinds yang.State
	// and yang.Setting: one notification each, with its timestamp, the
	// container's path as prefix and leaves relative to it, in native types. The
	// engine does not change them, and the caller must not either.
	State func(now time.Time) []*gnmipb.Notification
	// Settings is what clients set; nil is nothing.
	Settings Settings
	// Login checks who calls; nil is nobody.
	Login Login
	Log   *slog.Logger
}

// Stats are counters since the target was made.
type Stats struct {
	Published   uint64 // events
	Lost        uint64 // events that did not fit in a subscriber's queue, over all
	Ended       uint64 // streams ended because the subscriber was too slow
	Subscribers uint64 // open Subscribe calls
}

// Target is a gNMI server.
type Target struct {
	gnmipb.UnimplementedGNMIServer

	cfg  Config
	deps Deps

	// mu orders Publish against new subscriptions: a subscriber's snapshot of
	// the ring and its live events join without a gap or a repeat.
	mu     sync.Mutex
	rings  *rings
	queues map[*queue]struct{}
	// asked is how many subscribers get whole events in each form, and forms the
	// first of these, which Publish makes for all.
	asked map[frameKey]int
	forms atomic.Pointer[[]frameKey]

	// seen is the state that timers look at: one look serves all that come soon
	// after it.
	seenMu  sync.Mutex
	seen    *view
	seenAt  time.Time
	changes changes

	making chan struct{} // has a token while a large answer to a Get is made

	listener net.Listener
	ready    chan struct{} // closed when it listens
	stopping chan struct{} // closed when it shall end: nothing is published any more
	stopped  chan struct{} // closed when it ends, with what is not sent yet
	calls    sync.WaitGroup

	published, lost, ended atomic.Uint64
	subscribers            atomic.Int64
}

// New checks the configuration and returns a target that does nothing yet.
// Publish may be called from now on.
func New(cfg Config, deps Deps) (*Target, error) {
	def := DefaultConfig()
	setDefault(&cfg.Ring, def.Ring)
	setDefault(&cfg.Queue, def.Queue)
	setDefault(&cfg.MaxLost, def.MaxLost)
	setDefault(&cfg.MaxSubscribers, def.MaxSubscribers)
	setDefault(&cfg.MinSample, def.MinSample)
	setDefault(&cfg.Sample, def.Sample)
	setDefault(&cfg.Scan, def.Scan)
	setDefault(&cfg.Gather, def.Gather)
	setDefault(&cfg.Drain, def.Drain)
	if cfg.Listen == "" {
		cfg.Listen = def.Listen
	}
	switch {
	case deps.Schema == nil:
		return nil, errors.New("gnmi target: no schema")
	case cfg.Ring < 1 || cfg.Queue < 1 || cfg.MaxLost < 1 || cfg.MaxSubscribers < 1:
		return nil, fmt.Errorf("gnmi target: ring %d, queue %d, max lost %d and max subscribers %d must be 1 or more", cfg.Ring, cfg.Queue, cfg.MaxLost, cfg.MaxSubscribers)
	case cfg.MinSample < time.Millisecond || cfg.Sample < cfg.MinSample || cfg.Scan < time.Millisecond:
		return nil, fmt.Errorf("gnmi target: sample interval %s must be %s or more, and that and the scan interval %s a millisecond or more", cfg.Sample, cfg.MinSample, cfg.Scan)
	case cfg.Gather < 0 || cfg.Gather > time.Second || cfg.Drain < 0:
		return nil, fmt.Errorf("gnmi target: events cannot be gathered for %s, or what is left sent for %s: 0 is %s and %s, and events wait for a second at most", cfg.Gather, cfg.Drain, def.Gather, def.Drain)
	case cfg.TLS == nil && !service.Loopback(cfg.Listen):
		return nil, fmt.Errorf("gnmi target: will not listen on %s in plain text: give tls ca, cert and key, or listen on a loopback address", cfg.Listen)
	}
	if cfg.TLS != nil && cfg.TLS.MinVersion < tls.VersionTLS12 {
		cfg.TLS = cfg.TLS.Clone()
		cfg.TLS.MinVersion = tls.VersionTLS12
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	if deps.State == nil {
		deps.State = func(time.Time) []*gnmipb.Notification { return nil }
	}
	return &Target{
		cfg:      cfg,
		deps:     deps,
		rings:    newRings(cfg.Ring),
		queues:   map[*queue]struct{}{},
		asked:    map[frameKey]int{},
		making:   make(chan struct{}, 1),
		ready:    make(chan struct{}),
		stopping: make(chan struct{}),
		stopped:  make(chan struct{}),
	}, nil
}

func setDefault[T int | time.Duration](v *T, def T) {
	if *v == 0 {
		*v = def
	}
}

// Publish hands an event to the target: an atomic notification whose prefix is
// the path of its container, leaves relative to it, values in native types. An
// event Config.Ring publications later in the same list must have the same
// prefix, so that it overwrites this one wherever it was kept. Publish never waits
// for a subscriber; it writes the event for all of them. The notification belongs
// to the target from now on.
func (t *Target) Publish(n *gnmipb.Notification) {
	it := newItem(n)
	if forms := t.forms.Load(); forms != nil {
		for _, k := range *forms {
			it.whole(t.deps.Schema, k)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	expire := t.published.Add(1)%uint64(t.cfg.Ring) == 0
	t.rings.add(it)
	for q := range t.queues {
		t.note(q.push(it))
		if expire {
			t.note(q.expire(t.keep()))
		}
	}
}

// keep is how many of a list may come after an event before it is in nobody's
// queue: subscribers who do not read hold no more than that, all together.
func (t *Target) keep() uint64 { return uint64(max(t.cfg.Queue, 2*t.cfg.Ring)) }

// note counts what a queue lost.
func (t *Target) note(lost int, ended bool) {
	t.lost.Add(uint64(lost))
	if ended {
		t.ended.Add(1)
	}
}

// Stats returns the counters.
func (t *Target) Stats() Stats {
	return Stats{
		Published:   t.published.Load(),
		Lost:        t.lost.Load(),
		Ended:       t.ended.Load(),
		Subscribers: uint64(t.subscribers.Load()),
	}
}

// Listen opens the listening socket, in the network namespace of the calling
// thread. Run does it when it was not done before.
func (t *Target) Listen(ctx context.Context) (net.Addr, error) {
	if t.listener != nil {
		return t.listener.Addr(), nil
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", t.cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("gnmi target: %w: is another agent running on that address?", err)
	}
	t.listener = l
	close(t.ready)
	return l.Addr(), nil
}

// Addr waits until the target listens and returns its address, or nil when ctx
// ends before.
func (t *Target) Addr(ctx context.Context) net.Addr {
	select {
	case <-t.ready:
	case <-ctx.Done():
	}
	select {
	case <-t.ready:
		return t.listener.Addr()
	default:
		return nil
	}
}

// Run serves until ctx ends. From then on it takes no calls; each subscriber still
// gets what was published, if it reads that within Config.Drain, and then its
// stream ends with UNAVAILABLE. Run waits for all calls and returns nil. What is
// published after ctx ended may reach nobody. It can be called once.
func (t *Target) Run(ctx context.Context) error {
	if _, err := t.Listen(ctx); err != nil {
		return err
	}
	creds := insecure.NewCredentials()
	if t.cfg.TLS != nil {
		creds = credentials.NewTLS(t.cfg.TLS)
	}
	opts := []grpc.ServerOption{
		grpc.Creds(wiredCredentials{creds}),
		grpc.ForceServerCodecV2(newCodec()),
		// A client that went away without a word frees its slot.
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.MaxRecvMsgSize(1 << 20),
		// A connection that is idle costs little: requests are short, and who
		// has nothing to send keeps no room for it.
		grpc.ReadBufferSize(4 << 10),
		grpc.SharedWriteBuffer(true),
		grpc.MaxConcurrentStreams(uint32(t.cfg.MaxSubscribers) + 16),
		grpc.UnaryInterceptor(t.enterUnary),
		grpc.StreamInterceptor(t.enterStream),
	}
	srv := grpc.NewServer(opts...)
	gnmipb.RegisterGNMIServer(srv, t)
	reflection.Register(srv)

	t.deps.Log.Info("gNMI target listens", "address", t.listener.Addr().String(), "tls", t.cfg.TLS != nil)
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(t.listener) }()
	var err error
	select {
	case err = <-failed:
		close(t.stopping)
		close(t.stopped)
		srv.Stop() // the connections that there are
	case <-ctx.Done():
		close(t.stopping)
		drained := make(chan struct{})
		go func() { srv.GracefulStop(); close(drained) }()
		// Calls end by themselves now; a client that reads nothing does not
		// get to hold up the end.
		timer := time.NewTimer(t.cfg.Drain)
		select {
		case <-drained:
			close(t.stopped)
		case <-timer.C:
			close(t.stopped)
			srv.Stop()
			<-drained
		}
		timer.Stop()
		err = <-failed
	}
	t.calls.Wait()
	if err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("gnmi target: %w", err)
	}
	return nil
}

// Changed says that what State returns changed, or that there is less of it, and
// that subscribers to changes are not to wait for their next look.
func (t *Target) Changed() {
	t.seenMu.Lock()
	t.seen = nil
	t.seenMu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	for q := range t.queues {
		q.look()
	}
}

// state returns the state at present, or as it was within Config.MinSample/2
// before: a thousand subscribers do not make for a thousand looks.
func (t *Target) state(now time.Time) *view {
	t.seenMu.Lock()
	defer t.seenMu.Unlock()
	return t.look(now)
}

// compared is state, held against the looks before.
func (t *Target) compared(now time.Time) *view {
	t.seenMu.Lock()
	defer t.seenMu.Unlock()
	v := t.look(now)
	if v.at == nil {
		t.changes.compare(t.deps.Schema, v)
	}
	return v
}

// look is state. The caller holds t.seenMu.
func (t *Target) look(now time.Time) *view {
	// Who waited for the lock comes with a time before the last look: that is
	// new enough.
	if t.seen == nil || now.Sub(t.seenAt) > t.cfg.MinSample/2 {
		t.seen, t.seenAt = &view{list: t.deps.State(now)}, now
	}
	return t.seen
}

// snapshot returns the events at present, oldest first.
func (t *Target) snapshot() []*item {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.rings.all()
}

// newest returns the number of the last event.
func (t *Target) newest() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.rings.number
}

// attach puts the queue in line for events to come, and before it those that there
// are, as far as they are asked for.
func (t *Target) attach(q *queue, p *plan) {
	t.mu.Lock()
	t.queues[q] = struct{}{}
	t.ask(p, 1)
	q.joined = t.rings.number
	there := t.rings.all()
	t.mu.Unlock()
	// What happened in the range that is asked for is an update, not what was
	// there before.
	if p.updatesOnly && p.era == present || p.updatesOnly && p.mode != gnmipb.SubscriptionList_STREAM {
		return
	}
	q.come(slices.DeleteFunc(there, func(it *item) bool { return !p.era.holds(it) || !covered(it, p.all) }))
}

func (t *Target) detach(q *queue, p *plan) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.queues, q)
	t.ask(p, -1)
}

// ask notes in which form so many subscribers more get events. The caller holds
// t.mu.
func (t *Target) ask(p *plan, more int) {
	if len(p.live) == 0 {
		return
	}
	before := len(t.asked)
	if t.asked[p.key] += more; t.asked[p.key] == 0 {
		delete(t.asked, p.key)
	}
	if len(t.asked) == before {
		return
	}
	var forms []frameKey
	for k := range t.asked {
		if len(forms) < maxFrames {
			forms = append(forms, k)
		}
	}
	t.forms.Store(&forms)
}

// ended reports whether a channel that nothing is sent on was closed.
func ended(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

var errStopping = status.Error(codes.Unavailable, "target is stopping: try again later")
