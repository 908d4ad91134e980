package hostagent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"decaf/api/agentconfig"
	"decaf/api/decafpb"
	"decaf/topology"
	"decaf/tracer"

	"google.golang.org/protobuf/proto"
)

// Publisher takes records and never blocks. bus.Publisher is one. If it has a
// method Flush, that is called, as often as every 100 ms, when records had
// better travel now than by a timer of its own.
type Publisher interface {
	Publish(proto.Message)
}

// PathTracer finds the way a flow's packets take. It returns a path whatever
// happens, at the latest soon after ctx is done, and is safe for concurrent
// use. tracer.Tracer is one.
type PathTracer interface {
	Do(ctx context.Context, r tracer.Request) *decafpb.Path
	// Spent is for how long there is no budget for the trace of a new flow; 0
	// while there is some.
	Spent() time.Duration
	// Refuse is the path of a flow that is not traced for that.
	Refuse() *decafpb.Path
}

// SpaceTracer is a PathTracer that finds the way of flows of other network
// namespaces too, by their inode number; 0 is the agent's own.
type SpaceTracer interface {
	PathTracer
	DoIn(ctx context.Context, netns uint32, r tracer.Request) *decafpb.Path
}

// Deps are what an agent stands on.
type Deps struct {
	Log       *slog.Logger
	Publisher Publisher
	Tracer    PathTracer
	// Topology may be nil: then no host is known.
	Topology *topology.Topology
	// NetNS is the file of the network namespace to watch, such as
	// /run/netns/web. Empty: the one Run is called in.
	NetNS string
	// Version is said in heartbeats.
	Version string
	// Settings, if set, is where the agent asks what it is told to do.
	Settings SettingsSource
	// SetTraceRate, if set, changes how many traces a second may start;
	// SetBalancer whom the tracer asks about balanced addresses, the zero value
	// nobody; SetSurvey which paths it looks for on schedule, the zero value none.
	SetTraceRate func(perSecond float64)
	SetBalancer  func(agentconfig.Balancer) error
	SetSurvey    func(agentconfig.Survey)
	// Counters, if set, adds counters to heartbeats.
	Counters func() map[string]uint64
}

// Agent watches one network namespace.
type Agent struct {
	cfg   Config
	deps  Deps
	log   *slog.Logger
	rules rules
	book  *book
	count *counters
	votes *votes
	drops *localDrops // the event loop's
	// lostRing and lostFlows follow the kernel's counters; ignoring holds the
	// networks in force.
	lostRing, lostFlows atomic.Uint64
	ignoring            atomic.Pointer[[]netip.Prefix]
	lostDrops           atomic.Uint64
	missed              atomic.Uint64
	unwatched           atomic.Uint64          // network namespaces, now
	seenBy              atomic.Pointer[string] // the source in use
	containers          *containers
	workers             *workers
	tableSettings       atomic.Pointer[tableSettings] // in force from the next interval on
	remote              *remote                       // nil: nobody tells the agent anything
	clock               func(monotonic uint64) (time.Time, error)

	attached chan struct{}
	once     sync.Once
}

// New returns an agent that does nothing until Run.
func New(cfg Config, deps Deps) *Agent {
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	a := &Agent{
		cfg: cfg, deps: deps,
		log:        deps.Log.With("agent", "host", "name", cfg.Name),
		book:       newBook(),
		count:      newCounters(),
		votes:      newVotes(),
		drops:      newLocalDrops(),
		containers: newContainers(cgroupRoots),
		attached:   make(chan struct{}),
		clock:      wallClock,
	}
	a.rules = rules{
		known: func(addr netip.Addr) bool {
			if deps.Topology == nil {
				return false
			}
			_, ok := deps.Topology.HostAt(addr)
			return ok
		},
		ignored: func(addr netip.Addr) bool {
			for _, p := range *a.ignoring.Load() {
				if p.Contains(addr) {
					return true
				}
			}
			return false
		},
	}
	a.ignoring.Store(&cfg.IgnoreNetworks)
	settings := cfg.tableSettings()
	a.tableSettings.Store(&settings)
	if deps.Settings != nil {
		a.remote = newRemote(a, deps.Settings)
	}
	return a
}

// Attached is closed once the agent sees every retransmit from then on.
func (a *Agent) Attached() <-chan struct{} { return a.attached }

// Run watches until ctx is done, then sends what is under way and returns nil.
// It returns an error when the kernel cannot be watched; it says what to do.
// Run is called once.
func (a *Agent) Run(ctx context.Context) error {
	if a.deps.Publisher == nil || a.deps.Tracer == nil {
		return errors.New("host agent: no publisher or no tracer given")
	}
	ns, netns, err := openNetNS(a.deps.NetNS)
	if err != nil {
		return err
	}
	defer ns.Close()
	interfaces := newIgnored(a.cfg.IgnoreInterfaces, a.cfg.IgnoreNetworks, a.log)
	a.ignoring.Store(interfaces.refresh())

	a.rules.own = netns
	_, a.rules.anywhere = a.deps.Tracer.(SpaceTracer)
	others := newSpaces(netns, a.cfg.Namespaces, a.log)
	options := kernelOptions{netns: netns, several: len(a.cfg.Namespaces) > 0, ringBytes: a.cfg.RingBytes, flows: a.cfg.Flows.Enabled, peaks: a.cfg.Tables.Peaks, spent: a.deps.Tracer.Spent}
	if p, ok := a.deps.Publisher.(interface{ Flush() }); ok {
		options.caughtUp = p.Flush
	}
	if others.all() {
		options.netns = 0
	}
	k, err := openSource(a.cfg.Source, sourceOptions{kernelOptions: options, ns: ns}, a.log)
	if err != nil {
		return err
	}
	defer k.Close()
	leftOut := &unwatched{log: a.log}
	follow := func() error {
		err := k.follow(others.refresh())
		a.unwatched.Store(leftOut.of(k))
		return err
	}
	if err := follow(); err != nil {
		return err
	}
	name, flows := k.name(), k.flowSource()
	a.seenBy.Store(&name)
	a.log.Info("watching retransmits", "source", name, "netns", netns, "flows", flows != nil)

	// Traces end with ctx at the latest, but what they found is still sent.
	a.workers = startWorkers(ctx, a.cfg.Trace.Workers, a.cfg.Trace.Queue, a.deps.Tracer, a.traced)

	beatCtx, stopBeat := context.WithCancel(ctx)
	var beating sync.WaitGroup
	if a.remote != nil {
		beating.Go(func() { a.remote.run(beatCtx) })
	}
	beating.Go(func() {
		a.heartbeats(beatCtx, func() {
			a.ignoring.Store(interfaces.refresh())
			if err := follow(); err != nil {
				a.log.Warn("cannot follow the network namespaces", "err", err)
			}
			a.readLost(k)
		})
	})
	attached := func() { a.once.Do(func() { close(a.attached) }) }
	// Neither part goes on without the other.
	watchCtx, stopWatch := context.WithCancel(ctx)
	flowsEnded := make(chan error, 1)
	if flows == nil {
		attached()
		flowsEnded <- nil
	} else {
		go func() {
			defer stopWatch()
			flowsEnded <- a.countFlows(watchCtx, flows, ns, netns, attached)
		}()
	}
	// The caller's thread may be its own, being in another network namespace: then
	// each event would have to wait until that thread is woken up by another.
	watched := make(chan error)
	go func() {
		watched <- k.Run(watchCtx, a.handle, func(err error) {
			a.count.add(countBroken, 1)
			a.log.Debug("cannot read a kernel event", "err", err)
		})
	}()
	err = <-watched
	stopWatch()
	err = errors.Join(err, <-flowsEnded)
	stopBeat()
	beating.Wait()
	a.workers.stop()
	a.readLost(k)
	a.publishHeartbeat(time.Now())
	return err
}

// unwatched tells of the network namespaces that a source does not watch and is to,
// each time the reason is another one.
type unwatched struct {
	log *slog.Logger
	why string
}

// of is how many there are. A source that does not say watches all.
func (u *unwatched) of(k source) uint64 {
	s, ok := k.(interface{ unwatched() (int, error) })
	if !ok {
		return 0
	}
	n, err := s.unwatched()
	why := ""
	if err != nil {
		why = err.Error()
	}
	switch {
	case why == u.why:
	case why == "":
		u.log.Info("all network namespaces are watched again")
	default:
		u.log.Warn("some network namespaces are not watched", "namespaces", n, "why", why)
	}
	u.why = why
	return uint64(n)
}

func (a *Agent) readLost(k source) {
	if n, err := k.LostDrops(); err == nil {
		a.lostDrops.Store(n)
	}
	if n, err := k.Missed(); err == nil {
		a.missed.Store(n)
	}
	n, err := k.Lost()
	if err != nil {
		a.log.Warn("cannot count lost events", "err", err)
		return
	}
	if before := a.lostRing.Swap(n); n > before {
		a.log.Warn("events were lost: the agent does not get to read them in time; ring_bytes may be raised", "events", n-before)
	}
	if flows := k.flowSource(); flows == nil {
		return
	} else if n, err = flows.Lost(); err != nil {
		a.log.Warn("cannot count lost samples of closed flows", "err", err)
		return
	}
	if before := a.lostFlows.Swap(n); n > before {
		a.log.Warn("closed flows were not counted: the agent does not get to read them in time; ring_bytes may be raised", "flows", n-before)
	}
}

// handle is the event loop's step. It never blocks.
func (a *Agent) handle(e event) {
	switch e.what {
	case whatSample:
		a.takeBack(a.votes.looked(&e, e.settled))
		return
	case whatDuplicate:
		a.takeBack(a.votes.reported(&e))
		return
	case whatEchoed:
		a.takeBack(a.votes.echoed(&e))
		return
	case whatDropped:
		a.count.add(countLocalDrops, 1)
		a.drops.add(e.drop)
		return
	}
	a.count.add(countEvents, 1)
	at, err := a.clock(e.monotonic)
	if err != nil {
		a.count.add(countBroken, 1)
		return
	}
	if e.what == whatClosed {
		a.handleClosed(&e, at)
		return
	}
	v := a.rules.judge(&e)
	if v.drop != "" {
		a.count.add(v.drop, 1)
		a.takeBack(a.votes.sentAgain(&e, nil))
		return
	}
	if cause := a.drops.cause(&e); cause != "" && v.local == "" {
		v.local, v.skip = cause, "this host lost it itself: "+cause
	}
	flow := e.flow()
	r := &decafpb.Retransmit{
		TimeNs:         uint64(at.UnixNano()),
		Flow:           flow.PB(),
		Cookie:         e.cookie,
		Segments:       max(1, e.segments),
		TcpSeq:         e.seq,
		TcpEndSeq:      e.endSeq,
		TcpFlags:       uint32(e.flags),
		Kind:           e.kind(),
		WayBackSuspect: v.wayBack,
		LocalCause:     v.local,
		Process:        e.process,
		Container:      a.containers.name(e.cgroup),
	}
	a.takeBack(a.votes.sentAgain(&e, r))
	if v.skip != "" {
		a.publish(r, &decafpb.Path{Status: decafpb.PathStatus_PATH_STATUS_SKIPPED, Why: v.skip})
		return
	}
	epoch := at.UnixNano() / int64(a.cfg.Epoch)
	of := flowIn{flow, a.rules.elsewhere(&e)}
	switch asked, path := a.book.ask(of, e.label, epoch, r); asked {
	case askTrace:
		j := job{flow: of, record: r, request: tracer.Request{Flow: flow, Epoch: epoch, FlowLabel: e.label, Sequence: e.sequence()}}
		if e.relabelled {
			j.doubt = whyRelabelled
		}
		// Under many retransmits most traces are refused: that needs no worker. What
		// comes with the budget spent is not traced later, when there is some
		// again: that is for whoever comes then, of whom the path is news.
		if t := a.workers.tracer; e.over || t.Spent() > 0 {
			a.traced(j, t.Refuse())
		} else if !a.workers.submit(j) {
			a.count.add(countQueueFull, 1)
			a.traced(j, &decafpb.Path{
				Status: decafpb.PathStatus_PATH_STATUS_REFUSED,
				Why:    fmt.Sprintf("%d traces are waiting already", a.cfg.Trace.Queue),
			})
		}
	case askKnown:
		a.publish(r, path)
	case askFull:
		a.count.add(countBookFull, 1)
		a.publish(r, &decafpb.Path{
			Status: decafpb.PathStatus_PATH_STATUS_REFUSED,
			Why:    "too many flows were traced in this epoch",
		})
	case askCrowded:
		a.count.add(countCrowded, 1)
		a.publish(r, &decafpb.Path{
			Status: decafpb.PathStatus_PATH_STATUS_SKIPPED,
			Why:    "the trace of this flow is under way, and too many records wait for traces",
		})
	case askWait:
	}
}

// whyRelabelled is said of a path whose flow had another label before, and routers
// may go by that.
const whyRelabelled = "after the timeout the flow has another flow label, and which one it had is not known: what was lost may have gone another way"

// handleClosed is the last word on a connection that retransmitted.
func (a *Agent) handleClosed(e *event, at time.Time) {
	if a.rules.ignored(e.src.Addr()) || a.rules.ignored(e.dst.Addr()) {
		a.count.add(countIgnored, 1)
		return
	}
	a.count.add(countClosed, 1)
	a.takeBack(a.votes.looked(e, true))
	if !undone(e) {
		return
	}
	a.count.add(countUndone, 1)
	flow := e.flow()
	r := &decafpb.Retransmit{TimeNs: uint64(at.UnixNano()), Flow: flow.PB(), Cookie: e.cookie, Undone: true}
	if !a.book.hold(flowIn{flow, a.rules.elsewhere(e)}, r) {
		a.deps.Publisher.Publish(r)
	}
}

// takeBack publishes the records that take others back.
func (a *Agent) takeBack(back []*decafpb.Retransmit) {
	for _, r := range back {
		a.count.add(countTakenBack, 1)
		a.deps.Publisher.Publish(r)
	}
}

// traced sends the record that asked for a trace and those that waited for it.
func (a *Agent) traced(j job, p *decafpb.Path) {
	if p == nil {
		p = &decafpb.Path{Status: decafpb.PathStatus_PATH_STATUS_FAILED, Why: "the tracer gave no path"}
	}
	a.publish(j.record, p)
	for {
		waiters := a.book.done(j.flow, p)
		if len(waiters) == 0 {
			return
		}
		for _, r := range waiters {
			if r.GetUndone() {
				a.deps.Publisher.Publish(r)
				continue
			}
			a.publish(r, r.GetPath())
		}
	}
}

func (a *Agent) publish(r *decafpb.Retransmit, p *decafpb.Path) {
	r.Path = p
	a.count.add(countRecords, 1)
	a.count.add(countSegments, uint64(r.GetSegments()))
	if r.GetLocalCause() != "" {
		a.count.add(countLocal, 1)
	}
	a.count.path(p.GetStatus())
	a.deps.Publisher.Publish(r)
	if back := a.votes.published(r); back != nil {
		a.takeBack([]*decafpb.Retransmit{back})
	}
}
