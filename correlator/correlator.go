package correlator

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"decaf/api"
	"decaf/api/bus"
	"decaf/api/decafpb"
	"decaf/topology"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"
)

// Config describes a correlator.
type Config struct {
	Topology *topology.Topology
	Site     string        // the topology's, when empty
	Step     time.Duration // between two tallies
	// Method names components: one of [Methods]; empty for the first.
	Method string
	Engine EngineConfig
	// MaxReports bounds the fault reports held in memory; older ones stay in
	// the bucket.
	MaxReports int
}

// DefaultConfig lacks only the topology.
func DefaultConfig() Config {
	return Config{Step: 250 * time.Millisecond, Engine: DefaultEngineConfig(), MaxReports: 10_000}
}

// Deps is what a correlator stands on.
type Deps struct {
	Conn *bus.Conn
	Log  *slog.Logger
	Now  func() time.Time // nil: the system's clock
}

// Correlator feeds the engine from the bus, keeps findings and reports in the
// key-value buckets, and answers the API. Make one with New; Run does the work.
type Correlator struct {
	cfg  Config
	conn *bus.Conn
	log  *slog.Logger
	now  func() time.Time

	mu      sync.Mutex // guards all below; held for computing only, never over I/O
	engine  *Engine
	agents  *agents
	surveys *surveys
	reports map[string]*decafpb.FaultReport
	order   []string // ids of reports, oldest first
	unread  bool     // evidence of before the start is still coming
	newest  int64    // latest time seen in evidence, ns
	heard   time.Time
	stepped int64 // when the engine stepped last, ns
	seen    int64 // up to when it is written that evidence was looked at, ns
	ended   int64 // when Run did, ns; 0: it has not
	store   buckets

	saves saver
	steps atomic.Uint64
}

// buckets are open once Run has reached the bus.
type buckets struct {
	reports, findings jetstream.KeyValue
	surveys           jetstream.KeyValue // of BucketTopology
	leases            jetstream.KeyValue
}

// New makes a correlator that does nothing until Run; the error is a method that
// there is not.
func New(cfg Config, deps Deps) (*Correlator, error) {
	if cfg.Site == "" && cfg.Topology != nil {
		cfg.Site = cfg.Topology.Site
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	c := &Correlator{
		cfg: cfg, conn: deps.Conn, log: deps.Log, now: deps.Now,
		agents: newAgents(), surveys: newSurveys(), reports: make(map[string]*decafpb.FaultReport), unread: true,
	}
	m, err := NewMethod(cfg.Method, cfg.Engine, cfg.Topology)
	if err != nil {
		return nil, err
	}
	c.engine = NewEngine(cfg.Engine, cfg.Topology, m, func() string { return newID("f") })
	c.engine.Watch(c.agents.watching)
	c.engine.Attend(c.agents.heard, c.agents.blindWithin)
	for _, d := range cfg.Topology.Devices {
		c.agents.of(d.Name, "device")
	}
	for _, h := range cfg.Topology.Hosts {
		c.agents.of(h.Name, "host")
	}
	c.saves.wake = make(chan struct{}, 1)
	return c, nil
}

// newID draws an id that no one can guess and no other run draws again.
func newID(prefix string) string {
	var b [6]byte
	_, _ = rand.Read(b[:]) // never fails, Go 1.24
	return prefix + "-" + hex.EncodeToString(b[:])
}

// Run correlates until ctx is done. It fails only if the buckets cannot be read though
// NATS is there, or the connection was closed under it; while NATS is away it waits.
func (c *Correlator) Run(ctx context.Context) error {
	if err := c.takeUp(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	start := c.now()
	wg.Go(func() {
		since := start.Add(-time.Duration(c.cfg.Engine.Limits.Retention))
		if err := c.conn.Consume(ctx, since, c.take); err != nil {
			cancel(fmt.Errorf("correlator: read evidence: %w", err))
		}
	})
	wg.Go(func() {
		newCollector(c.cfg.Topology, c.conn, c.log, c.now, c.reached).run(ctx)
	})
	saving, stopSaving := context.WithCancel(context.WithoutCancel(ctx))
	var saver sync.WaitGroup
	saver.Go(func() { c.save(saving) })

	tick := time.NewTicker(c.cfg.Step)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
			c.step(start)
		}
	}
	c.mu.Lock()
	c.ended = c.now().UnixNano()
	c.mu.Unlock()
	wg.Wait()
	c.mu.Lock()
	if c.stepped != 0 {
		c.noteSeen(c.stepped, true)
	}
	c.mu.Unlock()
	stopSaving() // it makes one last round
	saver.Wait()
	if err := context.Cause(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// present is now, ns, or for one that has ended when that was: it has heard of nothing
// since. Callers hold mu.
func (c *Correlator) present() int64 {
	if c.ended != 0 {
		return c.ended
	}
	return c.now().UnixNano()
}

// take is the bus's: one batch of evidence.
func (c *Correlator) take(b *decafpb.Batch) {
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heard = now
	c.engine.Add(b, now.UnixNano())
	for _, h := range b.GetHeartbeats() {
		if c.engine.store.fresh(recordHeartbeat, h.GetOrigin()) {
			c.agents.beat(h, now.UnixNano())
		}
		c.newest = max(c.newest, int64(h.GetTimeNs()))
	}
	for _, s := range b.GetSurveys() {
		if c.engine.store.fresh(recordSurvey, s.GetOrigin()) {
			c.survey(s, now.UnixNano())
		}
	}
	for _, r := range b.GetRetransmits() {
		c.newest = max(c.newest, int64(r.GetTimeNs()))
	}
	for _, d := range b.GetDrops() {
		c.newest = max(c.newest, int64(d.GetReceivedNs()))
	}
}

// reached is the collector's: a device's stream lives, or why it does not.
func (c *Correlator) reached(device string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.agents.reached(device, err, c.now().UnixNano())
}

// catchUp bounds how long the engine waits for the evidence of before the
// start; none for catchUpIdle means there is no more.
const (
	catchUp     = 20 * time.Second
	catchUpIdle = time.Second
)

// step is the tick's.
func (c *Correlator) step(start time.Time) {
	now := c.now()
	ns := now.UnixNano()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.unread {
		// Half of the past would name the wrong half of the network: wait
		// until evidence is of the present.
		idle := now.Sub(latest(c.heard, start)) > catchUpIdle
		if !idle && c.newest < start.UnixNano() && now.Sub(start) < catchUp {
			return
		}
		c.unread = false
	}
	for _, f := range c.engine.Step(ns) {
		switch {
		case f.GetLate():
			c.log.Info("finding, by evidence that came late", "finding", f.GetId(), "what", describe(f), "from", time.Unix(0, int64(f.GetFromNs())).UTC(), "last", time.Unix(0, int64(f.GetLastNs())).UTC())
			c.reopen(f, ns)
		case f.GetResolvedNs() != 0:
			c.log.Info("finding resolved", "finding", f.GetId(), "what", describe(f))
		case f.GetDetectedNs() == uint64(ns):
			c.log.Info("finding", "finding", f.GetId(), "what", describe(f))
		}
		c.saves.put(saveFinding, f.GetId(), f)
	}
	c.stepped = ns
	c.noteSeen(ns, false)
	// Reports are answered again each second, until they are final.
	every := max(1, uint64(time.Second/c.cfg.Step))
	if c.steps.Add(1)%every == 0 {
		c.revise(ns)
	}
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// revise answers the reports again that are not final.
func (c *Correlator) revise(now int64) {
	for _, id := range c.order {
		if !c.reports[id].GetVerdict().GetFinal() {
			c.answer(id, now)
		}
	}
}

// reopen answers again the reports of a time for which a finding came late, though
// they were final.
func (c *Correlator) reopen(f *decafpb.Finding, now int64) {
	for _, id := range c.order {
		if r := c.reports[id]; r.GetFromNs() <= f.GetLastNs() && r.GetToNs() >= f.GetFromNs() {
			c.answer(id, now)
		}
	}
}

// answer gives a report the verdict by what is known now.
func (c *Correlator) answer(id string, now int64) {
	r := c.reports[id]
	v, err := c.engine.Answer(r, c.agents.freshAll, now)
	if err != nil { // the topology lost a host since it was filed
		v = &decafpb.Verdict{Verdict: verdictInsufficient, TimeNs: uint64(now), Final: true,
			Evidence: &decafpb.Evidence{Reasons: []string{err.Error()}}}
	}
	if !better(r.GetVerdict(), v) {
		return
	}
	v.Revision = r.GetVerdict().GetRevision() + 1
	next := proto.CloneOf(r)
	next.Verdict = v
	c.reports[id] = next
	c.saves.put(saveReport, id, next)
}

// hold keeps a report in memory.
func (c *Correlator) hold(r *decafpb.FaultReport) {
	if _, ok := c.reports[r.GetId()]; !ok {
		c.order = append(c.order, r.GetId())
	}
	c.reports[r.GetId()] = r
	for len(c.order) > c.cfg.MaxReports {
		delete(c.reports, c.order[0])
		c.order = c.order[1:]
	}
}

var _ api.Backend = (*Correlator)(nil)
