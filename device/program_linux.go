package device

import (
	"encoding/binary"
	"maps"
	"math"
	"math/bits"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// What the program keeps for an agent per CPU, in an entry of its sketches map: its
// counters, and two banks of sketches (sketch.go).
const (
	countLost    = 0  // no room in the ring buffer
	countIgnored = 1  // reasons that are no loss, and what no user's packet is in
	countHeld    = 2  // held back: by a bucket, or as one more of a flow
	counters     = 8  // a cache line
	cpuBanks     = 64 // behind the counters
	cpuSize      = cpuBanks + 2*sketchSize
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

	// What the causes map holds per CPU: what is known of the cause, and drops that
	// were not sent, with their packets and bytes, by why, in two banks.
	tallyDue     = 0   // u64: as bucketDue, of this cause on this CPU while its class is not known
	tallyClosed  = 8   // u64: the jiffy in which the bucket was found full
	tallyPaces   = 16  // u64: the agentPaces by which the next ones were made
	tallyMark    = 24  // u64: the cause's part of the sketch's mark
	tallyClass   = 32  // u32: its class's bucket; 0 is none
	tallyWatch   = 40  // the next two, one of which says that the flow is looked at first
	tallyRepeat  = 40  // u32 jiffies in which a flow is not told of again; 0 is none
	tallyFilters = 44  // u32: how many filters there are
	tallyFlows   = 48  // u64: the class's part of the mark of a flow
	tallyHeld    = 64  // u64 drops, packets, bytes held back by a bucket
	tallyLost    = 88  // the same, with no room in the ring buffer
	tallyAgain   = 112 // the same, of flows that were told of a moment ago
	tallyStride  = tallyLost - tallyHeld
	tallyBank    = 3 * tallyStride
	tallySize    = tallyHeld + 2*tallyBank
)

// A bucket, as the classes map and the filters map hold it: those who write it are
// the program, on any CPU, and the agent.
const (
	bucketDue      = 0  // u64 ns since boot: when it is empty again
	bucketCost     = 8  // u64 ns
	bucketTolerate = 16 // u64 ns
	bucketRepeat   = 24 // u32 jiffies, of a class: tallyRepeat
	bucketSize     = 32

	// classBuckets is how many classes have a bucket; the first is nobody's.
	classBuckets = 64
)

// The one entry of an agent's filters map: the bucket of what matches, and the
// filters: a drop matches one when its flow, as the sketch has it, with its DSCP in
// it, has the bits of value where mask has any.
const (
	filterFirst  = bucketSize
	filterMask   = 0
	filterValue  = flowSize
	filterBit    = 2 * flowSize  // u64: which of them it is, one bit
	filterMissed = filterBit + 8 // u64 packets that matched and were not sent
	filterSize   = filterMissed + 8
	filtersSize  = filterFirst + kernelFilters*filterSize

	// flowDSCP is where a filter has the DSCP, u8, of which a flow has none.
	flowDSCP = flowVersion + 1
)

// An entry of the flows map, of a flow of a class that is de-duplicated; the key is
// the flow's mark (flowMark).
const (
	flowTold    = 0  // u64 jiffy in which a drop of it was sent
	flowTime    = 8  // u64 ns since boot of that
	flowPaces   = 16 // u64: the agentPaces then
	flowSeen    = 24 // u64 jiffy of its last drop
	flowRepeats = 32 // u64 packets that were not sent
	flowEntry   = 40
)

// An entry of the agents map: who owns it, the bucket of causes whose class is not
// known, and which bank of tallies and sketches it has the program write: what
// is in the other does not change.
const (
	agentToken   = 0  // u64: 0 is nobody
	agentPace    = 8  // u64 ns cost, u64 ns tolerance
	agentSeed    = 24 // u64: of all marks
	agentBank    = 32 // u64: 0 or 1
	agentPaces   = 40 // u64: grows when a pace or a filter changes; never 0
	agentAsleep  = 48 // u32: records were sent without waking the reader
	agentFilters = 56 // u64: how many there are
	agentSize    = 64 // a cache line
)

// The recent map has one entry: how often the spaces map changed, and for each CPU
// what it last found there, or did not, a namespace having its place by its number.
const (
	recentChanges = 0  // u64: grows after each change
	recentFirst   = 64 // of CPU 0
	recentPlaces  = 4
	recentSpace   = 0 // u32 inode
	recentSlot    = 4 // u32 slot + 1; 0 is no agent's
	recentAt      = 8 // u64: the changes before it was looked up
	recentPlace   = 16
	recentCPU     = recentPlaces * recentPlace // a cache line
)

// bucket bounds the records of one class, or of one cause on one CPU while its class
// is not known: the generic cell rate algorithm (ITU-T I.371, annex A), in which a
// record makes the bucket busy for cost and may come while it is busy for at most
// tolerance. A bucket that was found
// full is full for that cause and CPU for the rest of the jiffy, without a look at the
// clock, which is the dearest thing there is: so tolerance is longestJiffy at least.
type bucket struct{ cost, tolerance int64 } // ns

// longestJiffy is that of a kernel with the least CONFIG_HZ, 100, in ns.
const longestJiffy = 10_000_000

// programMaps are the file descriptors of what the program reads and writes. The
// first three are for all agents, the others arrays of maps: one map for each
// agent, at its slot.
type programMaps struct {
	spaces   int // network namespace's inode -> u32 slot; only those with an agent
	recent   int // recentChanges, …
	agents   int // slot -> agentToken, …
	rings    int // slot -> ring buffer
	causes   int // slot -> cause -> tally, per CPU
	paces    int // slot -> cause -> u32 its class
	classes  int // slot -> class -> its bucket
	filters  int // slot -> 0 -> filters; none where there are no filters
	flows    int // slot -> flow's mark -> flowTold, …; none where no class is de-duplicated
	sketches int // slot -> CPU -> counters, sketches
}

// dropProgram builds the program that runs at skb:kfree_skb (tp_btf) and serves
// every agent of this kernel: for each packet freed in the network namespace of
// one of them, for a reason that may be a loss, it sends a record up that agent's
// ring buffer, or, when the bucket of the drop's class is full or the ring buffer
// is, counts it by cause and sketches its flow. Where there are filters, or the class
// is de-duplicated, it looks at the flow before the bucket: what matches a filter has a
// bucket that no other drop fills, and one more drop of a flow that was told of a
// moment ago takes no room in the class's. It runs on every CPU's softirq,
// so the first thing it does is to leave again when nobody's packet it is: that
// costs a look at what the last such packets were.
//
// What it costs is clocks, hash maps and reads by bpf_probe_read_kernel: on the way
// of a drop that is held back there is no clock, one hash map, that of the causes,
// and, where the kernel lets it load from memory directly, none of those reads.
//
// Nothing else writes what it writes per CPU while it runs: the kernel does not run
// it within itself on one CPU, but counts that as a miss.
//
// Registers: R6 context, then agent's entry, R7 skb, R8 reason, jiffy, packets, R9
// tally of the cause, then record or network header. The stack is laid out below,
// from the frame pointer down.
func dropProgram(o *offsets, ignore []uint32, cpus int, m programMaps) *ebpf.ProgramSpec {
	const (
		scratchSize = max(tallySize, 160) // for an empty tally, and for what is read

		slot    = -4   // u32: of the agent
		cpu     = -8   // u32
		counted = -12  // u32: which counter
		submit  = -16  // u32: flags
		now     = -24  // u64 ns
		tally   = -32  // its address; 0 is none
		area    = -40  // address of what the agent has on this CPU
		bank    = -48  // u64
		pointer = -56  // that was read
		changes = -64  // u64: of the spaces map
		looked  = -72  // u64: what is known of the flow before the bucket, notLooked, …
		list    = -80  // of the filters, once looked: its address; 0 is none
		matched = -88  // u64: which of them, a bit each
		entry   = -96  // of the flow, when it is marked: its address; 0 is none
		mark    = -104 // u64: of the flow
		known   = -112 // u64: of the flow's last word, what can be told
		class   = -120 // u32
		cause   = class - causeSize
		flow    = cause - flowSize // with the cause after it, the sketch's key
		scratch = flow - scratchSize

		notLooked = 0
		flowless  = 1 // it has no flow
		flowKnown = 2
		flowOnce  = 3 // and it has an entry in the flows map, or is to have one
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
	// inner goes to none unless the agent has a map of its own in an array of maps, and
	// makes R1 that and R2 the key.
	inner := func(fd int, key int32, none string) {
		find(fd, slot)
		emit(
			asm.JEq.Imm(asm.R0, 0, none),
			asm.Mov.Reg(asm.R1, asm.R0),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, key),
		)
	}
	// findInner leaves in R0 the entry there.
	findInner := func(fd int, key int32, none string) {
		inner(fd, key, none)
		emit(asm.FnMapLookupElem.Call())
	}
	// putInner puts there what lies on the stack at scratch; flags are those of the
	// kernel's bpf_map_update_elem.
	putInner := func(fd int, key, flags int32, none string) {
		inner(fd, key, none)
		emit(
			asm.Mov.Reg(asm.R3, asm.RFP),
			asm.Add.Imm(asm.R3, scratch),
			asm.Mov.Imm(asm.R4, flags),
			asm.FnMapUpdateElem.Call(),
		)
	}
	// view leaves in R0 by what size bytes, from an offset on, of the structure at
	// the address in R3 can be loaded. Memory may not be there: then they are zero.
	view := func(typ func(*direct) btf.TypeID, from int16, size int32) {
		if o.direct != nil {
			emit(
				asm.Mov.Reg(asm.R1, asm.R3),
				asm.Mov.Imm(asm.R2, int32(typ(o.direct))),
				asm.Instruction{OpCode: asm.OpCode(asm.JumpClass).SetJumpOp(asm.Call), Src: asm.PseudoKfuncCall, Constant: int64(o.direct.cast)},
			)
			return
		}
		emit(
			asm.Mov.Reg(asm.R1, asm.RFP),
			asm.Add.Imm(asm.R1, scratch),
			asm.Mov.Imm(asm.R2, size),
			asm.Add.Imm(asm.R3, int32(from)),
			asm.FnProbeReadKernel.Call(),
			asm.Mov.Reg(asm.R0, asm.RFP),
			asm.Add.Imm(asm.R0, scratch-int32(from)),
		)
	}
	// load moves two fields of the structure at the address in R3 to the stack.
	type field struct {
		at   int16 // in the structure
		to   int16 // on the stack
		size asm.Size
	}
	load := func(typ func(*direct) btf.TypeID, a, b field) {
		move := func(f field) {
			emit(asm.LoadMem(asm.R1, asm.R0, f.at, f.size), asm.StoreMem(asm.RFP, f.to, asm.R1, f.size))
		}
		first := min(a.at, b.at) &^ 7
		last := max(int32(a.at)+int32(a.size.Sizeof()), int32(b.at)+int32(b.size.Sizeof()))
		if o.direct == nil && last-int32(first) > scratchSize {
			emit(asm.StoreMem(asm.RFP, changes, asm.R3, asm.DWord))
			view(typ, a.at, int32(a.size.Sizeof()))
			move(a)
			emit(asm.LoadMem(asm.R3, asm.RFP, changes, asm.DWord))
			view(typ, b.at, int32(b.size.Sizeof()))
			move(b)
			return
		}
		view(typ, first, last-int32(first))
		move(a)
		move(b)
	}
	zero := func(from, size int16) {
		emit(asm.Mov.Imm(asm.R2, 0))
		for off := from; off < from+size; off += 8 {
			emit(asm.StoreMem(asm.RFP, off, asm.R2, asm.DWord))
		}
	}
	// mixWord takes one into the mark in R3 (mixWord of sketch.go).
	mixWord := func(word asm.Register) {
		emit(
			asm.LoadImm(asm.R5, int64(multiplier), asm.DWord),
			asm.Xor.Reg(asm.R3, word),
			asm.Mul.Reg(asm.R3, asm.R5),
			asm.Mov.Reg(asm.R1, asm.R3),
			asm.RSh.Imm(asm.R1, 32),
			asm.Xor.Reg(asm.R3, asm.R1),
		)
	}
	// mix takes words of the sketch's key into it.
	mix := func(words []int) {
		for _, at := range words {
			emit(asm.LoadMem(asm.R1, asm.RFP, flow+int16(at), asm.DWord))
			mixWord(asm.R1)
		}
	}
	// mixFlow takes the flow into it, and leaves it odd: a mark is never 0.
	mixFlow := func(name string) {
		mix(flowWords)
		emit(
			asm.LoadMem(asm.R1, asm.RFP, flow+flowVersion, asm.Byte),
			asm.JNE.Imm(asm.R1, 6, name),
		)
		mix(flowWords6)
		label(name, asm.Or.Imm(asm.R3, 1))
	}
	// admit goes on when the bucket at the address in R3 has room now, with how busy
	// it was in R2 and its tolerance in R3. Others may use it at the same time: who
	// finds it full takes back what it put in.
	admit := func(name, full string) {
		emit(
			asm.LoadMem(asm.R1, asm.RFP, now, asm.DWord),
			asm.LoadMem(asm.R0, asm.R3, bucketDue, asm.DWord),
			asm.JGE.Reg(asm.R0, asm.R1, name+"_busy"),
			atomically(asm.CmpXchg, asm.R3, asm.R1, asm.DWord, bucketDue), // with R0
		)
		label(name+"_busy", asm.LoadMem(asm.R5, asm.R3, bucketCost, asm.DWord))
		emit(
			asm.Mov.Reg(asm.R2, asm.R5),
			atomically(asm.FetchAdd, asm.R3, asm.R2, asm.DWord, bucketDue),
			asm.Sub.Reg(asm.R2, asm.R1),
			asm.JSGE.Imm(asm.R2, 0, name+"_since"),
			asm.Mov.Imm(asm.R2, 0),
		)
		label(name+"_since", asm.LoadMem(asm.R4, asm.R3, bucketTolerate, asm.DWord))
		emit(
			asm.JLE.Reg(asm.R2, asm.R4, name+"_room"),
			asm.Neg.Imm(asm.R5, 0),
			atomically(asm.AddAtomic, asm.R3, asm.R5, asm.DWord, bucketDue),
			asm.Ja.Label(full),
		)
		label(name+"_room", asm.Mov.Reg(asm.R3, asm.R4))
	}
	// count finds what the agent has on this CPU, leaves its address in R0 and on
	// the stack, and counts the drop.
	count := func() {
		emit(
			asm.FnGetSmpProcessorId.Call(),
			asm.StoreMem(asm.RFP, cpu, asm.R0, asm.Word),
		)
		findInner(m.sketches, cpu, "exit")
		emit(
			asm.JEq.Imm(asm.R0, 0, "exit"),
			asm.StoreMem(asm.RFP, area, asm.R0, asm.DWord),
			asm.LoadMem(asm.R1, asm.RFP, counted, asm.Word),
			asm.And.Imm(asm.R1, 8*(counters-1)),
			asm.Add.Reg(asm.R0, asm.R1),
			asm.LoadMem(asm.R1, asm.R0, 0, asm.DWord),
			asm.Add.Imm(asm.R1, 1),
			asm.StoreMem(asm.R0, 0, asm.R1, asm.DWord),
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
		asm.LoadMem(asm.R8, asm.R1, o.netInum, asm.Word),
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
	emit(asm.LoadMem(asm.R8, asm.R1, o.netInum, asm.Word))

	// Its slot, by what this CPU last found: R8 namespace, R9 its place.
	label("check", asm.FnGetSmpProcessorId.Call())
	emit(
		asm.JGE.Imm(asm.R0, int32(cpus), "exit"), // there is none
		asm.LSh.Imm(asm.R0, int32(bits.TrailingZeros(recentCPU))),
		asm.LoadMapValue(asm.R3, m.recent, 0),
		asm.Mov.Reg(asm.R9, asm.R3),
		asm.Add.Reg(asm.R9, asm.R0),
		asm.Mov.Reg(asm.R1, asm.R8),
		asm.And.Imm(asm.R1, recentPlaces-1),
		asm.LSh.Imm(asm.R1, int32(bits.TrailingZeros(recentPlace))),
		asm.Add.Reg(asm.R9, asm.R1),
		asm.LoadMem(asm.R1, asm.R9, recentFirst+recentAt, asm.DWord),
		asm.LoadMem(asm.R2, asm.R3, recentChanges, asm.DWord),
		asm.JNE.Reg(asm.R1, asm.R2, "look_up"),
		asm.LoadMem(asm.R1, asm.R9, recentFirst+recentSpace, asm.Word),
		asm.JNE.Reg(asm.R1, asm.R8, "look_up"),
		asm.LoadMem(asm.R1, asm.R9, recentFirst+recentSlot, asm.Word),
		asm.JNE.Imm(asm.R1, 0, "owned"),
		asm.Ja.Label("exit"),
	)
	// Whoever changes the map counts it afterwards: what is looked up after the count
	// was read, by an operation that orders the two, is what it is then or newer.
	label("look_up", asm.Mov.Imm(asm.R1, 0))
	emit(
		atomically(asm.FetchAdd, asm.R3, asm.R1, asm.DWord, recentChanges),
		asm.StoreMem(asm.RFP, changes, asm.R1, asm.DWord),
		asm.StoreMem(asm.RFP, slot, asm.R8, asm.Word),
	)
	find(m.spaces, slot)
	emit(
		asm.Mov.Imm(asm.R1, 0),
		asm.JEq.Imm(asm.R0, 0, "keep"),
		asm.LoadMem(asm.R1, asm.R0, 0, asm.Word),
		asm.Add.Imm(asm.R1, 1),
	)
	label("keep", asm.StoreMem(asm.R9, recentFirst+recentSpace, asm.R8, asm.Word))
	emit(
		asm.StoreMem(asm.R9, recentFirst+recentSlot, asm.R1, asm.Word),
		asm.LoadMem(asm.R2, asm.RFP, changes, asm.DWord),
		asm.StoreMem(asm.R9, recentFirst+recentAt, asm.R2, asm.DWord),
		asm.JEq.Imm(asm.R1, 0, "exit"),
	)
	label("owned", asm.Sub.Imm(asm.R1, 1))
	emit(
		asm.StoreMem(asm.RFP, slot, asm.R1, asm.Word),

		asm.LoadMem(asm.R8, asm.R6, 16, asm.DWord),
		asm.Mov.Reg32(asm.R8, asm.R8),
		asm.StoreImm(asm.RFP, counted, countIgnored*8, asm.Word),
	)
	// The reasons to pass over: those of the kernel's core, a hundred and some, are
	// bits, the few of others are compared one by one.
	core := map[uint32]uint64{}
	for _, reason := range slices.Sorted(slices.Values(ignore)) {
		if reason < 256 {
			core[reason/64] |= 1 << (reason % 64)
		} else {
			emit(asm.JEq.Imm32(asm.R8, int32(reason), "count"))
		}
	}
	for _, word := range slices.Sorted(maps.Keys(core)) {
		name := "reasons" + string(rune('0'+word))
		emit(
			asm.Mov.Reg(asm.R2, asm.R8),
			asm.Sub.Imm(asm.R2, 64*int32(word)),
			asm.JGE.Imm(asm.R2, 64, name),
			asm.LoadImm(asm.R1, int64(core[word]), asm.DWord),
			asm.RSh.Reg(asm.R1, asm.R2),
			asm.And.Imm(asm.R1, 1),
			asm.JNE.Imm(asm.R1, 0, "count"),
		)
		label(name, asm.Mov.Imm(asm.R1, 0))
	}
	// Loss is of users' packets and of what finds the way for them. What else
	// there is on a link (LLDP, spanning tree) is for nobody, and dropped all day.
	emit(asm.LoadMem(asm.R1, asm.R7, o.skbProtocol, asm.Half))
	for _, protocol := range []uint16{etherIPv4, etherIPv6, etherARP, etherMPLS, etherMPLSMulti} {
		emit(asm.JEq.Imm(asm.R1, int32(networkOrder(protocol)), "loss"))
	}
	emit(asm.Ja.Label("count"))

	// The cause. What is not known is zero.
	label("loss", asm.LoadMem(asm.R3, asm.R6, 8, asm.DWord))
	zero(cause, causeSize)
	emit(
		asm.StoreMem(asm.RFP, cause+causeProtocol, asm.R1, asm.Half),
		asm.StoreMem(asm.RFP, cause+causeLocation, asm.R3, asm.DWord),
		asm.StoreMem(asm.RFP, cause+causeReason, asm.R8, asm.Word),
		asm.LoadMem(asm.R1, asm.R7, o.skbIif, asm.Word),
		asm.StoreMem(asm.RFP, cause+causeInIf, asm.R1, asm.Word),
		asm.LoadMem(asm.R1, asm.R7, o.skbDev, asm.DWord),
		asm.JEq.Imm(asm.R1, 0, "route"),
		asm.LoadMem(asm.R1, asm.R1, o.devIfindex, asm.Word),
		asm.StoreMem(asm.RFP, cause+causeDevIf, asm.R1, asm.Word),
	)
	// The route, an unsigned long with flags in its low bits (SKB_DST_NOREF). It may
	// not be there: it lies in a union with a list of the TCP write queue.
	label("route", asm.LoadMem(asm.R3, asm.R7, o.skbRefdst, asm.DWord))
	emit(
		asm.And.Imm(asm.R3, -8),
		asm.JEq.Imm(asm.R3, 0, "cause"),
	)
	load(func(d *direct) btf.TypeID { return d.dst }, field{o.dstError, cause + causeDstError, asm.Half}, field{o.dstDev, pointer, asm.DWord})
	emit(asm.LoadMem(asm.R3, asm.RFP, pointer, asm.DWord))
	load(func(d *direct) btf.TypeID { return d.device }, field{o.devIfindex, cause + causeDstIf, asm.Word}, field{o.devFlags, cause + causeDstFlags, asm.Word})

	// Its tally, made when it is the first of its kind.
	label("cause", asm.Mov.Imm(asm.R1, notLooked))
	emit(
		asm.StoreMem(asm.RFP, looked, asm.R1, asm.DWord),
		asm.StoreImm(asm.RFP, submit, 0, asm.Word),
	)
	find(m.agents, slot)
	emit(
		asm.JEq.Imm(asm.R0, 0, "exit"),
		asm.Mov.Reg(asm.R6, asm.R0),
	)
	findInner(m.causes, cause, "no_tally")
	emit(
		asm.Mov.Reg(asm.R9, asm.R0),
		asm.JNE.Imm(asm.R9, 0, "bucket"),
	)
	zero(scratch, tallySize)
	putInner(m.causes, cause, unix.BPF_NOEXIST, "no_tally") // another CPU may have been first
	findInner(m.causes, cause, "no_tally")
	emit(
		asm.Mov.Reg(asm.R9, asm.R0),
		asm.JNE.Imm(asm.R9, 0, "bucket"),
	)
	// Too many causes: the ring buffer alone bounds it.
	label("no_tally", asm.Mov.Imm(asm.R1, 0))
	emit(
		asm.StoreMem(asm.RFP, tally, asm.R1, asm.DWord),
		asm.FnKtimeGetNs.Call(),
		asm.StoreMem(asm.RFP, now, asm.R0, asm.DWord),
		asm.Ja.Label("reserve"),
	)

	label("bucket", asm.StoreMem(asm.RFP, tally, asm.R9, asm.DWord))
	emit(
		// What holds for the cause is looked up when something changed only.
		asm.LoadMem(asm.R1, asm.R6, agentPaces, asm.DWord),
		asm.LoadMem(asm.R2, asm.R9, tallyPaces, asm.DWord),
		asm.JEq.Reg(asm.R1, asm.R2, "paced"),
		asm.StoreMem(asm.R9, tallyPaces, asm.R1, asm.DWord),
		asm.LoadMem(asm.R1, asm.R6, agentFilters, asm.DWord),
		asm.StoreMem(asm.R9, tallyFilters, asm.R1, asm.Word),
		asm.Mov.Imm(asm.R1, 0),
		asm.StoreMem(asm.R9, tallyClosed, asm.R1, asm.DWord),
		asm.StoreMem(asm.R9, tallyClass, asm.R1, asm.Word),
		asm.StoreMem(asm.R9, tallyRepeat, asm.R1, asm.Word),
		asm.LoadMem(asm.R3, asm.R6, agentSeed, asm.DWord),
	)
	mix(causeWords)
	emit(asm.StoreMem(asm.R9, tallyMark, asm.R3, asm.DWord))
	findInner(m.paces, cause, "paced")
	emit(
		asm.JEq.Imm(asm.R0, 0, "paced"),
		asm.LoadMem(asm.R8, asm.R0, 0, asm.Word),
		asm.StoreMem(asm.RFP, class, asm.R8, asm.Word),
	)
	findInner(m.classes, class, "paced")
	emit(
		asm.JEq.Imm(asm.R0, 0, "paced"),
		asm.StoreMem(asm.R9, tallyClass, asm.R8, asm.Word),
		asm.LoadMem(asm.R1, asm.R0, bucketRepeat, asm.Word),
		asm.StoreMem(asm.R9, tallyRepeat, asm.R1, asm.Word),
		asm.LoadMem(asm.R3, asm.R6, agentSeed, asm.DWord),
	)
	mixWord(asm.R8)
	emit(asm.StoreMem(asm.R9, tallyFlows, asm.R3, asm.DWord))

	label("paced", asm.LoadMem(asm.R1, asm.R9, tallyWatch, asm.DWord))
	emit(asm.JNE.Imm(asm.R1, 0, "look"))
	label("open", asm.StoreImm(asm.RFP, counted, countHeld*8, asm.Word))
	emit(
		asm.FnJiffies64.Call(),
		asm.LoadMem(asm.R1, asm.R9, tallyClosed, asm.DWord),
		asm.JEq.Reg(asm.R1, asm.R0, "tally"),
		asm.Mov.Reg(asm.R8, asm.R0),
		asm.FnKtimeGetNs.Call(),
		asm.StoreMem(asm.RFP, now, asm.R0, asm.DWord),
		asm.LoadMem(asm.R1, asm.R9, tallyClass, asm.Word),
		asm.JEq.Imm(asm.R1, 0, "unknown"),
		asm.StoreMem(asm.RFP, class, asm.R1, asm.Word),
	)
	findInner(m.classes, class, "closed")
	emit(
		asm.JEq.Imm(asm.R0, 0, "closed"),
		asm.Mov.Reg(asm.R3, asm.R0),
	)
	admit("class", "closed")
	emit(asm.Ja.Label("admitted"))
	label("closed", asm.StoreMem(asm.R9, tallyClosed, asm.R8, asm.DWord))
	emit(asm.Ja.Label("tally"))

	label("unknown", asm.LoadMem(asm.R1, asm.R9, tallyDue, asm.DWord))
	emit(
		asm.JGE.Reg(asm.R1, asm.R0, "busy"),
		asm.Mov.Reg(asm.R1, asm.R0),
	)
	label("busy", asm.Mov.Reg(asm.R2, asm.R1))
	emit(
		asm.Sub.Reg(asm.R2, asm.R0),
		asm.LoadMem(asm.R3, asm.R6, agentPace+bucketTolerate-bucketCost, asm.DWord),
		asm.JGT.Reg(asm.R2, asm.R3, "closed"),
		asm.LoadMem(asm.R4, asm.R6, agentPace, asm.DWord),
		asm.Add.Reg(asm.R1, asm.R4),
		asm.StoreMem(asm.R9, tallyDue, asm.R1, asm.DWord),
	)

	// With the bucket, of R2 that R3 bounds, half full it is a flood, of which the
	// reader need not be told at once: to wake it costs more than all the rest.
	label("admitted", asm.LSh.Imm(asm.R2, 1))
	emit(
		asm.JLE.Reg(asm.R2, asm.R3, "wake"),
		asm.StoreImm(asm.RFP, submit, 1, asm.Word), // BPF_RB_NO_WAKEUP
		asm.StoreImm(asm.R6, agentAsleep, 1, asm.Word),
		asm.Ja.Label("reserve"),
	)
	// By itself the kernel wakes a reader only for the first record that it has
	// not read, and that one may have been told not to.
	label("wake", asm.LoadMem(asm.R1, asm.R6, agentAsleep, asm.Word))
	emit(
		asm.JEq.Imm(asm.R1, 0, "reserve"),
		asm.StoreImm(asm.R6, agentAsleep, 0, asm.Word),
		asm.StoreImm(asm.RFP, submit, 2, asm.Word), // BPF_RB_FORCE_WAKEUP
	)

	label("reserve", asm.LoadMapPtr(asm.R1, m.rings))
	emit(
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, slot),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "lost"),
		asm.Mov.Reg(asm.R1, asm.R0),
		asm.Mov.Imm(asm.R2, recSize),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnRingbufReserve.Call(),
		asm.JEq.Imm(asm.R0, 0, "lost"),
		asm.Mov.Reg(asm.R9, asm.R0),

		asm.LoadMem(asm.R1, asm.RFP, now, asm.DWord),
		asm.StoreMem(asm.R9, recTime, asm.R1, asm.DWord),
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
		asm.StoreMem(asm.R9, recLinkLayer, asm.R1, asm.DWord),
		asm.StoreMem(asm.R9, recLinkLayer+8, asm.R1, asm.DWord),
	)

	// linear leaves in R2 how many bytes of the packet lie from its network header
	// on, whose offset is R1.
	linear := func(name string) {
		emit(
			asm.LoadMem(asm.R1, asm.R7, o.skbNetwork, asm.Half),
			asm.LoadMem(asm.R2, asm.R7, o.skbTail, asm.Word),
			asm.Sub.Reg(asm.R2, asm.R1),
			asm.JSGE.Imm(asm.R2, 0, name),
			asm.Mov.Imm(asm.R2, 0),
		)
	}
	// head leaves in R3 the address of the byte at an offset, in R1, of the packet's
	// buffer.
	head := func() {
		emit(asm.LoadMem(asm.R3, asm.R7, o.skbHead, asm.DWord), asm.Add.Reg(asm.R3, asm.R1))
	}
	// segments leaves in R1 how many packets it is on the wire, 0 for one:
	// skb_shared_info lies at the end of the buffer.
	segments := func() {
		emit(asm.LoadMem(asm.R1, asm.R7, o.skbEnd, asm.Word))
		head()
		view(func(d *direct) btf.TypeID { return d.shared }, o.sharedSegs, 2)
		emit(asm.LoadMem(asm.R1, asm.R0, o.sharedSegs, asm.Half))
	}
	// readFlow reads the flow onto the stack, as packet.Decode has it, and goes to
	// done. Where there is none it goes to none; where packet.Decode would look further
	// than here for ports and protocol, to further. With the address of the header in
	// R9, its first byte in R4 and the version in R1 it does what is given besides; it
	// leaves R6 to R8 alone.
	readFlow := func(name string, besides func(), none, further, done string) {
		emit(asm.LoadMem(asm.R1, asm.R7, o.skbNetwork, asm.Half))
		head()
		view(func(d *direct) btf.TypeID { return d.ipv4 }, 0, 40)
		emit(asm.Mov.Reg(asm.R9, asm.R0))
		linear(name + "ip_linear")
		label(name+"ip_linear", asm.LoadMem(asm.R4, asm.R9, 0, asm.Byte))
		emit(
			asm.Mov.Imm(asm.R1, 0),
			asm.StoreMem(asm.RFP, flow+flowPorts, asm.R1, asm.DWord), // with what else is in this word
			asm.Mov.Reg(asm.R1, asm.R4),
			asm.RSh.Imm(asm.R1, 4),
			asm.StoreMem(asm.RFP, flow+flowVersion, asm.R1, asm.Byte),
		)
		besides()
		emit(
			asm.JEq.Imm(asm.R1, 6, name+"ipv6"),
			asm.JNE.Imm(asm.R1, 4, none),
			asm.JLT.Imm(asm.R2, 20, none),
		)
		move := func(from, to int16, size asm.Size) {
			emit(
				asm.LoadMem(asm.R2, asm.R9, from, size),
				asm.StoreMem(asm.RFP, flow+to, asm.R2, size),
			)
		}
		move(12, flowSource, asm.Word)
		move(16, flowDestination4, asm.Word)
		zero(flow+8, 24)
		move(9, flowProtocol, asm.Byte)
		emit(
			asm.LoadMem(asm.R2, asm.R9, 6, asm.Half),
			asm.And.Imm(asm.R2, int32(networkOrder(0x1fff))),
			asm.JNE.Imm(asm.R2, 0, done), // a later fragment has no ports
			asm.And.Imm(asm.R4, 0xf),
			asm.LSh.Imm(asm.R4, 2),
			asm.JLT.Imm(asm.R4, 20, done),
			asm.Ja.Label(name+"transport"),
		)
		label(name+"ipv6", asm.JLT.Imm(asm.R2, 40, none))
		if o.direct != nil {
			emit(asm.Mov.Reg(asm.R3, asm.R9))
			view(func(d *direct) btf.TypeID { return d.ipv6 }, 0, 40)
			emit(asm.Mov.Reg(asm.R9, asm.R0))
		}
		for off := int16(0); off < 32; off += 8 { // both addresses
			move(8+off, flowSource+off, asm.DWord)
		}
		move(6, flowProtocol, asm.Byte)
		for _, extension := range []int32{0, 43, 44, 51, 60, 135, 139, 140} {
			emit(asm.JEq.Imm(asm.R2, extension, further))
		}
		emit(asm.Mov.Imm(asm.R4, 40))
		// R4: where the transport's header begins.
		label(name+"transport", asm.Add.Imm(asm.R4, 4))
		linear(name + "transport_linear")
		label(name+"transport_linear", asm.JGT.Reg(asm.R4, asm.R2, done))
		emit(
			asm.Sub.Imm(asm.R4, 4),
			asm.Add.Reg(asm.R1, asm.R4),
		)
		head()
		view(func(d *direct) btf.TypeID { return d.l4Head }, 0, 4)
		emit(
			asm.LoadMem(asm.R2, asm.R0, 0, asm.Half),
			asm.LoadMem(asm.R1, asm.RFP, flow+flowProtocol, asm.Byte),
		)
		for _, proto := range []int32{6, 17, 132} {
			emit(asm.JEq.Imm(asm.R1, proto, name+"both_ports"))
		}
		emit(
			asm.JEq.Imm(asm.R1, 1, name+"type"),
			asm.JNE.Imm(asm.R1, 58, done),
		)
		label(name+"type", asm.StoreMem(asm.RFP, flow+flowPorts+2, asm.R2, asm.Half)) // and code, as destination port
		emit(asm.Ja.Label(done))
		label(name+"both_ports", asm.StoreMem(asm.RFP, flow+flowPorts, asm.R2, asm.Half))
		emit(
			asm.LoadMem(asm.R2, asm.R0, 2, asm.Half),
			asm.StoreMem(asm.RFP, flow+flowPorts+2, asm.R2, asm.Half),
			asm.Ja.Label(done),
		)
	}
	// The packet: linear bytes from the network header on.
	emit(
		asm.LoadMem(asm.R2, asm.R7, o.skbData, asm.DWord),
		asm.LoadMem(asm.R1, asm.R7, o.skbHead, asm.DWord),
		asm.Sub.Reg(asm.R2, asm.R1),
		asm.StoreMem(asm.R9, recData, asm.R2, asm.Word),
	)
	linear("captured")
	label("captured", asm.JLE.Imm(asm.R2, maxHeader, "captured_not_long"))
	emit(asm.Mov.Imm(asm.R2, maxHeader))
	label("captured_not_long", asm.StoreMem(asm.R9, recCaptured, asm.R2, asm.Word))
	head()
	emit(
		asm.Mov.Reg(asm.R1, asm.R9),
		asm.Add.Imm(asm.R1, recHeader),
		asm.FnProbeReadKernel.Call(),

		asm.LoadMem(asm.R1, asm.R7, o.skbMAC, asm.Half),
		asm.JEq.Imm(asm.R1, 0xffff, "segments"),
	)
	head()
	emit(
		asm.Mov.Reg(asm.R1, asm.R9),
		asm.Add.Imm(asm.R1, recLinkLayer),
		asm.Mov.Imm(asm.R2, 14),
		asm.FnProbeReadKernel.Call(),
	)
	label("segments", asm.Mov.Imm(asm.R1, 0))
	segments()
	emit(
		asm.StoreMem(asm.R9, recSegments, asm.R1, asm.Word), // and the padding after it

		// The flow of a class that is de-duplicated is told of now.
		asm.LoadMem(asm.R1, asm.RFP, looked, asm.DWord),
		asm.JNE.Imm(asm.R1, flowOnce, "submit"),
		asm.FnJiffies64.Call(),
		asm.LoadMem(asm.R2, asm.R6, agentPaces, asm.DWord),
		asm.LoadMem(asm.R3, asm.RFP, now, asm.DWord),
		asm.LoadMem(asm.R1, asm.RFP, entry, asm.DWord),
		asm.JEq.Imm(asm.R1, 0, "first"),
		asm.StoreMem(asm.R1, flowTold, asm.R0, asm.DWord),
		asm.StoreMem(asm.R1, flowTime, asm.R3, asm.DWord),
		asm.StoreMem(asm.R1, flowSeen, asm.R0, asm.DWord),
		asm.StoreMem(asm.R1, flowPaces, asm.R2, asm.DWord),
		asm.Ja.Label("submit"),
	)
	label("first", asm.StoreMem(asm.RFP, scratch+flowTold, asm.R0, asm.DWord))
	emit(
		asm.StoreMem(asm.RFP, scratch+flowTime, asm.R3, asm.DWord),
		asm.StoreMem(asm.RFP, scratch+flowSeen, asm.R0, asm.DWord),
		asm.StoreMem(asm.RFP, scratch+flowPaces, asm.R2, asm.DWord),
		asm.Mov.Imm(asm.R1, 0),
		asm.StoreMem(asm.RFP, scratch+flowRepeats, asm.R1, asm.DWord),
	)
	putInner(m.flows, mark, unix.BPF_ANY, "submit")

	label("submit", asm.Mov.Imm(asm.R0, 0))
	emit(
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
	label("tally", asm.LoadMem(asm.R1, asm.R6, agentBank, asm.DWord))
	emit(
		asm.And.Imm(asm.R1, 1),
		asm.StoreMem(asm.RFP, bank, asm.R1, asm.DWord),
		asm.Mul.Imm(asm.R1, tallyBank),
		asm.Add.Reg(asm.R9, asm.R1),
		asm.Mov.Imm(asm.R1, 1),
	)
	add(tallyHeld, asm.R1)
	segments()
	emit(
		asm.Mov.Reg(asm.R8, asm.R1), // R8 from here on: packets
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
		asm.JSLE.Imm(asm.R1, 0, "counted"),
		asm.JSGT.Imm(asm.R1, math.MaxInt32, "counted"),
	)
	add(tallyHeld+16, asm.R1)
	label("counted", asm.Mov.Imm(asm.R1, 0))
	count()

	// Of a flow that was looked at before: what matched a filter and is not told of
	// after all counts as such; what is one more of its flow counts there.
	emit(
		asm.LoadMem(asm.R1, asm.RFP, looked, asm.DWord),
		asm.JEq.Imm(asm.R1, notLooked, "flow"),
		asm.LoadMem(asm.R1, asm.RFP, list, asm.DWord),
		asm.JEq.Imm(asm.R1, 0, "not_matched"),
		asm.LoadMem(asm.R2, asm.RFP, matched, asm.DWord),
		asm.JEq.Imm(asm.R2, 0, "not_matched"),
	)
	for i := range int16(kernelFilters) {
		emit(
			asm.Mov.Reg(asm.R3, asm.R2),
			asm.And.Imm(asm.R3, 1<<i),
			asm.JEq.Imm(asm.R3, 0, numbered("not_missed", i)),
			atomically(asm.AddAtomic, asm.R1, asm.R8, asm.DWord, filterFirst+i*filterSize+filterMissed),
		)
		label(numbered("not_missed", i), asm.Mov.Imm(asm.R3, 0))
	}
	label("not_matched", asm.LoadMem(asm.R1, asm.RFP, looked, asm.DWord))
	emit(
		asm.JEq.Imm(asm.R1, flowless, "exit"),
		asm.JNE.Imm(asm.R1, flowOnce, "sketch"),
		asm.LoadMem(asm.R9, asm.RFP, entry, asm.DWord),
		asm.JEq.Imm(asm.R9, 0, "sketch"),
		atomically(asm.AddAtomic, asm.R9, asm.R8, asm.DWord, flowRepeats),
		asm.FnJiffies64.Call(),
		asm.StoreMem(asm.R9, flowSeen, asm.R0, asm.DWord),
		asm.Ja.Label("sketch"),
	)
	// What is no IP may look like it: a label, for one.
	label("flow", asm.LoadMem(asm.R1, asm.RFP, cause+causeProtocol, asm.Half))
	emit(
		asm.JEq.Imm(asm.R1, int32(networkOrder(etherIPv4)), "ip"),
		asm.JNE.Imm(asm.R1, int32(networkOrder(etherIPv6)), "exit"),
	)
	label("ip", asm.Mov.Imm(asm.R1, 0))
	readFlow("", func() {}, "exit", "exit", "sketch")

	// The sketch: MV-Sketch over cause and flow, as sketch.go reads it.
	label("sketch", asm.LoadMem(asm.R1, asm.RFP, tally, asm.DWord))
	emit(
		asm.JEq.Imm(asm.R1, 0, "exit"), // it has one here
		asm.LoadMem(asm.R3, asm.R1, tallyMark, asm.DWord),
	)
	mixFlow("mixed") // R3: the key's mark
	emit(
		asm.LoadMem(asm.R0, asm.RFP, area, asm.DWord),
		asm.LoadMem(asm.R1, asm.RFP, bank, asm.DWord),
		asm.And.Imm(asm.R1, 1),
		asm.Mul.Imm(asm.R1, sketchSize),
		asm.Add.Reg(asm.R0, asm.R1),
		asm.Add.Imm(asm.R0, cpuBanks),
	)
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
	emit(asm.Ja.Label("exit"))

	// The flow, before the bucket. R8: the DSCP, where it has to be in the flow's last
	// word for a filter; then which filters match.
	label("look", asm.Mov.Imm(asm.R1, flowless))
	emit(
		asm.StoreMem(asm.RFP, looked, asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R1, 0),
		asm.StoreMem(asm.RFP, list, asm.R1, asm.DWord),
		asm.StoreMem(asm.RFP, matched, asm.R1, asm.DWord),
		asm.StoreMem(asm.RFP, entry, asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R1, -1),
		asm.StoreMem(asm.RFP, known, asm.R1, asm.DWord),
		asm.LoadMem(asm.R1, asm.RFP, cause+causeProtocol, asm.Half),
		asm.JEq.Imm(asm.R1, int32(networkOrder(etherIPv4)), "look_ip"),
		asm.JNE.Imm(asm.R1, int32(networkOrder(etherIPv6)), "unread"),
	)
	label("look_ip", asm.Mov.Imm(asm.R1, 0))
	readFlow("look_", func() {
		emit(
			asm.LoadMem(asm.R8, asm.R9, 1, asm.Byte),
			asm.JNE.Imm(asm.R1, 6, "dscp"),
			asm.Mov.Reg(asm.R3, asm.R4),
			asm.And.Imm(asm.R3, 0xf),
			asm.LSh.Imm(asm.R3, 4),
			asm.RSh.Imm(asm.R8, 4),
			asm.Or.Reg(asm.R8, asm.R3),
		)
		label("dscp", asm.RSh.Imm(asm.R8, 2))
		emit(asm.LSh.Imm(asm.R8, inWord(flowDSCP-flowPorts)))
	}, "unread", "look_further", "read")

	// Addresses alone are known: what they do not tell may match.
	var addresses [8]byte
	addresses[flowVersion-flowPorts], addresses[flowDSCP-flowPorts] = 0xff, 0xff
	label("look_further", asm.LoadImm(asm.R1, int64(binary.NativeEndian.Uint64(addresses[:])), asm.DWord))
	emit(
		asm.StoreMem(asm.RFP, known, asm.R1, asm.DWord),
		asm.Ja.Label("match"),
	)
	// Of what cannot be read, or has its flow further inside, the agent sees whether it
	// matches.
	label("unread", asm.LoadMem(asm.R9, asm.RFP, tally, asm.DWord))
	emit(
		asm.LoadMem(asm.R1, asm.R9, tallyFilters, asm.Word),
		asm.JEq.Imm(asm.R1, 0, "open"),
	)
	findFilters := func() {
		emit(asm.StoreImm(asm.RFP, class, 0, asm.Word)) // the one entry there is
		findInner(m.filters, class, "repeat")
		emit(asm.JEq.Imm(asm.R0, 0, "repeat"))
	}
	findFilters()
	emit(
		asm.Mov.Imm(asm.R8, 0),
		asm.Ja.Label("matched"),
	)

	label("read", asm.Mov.Imm(asm.R1, flowKnown))
	emit(asm.StoreMem(asm.RFP, looked, asm.R1, asm.DWord))
	label("match", asm.LoadMem(asm.R9, asm.RFP, tally, asm.DWord))
	emit(
		asm.LoadMem(asm.R9, asm.R9, tallyFilters, asm.Word),
		asm.JEq.Imm(asm.R9, 0, "repeat"),
	)
	findFilters()
	const last = flowPorts
	emit(
		asm.LoadMem(asm.R1, asm.RFP, flow, asm.DWord),
		asm.LoadMem(asm.R3, asm.RFP, known, asm.DWord),
		asm.LoadMem(asm.R5, asm.RFP, flow+last, asm.DWord),
		asm.Or.Reg(asm.R5, asm.R8),
		// What is 0 in the map, and its bits, the verifier does not know: else it would
		// look at each set of filters that may match by itself.
		asm.LoadMem(asm.R8, asm.R0, bucketRepeat, asm.DWord),
	)
	for i := range int16(kernelFilters) {
		at := filterFirst + i*filterSize
		next := numbered("filter", i)
		if i > 0 {
			emit(asm.JLE.Imm(asm.R9, int32(i), "filtered"))
		}
		differs := func(word int16, of asm.Register) {
			emit(
				asm.LoadMem(asm.R2, asm.R0, at+filterValue+word, asm.DWord),
				asm.Xor.Reg(asm.R2, of),
				asm.LoadMem(asm.R4, asm.R0, at+filterMask+word, asm.DWord),
				asm.And.Reg(asm.R2, asm.R4),
			)
			if word == last {
				emit(asm.And.Reg(asm.R2, asm.R3))
			}
			emit(asm.JNE.Imm(asm.R2, 0, next))
		}
		differs(0, asm.R1)
		differs(last, asm.R5)
		for word := int16(8); word < last; word += 8 {
			emit(
				asm.LoadMem(asm.R2, asm.R0, at+filterValue+word, asm.DWord),
				asm.LoadMem(asm.R4, asm.RFP, flow+word, asm.DWord),
				asm.Xor.Reg(asm.R2, asm.R4),
				asm.LoadMem(asm.R4, asm.R0, at+filterMask+word, asm.DWord),
				asm.And.Reg(asm.R2, asm.R4),
				asm.JNE.Imm(asm.R2, 0, next),
			)
		}
		emit(asm.LoadMem(asm.R2, asm.R0, at+filterBit, asm.DWord), asm.Or.Reg(asm.R8, asm.R2))
		label(next, asm.Mov.Imm(asm.R2, 0))
	}
	label("filtered", asm.JEq.Imm(asm.R8, 0, "repeat"))
	// R0: the filters; R8: those that match, none where only the agent can tell.
	label("matched", asm.StoreMem(asm.RFP, list, asm.R0, asm.DWord))
	emit(
		asm.StoreMem(asm.RFP, matched, asm.R8, asm.DWord),
		asm.FnKtimeGetNs.Call(),
		asm.StoreMem(asm.RFP, now, asm.R0, asm.DWord),
		asm.LoadMem(asm.R3, asm.RFP, list, asm.DWord),
	)
	admit("matched", "repeat")
	emit(asm.Ja.Label("admitted"))

	// One more of a flow that was told of a moment ago.
	label("repeat", asm.LoadMem(asm.R9, asm.RFP, tally, asm.DWord))
	emit(
		asm.LoadMem(asm.R1, asm.R9, tallyRepeat, asm.Word),
		asm.JEq.Imm(asm.R1, 0, "open"),
		asm.LoadMem(asm.R1, asm.RFP, looked, asm.DWord),
		asm.JNE.Imm(asm.R1, flowKnown, "open"),
		asm.LoadMem(asm.R3, asm.R9, tallyFlows, asm.DWord),
	)
	mixFlow("flow_mixed")
	emit(asm.StoreMem(asm.RFP, mark, asm.R3, asm.DWord))
	findInner(m.flows, mark, "open")
	emit(
		asm.StoreMem(asm.RFP, entry, asm.R0, asm.DWord),
		asm.Mov.Imm(asm.R1, flowOnce),
		asm.StoreMem(asm.RFP, looked, asm.R1, asm.DWord),
		asm.JEq.Imm(asm.R0, 0, "open"),
		asm.Mov.Reg(asm.R8, asm.R0),
		asm.LoadMem(asm.R1, asm.R8, flowPaces, asm.DWord),
		asm.LoadMem(asm.R2, asm.R6, agentPaces, asm.DWord),
		asm.JNE.Reg(asm.R1, asm.R2, "open"),
		asm.FnJiffies64.Call(),
		asm.LoadMem(asm.R1, asm.R8, flowTold, asm.DWord),
		asm.Sub.Reg(asm.R0, asm.R1),
		asm.LoadMem(asm.R1, asm.R9, tallyRepeat, asm.Word),
		asm.JGE.Reg(asm.R0, asm.R1, "open"),
		asm.StoreImm(asm.RFP, counted, countHeld*8, asm.Word),
		asm.Add.Imm(asm.R9, 2*tallyStride),
		asm.Ja.Label("tally"),
	)

	label("count", asm.Mov.Imm(asm.R1, 0))
	count()
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

// atomically is op.Mem, with the operation where the kernel looks for it: in the
// constant, which github.com/cilium/ebpf v0.22.0 leaves at 0, an addition.
func atomically(op asm.AtomicOp, dst, src asm.Register, size asm.Size, offset int16) asm.Instruction {
	ins := op.Mem(dst, src, size, offset)
	ins.Constant = int64(op >> 8)
	return ins
}

// numbered returns one of several labels.
func numbered(name string, i int16) string { return name + string(rune('0'+i)) }

// inWord returns by how many bits the byte at an offset into a word of memory is
// shifted when the word is loaded.
func inWord(offset int) int32 {
	var b [8]byte
	b[offset] = 1
	return int32(bits.TrailingZeros64(binary.NativeEndian.Uint64(b[:])))
}

// networkOrder returns a 16-bit number of the wire as this machine loads it.
func networkOrder(v uint16) uint16 {
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		return v
	}
	return bits.ReverseBytes16(v)
}
