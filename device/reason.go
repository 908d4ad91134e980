package device

import (
	"net/netip"
)

// rule maps what the kernel says of a dropped packet to a class. Reason names
// alone do not do: a route that discards is NOT_SPECIFIED at ip_error, an
// expired TTL is IP_INHDR at ip_forward. Numbers change between kernels, so the
// names count.
type rule struct {
	reason   string // of enum skb_drop_reason, without its prefix
	function string // that dropped it; "" is any
	errno    errno  // of the packet's route; 0 is any
	class    string // "" is no loss
}

// rules are read from the top: the first that fits counts, so the particular
// stands above the general.
var rules = []rule{
	// Routing. The route's own error tells kinds of routes apart that have one
	// reason: fib_props in net/ipv4/fib_semantics.c, ip6_rt_type_to_error in
	// net/ipv6/route.c.
	{"NOT_SPECIFIED", "ip_error", errNetUnreach, ErrorsL3RxNoRoute},
	{"NOT_SPECIFIED", "ip_error", errHostUnreach, PolicyL3NullRoute}, // route of type unreachable
	{"NOT_SPECIFIED", "ip_error", errAccess, PolicyL3ACL},            // prohibit
	{"NOT_SPECIFIED", "ip_error", errInvalid, PolicyL3NullRoute},     // blackhole
	{"NOT_SPECIFIED", "ip_error", 0, ErrorsL3RxNoRoute},
	{"NOT_SPECIFIED", "dst_discard", 0, PolicyL3NullRoute}, // IPv6 blackhole
	{"NOT_SPECIFIED", "dst_discard_out", 0, PolicyL3NullRoute},
	{"NOT_SPECIFIED", "dst_blackhole_output", 0, PolicyL3NullRoute},
	{"NOT_SPECIFIED", "ip6_pkt_prohibit", 0, PolicyL3ACL},
	{"NOT_SPECIFIED", "ip6_pkt_discard", errHostUnreach, PolicyL3NullRoute},
	{"NOT_SPECIFIED", "ip6_pkt_discard", 0, ErrorsL3RxNoRoute},
	{"NOT_SPECIFIED", "ip6_pkt_drop", errAccess, PolicyL3ACL}, // where the two above are not inlined
	{"NOT_SPECIFIED", "ip6_pkt_drop", errHostUnreach, PolicyL3NullRoute},
	{"NOT_SPECIFIED", "ip6_pkt_drop", 0, ErrorsL3RxNoRoute},
	{"IP_INNOROUTES", "", errAccess, PolicyL3ACL},
	{"IP_INNOROUTES", "", errHostUnreach, PolicyL3NullRoute},
	{"IP_INNOROUTES", "", 0, ErrorsL3RxNoRoute},
	{"IP_OUTNOROUTES", "", 0, ErrorsL3RxNoRoute},

	// TTL and size.
	{"IP_INHDR", "ip_forward", 0, ErrorsL3RxTTL},
	{"IP_INHDR", "ip6_forward", 0, ErrorsL3RxTTL},
	{"IP_INHDR", "ip_mr_forward", 0, ErrorsL3RxTTL},
	{"IP_INHDR", "", 0, ErrorsL3RxInvalid},
	{"PKT_TOO_BIG", "", 0, ErrorsL3RxMTU},
	{"NOT_SPECIFIED", "ip6_fragment", 0, ErrorsL3RxMTU},

	// Filters.
	{"NETFILTER_DROP", "", 0, PolicyL3ACL},
	{"TC_INGRESS", "", 0, PolicyL3ACL},
	{"TC_EGRESS", "", 0, PolicyL3ACL},
	{"TC_COOKIE_ERROR", "", 0, PolicyL3ACL},
	{"TC_CHAIN_NOTFOUND", "", 0, PolicyL3ACL},
	{"TC_RECLASSIFY_LOOP", "", 0, PolicyL3ACL},
	{"XDP", "", 0, PolicyL3ACL},
	{"NOT_SPECIFIED", "do_xdp_generic", 0, PolicyL3ACL},
	{"BPF_CGROUP_EGRESS", "", 0, PolicyL3ACL},
	{"SECURITY_HOOK", "", 0, PolicyL3ACL},
	{"XFRM_POLICY", "", 0, PolicyL3ACL},
	{"IPV6DISABLED", "", 0, PolicyL3ACL},
	{"IP_RPFILTER", "", 0, PolicyL3RPF},
	{"ARP_PVLAN_DISABLE", "", 0, PolicyL2ACL},
	{"BRIDGE_INGRESS_STP_STATE", "", 0, PolicyL2ACL},

	// Queues and memory.
	{"QDISC_DROP", "", 0, NoBuffer},
	{"QDISC_OVERLIMIT", "", 0, NoBuffer},
	{"QDISC_CONGESTED", "", 0, NoBuffer},
	{"CAKE_FLOOD", "", 0, NoBuffer},
	{"FQ_BAND_LIMIT", "", 0, NoBuffer},
	{"FQ_HORIZON_LIMIT", "", 0, NoBuffer},
	{"FQ_FLOW_LIMIT", "", 0, NoBuffer},
	{"DUALPI2_STEP_DROP", "", 0, NoBuffer},
	// What stood in a queue that was taken away or emptied; a queue discipline
	// leaves it to the end of the netlink call (rtnl_kfree_skbs).
	{"QUEUE_PURGE", "", 0, NoBuffer},
	{"NOT_SPECIFIED", "__rtnl_unlock", 0, NoBuffer},
	{"CPU_BACKLOG", "", 0, NoBuffer},
	{"FULL_RING", "", 0, NoBuffer},
	{"NOMEM", "", 0, NoBuffer},
	{"PFMEMALLOC", "", 0, NoBuffer},
	{"PROTO_MEM", "", 0, NoBuffer},
	{"SOCKET_RCVBUFF", "", 0, NoBuffer},
	{"SOCKET_BACKLOG", "", 0, NoBuffer},
	{"TCP_OFO_QUEUE_PRUNE", "", 0, NoBuffer},
	{"TCP_OFO_DROP", "", 0, NoBuffer},
	{"TCP_LISTEN_OVERFLOW", "", 0, NoBuffer},

	// Broken packets.
	{"IP_CSUM", "", 0, ErrorsL3RxChecksum},
	{"TCP_CSUM", "", 0, ErrorsL3RxChecksum},
	{"UDP_CSUM", "", 0, ErrorsL3RxChecksum},
	{"ICMP_CSUM", "", 0, ErrorsL3RxChecksum},
	{"SKB_CSUM", "", 0, ErrorsL3RxChecksum},
	{"PKT_TOO_SMALL", "", 0, ErrorsL3RxInvalid},
	{"HDR_TRUNC", "", 0, ErrorsL3RxInvalid},
	{"INVALID_PROTO", "", 0, ErrorsL3RxInvalid},
	{"IP_NOPROTO", "", 0, ErrorsL3RxInvalid},
	{"UNHANDLED_PROTO", "", 0, ErrorsL3RxInvalid},
	{"IP_INADDRERRORS", "", 0, ErrorsL3RxInvalid},
	{"IP_LOCAL_SOURCE", "", 0, ErrorsL3RxInvalid},
	{"IP_INVALID_SOURCE", "", 0, ErrorsL3RxInvalid},
	{"IP_LOCALNET", "", 0, ErrorsL3RxInvalid},
	{"IP_INVALID_DEST", "", 0, ErrorsL3RxInvalid},
	{"UNICAST_IN_L2_MULTICAST", "", 0, ErrorsL3RxInvalid},
	{"DUP_FRAG", "", 0, ErrorsL3RxInvalid},
	{"FRAG_REASM_TIMEOUT", "", 0, ErrorsL3RxInvalid},
	{"FRAG_TOO_FAR", "", 0, ErrorsL3RxInvalid},
	{"IPV6_BAD_EXTHDR", "", 0, ErrorsL3RxInvalid},
	{"IPV6_NDISC_FRAG", "", 0, ErrorsL3RxInvalid},
	{"IPV6_NDISC_HOP_LIMIT", "", 0, ErrorsL3RxInvalid},
	{"IPV6_NDISC_BAD_CODE", "", 0, ErrorsL3RxInvalid},
	{"IPV6_NDISC_BAD_OPTIONS", "", 0, ErrorsL3RxInvalid},
	{"IP_TUNNEL_ECN", "", 0, ErrorsL3RxInvalid},
	{"VXLAN_INVALID_HDR", "", 0, ErrorsL3RxInvalid},
	{"VXLAN_VNI_NOT_FOUND", "", 0, ErrorsL3RxInvalid},
	{"PSP_INPUT", "", 0, ErrorsL3RxInvalid},
	{"TCP_AUTH_HDR", "", 0, ErrorsL3RxInvalid},
	{"TCP_MD5NOTFOUND", "", 0, ErrorsL3RxInvalid},
	{"TCP_MD5UNEXPECTED", "", 0, ErrorsL3RxInvalid},
	{"TCP_MD5FAILURE", "", 0, ErrorsL3RxInvalid},
	{"TCP_AONOTFOUND", "", 0, ErrorsL3RxInvalid},
	{"TCP_AOUNEXPECTED", "", 0, ErrorsL3RxInvalid},
	{"TCP_AOKEYNOTFOUND", "", 0, ErrorsL3RxInvalid},
	{"TCP_AOFAILURE", "", 0, ErrorsL3RxInvalid},
	{"MAC_INVALID_SOURCE", "", 0, ErrorsL2RxMAC},
	{"VXLAN_ENTRY_EXISTS", "", 0, ErrorsL2RxMAC},
	{"LOCAL_MAC", "", 0, ErrorsL2RxMAC},

	// Could not be sent on.
	{"NEIGH_CREATEFAIL", "", 0, ErrorsL3Tx},
	{"NEIGH_FAILED", "", 0, ErrorsL3Tx},
	{"NEIGH_QUEUEFULL", "", 0, ErrorsL3Tx},
	{"NEIGH_DEAD", "", 0, ErrorsL3Tx},
	{"NEIGH_HH_FILLFAIL", "", 0, ErrorsL3Tx},
	{"TUNNEL_TXINFO", "", 0, ErrorsL3Tx},
	{"RECURSION_LIMIT", "", 0, ErrorsL3Tx},
	{"PSP_OUTPUT", "", 0, ErrorsL3Tx},
	{"NO_TX_TARGET", "", 0, ErrorsL2Tx},
	{"DEV_HDR", "", 0, ErrorsL2Tx},
	{"DEV_READY", "", 0, ErrorsL2Tx},
	{"SKB_GSO_SEG", "", 0, ErrorsL2Tx},
	{"NOT_SPECIFIED", "veth_xmit", 0, ErrorsL2Tx}, // the other end is gone
	{"NOT_SPECIFIED", "__dev_forward_skb2", 0, ErrorsL2Tx},

	// No loss: the packet did its work, was a copy, or had arrived at a socket
	// whose protocol had no use for it.
	{"SKB_NOT_DROPPED_YET", "", 0, ""},
	{"SKB_CONSUMED", "", 0, ""},
	{"NOT_SPECIFIED", "ip6_mc_input", 0, ""}, // a multicast that nobody here joined
	{"OTHERHOST", "", 0, ""},                 // seen on a shared segment, meant for another
	{"MAC_IEEE_MAC_CONTROL", "", 0, ""},
	{"NO_SOCKET", "", 0, ""}, // answered with RST or port unreachable
	{"SOCKET_CLOSE", "", 0, ""},
	{"SOCKET_FILTER", "", 0, ""}, // each packet socket filters its own copy
	{"PACKET_SOCK_ERROR", "", 0, ""},
	{"UNIX_DISCONNECT", "", 0, ""},
	{"UNIX_SKIP_OOB", "", 0, ""},
	{"TAP_FILTER", "", 0, ""},
	{"TAP_TXFILTER", "", 0, ""},
	{"SKB_UCOPY_FAULT", "", 0, ""},
	{"IPV6_NDISC_NS_OTHERHOST", "", 0, ""},
	{"TCP_FLAGS", "", 0, ""},
	{"TCP_ABORT_ON_DATA", "", 0, ""},
	{"TCP_ZEROWINDOW", "", 0, ""},
	{"TCP_OLD_DATA", "", 0, ""},
	{"TCP_OVERWINDOW", "", 0, ""},
	{"TCP_OFOMERGE", "", 0, ""},
	{"TCP_RFC7323_PAWS", "", 0, ""},
	{"TCP_RFC7323_PAWS_ACK", "", 0, ""},
	{"TCP_RFC7323_TW_PAWS", "", 0, ""},
	{"TCP_RFC7323_TSECR", "", 0, ""},
	{"TCP_OLD_SEQUENCE", "", 0, ""},
	{"TCP_INVALID_SEQUENCE", "", 0, ""},
	{"TCP_INVALID_END_SEQUENCE", "", 0, ""},
	{"TCP_INVALID_ACK_SEQUENCE", "", 0, ""},
	{"TCP_RESET", "", 0, ""},
	{"TCP_INVALID_SYN", "", 0, ""},
	{"TCP_CLOSE", "", 0, ""},
	{"TCP_FASTOPEN", "", 0, ""},
	{"TCP_OLD_ACK", "", 0, ""},
	{"TCP_TOO_OLD_ACK", "", 0, ""},
	{"TCP_ACK_UNSENT_DATA", "", 0, ""},
	{"TCP_MINTTL", "", 0, ""},
	{"CAN_RX_INVALID_FRAME", "", 0, ""},
	{"CANFD_RX_INVALID_FRAME", "", 0, ""},
	{"CANXL_RX_INVALID_FRAME", "", 0, ""},
}

// classifier finds rules by reason.
type classifier struct{ byReason map[string][]rule }

func newClassifier(table []rule) *classifier {
	c := &classifier{byReason: make(map[string][]rule, len(table))}
	for _, r := range table {
		c.byReason[r.reason] = append(c.byReason[r.reason], r)
	}
	return c
}

// verdict is what the rules say of a drop.
type verdict struct {
	class string
	loss  bool // false: nothing was lost, class is ""
	known bool // false: no rule fits, class is unknown
}

// classify applies the first rule that fits. errno is the error of the
// packet's route, 0 when it had none.
func (c *classifier) classify(reason, function string, errno errno) verdict {
	for _, r := range c.byReason[reason] {
		if (r.function == "" || r.function == function) && (r.errno == 0 || r.errno == errno) {
			return verdict{class: r.class, loss: r.class != "", known: true}
		}
	}
	return verdict{class: Unknown, loss: true}
}

// never returns the reasons that are no loss whatever the function: the kernel
// program passes these over.
func (c *classifier) never() map[string]bool {
	out := map[string]bool{}
	for reason, list := range c.byReason {
		if first := list[0]; first.class == "" && first.function == "" && first.errno == 0 {
			out[reason] = true
		}
	}
	return out
}

// housekeeping reports whether a packet is of the kind that no device forwards:
// to the neighbours on one link, or to all of them. Those dropped for a reason
// that no rule knows were for nobody here, and nobody misses them.
func housekeeping(dst netip.Addr) bool {
	return dst.IsLinkLocalMulticast() || dst == netip.AddrFrom4([4]byte{255, 255, 255, 255})
}
