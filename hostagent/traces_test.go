package hostagent

import (
	"net/netip"
	"testing"

	"decaf/api/decafpb"
	"decaf/api/packet"
)

func flowTo(port uint16) flowIn {
	return flowIn{Flow: packet.Flow{Src: netip.MustParseAddrPort("10.0.0.1:40000"), Dst: netip.AddrPortFrom(netip.MustParseAddr("10.0.0.2"), port), Proto: packet.TCP}}
}

func pathOf(s decafpb.PathStatus) *decafpb.Path {
	return &decafpb.Path{Status: s, Why: "because", ProbeSeq: 9, ProbeId: 128, Distance: 1, Hops: []*decafpb.Hop{{Ttl: 1}}, StartNs: 4, TookNs: 5}
}

func TestBookTracesOncePerFlowAndEpoch(t *testing.T) {
	b := newBook()
	ask := func(port uint16, epoch int64, want asked) *decafpb.Path {
		t.Helper()
		got, p := b.ask(flowTo(port), 0, epoch, &decafpb.Retransmit{TcpSeq: uint32(port)})
		if got != want {
			t.Errorf("flow %d in epoch %d: %v, want %v", port, epoch, got, want)
		}
		return p
	}
	ask(1, 10, askTrace)
	ask(1, 10, askWait)
	ask(2, 10, askTrace)
	waiters := b.done(flowTo(1), pathOf(decafpb.PathStatus_PATH_STATUS_COMPLETE))
	if len(waiters) != 1 || waiters[0].GetPath().GetStatus() != decafpb.PathStatus_PATH_STATUS_CACHED || len(waiters[0].GetPath().GetHops()) != 1 {
		t.Errorf("waiters %v, want one with the hops, cached", waiters)
	}
	// Until the waiters are sent, later records wait behind them.
	ask(1, 10, askWait)
	if n := len(b.done(flowTo(1), pathOf(decafpb.PathStatus_PATH_STATUS_COMPLETE))); n != 1 {
		t.Errorf("%d waiters, want the one that came meanwhile", n)
	}
	if n := len(b.done(flowTo(1), pathOf(decafpb.PathStatus_PATH_STATUS_COMPLETE))); n != 0 {
		t.Errorf("%d waiters, want none left", n)
	}
	p := ask(1, 10, askKnown)
	if p.GetProbeSeq() != 9 || p.GetProbeId() != 128 || p.GetDistance() != 1 || p.GetStartNs() != 4 || p.GetTookNs() != 5 || p.GetWhy() == "" {
		t.Errorf("cached path %v, want probes, distance and times of the first", p)
	}
	ask(1, 9, askKnown) // the clock went back
	ask(1, 11, askTrace)
	ask(2, 11, askWait) // still under way from the epoch before
	b.done(flowTo(2), pathOf(decafpb.PathStatus_PATH_STATUS_PARTIAL))
	b.done(flowTo(2), pathOf(decafpb.PathStatus_PATH_STATUS_PARTIAL))
	ask(2, 11, askTrace) // that trace was of epoch 10
	if len(b.flows) != 2 || b.waiting != 0 {
		t.Errorf("%d flows, %d waiting; want 2 and none", len(b.flows), b.waiting)
	}
	if n := b.done(flowTo(3), pathOf(decafpb.PathStatus_PATH_STATUS_COMPLETE)); n != nil {
		t.Errorf("a flow nobody asked for has waiters: %v", n)
	}
}

func TestBookRepeatsWhatWasFound(t *testing.T) {
	f := func(first, later decafpb.PathStatus, ask asked) {
		t.Helper()
		b := newBook()
		b.ask(flowTo(1), 0, 1, &decafpb.Retransmit{})
		b.done(flowTo(1), pathOf(first))
		got, p := b.ask(flowTo(1), 0, 1, &decafpb.Retransmit{})
		if got != ask || p.GetStatus() != later {
			t.Errorf("after %v: %v, %v; want %v, %v", first, got, p.GetStatus(), ask, later)
		}
	}
	const (
		none     = decafpb.PathStatus_PATH_STATUS_UNSPECIFIED
		complete = decafpb.PathStatus_PATH_STATUS_COMPLETE
		partial  = decafpb.PathStatus_PATH_STATUS_PARTIAL
		refused  = decafpb.PathStatus_PATH_STATUS_REFUSED
		failed   = decafpb.PathStatus_PATH_STATUS_FAILED
		cached   = decafpb.PathStatus_PATH_STATUS_CACHED
	)
	f(complete, cached, askKnown)
	f(partial, cached, askKnown)
	f(cached, cached, askKnown)
	f(failed, failed, askKnown)
	f(refused, none, askTrace) // it did not happen, so the flow may ask again
}

func TestBookHoldsTheLastWordBack(t *testing.T) {
	b := newBook()
	last := &decafpb.Retransmit{Undone: true}
	if b.hold(flowTo(1), last) {
		t.Error("held behind a trace that nobody asked for")
	}
	b.ask(flowTo(1), 0, 1, &decafpb.Retransmit{})
	if !b.hold(flowTo(1), last) {
		t.Error("not held behind the trace under way")
	}
	waiters := b.done(flowTo(1), pathOf(decafpb.PathStatus_PATH_STATUS_COMPLETE))
	if len(waiters) != 1 || waiters[0] != last || last.Path != nil {
		t.Errorf("waiters %v, want the last word, without a path", waiters)
	}
	b.done(flowTo(1), pathOf(decafpb.PathStatus_PATH_STATUS_COMPLETE))
	if b.hold(flowTo(1), last) {
		t.Error("held behind a trace that is done")
	}
}

func TestBookIsBounded(t *testing.T) {
	b := newBook()
	b.maxFlows, b.maxWaiting = 2, 1
	r := &decafpb.Retransmit{}
	for i, want := range []asked{askTrace, askTrace, askFull} {
		if got, _ := b.ask(flowTo(uint16(i)), 0, 1, r); got != want {
			t.Errorf("flow %d: %v, want %v", i, got, want)
		}
	}
	for i, want := range []asked{askWait, askCrowded} {
		if got, _ := b.ask(flowTo(0), 0, 1, r); got != want {
			t.Errorf("record %d: %v, want %v", i, got, want)
		}
	}
	if b.hold(flowTo(1), r) {
		t.Error("held beyond the bound")
	}
	b.done(flowTo(0), pathOf(decafpb.PathStatus_PATH_STATUS_COMPLETE))
	b.done(flowTo(0), pathOf(decafpb.PathStatus_PATH_STATUS_COMPLETE))
	// A new epoch makes room.
	if got, _ := b.ask(flowTo(5), 0, 2, r); got != askTrace {
		t.Errorf("in the next epoch: %v, want a trace", got)
	}
}

// After the clock was set back a flow is traced anew and there is room again: what
// was traced in epochs that have not been yet is no path of now. The epoch before
// this one is none of these: its last events come late.
func TestBookAfterAClockSetBack(t *testing.T) {
	b := newBook()
	b.maxFlows = 3
	complete := pathOf(decafpb.PathStatus_PATH_STATUS_COMPLETE)
	ask := func(port uint16, epoch int64, want asked) {
		t.Helper()
		got, _ := b.ask(flowTo(port), 0, epoch, &decafpb.Retransmit{})
		if got != want {
			t.Errorf("flow %d in epoch %d: %v, want %v", port, epoch, got, want)
		}
	}
	for port := range uint16(3) {
		ask(port, 100, askTrace)
	}
	b.done(flowTo(0), complete)
	b.done(flowTo(1), complete)
	ask(0, 99, askKnown)
	ask(9, 99, askFull)
	ask(0, 40, askTrace)
	ask(9, 40, askTrace)
	ask(2, 40, askWait) // under way since before the step
	if n := len(b.done(flowTo(2), complete)); n != 1 {
		t.Errorf("%d waiters, want 1", n)
	}
	b.done(flowTo(2), complete)
	ask(2, 40, askTrace)
	b.done(flowTo(0), complete)
	ask(0, 40, askKnown)
	ask(0, 39, askKnown)
	ask(0, 41, askTrace)
}

// With another flow label a flow may take another way, and is traced anew.
func TestBookKnowsThePathOfOneLabel(t *testing.T) {
	b := newBook()
	for _, c := range []struct {
		label uint32
		want  asked
	}{{1, askTrace}, {1, askKnown}, {2, askTrace}, {2, askKnown}, {1, askTrace}} {
		if got, _ := b.ask(flowTo(1), c.label, 1, &decafpb.Retransmit{}); got != c.want {
			t.Errorf("label %d: %v, want %v", c.label, got, c.want)
		}
		b.done(flowTo(1), pathOf(decafpb.PathStatus_PATH_STATUS_COMPLETE))
	}
	if len(b.flows) != 1 {
		t.Errorf("%d flows in the book", len(b.flows))
	}
}
