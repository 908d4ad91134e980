package device

// iffLoopback is IFF_LOOPBACK of <linux/if.h>.
const iffLoopback = 0x8

// arriving are functions that drop a packet before the kernel has noted where
// it came in (__netif_receive_skb_core sets skb_iif), or between one receipt and
// the next, as what a tunnel's device takes out of another packet: there skb->dev is
// the ingress.
var arriving = map[string]bool{
	"enqueue_to_backlog": true,
	"netif_rx_internal":  true,
	"vxlan_rcv":          true,
}

// direction tells the interface a packet came in by and the one it was to leave
// by, 0 where there is none or it is not known.
//
// skb_iif is the ingress from the moment the packet is received and stays so;
// a packet of the device itself has none. skb->dev is the ingress too until
// ip_output makes it the egress. Before that the egress is the device of the
// route, once there is one: at the forward hook there is, and an expired TTL is
// found only after routing. A route that only discards, or delivers locally,
// points at the loopback interface: no egress.
func direction(r *record, function string) (ingress, egress uint32) {
	if arriving[function] {
		return r.devIf, 0
	}
	ingress = r.inIf
	switch {
	case r.devIf != 0 && r.devIf != r.inIf:
		egress = r.devIf
	case r.dstIf != 0 && r.dstFlags&iffLoopback == 0 && r.dstErrno == 0:
		egress = r.dstIf
	}
	return ingress, egress
}
