package device

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"decaf/api/gnmi"
	"decaf/api/service"
	"decaf/api/yang"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
)

// Agent sees the drops of one device and serves them over gNMI.
type Agent struct {
	cfg        Config
	log        *slog.Logger
	started    time.Time
	ledger     *ledger
	classifier *classifier
	ignore     map[string]bool
	target     *gnmi.Target
	open       func() (*sources, error) // in the namespace of the calling thread

	mu      sync.Mutex
	sources *sources // while it runs
	seenBy  string   // their name
	// what they counted, as last read
	lost, passed uint64
	unseen       uint64 // that the kernel did not run the program for

	reporting sync.Mutex // orders what is published, too
	reporter  *reporter
	inForce   *inForce
	overrides *overrides
	usage     usage // at the fuse's last look
	lookEvery time.Duration
	divided   divided // what was held back since the sketch was last read; of who takes that in
	share     *share  // of what the process takes
	load      load
}

// New checks the configuration, reads the TLS files and returns the agent of
// this device, which does nothing yet. Run sees drops by the kernel and NFLOG,
// as the configuration says.
func New(cfg Config, log *slog.Logger) (*Agent, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("device agent: %w", err)
	}
	a, err := newAgent(cfg, log)
	if err != nil {
		return nil, err
	}
	a.open = func() (*sources, error) { return openSources(&a.cfg, a.classifier.never(), a.log) }
	return a, nil
}

// newAgent returns an agent without a source, with a configuration that was
// checked.
func newAgent(cfg Config, log *slog.Logger) (*Agent, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	var conf *tls.Config
	if cfg.TLS != (service.TLSFiles{}) {
		var err error
		if conf, err = cfg.TLS.Server(cfg.TLS.CA != ""); err != nil {
			return nil, fmt.Errorf("device agent %s: %w", cfg.Name, err)
		}
	}
	boot, err := newBootID()
	if err != nil {
		return nil, fmt.Errorf("device agent %s: %w", cfg.Name, err)
	}
	a := &Agent{
		cfg:        cfg,
		log:        log.With("device", cfg.Name),
		started:    time.Now(),
		ledger:     newLedger(cfg.Name, boot),
		classifier: newClassifier(rules),
		ignore:     map[string]bool{},
		divided:    divided{},
		lookEvery:  lookEvery,
		share:      new(meter).join(),
	}
	a.reporter = newReporter(cfg.settings,
		newAggregates(cfg.Aggregates.Open, prefixLength{cfg.Aggregates.PrefixV4, cfg.Aggregates.PrefixV6}, a.started.Add(-time.Duration(a.started.Nanosecond()))),
		newFuse(cfg.Fuse.budget()))
	for _, name := range cfg.IgnoreInterfaces {
		a.ignore[name] = true
	}
	a.overrides = &overrides{agent: a, file: cfg.Settings, now: time.Now}
	if err := a.overrides.load(); err != nil {
		return nil, fmt.Errorf("device agent %s: %w", cfg.Name, err)
	}
	login, err := newLogin(cfg.Users)
	if err != nil {
		return nil, fmt.Errorf("device agent %s: %w", cfg.Name, err)
	}
	gc := gnmi.DefaultConfig()
	gc.Listen, gc.TLS, gc.Ring = cfg.Listen, conf, cfg.Ring
	a.target, err = gnmi.New(gc, gnmi.Deps{
		Schema:   yang.Schema(),
		Models:   yang.Models(),
		State:    a.state,
		Settings: a.overrides,
		Login:    login,
		Log:      a.log,
	})
	if err != nil {
		return nil, fmt.Errorf("device agent %s: %w", cfg.Name, err)
	}
	return a, nil
}

// newBootID draws a number that is not 0, which would mean not known, of 53
// bits: clients that take JSON numbers for float64 still have it whole.
func newBootID() (uint64, error) {
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return 0, fmt.Errorf("draw boot id: %w", err)
	}
	return max(1, binary.NativeEndian.Uint64(b[:])>>11), nil
}

// Addr waits until the agent listens and returns where, or nil when ctx ends
// before.
func (a *Agent) Addr(ctx context.Context) net.Addr { return a.target.Addr(ctx) }

// Run does the agent's work until ctx ends. It sees drops, and listens, in the
// network namespace of the thread that calls it: a caller that is in another
// than its process has to lock its goroutine to its thread. It ends in order:
// first it sees no more, then it hands on what it saw, then its sessions end.
func (a *Agent) Run(ctx context.Context) error {
	src, err := a.open()
	if err != nil {
		return fmt.Errorf("device agent %s: %w", a.cfg.Name, err)
	}
	return a.run(ctx, src)
}

// run is Run with the sources that it opened; it closes them.
func (a *Agent) run(ctx context.Context, src *sources) error {
	use := func(src *sources) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.sources = src
		if src != nil {
			a.seenBy = src.name()
		}
	}
	use(src) // before anyone can ask
	a.repace()
	if _, err := a.target.Listen(ctx); err != nil {
		use(nil)
		src.close()
		return fmt.Errorf("device agent %s: %w", a.cfg.Name, err)
	}
	a.log.Info("device agent sees drops", "source", src.name(), "ignored_interfaces", a.cfg.IgnoreInterfaces)

	// Contexts in the order of the end, each cancelled when the part before it
	// is done; any part that fails ends them all.
	seeing, stopSeeing := context.WithCancel(ctx)
	defer stopSeeing()
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()

	served := make(chan error, 1)
	go func() {
		served <- a.target.Run(serving)
		stopSeeing() // nobody to tell
	}()
	// The other stream goes on until no more is seen.
	aggregating, stopAggregating := context.WithCancel(context.WithoutCancel(ctx))
	defer stopAggregating()
	aggregated := make(chan struct{})
	go func() {
		defer close(aggregated)
		a.aggregate(aggregating)
	}()
	readErr := src.read(seeing, a)
	stopAggregating()
	<-aggregated
	a.counts() // for the last time
	a.missed()
	use(nil)
	src.close()
	stopServing()
	serveErr := <-served
	if err := errors.Join(readErr, serveErr); err != nil {
		return fmt.Errorf("device agent %s: %w", a.cfg.Name, err)
	}
	return nil
}

// drop takes one freed packet from the kernel to the subscribers.
func (a *Agent) drop(s *sources, r *record, at time.Time) {
	src := s.kernel
	reason, function := src.reason(r.reason), src.function(r.location)
	v := a.classify(r, reason, function)
	in, out := direction(r, function)
	s.explain(reason, function, v.class, in, out, 1, uint64(r.length))
	classed := func(class string) {
		if k, ok := src.(paced); ok {
			k.classed(r, class)
		}
	}
	if !v.loss {
		classed(v.class)
		a.ledger.ignore(1)
		return
	}
	ev := newEvent(r, at, v.class, reason, function, src.ifname(in), src.ifname(out))
	if dst, ok := netip.AddrFromSlice(ev.GetPacket().GetFlow().GetDst()); ok && !v.known && housekeeping(dst) {
		classed(v.class)
		a.ledger.ignore(1)
		return
	}
	o := s.named(observed{event: ev, packets: r.packets, bytes: uint64(r.length), known: v.known})
	classed(o.event.Class)
	a.seen(s, o)
}

// classify says what a record's drop means.
func (a *Agent) classify(r *record, reason, function string) verdict {
	v := a.classifier.classify(reason, function, r.dstErrno)
	v.class = etherClass(v.class, r.protocol)
	return v
}

func (a *Agent) enterNow(o observed) { a.enter(o, time.Now()) }

// enter counts a drop from any source, and publishes its event when it is to
// have one.
func (a *Agent) enter(o observed, now time.Time) {
	ev := o.event
	if a.ignore[ev.Ingress] || a.ignore[ev.Egress] {
		a.ledger.ignore(1)
		return
	}
	d := drop{class: ev.Class, reason: ev.Reason, ingress: ev.Ingress, egress: ev.Egress, packets: o.packets, bytes: o.bytes}
	if ev.Packet != nil {
		d.flow = eventFlow(ev)
	}
	a.reporting.Lock()
	defer a.reporting.Unlock()
	d.filter = a.inForce.filters.match(now, d.flow, dscpOf(ev.GetPacket().GetHeader()), d.packets)
	what := a.reporter.take(now, &d)
	if what.count {
		a.ledger.count(&d, 1, o.known)
	}
	a.transitions()
	if !what.report {
		return
	}
	a.ledger.enter(ev)
	a.target.Publish(yang.MarkedEventUpdates(ev, ev.Origin.Seq%uint64(a.cfg.Ring), ev.Origin.BootId, yang.Mark{
		Repeats: what.repeats, Filter: d.filter, PrefixesRouted: uint64(o.routed), PrefixesWidened: o.widened,
	}))
}

// held counts drops that the kernel source held back, as it tells of them; rules
// says what is known of those of the firewall up to then.
func (a *Agent) held(s *sources, h held, now time.Time, rules ruleReadings) {
	src := s.kernel
	reason, function := src.reason(h.record.reason), src.function(h.record.location)
	v := a.classify(h.record, reason, function)
	in, out := direction(h.record, function)
	s.explain(reason, function, v.class, in, out, h.drops, h.bytes)
	at := ports{src.ifname(in), src.ifname(out)}
	if !v.loss || a.ignore[at.ingress] || a.ignore[at.egress] {
		a.ledger.ignore(h.drops)
		return
	}
	why := overThreshold
	switch {
	case h.lost:
		why = overQueue
	case h.again:
		why = duplicate
	}
	a.reporting.Lock()
	defer a.reporting.Unlock()
	for _, p := range s.byRule(h, reason, at, rules) {
		d := drop{class: v.class, reason: reason, ingress: at.ingress, egress: at.egress, packets: p.packets, bytes: p.bytes, sketched: true}
		switch {
		case !p.known:
			d.reason = ruleNotKnown
		case p.reason != "":
			d.class, d.reason = p.class, p.reason
		}
		a.divided.add(h.record.cause, d.class, p.packets)
		if a.reporter.unseen(now, &d, p.drops, why) {
			a.ledger.count(&d, p.drops, v.known)
		}
	}
	a.transitions()
}

// counts returns what the sources counted: drops there was no room for, and what
// was passed over.
func (a *Agent) counts() (lost, passed uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.sources == nil {
		return a.lost, a.passed
	}
	lost, passed, err := a.sources.counts()
	if err != nil {
		a.log.Warn("counters are as of before", "error", err)
		return a.lost, a.passed
	}
	a.lost, a.passed = lost, passed
	return lost, passed
}

// Rules tells what the firewall's rules counted, as the counters source last read;
// nil where it does not run.
func (a *Agent) Rules() []RuleSet {
	a.mu.Lock()
	s := a.sources
	a.mu.Unlock()
	if s == nil || s.counters == nil {
		return nil
	}
	return s.counters.rules()
}

// missed returns what [recursive] does, 0 where nothing can be.
func (a *Agent) missed() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.sources != nil {
		if r, ok := a.sources.kernel.(recursive); ok {
			a.unseen = r.missed()
		}
	}
	return a.unseen
}

// State returns who the agent is and what it had to leave out.
func (a *Agent) State() yang.AgentState {
	lost, passed := a.counts()
	a.mu.Lock()
	seenBy := a.seenBy
	a.mu.Unlock()
	t, s := a.ledger.totals(), a.target.Stats()
	a.reporting.Lock()
	defer a.reporting.Unlock()
	return yang.AgentState{
		Name:              a.cfg.Name,
		BootID:            a.ledger.bootID,
		Version:           service.Version(),
		StartedNs:         uint64(a.started.UnixNano()),
		EventSource:       seenBy,
		Slots:             uint64(a.cfg.Ring),
		Events:            t.seq,
		EventsLost:        lost,
		DropsMissed:       a.missed(),
		EventsLostQueue:   s.Lost,
		DropsIgnored:      t.ignored + passed,
		DropsUnclassified: t.unclassified,
		Subscribers:       s.Subscribers,

		Aggregates:          t.aggregates,
		AggregatesMerged:    a.reporter.aggregates.merged,
		Transitions:         t.transitions,
		Fuse:                a.reporter.fuse.allows("").String(),
		Unreported:          a.reporter.unreported(time.Now()),
		DropsUncounted:      a.reporter.uncounted,
		DuplicatesForgotten: a.reporter.forgotten(),
		CPU:                 uint64(a.load.cpu * 1000),
		MemoryBytes:         uint64(a.load.memory),
	}
}

// state is all the agent serves beside events.
func (a *Agent) state(now time.Time) []*gnmipb.Notification {
	out := []*gnmipb.Notification{yang.AgentUpdates(a.State(), now)}
	t := a.ledger.totals()
	for _, c := range t.classes {
		out = append(out, yang.ClassUpdates(c, now))
	}
	out = append(out, yang.PipelineUpdates(a.cfg.Name, t.classes, t.queued, now)...)
	for _, i := range a.Interfaces() {
		out = append(out, yang.InterfaceUpdates(yang.InterfaceLoss{
			Name: i.Name, InErrors: i.InErrors, InDiscards: i.InDiscards, InFCSErrors: i.InFCSErrors, OutErrors: i.OutErrors, OutDiscards: i.OutDiscards,
		}, now)...)
		for _, q := range i.Queues {
			out = append(out, yang.QueueUpdates(yang.QueueLoss{
				Interface: i.Name, Name: q.Name, DroppedPkts: q.DroppedPkts, DroppedOctets: q.DroppedOctets, Octets: q.Octets,
			}, now)...)
		}
	}
	for _, set := range a.Rules() {
		out = append(out, yang.ACLUpdates(set.Name, set.Type, set.Rules, now)...)
	}
	a.reporting.Lock()
	defer a.reporting.Unlock()
	for _, c := range a.reporter.reporting() {
		out = append(out, yang.ReportingUpdates(c, now))
	}
	return append(out, a.settingUpdates(now)...)
}
