package device

import (
	"encoding/binary"
	"math/bits"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// What the program counts, per CPU: keys of the counters map.
const (
	countLost    = 0 // no room in the ring buffer
	countIgnored = 1 // reasons that are no loss, and what is no IP
	counters     = 2
)

// dropProgram builds the program that runs at skb:kfree_skb (tp_btf): for each
// packet freed in the given network namespace, for a reason that may be a loss,
// it sends a record up the ring buffer. It is the same on every CPU's softirq,
// so the first thing it does is to leave again when the packet is not ours.
//
// Registers: R6 context, R7 skb, R8 reason, R9 record.
func dropProgram(o *offsets, netns uint32, ignore []uint32, events, counts *ebpf.Map) *ebpf.ProgramSpec {
	var p asm.Instructions
	emit := func(ins ...asm.Instruction) { p = append(p, ins...) }
	label := func(name string, ins asm.Instruction) { p = append(p, ins.WithSymbol(name)) }

	emit(
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R7, asm.R6, 0, asm.DWord),
		// Whose packet: that of its device's namespace, or where it has no
		// device (at the socket layer) of its socket's.
		asm.LoadMem(asm.R1, asm.R7, o.skbDev, asm.DWord),
		asm.JEq.Imm(asm.R1, 0, "no_device"),
		asm.LoadMem(asm.R1, asm.R1, o.devNet, asm.DWord),
		asm.LoadMem(asm.R1, asm.R1, o.netInum, asm.Word),
		asm.Ja.Label("check"),
	)
	label("no_device", asm.LoadMem(asm.R1, asm.R7, o.skbSk, asm.DWord))
	if o.params >= 4 { // the socket that would have received it
		emit(
			asm.JNE.Imm(asm.R1, 0, "socket"),
			asm.LoadMem(asm.R1, asm.R6, 24, asm.DWord),
		)
	}
	emit(asm.JEq.Imm(asm.R1, 0, "exit"))
	label("socket", asm.LoadMem(asm.R1, asm.R1, o.sockNet, asm.DWord))
	emit(asm.LoadMem(asm.R1, asm.R1, o.netInum, asm.Word))
	// A 32-bit compare: an inode number has bit 31 set and an immediate is
	// sign-extended.
	label("check", asm.JNE.Imm32(asm.R1, int32(netns), "exit"))

	emit(asm.LoadMem(asm.R8, asm.R6, 16, asm.DWord))
	for _, reason := range slices.Sorted(slices.Values(ignore)) {
		emit(asm.JEq.Imm32(asm.R8, int32(reason), "ignored"))
	}
	// Loss is of IP packets; ARP and the like is housekeeping.
	emit(
		asm.LoadMem(asm.R1, asm.R7, o.skbProtocol, asm.Half),
		asm.JEq.Imm(asm.R1, int32(networkOrder(0x0800)), "ip"),
		asm.JNE.Imm(asm.R1, int32(networkOrder(0x86dd)), "ignored"),
	)

	label("ip", asm.LoadMapPtr(asm.R1, events.FD()))
	emit(
		asm.Mov.Imm(asm.R2, recSize),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnRingbufReserve.Call(),
		asm.JEq.Imm(asm.R0, 0, "lost"),
		asm.Mov.Reg(asm.R9, asm.R0),

		asm.FnKtimeGetNs.Call(),
		asm.StoreMem(asm.R9, recTime, asm.R0, asm.DWord),
		asm.LoadMem(asm.R1, asm.R6, 8, asm.DWord),
		asm.StoreMem(asm.R9, recLocation, asm.R1, asm.DWord),
		asm.StoreMem(asm.R9, recReason, asm.R8, asm.Word),
	)
	copyField := func(from, to int16, size asm.Size) {
		emit(
			asm.LoadMem(asm.R1, asm.R7, from, size),
			asm.StoreMem(asm.R9, to, asm.R1, size),
		)
	}
	copyField(o.skbIif, recInIf, asm.Word)
	copyField(o.skbProtocol, recProtocol, asm.Half)
	copyField(o.skbLen, recLen, asm.Word)
	copyField(o.skbNetwork, recNetwork, asm.Half)
	copyField(o.skbMAC, recMAC, asm.Half)
	copyField(o.skbQueue, recQueue, asm.Half)
	copyField(o.skbVLAN, recVLAN, asm.Half)

	// What is not known is zero.
	emit(
		asm.Mov.Imm(asm.R1, 0),
		asm.StoreMem(asm.R9, recDevIf, asm.R1, asm.Word),
		asm.StoreMem(asm.R9, recDstIf, asm.R1, asm.Word),
		asm.StoreMem(asm.R9, recDstFlags, asm.R1, asm.Word),
		asm.StoreMem(asm.R9, recDstError, asm.R1, asm.Half),
		asm.StoreMem(asm.R9, recSegments, asm.R1, asm.Word), // and the padding after it
		asm.StoreMem(asm.R9, recLinkLayer, asm.R1, asm.DWord),
		asm.StoreMem(asm.R9, recLinkLayer+8, asm.R1, asm.DWord),

		asm.LoadMem(asm.R1, asm.R7, o.skbDev, asm.DWord),
		asm.JEq.Imm(asm.R1, 0, "route"),
		asm.LoadMem(asm.R1, asm.R1, o.devIfindex, asm.Word),
		asm.StoreMem(asm.R9, recDevIf, asm.R1, asm.Word),
	)

	// The route, an unsigned long with flags in its low bits (SKB_DST_NOREF).
	// It lies in a union with a list of the TCP write queue, so it is read as
	// memory that may not be there.
	read := func(to asm.Register, toOff, size, from, fromOff int32) {
		emit(
			asm.Mov.Reg(asm.R1, to),
			asm.Add.Imm(asm.R1, toOff),
			asm.Mov.Imm(asm.R2, size),
			asm.LoadMem(asm.R3, asm.RFP, int16(from), asm.DWord),
			asm.Add.Imm(asm.R3, fromOff),
			asm.FnProbeReadKernel.Call(),
		)
	}
	label("route", asm.LoadMem(asm.R1, asm.R7, o.skbRefdst, asm.DWord))
	emit(
		asm.And.Imm(asm.R1, -8),
		asm.JEq.Imm(asm.R1, 0, "header"),
		asm.StoreMem(asm.RFP, -8, asm.R1, asm.DWord),
	)
	read(asm.R9, recDstError, 2, -8, o.dstError)
	read(asm.RFP, -16, 8, -8, o.dstDev)
	read(asm.R9, recDstIf, 4, -16, o.dstDevIfindex)
	read(asm.R9, recDstFlags, 4, -16, o.dstDevFlags)

	// The packet: linear bytes from the network header on.
	label("header", asm.LoadMem(asm.R1, asm.R7, o.skbHead, asm.DWord))
	emit(
		asm.StoreMem(asm.RFP, -8, asm.R1, asm.DWord),
		asm.LoadMem(asm.R2, asm.R7, o.skbData, asm.DWord),
		asm.LoadMem(asm.R1, asm.R7, o.skbHead, asm.DWord),
		asm.Sub.Reg(asm.R2, asm.R1),
		asm.StoreMem(asm.R9, recData, asm.R2, asm.Word),

		asm.LoadMem(asm.R1, asm.R7, o.skbNetwork, asm.Half),
		asm.LoadMem(asm.R2, asm.R7, o.skbTail, asm.Word),
		asm.Sub.Reg(asm.R2, asm.R1),
		asm.JSGE.Imm(asm.R2, 0, "not_negative"),
		asm.Mov.Imm(asm.R2, 0),
	)
	label("not_negative", asm.JLE.Imm(asm.R2, maxHeader, "not_long"))
	emit(asm.Mov.Imm(asm.R2, maxHeader))
	label("not_long", asm.StoreMem(asm.R9, recCaptured, asm.R2, asm.Word))
	emit(
		asm.LoadMem(asm.R3, asm.RFP, -8, asm.DWord),
		asm.Add.Reg(asm.R3, asm.R1),
		asm.Mov.Reg(asm.R1, asm.R9),
		asm.Add.Imm(asm.R1, recHeader),
		asm.FnProbeReadKernel.Call(),

		asm.LoadMem(asm.R2, asm.R7, o.skbMAC, asm.Half),
		asm.JEq.Imm(asm.R2, 0xffff, "segments"),
		asm.LoadMem(asm.R3, asm.RFP, -8, asm.DWord),
		asm.Add.Reg(asm.R3, asm.R2),
		asm.Mov.Reg(asm.R1, asm.R9),
		asm.Add.Imm(asm.R1, recLinkLayer),
		asm.Mov.Imm(asm.R2, 14),
		asm.FnProbeReadKernel.Call(),
	)
	// How many packets on the wire: skb_shared_info lies at the end.
	label("segments", asm.LoadMem(asm.R2, asm.R7, o.skbEnd, asm.Word))
	emit(
		asm.LoadMem(asm.R3, asm.RFP, -8, asm.DWord),
		asm.Add.Reg(asm.R3, asm.R2),
		asm.Add.Imm(asm.R3, o.sharedSegs),
		asm.Mov.Reg(asm.R1, asm.R9),
		asm.Add.Imm(asm.R1, recSegments),
		asm.Mov.Imm(asm.R2, 2),
		asm.FnProbeReadKernel.Call(),

		// Without flags the reader is woken when it has nothing left to read,
		// and only then.
		asm.Mov.Reg(asm.R1, asm.R9),
		asm.Mov.Imm(asm.R2, 0),
		asm.FnRingbufSubmit.Call(),
		asm.Ja.Label("exit"),
	)

	label("lost", asm.Mov.Imm(asm.R1, countLost))
	emit(asm.Ja.Label("count"))
	label("ignored", asm.Mov.Imm(asm.R1, countIgnored))
	label("count", asm.StoreMem(asm.RFP, -4, asm.R1, asm.Word))
	emit(
		asm.LoadMapPtr(asm.R1, counts.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "exit"),
		asm.LoadMem(asm.R1, asm.R0, 0, asm.DWord),
		asm.Add.Imm(asm.R1, 1),
		asm.StoreMem(asm.R0, 0, asm.R1, asm.DWord),
	)
	label("exit", asm.Mov.Imm(asm.R0, 0))
	emit(asm.Return())

	return &ebpf.ProgramSpec{
		Name:         "decaf_drop",
		Type:         ebpf.Tracing,
		AttachType:   ebpf.AttachTraceRawTp,
		AttachTo:     "kfree_skb",
		License:      "GPL", // the tracing helpers ask for it
		Instructions: p,
	}
}

// networkOrder returns a 16-bit number of the wire as this machine loads it.
func networkOrder(v uint16) uint16 {
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		return v
	}
	return bits.ReverseBytes16(v)
}
