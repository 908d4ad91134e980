package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"decaf/topology"
)

// wire does something to packets as a link's receiving end gets them, by a program in
// the interface's driver: nothing above ever hears of it. For a loss no drop tracepoint
// may fire, which rules out the plain ways: generic mode shows at do_xdp_generic, tc as
// TC_INGRESS, and even the native mode's drop frees the packet by kfree_skb, at
// veth_xdp_rcv_skb (drivers/net/veth.c). So the program hands the packet over to
// a processor's queue (cpumap), where a second program drops it as a bare frame,
// which has no tracepoint.
type wire struct {
	name     string // of the link
	link     link.Link
	program  *ebpf.Program
	sink     *ebpf.Program // drops what the queue gets
	queue    *ebpf.Map
	counters *ebpf.Map
	ring     *ebpf.Map
	reader   *ringbuf.Reader
	boot     time.Time
	done     chan struct{} // closed when the ring's reader has ended
	last     wireCounters

	mu      sync.Mutex
	drops   []Drop
	leftOut uint64
	readErr error
}

// harm is what happens to the packets that a wire takes.
type harm struct {
	syn     bool // takes only those that ask for a TCP connection
	corrupt bool // flips a bit of the last byte and lets them pass; else drops them
}

// wireCounters is the program's map value.
type wireCounters struct{ Seen, Dropped, Unlisted uint64 }

// ringSize is the program's ring buffer in bytes, a power of two and of pages: at
// least 70 000 packets.
const ringSize = 1 << 22

// silentLoss drops packets of a link.
func (f *Fabric) silentLoss(g *target) (effect, error) { return f.wire(g, g.link, harm{}) }

func (f *Fabric) wire(g *target, l *topology.Link, h harm) (_ *wire, err error) {
	n, err := f.node(l.To.Node)
	if err != nil {
		return nil, err
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("raise the limit of locked memory: %w", err)
	}
	boot, err := bootTime()
	if err != nil {
		return nil, err
	}
	s := &wire{name: l.Name, boot: boot, done: make(chan struct{})}
	defer func() {
		if err != nil {
			s.release()
		}
	}()
	if s.counters, err = ebpf.NewMap(&ebpf.MapSpec{Name: "wire_counters", Type: ebpf.Array, KeySize: 4, ValueSize: 24, MaxEntries: 1}); err != nil {
		return nil, fmt.Errorf("make the counters: %w", err)
	}
	if s.ring, err = ebpf.NewMap(&ebpf.MapSpec{Name: "wire_drops", Type: ebpf.RingBuf, MaxEntries: ringSize}); err != nil {
		return nil, fmt.Errorf("make the ring of dropped packets: %w", err)
	}
	s.sink, err = ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "wire_sink", Type: ebpf.XDP, AttachType: ebpf.AttachXDPCPUMap, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, xdpDrop), asm.Return()},
	})
	if err != nil {
		return nil, fmt.Errorf("load the sink's program: %w", err)
	}
	if s.queue, err = ebpf.NewMap(&ebpf.MapSpec{Name: "wire_queue", Type: ebpf.CPUMap, KeySize: 4, ValueSize: 8, MaxEntries: 1}); err != nil {
		return nil, fmt.Errorf("make the sink's queue: %w", err)
	}
	// struct bpf_cpumap_val: the queue's length and the program. A full queue drops
	// too, as quietly.
	if err = s.queue.Put(uint32(0), struct{ Size, Program uint32 }{2048, uint32(s.sink.FD())}); err != nil {
		return nil, fmt.Errorf("start the sink: %w", err)
	}
	s.program, err = ebpf.NewProgram(&ebpf.ProgramSpec{
		Name:         "wire",
		Type:         ebpf.XDP,
		License:      "GPL",
		Instructions: wireProgram(g, h, s.counters.FD(), s.ring.FD(), s.queue.FD()),
	})
	if err != nil {
		return nil, fmt.Errorf("load the program: %w", err)
	}
	if s.reader, err = ringbuf.NewReader(s.ring); err != nil {
		return nil, fmt.Errorf("read the ring of dropped packets: %w", err)
	}
	err = n.space.do(func() error {
		s.link, err = link.AttachXDP(link.XDPOptions{Program: s.program, Interface: n.index[l.To.Name], Flags: link.XDPDriverMode})
		if err != nil {
			return err
		}
		// With a program a veth merges segments on receipt, asked or not.
		return without([]offloading{genericReceive}, []string{l.To.Name})
	})
	if errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("link %s has a fault of its packets already (silent-loss, corrupt, device-loss, syn-blackhole); one at a time", l.Name)
	}
	if err != nil {
		return nil, fmt.Errorf("attach the program to %s: %w", l.To, err)
	}
	go s.listen()
	return s, nil
}

// bootTime is when the kernel's monotonic clock was 0.
func bootTime() (time.Time, error) {
	var ts unix.Timespec
	now := time.Now()
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return time.Time{}, fmt.Errorf("read the monotonic clock: %w", err)
	}
	return now.Round(0).Add(-time.Duration(ts.Nano())), nil
}

// listen keeps the dropped packets until the reader is closed.
func (s *wire) listen() {
	defer close(s.done)
	var rec ringbuf.Record
	for {
		if err := s.reader.ReadInto(&rec); err != nil {
			if !errors.Is(err, ringbuf.ErrClosed) && !errors.Is(err, ringbuf.ErrFlushed) && !errors.Is(err, os.ErrDeadlineExceeded) {
				s.mu.Lock()
				s.readErr = err
				s.mu.Unlock()
			}
			return
		}
		d, err := parseDrop(rec.RawSample, s.boot)
		s.mu.Lock()
		switch {
		case err != nil:
			s.readErr = err
		case len(s.drops) >= maxDrops:
			s.leftOut++
		default:
			d.Link = s.name
			s.drops = append(s.drops, d)
		}
		s.mu.Unlock()
	}
}

func (s *wire) read(t *Truth) error {
	if s.counters != nil {
		if err := s.counters.Lookup(uint32(0), &s.last); err != nil {
			return fmt.Errorf("read the counters: %w", err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t.Packets, t.Seen = s.last.Dropped, s.last.Seen
	t.Drops, t.LeftOut = s.drops, s.leftOut+s.last.Unlisted
	return s.readErr
}

func (s *wire) undo() error {
	err := s.link.Close()
	s.link = nil
	if e := s.reader.Flush(); e != nil { // what is in the ring is still read
		err = errors.Join(err, e)
	} else {
		<-s.done
	}
	err = errors.Join(err, s.counters.Lookup(uint32(0), &s.last))
	s.release()
	return err
}

func (s *wire) release() {
	if s.link != nil {
		s.link.Close()
	}
	if s.reader != nil {
		s.reader.Close()
	}
	for _, p := range []*ebpf.Program{s.program, s.sink} {
		p.Close() // nil is fine
	}
	for _, m := range []*ebpf.Map{s.queue, s.ring, s.counters} {
		m.Close()
	}
	s.counters = nil
}

// Where the program keeps things, from the frame pointer down: one record, a map
// key, a byte.
const (
	recordAt   = -recordSize
	ipAt       = recordAt + recordIP
	l4At       = recordAt + recordL4
	keyAt      = recordAt - 8
	byteAt     = keyAt - 8  // one byte of the packet
	lastAt     = byteAt - 8 // where the packet's last byte is
	protocolAt = lastAt - 8 // what it carries
	lowestAt   = protocolAt // the lowest of all
	ethernet   = 14         // bytes of that header
)

// wireProgram harms IP packets that match, with the chance below/2^32, or all.
func wireProgram(g *target, h harm, counters, ring, queue int) asm.Instructions {
	native := func(b []byte) int32 { return int32(binary.NativeEndian.Uint32(b)) }
	load := func(offset int32, at, size int16) asm.Instructions {
		return asm.Instructions{
			asm.Mov.Reg(asm.R1, asm.R6),
			asm.Mov.Imm(asm.R2, offset),
			asm.Mov.Reg(asm.R3, asm.RFP),
			asm.Add.Imm(asm.R3, int32(at)),
			asm.Mov.Imm(asm.R4, int32(size)),
			asm.FnXdpLoadBytes.Call(),
		}
	}
	ins := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.Mov.Imm(asm.R0, 0),
	}
	for at := int16(lowestAt); at < 0; at += 8 {
		ins = append(ins, asm.StoreMem(asm.RFP, at, asm.R0, asm.DWord))
	}
	match := func(v version, list []netip.Prefix, f field, found string) {
		list, _ = v.only(list)
		if len(list) == 0 {
			return
		}
		for i, p := range list {
			n, other := ipNet(p.Masked()), fmt.Sprint(found, i)
			for k := 0; k < len(n.Mask); k += 4 {
				ins = append(ins,
					asm.LoadMem(asm.R1, asm.RFP, ipAt+int16(f[v].offset)+int16(k), asm.Word),
					asm.And.Imm32(asm.R1, native(n.Mask[k:])),
					asm.JNE.Imm32(asm.R1, native(n.IP[k:]), other),
				)
			}
			ins = append(ins, asm.Ja.Label(found), asm.Mov.Imm(asm.R0, 0).WithSymbol(other))
		}
		ins = append(ins,
			asm.Ja.Label("pass"),
			asm.Mov.Imm(asm.R0, 0).WithSymbol(found),
		)
	}
	// The Ethernet type says whether it is IP at all. Each version leaves the offset of
	// what follows the header in register 7. Code that cannot be reached would be
	// refused, so that of a version that no packet may have is left out.
	four, six := g.takes(ipv4), g.takes(ipv6)
	ins = append(ins, load(ethernet-2, recordAt, 2)...)
	ins = append(ins,
		asm.JNE.Imm(asm.R0, 0, "pass"),
		asm.LoadMem(asm.R1, asm.RFP, recordAt, asm.Half),
		asm.HostTo(asm.BE, asm.R1, asm.Half),
	)
	if six {
		ins = append(ins, asm.JEq.Imm(asm.R1, unix.ETH_P_IPV6, "six"))
	}
	if four {
		ins = append(ins, asm.JNE.Imm(asm.R1, unix.ETH_P_IP, "pass"))
		ins = append(ins, load(ethernet, ipAt, 20)...)
		ins = append(ins,
			asm.JNE.Imm(asm.R0, 0, "pass"),
			asm.LoadMem(asm.R7, asm.RFP, ipAt+2, asm.Half),
			asm.HostTo(asm.BE, asm.R7, asm.Half),
			asm.Add.Imm(asm.R7, ethernet-1),
			asm.StoreMem(asm.RFP, lastAt, asm.R7, asm.DWord),
			asm.LoadMem(asm.R1, asm.RFP, ipAt+9, asm.Byte),
			asm.StoreMem(asm.RFP, protocolAt, asm.R1, asm.DWord),
			asm.LoadMem(asm.R7, asm.RFP, ipAt, asm.Byte),
			asm.And.Imm(asm.R7, 0xf),
			asm.LSh.Imm(asm.R7, 2),
			asm.Add.Imm(asm.R7, ethernet),
		)
		match(ipv4, g.src, source, "source4")
		match(ipv4, g.dst, destination, "destination4")
		ins = append(ins, asm.Ja.Label("behind"))
	} else {
		ins = append(ins, asm.Ja.Label("pass"))
	}
	if six {
		part := load(ethernet, ipAt, 40)
		part[0] = part[0].WithSymbol("six")
		ins = append(ins, part...)
		ins = append(ins,
			asm.JNE.Imm(asm.R0, 0, "pass"),
			asm.LoadMem(asm.R7, asm.RFP, ipAt+4, asm.Half),
			asm.HostTo(asm.BE, asm.R7, asm.Half),
			asm.Add.Imm(asm.R7, ethernet+40-1),
			asm.StoreMem(asm.RFP, lastAt, asm.R7, asm.DWord),
			asm.LoadMem(asm.R1, asm.RFP, ipAt+6, asm.Byte),
			asm.StoreMem(asm.RFP, protocolAt, asm.R1, asm.DWord),
			asm.Mov.Imm(asm.R7, ethernet+40),
		)
		match(ipv6, g.src, source, "source6")
		match(ipv6, g.dst, destination, "destination6")
	}
	ins = append(ins, asm.Mov.Imm(asm.R0, 0).WithSymbol("behind"))
	// 20 bytes, or 8 where there are no more.
	for _, size := range []int16{20, 8} {
		part := load(0, l4At, size)
		part[1] = asm.Mov.Reg(asm.R2, asm.R7)
		ins = append(ins, part...)
		ins = append(ins, asm.JEq.Imm(asm.R0, 0, "loaded"))
	}
	ins = append(ins, asm.Mov.Imm(asm.R0, 0).WithSymbol("loaded"))

	if g.port != 0 {
		ins = append(ins,
			asm.LoadMem(asm.R1, asm.RFP, protocolAt, asm.DWord),
			asm.JEq.Imm(asm.R1, unix.IPPROTO_TCP, "ported"),
			asm.JNE.Imm(asm.R1, unix.IPPROTO_UDP, "pass"),
			asm.LoadMem(asm.R1, asm.RFP, l4At+2, asm.Half).WithSymbol("ported"),
			asm.JNE.Imm(asm.R1, int32(bits.ReverseBytes16(g.port)), "pass"),
		)
		if hostIsBigEndian() {
			ins[len(ins)-1] = asm.JNE.Imm(asm.R1, int32(g.port), "pass")
		}
	}
	if h.syn {
		const syn, ack = 0x02, 0x10
		ins = append(ins,
			asm.LoadMem(asm.R1, asm.RFP, protocolAt, asm.DWord),
			asm.JNE.Imm(asm.R1, unix.IPPROTO_TCP, "pass"),
			asm.LoadMem(asm.R1, asm.RFP, l4At+13, asm.Byte),
			asm.And.Imm(asm.R1, syn|ack),
			asm.JNE.Imm(asm.R1, syn, "pass"),
		)
	}
	ins = append(ins,
		asm.LoadMapPtr(asm.R1, counters),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, keyAt),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "pass"),
		asm.Mov.Reg(asm.R8, asm.R0),
		asm.Mov.Imm(asm.R9, 1),
		asm.StoreXAdd(asm.R8, asm.R9, asm.DWord), // seen
	)
	if !g.all {
		ins = append(ins,
			asm.FnGetPrandomU32.Call(),
			asm.LoadImm(asm.R1, int64(g.below), asm.DWord),
			asm.JGE.Reg(asm.R0, asm.R1, "pass"),
		)
	}
	if h.corrupt {
		// The last byte of the IP packet: of the payload, or where there is none of
		// the header that carries the checksum.
		ins = append(ins,
			asm.LoadMem(asm.R7, asm.RFP, lastAt, asm.DWord),
		)
		at := load(0, byteAt, 1)
		at[1] = asm.Mov.Reg(asm.R2, asm.R7)
		ins = append(ins, at...)
		ins = append(ins,
			asm.JNE.Imm(asm.R0, 0, "pass"),
			asm.LoadMem(asm.R1, asm.RFP, byteAt, asm.Byte),
			asm.Xor.Imm(asm.R1, 0x10),
			asm.StoreMem(asm.RFP, byteAt, asm.R1, asm.Byte),
		)
		at[len(at)-1] = asm.FnXdpStoreBytes.Call()
		ins = append(ins, at...)
		ins = append(ins, asm.JNE.Imm(asm.R0, 0, "pass"))
	}
	ins = append(ins,
		asm.FnKtimeGetNs.Call(),
		asm.StoreMem(asm.RFP, recordAt, asm.R0, asm.DWord),
		asm.LoadMapPtr(asm.R1, ring),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, recordAt),
		asm.Mov.Imm(asm.R3, recordSize),
		asm.Mov.Imm(asm.R4, 0),
		asm.FnRingbufOutput.Call(),
		asm.Add.Imm(asm.R8, 8),
		asm.StoreXAdd(asm.R8, asm.R9, asm.DWord), // dropped
		asm.JEq.Imm(asm.R0, 0, "drop"),
		asm.Add.Imm(asm.R8, 8),
		asm.StoreXAdd(asm.R8, asm.R9, asm.DWord), // unlisted
		asm.Mov.Imm(asm.R0, 0).WithSymbol("drop"),
	)
	if !h.corrupt {
		ins = append(ins,
			asm.LoadMapPtr(asm.R1, queue),
			asm.Mov.Imm(asm.R2, 0),
			asm.Mov.Imm(asm.R3, xdpDrop), // if that fails
			asm.FnRedirectMap.Call(),
			asm.Return(),
		)
	}
	return append(ins,
		asm.Mov.Imm(asm.R0, xdpPass).WithSymbol("pass"),
		asm.Return(),
	)
}

// Actions of include/uapi/linux/bpf.h.
const (
	xdpDrop = 1
	xdpPass = 2
)

func hostIsBigEndian() bool {
	return binary.NativeEndian.Uint16([]byte{0, 1}) == 1
}
