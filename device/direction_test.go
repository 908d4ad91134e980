package device

import "testing"

func TestDirection(t *testing.T) {
	const in, out, lo = 2, 3, 1
	for _, tc := range []struct {
		what            string
		r               record
		function        string
		ingress, egress uint32
	}{
		{"before routing", record{inIf: in, devIf: in}, "nft_do_chain", in, 0},
		{"at the forward hook", record{inIf: in, devIf: in, dstIf: out}, "nft_do_chain", in, out},
		{"on the way out", record{inIf: in, devIf: out, dstIf: out}, "__dev_queue_xmit", in, out},
		{"back where it came from", record{inIf: in, devIf: in, dstIf: in}, "nft_do_chain", in, in},
		{"to the device itself", record{inIf: in, devIf: in, dstIf: lo, dstFlags: iffLoopback}, "tcp_v4_rcv", in, 0},
		{"no route", record{inIf: in, devIf: in, dstIf: lo, dstFlags: iffLoopback, dstErrno: errNetUnreach}, "ip_error", in, 0},
		{"blackhole", record{inIf: in, devIf: in, dstIf: out, dstErrno: errInvalid}, "dst_discard", in, 0},
		{"the device's own", record{devIf: out, dstIf: out}, "__dev_queue_xmit", 0, out},
		{"the device's own, before it has a device", record{dstIf: out}, "nft_do_chain", 0, out},
		{"before the ingress is noted", record{devIf: in}, "enqueue_to_backlog", in, 0},
		{"taken out of a tunnel", record{devIf: 4}, "vxlan_rcv", 4, 0},
		{"nothing known", record{}, "", 0, 0},
	} {
		if i, e := direction(&tc.r, tc.function); i != tc.ingress || e != tc.egress {
			t.Errorf("%s: ingress %d, egress %d; want %d, %d", tc.what, i, e, tc.ingress, tc.egress)
		}
	}
}
