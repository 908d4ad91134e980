// Package sflowtest writes sFlow version 5 datagrams with drop notifications,
// for tests and benchmarks of what reads them. It is written from the
// specification and shares nothing with the decoder.
package sflowtest

import (
	"encoding/binary"
	"net/netip"
)

// Datagram is the header of a datagram and the samples in it, each made by
// [Drop.Sample] or [Sample].
type Datagram struct {
	Agent    netip.Addr
	SubAgent uint32
	Sequence uint32
	Uptime   uint32 // ms
	Samples  [][]byte
}

// Bytes encodes the datagram.
func (d Datagram) Bytes() []byte {
	b := u32(nil, 5)
	if a := d.Agent; a.Is4() {
		b = append(u32(b, 1), a.AsSlice()...)
	} else {
		b = append(u32(b, 2), a.AsSlice()...)
	}
	b = u32(b, d.SubAgent, d.Sequence, d.Uptime, uint32(len(d.Samples)))
	for _, s := range d.Samples {
		b = append(b, s...)
	}
	return b
}

// Drop is a discarded_packet and the records in it, each made by one of the
// functions below or [Record].
type Drop struct {
	Sequence, Class, Index, Drops, Input, Output, Reason uint32
	Records                                              [][]byte
}

// Sample encodes the notification as a sample of enterprise 0 format 5.
func (d Drop) Sample() []byte {
	b := u32(nil, d.Sequence, d.Class, d.Index, d.Drops, d.Input, d.Output, d.Reason, uint32(len(d.Records)))
	for _, r := range d.Records {
		b = append(b, r...)
	}
	return Sample(5, b)
}

// Sample encodes a sample of any format: enterprise·4096 + format.
func Sample(format uint32, data []byte) []byte { return opaque(u32(nil, format), data) }

// Record encodes a flow_data of any format: enterprise·4096 + format.
func Record(format uint32, data []byte) []byte { return opaque(u32(nil, format), data) }

// Header is a sampled_header. protocol is 1 for Ethernet; length is that of the
// frame on the wire, of which stripped bytes are not in header.
func Header(protocol, length, stripped uint32, header []byte) []byte {
	return Record(1, opaque(u32(nil, protocol, length, stripped), header))
}

// Queue is an extended_egress_queue.
func Queue(queue uint32) []byte { return Record(1036, u32(nil, queue)) }

// Function is an extended_function.
func Function(symbol string) []byte { return Record(1038, opaque(nil, []byte(symbol))) }

// TransitDelay is an extended_transit.
func TransitDelay(ns uint32) []byte { return Record(1039, u32(nil, ns)) }

// QueueDepth is an extended_queue_depth.
func QueueDepth(bytes uint32) []byte { return Record(1040, u32(nil, bytes)) }

// Trap is an extended_hw_trap.
func Trap(group, trap string) []byte {
	return Record(1041, opaque(opaque(nil, []byte(group)), []byte(trap)))
}

// LinuxReason is an extended_linux_reason.
func LinuxReason(reason string) []byte { return Record(1042, opaque(nil, []byte(reason))) }

// Timestamp is an extended_timestamp.
func Timestamp(ns uint64) []byte {
	return Record(1043, binary.BigEndian.AppendUint64(nil, ns))
}

func u32(b []byte, values ...uint32) []byte {
	for _, v := range values {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return b
}

// opaque appends data behind its length, padded to a multiple of 4.
func opaque(b, data []byte) []byte {
	b = append(u32(b, uint32(len(data))), data...)
	return append(b, make([]byte, -len(data)&3)...)
}
