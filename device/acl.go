package device

import (
	"encoding/binary"
	"fmt"
	"strings"

	"decaf/api/yang"
)

// RuleSet is a chain of the firewall (nftables) with the rules in it that count.
type RuleSet struct {
	Name  string // as nft names it: "inet filter forward"
	Type  yang.ACLType
	Rules []yang.ACLEntry // in their order
}

// maxRules bounds the rules whose counters are told of. One takes some 150 bytes,
// and as much again in each answer to a client.
const maxRules = 1024

// Of linux/netfilter.h: the families of tables beside nfBridge.
const (
	nfInet   = 1
	nfIPv4   = 2
	nfARP    = 3
	nfNetdev = 5
	nfIPv6   = 10
)

// ruleFamilies are what nft calls the families, and what their rules look at.
var ruleFamilies = map[uint8]struct {
	name string
	typ  yang.ACLType
}{
	nfInet: {"inet", yang.ACLMixed}, nfIPv4: {"ip", yang.ACLIPv4}, nfARP: {"arp", yang.ACLL2},
	nfNetdev: {"netdev", yang.ACLL2}, nfBridge: {"bridge", yang.ACLL2}, nfIPv6: {"ip6", yang.ACLIPv6},
}

// Of linux/netfilter/nf_tables.h.
const (
	nftRuleTable       = 1
	nftRuleChain       = 2
	nftRuleHandle      = 3 // be64
	nftRuleExpressions = 4 // list of nftListElement
	nftRuleUserData    = 7
	nftListElement     = 1
	nftExprName        = 1
	nftExprData        = 2
	nftCounterBytes    = 1 // be64
	nftCounterPackets  = 2 // be64
	nftLogGroup        = 1 // be16; a log without one is not of NFLOG
	nftLogPrefix       = 2

	// A verdict is an immediate value: whose first is NF_DROP.
	nftImmediateData = 2
	nftDataVerdict   = 2
	nftVerdictCode   = 1 // be32
	nfDrop           = 0

	// The user data of a rule are nft's own: type, length, value; type 0 is its
	// comment, a C string (libnftnl, include/libnftnl/udata.h).
	nftComment = 0
)

// ruleRecord is what is used of an NFT_MSG_NEWRULE.
type ruleRecord struct {
	family          uint8
	table, chain    string
	handle          uint64
	comment, prefix string // of its log statement
	logs            bool   // by NFLOG
	group           uint16 // to this one
	counts          bool   // it has a counter
	packets, octets uint64
	drops           bool // what comes to its end
}

// parseRule takes a rule apart, from behind the netlink header on.
func parseRule(b []byte) (ruleRecord, error) {
	if len(b) < 4 {
		return ruleRecord{}, fmt.Errorf("firewall rule: %w", errNetlinkShort)
	}
	be := binary.BigEndian
	r := ruleRecord{family: b[0]}
	err := attributes(b[4:], func(kind uint16, v []byte) bool {
		switch kind {
		case nftRuleTable:
			r.table = cString(v)
		case nftRuleChain:
			r.chain = cString(v)
		case nftRuleHandle:
			if len(v) < 8 {
				return false
			}
			r.handle = be.Uint64(v)
		case nftRuleUserData:
			r.comment = ruleComment(v)
		case nftRuleExpressions:
			return attributes(v, func(kind uint16, v []byte) bool { return kind != nftListElement || r.expression(v) }) == nil
		}
		return true
	})
	if err != nil {
		return ruleRecord{}, fmt.Errorf("firewall rule: %w", err)
	}
	return r, nil
}

// expression takes in one of a rule's expressions.
func (r *ruleRecord) expression(b []byte) bool {
	var name string
	var data []byte
	if attributes(b, func(kind uint16, v []byte) bool {
		switch kind {
		case nftExprName:
			name = cString(v)
		case nftExprData:
			data = v
		}
		return true
	}) != nil {
		return false
	}
	first := !r.counts // several of one rule count what came as far as they
	if name == "reject" {
		r.drops = true
		return true
	}
	ok := attributes(data, func(kind uint16, v []byte) bool {
		switch {
		case name == "immediate" && kind == nftImmediateData:
			return attributes(v, func(kind uint16, v []byte) bool {
				return kind != nftDataVerdict || attributes(v, func(kind uint16, v []byte) bool {
					if kind == nftVerdictCode {
						r.drops = len(v) >= 4 && binary.BigEndian.Uint32(v) == nfDrop
					}
					return true
				}) == nil
			}) == nil
		case name == "log" && kind == nftLogGroup:
			if len(v) < 2 {
				return false
			}
			r.logs, r.group = true, binary.BigEndian.Uint16(v)
		case name == "log" && kind == nftLogPrefix:
			r.prefix = rulePrefix(v)
		case name == "counter" && (kind == nftCounterBytes || kind == nftCounterPackets):
			if len(v) < 8 {
				return false
			}
			n := binary.BigEndian.Uint64(v)
			switch {
			case !first:
			case kind == nftCounterBytes:
				r.octets = n
			default:
				r.packets = n
			}
			r.counts = true
		}
		return true
	})
	return ok == nil
}

// ruleComment finds the comment in a rule's user data; "" when there is none.
func ruleComment(b []byte) string {
	for len(b) >= 2 {
		n := int(b[1])
		if n > len(b)-2 {
			break
		}
		if b[0] == nftComment {
			return printable(cString(b[2 : 2+n]))
		}
		b = b[2+n:]
	}
	return ""
}

// description tells rules apart when their places change, and says what they are
// for: "handle 4: acl-12".
func (r *ruleRecord) description() string {
	what := r.comment
	if what == "" {
		what = r.prefix
	}
	return strings.TrimSuffix(fmt.Sprintf("handle %d: %s", r.handle, what), ": ")
}

// ruleSets collects the rules that count, as the kernel lists them: chain by chain,
// each in its order.
type ruleSets struct {
	sets    []RuleSet
	at      map[string]int // by name
	places  map[string]uint32
	rules   int
	leftOut uint64 // beyond maxRules

	logging []ruleRecord // the rules that log to a group, whether they count or not; at most maxRules
}

func newRuleSets() *ruleSets {
	return &ruleSets{at: map[string]int{}, places: map[string]uint32{}}
}

func (s *ruleSets) add(r *ruleRecord) {
	family, ok := ruleFamilies[r.family]
	if !ok {
		return
	}
	if r.logs && len(s.logging) < maxRules {
		s.logging = append(s.logging, *r)
	}
	name := printableText(family.name + " " + r.table + " " + r.chain)
	s.places[name]++ // of all rules: the place does not change when another begins to count
	if !r.counts {
		return
	}
	if s.rules >= maxRules {
		s.leftOut++
		return
	}
	s.rules++
	i, ok := s.at[name]
	if !ok {
		i = len(s.sets)
		s.at[name], s.sets = i, append(s.sets, RuleSet{Name: name, Type: family.typ})
	}
	s.sets[i].Rules = append(s.sets[i].Rules, yang.ACLEntry{
		SequenceID: s.places[name], Description: r.description(), MatchedPackets: r.packets, MatchedOctets: r.octets,
	})
}
