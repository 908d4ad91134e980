package device

import (
	"net/netip"
	"slices"
	"testing"
)

// TestRules walks every row of the table: it is reached by what it describes,
// and by what nothing more particular does.
func TestRules(t *testing.T) {
	c := newClassifier(rules)
	classes := Classes()
	for _, r := range rules {
		function, errno := r.function, r.errno
		if function == "" {
			function = "some_function"
		}
		if errno == 0 {
			errno = 4095 // no route has this
		}
		got := c.classify(r.reason, function, errno)
		want := verdict{class: r.class, loss: r.class != "", known: true}
		if got != want {
			t.Errorf("%s at %q, %v: %+v, want %+v: a row above hides this one", r.reason, r.function, r.errno, got, want)
		}
		if r.class != "" && !slices.Contains(classes, r.class) {
			t.Errorf("%s at %q: class %q is not in the model", r.reason, r.function, r.class)
		}
		if r.class == Unknown {
			t.Errorf("%s at %q: a rule that knows nothing", r.reason, r.function)
		}
	}
}

func TestClassify(t *testing.T) {
	c := newClassifier(rules)
	for _, tc := range []struct {
		reason, function string
		errno            errno
		class            string
		loss, known      bool
	}{
		{"NETFILTER_DROP", "nft_do_chain", 0, PolicyL3ACL, true, true},
		{"NOT_SPECIFIED", "ip_error", errNetUnreach, ErrorsL3RxNoRoute, true, true},
		{"NOT_SPECIFIED", "ip_error", errInvalid, PolicyL3NullRoute, true, true},
		{"IP_INHDR", "ip_forward", 0, ErrorsL3RxTTL, true, true},
		{"IP_INHDR", "ip_rcv_core", 0, ErrorsL3RxInvalid, true, true},
		{"TCP_OLD_DATA", "tcp_data_queue", 0, "", false, true},
		{"NOT_SPECIFIED", "frobnicate", 0, Unknown, true, false},
		{"REASON_70001", "frobnicate", 0, Unknown, true, false},
	} {
		if got, want := c.classify(tc.reason, tc.function, tc.errno), (verdict{tc.class, tc.loss, tc.known}); got != want {
			t.Errorf("%s at %s, %v: %+v, want %+v", tc.reason, tc.function, tc.errno, got, want)
		}
	}
}

// What the kernel program passes over may not be a loss in any case.
func TestNeverIsNoLossWhateverTheFunction(t *testing.T) {
	c := newClassifier(rules)
	never := c.never()
	if !never["SKB_CONSUMED"] || !never["TCP_OLD_DATA"] || never["NETFILTER_DROP"] || never["NOT_SPECIFIED"] {
		t.Errorf("never: %v", never)
	}
	for _, r := range rules {
		if never[r.reason] && r.class != "" {
			t.Errorf("%s is passed over and is also class %s", r.reason, r.class)
		}
	}
}

func TestHousekeeping(t *testing.T) {
	for addr, want := range map[string]bool{
		"224.0.0.5": true, "224.0.1.1": false, "239.1.1.1": false, "255.255.255.255": true,
		"10.0.0.1": false, "ff02::16": true, "ff05::2": false, "fd00::1": false,
	} {
		if got := housekeeping(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: %v", addr, got)
		}
	}
}
