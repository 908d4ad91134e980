package hostagent

import (
	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// The programs that count what flows send. One notes when a connection is
// opened, on the socket itself. Two take samples (layout in flowsample.go): of
// every socket that an iterator comes by, and of every socket that is closed.
// None does anything for a packet.

// flowMaps are what the flow programs share.
type flowMaps struct {
	opened *ebpf.Map // on each socket: when it was opened
	ring   *ebpf.Map // last samples
	lost   *ebpf.Map // how many of these found the ring full
}

// openedSpec is a value on a socket itself, gone with it: 64 bits as fsOpened.
func openedSpec() *ebpf.MapSpec {
	return &ebpf.MapSpec{
		Name: "decaf_opened", Type: ebpf.SkStorage,
		KeySize: 4, ValueSize: 8, Flags: bpfNoPrealloc,
		// Such maps are made with their types or not at all.
		Key:   &btf.Int{Name: "int", Size: 4, Encoding: btf.Signed},
		Value: &btf.Int{Name: "unsigned long long", Size: 8},
	}
}

// Flags of the kernel's programming interface, include/uapi/linux/bpf.h.
const (
	bpfNoPrealloc      = 1 // BPF_F_NO_PREALLOC
	bpfStorageCreate   = 1 // BPF_SK_STORAGE_GET_F_CREATE
	bpfRingNoWakeup    = 1 // BPF_RB_NO_WAKEUP
	bpfRingForceWakeup = 2 // BPF_RB_FORCE_WAKEUP
	bpfRingAvailable   = 0 // BPF_RB_AVAIL_DATA
)

// established: inet_sock_set_state(sk, old, new), for TCP.
func (p *programs) established(m flowMaps) *ebpf.ProgramSpec {
	ins := p.begin(0)
	ins = append(ins,
		asm.LoadMem(asm.R1, asm.R6, 16, asm.DWord),
		asm.JNE.Imm32(asm.R1, tcpEstablished, leave))
	ins = append(ins, p.tcpSock()...)
	ins = append(ins,
		asm.LoadMapPtr(asm.R1, m.opened.FD()),
		asm.Mov.Reg(asm.R2, asm.R7),
		asm.Mov.Imm(asm.R3, 0),
		asm.Mov.Imm(asm.R4, bpfStorageCreate),
		asm.FnSkStorageGet.Call(),
		asm.JEq.Imm(asm.R0, 0, leave), // no memory: as if opened before the agent watched
		asm.Mov.Reg(asm.R8, asm.R0),
		asm.FnKtimeGetNs.Call(),
		asm.And.Imm(asm.R0, ^1),
		asm.LoadMem(asm.R1, asm.R6, 8, asm.DWord),
		asm.JNE.Imm32(asm.R1, tcpSynRecv, "outbound"),
		asm.Or.Imm(asm.R0, 1),
		asm.StoreMem(asm.R8, 0, asm.R0, asm.DWord).WithSymbol("outbound"),
		asm.Mov.Imm(asm.R0, 0).WithSymbol(leave),
		asm.Return())
	return tracing("decaf_flow_open", ebpf.AttachTraceRawTp, "inet_sock_set_state", ins)
}

// dump: iterator over all TCP sockets of the namespace it is opened in;
// its context holds metadata and socket, or none at the end.
func (p *programs) dump(m flowMaps) *ebpf.ProgramSpec {
	ins := p.begin(8)
	ins = append(ins, p.sample(m, false)...)
	ins = append(ins,
		asm.LoadMem(asm.R1, asm.R6, 0, asm.DWord),
		asm.LoadMem(asm.R1, asm.R1, p.layout.seqFile.offset, asm.DWord),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -evBytes),
		asm.Mov.Imm(asm.R3, evBytes),
		asm.FnSeqWrite.Call(),
		// What does not fit the kernel's page any more is asked for again.
		asm.Mov.Imm(asm.R0, 0).WithSymbol(leave),
		asm.Return())
	return tracing("decaf_flow_dump", ebpf.AttachTraceIter, "tcp", ins)
}

// last: tcp_destroy_sock(sk), for sockets that sent something. The reader is
// woken only when the ring is half full: it comes by itself at each interval's
// end, and a wake-up costs ten times what the rest does.
func (p *programs) last(m flowMaps) *ebpf.ProgramSpec {
	ins := p.begin(0)
	ins = append(ins, p.sample(m, true)...)
	ins = append(ins,
		asm.LoadMapPtr(asm.R1, m.ring.FD()),
		asm.Mov.Imm(asm.R2, bpfRingAvailable),
		asm.FnRingbufQuery.Call(),
		asm.Mov.Imm(asm.R4, bpfRingNoWakeup),
		asm.JLT.Imm(asm.R0, int32(m.ring.MaxEntries()/2), "quiet"),
		asm.Mov.Imm(asm.R4, bpfRingForceWakeup),
		asm.LoadMapPtr(asm.R1, m.ring.FD()).WithSymbol("quiet"),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -evBytes),
		asm.Mov.Imm(asm.R3, evBytes),
		asm.FnRingbufOutput.Call(),
		asm.JEq.Imm(asm.R0, 0, leave),
		asm.LoadMapValue(asm.R1, m.lost.FD(), 0),
		asm.Mov.Imm(asm.R2, 1),
		asm.AddAtomic.Mem(asm.R1, asm.R2, asm.DWord, 0),
		asm.Mov.Imm(asm.R0, 0).WithSymbol(leave),
		asm.Return())
	return tracing("decaf_flow_last", ebpf.AttachTraceRawTp, "tcp_destroy_sock", ins)
}

// sample builds a sample of the connected TCP socket in r7, and leaves for all
// others; with sent it leaves for sockets that never sent data nor anything
// twice.
func (p *programs) sample(m flowMaps, sent bool) asm.Instructions {
	l := p.layout
	ins := p.tcpSock()
	ins = append(ins,
		asm.LoadMem(asm.R1, asm.R7, l.dport.offset, asm.Half),
		asm.JEq.Imm(asm.R1, 0, leave)) // listens, or never got anywhere
	ins = append(ins, copyField(fsPackets, asm.R9, l.dataSegsOut.offset, asm.Word)...)
	if sent {
		ins = append(ins,
			asm.LoadMem(asm.R2, asm.R9, l.totalRetrans.offset, asm.Word),
			asm.Or.Reg(asm.R1, asm.R2),
			asm.JEq.Imm(asm.R1, 0, leave))
	}
	ins = append(ins,
		asm.LoadMem(asm.R1, asm.R9, l.bytesSent.offset, asm.DWord),
		asm.LoadMem(asm.R2, asm.R9, l.bytesRetrans.offset, asm.DWord),
		asm.Sub.Reg(asm.R1, asm.R2),
		store(fsBytes, asm.R1, asm.DWord))
	ins = append(ins, p.addresses(asm.R7)...)
	ins = append(ins, p.boundPort()...)
	ins = append(ins, p.cookie(asm.R7)...)
	return append(ins,
		asm.LoadMapPtr(asm.R1, m.opened.FD()),
		asm.Mov.Reg(asm.R2, asm.R7),
		asm.Mov.Imm(asm.R3, 0),
		asm.Mov.Imm(asm.R4, 0),
		asm.FnSkStorageGet.Call(),
		asm.JEq.Imm(asm.R0, 0, "unopened"),
		asm.LoadMem(asm.R1, asm.R0, 0, asm.DWord),
		store(fsOpened, asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R1, 0).WithSymbol("unopened"))
}
