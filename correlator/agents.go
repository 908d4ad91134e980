package correlator

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"decaf/api/decafpb"
)

// An agent that said nothing is shown as silent when the third heartbeat is due,
// and after freshBeats its silence means something.
const (
	silentBeats = 3
	freshBeats  = 4
)

// The interval of an agent's heartbeats is what it says; it is usualBeat of one
// that does not. A shorter one than leastBeat is not held against it, since a
// heartbeat is on its way for some time, and one longer than longestBeat would hide
// for too long that it is gone: no agent has one.
const (
	usualBeat   = int64(2e9)
	leastBeat   = int64(1e9)
	longestBeat = int64(10e9)
)

// freshFor is how long a device's silence means nothing yet, ns: the collector
// gives their heartbeats the usual interval.
const freshFor = freshBeats * usualBeat

// counterMerged is the heartbeat counter of the records that an agent's spool
// merged into others while nothing could be sent: they left their numbers unused.
const counterMerged = "records_merged"

// maxSpans bounds what is remembered of one agent's times of presence.
const maxSpans = 256

// presence is what is known of one producer of evidence.
type presence struct {
	name, role, version, source string
	boot, revision              uint64
	last                        int64 // ns, of the latest heartbeat
	counters                    map[string]uint64
	interval                    int64  // of its heartbeats, ns
	err                         string // why it cannot be reached
	streams                     int64  // since when a device's stream lives, ns; 0 while it does not
	// spans of time without a pause longer than it may be, oldest first.
	spans [][2]int64

	// What a device says of what it tells of.
	fuse       string
	unreported []string
	blindNow   string      // by its latest heartbeat
	blind      []blindness // oldest first, at most maxSpans
}

// patience is how long a producer's silence means nothing yet, ns.
func (p *presence) patience() int64 { return freshBeats * p.interval }

// beatOf is the interval that a heartbeat tells of, ns.
func beatOf(h *decafpb.Heartbeat) int64 {
	if h.GetIntervalNs() == 0 {
		return usualBeat
	}
	return int64(min(max(h.GetIntervalNs(), uint64(leastBeat)), uint64(longestBeat)))
}

// agents knows who has been heard of. Pure; the engine's owner guards it.
type agents struct {
	byName    map[string]*presence
	strangers uint64 // heartbeats of producers that the topology does not have
	admits    bool   // hosts that the topology does not have, as no file lists them
}

// maxAdmitted bounds the agents that are known where hosts are admitted.
const maxAdmitted = 1 << 16

func newAgents() *agents { return &agents{byName: make(map[string]*presence)} }

func (a *agents) of(name, role string) *presence {
	p := a.byName[name]
	if p == nil {
		p = &presence{name: name, role: role, interval: usualBeat}
		a.byName[name] = p
	}
	return p
}

// beat takes a heartbeat.
func (a *agents) beat(h *decafpb.Heartbeat, now int64) {
	name := h.GetOrigin().GetProducer()
	if a.admits && h.GetRole() == "host" && len(a.byName) < maxAdmitted {
		a.of(name, "host")
	}
	if a.byName[name] == nil {
		a.strangers++ // in no topology: nothing it says can be placed
		return
	}
	p := a.byName[name]
	at := min(int64(h.GetTimeNs()), now)
	if at >= p.last {
		p.interval = beatOf(h)
	}
	if n := len(p.spans); n > 0 && at-p.spans[n-1][1] <= p.patience() {
		p.spans[n-1][0] = min(p.spans[n-1][0], at)
		p.spans[n-1][1] = max(p.spans[n-1][1], at)
	} else {
		p.spans = append(p.spans, [2]int64{at, at})
		if len(p.spans) > maxSpans {
			p.spans = p.spans[1:]
		}
	}
	if at < p.last {
		return
	}
	boot := h.GetOrigin().GetBootId()
	if b, ok := h.GetCounters()[counterBoot]; ok { // a device's, told by the collector
		boot = b
	}
	p.testify(h, boot, at)
	p.last, p.role, p.version, p.source = at, h.GetRole(), h.GetVersion(), h.GetSource()
	p.counters, p.revision, p.boot = h.GetCounters(), h.GetConfigRevision(), boot
}

// fresh says whether a producer was heard of lately.
func (a *agents) fresh(name string, now int64) bool {
	p := a.byName[name]
	return p != nil && p.last > 0 && now-p.last < silentBeats*p.interval
}

// reached notes that a device's stream lives, or why it does not.
func (a *agents) reached(device string, err error, now int64) {
	p := a.of(device, "device")
	switch {
	case err != nil:
		p.err, p.streams = err.Error(), 0
	case p.streams == 0:
		p.err, p.streams = "", now
	}
}

// sourceKernel is in the source of an agent that sees every drop of its kernel.
const sourceKernel = "tp_btf"

// heard lists the devices that were heard and whose stream lived all through a
// time. An agent without the kernel's word sees only what rules log or a switch
// reports, so its silence means nothing.
func (a *agents) heard(from, to int64) []string {
	var list []string
	for name, p := range a.byName {
		if p.role != "device" || p.streams == 0 || p.streams > from+p.patience() || !strings.Contains(p.source, sourceKernel) {
			continue
		}
		if ok, _ := a.freshAll(name, from, to); ok {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list
}

// freshAll says whether a producer was heard all through a window, and if not,
// why, in words.
func (a *agents) freshAll(name string, from, to int64) (bool, string) {
	p := a.byName[name]
	if p == nil || len(p.spans) == 0 {
		return false, fmt.Sprintf("the agent of %s was never heard", name)
	}
	for _, s := range p.spans {
		if s[0] <= from+p.patience() && s[1] >= to-p.patience() {
			return true, ""
		}
	}
	if first := p.spans[0][0]; first > from+p.patience() {
		return false, fmt.Sprintf("the agent of %s is heard only since %s", name, time.Unix(0, first).UTC().Format(time.RFC3339))
	}
	return false, fmt.Sprintf("the agent of %s was silent for a part of the window", name)
}
