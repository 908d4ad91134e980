package flow

import (
	"cmp"
	"slices"
	"time"

	"decaf/api/packet"
)

// Truth is what really happened, for scoring only: no agent knows it. Before
// [Fabric.Next] has said that the run is over it is what is known so far.
type Truth struct {
	Faults []FaultTruth // by the scenario's faults
	Noise  uint64       // packets that no fault took
	// Losses are the packets that died, by time, at most [Options.MaxLosses];
	// LeftOut is how many more there were.
	Losses  []PacketLoss
	LeftOut uint64
	// Connections begun, and those of them that failed to open or broke.
	Connections, Failed uint64
	// LinksUsed is how many directed links carried a packet.
	LinksUsed int
}

// FaultTruth is what one fault did.
type FaultTruth struct {
	Component string // to blame: "link a>b", "device d" or "host h"
	Kind      string
	Packets   uint64 // it took, probes and their answers included
	// Windows is Packets by the times the fault was on, in order, up to the last
	// that took any.
	Windows []uint64
	// Connections it slowed down or broke without taking a packet: faults of hosts.
	Connections uint64
}

// PacketLoss is one packet that died.
type PacketLoss struct {
	At    time.Duration // since the start of the run
	Flow  packet.Flow
	Seq   uint32
	Data  int    // bytes of payload
	Probe bool   // a tracer's, or the answer to one
	Link  string // where it died: on this link, in the queue before it or in the device behind it
	// Device is the one that dropped it, "" on the wire.
	Device string
	Fault  int // index into the scenario's faults; -1 noise
}

// lost notes a packet that died on a link.
func (f *Fabric) lost(p *packetHead, l Link, cause int32, t timeNS) {
	if cause < 0 {
		f.truth.Noise++
	} else {
		f.took(cause, t)
	}
	if len(f.truth.Losses) >= f.options.MaxLosses {
		f.truth.LeftOut++
		return
	}
	x := PacketLoss{At: t, Flow: p.tuple(), Seq: p.seq, Data: p.payload(), Probe: p.probe, Link: f.graph.LinkName(l), Fault: int(cause)}
	if cause >= 0 {
		switch f.faults[cause].stage {
		case stageQueue:
			if n := f.graph.from[l]; f.graph.IsDevice(n) {
				x.Device = f.graph.Name(n)
			}
		case stageDevice:
			x.Device = f.graph.Name(f.graph.to[l])
		}
	}
	f.truth.Losses = append(f.truth.Losses, x)
}

// took counts a packet that a fault took.
func (f *Fabric) took(cause int32, t timeNS) {
	x, window := &f.truth.Faults[cause], 0
	if w := &f.faults[cause].times; w.every > 0 {
		window = int((t - w.at) / w.every)
	}
	x.Packets++
	for len(x.Windows) <= window {
		x.Windows = append(x.Windows, 0)
	}
	x.Windows[window]++
}

// Truth gives what really happened in the record form. The slices are the
// fabric's own until the next call of Next.
func (f *Fabric) Truth() *Truth {
	slices.SortStableFunc(f.truth.Losses, func(a, b PacketLoss) int { return cmp.Compare(a.At, b.At) })
	f.truth.LinksUsed = 0
	for _, used := range f.used {
		if used {
			f.truth.LinksUsed++
		}
	}
	return &f.truth
}
