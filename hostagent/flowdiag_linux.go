package hostagent

import (
	"encoding/binary"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// flowDiag takes samples of flows where no programs can be loaded: sock_diag
// lists the sockets, and tells of each that is closed with all it counted. It
// does not know when a connection was opened, nor by whom, and sees no reductions of
// the window; a connection is taken to be opened after the list before the one that
// first shows it. A FIN that came may count as one byte. With what error a connection
// ended and by whose reset classic tracepoints say, where there are any (endings.go).
// The last sample of a connection comes when its owner closes the socket.
type flowDiag struct {
	mu     sync.Mutex // spaces
	spaces map[uint32]*flowDiagSpace
	lists  uint32 // begun, of any namespace

	ended   chan lastSample
	marks   chan struct{} // that all there were are in ended
	flush   func() int    // asks for so many marks
	stopped chan struct{}
	over    chan struct{} // nobody reads any more
	once    [2]sync.Once  // of stopped, over
	lost    atomic.Uint64

	ends     endsReader // nil: none
	lostEnds func(uint64)
	endings  *endings
	leftOut  uint64 // of endings, told
	checked  time.Time
}

// flowDiagSpace is what is known of a network namespace.
type flowDiagSpace struct {
	known  map[uint64]diagSeen // by cookie: those that were listed and not closed yet
	listed uint64              // ns, CLOCK_MONOTONIC: when the latest list was
	lists  uint32              // of it
	at     uint32              // the latest, of all lists
	lost   uint64              // last samples, at the latest list
	lossy  uint32              // the latest list before which some were lost
}

// diagSeen is a connection that was listed.
type diagSeen struct {
	opened      uint64 // as connStory has it
	connecting  bool
	retransmits uint32 // of its SYN
	at          uint32 // the latest list of the namespace that shows it
}

// lastSample is that of a socket that is closed.
type lastSample struct {
	flowSample
	heard uint64 // ns, CLOCK_MONOTONIC: when the other end's latest acknowledgement came
}

// heardWithin is how exact that is: the kernel has it in ticks of its timer.
const heardWithin = uint64(10 * time.Millisecond)

const (
	// endedQueue is how many last samples wait for flows to be published.
	endedQueue = 4096
	// endsEvery is how often tracepoints are read when no connection ends: they tell
	// of all the machine's.
	endsEvery = 100 * time.Millisecond
)

func newFlowDiag(flush func() int) *flowDiag {
	return &flowDiag{
		spaces: map[uint32]*flowDiagSpace{}, flush: flush, endings: newEndings(endingsLimit),
		ended: make(chan lastSample, endedQueue), marks: make(chan struct{}, maxDiagSpaces),
		stopped: make(chan struct{}), over: make(chan struct{}),
	}
}

// adopted is told which connections a network namespace had when it was first watched.
// Where a list was before, that says it, and what has come since belongs to this interval.
func (d *flowDiag) adopted(inum uint32, cookies []uint64) {
	now, err := monotonic()
	if err != nil {
		return // the first list says it
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.spaces[inum]
	switch {
	case s == nil:
		s = &flowDiagSpace{known: make(map[uint64]diagSeen, len(cookies)), at: d.lists}
		d.spaces[inum] = s
	case s.listed != 0:
		return
	}
	for _, c := range cookies {
		if _, known := s.known[c]; !known {
			s.known[c] = diagSeen{at: s.lists}
		}
	}
	s.listed, s.lost = now, d.lost.Load()
}

// Lists is flowReader's.
func (d *flowDiag) Lists() bool { return false }

// Dump is flowReader's, always of all.
func (d *flowDiag) Dump(_ dumped, each func(*flowSample), broken func(error)) error {
	now, err := monotonic()
	if err != nil {
		return err
	}
	inum, err := netNSOf(threadNetNS)
	if err != nil {
		return fmt.Errorf("list the sockets: %w", err)
	}
	ask, err := dialDiag(nil) // or it kept the namespace alive
	if err != nil {
		return err
	}
	defer ask.Close()
	lost := d.lost.Load()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lists++
	in := d.spaces[inum]
	if in == nil {
		in = &flowDiagSpace{known: map[uint64]diagSeen{}}
		d.spaces[inum] = in
	}
	in.at = d.lists
	in.lists++
	err = ask.dump(diagStates|1<<tcpListen, func(b []byte) {
		k, err := decodeDiag(b)
		if err != nil {
			broken(err)
			return
		}
		s := diagSample(inum, &k, b)
		in.opened(&s)
		if !s.listens() {
			k := diagSeen{opened: s.connStory.opened, at: in.lists, connecting: s.state == tcpSynSent}
			if k.connecting {
				k.retransmits = s.retransmits
			}
			in.known[s.cookie] = k
		}
		each(&s)
	})
	if err != nil {
		return err
	}
	in.endList(now, lost)
	for inum, s := range d.spaces {
		if d.lists-s.at > forgetSpace {
			delete(d.spaces, inum)
		}
	}
	return nil
}

// forgetSpace is after how many lists of others a namespace is forgotten.
const forgetSpace = 8 * maxDiagSpaces

// endList ends a list. A connection that it does not show is over, and its socket
// waits for its owner; or its last sample was lost. Then it is forgotten when two
// lists in a row do not show it, as flowTable does: what one of them still knows
// would seem opened anew to the other.
func (s *flowDiagSpace) endList(now, lost uint64) {
	for cookie, k := range s.known {
		if k.at < s.lossy && s.lossy < s.lists || s.lists-k.at > forgetAfter {
			delete(s.known, cookie)
		}
	}
	if lost != s.lost {
		s.lossy = s.lists
	}
	s.listed, s.lost = now, lost
}

// opened says when a connection was opened, as far as that is known.
func (s *flowDiagSpace) opened(of *flowSample) {
	k, known := s.known[of.cookie]
	switch {
	case of.state == tcpSynSent || s.listed == 0 && !known:
	case known && !k.connecting:
		of.connStory.opened = k.opened
	default:
		of.connStory.opened = s.listed + 1
	}
}

// take takes the message of a socket that is closed, from several goroutines.
func (d *flowDiag) take(inum uint32, k *diagSocket, b []byte) {
	s := diagSample(inum, k, b)
	now, err := monotonic()
	if err != nil || s.src.Port() == 0 {
		return // never connected
	}
	s.sort, s.ended = sampleEnded, now
	last := lastSample{s, now}
	if !wiped(&s) {
		last.heard -= min(now, 1e6*uint64(diagLastAck(b)))
	}
	select {
	case d.ended <- last:
	case <-d.over:
	}
}

// flushed is told that a namespace's closed sockets are all told of.
func (d *flowDiag) flushed() {
	select {
	case d.marks <- struct{}{}:
	case <-d.over:
	}
}

// Wait is flowReader's.
func (d *flowDiag) Wait(deadline time.Time, each func(*flowSample), broken func(error)) error {
	end := time.NewTimer(time.Until(deadline))
	defer end.Stop()
	var tick <-chan time.Time
	if d.ends != nil {
		t := time.NewTicker(endsEvery)
		defer t.Stop()
		tick = t.C
	}
	for {
		select {
		case s := <-d.ended:
			d.last(&s, each, broken)
		case <-tick:
			if err := d.readEnds(broken); err != nil {
				return err
			}
		case <-end.C:
			select {
			case <-d.stopped:
				return d.rest(each, broken)
			default:
			}
			return nil
		case <-d.stopped:
			return d.rest(each, broken)
		}
	}
}

// rest hands over what was closed before Stop.
func (d *flowDiag) rest(each func(*flowSample), broken func(error)) error {
	wait := d.flush()
	late := time.NewTimer(time.Second)
	defer late.Stop()
	for wait > 0 {
		select {
		case s := <-d.ended:
			d.last(&s, each, broken)
		case <-d.marks:
			wait--
		case <-late.C:
			d.lost.Add(uint64(wait)) // nobody knows what they had to tell
			wait = 0
		}
	}
	for {
		select {
		case s := <-d.ended:
			d.last(&s, each, broken)
		default:
			d.checked = time.Time{}
			return d.readEnds(broken)
		}
	}
}

// last hands over a last sample, with what is known of how its connection ended.
func (d *flowDiag) last(l *lastSample, each func(*flowSample), broken func(error)) {
	s := &l.flowSample
	if wiped(s) {
		s.posted, s.rttVar = s.bytes, 0 // made of nothing
	}
	if d.ends != nil {
		// What they say of this one was said before.
		d.ends.drain(d.endings.add, d.lostEnds, broken)
		if e := d.endings.take(s); e != nil {
			e.tell(s)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	in := d.spaces[s.netns]
	if in == nil {
		in = new(flowDiagSpace)
	}
	k, known := in.known[s.cookie]
	if wiped(s) {
		if !known {
			return // nobody knows whose it was, or it never connected
		}
		s.state, s.err = tcpClose, 0
		if k.connecting {
			s.state, s.retransmits = tcpSynSent, k.retransmits
		}
	}
	// One that is forgotten, for it was over long ago, was not opened since the list.
	if known || l.heard+heardWithin >= in.listed {
		in.opened(s)
	}
	delete(in.known, s.cookie)
	each(s)
}

// readEnds reads what tracepoints say, or their buffers run full.
func (d *flowDiag) readEnds(broken func(error)) error {
	if d.ends == nil {
		return nil
	}
	if now := time.Now(); now.Sub(d.checked) >= perfCheck {
		d.checked = now
		if err := d.ends.check(d.endings.add, d.lostEnds, broken); err != nil {
			return err
		}
	} else {
		d.ends.drain(d.endings.add, d.lostEnds, broken)
	}
	d.lostEnds(d.endings.leftOut - d.leftOut)
	d.leftOut = d.endings.leftOut
	return nil
}

// Stop is flowReader's.
func (d *flowDiag) Stop() { d.once[0].Do(func() { close(d.stopped) }) }

// Lost is how often the kernel had more to tell than there was room for.
func (d *flowDiag) Lost() (uint64, error) { return d.lost.Load(), nil }

// shut lets go of those who have last samples for it.
func (d *flowDiag) shut() { d.once[1].Do(func() { close(d.over) }) }

// Close closes it.
func (d *flowDiag) Close() error {
	d.shut()
	if d.ends == nil {
		return nil
	}
	return d.ends.Close()
}

// diagSample makes a sample of a message of sock_diag in which decodeDiag found d.
// Offsets are those of struct inet_diag_msg and struct tcp_info; older kernels have
// less of the latter.
func diagSample(inum uint32, d *diagSocket, b []byte) flowSample {
	s := flowSample{netns: inum, cookie: d.cookie, src: d.src, dst: d.dst, state: d.state}
	if s.listens() {
		return s
	}
	ne := binary.NativeEndian
	info := diagInfoOf(b)
	u8 := func(at int) uint8 {
		if len(info) < at+1 {
			return 0
		}
		return info[at]
	}
	u32 := func(at int) uint32 {
		if len(info) < at+4 {
			return 0
		}
		return ne.Uint32(info[at:])
	}
	u64 := func(at int) uint64 {
		if len(info) < at+8 {
			return 0
		}
		return ne.Uint64(info[at:])
	}
	s.bytes = u64(200) - min(u64(200), u64(208)) // bytes_sent, bytes_retrans
	s.posted = s.bytes + uint64(u32(144))        // notsent_bytes
	s.received = u64(128)
	s.read = s.received
	s.packets = u32(156)
	s.retransmits = u32(100)
	s.timeouts = u32(240) & 0xffff
	s.duplicates = u32(216)
	s.outOfOrder = u32(224)
	s.held = time.Duration(u64(176)) * time.Microsecond
	s.rtt = time.Duration(u32(68)) * time.Microsecond
	s.cwnd = uint64(u32(80)) * uint64(u32(16))
	s.rwnd = uint64(u32(228))
	s.ownRwnd = uint64(u32(232))
	s.rttVar = time.Duration(u32(72)) * time.Microsecond
	if low := u32(148); low != math.MaxUint32 {
		s.rttMin = time.Duration(low) * time.Microsecond
	}
	s.reorderings = u32(220)
	s.probes = u8(3)
	s.uid = ne.Uint32(b[64:]) // idiag_uid
	switch d.state {
	case tcpCloseWait, tcpLastAck, tcpClosing:
		s.finished = true
		s.received -= min(s.received, 1)
	}
	if d.state != tcpClose {
		s.read = min(s.received, s.read-min(s.read, uint64(ne.Uint32(b[56:])))) // idiag_rqueue
	} else if s.rtt == 0 && s.packets == 0 && u8(0) == tcpClose {
		// It was never established: a handshake gives the first round-trip time.
		s.state = tcpSynSent
		if u32(140) > 0 { // segs_in: answered, but not by a SYN-ACK
			s.err = int32(unix.ECONNREFUSED)
		}
	}
	return s
}

// diagLastAck is for how many ms the other end has acknowledged nothing
// (tcpi_last_ack_recv).
func diagLastAck(b []byte) uint32 {
	info := diagInfoOf(b)
	if len(info) < 60 {
		return 0
	}
	return binary.NativeEndian.Uint32(info[56:])
}

// diagInfoOf finds struct tcp_info in a message that decodeDiag took.
func diagInfoOf(b []byte) []byte {
	for rest := b[diagMessageBytes:]; len(rest) >= 4; {
		n, kind := int(binary.NativeEndian.Uint16(rest)), binary.NativeEndian.Uint16(rest[2:])
		if n < 4 || n > len(rest) {
			return nil
		}
		if kind == diagInfo {
			return rest[4:n]
		}
		rest = rest[min((n+3)&^3, len(rest)):]
	}
	return nil
}
