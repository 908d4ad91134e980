package packet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// ErrNotICMPError is returned for ICMP messages that quote no packet: echoes,
// router and neighbour discovery and the like.
var ErrNotICMPError = errors.New("not an ICMP error message")

// Kind is what an ICMP error says, the same for both versions.
type Kind uint8

// The kinds of ICMP errors (RFC 792, RFC 4443).
const (
	KindOther        Kind = iota // parameter problem, source quench
	TimeExceeded                 // in transit: a router on the path
	Unreachable                  // destination unreachable, any code but the next
	PacketTooBig                 // IPv4: unreachable with code 4
	ReassemblyExpiry             // time exceeded with code 1: no router on the path said it
)

// ICMPError is a router's or a host's answer to a packet, with what it quotes
// of that packet.
type ICMPError struct {
	From       netip.Addr // who answered; inbound interface where the router says so
	Type, Code uint8      // of ICMP or ICMPv6, see V6
	V6         bool
	Quoted     Quote
	// Extensions are the RFC 4884 objects behind the quote, in order, at most
	// 32; nil if there are none.
	Extensions []Extension
}

// Quote is the packet an ICMP error is about. RFC 792 promises no more than its
// IP header and 8 bytes, which hold the ports and the TCP sequence; HasSeq and
// HasAck say what was there.
type Quote struct {
	Flow           Flow
	IPID           uint16 // IPv4 only
	TTL            uint8  // as it arrived at From
	FlowLabel      uint32 // IPv6 only
	Seq, Ack       uint32 // TCP only
	HasSeq, HasAck bool
}

// Kind tells what the error says.
func (e *ICMPError) Kind() Kind {
	switch {
	case !e.V6 && e.Type == 11, e.V6 && e.Type == 3:
		if e.Code == 1 {
			return ReassemblyExpiry
		}
		return TimeExceeded
	case !e.V6 && e.Type == 3 && e.Code == 4, e.V6 && e.Type == 2:
		return PacketTooBig
	case !e.V6 && e.Type == 3, e.V6 && e.Type == 1:
		return Unreachable
	}
	return KindOther
}

// Meaning gives the error in words, as in "host unreachable"; for types and
// codes without a word here their numbers.
func (e *ICMPError) Meaning() string {
	names := unreachable4
	if e.V6 {
		names = unreachable6
	}
	switch e.Kind() {
	case TimeExceeded:
		return "time exceeded"
	case ReassemblyExpiry:
		return "fragment reassembly time exceeded"
	case PacketTooBig:
		return "packet too big"
	case Unreachable:
		if s, ok := names[e.Code]; ok {
			return s
		}
	}
	return fmt.Sprintf("ICMP type %d code %d", e.Type, e.Code)
}

// unreachable4 and unreachable6 name the codes of "destination unreachable" in
// the IANA registries of ICMP and ICMPv6 parameters.
var (
	unreachable4 = map[uint8]string{
		0: "network unreachable", 1: "host unreachable", 2: "protocol unreachable", 3: "port unreachable",
		5: "source route failed", 6: "network unknown", 7: "host unknown",
		9: "network administratively prohibited", 10: "host administratively prohibited",
		11: "network unreachable for this type of service", 12: "host unreachable for this type of service",
		13: "communication administratively prohibited",
	}
	unreachable6 = map[uint8]string{
		0: "no route to destination", 1: "communication administratively prohibited",
		2: "beyond scope of source address", 3: "address unreachable", 4: "port unreachable",
		5: "source address failed ingress/egress policy", 6: "reject route to destination",
	}
)

// ParseICMPError reads an ICMP error message. b starts at the ICMP header (not
// at the IP header that carried it) and v6 says which ICMP it is. The checksum
// of the message is the receiver's business: the kernel has checked it, or the
// bytes are cut.
// Errors: ErrNotICMPError, or a message too short to hold the quoted addresses.
func ParseICMPError(from netip.Addr, b []byte, v6 bool) (*ICMPError, error) {
	if len(b) < 8 {
		return nil, fmt.Errorf("icmp from %s: %d bytes: want at least 8", from, len(b))
	}
	e := &ICMPError{From: from.Unmap(), Type: b[0], Code: b[1], V6: v6}
	if !quotes(e.Type, v6) {
		return nil, fmt.Errorf("icmp from %s: type %d: %w", from, e.Type, ErrNotICMPError)
	}
	quote, extensions := splitExtensions(b, v6)
	ip, err := readIP(quote)
	if err != nil {
		return nil, fmt.Errorf("icmp from %s: quoted %w", from, err)
	}
	if ip.v6 != v6 {
		return nil, fmt.Errorf("icmp from %s: quotes a packet of another IP version", from)
	}
	tr := readTransport(ip.proto, ip.payload)
	e.Quoted = Quote{
		Flow:      ip.flow(tr),
		IPID:      ip.id,
		TTL:       ip.ttl,
		FlowLabel: ip.flowLabel,
		Seq:       tr.seq,
		Ack:       tr.ack,
		HasSeq:    ip.proto == TCP && tr.has >= 8,
		HasAck:    ip.proto == TCP && tr.has >= 12,
	}
	e.Extensions = extensions
	return e, nil
}

// quotes reports whether messages of the type carry the packet they are about.
func quotes(typ uint8, v6 bool) bool {
	if v6 {
		return typ >= 1 && typ <= 4
	}
	return typ == 3 || typ == 4 || typ == 11 || typ == 12
}

// splitExtensions cuts a message into quoted packet and extension objects as
// RFC 4884 says. Messages of the types that may carry extensions tell the
// length of the quote in their header (in 32-bit words at byte 5 for ICMP, in
// 64-bit words at byte 4 for ICMPv6). Where that is 0 the sender may predate
// the RFC (section 5.5): then an extension structure is believed at byte 128 of
// the quote, provided that its checksum is there and right.
func splitExtensions(b []byte, v6 bool) (quote []byte, extensions []Extension) {
	typ, body := b[0], b[8:]
	var quoted int
	var may bool
	if v6 {
		may, quoted = typ == 1 || typ == 3, int(b[4])*8
	} else {
		may, quoted = typ == 3 || typ == 11 || typ == 12, int(b[5])*4
	}
	const legacy = 128
	switch {
	case !may:
		return body, nil
	case quoted != 0 && quoted <= len(body):
		ext, _ := parseExtensions(body[quoted:], false)
		return body[:quoted], ext
	case quoted == 0 && len(body) > legacy:
		if ext, ok := parseExtensions(body[legacy:], true); ok {
			return body[:legacy], ext
		}
	}
	return body, nil
}

// checksum is the ones' complement sum of RFC 1071: 0 over a structure that holds its
// own right checksum.
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
