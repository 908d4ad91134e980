package device

import "testing"

// Every reason of the running kernel has a row, so that a new kernel shows here
// first.
func TestRulesKnowTheRunningKernel(t *testing.T) {
	spec, err := loadBTF()
	if err != nil {
		t.Skipf("needs kernel type information: %v", err)
	}
	_, names, err := readOffsets(spec)
	if err != nil {
		t.Skipf("needs skb:kfree_skb with reasons: %v", err)
	}
	c := newClassifier(rules)
	for number, name := range names {
		if name == "NOT_SPECIFIED" || name == "MAX" || name == "SUBSYS_MASK" || name == "SKB_DROP_REASON_SUBSYS_MASK" {
			continue
		}
		if len(c.byReason[name]) == 0 {
			t.Errorf("reason %d %s has no rule: it is class unknown", number, name)
		}
	}
}
