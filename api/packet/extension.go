package packet

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
)

// Classes of extension objects we read.
const (
	ExtensionMPLS      uint8 = 1 // RFC 4950
	ExtensionInterface uint8 = 2 // RFC 5837
)

// maxExtensionObjects bounds what one ICMP message can make us keep.
const maxExtensionObjects = 32

// Extension is one object of an RFC 4884 extension structure.
type Extension struct {
	Class, Type uint8 // C-Num and C-Type
	Data        []byte
}

// MPLSLabel is one entry of the label stack with which the quoted packet came in (RFC
// 4950, RFC 3032).
type MPLSLabel struct {
	Label        uint32 // 20 bits
	TrafficClass uint8  // 3 bits
	Bottom       bool
	TTL          uint8
}

// InterfaceRole is what the interface of an RFC 5837 object was to the packet.
type InterfaceRole uint8

// The roles of RFC 5837 section 4.1.
const (
	RoleIncoming    InterfaceRole = iota // the IP interface on which it arrived
	RoleSubIncoming                      // a sub-interface of that
	RoleOutgoing                         // the one on which it would have left
	RoleNextHop                          // the address to which it would have gone
)

// InterfaceInfo is an RFC 5837 interface information object. What the router
// did not say is zero.
type InterfaceInfo struct {
	Role  InterfaceRole
	Index uint32     // ifIndex
	Addr  netip.Addr // of the interface
	Name  string     // ifName, at most 63 bytes, without control characters
	MTU   uint32
}

// parseExtensions reads an extension structure: version 2, a checksum, objects
// (RFC 4884 section 7). A checksum of 0 means "not computed" and is refused
// where strict. A broken object ends the list; ok is whether the structure as such was one.
func parseExtensions(b []byte, strict bool) (list []Extension, ok bool) {
	if len(b) < 4 || b[0]>>4 != 2 {
		return nil, false
	}
	if sum := binary.BigEndian.Uint16(b[2:]); sum == 0 && strict || sum != 0 && checksum(b) != 0 {
		return nil, false
	}
	for b = b[4:]; len(b) >= 4 && len(list) < maxExtensionObjects; {
		n := int(binary.BigEndian.Uint16(b)) // with its own header of 4
		if n < 4 || n > len(b) {
			break
		}
		list = append(list, Extension{Class: b[2], Type: b[3], Data: append([]byte(nil), b[4:n]...)})
		b = b[n:]
	}
	return list, true
}

// MPLS reads an object of class 1, type 1: the incoming label stack, outermost
// label first. ok is false for other objects and for broken ones.
func (e Extension) MPLS() (stack []MPLSLabel, ok bool) {
	if e.Class != ExtensionMPLS || e.Type != 1 || len(e.Data) == 0 || len(e.Data)%4 != 0 {
		return nil, false
	}
	for b := e.Data; len(b) > 0; b = b[4:] {
		v := binary.BigEndian.Uint32(b)
		stack = append(stack, MPLSLabel{Label: v >> 12, TrafficClass: uint8(v>>9) & 7, Bottom: v>>8&1 == 1, TTL: uint8(v)})
	}
	return stack, true
}

// Interface reads an object of class 2. The C-Type holds the role in its top
// two bits and says in its low four which parts follow, in this order: index,
// address, name, MTU (RFC 5837 section 4.1). Errors: another class, or parts that run past the object.
func (e Extension) Interface() (InterfaceInfo, error) {
	if e.Class != ExtensionInterface {
		return InterfaceInfo{}, fmt.Errorf("extension object of class %d: want %d, interface information", e.Class, ExtensionInterface)
	}
	info := InterfaceInfo{Role: InterfaceRole(e.Type >> 6)}
	b := e.Data
	take := func(n int) []byte {
		if n > len(b) {
			return nil
		}
		part := b[:n]
		b = b[n:]
		return part
	}
	short := func(what string) (InterfaceInfo, error) {
		return InterfaceInfo{}, fmt.Errorf("interface information: cut in its %s", what)
	}
	if e.Type&8 != 0 {
		part := take(4)
		if part == nil {
			return short("index")
		}
		info.Index = binary.BigEndian.Uint32(part)
	}
	if e.Type&4 != 0 {
		family := take(4) // address family number, 16 bits reserved
		if family == nil {
			return short("address family")
		}
		size := 0
		switch binary.BigEndian.Uint16(family) {
		case 1:
			size = 4
		case 2:
			size = 16
		default:
			return InterfaceInfo{}, fmt.Errorf("interface information: address family %d: want 1 or 2", binary.BigEndian.Uint16(family))
		}
		part := take(size)
		if part == nil {
			return short("address")
		}
		info.Addr, _ = netip.AddrFromSlice(part)
	}
	if e.Type&2 != 0 {
		if len(b) == 0 {
			return short("name")
		}
		part := take(int(b[0])) // the length counts itself
		if len(part) < 1 || len(part) > 64 {
			return short("name")
		}
		info.Name = strings.Map(func(r rune) rune {
			if r < ' ' || r == 0x7f {
				return -1
			}
			return r
		}, strings.ToValidUTF8(string(part[1:]), ""))
	}
	if e.Type&1 != 0 {
		part := take(4)
		if part == nil {
			return short("MTU")
		}
		info.MTU = binary.BigEndian.Uint32(part)
	}
	return info, nil
}
