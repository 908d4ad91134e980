package hostagent

import (
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
	"time"

	"decaf/api/packet"
)

// A sample's bytes, as flowprogram.go writes them, in the machine's byte order:
// these, then an event (event.go), of which cookie, addresses, ports, family,
// state, namespace, control group and the totals of retransmits and duplicates
// are filled.
const (
	fsSent        = 0   // u64, payload, each byte once
	fsReceived    = 8   // u64, payload, and a FIN
	fsJiffies     = 16  // u32, now
	fsChronoStart = 20  // u32, jiffies: since when what fsChronoType says goes on
	fsChronoRwnd  = 24  // u32, jiffies: how long the other end's window held it up before
	fsPackets     = 28  // u32
	fsWriteSeq    = 32  // u32
	fsSndNxt      = 36  // u32
	fsRcvNxt      = 40  // u32
	fsCopiedSeq   = 44  // u32
	fsSRTT        = 48  // u32, µs, times 8
	fsCwnd        = 52  // u32, segments
	fsMSS         = 56  // u32
	fsSndWnd      = 60  // u32
	fsOutOfOrder  = 64  // u32
	fsErr         = 68  // s32
	fsPeakRTT     = 72  // u32, µs: the highest since the sample before
	fsTimeouts    = 76  // u16
	fsChronoType  = 78  // u8, with its neighbours where it is a bit field
	fsDone        = 79  // u8, 1: the other end's FIN has come
	fsSort        = 80  // u8
	fsDelivered   = 84  // u32, segments that arrived, by the other end's word
	fsTime        = 88  // u64, ns, CLOCK_MONOTONIC, of a last sample: now
	fsRcvWnd      = 96  // u32
	fsRTTVar      = 100 // u32, µs, times 4
	fsRTTMin      = 104 // u32, µs; all ones: none yet
	fsReorderings = 108 // u32
	fsUID         = 112 // u32, as in the first user namespace
	fsProbes      = 116 // u8
	fsStory       = 120 // connevent.go
	fsEvent       = fsStory + csBytes
	fsBytes       = fsEvent + evBytes
)

// Sorts of samples.
const (
	sampleLive  = 0 // the socket is there
	sampleEnded = 1 // it is closed at this moment
	sampleReset = 2 // it was closed and then sent a reset (tcp_close with unread data, SO_LINGER 0)
)

// TCP states, include/net/tcp_states.h.
const (
	tcpEstablished = 1
	tcpSynSent     = 2
	tcpSynRecv     = 3
	tcpClose       = 7
	tcpCloseWait   = 8
	tcpLastAck     = 9
	tcpListen      = 10
	tcpClosing     = 11
)

// chronoRwndLimited is TCP_CHRONO_RWND_LIMITED, include/net/tcp.h.
const chronoRwndLimited = 2

// flowSample is what a socket has done since it was opened, and how it is now.
type flowSample struct {
	sort   uint8
	netns  uint32 // inode number
	cgroup uint64 // id; 0 unknown
	cookie uint64
	connStory

	bytes       uint64 // of payload sent, each once
	posted      uint64 // of payload that the application wrote, sent or not
	received    uint64 // of payload received in order
	read        uint64 // of it, handed to the application
	packets     uint32 // data segments, those sent again included; wraps
	retransmits uint32 // segments
	timeouts    uint32 // episodes of retransmission timeouts; 0 before Linux 6.7
	duplicates  uint32 // segments that the other end had already (DSACK, RFC 2883)
	outOfOrder  uint32 // segments that came out of order

	held time.Duration // the other end's window was closed, or too small to go on

	rtt, peakRTT time.Duration // smoothed; the highest since the sample before; 0: unknown, or no news
	rttVar       time.Duration // TCP's measure of how far round trips differ
	rttMin       time.Duration // the lowest that TCP remembers; 0: none yet
	cwnd, rwnd   uint64        // bytes: congestion window; window last told by the other end
	ownRwnd      uint64        // bytes: window last told to it

	reorderings uint32 // times that segments were found to arrive out of order
	probes      uint8  // of a closed window, in a row without an answer
	uid         uint32 // whose socket it is

	ended uint64 // ns, CLOCK_MONOTONIC: when it ended, of a last sample; 0: not known

	src, dst netip.AddrPort
	state    uint8 // of one that ends: the one it ends in
	finished bool  // the other end's FIN has come
	err      int32 // errno
}

// sampleDecoder knows what samples leave to this machine to say.
type sampleDecoder struct {
	tick   time.Duration // of the kernel's jiffies
	chrono field         // the bit field of that name
	names  names         // of processes
}

// newSampleDecoder asks this machine.
func newSampleDecoder(chrono field) (sampleDecoder, error) {
	tick, err := jiffy()
	return sampleDecoder{tick: tick, chrono: chrono, names: names{}}, err
}

// decode reads one sample into s.
func (d sampleDecoder) decode(b []byte, s *flowSample) error {
	if len(b) < fsBytes {
		return fmt.Errorf("flow sample of %d bytes, want %d", len(b), fsBytes)
	}
	u32 := func(at int) uint32 { return binary.NativeEndian.Uint32(b[at:]) }
	u64 := func(at int) uint64 { return binary.NativeEndian.Uint64(b[at:]) }
	*s = flowSample{
		sort: b[fsSort], netns: u32(fsEvent + evNetNS), cgroup: u64(fsEvent + evCgroup), cookie: u64(fsEvent + evCookie), connStory: decodeStory(b[fsStory:], d.names),
		bytes:       u64(fsSent),
		received:    u64(fsReceived),
		packets:     u32(fsPackets),
		retransmits: u32(fsEvent + evTotalRetrans),
		timeouts:    uint32(binary.NativeEndian.Uint16(b[fsTimeouts:])),
		duplicates:  u32(fsEvent + evDSACKDups),
		outOfOrder:  u32(fsOutOfOrder),
		rtt:         time.Duration(u32(fsSRTT)>>3) * time.Microsecond,
		peakRTT:     time.Duration(u32(fsPeakRTT)) * time.Microsecond,
		cwnd:        uint64(u32(fsCwnd)) * uint64(u32(fsMSS)),
		rwnd:        uint64(u32(fsSndWnd)),
		ownRwnd:     uint64(u32(fsRcvWnd)),
		rttVar:      time.Duration(u32(fsRTTVar)>>2) * time.Microsecond,
		reorderings: u32(fsReorderings),
		probes:      b[fsProbes],
		uid:         u32(fsUID),
		ended:       u64(fsTime),
		state:       b[fsEvent+evState],
		finished:    b[fsDone] != 0,
		err:         int32(u32(fsErr)),
	}
	if low := u32(fsRTTMin); low != math.MaxUint32 {
		s.rttMin = time.Duration(low) * time.Microsecond
	}
	if s.err == 0 {
		s.err = s.connStory.err // its owner took it already
	}
	// Sequence numbers wrap, their differences do not: what waits to be sent, or
	// to be read.
	s.posted = s.bytes + uint64(max(0, int32(u32(fsWriteSeq)-u32(fsSndNxt))))
	s.read = s.received - min(s.received, uint64(max(0, int32(u32(fsRcvNxt)-u32(fsCopiedSeq)))))
	if s.finished {
		// The other end's FIN is one more, for rcv_nxt and copied_seq alike.
		s.received -= min(s.received, 1)
		s.read = min(s.read, s.received)
	}
	jiffies := u32(fsChronoRwnd)
	if b[fsChronoType]>>d.chrono.shift&d.chrono.mask == chronoRwndLimited {
		jiffies += u32(fsJiffies) - u32(fsChronoStart)
	}
	s.held = time.Duration(jiffies) * d.tick
	var err error
	s.src, s.dst, err = decodeEnds(b[fsEvent:])
	return err
}

// flow is the five-tuple of what this host sends.
func (s *flowSample) flow() packet.Flow {
	return packet.Flow{Src: s.src, Dst: s.dst, Proto: packet.TCP}
}

// sent says whether the socket ever sent what may be lost and noticed.
func (s *flowSample) sent() bool { return s.packets > 0 || s.retransmits > 0 }

// moved says whether data ever went either way.
func (s *flowSample) moved() bool { return s.sent() || s.received > 0 }

// listens says that the socket is no connection, but waits for some.
func (s *flowSample) listens() bool { return s.state == tcpListen }
