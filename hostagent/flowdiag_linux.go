package hostagent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"sync/atomic"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// flowDiag takes samples of flows where no programs can be loaded: sock_diag
// lists the sockets, and tells of each that is closed with all it counted. It
// does not know when a connection was opened, by whom, nor with what error it
// ended, and sees no resets and no reductions of the window; a connection is
// taken to be opened after the list before the one that first shows it. A FIN
// that came may count as one byte. Of one network namespace.
type flowDiag struct {
	ask, ends *diagConn
	known     map[uint64]uint64 // by cookie, of those in the latest list: when opened, ns
	listed    uint64            // ns, CLOCK_MONOTONIC: when that was; 0: not yet
	stopped   atomic.Bool
	lost      atomic.Uint64
}

func openFlowDiag(ns *os.File) (_ *flowDiag, err error) {
	d := &flowDiag{known: map[uint64]uint64{}}
	if d.ends, err = dialDiag(ns, groupDestroy4, groupDestroy6); err != nil {
		return nil, err
	}
	if d.ask, err = dialDiag(ns); err != nil {
		return nil, errors.Join(err, d.ends.Close())
	}
	return d, nil
}

// Lists is flowReader's.
func (d *flowDiag) Lists() bool { return false }

// Dump is flowReader's, always of all.
func (d *flowDiag) Dump(_ dumped, each func(*flowSample), broken func(error)) error {
	now, err := monotonic()
	if err != nil {
		return err
	}
	shown := make(map[uint64]uint64, len(d.known))
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		request := diagRequest(family)
		binary.NativeEndian.PutUint32(request[4:], diagStates|1<<tcpListen)
		if _, err := d.ask.c.Send(netlink.Message{
			Header: netlink.Header{Type: sockDiagByFamily, Flags: netlink.Request | netlink.Dump}, Data: request,
		}); err != nil {
			return fmt.Errorf("list the sockets: %w", err)
		}
		msgs, err := d.ask.c.Receive()
		if err != nil {
			return fmt.Errorf("list the sockets: %w", err)
		}
		for _, m := range msgs {
			s, err := decodeDiagSample(m.Data)
			if err != nil {
				broken(err)
				continue
			}
			d.opened(&s)
			if s.state != tcpSynSent {
				shown[s.cookie] = s.connStory.opened
			}
			each(&s)
		}
	}
	d.known, d.listed = shown, now
	return nil
}

// opened says when a connection was opened, as far as that is known.
func (d *flowDiag) opened(s *flowSample) {
	at, known := d.known[s.cookie]
	if !known && d.listed != 0 && s.state != tcpSynSent {
		at = d.listed + 1
	}
	s.connStory.opened = at
}

// Wait is flowReader's.
func (d *flowDiag) Wait(deadline time.Time, each func(*flowSample), broken func(error)) error {
	if err := d.ends.c.SetReadDeadline(deadline); err != nil {
		return fmt.Errorf("listen for sockets that are closed: %w", err)
	}
	for !d.stopped.Load() {
		msgs, err := d.ends.c.Receive()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		case errors.Is(err, unix.ENOBUFS):
			d.lost.Add(1) // or more: the kernel does not count them
			continue
		case err != nil:
			return fmt.Errorf("listen for sockets that are closed: %w", err)
		}
		now, err := monotonic()
		if err != nil {
			return err
		}
		for _, m := range msgs {
			s, err := decodeDiagSample(m.Data)
			if err != nil {
				broken(err)
				continue
			}
			s.ended = now
			if s.src.Port() == 0 || s.dst.Port() == 0 {
				continue // never connected, or wiped
			}
			s.sort = sampleEnded
			d.opened(&s)
			each(&s)
		}
	}
	return nil
}

// Stop is flowReader's.
func (d *flowDiag) Stop() {
	d.stopped.Store(true)
	if err := d.ends.c.SetReadDeadline(time.Unix(1, 0)); err != nil {
		d.ends.Close()
	}
}

// Lost is how often the kernel had more to tell than there was room for.
func (d *flowDiag) Lost() (uint64, error) { return d.lost.Load(), nil }

// Close closes it.
func (d *flowDiag) Close() error { return errors.Join(d.ask.Close(), d.ends.Close()) }

// decodeDiagSample makes a sample of a message of sock_diag. Offsets are those
// of struct inet_diag_msg and struct tcp_info; older kernels have less of the
// latter.
func decodeDiagSample(b []byte) (flowSample, error) {
	d, err := decodeDiag(b)
	if err != nil {
		return flowSample{}, err
	}
	s := flowSample{cookie: d.cookie, src: d.src, dst: d.dst, state: d.state}
	if s.listens() {
		return s, nil
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
	return s, nil
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
