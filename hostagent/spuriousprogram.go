package hostagent

import (
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// The other end says of a segment that it had it already (D-SACK, RFC 2883) a
// round trip after it was sent again, and no tracepoint says that it said so.
// So every socket that sends something again gets a mark, in socket storage, and
// an iterator over the marks looks what has become of the kernel's count of such
// words. It takes the mark away once nothing more is to be expected.

// settleAfter is how long after the latest retransmit of a socket, with all of
// them acknowledged, a word on them is still waited for.
const settleAfter = time.Second

// A mark's bytes.
const (
	wtLast  = 0  // u64, CLOCK_MONOTONIC: the latest retransmit
	wtDups  = 8  // u32: the count of segments reported as duplicates, as last told
	wtWoke  = 16 // u64, CLOCK_MONOTONIC: when it last woke the reader
	wtBytes = 24
)

func watchedSpec() *ebpf.MapSpec {
	return &ebpf.MapSpec{
		Name: "decaf_again", Type: ebpf.SkStorage,
		KeySize: 4, ValueSize: wtBytes, Flags: bpfNoPrealloc,
		Key: &btf.Int{Name: "int", Size: 4, Encoding: btf.Signed},
		Value: &btf.Array{
			Index:  &btf.Int{Name: "unsigned int", Size: 4},
			Type:   &btf.Int{Name: "unsigned long long", Size: 8},
			Nelems: wtBytes / 8,
		},
	}
}

// watch marks the socket in r7, whose event is complete but for its time. And
// it says whether that one is worth a wake-up: who woke the reader a moment
// before has been traced meanwhile, or was refused.
func (p *programs) watch() asm.Instructions {
	return asm.Instructions{
		asm.LoadMapPtr(asm.R1, p.watched.FD()),
		asm.Mov.Reg(asm.R2, asm.R7),
		asm.Mov.Imm(asm.R3, 0),
		asm.Mov.Imm(asm.R4, bpfStorageCreate),
		asm.FnSkStorageGet.Call(),
		asm.JEq.Imm(asm.R0, 0, "unwatched"), // no memory: its last word comes at its end
		asm.Mov.Reg(asm.R8, asm.R0),
		asm.LoadMem(asm.R1, asm.RFP, evDSACKDups-evBytes, asm.Word),
		asm.StoreMem(asm.R8, wtDups, asm.R1, asm.Word),
		asm.FnKtimeGetNs.Call(),
		asm.StoreMem(asm.R8, wtLast, asm.R0, asm.DWord),
		asm.LoadMem(asm.R1, asm.R8, wtWoke, asm.DWord),
		asm.LoadImm(asm.R2, int64(askAgain), asm.DWord),
		asm.Add.Reg(asm.R1, asm.R2),
		asm.JGE.Reg(asm.R0, asm.R1, "asks"),
		asm.StoreImm(asm.RFP, evQuiet-evBytes, 1, asm.Byte),
		asm.Ja.Label("unwatched"),
		asm.LoadMapValue(asm.R1, p.wakeFrom.FD(), 0).WithSymbol("asks"),
		asm.LoadMem(asm.R1, asm.R1, 0, asm.DWord),
		asm.JLT.Reg(asm.R0, asm.R1, "unwatched"),
		asm.StoreMem(asm.R8, wtWoke, asm.R0, asm.DWord),
		asm.Mov.Imm(asm.R1, 0).WithSymbol("unwatched"),
	}
}

// lately makes the event of the socket in r7 one that wakes nobody where its
// latest retransmit was so near that the reader still comes by itself.
func (p *programs) lately() asm.Instructions {
	return asm.Instructions{
		asm.LoadMapPtr(asm.R1, p.watched.FD()),
		asm.Mov.Reg(asm.R2, asm.R7),
		asm.Mov.Imm(asm.R3, 0),
		asm.Mov.Imm(asm.R4, 0),
		asm.FnSkStorageGet.Call(),
		asm.JEq.Imm(asm.R0, 0, "long ago"),
		asm.LoadMem(asm.R8, asm.R0, wtLast, asm.DWord),
		asm.LoadImm(asm.R1, int64(askAgain), asm.DWord),
		asm.Add.Reg(asm.R8, asm.R1),
		asm.FnKtimeGetNs.Call(),
		asm.JGE.Reg(asm.R0, asm.R8, "long ago"),
		asm.StoreImm(asm.RFP, evQuiet-evBytes, 1, asm.Byte),
		asm.Mov.Imm(asm.R1, 0).WithSymbol("long ago"),
	}
}

// look: iterator over the marks; its context holds metadata, map, socket and
// mark, or none at the end.
func (p *programs) look() *ebpf.ProgramSpec {
	// Most have no news: that comes first.
	ins := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R7, asm.R6, 16, asm.DWord),
		asm.JEq.Imm(asm.R7, 0, leave),
		asm.LoadMem(asm.R8, asm.R6, 24, asm.DWord),
		asm.JEq.Imm(asm.R8, 0, leave),
		asm.Mov.Imm(asm.R1, 0),
	}
	for at := 0; at < evBytes; at += 8 {
		ins = append(ins, store(at, asm.R1, asm.DWord))
	}
	ins = append(ins, p.tcpSock()...)
	ins = append(ins,
		asm.LoadMem(asm.R1, asm.R9, p.layout.retransOut.offset, asm.Word),
		asm.JNE.Imm(asm.R1, 0, "waits"),
		asm.FnKtimeGetNs.Call(),
		asm.LoadMem(asm.R1, asm.R8, wtLast, asm.DWord),
		asm.LoadImm(asm.R2, int64(settleAfter), asm.DWord),
		asm.Add.Reg(asm.R1, asm.R2),
		asm.JLT.Reg(asm.R0, asm.R1, "waits"),
		asm.StoreImm(asm.RFP, evSettled-evBytes, 1, asm.Byte),
		asm.Ja.Label("tell"),

		asm.LoadMem(asm.R1, asm.R8, wtDups, asm.Word).WithSymbol("waits"),
		asm.LoadMem(asm.R2, asm.RFP, evDSACKDups-evBytes, asm.Word),
		asm.JEq.Reg(asm.R1, asm.R2, leave),

		asm.StoreImm(asm.RFP, evWhat-evBytes, int64(whatSample), asm.Byte).WithSymbol("tell"),
		asm.FnKtimeGetNs.Call(),
		store(evTime, asm.R0, asm.DWord))
	ins = append(ins, p.cookie(asm.R7)...)
	ins = append(ins,
		asm.LoadMem(asm.R1, asm.R6, 0, asm.DWord),
		asm.LoadMem(asm.R1, asm.R1, p.layout.seqFile.offset, asm.DWord),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -evBytes),
		asm.Mov.Imm(asm.R3, evBytes),
		asm.FnSeqWrite.Call(),
		// What does not fit the kernel's page any more is asked for again.
		asm.JNE.Imm(asm.R0, 0, leave),
		asm.LoadMem(asm.R1, asm.RFP, evDSACKDups-evBytes, asm.Word),
		asm.StoreMem(asm.R8, wtDups, asm.R1, asm.Word),
		asm.LoadMem(asm.R1, asm.RFP, evSettled-evBytes, asm.Byte),
		asm.JEq.Imm(asm.R1, 0, leave),
		asm.LoadMapPtr(asm.R1, p.watched.FD()),
		asm.Mov.Reg(asm.R2, asm.R7),
		asm.FnSkStorageDelete.Call())
	return tracing("decaf_look", ebpf.AttachTraceIter, "bpf_sk_storage_map", append(ins, end()...))
}
