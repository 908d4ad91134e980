package hostagent

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// The programs that take samples of flows (layout in flowsample.go): of every
// socket that an iterator comes by and of which there is news, and of every
// connection at the moment it ends. One more notes with the socket's story its
// highest round-trip time in between.
//
// To come by all sockets costs a microsecond each, most of it in cache misses,
// and most have no news. So there is a list of those that have some, as storage
// of the sockets: a socket is put there when it receives something but a
// keep-alive, sends something again, or its story changes, and taken from it when
// a sample was shown that says it all and nothing is on its way. What nobody hears
// of, that a process reads or writes without a packet that comes in, waits for the
// next dump by all sockets; and so does what a race between two processors keeps
// from the list.

// flowMaps are what the flow programs share.
type flowMaps struct {
	all  *ebpf.Map // array of one word, u32; not 0: dump shows sockets without news too
	ring *ring     // last samples
}

// newsSpec is the list of sockets with news. What is in a value does not matter.
func newsSpec() *ebpf.MapSpec {
	return &ebpf.MapSpec{
		Name: "decaf_news", Type: ebpf.SkStorage,
		KeySize: 4, ValueSize: 8, Flags: bpfNoPrealloc,
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
	rcvWnd, rttVar, rttMin, reorderings           field // likewise
	probes                                        field // struct inet_connection_sock
	uid                                           field // struct sock
	skFlags                                       field // struct sock_common
	delivered, packetsOut                         field // struct tcp_sock
	lastRTT                                       field // likewise: the latest sample, µs
	ackSeq                                        field // struct tcp_skb_cb, within cb
}

// minmaxValue is where the value lies in a struct minmax_sample, behind its time:
// include/linux/win_minmax.h.
const minmaxValue = 4

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
		{&l.delivered, "tcp_sock", "delivered", 4},
		{&l.packetsOut, "tcp_sock", "packets_out", 4},
		{&l.ackSeq, "tcp_skb_cb", "ack_seq", 4},
		{&l.lastRTT, "tcp_sock", "rack.rtt_us", 4},
		{&l.rcvWnd, "tcp_sock", "rcv_wnd", 4},
		{&l.rttVar, "tcp_sock", "mdev_us", 4},
		{&l.rttMin, "tcp_sock", "rtt_min.s", 24},
		{&l.reorderings, "tcp_sock", "reord_seen", 4},
		{&l.probes, "inet_connection_sock", "icsk_probes_out", 1},
		{&l.uid, "sock", "sk_uid.val", 4},
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
	// Two bits of a byte before Linux 6.18, then a byte.
	if l.chronoType.mask == 0 {
		l.chronoType.mask = 0xff
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

// peaks notes the round-trip time of a socket with its story, where it is the
// highest since the sample before. Sockets without a story get theirs when dump
// comes by. It runs at tcp_cong_state_set(sk, new) or, with received, at
// tcp_probe(sk, skb), a packet that an established connection receives, before it
// is looked at: what it leads to is there when the next one comes. Then it lists
// the socket too. For a keep-alive, or the answer to one, it does nothing.
func (p *sampler) peaks(received bool) *ebpf.ProgramSpec {
	f := p.flow
	ins := p.ofOurs()
	ins = append(ins,
		asm.Mov.Reg(asm.R1, asm.R7),
		asm.FnSkcToTcpSock.Call(),
		asm.JEq.Imm(asm.R0, 0, leave),
		asm.Mov.Reg(asm.R9, asm.R0))
	at := "tcp_cong_state_set"
	if received {
		at = "tcp_probe"
		cb := func(f field) int16 { return p.layout.cb.offset + f.offset }
		ins = append(ins,
			asm.LoadMem(asm.R1, asm.R9, f.packetsOut.offset, asm.Word),
			asm.JNE.Imm(asm.R1, 0, "news"),
			asm.LoadMem(asm.R3, asm.R6, 8, asm.DWord),
			asm.JEq.Imm(asm.R3, 0, leave),
			asm.LoadMem(asm.R1, asm.R3, cb(p.layout.seq), asm.Word),
			asm.LoadMem(asm.R2, asm.R3, cb(p.layout.endSeq), asm.Word),
			asm.JNE.Reg(asm.R1, asm.R2, "news"),
			asm.LoadMem(asm.R1, asm.R3, cb(f.ackSeq), asm.Word),
			asm.LoadMem(asm.R2, asm.R9, p.layout.sndUna.offset, asm.Word),
			asm.JEq.Reg(asm.R1, asm.R2, leave),
			asm.Mov.Imm(asm.R1, 0).WithSymbol("news"))
	}
	ins = append(ins, p.story(0)...)
	ins = append(ins, asm.JEq.Imm(asm.R8, 0, leave))
	if received {
		ins = append(ins, p.list("listed")...)
	}
	ins = append(ins, p.peak()...)
	ins = append(ins,
		asm.JGE.Reg(asm.R2, asm.R1, leave),
		asm.StoreMem(asm.R8, csPeakRTT, asm.R1, asm.Word))
	return tracing("decaf_flow_peak", ebpf.AttachTraceRawTp, at, append(ins, end()...))
}

// ofOurs keeps the arguments, of which the first is the socket, in r7. It leaves
// unless that is in a namespace that is watched.
func (p *sampler) ofOurs() asm.Instructions {
	return append(p.space(0), p.ours(evNetNS-evBytes, leave)...)
}

// peak makes r1 the round-trip time of the socket in r9, the latest sample or the
// smoothed one, and r2 the highest before, in its story in r8.
func (p *sampler) peak() asm.Instructions {
	return asm.Instructions{
		asm.LoadMem(asm.R1, asm.R9, p.flow.lastRTT.offset, asm.Word),
		asm.LoadMem(asm.R2, asm.R9, p.flow.srtt.offset, asm.Word),
		asm.RSh.Imm(asm.R2, 3),
		asm.JGE.Reg(asm.R1, asm.R2, "latest"),
		asm.Mov.Reg(asm.R1, asm.R2),
		asm.LoadMem(asm.R2, asm.R8, csPeakRTT, asm.Word).WithSymbol("latest"),
	}
}

// dump: iterator over all TCP sockets of the namespace it is opened in;
// its context holds metadata and socket, or none at the end. It holds the lock
// of the socket.
func (p *sampler) dump() *ebpf.ProgramSpec {
	return tracing("decaf_flow_dump", ebpf.AttachTraceIter, "tcp", append(p.begin(8), p.show()...))
}

// listed: iterator over the list of sockets with news; its context holds
// metadata, map, socket and value, or none at the end. The socket may change
// meanwhile, and even end.
func (p *sampler) listed() *ebpf.ProgramSpec {
	ins := p.begin(16)
	ins = append(ins,
		asm.LoadMem(asm.R1, asm.R7, p.layout.state.offset, asm.Byte),
		asm.JEq.Imm(asm.R1, tcpClose, leave))
	return tracing("decaf_flow_news", ebpf.AttachTraceIter, "bpf_sk_storage_map", append(ins, p.show()...))
}

// show shows a sample of the socket in r7 to who reads the iterator.
func (p *sampler) show() asm.Instructions {
	ins := p.sample(sampleLive)
	ins = append(ins, p.write(fsBytes)...)
	ins = append(ins,
		asm.JEq.Imm(asm.R8, 0, leave),
		// A listener is shown always: its story becomes that of what comes in.
		asm.LoadMem(asm.R1, asm.RFP, evDstPort-evBytes, asm.Half),
		asm.JEq.Imm(asm.R1, 0, leave))
	for i, m := range p.marks() {
		// As the sample has them, not as they are by now.
		ins = append(ins,
			asm.LoadMem(asm.R1, asm.RFP, int16(m.in-fsBytes), asm.Word),
			asm.StoreMem(asm.R8, int16(csMarks+4*i), asm.R1, asm.Word))
	}
	ins = append(ins,
		asm.Mov.Imm(asm.R1, 0),
		asm.StoreMem(asm.R8, csPeakRTT, asm.R1, asm.Word),
		asm.Mov.Imm(asm.R1, 1),
		asm.StoreMem(asm.R8, csShown, asm.R1, asm.Word))
	return append(ins, end()...)
}

// sweep: iterator over the list of sockets with news, once what they are was
// read: who has none any more leaves it. It shows nothing, for the iterator
// would lose its place between two reads when what it passed has gone.
func (p *sampler) sweep() *ebpf.ProgramSpec {
	ins := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R7, asm.R6, 16, asm.DWord),
		asm.JEq.Imm(asm.R7, 0, leave),
		asm.Mov.Reg(asm.R1, asm.R7),
		asm.FnSkcToTcpSock.Call(),
		asm.JEq.Imm(asm.R0, 0, leave),
		asm.Mov.Reg(asm.R9, asm.R0),
		// In other states what comes in passes no tracepoint.
		asm.LoadMem(asm.R1, asm.R7, p.layout.state.offset, asm.Byte),
		asm.JNE.Imm(asm.R1, tcpEstablished, leave),
	}
	ins = append(ins, p.story(0)...)
	ins = append(ins,
		asm.JEq.Imm(asm.R8, 0, leave),
		asm.LoadMem(asm.R1, asm.R8, csShown, asm.Word),
		asm.JEq.Imm(asm.R1, 0, leave))
	ins = append(ins, p.unlike(leave)...)
	ins = append(ins,
		// In this order, or one that is put there at the same time stays off it
		// for good.
		asm.LoadMapPtr(asm.R1, p.news.FD()),
		asm.Mov.Reg(asm.R2, asm.R7),
		asm.FnSkStorageDelete.Call(),
		asm.Mov.Imm(asm.R1, 0),
		asm.StoreMem(asm.R8, csListed, asm.R1, asm.Word))
	return tracing("decaf_flow_swep", ebpf.AttachTraceIter, "bpf_sk_storage_map", append(ins, end()...))
}

// again: tcp_retransmit_skb(sk, ...): what is sent again is news, also where
// nothing comes in.
func (p *sampler) again() *ebpf.ProgramSpec {
	ins := append(p.ofOurs(), p.story(0)...)
	ins = append(ins, asm.JEq.Imm(asm.R8, 0, leave))
	ins = append(ins, p.changed()...)
	return tracing("decaf_flow_rtx", ebpf.AttachTraceRawTp, "tcp_retransmit_skb", append(ins, end()...))
}

// onlyNews leaves for the socket in r9 whose latest sample, by its story in r8, says
// all there is to say, unless all are asked for; and for one that ended.
func (p *sampler) onlyNews() asm.Instructions {
	ins := asm.Instructions{
		asm.JEq.Imm(asm.R8, 0, "news"),
		asm.LoadMem(asm.R1, asm.R8, csEnded, asm.Word),
		asm.JNE.Imm(asm.R1, 0, leave),
		asm.LoadMem(asm.R1, asm.R8, csShown, asm.Word),
		asm.JEq.Imm(asm.R1, 0, "news"),
		asm.LoadMapValue(asm.R1, p.m.all.FD(), 0),
		asm.LoadMem(asm.R1, asm.R1, 0, asm.Word),
		asm.JNE.Imm(asm.R1, 0, "news"),
	}
	ins = append(ins, p.unlike("news")...)
	return append(ins,
		asm.Ja.Label(leave),
		asm.Mov.Imm(asm.R1, 0).WithSymbol("news"))
}

// marks are the words of struct tcp_sock some of which change whenever what a sample
// tells does, and where samples have them; the story (retransmits, states, errors)
// has its own way to say so. Keep-alives change none, for they are no news.
func (p *sampler) marks() [flowMarks]mark {
	l, f := p.layout, p.flow
	return [...]mark{
		{f.delivered, fsDelivered}, {f.rcvNxt, fsRcvNxt}, {l.dataSegsOut, fsPackets}, {f.writeSeq, fsWriteSeq},
		{f.copiedSeq, fsCopiedSeq}, {f.sndWnd, fsSndWnd}, {f.outOfOrder, fsOutOfOrder}, {l.dsackDups, fsEvent + evDSACKDups},
	}
}

type mark struct {
	of field
	in int
}

// flowMarks is how many marks there are.
const flowMarks = 8

// unlike goes to label where the socket in r9 is not as its latest sample says, by
// the marks in its story in r8.
func (p *sampler) unlike(label string) asm.Instructions {
	f := p.flow
	var ins asm.Instructions
	for i, m := range p.marks() {
		ins = append(ins,
			asm.LoadMem(asm.R1, asm.R9, m.of.offset, asm.Word),
			asm.LoadMem(asm.R2, asm.R8, int16(csMarks+4*i), asm.Word),
			asm.JNE.Reg(asm.R1, asm.R2, label))
	}
	return append(ins,
		// With something to send, the time counts that the other end's window
		// holds it up.
		asm.LoadMem(asm.R1, asm.R9, f.chronoType.offset, asm.Byte),
		asm.And.Imm(asm.R1, int32(f.chronoType.mask)<<f.chronoType.shift),
		asm.JNE.Imm(asm.R1, 0, label))
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
	ins = append(ins,
		asm.JEq.Imm(asm.R8, 0, "no story"),
		asm.Mov.Imm(asm.R1, 1),
		asm.StoreMem(asm.R8, csEnded, asm.R1, asm.Word),
		asm.Mov.Imm(asm.R1, 0).WithSymbol("no story"))
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
// is half full: it comes by itself each second (heldEvery), and a wake-up costs
// ten times what the rest does.
func (p *sampler) hand() asm.Instructions {
	give := p.m.ring.output(fsBytes, leave)
	give[0] = give[0].WithSymbol("quiet")
	return slices.Concat(asm.Instructions{
		asm.LoadMapPtr(asm.R1, p.m.ring.m.FD()),
		asm.Mov.Imm(asm.R2, bpfRingAvailable),
		asm.FnRingbufQuery.Call(),
		asm.Mov.Imm(asm.R4, bpfRingNoWakeup),
		asm.JLT.Imm(asm.R0, int32(p.m.ring.m.MaxEntries()/2), "quiet"),
		asm.Mov.Imm(asm.R4, bpfRingForceWakeup),
	}, give, end())
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
	ins := p.tcpSock()
	ins = append(ins,
		asm.Mov.Reg(asm.R7, asm.R9), // an iterator's socket has no more than a struct sock_common
		asm.LoadMem(asm.R1, asm.R7, l.dport.offset, asm.Half))
	if sort == sampleLive {
		ins = append(ins,
			asm.JNE.Imm(asm.R1, 0, "connected"),
			asm.LoadMem(asm.R2, asm.R7, l.state.offset, asm.Byte),
			asm.JNE.Imm(asm.R2, tcpListen, leave),
			asm.Mov.Imm(asm.R1, 0).WithSymbol("connected"))
		ins = append(ins, p.story(bpfStorageCreate)...)
		ins = append(ins, p.onlyNews()...)
	} else {
		ins = append(ins, asm.JEq.Imm(asm.R1, 0, leave)) // never got anywhere
		ins = append(ins, p.story(0)...)
	}
	ins = append(ins, asm.Mov.Imm(asm.R1, 0))
	for at := 0; at < fsStory; at += 8 {
		ins = append(ins, p.put(at, asm.R1, asm.DWord))
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
		{fsDelivered, f.delivered, 0, asm.Word},
		{fsRcvWnd, f.rcvWnd, 0, asm.Word},
		{fsRTTVar, f.rttVar, 0, asm.Word},
		{fsRTTMin, f.rttMin, minmaxValue, asm.Word},
		{fsReorderings, f.reorderings, 0, asm.Word},
		{fsUID, f.uid, 0, asm.Word},
		{fsProbes, f.probes, 0, asm.Byte},
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
	if sort != sampleLive {
		ins = append(ins, asm.FnKtimeGetNs.Call(), p.put(fsTime, asm.R0, asm.DWord))
	}
	ins = append(ins, p.cgroup(evCgroup-evBytes)...)
	ins = append(ins, p.addresses(asm.R7)...)
	ins = append(ins, p.boundPort()...)
	ins = append(ins, p.cookie(asm.R7)...)
	// A round-trip time that an earlier sample knew of is no news.
	ins = append(ins,
		asm.JEq.Imm(asm.R8, 0, "flat"),
		asm.LoadMem(asm.R1, asm.R8, csPeakRTT, asm.Word),
		p.put(fsPeakRTT, asm.R1, asm.Word),
		asm.LoadMem(asm.R1, asm.R8, csDelivered, asm.Word),
		asm.LoadMem(asm.R2, asm.R9, f.delivered.offset, asm.Word),
		asm.JEq.Reg(asm.R1, asm.R2, "flat"))
	ins = append(ins, p.peak()...)
	ins = append(ins,
		asm.JGE.Reg(asm.R2, asm.R1, "flat"),
		p.put(fsPeakRTT, asm.R1, asm.Word),
		asm.Mov.Imm(asm.R1, 0).WithSymbol("flat"))
	return append(ins, storyInto(fsStory-fsBytes, "untold")...)
}
