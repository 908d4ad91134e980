package device

import "testing"

func TestFunctionName(t *testing.T) {
	for in, want := range map[string]string{
		"ip_forward":                  "ip_forward",
		"nft_do_chain [nf_tables]":    "nft_do_chain",
		"ip_rcv_core.isra.0":          "ip_rcv_core",
		"foo.constprop.0.cold [bar]":  "foo",
		"0xffffffffdeadbeef":          "",
		"":                            "",
		"__dev_queue_xmit.part.0.lto": "__dev_queue_xmit",
	} {
		if got := functionName(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
