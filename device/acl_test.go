package device

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"decaf/api/yang"

	"github.com/google/go-cmp/cmp"
)

// nlAttr appends a netlink attribute.
func nlAttr(b []byte, kind uint16, v ...byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(4+len(v)))
	b = append(binary.NativeEndian.AppendUint16(b, kind), v...)
	return append(b, make([]byte, -len(v)&3)...)
}

func be64(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }

// nftExpr is an expression of a rule, with its data.
func nftExpr(name string, data []byte) []byte {
	return nlAttr(nil, nftListElement|0x8000, nlAttr(nlAttr(nil, nftExprName, append([]byte(name), 0)...), nftExprData|0x8000, data...)...)
}

func nftCounter(packets, octets uint64) []byte {
	return nftExpr("counter", nlAttr(nlAttr(nil, nftCounterBytes, be64(octets)...), nftCounterPackets, be64(packets)...))
}

func nftRule(family byte, table, chain string, handle uint64, comment string, exprs ...[]byte) []byte {
	b := nlAttr([]byte{family, 0, 0, 0}, nftRuleTable, append([]byte(table), 0)...)
	b = nlAttr(nlAttr(b, nftRuleChain, append([]byte(chain), 0)...), nftRuleHandle, be64(handle)...)
	var list []byte
	for _, e := range exprs {
		list = append(list, e...)
	}
	b = nlAttr(b, nftRuleExpressions|0x8000, list...)
	if comment != "" {
		b = nlAttr(b, nftRuleUserData, append([]byte{3, 1, 9, nftComment, byte(len(comment) + 1)}, append([]byte(comment), 0)...)...)
	}
	return b
}

func TestRuleSets(t *testing.T) {
	drop := nftExpr("immediate", nil)
	logs := nftExpr("log", nlAttr(nil, nftLogPrefix, []byte("acl-12: \x00")...))
	s := newRuleSets()
	for _, b := range [][]byte{
		nftRule(nfInet, "filter", "forward", 4, "", drop), // counts nothing
		nftRule(nfInet, "filter", "forward", 7, "", nftCounter(3, 180), logs, drop),
		nftRule(nfInet, "filter", "forward", 5, "no telnet\x07", nftCounter(0, 0), logs, drop),
		nftRule(nfIPv6, "filter", "forward", 4, "", nftCounter(1, 40), nftCounter(0, 0), drop), // the first of two
		nftRule(nfBridge, "b", "forward", 2, "", nftCounter(8, 9)),
		nftRule(99, "of", "a family to come", 2, "", nftCounter(8, 9)),
	} {
		r, err := parseRule(b)
		if err != nil {
			t.Fatal(err)
		}
		s.add(&r)
	}
	want := []RuleSet{
		{"inet filter forward", yang.ACLMixed, []yang.ACLEntry{
			{SequenceID: 2, Description: "handle 7: acl-12", MatchedPackets: 3, MatchedOctets: 180},
			{SequenceID: 3, Description: "handle 5: no telnet?"},
		}},
		{"ip6 filter forward", yang.ACLIPv6, []yang.ACLEntry{{SequenceID: 1, Description: "handle 4", MatchedPackets: 1, MatchedOctets: 40}}},
		{"bridge b forward", yang.ACLL2, []yang.ACLEntry{{SequenceID: 1, Description: "handle 2", MatchedPackets: 8, MatchedOctets: 9}}},
	}
	if d := cmp.Diff(want, s.sets); d != "" {
		t.Error(d)
	}
}

func TestRuleSetsAreBounded(t *testing.T) {
	s := newRuleSets()
	for i := range maxRules + 7 {
		s.add(&ruleRecord{family: nfIPv4, table: "t", chain: fmt.Sprint(i % 3), counts: true})
	}
	n := 0
	for _, set := range s.sets {
		n += len(set.Rules)
	}
	if n != maxRules || s.leftOut != 7 || len(s.sets) != 3 {
		t.Errorf("%d rules in %d sets, %d left out", n, len(s.sets), s.leftOut)
	}
}

// Names longer than a word of an event are told whole: cut, two could be one.
func TestRuleSetsOfLongNames(t *testing.T) {
	s, long := newRuleSets(), strings.Repeat("a", 200)
	for _, chain := range []string{long + "1", long + "2"} {
		s.add(&ruleRecord{family: nfIPv4, table: "t", chain: chain, counts: true})
	}
	if len(s.sets) != 2 || s.sets[0].Name != "ip t "+long+"1" {
		t.Errorf("%+v", s.sets)
	}
}

func TestRuleBadInput(t *testing.T) {
	whole := nftRule(nfInet, "filter", "forward", 4, "why", nftCounter(3, 180))
	for name, b := range map[string][]byte{
		"nothing":         nil,
		"a short handle":  nlAttr([]byte{1, 0, 0, 0}, nftRuleHandle, 1, 2, 3),
		"a short counter": nftRule(nfInet, "t", "c", 1, "", nftExpr("counter", nlAttr(nil, nftCounterBytes, 1))),
		"a lying length":  append([]byte{1, 0, 0, 0}, 200, 0, 1, 0),
		"cut":             whole[:len(whole)-4],
	} {
		if r, err := parseRule(b); err == nil {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if got := ruleComment([]byte{nftComment, 200, 'a'}); got != "" {
		t.Errorf("a comment longer than its rule: %q", got)
	}
}
