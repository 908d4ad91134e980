package device

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"testing"
	"time"

	"decaf/api/packet"

	"github.com/cilium/ebpf/link"
	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// inode is the number of the node's network namespace.
func (n *node) inode() uint32 {
	n.t.Helper()
	var st unix.Stat_t
	n.must("stat", unix.Fstat(int(n.ns), &st))
	return uint32(st.Ino)
}

// ownProgram is what openShared needs for a program that nobody else on this
// machine has: one more reason to pass over makes another program.
func ownProgram(t testing.TB) (*offsets, []uint32) {
	t.Helper()
	spec, err := loadBTF()
	if err != nil {
		t.Fatal(err)
	}
	off, _, err := readOffsets(spec)
	if err != nil {
		t.Fatal(err)
	}
	return off, []uint32{1 << 30, 1<<30 + uint32(os.Getpid())}
}

// programs counts the attached programs of a name.
func programs(t testing.TB, name string) (n int) {
	t.Helper()
	var err error
	poll(t, "no link of this kernel is being attached", func() bool {
		n = 0
		err = eachLink(func(id link.ID, l link.Link) (bool, error) {
			s, err := openLink(id, l, name)
			if s != nil {
				n++
				s.close()
			}
			return true, err
		})
		return !errors.Is(err, unix.EAGAIN)
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestSharedProgram: agents that begin at the same time, each in its own
// namespace, end up with one program, which is gone with the last of them.
func TestSharedProgram(t *testing.T) {
	const agents = 8
	off, reasons := ownProgram(t)
	name, err := programName(off, reasons)
	if err != nil {
		t.Fatal(err)
	}
	type joined struct {
		*shared
		*tenant
		err error
	}
	var nodes []*node
	for range agents {
		nodes = append(nodes, newNode(t))
	}
	in := make(chan joined, agents)
	for _, n := range nodes {
		go func() {
			s, m, err := openShared(off, reasons, n.inode(), leastPace.bucket(), slog.New(slog.DiscardHandler))
			in <- joined{s, m, err}
		}()
	}
	var all []joined
	slots := map[uint32]bool{}
	for range agents {
		j := <-in
		if j.err != nil {
			t.Fatal(j.err)
		}
		all = append(all, j)
		slots[j.slot] = true
	}
	for _, j := range all {
		if j.shared.id != all[0].shared.id {
			t.Errorf("programs of links %d and %d", j.shared.id, all[0].shared.id)
		}
	}
	if n := programs(t, name); n != 1 || len(slots) != agents {
		t.Errorf("%d programs, %d slots of %d agents", n, len(slots), agents)
	}

	// A second agent of a namespace sees its drops too, by a program of its own.
	s, m, err := openShared(off, reasons, nodes[0].inode(), leastPace.bucket(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if s.id == all[0].shared.id {
		t.Error("two agents of one namespace in one program")
	}
	m.leave()
	m.close()
	s.close()

	for i, j := range all {
		if err := j.leave(); err != nil {
			t.Error(err)
		}
		j.tenant.close()
		j.shared.close()
		if n, want := programs(t, name), min(1, agents-1-i); n != want {
			t.Errorf("%d programs after %d of %d left, want %d", n, i+1, agents, want)
		}
	}
}

// TestSharedDropsStayApart: each of two agents that share the program has the
// drops of its own namespace, and one that is taken out of it has none until it is
// back.
func TestSharedDropsStayApart(t *testing.T) {
	labs := [2]*lab{newLab(t), newLab(t)}
	var agents [2]*Agent
	var events [2]<-chan seen
	for i, l := range labs {
		l.withoutIPv6()
		agents[i] = startAgent(t, l.r, testConfig())
		events[i] = watch(t, dial(t, l.r, agents[i], nil))
	}
	k, other := agents[0].sources.kernel.(*kernel), agents[1].sources.kernel.(*kernel)
	if k.shared.id != other.shared.id {
		t.Errorf("programs of links %d and %d", k.shared.id, other.shared.id)
	}
	drop := func(i, port int) packet.Flow {
		p := packet.Probe{Flow: packet.Flow{Src: addrPort(fmt.Sprintf("10.0.1.2:%d", port)), Dst: addrPort("10.9.9.9:80"), Proto: unix.IPPROTO_TCP}, TTL: 9, Seq: 1, ID: 1}
		b, err := p.Marshal(nil)
		labs[i].h1.must("probe", err)
		labs[i].h1.sendRaw(b)
		return p.Flow
	}
	for i := range labs {
		for n := range 3 {
			next(t, events[i], drop(i, 1000*(i+1)+n))
		}
	}
	for i, a := range agents {
		if s := a.State(); s.Events != 3 {
			t.Errorf("agent %d has %d events, want its own 3", i, s.Events)
		}
	}
	if err := k.pause(true); err != nil {
		t.Fatal(err)
	}
	drop(0, 5000)
	next(t, events[1], drop(1, 5001))
	if err := k.pause(false); err != nil {
		t.Fatal(err)
	}
	next(t, events[0], drop(0, 5002))
	if s := agents[0].State(); s.Events != 4 {
		t.Errorf("%d events, want 4: the one while it was out is nobody's", s.Events)
	}
}

// TestFuseOffLeavesTheProgram: while the fuse allows the agent nothing its
// namespace is out of the program, and it is back when more is allowed.
func TestFuseOffLeavesTheProgram(t *testing.T) {
	n := newNode(t)
	a := startAgent(t, n, testConfig())
	k := a.sources.kernel.(*kernel)
	for _, tc := range []struct {
		level level
		in    bool
	}{{countersOnly, true}, {off, false}, {off, false}, {countersOnly, true}, {full, true}} {
		a.reporting.Lock()
		a.reporter.fuse.wires[""] = &wire{level: tc.level, backOff: time.Hour, moved: time.Now()}
		a.reporting.Unlock()
		poll(t, fmt.Sprintf("%v: in the program: %v", tc.level, tc.in), func() bool {
			var slot uint32
			return (k.shared.maps[spacesMap].Lookup(n.inode(), &slot) == nil) == tc.in
		})
	}
}

// TestSharedAfterKill: an agent that is killed leaves its namespace in the
// program; another agent's sweep takes it out, and so does who comes next in that
// namespace.
func TestSharedAfterKill(t *testing.T) {
	a, other := newNode(t), newLab(t)
	other.withoutIPv6()
	k := startAgent(t, a, testConfig()).sources.kernel.(*kernel)
	space := other.r.inode()
	has := func() bool {
		var slot uint32
		return k.shared.maps[spacesMap].Lookup(space, &slot) == nil
	}
	kill := func() {
		cmd := process(t, "name: r\nlisten: 127.0.0.1:0\n")
		other.r.start(cmd)
		poll(t, "the process is in the program", has)
		other.r.must("kill", cmd.Process.Kill())
		cmd.Wait()
		if !has() {
			t.Fatal("the program knows of a kill by itself: this test shows nothing")
		}
	}
	kill()
	poll(t, "the dead agent is swept", func() bool { k.shared.sweep(k.tenant.id); return !has() })
	kill()
	next := startAgent(t, other.r, testConfig())
	if s := next.sources.kernel.(*kernel).shared; s.id != k.shared.id {
		t.Errorf("the next agent has a program of its own, %d, not %d", s.id, k.shared.id)
	}
	events := watch(t, dial(t, other.r, next, nil))
	p := packet.Probe{Flow: packet.Flow{Src: addrPort("10.0.1.2:4000"), Dst: addrPort("10.9.9.9:80"), Proto: unix.IPPROTO_TCP}, TTL: 9, Seq: 1, ID: 1}
	b, err := p.Marshal(nil)
	other.h1.must("probe", err)
	other.h1.sendRaw(b)
	for ev := range events {
		if f := eventFlow(ev.DropEvent); f == p.Flow {
			break
		}
	}
}

// TestSharedIsGoneWithItsLastProcess: killed, the only agent leaves nothing that
// costs.
func TestSharedIsGoneWithItsLastProcess(t *testing.T) {
	n := newNode(t)
	off, reasons := ownProgram(t)
	name, err := programName(off, reasons)
	n.must("name", err)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("TEST_DEVICE_HOLD=%d", reasons[1]))
	n.start(cmd)
	poll(t, "the process has its program", func() bool { return programs(t, name) == 1 })
	n.must("kill", cmd.Process.Kill())
	cmd.Wait()
	poll(t, "its program is gone", func() bool { return programs(t, name) == 0 })
}

// holdShared is what the process of TestSharedIsGoneWithItsLastProcess does.
func holdShared(reason uint32) error {
	spec, err := loadBTF()
	if err != nil {
		return err
	}
	off, _, err := readOffsets(spec)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return err
	}
	if _, _, err := openShared(off, []uint32{1 << 30, reason}, uint32(st.Ino), leastPace.bucket(), slog.Default()); err != nil {
		return err
	}
	time.Sleep(time.Minute) // until it is killed
	return nil
}

// BenchmarkFloodAgents measures what a drop costs in the kernel, by its own
// statistics, with so many agents on the machine: in a namespace of none of them,
// and in that of one.
func BenchmarkFloodAgents(b *testing.B) {
	for _, agents := range []int{1, 10} {
		for _, watched := range []bool{false, true} {
			b.Run(fmt.Sprintf("agents=%d/watched=%v", agents, watched), func(b *testing.B) {
				l := newLab(b)
				l.withoutIPv6()
				l.r.portRule(nftables.ChainHookForward, 7001, dropped)
				var k *kernel
				for i := range agents {
					n := newNode(b)
					if i == 0 && watched {
						n = l.r
					}
					k = startAgent(b, n, testConfig()).sources.kernel.(*kernel)
				}
				l.floodPort(b, k, 7001)
			})
		}
	}
}
