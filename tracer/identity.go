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
//	TCP acknowledgement  third nonce, 20 bits, then the round, 6 bits, then the TTL, 6 bits
//
// The acknowledgement carries the TTL for IPv6, which has no ID, and the round
// for both, where it is quoted: which of several equal probes was answered,
// without which a round trip time cannot be told (Karn's problem, RFC 6298
// section 3).
const (
	ttlBits = 6
	maxTTL  = 1<<ttlBits - 1
)

// identity names one trace. Both fields are never 0, so that "not set" shows and the
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

// mark puts the identity on a probe.
func (i identity) mark(p *packet.Probe, ttl, round int) {
	p.TTL = uint8(ttl)
	p.Seq = i.seq
	p.ID = i.id | uint16(ttl)
	p.Ack = i.ack | uint32(min(round, maxTTL))<<ttlBits | uint32(ttl)
}

// read gives the TTL with which a quoted probe was sent and its round, -1 when the quote
// does not say. ok is false when the quote is not of this trace.
func (i identity) read(q *packet.Quote, v6 bool) (ttl, round int, ok bool) {
	if !q.HasSeq || q.Seq != i.seq {
		return 0, 0, false
	}
	ackOurs := q.HasAck && q.Ack&^(1<<(2*ttlBits)-1) == i.ack
	round = -1
	if ackOurs {
		round = int(q.Ack >> ttlBits & maxTTL)
	}
	if v6 {
		return int(q.Ack & maxTTL), round, ackOurs
	}
	return int(q.IPID & maxTTL), round, q.IPID&^maxTTL == i.id
}
