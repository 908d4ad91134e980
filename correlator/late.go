package correlator

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"decaf/api/decafpb"

	"google.golang.org/protobuf/proto"
)

// After an outage of NATS evidence comes of a time that the live window has left
// behind. That time is looked at once more, as it would have been had the evidence
// come then: by an engine of its own, on the store that the live one has, step by
// step on the clock of the records. What it finds and is not known is found late.
// The live windows leave out what came late: while it comes, half of the past would
// name the wrong half of the network.
//
// The same is done after a time in which no correlator ran: what came in time then,
// to be stored, was looked at by nobody. See [Engine.Unseen].

// lateAfter is how old evidence must be when it comes to be late, ns: as long as a
// finding lives without support ([FindRule.Quiet]), so that none is named in the live
// window that is over at once. No agent takes so long unless it could not be heard.
const lateAfter = 10e9

// LateRule says how time is looked at once more. All in ns but PerStep.
type LateRule struct {
	// Quiet is how long no late evidence must have come before a look begins, that it
	// is whole; Most bounds that wait. Pause is between two looks: an agent whose clock
	// is slow is always late.
	Quiet, Most, Pause int64
	Stride             int64 // from one virtual step to the next
	PerStep            int   // virtual steps for one of the live engine: the cost of a look
}

// DefaultLateRule looks eight times as fast as time goes: at ten minutes within 75 s,
// with the engine stepping each 250 ms; each of its steps costs three while it does.
func DefaultLateRule() LateRule {
	return LateRule{Quiet: 5e9, Most: 60e9, Pause: 30e9, Stride: 1e9, PerStep: 2}
}

// LateStats count what came late and what became of it.
type LateStats struct {
	Records  uint64 // of losses and connections
	TooOld   uint64 // of these, older than evidence is held
	Looks    uint64 // at times that had passed
	Findings uint64 // found late
	Known    uint64 // found again, which the live engine had found
}

// lateEvidence knows of what times evidence came late, and holds the look at it.
type lateEvidence struct {
	from, to    int64 // of what has not been looked at; 0: there is none
	since, came int64 // when the first and the last of that came
	pours       int64 // when a flood of it began; see pouring
	rested      int64 // when the next look may begin at the earliest
	unseen      int64 // what was stored from then on, and before the start, nobody has looked at; 0: somebody has
	look        *lateLook
	stats       LateStats
}

// lateLook is a look at a time that has passed.
type lateLook struct {
	engine        *Engine // the store's and the topology's, all else its own
	from, at, end int64
	found         map[string]*decafpb.Finding // by id
	stale         []int64                     // ends of closed epochs whose record is old
}

// overdue says whether what happened at a moment is late evidence, when its record
// was received as it says and comes now. The first to come are what was stored before
// the start: of these an earlier run has looked at what was stored in time.
func (s *Store) overdue(at, received, now int64) bool {
	if !s.started && received > 0 {
		now = received
	}
	return at > 0 && now-at > lateAfter
}

// unseenSlack is how long before it stopped an engine may have received what it did not
// name yet, ns.
const unseenSlack = 10e9

// Unseen tells the engine before its first step that evidence received after this
// moment has been looked at by no engine, as the last one had stopped: what the live
// window does not reach is looked at late.
func (e *Engine) Unseen(since int64) { e.late.unseen = max(1, since-unseenSlack) }

// missed says whether a record of a moment, received before the start as it says, is of
// those that nobody has looked at and that the live window does not hold for long.
func (e *Engine) missed(at, received, now int64) bool {
	return !e.store.started && e.late.unseen != 0 && received >= e.late.unseen && at > 0 && now-at > lateAfter
}

// lateTold is how old a device's word must be when its collector hears it to be late,
// ns: no live window reaches back so far. A device's clock may be wrong by less.
const lateTold = 30e9

// overdueTold is the same for what a device told of, which its collector received as
// it says before it was sent here.
func (s *Store) overdueTold(at, received, now int64) bool {
	if received == 0 {
		received = now
	}
	return received-at > lateTold || s.started && now-received > lateAfter
}

// onTime takes out of a window what came late.
func (w *Window) onTime() {
	late := func(f *Flow) bool { return !f.prompt }
	w.Flows, w.Pathless = slices.DeleteFunc(w.Flows, late), slices.DeleteFunc(w.Pathless, late)
	w.Joined = slices.DeleteFunc(w.Joined, func(j JoinedFlow) bool { return late(j.Flow) })
	w.Drops = slices.DeleteFunc(w.Drops, func(d *Drop) bool { return d.late })
}

// lateRecord notes a record of a loss or of a connection at a moment, if it is late.
func (e *Engine) lateRecord(at, now int64, late bool) {
	if !late {
		return
	}
	l := &e.late
	l.stats.Records++
	if at < now-e.cfg.Limits.Retention {
		l.stats.TooOld++
		return
	}
	if now-l.came > e.cfg.Late.Most {
		l.pours = now
	}
	if l.from == 0 {
		l.from, l.to, l.since = at, at, now
	}
	l.from, l.to, l.came = min(l.from, at), max(l.to, at), now
}

// lateBatch notes the late records of a batch. Loss-free traffic alone is no reason
// to look again.
func (e *Engine) lateBatch(b *decafpb.Batch, now int64) {
	for _, r := range b.GetRetransmits() {
		if !r.GetUndone() {
			at := int64(r.GetTimeNs())
			received := int64(r.GetReceivedNs())
			e.lateRecord(at, now, e.store.overdue(at, received, now) || e.missed(at, received, now))
		}
	}
	for _, d := range b.GetDrops() {
		if !isClass(d.GetClass(), classAnomaly) {
			at := int64(d.GetTimeNs())
			received := int64(d.GetReceivedNs())
			e.lateRecord(at, now, e.store.overdueTold(at, received, now) || e.missed(at, received, now))
		}
	}
	for _, a := range b.GetAggregates() {
		at := int64(a.GetEndNs())
		received := int64(a.GetReceivedNs())
		e.lateRecord(at, now, e.store.overdueTold(at, received, now) || e.missed(at, received, now))
	}
	for _, r := range b.GetFlows() {
		if r.GetResetsReceived() > 0 || r.GetZeroWindowNs() > 0 || r.GetTerminatedFlows() > 0 {
			at := int64(r.GetEndNs())
			received := int64(r.GetReceivedNs())
			e.lateRecord(at, now, e.store.overdue(at, received, now) || e.missed(at, received, now))
		}
	}
}

// Late evidence pours in while some came this lately, and at most so long, ns.
const (
	pourPause = 1e9
	pourMost  = 15e9
)

// pouring says whether what an outage kept back is just coming: what is of the present
// comes last, so the live window has only a part of its evidence. A lone agent whose
// clock is slow holds nobody up but once.
func (l *lateEvidence) pouring(now int64) bool {
	return l.pours != 0 && now-l.came < pourPause && now-l.pours < pourMost
}

// lookBack goes on with the look at what has passed, or begins one if there is a
// reason to. It returns the findings that changed.
func (e *Engine) lookBack(now int64) []*decafpb.Finding {
	l := &e.late
	if l.look == nil {
		// Nor before what came last has waited for what joins it.
		quiet := max(e.cfg.Late.Quiet, now-e.ripe(now))
		if l.from == 0 || now < l.rested || now-l.came < quiet && now-l.since < e.cfg.Late.Most {
			return nil
		}
		l.look = e.newLook(l.from, min(l.to+e.cfg.Epoch/2, now))
		l.from, l.to = 0, 0
		l.stats.Looks++
	}
	k := l.look
	if n := len(k.stale); k.at > k.end {
		if n > 0 {
			e.record(k.stale[n-1], now)
			k.stale = k.stale[:n-1]
		}
		if n <= 1 {
			l.look, l.rested = nil, now+e.cfg.Late.Pause
		}
		return nil
	}
	k.engine.ripeNow = e.ripe(now)
	for range e.cfg.Late.PerStep {
		if k.at > k.end {
			break
		}
		for _, f := range k.engine.look(k.at) {
			k.found[f.GetId()] = f
		}
		k.at += e.cfg.Late.Stride
	}
	if k.at <= k.end {
		return nil
	}
	changed := e.learn(k, now)
	for end := k.from / e.cfg.Epoch * e.cfg.Epoch; end < min(k.end, e.epochs.next-e.cfg.Epoch); end += e.cfg.Epoch {
		k.stale = append(k.stale, end+e.cfg.Epoch)
	}
	return changed
}

// newLook makes the engine that looks at [from, to].
func (e *Engine) newLook(from, to int64) *lateLook {
	m := e.method
	if f, ok := m.(*Fused); ok { // views of its own
		m = &Fused{rule: f.rule, ids: f.ids, views: make(map[viewKind]*view)}
	}
	again := &Engine{
		cfg: e.cfg, topo: e.topo, method: m, store: e.store, paths: e.paths, finder: NewFinder(e.cfg.Find, e.finder.newID),
		watching: e.watching, heard: e.heard, blind: e.blind, downs: newDowns(e.cfg.Down), shakes: newHandshakes(e.cfg.Handshake, e.shakes.view.ids),
		live: &Ranking{Method: m.Name()}, past: true,
	}
	return &lateLook{engine: again, from: from, at: from, end: to, found: make(map[string]*decafpb.Finding)}
}

// looksFrom is from when on evidence is still to be looked at, ns; 0 if none is but
// by the live window.
func (l *lateEvidence) looksFrom() int64 {
	from := l.from
	if l.look != nil && (from == 0 || l.look.from < from) {
		from = l.look.from
	}
	return from
}

// learn takes what a look found: what is not known is a finding, over since its
// evidence ends; what is known may have begun before it was known.
func (e *Engine) learn(k *lateLook, now int64) (changed []*decafpb.Finding) {
	found := slices.SortedFunc(maps.Values(k.found), func(a, b *decafpb.Finding) int {
		return cmp.Or(cmp.Compare(a.GetFromNs(), b.GetFromNs()), cmp.Compare(a.GetComponent(), b.GetComponent()))
	})
	for _, f := range found {
		c, ok := parseComponent(e.topo, f.GetComponent())
		if !ok || f.GetLastNs() == 0 {
			continue
		}
		if known, same := e.known(f, c); known != nil {
			e.late.stats.Known++
			if same {
				if wider := e.widen(known, f); wider != nil {
					changed = append(changed, wider)
				}
			}
			continue
		}
		f.Late, f.DetectedNs, f.ResolvedNs = true, uint64(now), f.GetLastNs()
		if f.Evidence == nil {
			f.Evidence = &decafpb.Evidence{}
		}
		f.Evidence.Reasons = append([]string{fmt.Sprintf("found late: what tells of it came up to %s after it, and what came meanwhile was looked at again",
			time.Duration(now-int64(f.GetFromNs())).Round(time.Second))}, f.GetEvidence().GetReasons()...)
		e.finder.settle(Settled{c, int64(f.GetFromNs()), int64(f.GetLastNs()), f.GetClass() == classDown})
		e.late.stats.Findings++
		changed = append(changed, f)
	}
	for _, f := range changed {
		e.keep(f)
	}
	return changed
}

// known gives the finding that tells of the same as one that was found by a second
// look; same says whether it names the same component: else it names one that
// holds it, or that it holds.
func (e *Engine) known(f *decafpb.Finding, c Component) (is *decafpb.Finding, same bool) {
	slack := uint64(e.cfg.Find.Quiet)
	for _, x := range slices.Backward(e.findings) {
		if x.GetFromNs() > f.GetLastNs()+slack || x.GetResolvedNs() != 0 && x.GetLastNs()+slack < f.GetFromNs() {
			continue
		}
		if x.GetComponent() == f.GetComponent() {
			return x, true
		}
		y, ok := parseComponent(e.topo, x.GetComponent())
		if ok && (y.within(c) || c.within(y) || slices.Contains(x.GetEquivalent(), f.GetComponent())) {
			is = x
		}
	}
	return is, false
}

// widen gives a finding that begins, or, if it is over, ends, where a second look
// saw it to; nil if that is no change.
func (e *Engine) widen(was, f *decafpb.Finding) *decafpb.Finding {
	known := proto.CloneOf(was)
	known.FromNs = min(known.GetFromNs(), f.GetFromNs())
	if known.GetResolvedNs() != 0 {
		known.LastNs = max(known.GetLastNs(), f.GetLastNs())
		known.ResolvedNs = known.GetLastNs()
	}
	known.Flows = max(known.GetFlows(), f.GetFlows())
	hosts := append(slices.Clone(known.GetHosts()), f.GetHosts()...)
	slices.Sort(hosts)
	known.Hosts = slices.Compact(hosts)
	if o := e.finder.openID(known.GetId()); o != nil {
		o.pb.FromNs, o.pb.Flows = known.GetFromNs(), known.GetFlows()
		for _, h := range known.GetHosts() {
			o.hosts[h] = true
		}
	}
	if known.GetFromNs() == was.GetFromNs() && known.GetLastNs() == was.GetLastNs() {
		return nil
	}
	return known
}

// openID gives the open finding with this id, or nil.
func (f *Finder) openID(id string) *openFinding {
	for _, o := range f.open {
		if o.pb.GetId() == id {
			return o
		}
	}
	return nil
}

// spokeUntil says, as [Store.spoke] does, when a device last told of something that
// it did up to a moment, as far as its drops are held.
func (s *Store) spokeUntil(at int64) func(device string) int64 {
	var word map[string]int64
	return func(device string) int64 {
		if word == nil {
			word = make(map[string]int64)
			for _, d := range s.drops {
				if d.Time <= at {
					word[d.Device] = max(word[d.Device], d.Time)
				}
			}
		}
		return word[device]
	}
}
