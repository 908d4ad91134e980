package hostagent

import (
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// The programs are written instruction by instruction, so that neither a C
// compiler nor an object file is needed, and with the offsets of the running
// kernel (offsets.go). Each one
//
//  1. leaves at once unless the socket is in a network namespace the agent
//     watches,
//  2. builds one event (layout in event.go) on its stack,
//  3. hands it to the ring buffer, or counts it as lost.
//
// Those of flowprogram.go build flow samples instead.
//
// They need no root for themselves: tp_btf and the bpf system call work inside
// a container or a network namespace where tracefs is not mounted.
//
// Registers: r6 the context, r7 the socket, r8 buffer or request, r9 the same
// socket as struct tcp_sock.

const leave = "leave"

// programs of one agent.
type programs struct {
	layout *layout
	// The namespace whose sockets are watched, by its inode number; or, where
	// spaces is set, all that it holds; or all, with neither.
	netns  uint32
	spaces *ebpf.Map // hash of inode numbers, u32 to u8

	ring     *ring
	wakeFrom *ebpf.Map // array of one 64-bit word, CLOCK_MONOTONIC: before, nobody wakes the reader
	stories  *ebpf.Map // connevent.go
	watched  *ebpf.Map // spuriousprogram.go
	news     *ebpf.Map // flowprogram.go; nil: nobody asks
}

func (p *programs) spec(tracepoint string, body asm.Instructions) *ebpf.ProgramSpec {
	ins := p.begin(0)
	ins = append(ins, body...)
	ins = append(ins, p.send()...)
	return tracing("decaf_"+shortName(tracepoint), ebpf.AttachTraceRawTp, tracepoint, ins)
}

// tracing is a program on a tracepoint or an iterator.
func tracing(name string, how ebpf.AttachType, to string, ins asm.Instructions) *ebpf.ProgramSpec {
	return &ebpf.ProgramSpec{
		Name:         name,
		Type:         ebpf.Tracing,
		AttachType:   how,
		AttachTo:     to,
		Instructions: ins,
		// The kernel lets only programs that declare a licence compatible with
		// its own read struct sock ("Cannot access kernel 'struct sock' from
		// non-GPL compatible program"): what is loaded is offered under both.
		License: "Dual MIT/GPL",
	}
}

// shortName fits a tracepoint into the 15 characters a program's name may have.
func shortName(tracepoint string) string {
	if len(tracepoint) > 9 {
		return tracepoint[len(tracepoint)-9:]
	}
	return tracepoint
}

// begin keeps the arguments, of which the one at socket is the socket, filters
// by namespace and clears the event.
func (p *programs) begin(socket int16) asm.Instructions {
	ins := append(p.space(socket), asm.Mov.Reg(asm.R8, asm.R1))
	ins = append(ins, p.ours(evNetNS-evBytes, leave)...)
	ins = append(ins, asm.Mov.Imm(asm.R1, 0))
	for at := 0; at < evBytes; at += 8 {
		ins = append(ins, store(at, asm.R1, asm.DWord))
	}
	return append(ins, store(evNetNS, asm.R8, asm.Word))
}

// space keeps the arguments, of which the one at socket is the socket, and makes r1 the
// namespace of that.
func (p *programs) space(socket int16) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R7, asm.R6, socket, asm.DWord),
		asm.JEq.Imm(asm.R7, 0, leave),
		asm.LoadMem(asm.R1, asm.R7, p.layout.net.offset, asm.DWord),
		asm.JEq.Imm(asm.R1, 0, leave),
		asm.LoadMem(asm.R1, asm.R1, p.layout.inum.offset, asm.Word),
	}
}

// ours goes to no unless the namespace in r1 is watched. It may use the word at
// slot from the frame pointer, and r0 to r5.
func (p *programs) ours(slot int16, no string) asm.Instructions {
	switch {
	case p.spaces != nil:
		return asm.Instructions{
			asm.StoreMem(asm.RFP, slot, asm.R1, asm.Word),
			asm.LoadMapPtr(asm.R1, p.spaces.FD()),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, int32(slot)),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, no),
		}
	case p.netns != 0:
		// 32 bits: namespace numbers have their top bit set, and a 64-bit
		// comparison would extend the immediate's sign.
		return asm.Instructions{asm.JNE.Imm32(asm.R1, int32(p.netns), no)}
	}
	return nil
}

// send stamps the event and gives it to the ring buffer. Its reader says from
// when on it wants to be woken (read.go).
func (p *programs) send() asm.Instructions {
	give := p.ring.output(evBytes, leave)
	give[0] = give[0].WithSymbol("flags")
	return slices.Concat(asm.Instructions{
		asm.FnKtimeGetNs.Call(),
		store(evTime, asm.R0, asm.DWord),
		// Not the kernel's own choice, which wakes a reader only once it has read
		// all there is: what is left to the clock would keep others from waking it.
		asm.Mov.Imm(asm.R4, bpfRingNoWakeup),
		asm.LoadMem(asm.R1, asm.RFP, evQuiet-evBytes, asm.Byte),
		asm.JNE.Imm(asm.R1, 0, "flags"),
		asm.LoadMapValue(asm.R1, p.wakeFrom.FD(), 0),
		asm.LoadMem(asm.R1, asm.R1, 0, asm.DWord),
		asm.JLT.Reg(asm.R0, asm.R1, "flags"),
		asm.Mov.Imm(asm.R4, bpfRingForceWakeup),
	}, give, end())
}

// output gives the lowest bytes of the stack to the ring, with the flags in r4, and goes
// to then, or, with no room there, counts that they are lost and goes on.
func (r *ring) output(bytes int32, then string) asm.Instructions {
	return append(asm.Instructions{
		asm.LoadMapPtr(asm.R1, r.m.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -bytes),
		asm.Mov.Imm(asm.R3, bytes),
		asm.FnRingbufOutput.Call(),
		asm.JEq.Imm(asm.R0, 0, then),
	}, r.countLost()...)
}

// countLost counts what found no room in the ring.
func (r *ring) countLost() asm.Instructions {
	return asm.Instructions{
		asm.LoadMapValue(asm.R1, r.lost.FD(), 0),
		asm.Mov.Imm(asm.R2, 1),
		asm.AddAtomic.Mem(asm.R1, asm.R2, asm.DWord, 0),
	}
}

// write writes the lowest bytes of the stack for who reads the iterator, and leaves when
// they do not fit the kernel's page any more: then it is asked for again.
func (p *programs) write(bytes int32) asm.Instructions {
	return asm.Instructions{
		asm.LoadMem(asm.R1, asm.R6, 0, asm.DWord),
		asm.LoadMem(asm.R1, asm.R1, p.layout.seqFile.offset, asm.DWord),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -bytes),
		asm.Mov.Imm(asm.R3, bytes),
		asm.FnSeqWrite.Call(),
		asm.JNE.Imm(asm.R0, 0, leave),
	}
}

// retransmit: tcp_retransmit_skb(sk, skb[, err]).
//
// The kernel does not run a program on a processor that is running it already, for
// whom it interrupted. Hence there are two of this one: what the first misses, the
// second tells of.
func (p *programs) retransmit(second bool) *ebpf.ProgramSpec {
	l := p.layout
	ins := asm.Instructions{
		asm.LoadMem(asm.R8, asm.R6, 8, asm.DWord),
		asm.JEq.Imm(asm.R8, 0, leave),
		asm.StoreImm(asm.RFP, evWhat-evBytes, int64(whatRetransmit), asm.Byte),
	}
	if l.retransmitArgs >= 3 {
		ins = append(ins,
			asm.LoadMem(asm.R1, asm.R6, 16, asm.DWord),
			store(evErr, asm.R1, asm.Word))
	}
	ins = append(ins, p.tcpSock()...)
	ins = append(ins, p.once(second)...)
	ins = append(ins, p.addresses(asm.R7)...)
	ins = append(ins, copyField(evSrcPort, asm.R7, l.num.offset, asm.Half)...)

	// skb->cb holds a struct tcp_skb_cb while TCP owns the buffer.
	cb := func(f field) int16 { return l.cb.offset + f.offset }
	ins = append(ins, copyField(evSeq, asm.R8, cb(l.seq), asm.Word)...)
	ins = append(ins, copyField(evEndSeq, asm.R8, cb(l.endSeq), asm.Word)...)
	// The flags grew from one byte to two when accurate ECN came (Linux 6.15):
	// load all of it and keep the low byte.
	flags := asm.Byte
	if l.cbTCPFlags.size == 2 {
		flags = asm.Half
	}
	ins = append(ins,
		asm.LoadMem(asm.R1, asm.R8, cb(l.cbTCPFlags), flags),
		store(evFlags, asm.R1, asm.Byte),
		asm.LoadMem(asm.R1, asm.R8, cb(l.gsoSegs), asm.Half),
		store(evSegments, asm.R1, asm.Word))

	ins = append(ins, copyField(evCAState, asm.R9, l.caState.offset, asm.Byte)...)
	ins = append(ins, copyField(evRetransmits, asm.R9, l.retransmits.offset, asm.Byte)...)
	ins = append(ins, copyField(evUnacked, asm.R9, l.sndUna.offset, asm.Word)...)
	ins = append(ins, copyField(evNext, asm.R9, l.rcvNxt.offset, asm.Word)...)
	ins = append(ins, copyField(evHash, asm.R7, l.txHash.offset, asm.Word)...)
	ins = append(ins, p.labelRules()...)
	if l.hasLabel {
		// As in cgroup: 0 through a pointer that is none.
		ins = append(ins, asm.LoadMem(asm.R1, asm.R9, l.pinet6.offset, asm.DWord))
		ins = append(ins, copyField(evLabel, asm.R1, l.givenLabel.offset, asm.Word)...)
	}
	ins = append(ins, p.cookie(asm.R7)...)
	ins = append(ins, p.owner()...)
	ins = append(ins, p.watch()...)
	ins = append(ins, p.askAnew()...)
	spec := p.spec("tcp_retransmit_skb", ins)
	if second {
		spec.Name = "decaf_2nd_look"
	}
	return spec
}

// once leaves where the other program has told of this retransmit: by the total of
// the socket, which the kernel raises before the tracepoint, and which its lock
// keeps until both have run. One that was not sent raises nothing: it is the
// first program's alone.
func (p *programs) once(second bool) asm.Instructions {
	failed := "counted"
	if second {
		failed = leave
	}
	ins := asm.Instructions{
		asm.LoadMem(asm.R1, asm.RFP, evErr-evBytes, asm.Word),
		asm.JNE.Imm(asm.R1, 0, failed),
	}
	ins = append(ins, storage(p.watched, bpfStorageCreate)...)
	return append(ins,
		asm.JEq.Imm(asm.R0, 0, failed), // no memory
		asm.LoadMem(asm.R1, asm.RFP, evTotalRetrans-evBytes, asm.Word),
		asm.LoadMem(asm.R2, asm.R0, wtTold, asm.Word),
		asm.JEq.Reg(asm.R1, asm.R2, leave),
		asm.StoreMem(asm.R0, wtTold, asm.R1, asm.Word),
		asm.Mov.Imm(asm.R1, 0).WithSymbol("counted"))
}

// synAck: tcp_retransmit_synack(sk, req). sk is the listener, req what will
// become the connection; both begin with a struct sock_common.
func (p *programs) synAck() *ebpf.ProgramSpec {
	l := p.layout
	ins := asm.Instructions{
		asm.LoadMem(asm.R8, asm.R6, 8, asm.DWord),
		asm.JEq.Imm(asm.R8, 0, leave),
		asm.StoreImm(asm.RFP, evWhat-evBytes, int64(whatSynAck), asm.Byte),
		asm.StoreImm(asm.RFP, evFlags-evBytes, flagSYN|flagACK, asm.Byte),
		asm.StoreImm(asm.RFP, evSegments-evBytes, 1, asm.Word),
		// The sequence number lies in struct tcp_request_sock. The helper that
		// casts to it does not know requests of multipath listeners, which is
		// what Go programs open by default.
		asm.Mov.Reg(asm.R1, asm.RFP),
		asm.Add.Imm(asm.R1, evSeq-evBytes),
		asm.Mov.Imm(asm.R2, 4),
		asm.Mov.Reg(asm.R3, asm.R8),
		asm.Add.Imm(asm.R3, int32(l.sntISN.offset)),
		asm.FnProbeReadKernel.Call(),
		asm.LoadMem(asm.R1, asm.RFP, evSeq-evBytes, asm.Word),
		asm.Add.Imm32(asm.R1, 1),
		store(evEndSeq, asm.R1, asm.Word),
	}
	ins = append(ins, p.addresses(asm.R8)...)
	ins = append(ins, copyField(evSrcPort, asm.R8, l.num.offset, asm.Half)...)
	ins = append(ins,
		// A request copies the family of its listener, which is IPv6 when it
		// takes both; what it speaks is told by its operations alone.
		asm.LoadMem(asm.R1, asm.R8, l.rskOps.offset, asm.DWord),
		asm.JEq.Imm(asm.R1, 0, leave),
		asm.LoadMem(asm.R1, asm.R1, l.opsFamily.offset, asm.Word),
		store(evFamily, asm.R1, asm.Half))
	if l.hasLabel {
		ins = append(ins, p.labelRules()...)
		ins = append(ins,
			asm.Mov.Reg(asm.R1, asm.RFP),
			asm.Add.Imm(asm.R1, evHash-evBytes),
			asm.Mov.Imm(asm.R2, 4),
			asm.Mov.Reg(asm.R3, asm.R8),
			asm.Add.Imm(asm.R3, int32(l.requestHash.offset)),
			asm.FnProbeReadKernel.Call())
	}
	ins = append(ins, p.cookie(asm.R8)...)
	return p.spec("tcp_retransmit_synack", ins)
}

// labelRules notes how the namespace of the socket in r7 makes IPv6 flow labels.
func (p *programs) labelRules() asm.Instructions {
	l := p.layout
	if !l.hasLabel {
		return nil
	}
	ins := asm.Instructions{
		asm.LoadMem(asm.R2, asm.R7, l.net.offset, asm.DWord),
		asm.LoadMem(asm.R1, asm.R2, l.autoLabel.offset, asm.Byte),
		store(evAutoLabel, asm.R1, asm.Byte),
	}
	if l.stateLabel.size != 0 {
		ins = append(ins, copyField(evStateLabel, asm.R2, l.stateLabel.offset, asm.Byte)...)
	}
	return ins
}

// closed: tcp_destroy_sock(sk), for sockets that sent something again. This is
// the last moment at which the kernel's count of duplicates reported by the
// other end can be read; a socket that ends in TIME_WAIT passes here as well,
// since only a stub of it waits.
func (p *programs) closed() *ebpf.ProgramSpec {
	l := p.layout
	ins := asm.Instructions{
		asm.StoreImm(asm.RFP, evWhat-evBytes, int64(whatClosed), asm.Byte),
	}
	ins = append(ins, p.tcpSock()...)
	ins = append(ins,
		asm.LoadMem(asm.R1, asm.R9, l.totalRetrans.offset, asm.Word),
		asm.JEq.Imm(asm.R1, 0, leave))
	ins = append(ins, p.addresses(asm.R7)...)
	ins = append(ins, p.boundPort()...)
	ins = append(ins, p.cookie(asm.R7)...)
	ins = append(ins, p.lately()...)
	return p.spec("tcp_destroy_sock", ins)
}

// boundPort copies the local port of a socket that may be closed: its skc_num
// is 0 by then, the port lives on in inet_sport, in network order.
func (p *programs) boundPort() asm.Instructions {
	return asm.Instructions{
		asm.LoadMem(asm.R1, asm.R9, p.layout.sport.offset, asm.Half),
		asm.HostTo(asm.BE, asm.R1, asm.Half),
		store(evSrcPort, asm.R1, asm.Half),
	}
}

// tcpSock makes r9 the socket as struct tcp_sock, and notes its state and
// totals.
func (p *programs) tcpSock() asm.Instructions {
	l := p.layout
	ins := asm.Instructions{
		asm.Mov.Reg(asm.R1, asm.R7),
		asm.FnSkcToTcpSock.Call(),
		asm.JEq.Imm(asm.R0, 0, leave),
		asm.Mov.Reg(asm.R9, asm.R0),
	}
	ins = append(ins, copyField(evState, asm.R7, l.state.offset, asm.Byte)...)
	ins = append(ins, copyField(evTotalRetrans, asm.R9, l.totalRetrans.offset, asm.Word)...)
	return append(ins, copyField(evDSACKDups, asm.R9, l.dsackDups.offset, asm.Word)...)
}

// addresses copies family, addresses and remote port of a struct sock_common.
func (p *programs) addresses(common asm.Register) asm.Instructions {
	l := p.layout
	var ins asm.Instructions
	ins = append(ins, copyField(evFamily, common, l.family.offset, asm.Half)...)
	ins = append(ins, copyField(evSrc4, common, l.saddr.offset, asm.Word)...)
	ins = append(ins, copyField(evDst4, common, l.daddr.offset, asm.Word)...)
	ins = append(ins, copyField(evDstPort, common, l.dport.offset, asm.Half)...)
	if l.hasIPv6 {
		for i := 0; i < 16; i += 4 {
			ins = append(ins, copyField(evSrc6+i, common, l.saddr6.offset+int16(i), asm.Word)...)
			ins = append(ins, copyField(evDst6+i, common, l.daddr6.offset+int16(i), asm.Word)...)
		}
	}
	return ins
}

// cookie notes the socket cookie, which a connection inherits from its request.
func (p *programs) cookie(sk asm.Register) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R1, sk),
		asm.FnGetSocketCookie.Call(),
		store(evCookie, asm.R0, asm.DWord),
	}
}

// owner notes the process of the socket in r7, as far as its story tells it, and
// the control group; and the hash that its packets had before this one, for which
// the story keeps both.
func (p *programs) owner() asm.Instructions {
	ins := p.cgroup(evCgroup - evBytes)
	ins = append(ins, storage(p.stories, 0)...)
	ins = append(ins, asm.JEq.Imm(asm.R0, 0, "unowned"))
	ins = append(ins, copyField(evPID, asm.R0, csPID, asm.Word)...)
	ins = append(ins, copyField(evComm, asm.R0, csComm, asm.DWord)...)
	ins = append(ins, copyField(evComm+8, asm.R0, csComm+8, asm.DWord)...)
	ins = append(ins,
		asm.LoadMem(asm.R1, asm.R0, csHash, asm.Word),
		asm.LoadMem(asm.R2, asm.RFP, evHash-evBytes, asm.Word),
		asm.JEq.Reg(asm.R1, asm.R2, "same hash"),
		asm.StoreMem(asm.R0, csHashBefore, asm.R1, asm.Word),
		asm.StoreMem(asm.R0, csHash, asm.R2, asm.Word),
		asm.LoadMem(asm.R1, asm.R0, csHashBefore, asm.Word).WithSymbol("same hash"),
		store(evHashBefore, asm.R1, asm.Word))
	return append(ins, asm.Mov.Imm(asm.R1, 0).WithSymbol("unowned"))
}

// askAnew has the event of the socket in r7 wake the reader, who was woken by that
// socket a moment before, where meanwhile packets are lost with another IPv6 flow
// label (decodeLabel): their path may not have been traced.
func (p *programs) askAnew() asm.Instructions {
	l := p.layout
	if !l.hasLabel {
		return nil
	}
	ins := asm.Instructions{
		asm.LoadMem(asm.R1, asm.RFP, evFamily-evBytes, asm.Half),
		asm.JNE.Imm(asm.R1, unix.AF_INET6, "asked"),
		asm.LoadMem(asm.R1, asm.RFP, evLabel-evBytes, asm.Word),
		asm.JNE.Imm(asm.R1, 0, "asked"),
		asm.LoadMem(asm.R1, asm.RFP, evAutoLabel-evBytes, asm.Byte),
		asm.And.Imm(asm.R1, 1), // 1 and 3 make labels
		asm.JEq.Imm(asm.R1, 0, "asked"),
	}
	ins = append(ins, storage(p.stories, 0)...)
	ins = append(ins,
		asm.JEq.Imm(asm.R0, 0, "asked"),
		asm.LoadMem(asm.R1, asm.RFP, evHash-evBytes, asm.Word),
		asm.LoadMem(asm.R2, asm.RFP, evCAState-evBytes, asm.Byte),
		asm.RSh.Imm(asm.R2, int32(l.caState.shift)))
	if l.caState.mask != 0 {
		ins = append(ins, asm.And.Imm(asm.R2, int32(l.caState.mask)))
	}
	return append(ins,
		asm.JNE.Imm(asm.R2, caLoss, "this hash"),
		asm.LoadMem(asm.R3, asm.RFP, evHashBefore-evBytes, asm.Word),
		asm.JEq.Imm(asm.R3, 0, "this hash"),
		asm.Mov.Reg(asm.R1, asm.R3),
		asm.LoadMem(asm.R2, asm.R0, csAsked, asm.Word).WithSymbol("this hash"),
		asm.JEq.Reg(asm.R1, asm.R2, "asked"),
		asm.StoreMem(asm.R0, csAsked, asm.R1, asm.Word),
		asm.StoreImm(asm.RFP, evQuiet-evBytes, 0, asm.Byte),
		asm.Mov.Imm(asm.R1, 0).WithSymbol("asked"))
}

// storage makes r0 what a map of socket storage has of the socket in r7, made where
// there is nothing yet if create is bpfStorageCreate, or 0. It spoils r1 to r5.
func storage(m *ebpf.Map, create int32) asm.Instructions {
	return append(asm.Instructions{asm.Mov.Imm(asm.R4, create)}, storageAs(m)...)
}

// storageAs is storage with create in r4.
func storageAs(m *ebpf.Map) asm.Instructions {
	return asm.Instructions{
		asm.LoadMapPtr(asm.R1, m.FD()),
		asm.Mov.Reg(asm.R2, asm.R7),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnSkStorageGet.Call(),
	}
}

// cgroup writes the id of the control group (version 2) of the socket in r7 to
// the stack, at bytes from the frame pointer; nothing where the kernel has none.
func (p *programs) cgroup(at int16) asm.Instructions {
	l := p.layout
	if !l.hasCgroup {
		return nil
	}
	// The kernel reads 0 through a pointer that is none.
	return asm.Instructions{
		asm.LoadMem(asm.R1, asm.R7, l.skCgroup.offset, asm.DWord),
		asm.LoadMem(asm.R1, asm.R1, l.cgroupKn.offset, asm.DWord),
		asm.LoadMem(asm.R1, asm.R1, l.kernfsID.offset, asm.DWord),
		asm.StoreMem(asm.RFP, at, asm.R1, asm.DWord),
	}
}

// copyField copies one member into the event by way of r1.
func copyField(at int, from asm.Register, offset int16, size asm.Size) asm.Instructions {
	return asm.Instructions{
		asm.LoadMem(asm.R1, from, offset, size),
		store(at, asm.R1, size),
	}
}

// store puts a register into the event on the stack.
func store(at int, from asm.Register, size asm.Size) asm.Instruction {
	return asm.StoreMem(asm.RFP, int16(at-evBytes), from, size)
}
