package tracer

import (
	"decaf/api/packet"
)

// How a probe is marked. Every router quotes at least the IP header and 8 bytes
// of what follows (RFC 792), every IPv6 router as much as fits in 1280 bytes
// (RFC 4443 section 2.4 c), so:
//
//	TCP sequence         nonce of the trace, 32 bits, equal in all its probes
//	IP ID (IPv4)         second nonce, 10 bits, then the TTL, 6 bits
//	TCP acknowledgement  third nonce, 20 bits, then the probe's number, 6 bits, then the TTL, 6 bits
//
// The acknowledgement carries the TTL for IPv6, which has no ID, and the number
// for both, where it is quoted: which of several equal probes was answered,
// without which a round trip time cannot be told (Karn's problem, RFC 6298
// section 3).
//
// A probe that has to look like a segment of the live connection (see Sequence)
// has no room for nonces: its sequence is at most 4096 before the connection's
// (and the nonce of the whole trace where that was known when it began), and its
// acknowledgement as little before, number and TTL in the difference.
const (
	ttlBits = 6
	maxTTL  = 1<<ttlBits - 1
)

// identity names one trace. seq and id are never 0, so that "not set" shows and the
// kernel never puts an IP ID of its own (it does for 0).
type identity struct {
	seq uint32
	id  uint16 // low ttlBits are 0
	ack uint32 // low 2·ttlBits are 0
}

// newIdentity draws an identity from 64 random bits.
func newIdentity(random func() uint64) identity {
	for {
		r := random()
		i := identity{
			seq: uint32(r),                      // bits 0 to 31
			id:  uint16(r>>32) << ttlBits,       // bits 32 to 41
			ack: uint32(r>>42) << (2 * ttlBits), // bits 42 to 61
		}
		if i.seq != 0 && i.id != 0 {
			return i
		}
	}
}

// mark puts the identity on the probe number nth of a TTL.
func (i identity) mark(p *packet.Probe, ttl, nth int) {
	p.TTL = uint8(ttl)
	p.Seq = i.seq
	p.ID = i.id | uint16(ttl)
	p.Ack = i.ack | uint32(min(nth, maxTTL))<<ttlBits | uint32(ttl)
}

// read gives the TTL with which a quoted probe was sent and its number, -1 when the quote
// does not say. ok is false when the quote is not of this trace.
func (i identity) read(q *packet.Quote, v6 bool) (ttl, nth int, ok bool) {
	if !q.HasSeq || q.Seq != i.seq {
		return 0, 0, false
	}
	ackOurs := q.HasAck && q.Ack&^(1<<(2*ttlBits)-1) == i.ack
	nth = -1
	if ackOurs {
		nth = int(q.Ack >> ttlBits & maxTTL)
	}
	if v6 {
		return int(q.Ack & maxTTL), nth, ackOurs
	}
	return int(q.IPID & maxTTL), nth, q.IPID&^maxTTL == i.id
}

// Sequence is where a connection stands: the first byte it has not had
// acknowledged and the next one it expects.
type Sequence struct{ Unacked, Next uint32 }

// nonce makes an identity's sequence one of an old segment.
func (s Sequence) nonce(i identity) identity {
	if i.seq = s.Unacked - 1 - i.seq&(1<<(2*ttlBits)-1); i.seq == 0 {
		i.seq = s.Unacked - 1
	}
	return i
}

// old gives the sequence of a trace's probes that have to look like old segments.
func (s Sequence) old(i identity) uint32 {
	if (s.Unacked-1-i.seq)>>(2*ttlBits) == 0 {
		return i.seq
	}
	return s.Unacked - 1
}

// mark makes a probe look like an old segment of the connection, as a middlebox
// that checks windows lets pass.
func (s Sequence) mark(p *packet.Probe, i identity, ttl, nth int) {
	p.TTL = uint8(ttl)
	p.Seq = s.old(i)
	p.Ack = s.Next - (uint32(min(nth, maxTTL))<<ttlBits | uint32(ttl))
	p.ID = i.id | uint16(ttl)
}

// read is the counterpart of mark.
func (s Sequence) read(q *packet.Quote, i identity, v6 bool) (ttl, nth int, ok bool) {
	if !q.HasSeq || q.Seq != s.old(i) {
		return 0, 0, false
	}
	behind := s.Next - q.Ack
	ours := q.HasAck && behind>>(2*ttlBits) == 0
	nth = -1
	if ours {
		nth = int(behind >> ttlBits)
	}
	if v6 {
		return int(behind & maxTTL), nth, ours
	}
	return int(q.IPID & maxTTL), nth, q.IPID&^maxTTL == i.id && (ours || !q.HasAck)
}
