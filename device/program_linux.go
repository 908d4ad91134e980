package device

import (
	"encoding/binary"
	"math"
	"math/bits"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// What the program counts, per CPU: keys of the counters map.
const (
	countLost    = 0 // no room in the ring buffer
	countIgnored = 1 // reasons that are no loss, and what is no IP
	countHeld    = 2 // held back by the bucket of their cause
	counters     = 3
)

// A cause is all that the class and the interfaces of a drop rest on: drops of
// one cause are told apart by their packets alone. It is the key of the causes
// map, in the machine's byte order.
const (
	causeLocation = 0  // u64
	causeReason   = 8  // u32
	causeInIf     = 12 // u32
	causeDevIf    = 16 // u32
	causeDstIf    = 20 // u32
	causeDstFlags = 24 // u32
	causeDstError = 28 // i16, and padding
	causeSize     = 32

	// What the causes map holds per CPU: the bucket, and drops that were not
	// sent, with their packets and bytes, by why.
	tallyDue    = 0  // u64 ns since boot: when the bucket is empty again
	tallyHeld   = 8  // u64 drops, packets, bytes held back by the bucket
	tallyLost   = 32 // the same, with no room in the ring buffer
	tallyWords  = 7
	tallySize   = 8 * tallyWords
	tallyStride = tallyLost - tallyHeld
)

// bucket bounds the records of one cause on one CPU: the generic cell rate
// algorithm (ITU-T I.371, annex A), in which a record makes the bucket busy for
// cost and may come while it is busy for at most tolerance.
type bucket struct{ cost, tolerance int64 } // ns

// dropProgram builds the program that runs at skb:kfree_skb (tp_btf): for each
// packet freed in the given network namespace, for a reason that may be a loss,
// it sends a record up the ring buffer, or, when the bucket of the drop's cause
// is full or the ring buffer is, counts it by cause: a flood costs two map
// look-ups per drop. It is the same on every CPU's softirq, so the first thing
// it does is to leave again when the packet is not ours.
//
// Registers: R6 context, R7 skb, R8 reason, R9 tally of the cause, then record.
// Stack, from the frame pointer down: 4 key of counts, 8 and 16 pointers that
// were read, 24 segments, 40 the tally's address, 80 the cause, 136 an empty
// tally.
func dropProgram(o *offsets, netns uint32, ignore []uint32, b bucket, events, counts, causes *ebpf.Map) *ebpf.ProgramSpec {
	const (
		segments = -24
		tally    = -40
		cause    = -80
		empty    = cause - tallySize
	)
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

	// Memory that may not be there: the route lies in a union with a list of
	// the TCP write queue.
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
	// The cause. What is not known is zero.
	label("ip", asm.Mov.Imm(asm.R1, 0))
	for off := int16(cause); off < cause+causeSize; off += 8 {
		emit(asm.StoreMem(asm.RFP, off, asm.R1, asm.DWord))
	}
	emit(
		asm.LoadMem(asm.R1, asm.R6, 8, asm.DWord),
		asm.StoreMem(asm.RFP, cause+causeLocation, asm.R1, asm.DWord),
		asm.StoreMem(asm.RFP, cause+causeReason, asm.R8, asm.Word),
		asm.LoadMem(asm.R1, asm.R7, o.skbIif, asm.Word),
		asm.StoreMem(asm.RFP, cause+causeInIf, asm.R1, asm.Word),
		asm.LoadMem(asm.R1, asm.R7, o.skbDev, asm.DWord),
		asm.JEq.Imm(asm.R1, 0, "route"),
		asm.LoadMem(asm.R1, asm.R1, o.devIfindex, asm.Word),
		asm.StoreMem(asm.RFP, cause+causeDevIf, asm.R1, asm.Word),
	)
	// The route, an unsigned long with flags in its low bits (SKB_DST_NOREF).
	label("route", asm.LoadMem(asm.R1, asm.R7, o.skbRefdst, asm.DWord))
	emit(
		asm.And.Imm(asm.R1, -8),
		asm.JEq.Imm(asm.R1, 0, "cause"),
		asm.StoreMem(asm.RFP, -8, asm.R1, asm.DWord),
	)
	read(asm.RFP, cause+causeDstError, 2, -8, o.dstError)
	read(asm.RFP, -16, 8, -8, o.dstDev)
	read(asm.RFP, cause+causeDstIf, 4, -16, o.dstDevIfindex)
	read(asm.RFP, cause+causeDstFlags, 4, -16, o.dstDevFlags)

	// Its tally, made when it is the first of its kind.
	lookup := func() {
		emit(
			asm.LoadMapPtr(asm.R1, causes.FD()),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, cause),
			asm.FnMapLookupElem.Call(),
			asm.Mov.Reg(asm.R9, asm.R0),
		)
	}
	label("cause", asm.Mov.Imm(asm.R1, 0))
	for off := int16(empty); off < empty+tallySize; off += 8 {
		emit(asm.StoreMem(asm.RFP, off, asm.R1, asm.DWord))
	}
	lookup()
	emit(
		asm.JNE.Imm(asm.R9, 0, "bucket"),
		asm.LoadMapPtr(asm.R1, causes.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, cause),
		asm.Mov.Reg(asm.R3, asm.RFP),
		asm.Add.Imm(asm.R3, empty),
		asm.Mov.Imm(asm.R4, 1), // BPF_NOEXIST: another CPU may have been first
		asm.FnMapUpdateElem.Call(),
	)
	lookup()
	emit(asm.JEq.Imm(asm.R9, 0, "reserve")) // too many causes: the ring buffer alone bounds it

	label("bucket", asm.FnKtimeGetNs.Call())
	emit(
		asm.LoadMem(asm.R1, asm.R9, tallyDue, asm.DWord),
		asm.JGE.Reg(asm.R1, asm.R0, "busy"),
		asm.Mov.Reg(asm.R1, asm.R0),
	)
	label("busy", asm.Mov.Reg(asm.R2, asm.R1))
	emit(
		asm.Sub.Reg(asm.R2, asm.R0),
		asm.LoadImm(asm.R3, b.tolerance, asm.DWord),
		asm.StoreImm(asm.RFP, -4, countHeld, asm.Word),
		asm.JGT.Reg(asm.R2, asm.R3, "tally"),
		asm.LoadImm(asm.R3, b.cost, asm.DWord),
		asm.Add.Reg(asm.R1, asm.R3),
		asm.StoreMem(asm.R9, tallyDue, asm.R1, asm.DWord),
	)

	label("reserve", asm.StoreMem(asm.RFP, tally, asm.R9, asm.DWord))
	emit(
		asm.LoadMapPtr(asm.R1, events.FD()),
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
	copyField(o.skbProtocol, recProtocol, asm.Half)
	copyField(o.skbLen, recLen, asm.Word)
	copyField(o.skbNetwork, recNetwork, asm.Half)
	copyField(o.skbMAC, recMAC, asm.Half)
	copyField(o.skbQueue, recQueue, asm.Half)
	copyField(o.skbVLAN, recVLAN, asm.Half)

	for _, f := range []struct {
		from, to int16
		size     asm.Size
	}{
		{causeInIf, recInIf, asm.Word}, {causeDevIf, recDevIf, asm.Word}, {causeDstIf, recDstIf, asm.Word},
		{causeDstFlags, recDstFlags, asm.Word}, {causeDstError, recDstError, asm.Half},
	} {
		emit(
			asm.LoadMem(asm.R1, asm.RFP, cause+f.from, f.size),
			asm.StoreMem(asm.R9, f.to, asm.R1, f.size),
		)
	}
	emit(
		asm.Mov.Imm(asm.R1, 0),
		asm.StoreMem(asm.R9, recSegments, asm.R1, asm.Word), // and the padding after it
		asm.StoreMem(asm.R9, recLinkLayer, asm.R1, asm.DWord),
		asm.StoreMem(asm.R9, recLinkLayer+8, asm.R1, asm.DWord),
	)

	// The packet: linear bytes from the network header on.
	emit(
		asm.LoadMem(asm.R1, asm.R7, o.skbHead, asm.DWord),
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

	label("lost", asm.StoreImm(asm.RFP, -4, countLost, asm.Word))
	emit(
		asm.LoadMem(asm.R9, asm.RFP, tally, asm.DWord),
		asm.JEq.Imm(asm.R9, 0, "count"),
		asm.Add.Imm(asm.R9, tallyStride),
	)
	// R9 is such that the counters meant are those at tallyHeld.
	add := func(off int16, value asm.Register) {
		emit(
			asm.LoadMem(asm.R2, asm.R9, off, asm.DWord),
			asm.Add.Reg(asm.R2, value),
			asm.StoreMem(asm.R9, off, asm.R2, asm.DWord),
		)
	}
	label("tally", asm.Mov.Imm(asm.R1, 1))
	add(tallyHeld, asm.R1)
	emit(
		asm.StoreImm(asm.RFP, segments, 0, asm.Word),
		asm.LoadMem(asm.R2, asm.R7, o.skbEnd, asm.Word),
		asm.LoadMem(asm.R3, asm.R7, o.skbHead, asm.DWord),
		asm.Add.Reg(asm.R3, asm.R2),
		asm.Add.Imm(asm.R3, o.sharedSegs),
		asm.Mov.Reg(asm.R1, asm.RFP),
		asm.Add.Imm(asm.R1, segments),
		asm.Mov.Imm(asm.R2, 2),
		asm.FnProbeReadKernel.Call(),
		asm.LoadMem(asm.R1, asm.RFP, segments, asm.Half),
		asm.JNE.Imm(asm.R1, 0, "packets"),
		asm.Mov.Imm(asm.R1, 1),
	)
	label("packets", asm.Mov.Reg(asm.R3, asm.R1))
	add(tallyHeld+8, asm.R3)
	emit( // the length as parseRecord has it
		asm.LoadMem(asm.R1, asm.R7, o.skbData, asm.DWord),
		asm.LoadMem(asm.R2, asm.R7, o.skbHead, asm.DWord),
		asm.Sub.Reg(asm.R1, asm.R2),
		asm.LoadMem(asm.R2, asm.R7, o.skbLen, asm.Word),
		asm.Add.Reg(asm.R1, asm.R2),
		asm.LoadMem(asm.R2, asm.R7, o.skbNetwork, asm.Half),
		asm.Sub.Reg(asm.R1, asm.R2),
		asm.JSLE.Imm(asm.R1, 0, "count"),
		asm.JSGT.Imm(asm.R1, math.MaxInt32, "count"),
	)
	add(tallyHeld+16, asm.R1)
	emit(asm.Ja.Label("count"))
	label("ignored", asm.StoreImm(asm.RFP, -4, countIgnored, asm.Word))
	label("count", asm.Mov.Imm(asm.R1, 0))
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
