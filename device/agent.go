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

	"github.com/VictoriaMetrics/metrics"
	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
)

// Agent sees the drops of one network namespace and serves them over gNMI.
type Agent struct {
	cfg        Config
	log        *slog.Logger
	started    time.Time
	ledger     *ledger
	classifier *classifier
	ignore     map[string]bool
	target     *gnmi.Target

	mu     sync.Mutex
	source source // while it runs
	// what the source counted, as last read
	lost, passed uint64
}

// New checks the configuration, reads the TLS files and returns an agent that
// does nothing yet.
func New(cfg Config, log *slog.Logger) (*Agent, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("device agent: %w", err)
	}
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
	}
	for _, name := range cfg.IgnoreInterfaces {
		a.ignore[name] = true
	}
	gc := gnmi.DefaultConfig()
	gc.Listen, gc.TLS, gc.Ring = cfg.Listen, conf, cfg.Ring
	a.target, err = gnmi.New(gc, gnmi.Deps{
		Schema: yang.Schema(),
		Models: []*gnmipb.ModelData{yang.Model()},
		State:  a.state,
		Log:    a.log,
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
	src, err := openSource(a.classifier.never(), a.log)
	if err != nil {
		return fmt.Errorf("device agent %s: %w", a.cfg.Name, err)
	}
	return a.run(ctx, src)
}

// run is Run with the source that it opened; it closes it.
func (a *Agent) run(ctx context.Context, src source) error {
	if _, err := a.target.Listen(ctx); err != nil {
		src.close()
		return fmt.Errorf("device agent %s: %w", a.cfg.Name, err)
	}
	a.mu.Lock()
	a.source = src
	a.mu.Unlock()
	a.log.Info("device agent sees drops", "source", eventSource, "ignored_interfaces", a.cfg.IgnoreInterfaces)

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
	readErr := src.read(seeing, func(r *record, at time.Time) { a.drop(src, r, at) })
	a.counts() // for the last time
	a.mu.Lock()
	a.source = nil
	a.mu.Unlock()
	src.close()
	stopServing()
	serveErr := <-served
	if err := errors.Join(readErr, serveErr); err != nil {
		return fmt.Errorf("device agent %s: %w", a.cfg.Name, err)
	}
	return nil
}

// drop takes one freed packet from the source to the subscribers.
func (a *Agent) drop(src source, r *record, at time.Time) {
	reason, function := src.reason(r.reason), src.function(r.location)
	v := a.classifier.classify(reason, function, r.dstErrno)
	in, out := direction(r, function)
	ingress, egress := src.ifname(in), src.ifname(out)
	if !v.loss || a.ignore[ingress] || a.ignore[egress] {
		a.ledger.ignore()
		return
	}
	ev := newEvent(r, at, v.class, reason, function, ingress, egress)
	if dst, ok := netip.AddrFromSlice(ev.GetPacket().GetFlow().GetDst()); ok && !v.known && housekeeping(dst) {
		a.ledger.ignore()
		return
	}
	a.ledger.enter(ev, r.packets, uint64(r.length), v.known)
	seq := ev.Origin.Seq
	a.target.Publish(yang.EventUpdates(ev, seq%uint64(a.cfg.Ring), ev.Origin.BootId))
}

// counts returns what the source counted: drops it had no room for, and what it
// passed over.
func (a *Agent) counts() (lost, passed uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.source == nil {
		return a.lost, a.passed
	}
	lost, passed, err := a.source.counts()
	if err != nil {
		a.log.Warn("counters are as of before", "error", err)
		return a.lost, a.passed
	}
	a.lost, a.passed = lost, passed
	return lost, passed
}

// State returns who the agent is and what it had to leave out.
func (a *Agent) State() yang.AgentState {
	lost, passed := a.counts()
	t, s := a.ledger.totals(), a.target.Stats()
	return yang.AgentState{
		Name:              a.cfg.Name,
		BootID:            a.ledger.bootID,
		Version:           service.Version(),
		StartedNs:         uint64(a.started.UnixNano()),
		EventSource:       eventSource,
		Slots:             uint64(a.cfg.Ring),
		Events:            t.seq,
		EventsLost:        lost,
		EventsLostQueue:   s.Lost,
		DropsIgnored:      t.ignored + passed,
		DropsUnclassified: t.unclassified,
		Subscribers:       s.Subscribers,
	}
}

// state is all the agent serves beside events.
func (a *Agent) state(now time.Time) []*gnmipb.Notification {
	out := []*gnmipb.Notification{yang.AgentUpdates(a.State(), now)}
	for _, c := range a.ledger.totals().classes {
		out = append(out, yang.ClassUpdates(c, now))
	}
	return out
}

// Describe adds the agent's metrics to a set.
func (a *Agent) Describe(set *metrics.Set) {
	for _, class := range Classes() {
		set.NewGauge(fmt.Sprintf(`decaf_device_dropped_packets{class=%q}`, class), func() float64 {
			for _, c := range a.ledger.totals().classes {
				if c.Name == class {
					return float64(c.Packets)
				}
			}
			return 0
		})
	}
	for name, get := range map[string]func(yang.AgentState) uint64{
		"decaf_device_events":             func(s yang.AgentState) uint64 { return s.Events },
		"decaf_device_events_lost":        func(s yang.AgentState) uint64 { return s.EventsLost },
		"decaf_device_events_lost_queue":  func(s yang.AgentState) uint64 { return s.EventsLostQueue },
		"decaf_device_drops_ignored":      func(s yang.AgentState) uint64 { return s.DropsIgnored },
		"decaf_device_drops_unclassified": func(s yang.AgentState) uint64 { return s.DropsUnclassified },
		"decaf_device_subscribers":        func(s yang.AgentState) uint64 { return s.Subscribers },
	} {
		set.NewGauge(name, func() float64 { return float64(get(a.State())) })
	}
}
