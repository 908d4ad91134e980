package device

import (
	"slices"
	"strings"
	"testing"

	"decaf/device/sflow"
)

// Every reason that has a name has a class, or is one of the few that say
// nothing; what has no name is unknown.
func TestSFlowClasses(t *testing.T) {
	c := newSflowClassifier(newClassifier(rules))
	none := []sflow.Reason{sflow.ReasonUnknown, 284, 285, 286}
	for r := range sflow.Reasons + 100 {
		v, reason := c.classify(r, "", "", "", "")
		class, mapped := sflowClass[r.Canonical()]
		switch {
		case !r.Named(), slices.Contains(none, r):
			if mapped || v.known || !v.loss || v.class != Unknown {
				t.Errorf("%d %s: %+v, want class unknown", r, r, v)
			}
		case !mapped || !v.known || v.class != class || v.loss != (class != ""):
			t.Errorf("%d %s: %+v, want class %q", r, r, v, class)
		case class != "" && !slices.Contains(Classes(), class):
			t.Errorf("%d %s: %q is no class", r, r, class)
		}
		if reason != r.String() {
			t.Errorf("%d: reason %q, want %q", r, reason, r)
		}
	}
}

// What Linux calls by the same name means the same from either source.
func TestSFlowAgreesWithLinux(t *testing.T) {
	kernel := newClassifier(rules)
	same := 0
	for r := range sflow.Reasons {
		if !r.Named() || len(kernel.byReason[strings.ToUpper(r.String())]) == 0 {
			continue
		}
		same++
		if v := kernel.classify(strings.ToUpper(r.String()), "", 0); v.class != sflowClass[r.Canonical()] {
			t.Errorf("%s is %q from sFlow and %q from the kernel", r, sflowClass[r.Canonical()], v.class)
		}
	}
	if same < 40 {
		t.Errorf("only %d reasons compared", same)
	}
	for name, r := range trapReason {
		if !r.Named() {
			t.Errorf("trap %s means reason %d, which has no name", name, r)
		}
	}
}

func TestSFlowVagueReasons(t *testing.T) {
	c := newSflowClassifier(newClassifier(rules))
	const unknown = sflow.ReasonUnknown
	for _, tc := range []struct {
		name                         string
		number                       sflow.Reason
		linux, function, trap, group string
		class, reason                string
		known                        bool
	}{
		{"linux reason", unknown, "NETFILTER_DROP", "nft_do_chain", "", "", PolicyL3ACL, "NETFILTER_DROP", true},
		{"linux reason with its prefix", unknown, "SKB_DROP_REASON_PKT_TOO_BIG", "", "", "", ErrorsL3RxMTU, "PKT_TOO_BIG", true},
		{"linux reason that needs the function", unknown, "IP_INHDR", "ip_forward", "", "", ErrorsL3RxTTL, "IP_INHDR", true},
		{"linux function alone", unknown, "", "ip_error", "", "", ErrorsL3RxNoRoute, "NOT_SPECIFIED", true},
		{"linux reason that is no loss", unknown, "SKB_CONSUMED", "", "", "", "", "SKB_CONSUMED", true},
		{"trap of the same name as a reason", unknown, "", "", "unresolved_neigh", "l3_exceptions", ErrorsL3Tx, "unresolved_neigh", true},
		{"trap of another name", 285, "", "", "ttl_value_is_too_small", "l3_exceptions", ErrorsL3RxTTL, "ttl_value_is_too_small", true},
		{"trap nobody knows, its group", unknown, "", "", "vendor_acl", "acl_drops", PolicyL3ACL, "acl_drops", true},
		{"trap nobody knows in a vague group", unknown, "", "", "vendor_thing", "l3_drops", Unknown, "vendor_thing", false},
		{"linux reason nobody knows, trap", unknown, "NEW_REASON", "f", "tail_drop", "", NoBuffer, "tail_drop", true},
		{"linux reason nobody knows", unknown, "NEW_REASON", "f", "", "", Unknown, "NEW_REASON", false},
		{"vague with a class of its own", 287, "", "", "vendor_queue", "vendor", NoBuffer, "unknown_buffer", true},
		{"number without a name", 4000, "", "", "", "", Unknown, "reason_4000", false},
		{"a clear reason stands", 257, "NETFILTER_DROP", "nft_do_chain", "tail_drop", "buffer_drops", ErrorsL3RxTTL, "ttl_exceeded", true},
	} {
		v, reason := c.classify(tc.number, tc.linux, tc.function, tc.trap, tc.group)
		if v.class != tc.class || reason != tc.reason || v.known != tc.known || v.loss != (tc.class != "") {
			t.Errorf("%s: %+v %q, want %q %q", tc.name, v, reason, tc.class, tc.reason)
		}
	}
}
