package device

import (
	"encoding/binary"
	"math"
	"math/bits"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// What the program counts for an agent, per CPU: the words of an entry of its
// counters map.
const (
	countLost    = 0 // no room in the ring buffer
	countIgnored = 1 // reasons that are no loss, and what no user's packet is in
	countHeld    = 2 // held back by the bucket of their cause
	counters     = 8 // a cache line
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
	causeDstError = 28 // i16
	causeProtocol = 30 // u16 big-endian, skb->protocol
	causeSize     = causeKeySize

	// What the causes map holds per CPU: the bucket, and drops that were not
	// sent, with their packets and bytes, by why, in two banks.
	tallyDue     = 0  // u64 ns since boot: when the bucket is empty again
	tallyPaces   = 8  // u64: the agentPaces by which the next two were looked up
	tallyPace    = 16 // u64 ns cost, u64 ns tolerance
	tallyHeld    = 32 // u64 drops, packets, bytes held back by the bucket
	tallyLost    = 56 // the same, with no room in the ring buffer
	tallyStride  = tallyLost - tallyHeld
	tallyBank    = 2 * tallyStride
	tallySize    = tallyHeld + 2*tallyBank
	paceCost     = 0 // u64 ns; also as the paces map holds it
	paceTolerate = 8 // u64 ns
	paceSize     = 16
)

// An entry of the agents map: who owns it, the bucket of causes that have none of
// their own, and which bank of tallies and sketches it has the program write: what
// is in the other does not change.
const (
	agentToken  = 0  // u64: 0 is nobody
	agentPace   = 8  // u64 ns cost, u64 ns tolerance
	agentSeed   = 24 // u64: of the sketch's marks
	agentBank   = 32 // u64: 0 or 1
	agentPaces  = 40 // u64: grows when a pace changes; never 0
	agentAsleep = 48 // u32: records were sent without waking the reader
	agentSize   = 64 // a cache line
)

// bucket bounds the records of one cause on one CPU: the generic cell rate
// algorithm (ITU-T I.371, annex A), in which a record makes the bucket busy for
// cost and may come while it is busy for at most tolerance.
type bucket struct{ cost, tolerance int64 } // ns

// programMaps are the file descriptors of what the program reads and writes. The
// first two are arrays for all agents, the others arrays of maps: one map for
// each agent, at its slot.
type programMaps struct {
	spaces   int // network namespace's inode -> u32 slot; only those with an agent
	agents   int // slot -> agentToken, …
	rings    int // slot -> ring buffer
	causes   int // slot -> cause -> tally, per CPU
	paces    int // slot -> cause -> its bucket, where it is not the agent's
	counts   int // slot -> CPU -> counters
	sketches int // slot -> CPU -> two banks of sketches (sketch.go)
}

// dropProgram builds the program that runs at skb:kfree_skb (tp_btf) and serves
// every agent of this kernel: for each packet freed in the network namespace of
// one of them, for a reason that may be a loss, it sends a record up that agent's
// ring buffer, or, when the bucket of the drop's cause is full or the ring buffer
// is, counts it by cause and sketches its flow. It runs on every CPU's softirq,
// so the first thing it does is to leave again when nobody's packet it is: that
// costs one look-up.
//
// Registers: R6 context, R7 skb, R8 reason, R9 tally of the cause, then record.
// The stack is laid out below, from the frame pointer down.
func dropProgram(o *offsets, ignore []uint32, m programMaps) *ebpf.ProgramSpec {
	const (
		slot     = -4  // u32: of the agent
		cpu      = -8  // u32
		counted  = -12 // u32: which counter
		submit   = -16 // u32: flags
		pointer  = -24 // two pointers that were read
		pointer2 = -32
		segments = -40                    // u16
		tally    = -48                    // its address
		seed     = -56                    // u64
		bank     = -64                    // u64
		cause    = -64 - causeSize        // -96
		flow     = cause - flowSize       // -136: with the cause after it, the sketch's key
		empty    = flow - tallySize       // -240: an empty tally
		header   = empty - capturedHeader // -304
		agent    = header - 8             // its entry's address
	)
	multiplier := sketchMultiplier // a constant of 64 bits is no int64
	var p asm.Instructions
	emit := func(ins ...asm.Instruction) { p = append(p, ins...) }
	label := func(name string, ins asm.Instruction) { p = append(p, ins.WithSymbol(name)) }
	// find leaves in R0 the entry of a map whose key lies on the stack.
	find := func(fd int, key int32) {
		emit(
			asm.LoadMapPtr(asm.R1, fd),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, key),
			asm.FnMapLookupElem.Call(),
		)
	}
	// findInner does so in the agent's own map of an array of maps.
	findInner := func(fd int, key int32, none string) {
		find(fd, slot)
		emit(
			asm.JEq.Imm(asm.R0, 0, none),
			asm.Mov.Reg(asm.R1, asm.R0),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, key),
			asm.FnMapLookupElem.Call(),
		)
	}

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
	label("check", asm.StoreMem(asm.RFP, slot, asm.R1, asm.Word))
	find(m.spaces, slot)
	emit(
		asm.JEq.Imm(asm.R0, 0, "exit"),
		asm.LoadMem(asm.R1, asm.R0, 0, asm.Word),
		asm.StoreMem(asm.RFP, slot, asm.R1, asm.Word),

		asm.LoadMem(asm.R8, asm.R6, 16, asm.DWord),
	)
	for _, reason := range slices.Sorted(slices.Values(ignore)) {
		emit(asm.JEq.Imm32(asm.R8, int32(reason), "ignored"))
	}
	// Loss is of users' packets and of what finds the way for them. What else
	// there is on a link (LLDP, spanning tree) is for nobody, and dropped all day.
	emit(asm.LoadMem(asm.R1, asm.R7, o.skbProtocol, asm.Half))
	for _, protocol := range []uint16{etherIPv4, etherIPv6, etherARP, etherMPLS, etherMPLSMulti} {
		emit(asm.JEq.Imm(asm.R1, int32(networkOrder(protocol)), "loss"))
	}
	emit(asm.Ja.Label("ignored"))

	// Memory that may not be there: the route lies in a union with a list of
	// the TCP write queue.
	read := func(to, size int32, from int16, fromOff int32) {
		emit(
			asm.Mov.Reg(asm.R1, asm.RFP),
			asm.Add.Imm(asm.R1, to),
			asm.Mov.Imm(asm.R2, size),
			asm.LoadMem(asm.R3, asm.RFP, from, asm.DWord),
			asm.Add.Imm(asm.R3, fromOff),
			asm.FnProbeReadKernel.Call(),
		)
	}
	// readTwo reads two fields of a structure, by one call where they lie near
	// each other: that is dear. The scratch room is what header and empty use later.
	type field struct {
		at   int32 // in the structure
		to   int16 // on the stack
		size asm.Size
	}
	readTwo := func(from int16, a, b field) {
		first := min(a.at, b.at) &^ 7
		last := max(a.at+int32(a.size.Sizeof()), b.at+int32(b.size.Sizeof()))
		if last-first > capturedHeader+tallySize {
			for _, f := range [...]field{a, b} {
				read(int32(f.to), int32(f.size.Sizeof()), from, f.at)
			}
			return
		}
		read(header, last-first, from, first)
		for _, f := range [...]field{a, b} {
			emit(
				asm.LoadMem(asm.R1, asm.RFP, int16(header+f.at-first), f.size),
				asm.StoreMem(asm.RFP, f.to, asm.R1, f.size),
			)
		}
	}
	zero := func(from, size int16) {
		for off := from; off < from+size; off += 8 {
			emit(asm.StoreMem(asm.RFP, off, asm.R1, asm.DWord))
		}
	}
	// The cause. What is not known is zero.
	label("loss", asm.Mov.Imm(asm.R1, 0))
	zero(cause, causeSize)
	emit(
		asm.LoadMem(asm.R1, asm.R7, o.skbProtocol, asm.Half),
		asm.StoreMem(asm.RFP, cause+causeProtocol, asm.R1, asm.Half),
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
		asm.StoreMem(asm.RFP, pointer, asm.R1, asm.DWord),
	)
	readTwo(pointer, field{o.dstError, cause + causeDstError, asm.Half}, field{o.dstDev, pointer2, asm.DWord})
	readTwo(pointer2, field{o.dstDevIfindex, cause + causeDstIf, asm.Word}, field{o.dstDevFlags, cause + causeDstFlags, asm.Word})

	// Its tally, made when it is the first of its kind.
	label("cause", asm.Mov.Imm(asm.R1, 0))
	emit(
		asm.StoreMem(asm.RFP, tally, asm.R1, asm.DWord),
		asm.StoreMem(asm.RFP, submit, asm.R1, asm.Word),
	)
	findInner(m.causes, cause, "reserve")
	emit(
		asm.Mov.Reg(asm.R9, asm.R0),
		asm.JNE.Imm(asm.R9, 0, "bucket"),
		asm.Mov.Imm(asm.R1, 0),
	)
	zero(empty, tallySize)
	find(m.causes, slot)
	emit(
		asm.JEq.Imm(asm.R0, 0, "reserve"),
		asm.Mov.Reg(asm.R1, asm.R0),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, cause),
		asm.Mov.Reg(asm.R3, asm.RFP),
		asm.Add.Imm(asm.R3, empty),
		asm.Mov.Imm(asm.R4, 1), // BPF_NOEXIST: another CPU may have been first
		asm.FnMapUpdateElem.Call(),
	)
	findInner(m.causes, cause, "reserve")
	emit(
		asm.Mov.Reg(asm.R9, asm.R0),
		asm.JEq.Imm(asm.R9, 0, "reserve"), // too many causes: the ring buffer alone bounds it
	)

	label("bucket", asm.StoreMem(asm.RFP, tally, asm.R9, asm.DWord))
	find(m.agents, slot)
	emit(
		asm.JEq.Imm(asm.R0, 0, "exit"),
		asm.StoreMem(asm.RFP, agent, asm.R0, asm.DWord),
		asm.LoadMem(asm.R1, asm.R0, agentSeed, asm.DWord),
		asm.StoreMem(asm.RFP, seed, asm.R1, asm.DWord),
		asm.LoadMem(asm.R1, asm.R0, agentBank, asm.DWord),
		asm.StoreMem(asm.RFP, bank, asm.R1, asm.DWord),
		// The bucket's size is looked up when some cause's has changed only.
		asm.LoadMem(asm.R1, asm.R0, agentPaces, asm.DWord),
		asm.LoadMem(asm.R2, asm.R9, tallyPaces, asm.DWord),
		asm.JEq.Reg(asm.R1, asm.R2, "paced"),
		asm.StoreMem(asm.R9, tallyPaces, asm.R1, asm.DWord),
	)
	copyPace := func(from int16) {
		for _, at := range []int16{paceCost, paceTolerate} {
			emit(asm.LoadMem(asm.R1, asm.R0, from+at, asm.DWord), asm.StoreMem(asm.R9, tallyPace+at, asm.R1, asm.DWord))
		}
	}
	copyPace(agentPace)
	findInner(m.paces, cause, "paced")
	emit(asm.JEq.Imm(asm.R0, 0, "paced"))
	copyPace(0)

	label("paced", asm.LoadMem(asm.R8, asm.R9, tallyPace+paceTolerate, asm.DWord))
	emit(
		asm.FnKtimeGetNs.Call(),
		asm.LoadMem(asm.R1, asm.R9, tallyDue, asm.DWord),
		asm.JGE.Reg(asm.R1, asm.R0, "busy"),
		asm.Mov.Reg(asm.R1, asm.R0),
	)
	label("busy", asm.Mov.Reg(asm.R2, asm.R1))
	emit(
		asm.Sub.Reg(asm.R2, asm.R0),
		asm.StoreImm(asm.RFP, counted, countHeld*8, asm.Word),
		asm.JGT.Reg(asm.R2, asm.R8, "tally"),
		asm.LoadMem(asm.R3, asm.R9, tallyPace+paceCost, asm.DWord),
		asm.Add.Reg(asm.R1, asm.R3),
		asm.StoreMem(asm.R9, tallyDue, asm.R1, asm.DWord),
		// With the bucket half full it is a flood, of which the reader need not
		// be told at once: to wake it costs more than all the rest.
		asm.LoadMem(asm.R4, asm.RFP, agent, asm.DWord),
		asm.LSh.Imm(asm.R2, 1),
		asm.JLE.Reg(asm.R2, asm.R8, "wake"),
		asm.StoreImm(asm.RFP, submit, 1, asm.Word), // BPF_RB_NO_WAKEUP
		asm.StoreImm(asm.R4, agentAsleep, 1, asm.Word),
		asm.Ja.Label("reserve"),
	)
	// By itself the kernel wakes a reader only for the first record that it has
	// not read, and that one may have been told not to.
	label("wake", asm.LoadMem(asm.R1, asm.R4, agentAsleep, asm.Word))
	emit(
		asm.JEq.Imm(asm.R1, 0, "reserve"),
		asm.StoreImm(asm.R4, agentAsleep, 0, asm.Word),
		asm.StoreImm(asm.RFP, submit, 2, asm.Word), // BPF_RB_FORCE_WAKEUP
	)

	label("reserve", asm.LoadMapPtr(asm.R1, m.rings))
	emit(
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, slot),
		asm.FnMapLookupElem.Call(),
	)
	emit(
		asm.JEq.Imm(asm.R0, 0, "lost"),
		asm.Mov.Reg(asm.R1, asm.R0),
		asm.Mov.Imm(asm.R2, recSize),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnRingbufReserve.Call(),
		asm.JEq.Imm(asm.R0, 0, "lost"),
		asm.Mov.Reg(asm.R9, asm.R0),

		asm.FnKtimeGetNs.Call(),
		asm.StoreMem(asm.R9, recTime, asm.R0, asm.DWord),
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
		{causeLocation, recLocation, asm.DWord}, {causeReason, recReason, asm.Word},
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

	// linear leaves in R2 how many bytes of the packet, at most so many, lie from
	// its network header on, whose offset is R1.
	linear := func(most int32, name string) {
		emit(
			asm.LoadMem(asm.R1, asm.R7, o.skbNetwork, asm.Half),
			asm.LoadMem(asm.R2, asm.R7, o.skbTail, asm.Word),
			asm.Sub.Reg(asm.R2, asm.R1),
			asm.JSGE.Imm(asm.R2, 0, name+"_not_negative"),
			asm.Mov.Imm(asm.R2, 0),
		)
		label(name+"_not_negative", asm.JLE.Imm(asm.R2, most, name+"_not_long"))
		emit(asm.Mov.Imm(asm.R2, most))
	}
	// The packet: linear bytes from the network header on.
	emit(
		asm.LoadMem(asm.R1, asm.R7, o.skbHead, asm.DWord),
		asm.StoreMem(asm.RFP, pointer, asm.R1, asm.DWord),
		asm.LoadMem(asm.R2, asm.R7, o.skbData, asm.DWord),
		asm.LoadMem(asm.R1, asm.R7, o.skbHead, asm.DWord),
		asm.Sub.Reg(asm.R2, asm.R1),
		asm.StoreMem(asm.R9, recData, asm.R2, asm.Word),
	)
	linear(maxHeader, "record")
	label("record_not_long", asm.StoreMem(asm.R9, recCaptured, asm.R2, asm.Word))
	emit(
		asm.LoadMem(asm.R3, asm.RFP, pointer, asm.DWord),
		asm.Add.Reg(asm.R3, asm.R1),
		asm.Mov.Reg(asm.R1, asm.R9),
		asm.Add.Imm(asm.R1, recHeader),
		asm.FnProbeReadKernel.Call(),

		asm.LoadMem(asm.R2, asm.R7, o.skbMAC, asm.Half),
		asm.JEq.Imm(asm.R2, 0xffff, "segments"),
		asm.LoadMem(asm.R3, asm.RFP, pointer, asm.DWord),
		asm.Add.Reg(asm.R3, asm.R2),
		asm.Mov.Reg(asm.R1, asm.R9),
		asm.Add.Imm(asm.R1, recLinkLayer),
		asm.Mov.Imm(asm.R2, 14),
		asm.FnProbeReadKernel.Call(),
	)
	// How many packets on the wire: skb_shared_info lies at the end.
	label("segments", asm.LoadMem(asm.R2, asm.R7, o.skbEnd, asm.Word))
	emit(
		asm.LoadMem(asm.R3, asm.RFP, pointer, asm.DWord),
		asm.Add.Reg(asm.R3, asm.R2),
		asm.Add.Imm(asm.R3, o.sharedSegs),
		asm.Mov.Reg(asm.R1, asm.R9),
		asm.Add.Imm(asm.R1, recSegments),
		asm.Mov.Imm(asm.R2, 2),
		asm.FnProbeReadKernel.Call(),

		// Without flags the reader is woken when it has read all before.
		asm.Mov.Reg(asm.R1, asm.R9),
		asm.LoadMem(asm.R2, asm.RFP, submit, asm.Word),
		asm.FnRingbufSubmit.Call(),
		asm.Ja.Label("exit"),
	)

	label("lost", asm.StoreImm(asm.RFP, counted, countLost*8, asm.Word))
	emit(
		asm.LoadMem(asm.R9, asm.RFP, tally, asm.DWord),
		asm.JEq.Imm(asm.R9, 0, "count"),
		asm.Add.Imm(asm.R9, tallyStride),
	)
	// From here on R9 is such that the counters meant are those at tallyHeld.
	add := func(off int16, value asm.Register) {
		emit(
			asm.LoadMem(asm.R2, asm.R9, off, asm.DWord),
			asm.Add.Reg(asm.R2, value),
			asm.StoreMem(asm.R9, off, asm.R2, asm.DWord),
		)
	}
	label("tally", asm.LoadMem(asm.R1, asm.RFP, bank, asm.DWord))
	emit(
		asm.And.Imm(asm.R1, 1),
		asm.Mul.Imm(asm.R1, tallyBank),
		asm.Add.Reg(asm.R9, asm.R1),
		asm.Mov.Imm(asm.R1, 1),
	)
	add(tallyHeld, asm.R1)
	emit(
		asm.StoreImm(asm.RFP, segments, 0, asm.Word),
		asm.LoadMem(asm.R2, asm.R7, o.skbEnd, asm.Word),
		asm.LoadMem(asm.R3, asm.R7, o.skbHead, asm.DWord),
		asm.StoreMem(asm.RFP, pointer, asm.R3, asm.DWord),
		asm.Add.Reg(asm.R3, asm.R2),
		asm.Add.Imm(asm.R3, o.sharedSegs),
		asm.Mov.Reg(asm.R1, asm.RFP),
		asm.Add.Imm(asm.R1, segments),
		asm.Mov.Imm(asm.R2, 2),
		asm.FnProbeReadKernel.Call(),
		asm.LoadMem(asm.R8, asm.RFP, segments, asm.Half), // R8 from here on: packets
		asm.JNE.Imm(asm.R8, 0, "packets"),
		asm.Mov.Imm(asm.R8, 1),
	)
	label("packets", asm.Mov.Reg(asm.R3, asm.R8))
	add(tallyHeld+8, asm.R3)
	emit( // the length as parseRecord has it
		asm.LoadMem(asm.R1, asm.R7, o.skbData, asm.DWord),
		asm.LoadMem(asm.R2, asm.R7, o.skbHead, asm.DWord),
		asm.Sub.Reg(asm.R1, asm.R2),
		asm.LoadMem(asm.R2, asm.R7, o.skbLen, asm.Word),
		asm.Add.Reg(asm.R1, asm.R2),
		asm.LoadMem(asm.R2, asm.R7, o.skbNetwork, asm.Half),
		asm.Sub.Reg(asm.R1, asm.R2),
		asm.JSLE.Imm(asm.R1, 0, "flow"),
		asm.JSGT.Imm(asm.R1, math.MaxInt32, "flow"),
	)
	add(tallyHeld+16, asm.R1)

	// The flow, as packet.Decode has it; where it would look further than here
	// there is none. What is no IP may look like it: a label, for one.
	label("flow", asm.LoadMem(asm.R1, asm.RFP, cause+causeProtocol, asm.Half))
	emit(
		asm.JEq.Imm(asm.R1, int32(networkOrder(etherIPv4)), "ip"),
		asm.JNE.Imm(asm.R1, int32(networkOrder(etherIPv6)), "count"),
	)
	label("ip", asm.Mov.Imm(asm.R1, 0))
	zero(flow, flowSize)
	zero(header, capturedHeader)
	linear(capturedHeader, "flow")
	label("flow_not_long", asm.StoreMem(asm.RFP, pointer2, asm.R2, asm.DWord))
	emit(
		asm.LoadMem(asm.R3, asm.RFP, pointer, asm.DWord),
		asm.Add.Reg(asm.R3, asm.R1),
		asm.StoreMem(asm.RFP, pointer, asm.R3, asm.DWord),
		asm.Mov.Reg(asm.R1, asm.RFP),
		asm.Add.Imm(asm.R1, header),
		asm.FnProbeReadKernel.Call(),
		asm.LoadMem(asm.R5, asm.RFP, pointer2, asm.DWord),
		asm.LoadMem(asm.R4, asm.RFP, header, asm.Byte),
		asm.Mov.Reg(asm.R1, asm.R4),
		asm.RSh.Imm(asm.R1, 4),
		asm.JEq.Imm(asm.R1, 6, "ipv6"),
		asm.JNE.Imm(asm.R1, 4, "count"),
	)
	move := func(from, to int16, size asm.Size) {
		emit(
			asm.LoadMem(asm.R2, asm.RFP, header+from, size),
			asm.StoreMem(asm.RFP, flow+to, asm.R2, size),
		)
	}
	emit(
		asm.JLT.Imm(asm.R5, 20, "count"),
		asm.StoreMem(asm.RFP, flow+flowVersion, asm.R1, asm.Byte),
	)
	move(12, flowSource, asm.Word)
	move(16, flowDestination, asm.Word)
	move(9, flowProtocol, asm.Byte)
	emit(
		asm.Mov.Reg(asm.R1, asm.R2), // the protocol
		asm.LoadMem(asm.R2, asm.RFP, header+6, asm.Half),
		asm.And.Imm(asm.R2, int32(networkOrder(0x1fff))),
		asm.JNE.Imm(asm.R2, 0, "sketch"), // a later fragment has no ports
		asm.And.Imm(asm.R4, 0xf),
		asm.LSh.Imm(asm.R4, 2),
		asm.JLT.Imm(asm.R4, 20, "sketch"),
		asm.Ja.Label("transport"),
	)
	label("ipv6", asm.JLT.Imm(asm.R5, 40, "count"))
	emit(asm.StoreMem(asm.RFP, flow+flowVersion, asm.R1, asm.Byte))
	for off := int16(0); off < 32; off += 8 { // both addresses
		move(8+off, flowSource+off, asm.DWord)
	}
	move(6, flowProtocol, asm.Byte)
	emit(asm.Mov.Reg(asm.R1, asm.R2))
	for _, extension := range []int32{0, 43, 44, 51, 60, 135, 139, 140} {
		emit(asm.JEq.Imm(asm.R1, extension, "count")) // the ports are further on
	}
	emit(asm.Mov.Imm(asm.R4, 40))
	// R1 protocol, R4 where its header begins, R5 bytes there are.
	label("transport", asm.Mov.Reg(asm.R2, asm.R4))
	emit(
		asm.Add.Imm(asm.R2, 4),
		asm.JGT.Reg(asm.R2, asm.R5, "sketch"),
		asm.JEq.Imm(asm.R4, 20, "ports_at_20"),
		asm.JEq.Imm(asm.R4, 40, "ports_at_40"),
		asm.StoreMem(asm.RFP, pointer2, asm.R1, asm.DWord),
		asm.Mov.Reg(asm.R1, asm.RFP),
		asm.Add.Imm(asm.R1, header),
		asm.Mov.Imm(asm.R2, 4),
		asm.LoadMem(asm.R3, asm.RFP, pointer, asm.DWord),
		asm.Add.Reg(asm.R3, asm.R4),
		asm.FnProbeReadKernel.Call(),
		asm.LoadMem(asm.R1, asm.RFP, pointer2, asm.DWord),
		asm.LoadMem(asm.R2, asm.RFP, header, asm.Word),
		asm.Ja.Label("ports"),
	)
	label("ports_at_20", asm.LoadMem(asm.R2, asm.RFP, header+20, asm.Word))
	emit(asm.Ja.Label("ports"))
	label("ports_at_40", asm.LoadMem(asm.R2, asm.RFP, header+40, asm.Word))
	label("ports", asm.StoreMem(asm.RFP, header, asm.R2, asm.Word))
	for _, proto := range []int32{6, 17, 132} {
		emit(asm.JEq.Imm(asm.R1, proto, "both_ports"))
	}
	emit(
		asm.JEq.Imm(asm.R1, 1, "type"),
		asm.JNE.Imm(asm.R1, 58, "sketch"),
	)
	label("type", asm.LoadMem(asm.R2, asm.RFP, header, asm.Half)) // type and code, as destination port
	emit(
		asm.StoreMem(asm.RFP, flow+flowPorts+2, asm.R2, asm.Half),
		asm.Ja.Label("sketch"),
	)
	label("both_ports", asm.StoreMem(asm.RFP, flow+flowPorts, asm.R2, asm.Word))

	// The sketch: MV-Sketch over cause and flow, as sketch.go reads it.
	label("sketch", asm.FnGetSmpProcessorId.Call())
	emit(asm.StoreMem(asm.RFP, cpu, asm.R0, asm.Word))
	findInner(m.sketches, cpu, "count")
	emit(
		asm.JEq.Imm(asm.R0, 0, "count"),
		asm.LoadMem(asm.R1, asm.RFP, bank, asm.DWord),
		asm.And.Imm(asm.R1, 1),
		asm.Mul.Imm(asm.R1, sketchSize),
		asm.Add.Reg(asm.R0, asm.R1),
		asm.LoadImm(asm.R5, int64(multiplier), asm.DWord),
		asm.LoadMem(asm.R3, asm.RFP, seed, asm.DWord),
	)
	for off := int16(0); off < sketchKey; off += 8 {
		emit(
			asm.LoadMem(asm.R1, asm.RFP, flow+off, asm.DWord),
			asm.Xor.Reg(asm.R3, asm.R1),
			asm.Mul.Reg(asm.R3, asm.R5),
			asm.Mov.Reg(asm.R1, asm.R3),
			asm.RSh.Imm(asm.R1, 32),
			asm.Xor.Reg(asm.R3, asm.R1),
		)
	}
	emit(asm.Or.Imm(asm.R3, 1)) // R3: the key's mark, which is never 0
	for row := range int32(sketchRows) {
		name := func(s string) string { return s + string(rune('0'+row)) }
		emit(
			asm.Mov.Reg(asm.R1, asm.R3),
			asm.RSh.Imm(asm.R1, sketchShift+row*sketchBits),
			asm.And.Imm(asm.R1, sketchColumns-1),
			asm.Add.Imm(asm.R1, row*sketchColumns), // R1: index of the cell
			asm.Mov.Reg(asm.R4, asm.R1),
			asm.Mul.Imm(asm.R4, cellSize),
			asm.Add.Reg(asm.R4, asm.R0), // R4: the cell
			asm.LoadMem(asm.R2, asm.R4, cellTotal, asm.DWord),
			asm.Add.Reg(asm.R2, asm.R8),
			asm.StoreMem(asm.R4, cellTotal, asm.R2, asm.DWord),
			asm.LoadMem(asm.R2, asm.R4, cellMark, asm.DWord),
			asm.LoadMem(asm.R5, asm.R4, cellVotes, asm.DWord),
			asm.JEq.Reg(asm.R2, asm.R3, name("for")),
			asm.JGE.Reg(asm.R5, asm.R8, name("against")),
			// Outvoted: the newcomer takes the cell, with what is left of it.
			asm.Mov.Reg(asm.R2, asm.R8),
			asm.Sub.Reg(asm.R2, asm.R5),
			asm.StoreMem(asm.R4, cellVotes, asm.R2, asm.DWord),
			asm.StoreMem(asm.R4, cellMark, asm.R3, asm.DWord),
			asm.Mul.Imm(asm.R1, sketchKey),
			asm.Add.Imm(asm.R1, sketchKeys),
			asm.Add.Reg(asm.R1, asm.R0),
		)
		for off := int16(0); off < sketchKey; off += 8 {
			emit(
				asm.LoadMem(asm.R2, asm.RFP, flow+off, asm.DWord),
				asm.StoreMem(asm.R1, off, asm.R2, asm.DWord),
			)
		}
		emit(asm.Ja.Label(name("row")))
		label(name("for"), asm.Add.Reg(asm.R5, asm.R8))
		emit(
			asm.StoreMem(asm.R4, cellVotes, asm.R5, asm.DWord),
			asm.Ja.Label(name("row")),
		)
		label(name("against"), asm.Sub.Reg(asm.R5, asm.R8))
		emit(asm.StoreMem(asm.R4, cellVotes, asm.R5, asm.DWord))
		label(name("row"), asm.Mov.Imm(asm.R1, 0))
	}
	emit(asm.Ja.Label("count"))

	label("ignored", asm.StoreImm(asm.RFP, counted, countIgnored*8, asm.Word))
	label("count", asm.FnGetSmpProcessorId.Call())
	emit(asm.StoreMem(asm.RFP, cpu, asm.R0, asm.Word))
	findInner(m.counts, cpu, "exit")
	emit(
		asm.JEq.Imm(asm.R0, 0, "exit"),
		asm.LoadMem(asm.R1, asm.RFP, counted, asm.Word),
		asm.And.Imm(asm.R1, 8*(counters-1)),
		asm.Add.Reg(asm.R0, asm.R1),
		asm.LoadMem(asm.R1, asm.R0, 0, asm.DWord),
		asm.Add.Imm(asm.R1, 1),
		asm.StoreMem(asm.R0, 0, asm.R1, asm.DWord),
	)
	label("exit", asm.Mov.Imm(asm.R0, 0))
	emit(asm.Return())

	return &ebpf.ProgramSpec{
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
