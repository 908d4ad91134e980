package tracer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
	"google.golang.org/protobuf/proto"

	"decaf/api/decafpb"
	"decaf/api/packet"
)

// Tracer traces flows from this host. All its methods may be called from any
// goroutine; any number of traces run at a time, up to Config.MaxLive.
//
// Lock order: Tracer.mu, then trace.mu.
type Tracer struct {
	cfg      Config
	distance Distance
	log      *slog.Logger
	bucket   *rate.Limiter
	counters counters
	v4, v6   *endpoint // v6 is nil where the host has no IPv6
	closed   chan struct{}
	close    sync.Once
	running  atomic.Bool

	mu    sync.Mutex
	cache *cache
	live  map[uint32]*trace // by the TCP sequence of its probes
}

// trace is one trace under way.
type trace struct {
	id    identity
	flow  packet.Flow
	start time.Time
	done  chan struct{} // closed by whoever ends the machine

	mu sync.Mutex
	m  *machine
}

// New opens a raw sender and an ICMP receiver for IPv4, and for IPv6 where the
// host has it, in the network namespace of the calling thread. Nothing is sent,
// and no answer read, before Run. distance may be nil: nothing is known then.
// Errors: a bad configuration, or sockets that may not be opened (needs
// CAP_NET_RAW).
func New(cfg Config, distance Distance, log *slog.Logger) (*Tracer, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("tracer: %w", err)
	}
	if distance == nil {
		distance = func(netip.Addr, netip.Addr) int { return 0 }
	}
	v4, err := openEndpoint(false, cfg.ReceiveBuffer)
	if err != nil {
		return nil, fmt.Errorf("tracer: %w", err)
	}
	v6, err := openEndpoint(true, cfg.ReceiveBuffer)
	if errors.Is(err, errNoFamily) {
		log.Info("tracing IPv4 only: this host has no IPv6")
		v6 = nil
	} else if err != nil {
		return nil, errors.Join(fmt.Errorf("tracer: %w", err), v4.close())
	}
	return &Tracer{
		cfg:      cfg,
		distance: distance,
		log:      log,
		bucket:   rate.NewLimiter(rate.Limit(cfg.Rate), cfg.Burst),
		v4:       v4,
		v6:       v6,
		closed:   make(chan struct{}),
		cache:    newCache(cfg.MaxCached),
		live:     make(map[uint32]*trace),
	}, nil
}

// Run reads answers until ctx is done or Close is called, and then closes the
// Tracer for good and returns nil; an error means that a receiver broke. It is
// called once. Traces begun before it find their answers waiting.
func (t *Tracer) Run(ctx context.Context) error {
	if !t.running.CompareAndSwap(false, true) {
		return errors.New("tracer: run called twice")
	}
	defer t.running.Store(false)
	group, ctx := errgroup.WithContext(ctx)
	for _, e := range []*endpoint{t.v4, t.v6} {
		if e != nil {
			group.Go(func() error { return t.receive(e) })
		}
	}
	group.Go(func() error {
		select {
		case <-ctx.Done():
		case <-t.closed:
		}
		return t.Close() // ends the receivers' reads
	})
	if err := group.Wait(); err != nil {
		return fmt.Errorf("tracer: %w", err)
	}
	return nil
}

// Close closes the sockets; traces under way end as they stand. It may be
// called more than once.
func (t *Tracer) Close() error {
	var err error
	t.close.Do(func() {
		close(t.closed)
		err = t.v4.close()
		if t.v6 != nil {
			err = errors.Join(err, t.v6.close())
		}
	})
	return err
}

func (t *Tracer) isClosed() bool {
	select {
	case <-t.closed:
		return true
	default:
		return false
	}
}

// Stats returns the counts so far.
func (t *Tracer) Stats() Stats {
	s := t.counters.stats()
	s.QueueLost = t.v4.lost()
	if t.v6 != nil {
		s.QueueLost += t.v6.lost()
	}
	return s
}

// Request is a trace to make.
type Request struct {
	Flow  packet.Flow
	Epoch int64 // a flow is traced once per epoch
	// FlowLabel is the one of the flow's IPv6 packets, where it is known: part of
	// some routers' hash (RFC 6438).
	FlowLabel uint32
	// Distance in switches, where the caller knows better than the Tracer's own
	// function; 0 asks that.
	Distance int
}

// Trace finds the path of a flow and waits for it, at most Config.Timeout. One
// trace is made per flow and epoch: who asks again gets that one's hops, marked
// CACHED, after waiting for it if it is under way. The result is never nil and
// the caller's own; what is not a path says why:
//
//	COMPLETE  all switches answered
//	PARTIAL   some did not, or the path ended early, or its length is unknown
//	FAILED    nothing could be sent, or nothing answered
//	REFUSED   the host's budget is used up; nothing was sent
//	CACHED    hops, times and identity are those of the earlier trace
//
// probe_seq and probe_id are set whenever a probe was sent.
func (t *Tracer) Trace(ctx context.Context, flow packet.Flow, epoch int64) *decafpb.Path {
	return t.Do(ctx, Request{Flow: flow, Epoch: epoch})
}

// Do is Trace for those who know more of the flow than its five-tuple.
func (t *Tracer) Do(ctx context.Context, r Request) *decafpb.Path {
	r.Flow = r.Flow.Unmapped()
	for {
		if err := ctx.Err(); err != nil {
			return t.fail(err.Error())
		}
		e, tr, answer := t.begin(r)
		switch {
		case answer != nil:
			return answer
		case tr != nil:
			return t.lead(ctx, r, e, tr)
		}
		select {
		case <-e.done:
		case <-ctx.Done():
			continue
		}
		if e.path != nil {
			t.counters.cached.Add(1)
			return cached(e.path)
		}
		// The trace waited for was given up by its own caller: make one.
	}
}

// begin decides, under the lock, what becomes of a request: an answer at once, a trace
// of its own (tr), or another's to wait for (e alone).
func (t *Tracer) begin(r Request) (e *entry, tr *trace, answer *decafpb.Path) {
	if r.Flow.Proto != packet.TCP || !r.Flow.Src.IsValid() || !r.Flow.Dst.IsValid() ||
		r.Flow.Src.Addr().Is4() != r.Flow.Dst.Addr().Is4() {
		return nil, nil, t.fail("only TCP flows with both addresses of one family can be traced: " + r.Flow.String())
	}
	if r.Flow.Is6() && t.v6 == nil {
		return nil, nil, t.fail("this host has no IPv6 sockets to trace with")
	}
	if t.isClosed() {
		return nil, nil, t.fail("the tracer is closed")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.cache.get(r.Flow, r.Epoch); e != nil {
		return e, nil, nil
	}
	now := time.Now()
	if len(t.live) >= t.cfg.MaxLive {
		return nil, nil, t.refuse(fmt.Sprintf("%d traces under way already", len(t.live)))
	}
	if !t.bucket.AllowN(now, 1) {
		return nil, nil, t.refuse(fmt.Sprintf("more than %g traces per second asked of this host", t.cfg.Rate))
	}
	e, evicted := t.cache.add(r.Flow, r.Epoch)
	t.counters.evicted.Add(uint64(evicted))
	id := newIdentity(rand.Uint64)
	for t.live[id.seq] != nil {
		id = newIdentity(rand.Uint64)
	}
	if r.Distance <= 0 {
		r.Distance = t.distance(r.Flow.Src.Addr(), r.Flow.Dst.Addr())
	}
	tr = &trace{
		id: id, flow: r.Flow, done: make(chan struct{}), start: now,
		m: newMachine(r.Flow.Dst.Addr(), r.Distance, t.cfg.MaxTTL, t.cfg.Resend, t.cfg.Timeout),
	}
	t.live[id.seq] = tr
	return e, tr, nil
}

// lead runs a trace and hands its result to all who wait for it.
func (t *Tracer) lead(ctx context.Context, r Request, e *entry, tr *trace) *decafpb.Path {
	path, keep := t.run(ctx, r, tr)
	t.mu.Lock()
	delete(t.live, tr.id.seq)
	if !keep {
		t.cache.remove(e)
	}
	t.mu.Unlock()
	if keep {
		e.path = proto.CloneOf(path)
	}
	close(e.done)
	switch path.GetStatus() {
	case decafpb.PathStatus_PATH_STATUS_COMPLETE:
		t.counters.complete.Add(1)
	case decafpb.PathStatus_PATH_STATUS_PARTIAL:
		t.counters.partial.Add(1)
	case decafpb.PathStatus_PATH_STATUS_FAILED:
		if path.GetProbeSeq() != 0 { // else fail has counted it
			t.counters.failed.Add(1)
		}
	}
	return path
}

// run sends a trace's probes and waits for what comes. keep is false when the
// result says nothing of the path: given up early, or nothing sent.
func (t *Tracer) run(ctx context.Context, r Request, tr *trace) (path *decafpb.Path, keep bool) {
	timer := time.NewTimer(t.cfg.Timeout)
	defer timer.Stop()
	var (
		s     = sending{tracer: t, trace: tr, request: r}
		given string // why the trace was given up
	)
	for given == "" {
		next, done := s.round()
		if done {
			break
		}
		if s.sent == 0 {
			return t.fail(fmt.Sprintf("no probe could be sent: %v", s.err)), false
		}
		timer.Reset(next - time.Since(tr.start))
		select {
		case <-tr.done:
		case <-timer.C:
		case <-ctx.Done():
			given = "given up: " + context.Cause(ctx).Error()
		case <-t.closed:
			given = "given up: the tracer was closed"
		}
	}
	hint := given
	switch {
	case hint != "":
	case s.err != nil:
		hint = fmt.Sprintf("some probes could not be sent: %v", s.err)
	case !t.running.Load():
		hint = "no answers are read: the tracer is not running"
	}
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.m.stop(time.Since(tr.start))
	path = tr.m.path(hint)
	path.ProbeSeq = tr.id.seq
	if !r.Flow.Is6() {
		path.ProbeId = uint32(tr.id.id)
	}
	path.StartNs = uint64(tr.start.UnixNano())
	path.TookNs = uint64(tr.m.over)
	return path, given == ""
}

// sending is the sender's side of a trace.
type sending struct {
	tracer  *Tracer
	trace   *trace
	request Request
	sent    int   // probes, so far
	err     error // the last that kept one from being sent
	ttls    [maxTTL]int
	buf     [60]byte
}

// round sends what is due and says when to come back, or that the trace is done.
func (s *sending) round() (next time.Duration, done bool) {
	t, tr := s.tracer, s.trace
	tr.mu.Lock()
	send, next, done := tr.m.due(time.Since(tr.start), s.ttls[:])
	round := tr.m.sentRound()
	tr.mu.Unlock()
	for _, ttl := range send {
		p := packet.Probe{Flow: s.request.Flow, FlowLabel: s.request.FlowLabel, BadChecksum: true}
		tr.id.mark(&p, ttl, round)
		if err := s.probe(p, ttl); err != nil {
			s.err = err
			t.counters.sendErrors.Add(1)
			continue
		}
		if s.sent++; s.sent == 1 {
			t.counters.traces.Add(1)
		}
		t.counters.probes.Add(1)
		if round > 0 {
			t.counters.resent.Add(1)
		}
	}
	return next, done
}

// probe sends one. It is recorded first: the answer can be here before the send
// returns.
func (s *sending) probe(p packet.Probe, ttl int) error {
	raw, err := p.Marshal(s.buf[:0])
	if err != nil {
		return err
	}
	tr := s.trace
	tr.mu.Lock()
	tr.m.sent(ttl, time.Since(tr.start))
	tr.mu.Unlock()
	if err = s.tracer.endpointFor(p.Flow).send(raw, p.Flow.Dst.Addr()); err != nil {
		tr.mu.Lock()
		tr.m.unsent(ttl)
		tr.mu.Unlock()
	}
	return err
}

func (t *Tracer) endpointFor(f packet.Flow) *endpoint {
	if f.Is6() {
		return t.v6
	}
	return t.v4
}

// deliver hands an ICMP error to the trace that it answers.
func (t *Tracer) deliver(e *packet.ICMPError, now time.Time) {
	t.mu.Lock()
	tr := t.live[e.Quoted.Seq]
	t.mu.Unlock()
	if tr == nil || e.Quoted.Flow != tr.flow {
		t.counters.stray.Add(1)
		return
	}
	ttl, round, ok := tr.id.read(&e.Quoted, e.V6)
	if !ok {
		t.counters.stray.Add(1)
		return
	}
	t.counters.answers.Add(1)
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if tr.m.answer(ttl, round, e.From, e.Kind(), e.Meaning(), now.Sub(tr.start)) {
		close(tr.done)
	}
}

func (t *Tracer) fail(why string) *decafpb.Path {
	t.counters.failed.Add(1)
	return &decafpb.Path{Status: decafpb.PathStatus_PATH_STATUS_FAILED, Why: why, StartNs: uint64(time.Now().UnixNano())}
}

func (t *Tracer) refuse(why string) *decafpb.Path {
	t.counters.refused.Add(1)
	return &decafpb.Path{Status: decafpb.PathStatus_PATH_STATUS_REFUSED, Why: why, StartNs: uint64(time.Now().UnixNano())}
}

// cached is the answer to a repeated question.
func cached(first *decafpb.Path) *decafpb.Path {
	p := proto.CloneOf(first)
	p.Status = decafpb.PathStatus_PATH_STATUS_CACHED
	p.Why = "traced earlier in this epoch: " + statusWord(first.GetStatus())
	if first.GetWhy() != "" {
		p.Why += ": " + first.GetWhy()
	}
	return p
}

func statusWord(s decafpb.PathStatus) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "PATH_STATUS_"))
}
