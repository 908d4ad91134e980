package hostagent

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf/btf"
)

// field is where a member lies in a kernel structure.
type field struct {
	offset int16 // bytes from the start of the structure
	size   int   // bytes; of the storage unit for a bit field
	shift  uint8 // bit field: bits below it in its byte
	mask   uint8 // bit field: as wide as the field, 0 for other members
}

// layout holds the offsets that the programs put into their loads: what
// CO-RE relocation would do for a compiled program, done at start instead.
// Where a member is missing in the running kernel present is false.
type layout struct {
	// struct sock and struct request_sock both begin with struct sock_common.
	net, family, num, dport          field
	saddr, daddr, saddr6, daddr6     field
	hasIPv6                          bool
	inum                             field // struct net
	state                            field // struct sock_common
	sport                            field // struct inet_sock
	caState, retransmits             field // struct inet_connection_sock
	totalRetrans, dsackDups          field // struct tcp_sock
	dataSegsOut                      field // likewise
	bytesSent, bytesRetrans          field // likewise
	cb                               field // struct sk_buff
	seq, endSeq, gsoSegs, cbTCPFlags field // struct tcp_skb_cb, within cb
	sntISN                           field // struct tcp_request_sock
	rskOps                           field // struct request_sock
	opsFamily                        field // struct request_sock_ops
	seqFile                          field // struct bpf_iter_meta
	retransOut, sndUna, tsOffset     field // struct tcp_sock
	usecTS                           field // likewise; of size 0 where timestamps are always in milliseconds
	rcvNxt                           field // struct tcp_sock
	txHash                           field // struct sock
	requestHash                      field // struct tcp_request_sock
	pinet6                           field // struct inet_sock
	givenLabel                       field // struct ipv6_pinfo
	autoLabel, stateLabel            field // struct net; stateLabel may be missing, of size 0
	hasLabel                         bool  // the five above
	skbStamp, skbData                field // struct sk_buff
	err                              field // struct sock
	skCgroup, cgroupKn, kernfsID     field // struct sock, struct cgroup, struct kernfs_node
	hasCgroup                        bool
	retransmitArgs                   int // arguments of tcp_retransmit_skb
}

// readLayout finds all offsets in spec, the running kernel's BTF.
func readLayout(spec *btf.Spec) (*layout, error) {
	l := new(layout)
	var errs []error
	get := func(into *field, structure, path string) {
		f, err := fieldOf(spec, structure, path)
		if err != nil {
			errs = append(errs, err)
		}
		*into = f
	}
	get(&l.net, "sock_common", "skc_net.net")
	get(&l.family, "sock_common", "skc_family")
	get(&l.state, "sock_common", "skc_state")
	get(&l.num, "sock_common", "skc_num")
	get(&l.dport, "sock_common", "skc_dport")
	get(&l.saddr, "sock_common", "skc_rcv_saddr")
	get(&l.daddr, "sock_common", "skc_daddr")
	get(&l.inum, "net", "ns.inum")
	get(&l.sport, "inet_sock", "inet_sport")
	get(&l.caState, "inet_connection_sock", "icsk_ca_state")
	get(&l.retransmits, "inet_connection_sock", "icsk_retransmits")
	get(&l.totalRetrans, "tcp_sock", "total_retrans")
	get(&l.dsackDups, "tcp_sock", "dsack_dups")
	get(&l.retransOut, "tcp_sock", "retrans_out")
	get(&l.sndUna, "tcp_sock", "snd_una")
	get(&l.tsOffset, "tcp_sock", "tsoffset")
	get(&l.rcvNxt, "tcp_sock", "rcv_nxt")
	get(&l.txHash, "sock", "sk_txhash")
	get(&l.skbStamp, "sk_buff", "skb_mstamp_ns")
	get(&l.skbData, "sk_buff", "data")
	get(&l.err, "sock", "sk_err")
	get(&l.dataSegsOut, "tcp_sock", "data_segs_out")
	get(&l.bytesSent, "tcp_sock", "bytes_sent")
	get(&l.bytesRetrans, "tcp_sock", "bytes_retrans")
	get(&l.seqFile, "bpf_iter_meta", "seq")
	get(&l.cb, "sk_buff", "cb")
	get(&l.seq, "tcp_skb_cb", "seq")
	get(&l.endSeq, "tcp_skb_cb", "end_seq")
	get(&l.gsoSegs, "tcp_skb_cb", "tcp_gso_segs")
	get(&l.cbTCPFlags, "tcp_skb_cb", "tcp_flags")
	get(&l.rskOps, "request_sock", "rsk_ops")
	get(&l.opsFamily, "request_sock_ops", "family")
	get(&l.sntISN, "tcp_request_sock", "snt_isn")

	// A kernel built without IPv6 has no such members.
	if f, err := fieldOf(spec, "sock_common", "skc_v6_rcv_saddr"); err == nil {
		l.saddr6, l.hasIPv6 = f, true
		get(&l.daddr6, "sock_common", "skc_v6_daddr")
	}

	// Where IPv6 is a module of its own its flow labels are not known.
	if f, err := fieldOf(spec, "ipv6_pinfo", "flow_label"); err == nil && l.hasIPv6 {
		l.givenLabel, l.hasLabel = f, true
		get(&l.pinet6, "inet_sock", "pinet6")
		get(&l.requestHash, "tcp_request_sock", "txhash")
		get(&l.autoLabel, "net", "ipv6.sysctl.auto_flowlabels")
		if f, err := fieldOf(spec, "net", "ipv6.sysctl.flowlabel_state_ranges"); err == nil {
			l.stateLabel = f
		}
	}

	// Linux 6.7 brought timestamps in microseconds, for routes that ask for them.
	if f, err := fieldOf(spec, "tcp_sock", "tcp_usec_ts"); err == nil {
		l.usecTS = f
	}

	// Before Linux 5.15 the pointer was one of two meanings of a word.
	if f, err := fieldOf(spec, "sock", "sk_cgrp_data.cgroup"); err == nil {
		l.skCgroup, l.hasCgroup = f, true
		get(&l.cgroupKn, "cgroup", "kn")
		get(&l.kernfsID, "kernfs_node", "id")
	}

	n, err := tracepointArgs(spec, "tcp_retransmit_skb")
	if err != nil {
		errs = append(errs, err)
	}
	if n < 2 {
		errs = append(errs, fmt.Errorf("tracepoint tcp_retransmit_skb has %d arguments, want socket and buffer", n))
	}
	l.retransmitArgs = n

	for _, w := range []struct {
		name string
		f    field
		want int
	}{
		{"skc_family", l.family, 2}, {"skc_num", l.num, 2}, {"skc_dport", l.dport, 2},
		{"skc_state", l.state, 1}, {"inet_sport", l.sport, 2}, {"inum", l.inum, 4},
		{"seq", l.seq, 4}, {"end_seq", l.endSeq, 4}, {"tcp_gso_segs", l.gsoSegs, 2},
		{"total_retrans", l.totalRetrans, 4}, {"dsack_dups", l.dsackDups, 4}, {"snt_isn", l.sntISN, 4},
		{"data_segs_out", l.dataSegsOut, 4}, {"bytes_sent", l.bytesSent, 8}, {"bytes_retrans", l.bytesRetrans, 8},
		{"rsk_ops", l.rskOps, 8}, {"family", l.opsFamily, 4}, {"retrans_out", l.retransOut, 4}, {"sk_err", l.err, 4},
		{"snd_una", l.sndUna, 4}, {"tsoffset", l.tsOffset, 4}, {"skb_mstamp_ns", l.skbStamp, 8}, {"data", l.skbData, 8},
		{"rcv_nxt", l.rcvNxt, 4}, {"sk_txhash", l.txHash, 4}, {"pinet6", l.pinet6, 8}, {"flow_label", l.givenLabel, 4},
		{"auto_flowlabels", l.autoLabel, 1}, {"flowlabel_state_ranges", l.stateLabel, 1}, {"txhash", l.requestHash, 4},
		{"cgroup", l.skCgroup, 8}, {"kn", l.cgroupKn, 8}, {"id", l.kernfsID, 8},
	} {
		if w.f.size != 0 && w.f.size != w.want {
			errs = append(errs, fmt.Errorf("%s is %d bytes wide in this kernel, want %d", w.name, w.f.size, w.want))
		}
	}
	return l, errors.Join(errs...)
}

// tracepointArgs counts the arguments of a tracepoint, without the leading
// pointer to private data. They differ between kernels: tcp_retransmit_skb
// gained err after 6.12.
func tracepointArgs(spec *btf.Spec, name string) (int, error) {
	var td *btf.Typedef
	if err := spec.TypeByName("btf_trace_"+name, &td); err != nil {
		return 0, fmt.Errorf("tracepoint %s: %w", name, err)
	}
	ptr, ok := td.Type.(*btf.Pointer)
	if !ok {
		return 0, fmt.Errorf("tracepoint %s: %v is no pointer to a function", name, td.Type)
	}
	proto, ok := ptr.Target.(*btf.FuncProto)
	if !ok || len(proto.Params) == 0 {
		return 0, fmt.Errorf("tracepoint %s: %v is no function", name, ptr.Target)
	}
	return len(proto.Params) - 1, nil
}

// fieldOf finds a member by its path ("skc_net.net") in a structure, looking
// through anonymous structures and unions as C does.
func fieldOf(spec *btf.Spec, structure, path string) (field, error) {
	var s *btf.Struct
	if err := spec.TypeByName(structure, &s); err != nil {
		return field{}, fmt.Errorf("struct %s: %w", structure, err)
	}
	var (
		typ  btf.Type = s
		bits btf.Bits
		last btf.Member
	)
	for name := range strings.SplitSeq(path, ".") {
		m, at, ok := memberOf(typ, name)
		if !ok {
			return field{}, fmt.Errorf("struct %s has no member %s in this kernel", structure, path)
		}
		bits += at
		last, typ = m, m.Type
	}
	f := field{}
	if last.BitfieldSize > 0 {
		f.shift = uint8(bits % 8)
		if int(f.shift)+int(last.BitfieldSize) > 8 {
			return field{}, fmt.Errorf("struct %s: bit field %s does not lie in one byte", structure, path)
		}
		f.mask = uint8(1<<last.BitfieldSize - 1)
		f.size = 1
		bits -= bits % 8
	} else {
		size, err := btf.Sizeof(typ)
		if err != nil {
			return field{}, fmt.Errorf("struct %s: size of %s: %w", structure, path, err)
		}
		f.size = size
	}
	if bits.Bytes() > 1<<15-1 {
		return field{}, fmt.Errorf("struct %s: %s lies %d bytes in, too far for a load", structure, path, bits.Bytes())
	}
	f.offset = int16(bits.Bytes())
	return f, nil
}

// memberOf finds one member and its offset within typ.
func memberOf(typ btf.Type, name string) (btf.Member, btf.Bits, bool) {
	var members []btf.Member
	switch t := btf.UnderlyingType(typ).(type) {
	case *btf.Struct:
		members = t.Members
	case *btf.Union:
		members = t.Members
	}
	for _, m := range members {
		if m.Name == name {
			return m, m.Offset, true
		}
		if m.Name == "" {
			if inner, at, ok := memberOf(m.Type, name); ok {
				return inner, m.Offset + at, true
			}
		}
	}
	return btf.Member{}, 0, false
}
