package hostagent

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// The programs that take samples of flows (layout in flowsample.go): of every
// socket that an iterator comes by, and of every connection at the moment it
// ends. One more notes on the socket itself the highest round-trip time at the
// moments when its congestion state changes. None does anything for a packet.

// flowMaps are what the flow programs share.
type flowMaps struct {
	peak *ebpf.Map // on each socket: its highest srtt_us since the sample before
	ring *ring     // last samples
}

// peakSpec is a value on a socket itself, gone with it: 32 bits as fsPeakRTT.
func peakSpec() *ebpf.MapSpec {
	return &ebpf.MapSpec{
		Name: "decaf_peak", Type: ebpf.SkStorage,
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

// flowLayout are the offsets that only samples need.
type flowLayout struct {
	received, writeSeq, sndNxt, rcvNxt, copiedSeq field // struct tcp_sock
	srtt, cwnd, mss, sndWnd, outOfOrder           field // likewise
	chronoStart, chronoStat, chronoType           field // likewise
	timeouts                                      field // likewise, size 0 before Linux 6.7
	skFlags                                       field // struct sock_common
}

// sockDone is the bit of skc_flags that says the other end's FIN has come:
// SOCK_DONE, include/net/sock.h.
const sockDone = 1

func readFlowLayout(spec *btf.Spec) (*flowLayout, error) {
	l := new(flowLayout)
	var errs []error
	for _, w := range []struct {
		into            *field
		structure, path string
		size            int
	}{
		{&l.received, "tcp_sock", "bytes_received", 8},
		{&l.writeSeq, "tcp_sock", "write_seq", 4},
		{&l.sndNxt, "tcp_sock", "snd_nxt", 4},
		{&l.rcvNxt, "tcp_sock", "rcv_nxt", 4},
		{&l.copiedSeq, "tcp_sock", "copied_seq", 4},
		{&l.srtt, "tcp_sock", "srtt_us", 4},
		{&l.cwnd, "tcp_sock", "snd_cwnd", 4},
		{&l.mss, "tcp_sock", "mss_cache", 4},
		{&l.sndWnd, "tcp_sock", "snd_wnd", 4},
		{&l.outOfOrder, "tcp_sock", "rcv_ooopack", 4},
		{&l.chronoStart, "tcp_sock", "chrono_start", 4},
		{&l.chronoStat, "tcp_sock", "chrono_stat", 12},
		{&l.chronoType, "tcp_sock", "chrono_type", 1},
		{&l.skFlags, "sock_common", "skc_flags", 8},
	} {
		f, err := fieldOf(spec, w.structure, w.path)
		switch {
		case err != nil:
			errs = append(errs, err)
		case f.size != w.size:
			errs = append(errs, fmt.Errorf("struct %s: %s is %d bytes wide in this kernel, want %d", w.structure, w.path, f.size, w.size))
		}
		*w.into = f
	}
	if f, err := fieldOf(spec, "tcp_sock", "total_rto"); err == nil && f.size == 2 {
		l.timeouts = f
	}
	return l, errors.Join(errs...)
}

// sampler emits the flow programs.
type sampler struct {
	*programs
	m    flowMaps
	flow *flowLayout
}

// peaks: tcp_cong_state_set(sk, new). Round-trip times are highest where
// packets queue up or get lost, and that is when the state changes.
func (p *sampler) peaks() *ebpf.ProgramSpec {
	ins := p.begin(0)
	ins = append(ins, p.tcpSock()...)
	ins = append(ins,
		asm.LoadMapPtr(asm.R1, p.m.peak.FD()),
		asm.Mov.Reg(asm.R2, asm.R7),
		asm.Mov.Imm(asm.R3, 0),
		asm.Mov.Imm(asm.R4, bpfStorageCreate),
		asm.FnSkStorageGet.Call(),
		asm.JEq.Imm(asm.R0, 0, leave),
		asm.LoadMem(asm.R1, asm.R9, p.flow.srtt.offset, asm.Word),
		asm.LoadMem(asm.R2, asm.R0, 0, asm.DWord),
		asm.JGE.Reg(asm.R2, asm.R1, leave),
		asm.StoreMem(asm.R0, 0, asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R0, 0).WithSymbol(leave),
		asm.Return())
	return tracing("decaf_flow_peak", ebpf.AttachTraceRawTp, "tcp_cong_state_set", ins)
}

// dump: iterator over all TCP sockets of the namespace it is opened in;
// its context holds metadata and socket, or none at the end.
func (p *sampler) dump() *ebpf.ProgramSpec {
	ins := p.begin(8)
	ins = append(ins, p.sample(sampleLive)...)
	ins = append(ins,
		asm.LoadMem(asm.R1, asm.R6, 0, asm.DWord),
		asm.LoadMem(asm.R1, asm.R1, p.layout.seqFile.offset, asm.DWord),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -fsBytes),
		asm.Mov.Imm(asm.R3, fsBytes),
		asm.FnSeqWrite.Call(),
		// What does not fit the kernel's page any more is asked for again.
		asm.Mov.Imm(asm.R0, 0).WithSymbol(leave),
		asm.Return())
	return tracing("decaf_flow_dump", ebpf.AttachTraceIter, "tcp", ins)
}

// ended: inet_sock_set_state(sk, old, new) with new CLOSE. This is the last
// moment at which all is there: a connect call that fails, and SO_LINGER 0, wipe
// addresses and counts before tcp_destroy_sock, which comes only when the
// socket's owner gives it back. The socket still has its old state.
func (p *sampler) ended() *ebpf.ProgramSpec {
	ins := p.begin(0)
	ins = append(ins,
		asm.LoadMem(asm.R1, asm.R6, 16, asm.DWord),
		asm.JNE.Imm32(asm.R1, tcpClose, leave),
		asm.LoadMem(asm.R1, asm.R6, 8, asm.DWord),
		asm.JEq.Imm32(asm.R1, tcpClose, leave),
		asm.JEq.Imm32(asm.R1, tcpListen, leave))
	ins = append(ins, p.sample(sampleEnded)...)
	return tracing("decaf_flow_end", ebpf.AttachTraceRawTp, "inet_sock_set_state", append(ins, p.hand()...))
}

// aborted: tcp_send_reset(sk, skb[, reason]), of a socket that ended just
// before: its last sample did not know yet.
func (p *sampler) aborted() *ebpf.ProgramSpec {
	ins := p.begin(0)
	ins = append(ins,
		asm.LoadMem(asm.R1, asm.R7, p.layout.state.offset, asm.Byte),
		asm.JNE.Imm(asm.R1, tcpClose, leave))
	ins = append(ins, p.sample(sampleReset)...)
	return tracing("decaf_flow_rst", ebpf.AttachTraceRawTp, "tcp_send_reset", append(ins, p.hand()...))
}

// hand gives a last sample to the ring. The reader is woken only when the ring
// is half full: it comes by itself at each interval's end, and a wake-up costs
// ten times what the rest does.
func (p *sampler) hand() asm.Instructions {
	return asm.Instructions{
		asm.LoadMapPtr(asm.R1, p.m.ring.m.FD()),
		asm.Mov.Imm(asm.R2, bpfRingAvailable),
		asm.FnRingbufQuery.Call(),
		asm.Mov.Imm(asm.R4, bpfRingNoWakeup),
		asm.JLT.Imm(asm.R0, int32(p.m.ring.m.MaxEntries()/2), "quiet"),
		asm.Mov.Imm(asm.R4, bpfRingForceWakeup),
		asm.LoadMapPtr(asm.R1, p.m.ring.m.FD()).WithSymbol("quiet"),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -fsBytes),
		asm.Mov.Imm(asm.R3, fsBytes),
		asm.FnRingbufOutput.Call(),
		asm.JEq.Imm(asm.R0, 0, leave),
		asm.LoadMapValue(asm.R1, p.m.ring.lost.FD(), 0),
		asm.Mov.Imm(asm.R2, 1),
		asm.AddAtomic.Mem(asm.R1, asm.R2, asm.DWord, 0),
		asm.Mov.Imm(asm.R0, 0).WithSymbol(leave),
		asm.Return(),
	}
}

// put stores a register into the sample's own part on the stack, which lies
// below the event.
func (p *sampler) put(at int, from asm.Register, size asm.Size) asm.Instruction {
	return asm.StoreMem(asm.RFP, int16(at-fsBytes), from, size)
}

// sample builds a sample of the TCP socket in r7, and leaves for those that
// neither are connected nor listen.
func (p *sampler) sample(sort int32) asm.Instructions {
	l, f := p.layout, p.flow
	ins := asm.Instructions{asm.Mov.Imm(asm.R1, 0)}
	for at := 0; at < fsStory; at += 8 {
		ins = append(ins, p.put(at, asm.R1, asm.DWord))
	}
	ins = append(ins, p.tcpSock()...)
	ins = append(ins,
		asm.Mov.Reg(asm.R7, asm.R9), // an iterator's socket has no more than a struct sock_common
		asm.LoadMem(asm.R1, asm.R7, l.dport.offset, asm.Half))
	if sort == sampleLive {
		ins = append(ins,
			asm.JNE.Imm(asm.R1, 0, "connected"),
			asm.LoadMem(asm.R2, asm.R7, l.state.offset, asm.Byte),
			asm.JNE.Imm(asm.R2, tcpListen, leave),
			asm.Mov.Imm(asm.R1, 0).WithSymbol("connected"))
	} else {
		ins = append(ins, asm.JEq.Imm(asm.R1, 0, leave)) // never got anywhere
	}
	copies := []struct {
		at   int
		from field
		skip int16
		size asm.Size
	}{
		{fsReceived, f.received, 0, asm.DWord},
		{fsChronoStart, f.chronoStart, 0, asm.Word},
		{fsChronoRwnd, f.chronoStat, 4 * (chronoRwndLimited - 1), asm.Word},
		{fsPackets, l.dataSegsOut, 0, asm.Word},
		{fsWriteSeq, f.writeSeq, 0, asm.Word},
		{fsSndNxt, f.sndNxt, 0, asm.Word},
		{fsRcvNxt, f.rcvNxt, 0, asm.Word},
		{fsCopiedSeq, f.copiedSeq, 0, asm.Word},
		{fsSRTT, f.srtt, 0, asm.Word},
		{fsCwnd, f.cwnd, 0, asm.Word},
		{fsMSS, f.mss, 0, asm.Word},
		{fsSndWnd, f.sndWnd, 0, asm.Word},
		{fsOutOfOrder, f.outOfOrder, 0, asm.Word},
		{fsErr, l.err, 0, asm.Word},
		{fsTimeouts, f.timeouts, 0, asm.Half},
		{fsChronoType, f.chronoType, 0, asm.Byte},
	}
	for _, c := range copies {
		if c.from.size > 0 {
			ins = append(ins,
				asm.LoadMem(asm.R1, asm.R9, c.from.offset+c.skip, c.size),
				p.put(c.at, asm.R1, c.size))
		}
	}
	ins = append(ins,
		asm.LoadMem(asm.R1, asm.R9, l.bytesSent.offset, asm.DWord),
		asm.LoadMem(asm.R2, asm.R9, l.bytesRetrans.offset, asm.DWord),
		asm.Sub.Reg(asm.R1, asm.R2),
		p.put(fsSent, asm.R1, asm.DWord),
		asm.LoadMem(asm.R1, asm.R9, f.skFlags.offset, asm.DWord),
		asm.RSh.Imm(asm.R1, sockDone),
		asm.And.Imm(asm.R1, 1),
		p.put(fsDone, asm.R1, asm.Byte),
		asm.Mov.Imm(asm.R1, sort),
		p.put(fsSort, asm.R1, asm.Byte),
		asm.FnJiffies64.Call(),
		p.put(fsJiffies, asm.R0, asm.Word))
	ins = append(ins, p.cgroup(evCgroup-evBytes)...)
	ins = append(ins, p.addresses(asm.R7)...)
	ins = append(ins, p.boundPort()...)
	ins = append(ins, p.cookie(asm.R7)...)
	ins = append(ins,
		asm.LoadMapPtr(asm.R1, p.m.peak.FD()),
		asm.Mov.Reg(asm.R2, asm.R7),
		asm.Mov.Imm(asm.R3, 0),
		asm.Mov.Imm(asm.R4, 0),
		asm.FnSkStorageGet.Call(),
		asm.JEq.Imm(asm.R0, 0, "flat"),
		asm.LoadMem(asm.R1, asm.R0, 0, asm.DWord),
		p.put(fsPeakRTT, asm.R1, asm.Word),
		asm.Mov.Imm(asm.R1, 0),
		asm.StoreMem(asm.R0, 0, asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R1, 0).WithSymbol("flat"))
	return append(ins, p.storyInto(fsStory-fsBytes, "untold")...)
}
