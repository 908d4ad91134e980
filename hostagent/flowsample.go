package hostagent

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"decaf/api/packet"
)

// A sample's bytes, as flowprogram.go writes them. Cookie, addresses, ports,
// family, state and total of retransmits lie where an event has them.
const (
	fsOpened  = 0  // u64, CLOCK_MONOTONIC, the lowest bit says inbound
	fsBytes   = 56 // u64
	fsPackets = 72 // u32
)

// TCP states, include/net/tcp_states.h.
const (
	tcpEstablished = 1
	tcpSynSent     = 2
	tcpSynRecv     = 3
)

// flowSample is what a socket has sent since it was opened.
type flowSample struct {
	cookie      uint64
	opened      uint64 // ns, CLOCK_MONOTONIC; 0: not yet, or before the agent watched
	bytes       uint64 // of payload, each once
	packets     uint32 // data segments, those sent again included; wraps
	retransmits uint32 // segments
	src, dst    netip.AddrPort
	state       uint8
	inbound     bool // the other end opened it; not known with opened 0
}

// decodeFlowSample reads one sample.
func decodeFlowSample(b []byte) (flowSample, error) {
	if len(b) < evBytes {
		return flowSample{}, fmt.Errorf("flow sample of %d bytes, want %d", len(b), evBytes)
	}
	opened := binary.NativeEndian.Uint64(b[fsOpened:])
	s := flowSample{
		cookie:      binary.NativeEndian.Uint64(b[evCookie:]),
		opened:      opened &^ 1,
		inbound:     opened&1 != 0,
		bytes:       binary.NativeEndian.Uint64(b[fsBytes:]),
		packets:     binary.NativeEndian.Uint32(b[fsPackets:]),
		retransmits: binary.NativeEndian.Uint32(b[evTotalRetrans:]),
		state:       b[evState],
	}
	var err error
	s.src, s.dst, err = decodeEnds(b)
	return s, err
}

// flow is the five-tuple of what this host sends.
func (s *flowSample) flow() packet.Flow {
	return packet.Flow{Src: s.src, Dst: s.dst, Proto: packet.TCP}
}

// sent says whether the socket ever sent what may be lost and noticed.
func (s *flowSample) sent() bool { return s.packets > 0 || s.retransmits > 0 }
