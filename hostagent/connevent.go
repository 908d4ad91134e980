package hostagent

import (
	"bytes"
	"encoding/binary"
	"errors"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// What happens to a connection besides retransmits (state changes, errors,
// resets, reductions of the congestion window) is not sent anywhere: programs
// note it on the socket itself, in a value of socket storage that lives and dies
// with it, and whoever takes a sample of the socket copies the value: the story
// of the connection so far. So an event costs some 100 ns and no wake-up,
// nothing is lost when many come at once, and the last sample of a closed
// socket, taken at tcp_destroy_sock, holds how it ended.
//
// For those who take samples:
//
//   - p.stories is the map, programs.storyInto copies the value onto the stack
//     (zeroes where there is none), decodeStory reads it.
//   - Behind the story proper lies what the takers of samples note there for
//     themselves (flowprogram.go). Whatever changes a story unsets csShown.
//   - The socket's end is told by the story at tcp_destroy_sock: err or a reset
//     says terminated; opened 0 with began set says that it was never
//     established, so failed; else closed.
//
// The map has BPF_F_CLONE: a connection that comes in inherits the story of its
// listener, and with it the name of the process that listens, which no
// tracepoint on the way of the packets could tell.

// A story's bytes, in the machine's byte order.
const (
	csOpened         = 0  // u64, CLOCK_MONOTONIC, the lowest bit says inbound
	csBegan          = 8  // u64, CLOCK_MONOTONIC
	csPID            = 16 // u32
	csError          = 20 // s32
	csResetsSent     = 24 // u32
	csResetsReceived = 28 // u32
	csReductions     = 32 // u32
	csBefore         = 36 // u8, and 3 of padding
	csComm           = 40 // 16 bytes
	csBytes          = 56
)

// What lies behind a story in the same value.
const (
	csPeakRTT   = csBytes     // u32, µs: the highest since it was shown in a sample
	csShown     = csBytes + 4 // u32, 1: nothing of the story happened since, and these were so:
	csMarks     = csBytes + 8 // u32 each, flowMarks
	csDelivered = csMarks
	csListed    = csMarks + 4*flowMarks // u32, 1: on the list of sockets with news
	csEnded     = csListed + 4          // u32, 1: its last sample was taken
	// The hash that the kernel drew for its packets (sk_txhash), as last seen, and
	// the one before: u32 each, 0: not known.
	csHash       = csListed + 8
	csHashBefore = csListed + 12
	// The one of packets taken for lost that last woke the reader: u32, and 4 of
	// padding.
	csAsked = csListed + 16
	csValue = csListed + 24
)

// connStory is what is known of a connection beyond what its socket counts.
type connStory struct {
	opened  uint64 // ns, CLOCK_MONOTONIC: when it was established; 0: not yet, or before the agent watched
	inbound bool   // the other end opened it; not known with opened 0
	began   uint64 // ns, CLOCK_MONOTONIC: when its first SYN was sent, or its handshake ended; 0: before the agent watched
	pid     uint32 // of the process that connected or listens; 0: not known
	process string // its name, at most 15 bytes; "": not known
	err     int32  // errno of the last error the socket had to report, such as ECONNRESET; 0: none
	before  uint8  // TCP state before the latest change: in a closed socket, the one it was closed in

	resetsSent, resetsReceived uint32
	// reductions is how often the congestion window was reduced: by loss, by
	// congestion marks or by a full queue of this host, once for each episode.
	reductions uint32
}

// decodeStory reads a story; b holds csBytes at least.
func decodeStory(b []byte, names names) connStory {
	ne := binary.NativeEndian
	opened := ne.Uint64(b[csOpened:])
	return connStory{
		opened:         opened &^ 1,
		inbound:        opened&1 != 0,
		began:          ne.Uint64(b[csBegan:]),
		pid:            ne.Uint32(b[csPID:]),
		process:        names.text(b[csComm : csComm+16]),
		err:            int32(ne.Uint32(b[csError:])),
		before:         b[csBefore],
		resetsSent:     ne.Uint32(b[csResetsSent:]),
		resetsReceived: ne.Uint32(b[csResetsReceived:]),
		reductions:     ne.Uint32(b[csReductions:]),
	}
}

// names holds each name of a process once, so that reading it a million times
// takes no memory. A nil one holds none.
type names map[string]string

// maxNames bounds the names kept: more than a host runs processes at a time.
const maxNames = 4096

// text is the text up to the first 0.
func (n names) text(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	if known, ok := n[string(b)]; ok || len(b) == 0 {
		return known
	}
	text := string(bytes.ToValidUTF8(b, []byte("?")))
	if n != nil {
		if len(n) >= maxNames {
			clear(n)
		}
		n[string(b)] = text
	}
	return text
}

// storiesSpec is the map of stories.
func storiesSpec() *ebpf.MapSpec {
	return &ebpf.MapSpec{
		Name: "decaf_story", Type: ebpf.SkStorage,
		KeySize: 4, ValueSize: csValue, Flags: bpfNoPrealloc | bpfClone,
		// Such maps are made with their types or not at all.
		Key: &btf.Int{Name: "int", Size: 4, Encoding: btf.Signed},
		Value: &btf.Array{
			Index:  &btf.Int{Name: "unsigned int", Size: 4},
			Type:   &btf.Int{Name: "unsigned long long", Size: 8},
			Nelems: csValue / 8,
		},
	}
}

// bpfClone makes a socket inherit the value of its listener: BPF_F_CLONE,
// include/uapi/linux/bpf.h.
const bpfClone = 1 << 9

// storyPrograms are those that write stories, by the tracepoints spec has;
// missing names the others.
func (p *programs) storyPrograms(spec *btf.Spec) (out []*ebpf.ProgramSpec, missing []string, err error) {
	for _, one := range []*ebpf.ProgramSpec{p.stateChanged(), p.reported(), p.resetReceived(), p.resetSent(), p.reduced()} {
		switch _, err := tracepointArgs(spec, one.AttachTo); {
		case err == nil:
			out = append(out, one)
		case errors.Is(err, btf.ErrNotFound):
			missing = append(missing, one.AttachTo)
		default:
			return nil, nil, err
		}
	}
	return out, missing, nil
}

// story makes r8 the story of the socket in r7, a new one where there is none
// and create says so; 0 without one.
func (p *programs) story(create int32) asm.Instructions {
	return append(storage(p.stories, create), asm.Mov.Reg(asm.R8, asm.R0))
}

// changed says that there is news of the socket in r7: its story, in r8, was not
// shown as it is now.
func (p *programs) changed() asm.Instructions {
	ins := asm.Instructions{
		// A listener's story becomes that of what comes in.
		asm.LoadMem(asm.R1, asm.R7, p.layout.state.offset, asm.Byte),
		asm.JEq.Imm(asm.R1, tcpListen, "as before"),
		asm.Mov.Imm(asm.R1, 0),
		asm.StoreMem(asm.R8, csShown, asm.R1, asm.Word),
	}
	ins = append(ins, p.list("listed")...)
	return append(ins, asm.Mov.Imm(asm.R1, 0).WithSymbol("as before"))
}

// list puts the socket in r7, with its story in r8, on the list of those with
// news. It uses r0 to r5 and needs label to be its own within the program.
func (p *programs) list(label string) asm.Instructions {
	if p.news == nil {
		return nil
	}
	ins := asm.Instructions{
		asm.LoadMem(asm.R1, asm.R8, csListed, asm.Word),
		asm.JNE.Imm(asm.R1, 0, label),
	}
	ins = append(ins, storage(p.news, bpfStorageCreate)...)
	return append(ins,
		asm.JEq.Imm(asm.R0, 0, label), // no memory: dumpChanged finds it
		asm.Mov.Imm(asm.R1, 1),
		asm.StoreMem(asm.R8, csListed, asm.R1, asm.Word),
		asm.Mov.Imm(asm.R1, 0).WithSymbol(label))
}

// storyInto copies the story in r8 to the stack, at bytes from the frame pointer
// (below it, so negative); zeroes where r8 is 0. It uses r1 and needs label to
// be its own within the program.
func storyInto(at int16, label string) asm.Instructions {
	ins := asm.Instructions{asm.Mov.Imm(asm.R1, 0)}
	for i := int16(0); i < csBytes; i += 8 {
		ins = append(ins, asm.StoreMem(asm.RFP, at+i, asm.R1, asm.DWord))
	}
	ins = append(ins, asm.JEq.Imm(asm.R8, 0, label))
	for i := int16(0); i < csBytes; i += 8 {
		ins = append(ins,
			asm.LoadMem(asm.R1, asm.R8, i, asm.DWord),
			asm.StoreMem(asm.RFP, at+i, asm.R1, asm.DWord))
	}
	return append(ins, asm.Mov.Imm(asm.R1, 0).WithSymbol(label))
}

// end ends a program that sends nothing.
func end() asm.Instructions {
	return asm.Instructions{asm.Mov.Imm(asm.R0, 0).WithSymbol(leave), asm.Return()}
}

// stateChanged: inet_sock_set_state(sk, old, new). Connecting and listening are
// done by the process whose socket it is, so these tell its name.
func (p *programs) stateChanged() *ebpf.ProgramSpec {
	get := storageAs(p.stories)
	get[0] = get[0].WithSymbol("get")
	ins := p.begin(0)
	ins = append(ins, p.tcpSock()...)
	ins = append(ins,
		asm.LoadMem(asm.R9, asm.R6, 16, asm.DWord),
		asm.Mov.Imm(asm.R4, bpfStorageCreate),
		asm.JEq.Imm32(asm.R9, tcpSynSent, "get"),
		asm.JEq.Imm32(asm.R9, tcpEstablished, "get"),
		asm.JEq.Imm32(asm.R9, tcpListen, "get"),
		asm.Mov.Imm(asm.R4, 0))
	ins = append(ins, get...)
	ins = append(ins,
		asm.JEq.Imm(asm.R0, 0, leave), // no memory: as if opened before the agent watched
		asm.Mov.Reg(asm.R8, asm.R0))
	ins = append(ins,
		asm.JEq.Imm32(asm.R9, tcpListen, "untold"),
		asm.JEq.Imm32(asm.R9, tcpClose, "untold"))
	ins = append(ins, p.changed()...)
	ins = append(ins,
		asm.LoadMem(asm.R1, asm.R6, 8, asm.DWord).WithSymbol("untold"),
		asm.StoreMem(asm.R8, csBefore, asm.R1, asm.Byte),

		asm.JEq.Imm32(asm.R9, tcpEstablished, "established"),
		asm.JEq.Imm32(asm.R9, tcpSynRecv, "begun"),
		asm.JEq.Imm32(asm.R9, tcpListen, "process"),
		asm.JNE.Imm32(asm.R9, tcpSynSent, leave),

		// A socket may be connected a second time: it begins anew.
		asm.Mov.Imm(asm.R1, 0).WithSymbol("process"),
	)
	for _, at := range []int16{csOpened, csBegan, csPID /* and csError */, csResetsSent /* and csResetsReceived */, csPeakRTT /* and csShown */, csHash /* and csHashBefore */, csAsked} {
		ins = append(ins, asm.StoreMem(asm.R8, at, asm.R1, asm.DWord))
	}
	ins = append(ins,
		asm.StoreMem(asm.R8, csReductions, asm.R1, asm.Word),
		asm.StoreMem(asm.R8, csEnded, asm.R1, asm.Word),
		asm.FnGetCurrentPidTgid.Call(),
		asm.RSh.Imm(asm.R0, 32),
		asm.StoreMem(asm.R8, csPID, asm.R0, asm.Word),
		asm.Mov.Reg(asm.R1, asm.R8),
		asm.Add.Imm(asm.R1, csComm),
		asm.Mov.Imm(asm.R2, 16),
		asm.FnGetCurrentComm.Call(),
		asm.JEq.Imm32(asm.R9, tcpListen, leave),
		asm.FnKtimeGetNs.Call().WithSymbol("begun"),
		asm.StoreMem(asm.R8, csBegan, asm.R0, asm.DWord),
		asm.Ja.Label(leave),

		asm.LoadMem(asm.R1, asm.R7, p.layout.txHash.offset, asm.Word).WithSymbol("established"),
		asm.StoreMem(asm.R8, csHash, asm.R1, asm.Word),
		asm.FnKtimeGetNs.Call(),
		asm.And.Imm(asm.R0, ^1),
		asm.LoadMem(asm.R1, asm.R6, 8, asm.DWord),
		asm.JNE.Imm32(asm.R1, tcpSynRecv, "outbound"),
		// What the listener met with is not the connection's.
		asm.Mov.Imm(asm.R1, 0),
		asm.StoreMem(asm.R8, csError, asm.R1, asm.Word),
		asm.StoreMem(asm.R8, csResetsSent, asm.R1, asm.DWord),
		asm.StoreMem(asm.R8, csReductions, asm.R1, asm.Word),
		asm.Or.Imm(asm.R0, 1),
		asm.StoreMem(asm.R8, csOpened, asm.R0, asm.DWord).WithSymbol("outbound"),
		// Where the socket is older than the agent.
		asm.LoadMem(asm.R1, asm.R8, csBegan, asm.DWord),
		asm.JNE.Imm(asm.R1, 0, leave),
		asm.StoreMem(asm.R8, csBegan, asm.R0, asm.DWord))
	return tracing("decaf_state", ebpf.AttachTraceRawTp, "inet_sock_set_state", append(ins, end()...))
}

// reported: inet_sk_error_report(sk): the socket has an error for its owner.
func (p *programs) reported() *ebpf.ProgramSpec {
	ins := p.begin(0)
	ins = append(ins, p.tcpSock()...)
	ins = append(ins,
		asm.LoadMem(asm.R9, asm.R7, p.layout.err.offset, asm.Word),
		asm.JEq.Imm(asm.R9, 0, leave))
	ins = append(ins, p.story(bpfStorageCreate)...)
	ins = append(ins,
		asm.JEq.Imm(asm.R8, 0, leave),
		asm.StoreMem(asm.R8, csError, asm.R9, asm.Word))
	ins = append(ins, p.changed()...)
	return tracing("decaf_error", ebpf.AttachTraceRawTp, "inet_sk_error_report", append(ins, end()...))
}

// resetReceived: tcp_receive_reset(sk).
func (p *programs) resetReceived() *ebpf.ProgramSpec {
	ins := p.begin(0)
	ins = append(ins, p.tcpSock()...)
	return tracing("decaf_rst_in", ebpf.AttachTraceRawTp, "tcp_receive_reset", append(ins, p.countOne(csResetsReceived)...))
}

// resetSent: tcp_send_reset(sk, skb[, reason]). There is no socket where the
// packet it answers belongs to none; what stands for a socket in TIME_WAIT has
// no story.
func (p *programs) resetSent() *ebpf.ProgramSpec {
	ins := p.begin(0)
	ins = append(ins, p.tcpSock()...)
	return tracing("decaf_rst_out", ebpf.AttachTraceRawTp, "tcp_send_reset", append(ins, p.countOne(csResetsSent)...))
}

// reduced: tcp_cong_state_set(sk, new), ahead of the change. Entering CWR,
// Recovery or Loss reduces the window; tcp_cwnd_reduction_tp would fire for each
// acknowledgement of such an episode, and never for a timeout.
func (p *programs) reduced() *ebpf.ProgramSpec {
	l := p.layout
	ins := p.begin(0)
	ins = append(ins, p.tcpSock()...)
	ins = append(ins,
		asm.LoadMem(asm.R1, asm.R9, l.caState.offset, asm.Byte),
		asm.RSh.Imm(asm.R1, int32(l.caState.shift)))
	if l.caState.mask != 0 {
		ins = append(ins, asm.And.Imm(asm.R1, int32(l.caState.mask)))
	}
	ins = append(ins,
		asm.LoadMem(asm.R2, asm.R6, 8, asm.DWord),
		asm.And.Imm(asm.R2, 0xff),
		asm.JLT.Imm(asm.R2, caCWR, leave),
		asm.JEq.Reg(asm.R1, asm.R2, leave),
		asm.JEq.Imm(asm.R2, caLoss, "reduction"),
		asm.JGE.Imm(asm.R1, caCWR, leave),
		asm.Mov.Imm(asm.R1, 0).WithSymbol("reduction"))
	return tracing("decaf_reduced", ebpf.AttachTraceRawTp, "tcp_cong_state_set", append(ins, p.countOne(csReductions)...))
}

// countOne adds one to a count of the story of the socket in r7, and ends the
// program.
func (p *programs) countOne(at int16) asm.Instructions {
	ins := append(p.story(bpfStorageCreate), asm.JEq.Imm(asm.R8, 0, leave))
	ins = append(ins, p.changed()...)
	ins = append(ins,
		asm.Mov.Imm(asm.R1, 1),
		asm.AddAtomic.Mem(asm.R8, asm.R1, asm.Word, at))
	return append(ins, end()...)
}
