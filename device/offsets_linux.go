package device

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/cilium/ebpf/btf"
)

// offsets are where the running kernel keeps the fields that the program reads,
// in bytes, from its BTF: compile once, run everywhere, without a compiler.
type offsets struct {
	params int // of the tracepoint: 3 or, with rx_sk, 4

	skbDev, skbSk, skbRefdst, skbLen, skbQueue, skbIif, skbVLAN, skbProtocol int16
	skbNetwork, skbMAC, skbTail, skbEnd, skbHead, skbData                    int16
	devIfindex, devNet, devFlags                                             int16
	sockNet                                                                  int16
	netInum                                                                  int16
	dstDev, dstError                                                         int16
	sharedSegs                                                               int16

	direct *direct // nil: the kernel has no bpf_rdonly_cast
}

// direct is what the program needs to load from the kernel's memory by plain
// instructions, which the kernel lets it do at an address that was cast to a type:
// the numbers, in the kernel's BTF, of bpf_rdonly_cast (Linux 6.2) and of the types.
// A load from where there is no memory yields zero. A tenth of what it costs by
// bpf_probe_read_kernel.
type direct struct {
	cast                                    btf.TypeID
	dst, device, shared, ipv4, ipv6, l4Head btf.TypeID
}

// readDirect returns nil when the kernel cannot do it.
func readDirect(spec *btf.Spec) *direct {
	var cast *btf.Func
	if err := spec.TypeByName("bpf_rdonly_cast", &cast); err != nil {
		return nil
	}
	d := &direct{}
	var err error
	if d.cast, err = spec.TypeID(cast); err != nil {
		return nil
	}
	for name, to := range map[string]*btf.TypeID{
		"dst_entry": &d.dst, "net_device": &d.device, "skb_shared_info": &d.shared, "iphdr": &d.ipv4, "ipv6hdr": &d.ipv6, "udphdr": &d.l4Head,
	} {
		var s *btf.Struct
		if err := spec.TypeByName(name, &s); err != nil {
			return nil
		}
		if *to, err = spec.TypeID(s); err != nil {
			return nil
		}
	}
	return d
}

// readOffsets looks the fields up, and with them the names of the drop reasons
// by number, without their prefix.
func readOffsets(spec *btf.Spec) (*offsets, map[uint32]string, error) {
	o := &offsets{}
	var trace *btf.Typedef
	if err := spec.TypeByName("btf_trace_kfree_skb", &trace); err != nil {
		return nil, nil, fmt.Errorf("kernel has no tracepoint skb:kfree_skb: %w", err)
	}
	ptr, ok := trace.Type.(*btf.Pointer)
	if !ok {
		return nil, nil, fmt.Errorf("btf_trace_kfree_skb is %v, not a pointer", trace.Type)
	}
	proto, ok := ptr.Target.(*btf.FuncProto)
	if !ok {
		return nil, nil, fmt.Errorf("btf_trace_kfree_skb points to %v, not to a function", ptr.Target)
	}
	// The first parameter is the tracepoint's own.
	o.params = len(proto.Params) - 1
	if o.params < 3 {
		return nil, nil, fmt.Errorf("skb:kfree_skb has %d arguments and gives no reason: need Linux 5.17 or later", o.params)
	}

	f := fields{spec: spec}
	skb := f.structure("sk_buff")
	o.skbDev = f.at(skb, "dev")
	o.skbSk = f.at(skb, "sk")
	o.skbRefdst = f.at(skb, "_skb_refdst")
	o.skbLen = f.at(skb, "len")
	o.skbQueue = f.at(skb, "queue_mapping")
	o.skbIif = f.at(skb, "skb_iif")
	o.skbVLAN = f.at(skb, "vlan_tci")
	o.skbProtocol = f.at(skb, "protocol")
	o.skbNetwork = f.at(skb, "network_header")
	o.skbMAC = f.at(skb, "mac_header")
	o.skbTail = f.at(skb, "tail")
	o.skbEnd = f.at(skb, "end")
	o.skbHead = f.at(skb, "head")
	o.skbData = f.at(skb, "data")
	dev := f.structure("net_device")
	o.devIfindex = f.at(dev, "ifindex")
	o.devNet = f.at(dev, "nd_net")
	o.devFlags = f.at(dev, "flags")
	o.sockNet = f.at(f.structure("sock_common"), "skc_net")
	o.netInum = f.at(f.structure("net"), "ns") + f.at(f.structure("ns_common"), "inum")
	dst := f.structure("dst_entry")
	o.dstDev = f.at(dst, "dev")
	o.dstError = f.at(dst, "error")
	o.sharedSegs = f.at(f.structure("skb_shared_info"), "gso_segs")
	if f.err != nil {
		return nil, nil, f.err
	}
	o.direct = readDirect(spec)

	var enum *btf.Enum
	if err := spec.TypeByName("skb_drop_reason", &enum); err != nil {
		return nil, nil, fmt.Errorf("kernel names no drop reasons: %w: need Linux 5.17 or later", err)
	}
	names := make(map[uint32]string, len(enum.Values))
	for _, v := range enum.Values {
		names[uint32(v.Value)] = strings.TrimPrefix(v.Name, "SKB_DROP_REASON_")
	}
	return o, names, nil
}

// fields looks up structures and members and keeps the first error.
type fields struct {
	spec *btf.Spec
	err  error
}

func (f *fields) structure(name string) *btf.Struct {
	var s *btf.Struct
	if err := f.spec.TypeByName(name, &s); err != nil && f.err == nil {
		f.err = fmt.Errorf("kernel's struct %s: %w", name, err)
	}
	return s
}

// at returns the offset of a member, looking into anonymous structs and unions.
func (f *fields) at(s *btf.Struct, name string) int16 {
	if s == nil {
		return 0
	}
	off, ok := member(s.Members, name)
	switch {
	case f.err != nil:
	case !ok:
		f.err = fmt.Errorf("kernel's struct %s has no member %s", s.Name, name)
	case off > 1<<15-1:
		f.err = fmt.Errorf("kernel's struct %s has %s at %d, too far for a load", s.Name, name, off)
	}
	return int16(off)
}

func member(members []btf.Member, name string) (uint32, bool) {
	for _, m := range members {
		if m.Name == name {
			return m.Offset.Bytes(), true
		}
		if m.Name != "" {
			continue
		}
		var inner []btf.Member
		switch t := btf.UnderlyingType(m.Type).(type) {
		case *btf.Struct:
			inner = t.Members
		case *btf.Union:
			inner = t.Members
		}
		if off, ok := member(inner, name); ok {
			return m.Offset.Bytes() + off, true
		}
	}
	return 0, false
}

// loadBTF reads the running kernel's types.
func loadBTF() (*btf.Spec, error) {
	spec, err := btf.LoadKernelSpec()
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, btf.ErrNotSupported) {
		return nil, fmt.Errorf("kernel has no type information (/sys/kernel/btf/vmlinux): run a kernel built with CONFIG_DEBUG_INFO_BTF, as distributions ship since 2020: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("read kernel type information: %w", err)
	}
	return spec, nil
}
