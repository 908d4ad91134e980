package yang

import (
	"strconv"
	"time"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
)

// ACLType is the type of a set of rules, an identity of openconfig-acl.
type ACLType string

// Types of rule sets: by IPv4's headers, by IPv6's, by those of a frame, or by any.
const (
	ACLIPv4  ACLType = "ACL_IPV4"
	ACLIPv6  ACLType = "ACL_IPV6"
	ACLL2    ACLType = "ACL_L2"
	ACLMixed ACLType = "ACL_MIXED"
)

// ACLEntry is what a firewall rule with a counter counts: all packets that matched
// it, over all interfaces, whatever it did with them.
type ACLEntry struct {
	SequenceID     uint32 // its place among the rules of its set, from 1
	Description    string
	MatchedPackets uint64
	MatchedOctets  uint64
}

var aclEntryLeaves = within("", []leaf[ACLEntry]{
	{name: "sequence-id", typ: Uint,
		getUint: func(e *ACLEntry) uint64 { return uint64(e.SequenceID) },
		setUint: func(e *ACLEntry, v uint64) { e.SequenceID = uint32(v) }},
	{name: "description", typ: String,
		getString: func(e *ACLEntry) string { return e.Description },
		setString: func(e *ACLEntry, v string) error { e.Description = v; return nil }},
	counter64("matched-packets", func(e *ACLEntry) *uint64 { return &e.MatchedPackets }),
	counter64("matched-octets", func(e *ACLEntry) *uint64 { return &e.MatchedOctets }),
})

// ACLUpdates returns a set of rules and its entries as notifications with prefix
// /acl/acl-sets/acl-set[name=N][type=T]/state, and for each entry
// …/acl-entries/acl-entry[sequence-id=S]/state below it.
func ACLUpdates(name string, typ ACLType, entries []ACLEntry, now time.Time) []*gnmipb.Notification {
	at := []*gnmipb.PathElem{{Name: "acl"}, {Name: "acl-sets"}, {Name: "acl-set", Key: map[string]string{"name": name, "type": string(typ)}}}
	set := named(append(at[:3:3], &gnmipb.PathElem{Name: "state"}), "name", name, now)
	set.Update = append(set.Update, &gnmipb.Update{
		Path: &gnmipb.Path{Elem: []*gnmipb.PathElem{{Name: "type"}}}, Val: identity("openconfig-acl:" + string(typ)),
	})
	out := []*gnmipb.Notification{set}
	for i := range entries {
		e := &entries[i]
		out = append(out, &gnmipb.Notification{
			Timestamp: now.UnixNano(), Update: encode(nil, aclEntryLeaves, e),
			Prefix: &gnmipb.Path{Elem: append(at[:3:3], &gnmipb.PathElem{Name: "acl-entries"},
				&gnmipb.PathElem{Name: "acl-entry", Key: map[string]string{"sequence-id": strconv.FormatUint(uint64(e.SequenceID), 10)}},
				&gnmipb.PathElem{Name: "state"})},
		})
	}
	return out
}

func aclSchema() *Node {
	text := func(name string) *Node { return &Node{Name: name, Type: String} }
	return &Node{Name: "acl", Module: "openconfig-acl", Children: []*Node{{Name: "acl-sets", Children: []*Node{{Name: "acl-set", Keys: []string{"name", "type"}, Children: []*Node{
		text("name"), text("type"), {Name: "state", Children: []*Node{text("name"), text("type")}},
		{Name: "acl-entries", Children: []*Node{{Name: "acl-entry", Keys: []string{"sequence-id"}, Children: []*Node{
			{Name: "sequence-id", Type: Uint}, {Name: "state", Children: leaves(aclEntryLeaves, State)},
		}}}},
	}}}}}}
}
