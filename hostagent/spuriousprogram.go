package hostagent

import (
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// The other end says of a segment that it had it already (D-SACK, RFC 2883) a
// round trip after it was sent again, or shows by the timestamp it echoes that
// it took an earlier copy (RFC 3522). No tracepoint tells of either, but
// tcp_probe has every packet that an established connection receives: what is
// said there is read from the packet itself. For that every socket that sends
// something again gets a mark, in socket storage; those without one are left at
// once.
//
// What comes in any other state (tcp_rcv_state_process) passes no tracepoint. So
// an iterator over the marks looks what has become of the kernel's count of
// reported duplicates. It takes the mark away once nothing more is to be
// expected.

// settleAfter is how long after the latest retransmit of a socket, and after all
// of them were acknowledged, a word on them is still waited for.
const settleAfter = time.Second

// A mark's bytes.
const (
	wtLast  = 0  // u64, CLOCK_MONOTONIC: the latest retransmit
	wtDups  = 8  // u32: the count of segments reported as duplicates, as last told
	wtTS    = 12 // u32: the timestamp the latest retransmit was sent with
	wtWoke  = 16 // u64, CLOCK_MONOTONIC: when it last woke the reader
	wtTo    = 24 // u32: where what was sent again ends
	wtTold  = 28 // u32: the total of segments sent again when an event last told of one
	wtAcked = 32 // u64, CLOCK_MONOTONIC: when some of that was acknowledged last
	wtBytes = 40
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
	ins := append(p.timestamp(), storage(p.watched, bpfStorageCreate)...)
	return append(ins,
		asm.JEq.Imm(asm.R0, 0, "unwatched"), // no memory: its last word comes at its end
		asm.Mov.Reg(asm.R8, asm.R0),
		asm.LoadMem(asm.R1, asm.RFP, evDSACKDups-evBytes, asm.Word),
		asm.StoreMem(asm.R8, wtDups, asm.R1, asm.Word),
		asm.LoadMem(asm.R1, asm.RFP, evTS-evBytes, asm.Word),
		asm.StoreMem(asm.R8, wtTS, asm.R1, asm.Word),
		// The highest end, unless all up to there is acknowledged.
		asm.LoadMem(asm.R1, asm.RFP, evEndSeq-evBytes, asm.Word),
		asm.LoadMem(asm.R2, asm.R8, wtTo, asm.Word),
		asm.LoadMem(asm.R3, asm.R9, p.layout.sndUna.offset, asm.Word),
		asm.Sub.Reg32(asm.R3, asm.R2),
		asm.JSGE.Imm32(asm.R3, 0, "farther"),
		asm.Sub.Reg32(asm.R2, asm.R1),
		asm.JSGE.Imm32(asm.R2, 0, "not so far"),
		asm.StoreMem(asm.R8, wtTo, asm.R1, asm.Word).WithSymbol("farther"),
		asm.Mov.Imm(asm.R1, 0).WithSymbol("not so far"),
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
		asm.Mov.Imm(asm.R1, 0).WithSymbol("unwatched"))
}

// timestamp notes what the buffer in r8 was sent with (tcp_skb_timestamp_ts): its
// time of sending in the unit of the connection's timestamps, and the offset of
// these.
func (p *programs) timestamp() asm.Instructions {
	l := p.layout
	ins := asm.Instructions{asm.LoadMem(asm.R1, asm.R8, l.skbStamp.offset, asm.DWord)}
	if l.usecTS.size == 0 {
		ins = append(ins, asm.Div.Imm(asm.R1, int32(time.Millisecond)))
	} else {
		ins = append(ins,
			asm.LoadMem(asm.R2, asm.R9, l.usecTS.offset, asm.Byte),
			asm.And.Imm(asm.R2, int32(l.usecTS.mask)<<l.usecTS.shift),
			asm.JEq.Imm(asm.R2, 0, "milliseconds"),
			asm.Div.Imm(asm.R1, int32(time.Microsecond)),
			asm.Ja.Label("divided"),
			asm.Div.Imm(asm.R1, int32(time.Millisecond)).WithSymbol("milliseconds"),
			asm.Mov.Imm(asm.R2, 0).WithSymbol("divided"))
	}
	return append(ins,
		asm.LoadMem(asm.R2, asm.R9, l.tsOffset.offset, asm.Word),
		asm.Add.Reg32(asm.R1, asm.R2),
		store(evTS, asm.R1, asm.Word))
}

// What answers needs of a received packet, on the stack below the event: its
// TCP header with all options, and where two of these were found, from the
// header's start.
const (
	anHeader = -evBytes - 64
	anSACK   = anHeader - 8  // u64; 0: none
	anTS     = anHeader - 16 // u64; 0: none

	tcpHeader  = 20 // bytes, without options
	tcpLongest = 60 // with as many as it has room for
	maxOptions = 12 // looked at: those before and of these two are six at most
)

// TCP options, RFC 9293 section 3.1, RFC 2018, RFC 7323.
const (
	optEnd, optNothing, optSACK, optTimestamps = 0, 1, 5, 8
)

// answers: tcp_probe(sk, skb), a packet that an established connection receives,
// before it is looked at. Told is what it says of a segment sent again:
//
//   - that the other end had it already: the first of its SACK blocks lies below
//     what it acknowledges, or within the second (RFC 2883 section 4,
//     tcp_check_dsack);
//   - that it acknowledges it by an earlier copy's timestamp.
func (p *programs) answers() *ebpf.ProgramSpec {
	l := p.layout
	at := func(from int, size asm.Size, into asm.Register) asm.Instructions {
		// Words of the header are in network order.
		return asm.Instructions{
			asm.LoadMem(into, asm.RFP, int16(anHeader+from), size),
			asm.HostTo(asm.BE, into, size),
		}
	}
	// behind loads a word of the header from so far behind where an option is, byte
	// by byte: options are not aligned (and spoils r0, r2 and r3).
	behind := func(option int16, from int, into asm.Register) asm.Instructions {
		ins := asm.Instructions{
			asm.Mov.Reg(asm.R3, asm.RFP),
			asm.LoadMem(asm.R2, asm.RFP, option, asm.DWord),
			asm.And.Imm(asm.R2, 63),
			asm.JGT.Imm(asm.R2, int32(tcpLongest-4-from), leave),
			asm.Add.Reg(asm.R3, asm.R2),
			asm.Mov.Imm(into, 0),
		}
		for i := range 4 {
			ins = append(ins,
				asm.LSh.Imm(into, 8),
				asm.LoadMem(asm.R0, asm.R3, int16(anHeader+from+i), asm.Byte),
				asm.Or.Reg(into, asm.R0))
		}
		return ins
	}
	// before goes to no unless a is before b, as sequence numbers (and spoils r0).
	before := func(a, b asm.Register, no string) asm.Instructions {
		return asm.Instructions{
			asm.Mov.Reg32(asm.R0, a),
			asm.Sub.Reg32(asm.R0, b),
			asm.JSGE.Imm32(asm.R0, 0, no),
		}
	}
	ins := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R7, asm.R6, 0, asm.DWord),
		asm.JEq.Imm(asm.R7, 0, leave),
		asm.Mov.Reg(asm.R1, asm.R7),
		asm.FnSkcToTcpSock.Call(),
		asm.JEq.Imm(asm.R0, 0, leave),
		asm.Mov.Reg(asm.R9, asm.R0),
		asm.LoadMem(asm.R1, asm.R9, l.totalRetrans.offset, asm.Word),
		asm.JEq.Imm(asm.R1, 0, leave),
	}
	ins = append(ins, storage(p.watched, 0)...)
	ins = append(ins,
		asm.JEq.Imm(asm.R0, 0, leave),
		asm.Mov.Reg(asm.R8, asm.R0),

		asm.Mov.Reg(asm.R1, asm.RFP),
		asm.Add.Imm(asm.R1, anHeader),
		asm.Mov.Imm(asm.R2, tcpLongest),
		asm.LoadMem(asm.R3, asm.R6, 8, asm.DWord),
		asm.JEq.Imm(asm.R3, 0, leave),
		asm.LoadMem(asm.R3, asm.R3, l.skbData.offset, asm.DWord),
		asm.FnProbeReadKernel.Call(),
		asm.JNE.Imm(asm.R0, 0, leave),
		asm.LoadMem(asm.R0, asm.RFP, anHeader+12, asm.Byte),
		asm.LoadMem(asm.R2, asm.RFP, anHeader+12, asm.Byte),
		asm.Sub.Reg(asm.R0, asm.R2),
		asm.StoreMem(asm.RFP, anSACK, asm.R0, asm.DWord),
		asm.StoreMem(asm.RFP, anTS, asm.R0, asm.DWord),
		asm.RSh.Imm(asm.R2, 4),
		asm.LSh.Imm(asm.R2, 2),
		asm.Mov.Imm(asm.R1, tcpHeader))
	// r1 is where in the header, r2 how long that is; r0 is 0, but the kernel's
	// verifier takes it for a number that it does not know. Of one that it knows it
	// would follow every way through the options apart, for half a second.
	for i := range maxOptions {
		next, other := fmt.Sprint("option ", i+1), fmt.Sprint("other ", i)
		if i == maxOptions-1 {
			next = "options read"
		}
		one := asm.Instructions{
			asm.Add.Reg(asm.R1, asm.R0),
			asm.JGE.Reg(asm.R1, asm.R2, "options read"),
			asm.JGT.Imm(asm.R1, tcpLongest-2, "options read"),
			asm.Mov.Reg(asm.R3, asm.RFP),
			asm.Add.Reg(asm.R3, asm.R1),
			asm.LoadMem(asm.R4, asm.R3, anHeader, asm.Byte),
			asm.JEq.Imm(asm.R4, optEnd, "options read"),
			asm.JNE.Imm(asm.R4, optNothing, other),
			asm.Add.Imm(asm.R1, 1),
			asm.Ja.Label(next),
			asm.LoadMem(asm.R5, asm.R3, anHeader+1, asm.Byte).WithSymbol(other),
			asm.JLT.Imm(asm.R5, 2, "options read"),
			asm.JNE.Imm(asm.R4, optSACK, other+" no SACK"),
			asm.JLT.Imm(asm.R5, 10, other+" no SACK"),
			asm.StoreMem(asm.RFP, anSACK, asm.R1, asm.DWord),
			asm.JNE.Imm(asm.R4, optTimestamps, other+" passed").WithSymbol(other + " no SACK"),
			asm.JNE.Imm(asm.R5, 10, other+" passed"),
			asm.StoreMem(asm.RFP, anTS, asm.R1, asm.DWord),
			asm.Add.Reg(asm.R1, asm.R5).WithSymbol(other + " passed"),
			asm.Ja.Label(next),
		}
		if i > 0 {
			one[0] = one[0].WithSymbol(fmt.Sprint("option ", i))
		}
		ins = append(ins, one...)
	}
	// The event, still of no sort.
	ins = append(ins, asm.Mov.Imm(asm.R1, 0).WithSymbol("options read"))
	for at := 0; at < evBytes; at += 8 {
		ins = append(ins, store(at, asm.R1, asm.DWord))
	}

	// A duplicate: r4 to r5 is the first block, r1 what is acknowledged.
	ins = append(ins,
		asm.LoadMem(asm.R1, asm.RFP, anSACK, asm.DWord),
		asm.JEq.Imm(asm.R1, 0, "no duplicate"))
	ins = append(ins, behind(anSACK, 2, asm.R4)...)
	ins = append(ins, behind(anSACK, 6, asm.R5)...)
	ins = append(ins, before(asm.R4, asm.R5, "no duplicate")...)
	ins = append(ins, at(8, asm.Word, asm.R1)...)
	ins = append(ins, before(asm.R4, asm.R1, "not below")...)
	ins = append(ins,
		asm.Ja.Label("duplicate"),
		asm.Mov.Reg(asm.R3, asm.RFP).WithSymbol("not below"),
		asm.LoadMem(asm.R2, asm.RFP, anSACK, asm.DWord),
		asm.And.Imm(asm.R2, 63),
		asm.JGT.Imm(asm.R2, tcpLongest-18, "no duplicate"),
		asm.Add.Reg(asm.R3, asm.R2),
		asm.LoadMem(asm.R1, asm.R3, anHeader+1, asm.Byte),
		asm.JLT.Imm(asm.R1, 18, "no duplicate"))
	ins = append(ins, behind(anSACK, 10, asm.R1)...)
	ins = append(ins,
		asm.Mov.Reg32(asm.R0, asm.R4),
		asm.Sub.Reg32(asm.R0, asm.R1),
		asm.JSLT.Imm32(asm.R0, 0, "no duplicate"))
	ins = append(ins, behind(anSACK, 14, asm.R1)...)
	ins = append(ins,
		asm.Mov.Reg32(asm.R0, asm.R1),
		asm.Sub.Reg32(asm.R0, asm.R5),
		asm.JSLT.Imm32(asm.R0, 0, "no duplicate"),
		store(evSeq, asm.R4, asm.Word).WithSymbol("duplicate"),
		store(evEndSeq, asm.R5, asm.Word),
		asm.StoreImm(asm.RFP, evWhat-evBytes, int64(whatDuplicate), asm.Byte))
	ins = append(ins, p.answer("no duplicate")...)

	// An echo: r4 is what was not acknowledged yet, and is now.
	ins = append(ins, asm.LoadMem(asm.R4, asm.R9, l.sndUna.offset, asm.Word).WithSymbol("no duplicate"))
	ins = append(ins, at(8, asm.Word, asm.R5)...)
	ins = append(ins, before(asm.R4, asm.R5, leave)...)
	ins = append(ins, asm.LoadMem(asm.R1, asm.R8, wtTo, asm.Word))
	ins = append(ins, before(asm.R4, asm.R1, leave)...)
	ins = append(ins,
		asm.FnKtimeGetNs.Call(),
		asm.StoreMem(asm.R8, wtAcked, asm.R0, asm.DWord),
		asm.LoadMem(asm.R1, asm.RFP, anTS, asm.DWord),
		asm.JEq.Imm(asm.R1, 0, leave))
	ins = append(ins, behind(anTS, 6, asm.R5)...)
	ins = append(ins, asm.LoadMem(asm.R1, asm.R8, wtTS, asm.Word))
	ins = append(ins, before(asm.R5, asm.R1, leave)...)
	ins = append(ins,
		asm.LoadMem(asm.R4, asm.R9, l.sndUna.offset, asm.Word),
		store(evSeq, asm.R4, asm.Word),
		store(evTS, asm.R5, asm.Word),
		asm.StoreImm(asm.RFP, evWhat-evBytes, int64(whatEchoed), asm.Byte))
	ins = append(ins, p.answer(leave)...)
	return tracing("decaf_answers", ebpf.AttachTraceRawTp, "tcp_probe", append(ins, end()...))
}

// answer sends the event of the socket in r7 and goes on at then, which follows
// at once. It wakes nobody: who reads what was sent again comes again anyway.
func (p *programs) answer(then string) asm.Instructions {
	ins := append(asm.Instructions{
		asm.StoreImm(asm.RFP, evQuiet-evBytes, 1, asm.Byte),
		asm.FnKtimeGetNs.Call(),
		store(evTime, asm.R0, asm.DWord),
	}, p.cookie(asm.R7)...)
	ins = append(ins, asm.Mov.Imm(asm.R4, bpfRingNoWakeup))
	return append(ins, p.ring.output(evBytes, then)...)
}

// lately makes the event of the socket in r7 one that wakes nobody where its
// latest retransmit was so near that the reader still comes by itself.
func (p *programs) lately() asm.Instructions {
	return append(storage(p.watched, 0),
		asm.JEq.Imm(asm.R0, 0, "long ago"),
		asm.LoadMem(asm.R8, asm.R0, wtLast, asm.DWord),
		asm.LoadImm(asm.R1, int64(askAgain), asm.DWord),
		asm.Add.Reg(asm.R8, asm.R1),
		asm.FnKtimeGetNs.Call(),
		asm.JGE.Reg(asm.R0, asm.R8, "long ago"),
		asm.StoreImm(asm.RFP, evQuiet-evBytes, 1, asm.Byte),
		asm.Mov.Imm(asm.R1, 0).WithSymbol("long ago"))
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
		asm.LoadMem(asm.R1, asm.R8, wtAcked, asm.DWord),
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
	ins = append(ins, p.write(evBytes)...)
	ins = append(ins,
		asm.LoadMem(asm.R1, asm.RFP, evDSACKDups-evBytes, asm.Word),
		asm.StoreMem(asm.R8, wtDups, asm.R1, asm.Word),
		asm.LoadMem(asm.R1, asm.RFP, evSettled-evBytes, asm.Byte),
		asm.JEq.Imm(asm.R1, 0, leave),
		asm.LoadMapPtr(asm.R1, p.watched.FD()),
		asm.Mov.Reg(asm.R2, asm.R7),
		asm.FnSkStorageDelete.Call())
	return tracing("decaf_look", ebpf.AttachTraceIter, "bpf_sk_storage_map", append(ins, end()...))
}
