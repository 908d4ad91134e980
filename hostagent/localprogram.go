package hostagent

import (
	"encoding/binary"
	"errors"
	"math/bits"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
)

// What this host itself drops of its TCP packets, as kfree_skb tells it: only
// for reasons that say that a packet was wanted but had no place here
// (localReasons). Nobody is woken: a retransmit follows such a drop by
// milliseconds, and its reader reads the drops first.

// A drop's bytes in its ring buffer, in the machine's byte order.
const (
	ldTime     = 0  // u64, CLOCK_MONOTONIC
	ldReason   = 8  // u32, enum skb_drop_reason
	ldProtocol = 12 // u16, EtherType, in network order, and 2 of padding
	ldHeader   = 16 // from the IP header on
	ldHeaders  = 80 // as many: the longest IPv4 header and what TCP's must have
	ldBytes    = ldHeader + ldHeaders
)

// errNoReasons says that the kernel does not tell why it drops packets, as
// before Linux 5.17.
var errNoReasons = errors.New("the kernel gives no reasons for dropped packets")

// dropKernel is the source of local drops. A nil one has none.
type dropKernel struct {
	ring  *ring
	links []link.Link
	names map[uint32]string
}

// dropLayout is what the program needs beside layout.
type dropLayout struct {
	dev, sk, protocol, network, head field // struct sk_buff
	devNet                           field // struct net_device
	args                             int   // of kfree_skb
}

func openDrops(p *programs, spec *btf.Spec, ringBytes int, types *btf.Cache) (_ *dropKernel, err error) {
	d, reasons, err := readDropLayout(spec)
	if err != nil {
		return nil, err
	}
	k := &dropKernel{names: reasons}
	defer func() {
		if err != nil {
			k.Close()
		}
	}()
	// Smaller than the others: it is read with each retransmit.
	if k.ring, err = newRing("decaf_drop", max(ringBytes/4, os.Getpagesize())); err != nil {
		return nil, err
	}
	one := p.dropped(d, k)
	if k.links, _, err = load(map[string]*ebpf.ProgramSpec{one.Name: one}, types, nil); err != nil {
		return nil, err
	}
	return k, nil
}

func readDropLayout(spec *btf.Spec) (*dropLayout, map[uint32]string, error) {
	d := new(dropLayout)
	var err error
	if d.args, err = tracepointArgs(spec, "kfree_skb"); err != nil || d.args < 3 {
		return nil, nil, errNoReasons
	}
	var enum *btf.Enum
	if err := spec.TypeByName("skb_drop_reason", &enum); err != nil {
		return nil, nil, errNoReasons
	}
	reasons := map[uint32]string{}
	for _, v := range enum.Values {
		if name := strings.TrimPrefix(v.Name, "SKB_DROP_REASON_"); localReasons[name] != "" {
			reasons[uint32(v.Value)] = name
		}
	}
	for _, f := range []struct {
		into            *field
		structure, path string
	}{
		{&d.dev, "sk_buff", "dev"}, {&d.sk, "sk_buff", "sk"}, {&d.protocol, "sk_buff", "protocol"},
		{&d.network, "sk_buff", "network_header"}, {&d.head, "sk_buff", "head"},
		{&d.devNet, "net_device", "nd_net.net"},
	} {
		if *f.into, err = fieldOf(spec, f.structure, f.path); err != nil {
			return nil, nil, err
		}
	}
	return d, reasons, nil
}

// dropped: kfree_skb(skb, location, reason[, rx_sk]).
func (p *programs) dropped(d *dropLayout, k *dropKernel) *ebpf.ProgramSpec {
	l := p.layout
	ins := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R8, asm.R6, 16, asm.DWord),
	}
	for reason := range sortedKeys(k.names) {
		ins = append(ins, asm.JEq.Imm32(asm.R8, int32(reason), "wanted"))
	}
	ins = append(ins,
		asm.Ja.Label(leave),
		asm.LoadMem(asm.R7, asm.R6, 0, asm.DWord).WithSymbol("wanted"),
		asm.LoadMem(asm.R1, asm.R7, d.protocol.offset, asm.Half),
		asm.JEq.Imm(asm.R1, int32(networkOrder(etherIPv4)), "ip"),
		asm.JNE.Imm(asm.R1, int32(networkOrder(etherIPv6)), leave),

		// Where: the namespace of its device, or where it has none (at the
		// socket, or before a route) that of its socket.
		asm.LoadMem(asm.R1, asm.R7, d.dev.offset, asm.DWord).WithSymbol("ip"),
		asm.JEq.Imm(asm.R1, 0, "no device"),
		asm.LoadMem(asm.R1, asm.R1, d.devNet.offset, asm.DWord),
		asm.LoadMem(asm.R1, asm.R1, l.inum.offset, asm.Word),
		asm.Ja.Label("space"),
		asm.LoadMem(asm.R1, asm.R7, d.sk.offset, asm.DWord).WithSymbol("no device"))
	if d.args >= 4 {
		ins = append(ins,
			asm.JNE.Imm(asm.R1, 0, "socket"),
			asm.LoadMem(asm.R1, asm.R6, 24, asm.DWord))
	}
	ins = append(ins,
		asm.JEq.Imm(asm.R1, 0, leave),
		asm.LoadMem(asm.R1, asm.R1, l.net.offset, asm.DWord).WithSymbol("socket"),
		asm.LoadMem(asm.R1, asm.R1, l.inum.offset, asm.Word),
		asm.Mov.Reg(asm.R1, asm.R1).WithSymbol("space"))
	ins = append(ins, p.ours(-4, leave)...)
	ins = append(ins,
		asm.LoadMapPtr(asm.R1, k.ring.m.FD()),
		asm.Mov.Imm(asm.R2, ldBytes),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnRingbufReserve.Call(),
		asm.JEq.Imm(asm.R0, 0, "lost"),
		asm.Mov.Reg(asm.R9, asm.R0),
		asm.FnKtimeGetNs.Call(),
		asm.StoreMem(asm.R9, ldTime, asm.R0, asm.DWord),
		asm.StoreMem(asm.R9, ldReason, asm.R8, asm.Word),
		asm.Mov.Imm(asm.R1, 0),
		asm.StoreMem(asm.R9, ldProtocol, asm.R1, asm.Word),
		asm.LoadMem(asm.R8, asm.R7, d.protocol.offset, asm.Half),
		asm.StoreMem(asm.R9, ldProtocol, asm.R8, asm.Half),
		// Bytes that follow a short packet are read as well: they are the
		// buffer's own.
		asm.LoadMem(asm.R3, asm.R7, d.head.offset, asm.DWord),
		asm.LoadMem(asm.R1, asm.R7, d.network.offset, asm.Half),
		asm.Add.Reg(asm.R3, asm.R1),
		asm.Mov.Reg(asm.R1, asm.R9),
		asm.Add.Imm(asm.R1, ldHeader),
		asm.Mov.Imm(asm.R2, ldHeaders),
		asm.FnProbeReadKernel.Call(),

		asm.LoadMem(asm.R1, asm.R9, ldHeader+9, asm.Byte), // IPv4's protocol
		asm.JEq.Imm(asm.R8, int32(networkOrder(etherIPv4)), "protocol"),
		asm.LoadMem(asm.R1, asm.R9, ldHeader+6, asm.Byte), // IPv6's next header
		asm.JEq.Imm(asm.R1, protoTCP, "submit").WithSymbol("protocol"),
		asm.Mov.Reg(asm.R1, asm.R9),
		asm.Mov.Imm(asm.R2, 0),
		asm.FnRingbufDiscard.Call(),
		asm.Ja.Label(leave),
		asm.Mov.Reg(asm.R1, asm.R9).WithSymbol("submit"),
		asm.Mov.Imm(asm.R2, bpfRingNoWakeup),
		asm.FnRingbufSubmit.Call(),
		asm.Ja.Label(leave))
	lost := k.ring.countLost()
	lost[0] = lost[0].WithSymbol("lost")
	ins = append(ins, lost...)
	return tracing("decaf_dropped", ebpf.AttachTraceRawTp, "kfree_skb", append(ins, end()...))
}

const (
	etherIPv4 = 0x0800
	etherIPv6 = 0x86dd
	protoTCP  = 6
)

// networkOrder is a 16-bit number of the wire as this machine loads it.
func networkOrder(v uint16) uint16 {
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		return v
	}
	return bits.ReverseBytes16(v)
}

func sortedKeys(m map[uint32]string) func(func(uint32) bool) {
	keys := make([]uint32, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return slices.Values(keys)
}

// drain hands over the drops that wait, as events.
func (k *dropKernel) drain(handle func(event), broken func(error)) error {
	if k == nil {
		return nil
	}
	return k.ring.each(func(b []byte) error {
		d, err := decodeDrop(b, k.names)
		if err != nil {
			broken(err)
			return nil
		}
		handle(event{what: whatDropped, monotonic: d.at, drop: &d})
		return nil
	})
}

// Lost is how many drops found the buffer full.
func (k *dropKernel) Lost() (uint64, error) {
	if k == nil {
		return 0, nil
	}
	return k.ring.Lost()
}

// Close detaches the program.
func (k *dropKernel) Close() error {
	var errs []error
	for _, l := range k.links {
		errs = append(errs, l.Close())
	}
	if k.ring != nil {
		errs = append(errs, k.ring.Close())
	}
	return errors.Join(errs...)
}
