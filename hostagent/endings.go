package hostagent

import (
	"time"

	"decaf/api/packet"

	"golang.org/x/sys/unix"
)

// More TCP states, include/net/tcp_states.h.
const (
	tcpFinWait2   = 5
	tcpTimeWait   = 6
	tcpNewSynRecv = 12
)

// hintSort is what a tracepoint tells of.
type hintSort uint8

const (
	hintAgain         hintSort = iota // something was sent again
	hintClosed                        // the connection is over: state was the one before
	hintError                         // its owner has an error to hear of
	hintResetReceived                 // the other end reset it
	hintResetSent                     // this end did
	hintGone                          // the socket is given back
)

// hint is what a classic tracepoint says.
type hint struct {
	sort   hintSort
	at     uint64 // ns, CLOCK_MONOTONIC
	flow   packet.Flow
	sock   uint64 // where the socket is in the kernel's memory; 0: not told
	cookie uint64 // 0: not told
	state  uint8  // before it was closed
	err    int32  // errno
}

// endings puts together what classic tracepoints say of how connections end, until
// the last sample of each comes (flowdiag_linux.go): that one knows what was sent,
// but neither error nor resets. Tracepoints know no network namespace. They name a
// socket by where it is in memory, and one tells at its end what cookie it had: that
// joins both. Where that record is missing, and for errors, which name no socket,
// addresses and ports do: of two connections with the same ones, in different
// namespaces, the one that something happened to last.
//
// Records come in order of time. It is for one goroutine.
type endings struct {
	limit    int
	bySocket map[uint64]*ending
	byCookie map[uint64]*ending
	byFlow   map[packet.Flow]*ending // the latest
	all      []*ending               // the oldest first; those taken too
	leftOut  uint64                  // forgotten to make room
}

// ending is what is known of how a connection ended, or is about to.
type ending struct {
	hint                       // the first of them; at is the latest's
	resetsSent, resetsReceived uint32
	errored                    bool // its owner had an error to hear of
	taken                      bool
}

const (
	// endingsLimit bounds those kept; each has some 300 bytes.
	endingsLimit = 16384
	// endingKept is how long one waits: its owner may take its time to close the
	// socket, or nobody lists its namespace.
	endingKept = 10 * time.Minute
	// endingSame is how long after another a record that names no socket, or the
	// first that does, is still of the same connection: they come together.
	endingSame = time.Second
)

func newEndings(limit int) *endings {
	return &endings{limit: limit, bySocket: map[uint64]*ending{}, byCookie: map[uint64]*ending{}, byFlow: map[packet.Flow]*ending{}}
}

// add takes a record.
func (n *endings) add(h hint) {
	if h.sort == hintGone {
		if e := n.bySocket[h.sock]; e != nil {
			delete(n.bySocket, h.sock)
			// The place may be another's by now, if the record of its end was lost. Of
			// the addresses the other end's may be wiped, and this end's with it.
			if h.flow.Dst.Port() != 0 && h.flow.Dst != e.flow.Dst {
				return
			}
			e.cookie = h.cookie
			n.byCookie[h.cookie] = e
		}
		return
	}
	e := n.of(h)
	if e == nil {
		// Most end orderly, and what is put into an open socket's queue of errors, such
		// as a timestamp, may be none: there is nothing to tell.
		if h.sort == hintClosed && orderly(h.state) || h.sort == hintError && h.err == 0 {
			return
		}
		e = n.make(h)
	}
	e.at = max(e.at, h.at)
	switch h.sort {
	case hintClosed:
		e.state = h.state
	case hintError:
		e.errored = true
		if h.err != 0 { // or its owner, woken up by it, has taken it already
			e.err = h.err
		}
	case hintResetReceived:
		e.resetsReceived++
	case hintResetSent:
		e.resetsSent++
	}
	if h.cookie != 0 {
		e.cookie = h.cookie
		n.byCookie[h.cookie] = e
	}
}

// orderly says of the state that a connection was closed in that both ends were
// done with it.
func orderly(state uint8) bool {
	switch state {
	case tcpFinWait2, tcpTimeWait, tcpLastAck, tcpClosing, tcpClose, tcpListen:
		return true
	}
	return false
}

// of finds what a record is about.
func (n *endings) of(h hint) *ending {
	if e := n.byCookie[h.cookie]; h.cookie != 0 && e != nil {
		return e
	}
	if h.sock != 0 {
		// The place may be another's by now, if the record of its end was lost.
		if e := n.bySocket[h.sock]; e != nil && e.flow == h.flow {
			return e
		}
	}
	e := n.byFlow[h.flow]
	switch {
	case e == nil, h.sock != 0 && e.sock != 0, h.at > e.at+uint64(endingSame), e.sock == 0 && e.cookie != 0:
		return nil
	case h.sock != 0:
		e.sock = h.sock
		n.bySocket[h.sock] = e
	}
	return e
}

// make begins one.
func (n *endings) make(h hint) *ending {
	if len(n.all) >= n.limit {
		n.makeRoom(h.at)
	}
	e := &ending{hint: h}
	e.state, e.err = 0, 0
	n.all = append(n.all, e)
	n.byFlow[h.flow] = e
	if h.sock != 0 {
		n.bySocket[h.sock] = e
	}
	return e
}

// makeRoom forgets those that were taken or waited for long, and if that is not
// enough, an eighth of all, the oldest.
func (n *endings) makeRoom(now uint64) {
	left := n.all[:0]
	for _, e := range n.all {
		switch old := now > e.at+uint64(endingKept); {
		case old:
			n.forget(e)
		case !e.taken:
			left = append(left, e)
		}
	}
	if len(left) > n.limit-n.limit/8 {
		out := len(left) - (n.limit - n.limit/8)
		n.leftOut += uint64(out)
		for _, e := range left[:out] {
			n.forget(e)
		}
		left = append(left[:0], left[out:]...)
	}
	clear(n.all[len(left):])
	n.all = left
}

func (n *endings) forget(e *ending) {
	if n.byFlow[e.flow] == e {
		delete(n.byFlow, e.flow)
	}
	if n.bySocket[e.sock] == e {
		delete(n.bySocket, e.sock)
	}
	if n.byCookie[e.cookie] == e {
		delete(n.byCookie, e.cookie)
	}
}

// take gives what is known of the connection of a last sample, once; nil: nothing,
// it ended orderly.
func (n *endings) take(s *flowSample) *ending {
	e := n.byCookie[s.cookie]
	if e == nil && s.dst.Port() != 0 {
		e = n.byFlow[s.flow()]
		if e != nil && (e.cookie != 0 || s.ended > e.at+uint64(endingKept)) {
			e = nil // another's, or of one that had these ports before
		}
	}
	if e != nil {
		e.taken = true
		n.forget(e)
	}
	return e
}

// wiped says of a last sample that the socket's owner had the kernel forget its
// connection before it was closed (tcp_disconnect): by a reset (SO_LINGER 0), or as
// connect did not succeed and the call waited for it.
func wiped(s *flowSample) bool { return s.dst.Port() == 0 }

// tell puts into a last sample how its connection ended.
func (e *ending) tell(s *flowSample) {
	if wiped(s) {
		s.src, s.dst = e.flow.Src, e.flow.Dst
		s.state, s.err = tcpClose, 0
	}
	s.before, s.resetsSent, s.resetsReceived = e.state, e.resetsSent, e.resetsReceived
	switch e.state {
	case tcpSynSent:
		s.state = tcpSynSent
	case tcpCloseWait, tcpLastAck, tcpClosing:
		if !s.finished {
			// The other end's FIN is no data.
			s.finished = true
			s.received -= min(s.received, 1)
			s.read = min(s.read, s.received)
		}
	}
	if err := e.errno(s); err != 0 {
		s.err = int32(err)
	}
	s.connStory.err = s.err
}

// errno is the error that a connection ended with. Where nobody says, it is the one
// that the kernel has for what happened: tcp_reset, and tcp_write_err but for what
// ICMP told the socket before.
func (e *ending) errno(s *flowSample) unix.Errno {
	switch {
	case e.err != 0:
		return unix.Errno(e.err)
	case e.resetsReceived > 0 && e.state == tcpSynSent:
		return unix.ECONNREFUSED
	case e.resetsReceived > 0 && e.state == tcpCloseWait:
		return unix.EPIPE
	case e.resetsReceived > 0:
		return unix.ECONNRESET
	case e.resetsSent > 0:
	case e.state == tcpSynSent && e.errored,
		(e.state == tcpEstablished || e.state == tcpCloseWait) && (s.retransmits > 0 || s.probes > 0):
		return unix.ETIMEDOUT
	}
	return 0
}
