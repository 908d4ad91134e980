package device

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"decaf/api/decafpb"
	"decaf/api/packet"
	"decaf/device/sflow"
)

const (
	maxSubAgents = 256  // of a switch, whose datagrams are followed
	maxSources   = 4096 // of a switch, whose notifications are followed
	maxWords     = 4096 // names in notifications that are kept
	maxWord      = 64   // bytes of a name

	// maxClockError is how far a switch's clock may be from ours for its time
	// stamps to be taken.
	maxClockError = 10 * time.Minute
	// sameStart is how much earlier a datagram that was overtaken can have been
	// made. One much earlier with no higher number is of a sender that began
	// anew.
	sameStart = 5000 // ms
)

// sflowSwitch is the source of one switch's drops.
type sflowSwitch struct {
	name     string
	from     []netip.Prefix
	names    map[uint32]string
	classes  *sflowClassifier
	log      *slog.Logger
	listener <-chan struct{} // closed when no more comes
	broken   complaint

	// Of the listener's goroutine alone.
	streams map[uint32]*sflowStream // by sub-agent
	sources map[sflowSource]*sflowFollowed
	words   map[string]string

	mu     sync.Mutex
	handle func(observed) // while observe runs

	counters sflowCounters
}

// sflowStream is one sub-agent's datagrams.
type sflowStream struct {
	numbers sequence
	uptime  uint32
}

// sflowSource is what numbers its notifications.
type sflowSource struct{ subAgent, class, index uint32 }

type sflowFollowed struct {
	numbers    sequence
	suppressed uint32
}

// sflowCounters are written by the listener's goroutine.
type sflowCounters struct {
	datagrams, datagramsLost, datagramsTwice, restarts           atomic.Uint64
	notifications, notificationsLost, suppressed, noLoss, nobody atomic.Uint64
	malformed, samplesSkipped, recordsSkipped                    atomic.Uint64
	unknownReasons, noIP, wrongClock, notFollowed                atomic.Uint64
}

// SFlowCounts is what came from a switch and what was left out of it.
type SFlowCounts struct {
	Datagrams      uint64 // that came
	DatagramsLost  uint64 // holes in their numbers, per sub-agent
	DatagramsTwice uint64 // came again, and were left out
	Restarts       uint64 // the switch began to count anew

	Notifications     uint64 // that came
	NotificationsLost uint64 // holes in their numbers, per data source
	Suppressed        uint64 // left out by the switch itself, as it says
	NoLoss            uint64 // of a reason that is no loss
	Nobody            uint64 // came while no agent spoke for the switch

	Malformed      uint64 // notifications and datagrams with wrong lengths
	SamplesSkipped uint64 // flow and counter samples, other enterprises
	RecordsSkipped uint64 // records in notifications that are not known
	UnknownReasons uint64 // in class unknown
	NoIP           uint64 // no IP header found: events without a flow
	WrongClock     uint64 // time stamps too far off, replaced by our own
	NotFollowed    uint64 // too many sub-agents or data sources to count holes
}

func newSFlowSwitch(cfg SwitchConfig, classes *sflowClassifier, listener <-chan struct{}, log *slog.Logger) *sflowSwitch {
	from := cfg.From
	if len(from) == 0 {
		agent := cfg.Agent.Unmap()
		from = []netip.Prefix{netip.PrefixFrom(agent, agent.BitLen())}
	}
	return &sflowSwitch{
		name: cfg.Name, from: from, names: cfg.Interfaces, classes: classes, listener: listener,
		log:     log.With("device", cfg.Name),
		streams: map[uint32]*sflowStream{},
		sources: map[sflowSource]*sflowFollowed{},
		words:   map[string]string{},
	}
}

func (s *sflowSwitch) mayComeFrom(a netip.Addr) bool {
	for _, p := range s.from {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// observe is [observer]'s. It ends with an error when the listener ends first.
func (s *sflowSwitch) observe(ctx context.Context, handle func(observed)) error {
	s.mu.Lock()
	s.handle = handle
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.handle = nil
		s.mu.Unlock()
	}()
	select {
	case <-ctx.Done():
		return nil
	case <-s.listener:
		if ctx.Err() != nil {
			return nil
		}
		return errors.New("sflow: the listener ended: see its error, and start the agent again")
	}
}

// counts: lost are the notifications that the switch held back or that did not
// arrive.
func (s *sflowSwitch) counts() (lost, passed uint64, err error) {
	c := &s.counters
	return c.notificationsLost.Load() + c.suppressed.Load() + c.nobody.Load(), c.noLoss.Load(), nil
}

// Counts may be called while datagrams come.
func (s *sflowSwitch) Counts() SFlowCounts {
	c := &s.counters
	return SFlowCounts{
		Datagrams: c.datagrams.Load(), DatagramsLost: c.datagramsLost.Load(), DatagramsTwice: c.datagramsTwice.Load(), Restarts: c.restarts.Load(),
		Notifications: c.notifications.Load(), NotificationsLost: c.notificationsLost.Load(), Suppressed: c.suppressed.Load(),
		NoLoss: c.noLoss.Load(), Nobody: c.nobody.Load(),
		Malformed: c.malformed.Load(), SamplesSkipped: c.samplesSkipped.Load(), RecordsSkipped: c.recordsSkipped.Load(),
		UnknownReasons: c.unknownReasons.Load(), NoIP: c.noIP.Load(), WrongClock: c.wrongClock.Load(), NotFollowed: c.notFollowed.Load(),
	}
}

// close has nothing to close: the socket is the listener's.
func (s *sflowSwitch) close() {}

// datagram takes the notifications out of a datagram whose header was read.
func (s *sflowSwitch) datagram(r *sflow.Reader, now time.Time) {
	s.counters.datagrams.Add(1)
	if !s.follow(r.Datagram) {
		s.counters.datagramsTwice.Add(1)
		return
	}
	before := r.Skipped
	for r.Next() {
		s.notification(r.Datagram.SubAgent, &r.Drop, now)
	}
	s.counters.samplesSkipped.Add(r.Skipped.Samples - before.Samples)
	s.counters.recordsSkipped.Add(r.Skipped.Records - before.Records)
	malformed := r.Skipped.Malformed - before.Malformed
	if err := r.Err(); err != nil {
		s.counters.malformed.Add(max(1, malformed))
		if n, due := s.broken.make(now); due {
			s.log.Warn("sFlow datagrams were not whole", "count", n, "error", err)
		}
	}
}

// follow counts holes in the datagrams' numbers; false is one that came before.
func (s *sflowSwitch) follow(d sflow.Datagram) bool {
	st := s.streams[d.SubAgent]
	if st == nil {
		if len(s.streams) >= maxSubAgents {
			s.counters.notFollowed.Add(1)
			return true
		}
		st = &sflowStream{}
		s.streams[d.SubAgent] = st
	}
	before := st.numbers
	restarted := st.uptime > d.Uptime && st.uptime-d.Uptime > sameStart
	fresh := st.numbers.see(d.Sequence, restarted)
	if st.numbers.restarts != before.restarts {
		s.counters.restarts.Add(1)
		// What it numbered, it numbers anew.
		for k, f := range s.sources {
			if k.subAgent == d.SubAgent {
				f.numbers.started = false
				f.suppressed = 0
			}
		}
	}
	if st.numbers.last == d.Sequence {
		st.uptime = d.Uptime
	}
	s.counters.datagramsLost.Add(st.numbers.missing - before.missing) // may be less: modulo 2^64 that is right
	return fresh
}

// followSource counts holes in the notifications' numbers, and what the switch
// says it held back.
func (s *sflowSwitch) followSource(subAgent uint32, d *sflow.Drop) {
	k := sflowSource{subAgent, d.SourceClass, d.SourceIndex}
	f := s.sources[k]
	if f == nil {
		if len(s.sources) >= maxSources {
			s.counters.notFollowed.Add(1)
			return
		}
		// What it held back before we listened is not our loss.
		f = &sflowFollowed{suppressed: d.Suppressed}
		s.sources[k] = f
	}
	before := f.numbers.missing
	f.numbers.see(d.Sequence, false)
	s.counters.notificationsLost.Add(f.numbers.missing - before)
	if more := d.Suppressed - f.suppressed; more < 1<<31 { // else it was overtaken
		s.counters.suppressed.Add(uint64(more))
		f.suppressed = d.Suppressed
	}
}

func (s *sflowSwitch) notification(subAgent uint32, d *sflow.Drop, now time.Time) {
	s.counters.notifications.Add(1)
	s.followSource(subAgent, d)
	function := functionName(s.word(beforePlus(d.Function)))
	v, reason := s.classify(d, function)
	if !v.loss {
		s.counters.noLoss.Add(1)
		return
	}
	if !v.known {
		s.counters.unknownReasons.Add(1)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.handle == nil {
		s.counters.nobody.Add(1)
		return
	}
	s.handle(s.event(d, now, v, reason, function))
}

func (s *sflowSwitch) classify(d *sflow.Drop, function string) (verdict, string) {
	return s.classes.classify(d.Reason, s.word(d.LinuxReason), function, s.word(d.Trap), s.word(d.TrapGroup))
}

// event makes the drop event of a notification.
func (s *sflowSwitch) event(d *sflow.Drop, now time.Time, v verdict, reason, function string) observed {
	at := uint64(now.UnixNano())
	if d.Has&sflow.HasTimestamp != 0 {
		if off := int64(d.TimestampNs - at); off > -int64(maxClockError) && off < int64(maxClockError) {
			at = d.TimestampNs
		} else {
			s.counters.wrongClock.Add(1)
		}
	}
	ev := &decafpb.DropEvent{
		TimeNs:   at,
		Class:    v.class,
		Reason:   reason,
		Function: function,
		Source:   "sflow",
		Ingress:  s.ifname(d.Input),
		Egress:   s.ifname(d.Output),
		Queue:    d.Queue,

		TransitDelayNs: d.TransitDelayNs, QueueDepthBytes: d.QueueDepthBytes,
	}
	o := observed{event: ev, packets: 1, known: v.known}
	if d.Has&sflow.HasHeader == 0 {
		s.counters.noIP.Add(1)
		return o
	}
	f := d.Frame()
	p, err := packet.Decode(f.Network)
	if err != nil {
		s.counters.noIP.Add(1)
		if v.class == PolicyL3ACL && f.SrcMAC != nil && f.Network == nil {
			ev.Class = PolicyL2ACL // no rule about IP can have dropped it
		}
		p = &decafpb.Packet{}
	}
	if p.Length == 0 {
		p.Length = f.Length
	}
	p.Vlan = uint32(f.VLAN)
	p.SrcMac, p.DstMac = bytes.Clone(f.SrcMAC), bytes.Clone(f.DstMAC)
	o.bytes = uint64(p.Length)
	ev.Packet = p
	ev.Inner, ev.Encapsulation = packet.Inner(0, f.Network)
	return o
}

// ifInternal stands for the switch itself (sFlow version 5, section 5.3).
const ifInternal = 0x3fffffff

func (s *sflowSwitch) ifname(index uint32) string {
	if index == 0 || index == ifInternal {
		return ""
	}
	if name, ok := s.names[index]; ok {
		return name
	}
	var b [16]byte
	return s.wordOf(strconv.AppendUint(append(b[:0], "if"...), uint64(index), 10))
}

// beforePlus cuts the offset off a symbol: ip_forward+0x1a0/0x300.
func beforePlus(symbol []byte) []byte {
	symbol, _, _ = bytes.Cut(symbol, []byte("+"))
	return symbol
}

// word returns a name in a datagram as a printable string of its own, made once.
func (s *sflowSwitch) word(b []byte) string {
	b = bytes.TrimRight(b, "\x00") // some senders count C's end of string
	return s.wordOf(b[:min(len(b), maxWord)])
}

func (s *sflowSwitch) wordOf(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	if w, ok := s.words[string(b)]; ok { // allocates nothing
		return w
	}
	w := printable(string(b))
	if len(s.words) < maxWords {
		s.words[string(b)] = w
	}
	return w
}
