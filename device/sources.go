package device

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"decaf/api/decafpb"
)

// sources are what an agent sees drops by, open. There is one of drops at least.
type sources struct {
	kernel   source         // nil: not used
	nflog    *nflog         // nil: not used
	names    *ruleNames     // of drops that both tell of, when there are both
	shares   *ruleShares    // of what the kernel held back, by rule, then
	counters *counterSource // nil: not used
	routes   *routeSource   // nil: not used
	remote   *sflowSwitch   // nil, or alone: another device's

	hearing hearing
	looping sync.Mutex
	loops   *loops // nil: nobody tells of single drops

	ifname     func(uint32) string // of the namespace; nil: nobody needs it
	closeNames func()              // nil: the names are the kernel source's
}

// errNoSource says that an agent has nothing to see drops by.
var errNoSource = errors.New("no drops can be seen")

// openSources opens those of the configuration that this machine has, in the
// network namespace of the calling thread. One that cannot run says why and the
// others go on; with none of drops left the error is errNoSource. never holds the
// kernel's reasons to pass over.
func openSources(cfg *Config, never map[string]bool, log *slog.Logger) (*sources, error) {
	s := &sources{}
	var errs []error
	failed := func(err error) bool {
		if err != nil {
			errs = append(errs, err)
		}
		return err != nil
	}
	var err error
	if cfg.Kernel {
		if s.kernel, err = openSource(never, cfg.highestPace(), log); failed(err) {
			s.kernel = nil
		} else {
			s.ifname, s.loops = s.kernel.ifname, newLoops(loopQuiet, maxLoops)
		}
	}
	if s.ifname == nil && (len(cfg.NFLOG.Groups) > 0 || cfg.Routes.Window > 0) {
		s.ifname, s.closeNames, err = openNames(log)
		failed(err)
	}
	if len(cfg.NFLOG.Groups) > 0 && s.ifname != nil {
		if s.nflog, err = openNFLOG(cfg.NFLOG, s.ifname, log); failed(err) {
			s.nflog = nil
		}
	}
	if cfg.Routes.Window > 0 && s.ifname != nil {
		if s.routes, err = openRoutes(cfg.Routes, s.ifname, log); failed(err) {
			s.routes = nil
		}
	}
	if cfg.Counters.Interval > 0 {
		var heard func(time.Time) time.Time
		if s.kernel != nil {
			heard = s.heard
		}
		if s.counters, err = openCounters(cfg.Counters, heard, s.over, log); failed(err) {
			s.counters = nil
		}
	}
	if s.kernel == nil && s.nflog == nil && s.counters == nil {
		s.close()
		return nil, fmt.Errorf("%w: %w", errNoSource, errors.Join(errs...))
	}
	for _, err := range errs {
		log.Error("a source of drops does not run, the others do", "error", err)
	}
	switch {
	case s.kernel == nil && s.nflog == nil:
		log.Warn("without the kernel source only the counters of interfaces and queues tell of drops, and of no packet")
	case s.kernel == nil:
		log.Warn("without the kernel source what firewall rules log counts as dropped, and no other drop is seen")
	case s.nflog != nil:
		s.names, s.shares = newRuleNames(ruleNameWindow, maxRuleNames), newRuleShares(&cfg.NFLOG)
		if s.counters != nil {
			s.counters.tellRules(func(rules []ruleRecord) { s.shares.list(time.Now(), rules) })
		}
	}
	return s, nil
}

// name says what they are: "tp_btf", "tp_btf+nflog+counters", "nflog", "sflow".
func (s *sources) name() string {
	var names []string
	if s.kernel != nil {
		names = append(names, eventSource)
	}
	if s.nflog != nil {
		names = append(names, "nflog")
	}
	if s.counters != nil {
		names = append(names, "counters")
	}
	if s.routes != nil {
		names = append(names, "routes")
	}
	if s.remote != nil {
		names = append(names, "sflow")
	}
	return strings.Join(names, "+")
}

// read gives the agent what is seen until ctx ends, then what is left. It ends
// with the source that most is seen by.
func (s *sources) read(ctx context.Context, a *Agent) error {
	// The others go on until that one has ended: its last drops explain counters.
	beside, stop := context.WithCancel(context.WithoutCancel(ctx))
	var others sync.WaitGroup
	defer others.Wait()
	defer stop() // before the wait
	run := func(what string, observe func(context.Context) error) {
		others.Go(func() {
			if err := observe(beside); err != nil { // the rest goes on
				a.log.Error("a source ended, the others go on", "source", what, "error", err)
			}
		})
	}
	if s.routes != nil {
		run("routes", func(ctx context.Context) error { return s.routes.observe(ctx, a) })
	}
	if s.counters != nil && (s.kernel != nil || s.nflog != nil) {
		run("counters", func(ctx context.Context) error { return s.counters.observe(ctx, a.enterNow) })
	}
	switch {
	case s.kernel != nil:
		if s.nflog != nil { // drops are still seen, without their rules
			run("nflog", func(ctx context.Context) error { return s.nflog.observe(ctx, s.logged) })
		}
		return s.kernel.read(ctx, func(r *record, at time.Time) {
			s.hearing.busy.Store(true)
			a.drop(s, r, at)
			s.hearing.took(at, time.Now())
			s.hearing.busy.Store(false)
		})
	case s.nflog != nil:
		return s.nflog.observe(ctx, a.enterNow)
	case s.counters != nil:
		return s.counters.observe(ctx, a.enterNow)
	}
	return s.remote.observe(ctx, a.enterNow)
}

// netfilterDrop is the kernel's reason for what a firewall rule dropped.
const netfilterDrop = "NETFILTER_DROP"

// ruleNotKnown is that of the firewall's drops that were held back, when nobody can
// tell of which of its rules they are.
const ruleNotKnown = netfilterDrop + " (rule not known)"

// logged takes in what the firewall logged, beside the kernel's drops.
func (s *sources) logged(o observed) {
	now := time.Now()
	s.names.logged(now, o)
	s.shares.logged(now, ruleWord{o.event.Reason, o.event.Class}, ports{o.event.Ingress, o.event.Egress})
}

// named gives a drop that the kernel told of the name of its rule. Only what
// netfilter dropped has one: a packet that was logged and accepted, and dropped
// for something else, keeps its reason. One whose log was lost keeps it too, but has
// the class of the rules that log there, if they have one and the same.
func (s *sources) named(o observed) observed {
	if s.names == nil || o.event.Reason != netfilterDrop {
		return o
	}
	whole := s.catchUp()
	now, at := time.Now(), ports{o.event.Ingress, o.event.Egress}
	o = s.names.dropped(now, o)
	if o.event.Reason != netfilterDrop {
		s.shares.named(now, ruleWord{o.event.Reason, o.event.Class}, at)
	} else if class, ok := s.shares.unnamed(now, at, whole); ok {
		o.event.Class = class
	}
	return o
}

// catchUp takes in all that was logged until now, and reports whether it is whole.
func (s *sources) catchUp() (whole bool) {
	whole = s.nflog.catchUp(s.logged)
	lost, _, _ := s.nflog.left()
	s.shares.logsLost(time.Now(), lost)
	return whole
}

// byRule divides what the kernel held back of the firewall's drops among its rules,
// as part for part of it, each with its word; upTo is what catchUpWithRules said.
// Whatever else was held back is one part without a word.
func (s *sources) byRule(h held, reason string, at ports, upTo ruleReadings) []heldPart {
	if s.shares == nil || reason != netfilterDrop {
		return []heldPart{{drops: h.drops, packets: h.packets, bytes: h.bytes, known: true}}
	}
	var out []heldPart
	left := h
	for _, x := range s.shares.split(time.Now(), at, h.drops, upTo) {
		p := heldPart{ruleWord: x.ruleWord, known: x.known, drops: x.drops}
		// The same share of what is left of both, so that all of it is given.
		p.packets, p.bytes = portion(left.packets, x.drops, left.drops), portion(left.bytes, x.drops, left.drops)
		left.drops, left.packets, left.bytes = left.drops-p.drops, left.packets-p.packets, left.bytes-p.bytes
		out = append(out, p)
	}
	if left.packets > 0 || left.bytes > 0 { // of a drop that was told of before
		if len(out) == 0 {
			out = append(out, heldPart{known: true})
		}
		out[0].packets += left.packets
		out[0].bytes += left.bytes
	}
	return out
}

// heldPart is what one rule dropped of what was held back.
type heldPart struct {
	ruleWord
	known                 bool // false: which rule cannot be told
	drops, packets, bytes uint64
}

// portion is the share part/all of n.
func portion(n, part, all uint64) uint64 {
	if part >= all {
		return n
	}
	high, low := bits.Mul64(n, part)
	q, _ := bits.Div64(high, low, all) // part < all: it fits
	return q
}

// catchUpWithRules takes in all that rules logged and counted until now, as far as
// it says.
func (s *sources) catchUpWithRules() ruleReadings {
	return ruleReadings{logs: s.catchUp(), counters: s.counters != nil && s.shares.counting() && s.counters.readRulesNow()}
}

// explain takes in drops that the kernel told of, with their reason, function and
// class and their bytes together, for the counters that they have raised: they are not to be
// told of twice.
func (s *sources) explain(reason, function, class string, in, out uint32, drops, bytes uint64) {
	if s.counters == nil {
		return
	}
	if side, index := countedOn(reason, function, class, in, out); side != noSide {
		s.counters.explain(side, index, drops, bytes)
	}
}

// hearing is how far the agent has come in what the kernel has to say.
type hearing struct {
	busy atomic.Bool // with a record

	mu            sync.Mutex
	last          time.Time // when the packet of the last record was dropped
	silent        time.Time // until when there was no record left, as last looked
	silentAndIdle time.Time // the same, a look earlier
	held          time.Time // until when it has heard what was held back
}

// took takes in that the record of a drop is done with. dropped is time of day
// alone; what is remembered is of now's clock, which does not jump.
func (h *hearing) took(dropped, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last = now.Add(-max(now.Sub(dropped), 0))
}

// heldUntil takes in that what the kernel had held back until a time was heard.
func (s *sources) heldUntil(at time.Time) {
	s.hearing.mu.Lock()
	defer s.hearing.mu.Unlock()
	s.hearing.held = at
}

// heard returns until when all was heard that the kernel had to say: until it had no
// record left, or until the drop that the last record tells of, since they come in
// order. It is asked now and then: a record that was in hand is done with by the
// next time.
func (s *sources) heard(now time.Time) time.Time {
	h := &s.hearing
	h.mu.Lock()
	defer h.mu.Unlock()
	idle := !h.busy.Load()
	if idle {
		h.silentAndIdle = h.silent
	}
	if s.backlog() == 0 {
		h.silent = now
	} else if h.last.After(h.silent) {
		h.silent = h.last
	}
	if _, holds := s.kernel.(holder); holds && h.held.Before(h.silentAndIdle) {
		return h.held
	}
	return h.silentAndIdle
}

// looped says why a dropped packet went in a circle, "" when it did not.
func (s *sources) looped(now time.Time, ev *decafpb.DropEvent) string {
	if s.loops == nil {
		return ""
	}
	s.looping.Lock()
	defer s.looping.Unlock()
	return s.loops.take(now, ev)
}

// loopsForgotten counts packets and flows that there was no room to remember.
func (s *sources) loopsForgotten() uint64 {
	if s.loops == nil {
		return 0
	}
	s.looping.Lock()
	defer s.looping.Unlock()
	return s.loops.forgotten
}

// over lists the prefixes routed over an interface, as far as the routes source
// knows.
func (s *sources) over(index uint32) ranges {
	if s.routes == nil {
		return ranges{}
	}
	return s.routes.over(index)
}

// counts says how many drops there was no room for somewhere, and how many
// notices were no loss. Beside the kernel's drops a log that was lost is a name
// that was lost, no drop.
func (s *sources) counts() (lost, passed uint64, err error) {
	switch {
	case s.kernel != nil:
		return s.kernel.counts()
	case s.nflog != nil:
		return s.nflog.counts()
	case s.remote != nil:
		return s.remote.counts()
	}
	return 0, 0, nil
}

// backlog is how full the room between the kernel and the agent is, from 0 to 1,
// as far as that can be told.
func (s *sources) backlog() float64 {
	if b, ok := s.kernel.(backlogged); ok {
		return b.backlog()
	}
	return 0
}

// local reports whether what is lost was lost between this kernel and the agent.
// What a switch held back, or the network lost, says nothing of the agent's load.
func (s *sources) local() bool { return s.remote == nil }

func (s *sources) close() {
	if s.nflog != nil {
		s.nflog.close()
	}
	if s.counters != nil {
		s.counters.close()
	}
	if s.routes != nil {
		s.routes.close()
	}
	if s.closeNames != nil {
		s.closeNames()
	}
	if s.kernel != nil { // last: it names interfaces
		s.kernel.close()
	}
	if s.remote != nil {
		s.remote.close()
	}
}
