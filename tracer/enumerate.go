package tracer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"decaf/api/decafpb"
	"decaf/api/packet"
)

// EnumerateRequest asks for all paths between two hosts.
type EnumerateRequest struct {
	// Request is the flow to begin with, and is traced first. Others have its
	// addresses, its destination port, and other source ports. Those of IPv6 have a
	// flow label each, as hosts give them: routers may go by that alone (RFC 6438).
	Request
	// OneLabel gives all of them the label of the first.
	OneLabel bool
	// Confidence is with which probability no next hop is missed at a node: 0.95
	// where it is 0.
	Confidence float64
	// MaxFlows bounds the source ports used, 4096 where it is 0.
	MaxFlows int
	// Spare takes from the host's budget one trace per flow, and only what traces
	// leave, for which it waits: for what is not urgent. Otherwise the first trace
	// is asked of the budget, as any other, and no more.
	Spare bool
	// Progress, if set, is told how far it is.
	Progress func(Progress)
}

// Progress is how far an enumeration is.
type Progress struct {
	TTL, Of int // the one worked on
	Nodes   int // found so far
	Probes  int
}

const defaultMaxFlows = 4096

func (r *EnumerateRequest) fill() error {
	if r.Confidence == 0 {
		r.Confidence = 0.95
	}
	if r.MaxFlows == 0 {
		r.MaxFlows = defaultMaxFlows
	}
	switch {
	case !(r.Confidence >= 0.5 && r.Confidence <= 0.9999):
		return fmt.Errorf("confidence %v: want 0.5 to 0.9999, such as 0.95", r.Confidence)
	case r.MaxFlows < 1 || r.MaxFlows > 32768:
		return fmt.Errorf("%d flows: want 1 to 32768", r.MaxFlows)
	}
	return nil
}

// enumeration is one under way.
type enumeration struct {
	t     *Tracer
	id    identity
	wire  packet.Flow // of flow 0
	ports []uint16    // by flow
	// labels are by flow, and all the same where one is set; nil for IPv4.
	labels []uint32
	one    bool
	flow   map[uint16]int
	start  time.Time
	wake   chan struct{}

	mu sync.Mutex
	e  *mda
	// nth counts the probes of a flow and TTL.
	nth map[mdaProbe]int
}

// Enumerate finds the ECMP set towards a destination: first the path of the
// flow itself, which tells how far to look, then by the multipath detection
// algorithm every next hop of every node. path is never nil; fan is nil where
// path is FAILED, REFUSED or SKIPPED, or the enumeration was given up.
// Errors: a bad request, no distance to go by, ctx done.
func (t *Tracer) Enumerate(ctx context.Context, r EnumerateRequest) (fan *Fan, path *decafpb.Path, err error) {
	if err := r.fill(); err != nil {
		return nil, t.fail(err.Error()), fmt.Errorf("enumerate: %w", err)
	}
	r.Flow = r.Flow.Unmapped()
	if r.Spare {
		if err := t.spare(ctx); err != nil {
			return nil, t.fail(err.Error()), fmt.Errorf("enumerate: %w", err)
		}
		r.paid = true
	}
	path = t.Do(ctx, r.Request)
	switches := len(path.GetHops())
	if switches > 0 && path.GetHops()[switches-1].GetStatus() == decafpb.HopStatus_HOP_STATUS_DESTINATION {
		switches-- // the destination is no switch
	}
	switch {
	case ctx.Err() != nil:
		return nil, path, fmt.Errorf("enumerate: %w", ctx.Err())
	case switches == 0:
		return nil, path, fmt.Errorf("enumerate: %s: %s", statusWord(path.GetStatus()), path.GetWhy())
	}
	wire, _, err := t.resolve(ctx, r.Flow)
	if err != nil {
		return nil, path, fmt.Errorf("enumerate: %w", err)
	}
	if wire != r.Flow {
		return nil, path, errors.New("enumerate: this host translates the flow, and other source ports to who knows what")
	}
	n := &enumeration{
		t: t, wire: wire, wake: make(chan struct{}, 1), start: time.Now(),
		flow: map[uint16]int{}, nth: map[mdaProbe]int{},
		e: newMDA(wire.Dst.Addr(), switches, r.MaxFlows, 1-r.Confidence, t.cfg.Resend, t.cfg.Timeout),
	}
	if wire.Is6() {
		n.labels, n.one = []uint32{r.FlowLabel}, r.OneLabel
	}
	t.mu.Lock()
	n.id = newIdentity(rand.Uint64)
	for t.live[n.id.seq] != nil {
		n.id = newIdentity(rand.Uint64)
	}
	t.live[n.id.seq] = n
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		delete(t.live, n.id.seq)
		t.mu.Unlock()
	}()
	t.counters.enumerations.Add(1)
	fan, err = n.run(ctx, r)
	return fan, path, err
}

// run sends what the algorithm asks for until it is done.
func (n *enumeration) run(ctx context.Context, r EnumerateRequest) (*Fan, error) {
	timer := time.NewTimer(n.t.cfg.Timeout)
	defer timer.Stop()
	var (
		buf   []mdaProbe
		spent int // flows taken from the budget
	)
	for {
		n.mu.Lock()
		probes, next, done := n.e.due(time.Since(n.start), buf)
		flows := n.e.flows
		progress := Progress{TTL: min(n.e.at+1, len(n.e.levels)), Of: len(n.e.levels), Probes: n.e.sentProbes}
		for _, l := range n.e.levels {
			progress.Nodes += len(l.nodes)
		}
		n.mu.Unlock()
		if done {
			break
		}
		if r.Progress != nil {
			r.Progress(progress)
		}
		buf = probes
		for ; r.Spare && spent < flows; spent++ {
			if err := n.t.spare(ctx); err != nil {
				return nil, fmt.Errorf("enumerate: %w", err)
			}
		}
		for _, p := range probes {
			if err := n.send(p, r.Request); err != nil {
				n.t.counters.sendErrors.Add(1)
			}
		}
		timer.Reset(next - time.Since(n.start))
		select {
		case <-n.wake:
		case <-timer.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("enumerate: %w", context.Cause(ctx))
		case <-n.t.closed:
			return nil, errors.New("enumerate: the tracer was closed")
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	fan := n.e.fan()
	fan.Ports, fan.Labels = slices.Clone(n.ports), slices.Clone(n.labels)
	return fan, nil
}

// ends gives what makes a flow another: its source port and, of IPv6, its label;
// the first time by finding them. All ports are above the well-known ones, and each
// is used once.
func (n *enumeration) ends(flow int) (port uint16, label uint32) {
	for len(n.ports) <= flow {
		p := n.wire.Src.Port()
		if last := len(n.ports) - 1; last >= 0 {
			p = n.ports[last] + 1
			for _, used := n.flow[p]; used || p < 1024; _, used = n.flow[p] {
				p++
			}
		}
		n.flow[p] = len(n.ports)
		n.ports = append(n.ports, p)
	}
	if n.labels == nil {
		return n.ports[flow], 0
	}
	for len(n.labels) <= flow {
		l := n.labels[0]
		if !n.one {
			l = 1 + rand.Uint32N(maxFlowLabel)
		}
		n.labels = append(n.labels, l)
	}
	return n.ports[flow], n.labels[flow]
}

// maxFlowLabel is the largest IPv6 flow label: it has 20 bits, and 0 is none.
const maxFlowLabel = 1<<20 - 1

func (n *enumeration) send(what mdaProbe, r Request) error {
	p := packet.Probe{Flow: n.wire, BadChecksum: true}
	if r.New {
		p.Flags = packet.SYN
	}
	n.mu.Lock()
	port, label := n.ends(what.flow)
	p.Flow.Src, p.FlowLabel = netip.AddrPortFrom(n.wire.Src.Addr(), port), label
	nth := n.nth[what]
	n.nth[what]++
	n.mu.Unlock()
	n.id.mark(&p, what.ttl, nth)
	var buf [60]byte
	raw, err := p.Marshal(buf[:0])
	if err != nil {
		return err
	}
	if err := n.t.endpointFor(p.Flow).send(raw, p.Flow.Dst.Addr()); err != nil {
		return err
	}
	n.t.counters.probes.Add(1)
	return nil
}

func (n *enumeration) take(e *packet.ICMPError, now time.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	flow, ok := n.flow[e.Quoted.Flow.Src.Port()]
	want := n.wire
	want.Src = netip.AddrPortFrom(n.wire.Src.Addr(), e.Quoted.Flow.Src.Port())
	if !ok || e.Quoted.Flow != want {
		return false
	}
	ttl, nth, ok := n.id.read(&e.Quoted, e.V6)
	if !ok {
		return false
	}
	if n.e.answer(flow, answerOf(e, ttl, nth), now.Sub(n.start)) {
		select {
		case n.wake <- struct{}{}:
		default:
		}
	}
	return true
}

// spare waits until the budget has more than half of its burst left, and takes one.
func (t *Tracer) spare(ctx context.Context) error {
	for {
		wait, ok := t.budget.spare()
		if ok {
			return nil
		}
		select {
		// At most a second: the rate may be changed meanwhile.
		case <-time.After(min(max(wait, time.Millisecond), time.Second)):
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-t.closed:
			return errors.New("the tracer was closed")
		}
	}
}

// Survey enumerates to each target again and again until ctx is done: a round
// each time every has passed, spread over it, each start moved by up to a tenth
// of every so that hosts do not ask the same switches at the same time. targets
// is asked before each round; found gets every result.
func (t *Tracer) Survey(ctx context.Context, every time.Duration, targets func() []EnumerateRequest, found func(EnumerateRequest, *Fan, *decafpb.Path, error)) {
	for ctx.Err() == nil {
		begin := time.Now()
		list := targets()
		for i, r := range list {
			at := begin.Add(every * time.Duration(i) / time.Duration(len(list))).Add(rand.N(every/10 + 1))
			if !waitUntil(ctx, at) {
				return
			}
			r.Spare = true
			fan, path, err := t.Enumerate(ctx, r)
			found(r, fan, path, err)
		}
		if !waitUntil(ctx, begin.Add(every)) {
			return
		}
	}
}

func waitUntil(ctx context.Context, at time.Time) bool {
	select {
	case <-time.After(time.Until(at)):
		return true
	case <-ctx.Done():
		return false
	}
}
