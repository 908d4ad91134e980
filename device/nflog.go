package device

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	"decaf/api/decafpb"
	"decaf/api/packet"
)

// NFLOGConfig makes the agent name the firewall rule that dropped a packet. A
// rule tells of it by a log statement before its drop:
//
//	nft add rule inet filter forward tcp dport 23 log group 12 prefix \"acl-12\" drop
type NFLOGConfig struct {
	// Groups are the log groups to read, 0 to 65535; none switches the source
	// off. Beside the kernel's own drops a log only names the rule; where the
	// agent has no other source, what is logged counts as dropped, and rules
	// that log and then accept need another group. At most 10,000 logs a second
	// are read. Of a flood the kernel tells drop by drop in part only: the rest is
	// divided among the rules by their counters, where they have one in front of the
	// log, else by their logs; a rule that logs some of what it drops (nft's "limit
	// rate" spares the kernel work) has no more of it than it logs.
	Groups []uint16 `yaml:"groups"`
	// Classes give drops another class than policy/l3/acl, by the beginning of
	// their prefix; the longest that fits counts.
	Classes []NFLOGClass `yaml:"classes"`
}

// NFLOGClass says what a rule's prefix means.
type NFLOGClass struct {
	Prefix string `yaml:"prefix"`
	Class  string `yaml:"class"`
}

const (
	maxNFLOGGroups  = 64
	maxNFLOGClasses = 1024
)

// Validate says what is wrong with the configuration and what to do about it.
func (c *NFLOGConfig) Validate() error {
	if n := len(c.Groups); n > maxNFLOGGroups {
		return fmt.Errorf("nflog: %d groups: at most %d, let rules share a group and tell them apart by prefix", n, maxNFLOGGroups)
	}
	for i, g := range c.Groups {
		if slices.Contains(c.Groups[:i], g) {
			return fmt.Errorf("nflog: group %d twice: name each once", g)
		}
	}
	if n := len(c.Classes); n > maxNFLOGClasses {
		return fmt.Errorf("nflog: %d classes: at most %d, use shorter prefixes that fit several rules", n, maxNFLOGClasses)
	}
	for i, m := range c.Classes {
		switch {
		case m.Prefix == "":
			return fmt.Errorf("nflog: class %s has no prefix: give the beginning of the log prefix that it is for", m.Class)
		case !slices.Contains(Classes(), m.Class):
			return fmt.Errorf("nflog: prefix %q: %q is no class: use one of %s", m.Prefix, m.Class, strings.Join(Classes(), ", "))
		case slices.ContainsFunc(c.Classes[:i], func(o NFLOGClass) bool { return o.Prefix == m.Prefix }):
			return fmt.Errorf("nflog: prefix %q twice: name each once", m.Prefix)
		}
	}
	return nil
}

// class says what a rule's prefix means for a packet of a netfilter family.
func (c *NFLOGConfig) class(prefix string, family uint8) string {
	class, longest := PolicyL3ACL, 0
	if family == nfBridge {
		class = PolicyL2ACL
	}
	for _, m := range c.Classes {
		if len(m.Prefix) > longest && strings.HasPrefix(prefix, m.Prefix) {
			class, longest = m.Class, len(m.Prefix)
		}
	}
	return class
}

// Of linux/netfilter.h and linux/netfilter/nfnetlink_log.h.
const (
	nfBridge = 7 // NFPROTO_BRIDGE

	nflogTimestamp = 3  // two be64: seconds, microseconds
	nflogIn        = 4  // be32 ifindex
	nflogOut       = 5  // be32 ifindex
	nflogPhysIn    = 6  // be32 ifindex of a bridge's port
	nflogPhysOut   = 7  // be32
	nflogPayload   = 9  // from the network header on
	nflogPrefix    = 10 // C string
	nflogSeq       = 12 // be32, per group
	nflogLinkLayer = 16 // the header that the packet came with
	nflogVLAN      = 19 // nested: 1 protocol, 2 TCI, both be16
)

// nflogRecord is one logged packet. Slices are parts of the message.
type nflogRecord struct {
	family            uint8 // netfilter's: 2 IPv4, 10 IPv6, 7 bridge
	group             uint16
	at                time.Time // zero when the kernel gave none
	in, out           uint32    // ifindex, 0 when not known
	physIn, physOut   uint32
	prefix, linkLayer []byte
	header            []byte // from the network header on
	vlan              uint16
	seq               uint32
	hasSeq            bool
}

// parseNFLOG takes a message of nfnetlink_log apart, from behind the netlink
// header on.
func parseNFLOG(b []byte) (nflogRecord, error) {
	if len(b) < 4 {
		return nflogRecord{}, fmt.Errorf("nflog: message of %d bytes: %w", len(b), errNetlinkShort)
	}
	be := binary.BigEndian
	r := nflogRecord{family: b[0], group: be.Uint16(b[2:])}
	err := attributes(b[4:], func(kind uint16, v []byte) bool {
		u32 := func(to *uint32) bool {
			if len(v) < 4 {
				return false
			}
			*to = be.Uint32(v)
			return true
		}
		switch kind {
		case nflogTimestamp:
			if len(v) < 16 {
				return false
			}
			r.at = time.Unix(int64(be.Uint64(v)), int64(be.Uint64(v[8:]))*1000)
		case nflogIn:
			return u32(&r.in)
		case nflogOut:
			return u32(&r.out)
		case nflogPhysIn:
			return u32(&r.physIn)
		case nflogPhysOut:
			return u32(&r.physOut)
		case nflogSeq:
			r.hasSeq = true
			return u32(&r.seq)
		case nflogPayload:
			r.header = v[:min(len(v), maxHeader)]
		case nflogPrefix:
			r.prefix = v
		case nflogLinkLayer:
			r.linkLayer = v
		case nflogVLAN:
			return attributes(v, func(kind uint16, v []byte) bool {
				if kind == 2 && len(v) >= 2 {
					r.vlan = be.Uint16(v) & 0x0fff
				}
				return true
			}) == nil
		}
		return true
	})
	if err != nil {
		return nflogRecord{}, fmt.Errorf("nflog: %w", err)
	}
	return r, nil
}

// event makes a drop event of a logged packet.
func (r *nflogRecord) event(cfg *NFLOGConfig, now time.Time, ifname func(uint32) string) observed {
	if !r.at.IsZero() {
		now = r.at
	}
	prefix := rulePrefix(r.prefix)
	reason, class := ruleReason(prefix, r.group), cfg.class(prefix, r.family)
	in, out := r.in, r.out
	// The bridge's port says more than the bridge.
	if r.physIn != 0 {
		in = r.physIn
	}
	if r.physOut != 0 {
		out = r.physOut
	}
	ev := &decafpb.DropEvent{
		TimeNs:  uint64(now.UnixNano()),
		Class:   class,
		Reason:  reason,
		Source:  "nflog",
		Ingress: ifname(in),
		Egress:  ifname(out),
	}
	o := observed{event: ev, packets: 1, known: true}
	p, err := packet.Decode(r.header)
	if err != nil {
		return o // no IP header to be read: a loss that shows no packet
	}
	p.Vlan = uint32(r.vlan)
	if len(r.linkLayer) >= 14 {
		p.DstMac, p.SrcMac = slices.Clone(r.linkLayer[0:6]), slices.Clone(r.linkLayer[6:12])
	}
	o.bytes = uint64(p.Length)
	ev.Packet = p
	ev.Inner, ev.Encapsulation = packet.Inner(0, r.header)
	return o
}

// rulePrefix makes a word of a log prefix: what people write for a log file,
// "acl-12: ", without its end.
func rulePrefix(b []byte) string {
	s, _, _ := strings.Cut(string(b), "\x00")
	return printable(strings.TrimRight(s, " :"))
}

// ruleReason is the reason of what a rule drops.
func ruleReason(prefix string, group uint16) string {
	if prefix == "" {
		return fmt.Sprintf("group %d", group)
	}
	return prefix
}

// printable gives text from outside to screens and logs: what is not printable
// ASCII becomes "?", what is too long is cut.
func printable(s string) string { return printableText(s[:min(len(s), maxWord)]) }

// printableText is printable for what is not too long.
func printableText(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}
