package sflow_test

import (
	"testing"

	"decaf/device/sflow"
)

func TestReasonNames(t *testing.T) {
	for r, want := range map[sflow.Reason]string{
		0: "net_unreachable", 15: "precedence_cutoff", 16: "reason_16", 255: "reason_255", 256: "unknown", 258: "acl",
		323: "unknown_parsing", 372: "bgp_flowspec", 373: "reason_373", 1<<32 - 1: "reason_4294967295",
		33: "dev_hdr", 332: "dev_hdr", 36: "tc_egress", 366: "tc_egress",
	} {
		if got := r.String(); got != want {
			t.Errorf("reason %d is %q, want %q", uint32(r), got, want)
		}
	}
	seen := map[string]sflow.Reason{}
	for r := range sflow.Reasons {
		if !r.Named() || r != r.Canonical() {
			continue
		}
		if other, ok := seen[r.String()]; ok {
			t.Errorf("reasons %d and %d are both %q", other, r, r)
		}
		seen[r.String()] = r
	}
	if want := 16 + 372 - 256 + 1; len(seen) != want {
		t.Errorf("%d reasons have names, want %d", len(seen), want)
	}
}
