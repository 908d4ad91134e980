package tracer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
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
	budget   *budget
	counters counters
	v4, v6   *endpoint // v6 is nil where the host has no IPv6
	closed   chan struct{}
	close    sync.Once
	running  atomic.Bool

	watches   [2]*watch // IPv4, IPv6; nil where nothing is to be overheard
	single    bool      // what is overheard is one flow, and nobody keeps the paths
	distances distances
	checksums checksums
	translate translators
	wire      *wire // nil where nothing is translated

	mu     sync.Mutex
	cache  *cache
	live   map[uint32]asker       // by the TCP sequence of its probes
	byFlow map[packet.Flow]*trace // by what is on the wire; the latest of each
}

// asker is whoever sent probes of one sequence.
type asker interface {
	// take is given an ICMP error with that sequence. It reports whether it was
	// an answer to one of its probes.
	take(e *packet.ICMPError, now time.Time) bool
}

// trace is one trace under way.
type trace struct {
	id    identity
	flow  packet.Flow
	start time.Time
	wake  chan struct{} // the machine has something to send, or is over

	mu   sync.Mutex
	m    *machine
	wire packet.Flow // what the probes carry
	by   *wire       // who sends them, where that is not the flow
	tap  bool        // answers are heard below this host's translation
	seq  *Sequence   // where the connection stands, once known
	syn  synProbe
}

// New opens a raw sender and an ICMP receiver for IPv4, and for IPv6 where the
// host has it, in the network namespace of the calling thread. Nothing is sent,
// and no answer read, before Run. What distance does not know (it may be nil) is
// taken from the TTLs of packets that come in, where Config.Overhear is set.
// Errors: a bad configuration, or sockets that may not be opened (needs
// CAP_NET_RAW).
func New(cfg Config, distance Distance, log *slog.Logger) (*Tracer, error) {
	var overhear []watchFor
	if cfg.Overhear {
		overhear = []watchFor{{filter: watchAll, sampled: true}, {v6: true, filter: watchAll, sampled: true}}
	}
	return newTracer(cfg, distance, log, overhear)
}

// newTracer is New with the choice of what to overhear.
func newTracer(cfg Config, distance Distance, log *slog.Logger, overhear []watchFor) (_ *Tracer, err error) {
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
	t := &Tracer{
		cfg:      cfg,
		distance: distance,
		log:      log,
		v4:       v4,
		v6:       v6,
		closed:   make(chan struct{}),
		cache:    newCache(cfg.MaxCached),
		live:     make(map[uint32]asker),
		byFlow:   make(map[packet.Flow]*trace),
	}
	if cfg.Host != nil {
		t.budget = cfg.Host.budget
	} else {
		start := time.Now()
		t.budget = newBudget(cfg.Rate, cfg.Burst, func() time.Duration { return time.Since(start) }, rand.Float64)
	}
	if err := t.open(overhear); err != nil {
		return nil, errors.Join(fmt.Errorf("tracer: %w", err), t.Close())
	}
	return t, nil
}

// open opens what only some tracers need.
func (t *Tracer) open(overhear []watchFor) (err error) {
	for _, w := range overhear {
		if w.v6 && t.v6 == nil {
			continue
		}
		i := 0
		if w.v6 {
			i = 1
		}
		t.single = w.flow.Src.IsValid()
		if t.watches[i], err = openWatch(w); err != nil {
			return err
		}
	}
	if t.translate, err = t.cfg.Translate.open(t.log); err != nil {
		return err
	}
	if len(t.translate) > 0 {
		t.wire, err = openWire()
	}
	return err
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
	sampled := false
	for _, w := range t.watches {
		switch {
		case w == nil:
		case w.sampled:
			sampled = true
		default:
			group.Go(func() error { return t.overhear(w) })
		}
	}
	if sampled {
		group.Go(func() error { t.sample(); return nil })
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
		for _, w := range t.watches {
			if w != nil {
				err = errors.Join(err, w.close())
			}
		}
		if t.wire != nil {
			err = errors.Join(err, t.wire.close())
		}
		err = errors.Join(err, t.translate.close())
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
	for _, w := range t.watches {
		switch {
		case w == nil:
		case w.sampled:
			s.SampleLost += w.lost()
		default:
			s.QueueLost += w.lost()
		}
	}
	s.DistancesForgotten = t.distances.forgotten()
	s.ChecksumsForgotten = t.checksums.forgotten()
	return s
}

// SetRate changes Config.Rate from now on: how many traces per second this host
// may start follows from the network (topology.TraceBudget) and is handed out. It
// must be more than 0.
func (t *Tracer) SetRate(perSecond float64) { t.budget.setRate(perSecond) }

// Rate is how many traces per second may start now.
func (t *Tracer) Rate() float64 {
	perSecond, _ := t.budget.told()
	return perSecond
}

// Request is a trace to make.
type Request struct {
	Flow  packet.Flow
	Epoch int64 // a flow is traced once per epoch
	// FlowLabel is the one of the flow's IPv6 packets, where it is known: part of
	// some routers' hash (RFC 6438), so that a flow with another label may take
	// another path and is traced anew.
	FlowLabel uint32
	// Distance in switches, where the caller knows better than the Tracer's own
	// function; 0 asks that.
	Distance int
	// Sequence is where the connection stands, where the caller knows: the probes'
	// sequence is then one of its old ones, so that those with a right checksum,
	// should they be needed, pass whoever drops what is no segment of it.
	Sequence *Sequence
	// New says that there is no such connection: then probes may open one. They
	// have SYN set, as firewalls let pass, and one of them is whole and gets as far
	// as the destination, so that its answer and its distance are seen. This host
	// resets what comes of that.
	New bool

	observe func(*machine) // is shown the machine at its end
	paid    bool           // its token was taken
}

// Trace finds the path of a flow and waits for it, at most Config.Timeout. One
// trace is made per flow, flow label and epoch: who asks again gets that one's hops, marked
// CACHED, after waiting for it if it is under way. The result is never nil and
// the caller's own; what is not a path says why:
//
//	COMPLETE  all switches answered
//	PARTIAL   some did not, or the path ended early, or its length is unknown
//	FAILED    nothing could be sent, or nothing answered
//	REFUSED   the host's budget is used up; nothing was sent
//	SKIPPED   what the flow looks like on the wire is not known; nothing was sent
//	CACHED    hops, times and identity are those of the earlier trace
//
// probe_seq and probe_id are set whenever a probe was sent.
func (t *Tracer) Trace(ctx context.Context, flow packet.Flow, epoch int64) *decafpb.Path {
	return t.Do(ctx, Request{Flow: flow, Epoch: epoch})
}

// Do is Trace for those who know more of the flow than its five-tuple.
func (t *Tracer) Do(ctx context.Context, r Request) *decafpb.Path {
	if err := ctx.Err(); err != nil {
		return t.fail(err.Error())
	}
	return t.start(r).wait(ctx)
}

// Start begins a trace as Do does, and waits for nothing: so whoever learns
// of a retransmission can have the probes on their way before all else. They are
// still to be sent where it takes a while to learn what the flow is on the wire.
// wait does the rest and gives the path. It must be called, once, and soon:
// nothing is sent again before.
func (t *Tracer) Start(r Request) (wait func(context.Context) *decafpb.Path) {
	return t.start(r).wait
}

// question is a request under way: an answer, a trace of its own (tr), or
// another's to wait for (e alone).
type question struct {
	t       *Tracer
	request Request
	e       *entry
	tr      *trace
	answer  *decafpb.Path
	s       sending // of tr
}

// start decides what becomes of a request, and sends what can be sent at once.
func (t *Tracer) start(r Request) *question {
	r.Flow = r.Flow.Unmapped()
	q := &question{t: t, request: r}
	q.begin()
	return q
}

func (q *question) begin() {
	q.e, q.tr, q.answer = q.t.begin(q.request)
	if q.tr == nil {
		return
	}
	q.s = sending{tracer: q.t, trace: q.tr, request: &q.request}
	if q.t.untranslated(q.request.Flow) {
		q.t.set(q.tr, q.request, q.request.Flow)
		q.s.round()
	}
}

// wait gives the path once it is known.
func (q *question) wait(ctx context.Context) *decafpb.Path {
	for q.tr == nil && q.answer == nil {
		select {
		case <-q.e.done:
		case <-ctx.Done():
			return q.t.fail(ctx.Err().Error())
		}
		if q.e.path != nil {
			q.t.counters.cached.Add(1)
			return cached(q.e.path)
		}
		q.begin() // the trace waited for was given up by its own caller: make one
	}
	if q.answer != nil {
		return q.answer
	}
	return q.lead(ctx)
}

// begin decides, under the lock, what becomes of a request.
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
	key := cacheKey{r.Flow, r.FlowLabel, r.Epoch}
	if e := t.cache.get(key); e != nil {
		return e, nil, nil
	}
	if len(t.live) >= t.cfg.MaxLive {
		return nil, nil, t.refuse(fmt.Sprintf("%d traces under way already", len(t.live)))
	}
	// Also of a trace that then sends nothing: to learn what the flow is on the wire
	// costs this host, or a balancer, as well.
	if !r.paid && !t.budget.allow() {
		return nil, nil, t.Refuse()
	}
	e, evicted := t.cache.add(key)
	t.counters.evicted.Add(uint64(evicted))
	id := r.identity()
	for t.live[id.seq] != nil {
		id = r.identity()
	}
	tr = &trace{id: id, flow: r.Flow, wire: r.Flow, wake: make(chan struct{}, 1), seq: r.Sequence}
	t.live[id.seq] = tr
	return e, tr, nil
}

// Spent is for how long the budget has nothing left for a new flow; 0 while
// there is some. So whoever queues for a trace need not queue for a refusal.
func (t *Tracer) Spent() time.Duration { return t.budget.spent() }

// Refuse is the answer that a new flow gets while the budget is spent, and counts
// it.
func (t *Tracer) Refuse() *decafpb.Path {
	_, why := t.budget.told()
	return t.refuse(why)
}

// identity draws one.
func (r *Request) identity() identity {
	id := newIdentity(rand.Uint64)
	if r.Sequence != nil {
		id = r.Sequence.nonce(id)
	}
	return id
}

// set gets a trace ready to go, now that what is on the wire is known.
func (t *Tracer) set(tr *trace, r Request, wire packet.Flow) {
	learned := false
	if r.Distance <= 0 {
		r.Distance = t.distance(wire.Src.Addr(), wire.Dst.Addr())
	}
	if r.Distance <= 0 {
		t.listen()
		if r.Distance = min(t.distances.of(wire.Dst.Addr()), t.cfg.MaxTTL); r.Distance > 0 {
			learned = true
		} else {
			t.attend(wire)
		}
	}
	m := newMachine(wire.Dst.Addr(), r.Distance, t.cfg.MaxTTL, t.cfg.Resend, t.cfg.Timeout)
	m.learned, m.fresh, m.old = learned, r.New, tr.seq != nil
	m.rightFrom, m.rightFails = t.checksums.of(wire.Dst.Addr(), time.Now())
	tr.mu.Lock()
	tr.m, tr.wire, tr.start = m, wire, time.Now()
	tr.mu.Unlock()
	t.mu.Lock()
	t.byFlow[wire], t.byFlow[tr.flow] = tr, tr
	t.mu.Unlock()
}

// forget takes a trace from where answers look for it.
func (t *Tracer) forget(tr *trace) {
	delete(t.live, tr.id.seq)
	for _, f := range []packet.Flow{tr.wire, tr.flow} {
		if t.byFlow[f] == tr {
			delete(t.byFlow, f)
		}
	}
}

// lead runs a trace and hands its result to all who wait for it.
func (q *question) lead(ctx context.Context) *decafpb.Path {
	path, keep := q.run(ctx)
	t := q.t
	t.mu.Lock()
	t.forget(q.tr)
	if !keep {
		t.cache.remove(q.e)
	}
	t.mu.Unlock()
	if keep {
		q.e.path = proto.CloneOf(path)
	}
	close(q.e.done)
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
func (q *question) run(ctx context.Context) (path *decafpb.Path, keep bool) {
	t, tr, r, s := q.t, q.tr, &q.request, &q.s
	if tr.m == nil { // else the first probes have left
		wire, by, err := t.resolve(ctx, r.Flow)
		if err != nil {
			t.counters.countUnresolved(reasonOf(err))
			return skipped(err), false
		}
		tr.by = by
		if tr.tap = wire.Dst != r.Flow.Dst; tr.tap {
			stop, err := by.hear(wire, tr)
			if err != nil {
				return t.fail(err.Error()), false
			}
			defer stop()
		}
		t.set(tr, *r, wire)
		s.round()
	}
	if !tr.tap && t.cfg.Glance > 0 && t.running.Load() {
		e := t.endpointFor(tr.wire)
		e.glance(t.cfg.Glance-time.Since(tr.start), tr.roused, func(b []byte, from netip.Addr) { t.take(b, from, e.v6, time.Now()) })
	}
	timer := time.NewTimer(t.cfg.Timeout)
	defer forget(timer)
	given := "" // why the trace was given up
	for !s.done {
		if s.sent == 0 {
			return t.fail(fmt.Sprintf("no probe could be sent: %v", s.err)), false
		}
		timer.Reset(s.next - time.Since(tr.start))
		select {
		case <-tr.wake:
		case <-timer.C:
		case <-ctx.Done():
			given = "given up: " + context.Cause(ctx).Error()
		case <-t.closed:
			given = "given up: the tracer was closed"
		}
		if given != "" {
			break
		}
		s.round()
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
	path.ProbeSeq, path.FlowLabel = tr.id.seq, s.request.FlowLabel
	if !r.Flow.Is6() {
		path.ProbeId = uint32(tr.id.id)
	}
	path.StartNs = uint64(tr.start.UnixNano())
	path.TookNs = uint64(tr.m.over)
	if tr.wire != r.Flow {
		path.Probed = tr.wire.PB()
	}
	if r.observe != nil {
		r.observe(tr.m)
	}
	if tr.m.neededPlain() {
		t.counters.plainNeeded.Add(1)
	}
	if given == "" {
		if from, told := tr.m.checksums(); told {
			t.checksums.learn(tr.wire.Dst.Addr(), from, time.Now())
		}
	}
	return path, given == ""
}

// forget stops a timer so that nothing comes of it. A stopped timer only gets a
// mark: the runtime still wakes the process at its time, to find the mark, unless
// another one is added before. Most traces are over in a tenth of the time until
// their resend, and that wake-up costs as much as the trace.
func forget(timer *time.Timer) {
	timer.Stop()
	time.AfterFunc(time.Hour, func() {}).Stop()
}

// sending is the sender's side of a trace.
type sending struct {
	tracer  *Tracer
	trace   *trace
	request *Request
	next    time.Duration // when to come back, from the start of the trace
	done    bool          // there is nothing more to send or to wait for
	sent    int           // probes, so far
	err     error         // the last that kept one from being sent
	due     []send
	way     *way // of this round's probes, where they do not go as the flow does
	buf     [60]byte
}

// round sends what is due.
func (s *sending) round() {
	t, tr := s.tracer, s.trace
	tr.mu.Lock()
	if tr.m.distance == 0 {
		tr.mu.Unlock()
		t.listen() // it may be known by now
		tr.mu.Lock()
	}
	now := time.Since(tr.start)
	s.way = nil
	s.due, s.next, s.done = tr.m.due(now, s.due)
	syn := s.request.New && !s.done && tr.syn.due(now, t.cfg.Resend)
	tr.mu.Unlock()
	if syn {
		s.knock()
	}
	// The farthest first: its answer is the last to come.
	for _, p := range slices.Backward(s.due) {
		nth, err := s.probe(p)
		if err != nil {
			s.err = err
			t.counters.sendErrors.Add(1)
			continue
		}
		if s.sent++; s.sent == 1 {
			t.counters.traces.Add(1)
		}
		t.counters.probes.Add(1)
		if nth > 0 {
			t.counters.resent.Add(1)
		}
		if p.plain {
			t.counters.plain.Add(1)
		}
	}
}

// probe sends one and gives its number. It is recorded first: the answer can be
// here before the send returns.
func (s *sending) probe(what send) (nth int, err error) {
	tr := s.trace
	p := packet.Probe{FlowLabel: s.request.FlowLabel, BadChecksum: !what.plain}
	if s.request.New {
		p.Flags = packet.SYN
	}
	tr.mu.Lock()
	p.Flow = tr.wire
	nth = tr.m.sent(what, time.Since(tr.start))
	if what.plain && tr.seq != nil {
		tr.seq.mark(&p, tr.id, what.ttl, nth)
	} else {
		tr.id.mark(&p, what.ttl, nth)
	}
	tr.mu.Unlock()
	raw, err := p.Marshal(s.buf[:0])
	if err == nil {
		err = s.put(raw)
	}
	if err != nil {
		tr.mu.Lock()
		tr.m.unsent(what.ttl)
		tr.mu.Unlock()
	}
	return nth, err
}

// put sends a whole packet. What was translated must not pass this host's own
// translation again, which would take it for another flow and change it.
func (s *sending) put(raw []byte) (err error) {
	if s.trace.wire != s.trace.flow {
		if s.way == nil {
			if s.way, err = s.trace.by.way(s.trace.wire); err != nil {
				return err
			}
		}
		return s.trace.by.send(raw, s.way)
	}
	return s.tracer.endpointFor(s.trace.wire).send(raw, s.trace.wire.Dst.Addr())
}

// synProbe is the one probe of a new flow that goes all the way.
type synProbe struct {
	n  int // sent
	at time.Duration
}

// due says whether to send it: at once, then with gaps that double, three times.
func (p *synProbe) due(now, resend time.Duration) bool {
	return p.n < 3 && (p.n == 0 || now >= p.at+resend<<(p.n-1))
}

// knock sends it.
func (s *sending) knock() {
	tr := s.trace
	tr.mu.Lock()
	p := packet.Probe{Flow: tr.wire, FlowLabel: s.request.FlowLabel, TTL: 64, Seq: tr.id.seq, ID: tr.id.id, Flags: packet.SYN}
	tr.syn.n++
	tr.syn.at = time.Since(tr.start)
	tr.mu.Unlock()
	raw, err := p.Marshal(s.buf[:0])
	if err == nil {
		err = s.put(raw)
	}
	if err != nil {
		s.err = err
		return
	}
	s.tracer.counters.knocks.Add(1)
}

func (t *Tracer) endpointFor(f packet.Flow) *endpoint {
	if f.Is6() {
		return t.v6
	}
	return t.v4
}

// deliver hands an ICMP error to the one whose probe it answers.
func (t *Tracer) deliver(e *packet.ICMPError, now time.Time) {
	t.mu.Lock()
	a := t.live[e.Quoted.Seq]
	if a == nil {
		if tr := t.byFlow[e.Quoted.Flow]; tr != nil {
			a = tr
		}
	}
	t.mu.Unlock()
	if a == nil || !a.take(e, now) {
		t.counters.stray.Add(1)
		return
	}
	t.counters.answers.Add(1)
}

func (tr *trace) take(e *packet.ICMPError, now time.Time) bool { return tr.hear(e, now, false) }

// hear takes an answer; tapped is one from below this host's translation.
func (tr *trace) hear(e *packet.ICMPError, now time.Time, tapped bool) bool {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if tr.m == nil || e.Quoted.Flow != tr.wire && e.Quoted.Flow != tr.flow {
		return false
	}
	if tr.tap != tapped {
		return true // the same once more
	}
	var ttl, nth int
	ok := false
	if tr.seq != nil {
		ttl, nth, ok = tr.seq.read(&e.Quoted, tr.id, e.V6)
	}
	if !ok {
		ttl, nth, ok = tr.id.read(&e.Quoted, e.V6)
	}
	if !ok || !tr.m.asked(ttl) {
		return false
	}
	if tr.m.answer(answerOf(e, ttl, nth), now.Sub(tr.start)) {
		tr.rouse()
	}
	return true
}

// rouse has the sender look at the machine.
func (tr *trace) rouse() {
	select {
	case tr.wake <- struct{}{}:
	default:
	}
}

// roused says whether the sender has not looked since.
func (tr *trace) roused() bool { return len(tr.wake) > 0 }

// answerOf is what an ICMP error says of the probe of a TTL. Of the extensions
// the first of each kind counts; broken ones say nothing.
func answerOf(e *packet.ICMPError, ttl, nth int) answer {
	a := answer{ttl: ttl, nth: nth, from: e.From, kind: e.Kind(), meaning: e.Meaning()}
	for _, x := range e.Extensions {
		switch x.Class {
		case packet.ExtensionMPLS:
			if stack, ok := x.MPLS(); ok && a.mpls == nil {
				a.mpls = labels(stack)
			}
		case packet.ExtensionInterface:
			info, err := x.Interface()
			if err != nil || info.Role != packet.RoleIncoming {
				continue
			}
			if a.name == "" {
				a.name = info.Name
			}
			if info.Addr.IsValid() && info.Addr.Is4() == e.From.Is4() && !a.inbound.IsValid() {
				a.inbound = info.Addr
			}
		}
	}
	return a
}

// maxLabels bounds the label stack kept of a hop.
const maxLabels = 16

// labels gives a stack as on the wire, outermost first: 20 bits of label, 3 of
// traffic class, the bottom bit, 8 of TTL (RFC 3032).
func labels(stack []packet.MPLSLabel) []uint32 {
	var out []uint32
	for _, l := range stack[:min(len(stack), maxLabels)] {
		w := l.Label<<12 | uint32(l.TrafficClass)<<9 | uint32(l.TTL)
		if l.Bottom {
			w |= 1 << 8
		}
		out = append(out, w)
	}
	return out
}

// hear takes a TCP packet that came in.
func (t *Tracer) hear(h heard, now time.Time) {
	switches := switchesFrom(h.ttl)
	if switches > 0 {
		t.distances.learn(h.flow.Src.Addr(), switches)
	}
	t.mu.Lock()
	tr := t.byFlow[h.flow.Reverse()]
	t.mu.Unlock()
	if tr == nil {
		return
	}
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if tr.syn.n > 0 && h.flags&packet.ACK != 0 && h.ack == tr.id.seq+1 && h.flags&(packet.SYN|packet.RST) != 0 {
		says, rtt := "open", time.Duration(0)
		if h.flags&packet.RST != 0 {
			says = "closed"
		}
		if tr.syn.n == 1 {
			rtt = max(now.Sub(tr.start)-tr.syn.at, 0)
		}
		tr.m.reach(says, rtt)
	}
	// Only for who traces one flow by hand: whoever lays drops beside records knows
	// the probes of a trace by one sequence, which must be there from the start.
	if s, ok := h.sequence(); ok && t.single && tr.seq == nil && tr.syn.n == 0 {
		tr.seq, tr.m.old = &s, true
	}
	if tr.m.learn(switches, now.Sub(tr.start)) {
		tr.rouse()
	}
}

// skipped is the path of a flow whose packets look like nobody knows what.
func skipped(err error) *decafpb.Path {
	return &decafpb.Path{Status: decafpb.PathStatus_PATH_STATUS_SKIPPED, Why: err.Error(), StartNs: uint64(time.Now().UnixNano())}
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
