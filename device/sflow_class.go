package device

import (
	"strings"

	"decaf/device/sflow"
)

// sflowClass maps reasons of sFlow to classes; "" is no loss. Reasons that
// Linux has by the same name have the same class as in rules.
var sflowClass = map[sflow.Reason]string{
	// ICMP's destination unreachable, by code.
	0:  ErrorsL3RxNoRoute, // net_unreachable
	1:  ErrorsL3Tx,        // host_unreachable: the neighbour does not answer
	2:  ErrorsL3RxInvalid, // protocol_unreachable
	3:  "",                // port_unreachable: arrived, and answered
	4:  ErrorsL3RxMTU,     // frag_needed
	5:  ErrorsL3RxInvalid, // src_route_failed
	6:  ErrorsL3RxNoRoute, // dst_net_unknown
	7:  ErrorsL3RxNoRoute, // dst_host_unknown
	8:  PolicyL3ACL,       // src_host_isolated
	9:  PolicyL3ACL,       // dst_net_prohibited
	10: PolicyL3ACL,       // dst_host_prohibited
	11: ErrorsL3RxNoRoute, // dst_net_tos_unreachable
	12: ErrorsL3RxNoRoute, // dst_host_tos_unreachable
	13: PolicyL3ACL,       // comm_admin_prohibited
	14: PolicyL3ACL,       // host_precedence_violation
	15: PolicyL3ACL,       // precedence_cutoff

	257: ErrorsL3RxTTL,     // ttl_exceeded
	258: PolicyL3ACL,       // acl; policy/l2/acl when the packet is not IP
	259: NoBuffer,          // no_buffer_space
	260: NoBuffer,          // red
	261: PolicyL3Policer,   // traffic_shaping
	262: ErrorsL3RxMTU,     // pkt_too_big
	263: ErrorsL2RxMAC,     // src_mac_is_multicast
	264: ErrorsL2RxVLAN,    // vlan_tag_mismatch
	265: ErrorsL2RxVLAN,    // ingress_vlan_filter
	266: PolicyL2ACL,       // ingress_spanning_tree_filter
	267: ErrorsL2Tx,        // port_list_is_empty: no port to send it from
	268: PolicyL2ACL,       // port_loopback_filter
	269: PolicyL3NullRoute, // blackhole_route
	270: ErrorsL3RxInvalid, // non_ip
	271: ErrorsL3RxInvalid, // uc_dip_over_mc_dmac
	272: ErrorsL3RxInvalid, // dip_is_loopback_address
	273: ErrorsL3RxInvalid, // sip_is_mc
	274: ErrorsL3RxInvalid, // sip_is_loopback_address
	275: ErrorsL3RxInvalid, // ip_header_corrupted
	276: ErrorsL3RxInvalid, // ipv4_sip_is_limited_bc
	277: ErrorsL3RxInvalid, // ipv6_mc_dip_reserved_scope
	278: ErrorsL3RxInvalid, // ipv6_mc_dip_interface_local_scope
	279: ErrorsL3Tx,        // unresolved_neigh
	280: PolicyL3RPF,       // mc_reverse_path_forwarding
	281: ErrorsL3RxInvalid, // non_routable_packet
	282: ErrorsL3RxInvalid, // decap_error
	283: ErrorsL2RxMAC,     // overlay_smac_is_mc
	287: NoBuffer,          // unknown_buffer
	288: ErrorsL3RxInvalid, // unknown_tunnel
	289: ErrorsL3RxInvalid, // unknown_l4
	290: ErrorsL3RxInvalid, // sip_is_unspecified
	291: PolicyL2ACL,       // mlag_port_isolation
	292: PolicyL3NullRoute, // blackhole_arp_neigh
	293: ErrorsL2RxMAC,     // src_mac_is_dmac
	294: ErrorsL2RxMAC,     // dmac_is_reserved
	295: ErrorsL3RxInvalid, // sip_is_class_e
	296: ErrorsL2RxMAC,     // mc_dmac_mismatch
	297: ErrorsL3RxInvalid, // sip_is_dip
	298: ErrorsL3RxInvalid, // dip_is_local_network
	299: ErrorsL3RxInvalid, // dip_is_link_local
	300: ErrorsL2RxMAC,     // overlay_smac_is_dmac
	301: ErrorsL2Tx,        // egress_vlan_filter
	302: PolicyL3RPF,       // uc_reverse_path_forwarding
	303: PolicyL2ACL,       // split_horizon
	304: PolicyL2ACL,       // locked_port
	305: PolicyL2ACL,       // dmac_filter
	306: PolicyL3NullRoute, // blackhole_nexthop
	307: ErrorsL3RxInvalid, // vxlan_parsing
	308: ErrorsL2RxFrame,   // llc_snap_parsing
	309: ErrorsL2RxVLAN,    // vlan_parsing
	310: ErrorsL2RxFrame,   // pppoe_ppp_parsing
	311: ErrorsL3RxLabel,   // mpls_parsing
	312: ErrorsL2RxFrame,   // arp_parsing
	313: ErrorsL3RxInvalid, // ip_1_parsing
	314: ErrorsL3RxInvalid, // ip_n_parsing
	315: ErrorsL3RxInvalid, // gre_parsing
	316: ErrorsL3RxInvalid, // udp_parsing
	317: ErrorsL3RxInvalid, // tcp_parsing
	318: ErrorsL3RxInvalid, // ipsec_parsing
	319: ErrorsL3RxInvalid, // sctp_parsing
	320: ErrorsL3RxInvalid, // dccp_parsing
	321: ErrorsL3RxInvalid, // gtp_parsing
	322: ErrorsL3RxInvalid, // esp_parsing
	323: ErrorsL3RxInvalid, // unknown_parsing

	// Linux's own.
	324: ErrorsL3RxInvalid,  // pkt_too_small
	325: ErrorsL3RxInvalid,  // unhandled_proto
	326: PolicyL3ACL,        // ipv6disabled
	327: ErrorsL3RxInvalid,  // invalid_proto
	328: ErrorsL3RxInvalid,  // ip_noproto
	329: ErrorsL3RxChecksum, // skb_csum
	330: "",                 // skb_ucopy_fault
	331: ErrorsL2Tx,         // dev_ready
	332: ErrorsL2Tx,         // dev_hdr
	333: ErrorsL3RxInvalid,  // dup_frag
	334: ErrorsL2Tx,         // skb_gso_seg
	335: PolicyL3RPF,        // reverse_path_forwarding
	336: ErrorsL3RxChecksum, // icmp_parsing: a checksum
	337: ErrorsL3RxInvalid,  // tcp_md5notfound
	338: ErrorsL3RxInvalid,  // tcp_md5unexpected
	339: ErrorsL3RxInvalid,  // tcp_md5failure
	340: "",                 // tcp_flags
	341: "",                 // tcp_zerowindow
	342: "",                 // tcp_old_data
	343: "",                 // tcp_overwindow
	344: "",                 // tcp_ofomerge
	345: "",                 // tcp_rfc7323_paws
	346: "",                 // tcp_invalid_sequence
	347: "",                 // tcp_reset
	348: "",                 // tcp_invalid_syn
	349: "",                 // tcp_close
	350: "",                 // tcp_fastopen
	351: "",                 // tcp_old_ack
	352: "",                 // tcp_too_old_ack
	353: "",                 // tcp_ack_unsent_data
	354: NoBuffer,           // tcp_ofo_queue_prune
	355: NoBuffer,           // tcp_ofo_drop
	356: "",                 // tcp_minttl
	357: ErrorsL3RxInvalid,  // ipv6_bad_exthdr
	358: ErrorsL3RxInvalid,  // ipv6_ndisc_frag
	359: ErrorsL3RxInvalid,  // ipv6_ndisc_hop_limit
	360: ErrorsL3RxInvalid,  // ipv6_ndisc_bad_code
	361: ErrorsL3RxInvalid,  // ipv6_ndisc_bad_options
	362: "",                 // ipv6_ndisc_ns_otherhost
	363: "",                 // tap_filter
	364: "",                 // tap_txfilter
	365: PolicyL3ACL,        // tc_ingress
	366: PolicyL3ACL,        // tc_egress
	367: PolicyL3ACL,        // xdp
	368: NoBuffer,           // cpu_backlog
	369: PolicyL3ACL,        // bpf_cgroup_egress
	370: PolicyL3ACL,        // xfrm_policy
	371: "",                 // socket_filter
	372: PolicyL3DDoS,       // bgp_flowspec
}

// sflowVague are reasons that name a stage or a group and no cause: what else
// the notification tells goes first. Those that are not in sflowClass have no
// class of their own.
var sflowVague = map[sflow.Reason]bool{
	sflow.ReasonUnknown: true,
	284:                 true, // unknown_l2
	285:                 true, // unknown_l3
	286:                 true, // unknown_l3_exception
	287:                 true, // unknown_buffer
	288:                 true, // unknown_tunnel
	289:                 true, // unknown_l4
	323:                 true, // unknown_parsing
}

// trapReason maps the traps and trap groups of Linux devlink that sFlow has no
// reason for by the same name (Documentation/networking/devlink/devlink-trap).
var trapReason = map[string]sflow.Reason{
	"source_mac_is_multicast":  263,
	"ttl_value_is_too_small":   257,
	"mtu_value_is_too_small":   262,
	"tail_drop":                259,
	"early_drop":               260,
	"reject_route":             9,
	"ipv4_lpm_miss":            6,
	"ipv6_lpm_miss":            6,
	"ingress_flow_action_drop": 258,
	"egress_flow_action_drop":  258,

	"l2_drops":           284,
	"l3_drops":           285,
	"l3_exceptions":      286,
	"buffer_drops":       287,
	"tunnel_drops":       288,
	"acl_drops":          258,
	"parser_error_drops": 323,
}

// sflowClassifier says what notifications mean. It keeps no state.
type sflowClassifier struct {
	linux   *classifier
	table   [sflow.Reasons]sflowRow
	byName  map[string]sflow.Reason // of reasons, traps and trap groups
	unknown sflowRow
}

type sflowRow struct {
	verdict
	reason string
	vague  bool
}

func newSflowClassifier(linux *classifier) *sflowClassifier {
	c := &sflowClassifier{linux: linux, byName: map[string]sflow.Reason{}}
	for r := range sflow.Reasons {
		row := sflowRow{verdict: verdict{class: Unknown, loss: true}, vague: sflowVague[r] || !r.Named()}
		if r.Named() {
			row.reason = r.String()
			c.byName[row.reason] = r.Canonical()
		}
		if class, ok := sflowClass[r.Canonical()]; ok {
			row.verdict = verdict{class: class, loss: class != "", known: true}
		}
		c.table[r] = row
	}
	for name, r := range trapReason {
		c.byName[name] = r
	}
	c.unknown = sflowRow{verdict: verdict{class: Unknown, loss: true}, vague: true}
	return c
}

// row finds what is said of a reason; unknown of one without a name.
func (c *sflowClassifier) row(r sflow.Reason) sflowRow {
	if r < sflow.Reasons && c.table[r].reason != "" {
		return c.table[r]
	}
	row := c.unknown
	row.reason = r.String()
	return row
}

// classify says what a notification means and in which of its words: the
// reason's, unless that is vague and a Linux drop reason, a function, a
// hardware trap or its group (each "" when not told) says more.
func (c *sflowClassifier) classify(r sflow.Reason, linuxReason, function, trap, group string) (verdict, string) {
	row := c.row(r)
	if !row.vague {
		return row.verdict, row.reason
	}
	if linuxReason != "" || function != "" {
		name := strings.TrimPrefix(linuxReason, "SKB_DROP_REASON_")
		if name == "" {
			name = "NOT_SPECIFIED"
		}
		if v := c.linux.classify(name, function, 0); v.known {
			return v, name
		}
	}
	for _, name := range []string{trap, group} {
		if number, ok := c.byName[name]; ok {
			if found := c.row(number); found.known {
				return found.verdict, name
			}
		}
	}
	if row.known {
		return row.verdict, row.reason
	}
	// Nobody knows: the most particular word, so that a rule can be made of it.
	for _, word := range []string{linuxReason, trap} {
		if word != "" {
			return row.verdict, word
		}
	}
	return row.verdict, row.reason
}
