package device

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A drop within a drop, on one processor, is one that the kernel does not show to
// the program: it is counted as missed, which explains what the counts lack, to the
// last one, of all drops that come by the tracepoint. What comes by it a program
// counts that is small enough to miss little, and says what it missed.
//
// (Some kernels run no program at any tracepoint while certain tasks have the processor,
// nor in the interrupts of these. The packet filter counts what is dropped then, up to a
// hundred or so; no program sees it, this agent's or another, nor is it among their
// misses.)
//
// The node drops what it sends itself, where interrupts come between the program's
// instructions, and in the interrupts, those of a timer that paces what another
// sends, what comes by.
func TestDropsWithinDropsAreCounted(t *testing.T) {
	l := newLab(t)
	forwarded := l.r.nftCount(nftables.ChainHookForward, "10.0.2.99", true)
	own := l.r.nftCount(nftables.ChainHookOutput, "10.0.2.98", true)
	const rate = 3_000_000 // bytes a second: a timer for each packet or two, once the bucket is empty
	l.h1.must("pace", l.h1.nl.QdiscAdd(&netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.h1.link("eth0").Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       rate, Limit: 1 << 20, Buffer: netlink.Xmittime(rate, 1600),
	}))
	cfg := testConfig()
	cfg.Fuse.Events, cfg.Fuse.Queue = 1e9, 1
	a := startAgent(t, l.r, cfg)

	seen := tracepointCount(t, l.r)

	f := frames{from: l.h1.link("eth0").Attrs().HardwareAddr, to: l.r.link("eth1").Attrs().HardwareAddr}
	var stop atomic.Bool
	var running sync.WaitGroup
	for range runtime.NumCPU() {
		running.Go(func() { // what the node sends itself
			l.r.must("send", l.r.do(func() error {
				s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					return err
				}
				defer unix.Close(s)
				to := &unix.SockaddrInet4{Port: 9, Addr: [4]byte{10, 0, 2, 98}}
				for !stop.Load() {
					_ = unix.Sendto(s, make([]byte, 20), 0, to) // refused: it is dropped
				}
				return nil
			}))
		})
		running.Go(func() {
			for i := 0; !stop.Load(); i++ {
				l.h1.sendFrames("eth0", 256, func(k int) []byte { return f.udp4("10.0.1.2", "10.0.2.99", 9, 60, uint16(256*i+k), nil, nil) })
			}
		})
	}
	const enough, drops = 200, 20_000
	some := within(30*time.Second, func() bool { return a.State().DropsMissed >= enough && forwarded()+own() >= drops })
	stop.Store(true)
	running.Wait()
	if !some {
		t.Fatalf("%d drops were missed of %d and %d: the interrupts came between none of the program's instructions", a.State().DropsMissed, forwarded(), own())
	}
	// The queue runs dry, and all that was counted in the kernel is taken in.
	var least, most, counted, missed, before uint64
	until(t, "all is dropped and counted", func() bool {
		least, most = seen()
		counted, missed = classPackets(a, PolicyL3ACL), a.State().DropsMissed
		queued, err := l.h1.nl.QdiscList(l.h1.link("eth0"))
		l.h1.must("queue", err)
		still := least == before && queued[0].Attrs().Statistics.Queue.Qlen == 0
		before = least
		return still && counted+missed >= least
	})
	truth := forwarded() + own()
	t.Logf("%d dropped, %d to %d came by the tracepoint, %d counted, %d missed", truth, least, most, counted, missed)
	// What was missed is counted for all namespaces of this kernel: others may have
	// had a part in it.
	if counted > most || truth < least || counted >= truth {
		t.Errorf("of %d drops, %d to %d of which came by the tracepoint, %d were counted and %d missed", truth, least, most, counted, missed)
	}
}

// tracepointCount counts the drops of the packet filter in a node, by a program of
// its own: those that it saw, and with those that it missed, which may be another
// node's.
func tracepointCount(t *testing.T, n *node) func() (least, most uint64) {
	t.Helper()
	spec, err := loadBTF()
	n.must("types", err)
	o, names, err := readOffsets(spec)
	n.must("offsets", err)
	var reason uint32
	for number, name := range names {
		if name == netfilterDrop {
			reason = number
		}
	}
	count, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	n.must("map", err)
	t.Cleanup(func() { count.Close() })
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.Tracing, AttachType: ebpf.AttachTraceRawTp, AttachTo: "kfree_skb", License: "GPL",
		Instructions: asm.Instructions{
			asm.LoadMem(asm.R2, asm.R1, 16, asm.DWord),
			asm.JNE.Imm32(asm.R2, int32(reason), "exit"),
			asm.LoadMem(asm.R3, asm.R1, 0, asm.DWord),
			asm.LoadMem(asm.R1, asm.R3, o.skbDev, asm.DWord),
			asm.JEq.Imm(asm.R1, 0, "no_device"),
			asm.LoadMem(asm.R1, asm.R1, o.devNet, asm.DWord),
			asm.Ja.Label("namespace"),
			asm.LoadMem(asm.R1, asm.R3, o.skbSk, asm.DWord).WithSymbol("no_device"),
			asm.JEq.Imm(asm.R1, 0, "exit"),
			asm.LoadMem(asm.R1, asm.R1, o.sockNet, asm.DWord),
			asm.LoadMem(asm.R1, asm.R1, o.netInum, asm.Word).WithSymbol("namespace"),
			asm.LoadImm(asm.R2, int64(n.inode()), asm.DWord),
			asm.JNE.Reg(asm.R1, asm.R2, "exit"),
			asm.LoadMapValue(asm.R1, count.FD(), 0),
			asm.Mov.Imm(asm.R2, 1),
			asm.AddAtomic.Mem(asm.R1, asm.R2, asm.DWord, 0),
			asm.Mov.Imm(asm.R0, 0).WithSymbol("exit"),
			asm.Return(),
		},
	})
	n.must("program", err)
	t.Cleanup(func() { program.Close() })
	l, err := link.AttachTracing(link.TracingOptions{Program: program, AttachType: ebpf.AttachTraceRawTp})
	n.must("attach", err)
	t.Cleanup(func() { l.Close() })
	return func() (least, most uint64) {
		n.must("count", count.Lookup(uint32(0), &least))
		stats, err := program.Stats()
		n.must("statistics", err)
		return least, least + stats.RecursionMisses
	}
}
