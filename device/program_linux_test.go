package device

import (
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"decaf/api/packet"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// variants are the ways in which the program reads the kernel's memory.
func variants(t testing.TB) map[string]*offsets {
	t.Helper()
	off, _ := ownProgram(t)
	without := *off
	without.direct = nil
	out := map[string]*offsets{"helper": &without}
	if off.direct != nil {
		out["direct"] = off
	}
	return out
}

// openVariant enters a namespace into a program that nobody else has.
func (n *node) openVariant(off *offsets, ignore []uint32, b bucket) *kernel {
	n.t.Helper()
	s, m, err := openShared(off, ignore, n.inode(), b, slog.New(slog.DiscardHandler))
	n.must("program", err)
	n.t.Cleanup(func() {
		n.must("leave", m.leave())
		m.close()
		s.close()
	})
	return &kernel{shared: s, tenant: m, tallies: map[string]*[2]tally{}, turned: map[string]bool{}}
}

// TestProgramVariants: a kernel that does not let the program load from memory
// directly is told of the same drops, by the same causes, packets, bytes and flows.
func TestProgramVariants(t *testing.T) {
	l := newLab(t)
	_, ignore := ownProgram(t)
	shapes, noFlow := shapes()
	flowOf := func(b []byte) packet.Flow {
		d, err := packet.Decode(b)
		l.r.must("decode", err)
		f, err := packet.FlowFromPB(d.Flow)
		l.r.must("flow", err)
		return f
	}
	const each = 200
	type sum struct{ drops, packets, bytes uint64 }
	var want sum
	flows := map[packet.Flow]bool{}
	for _, b := range append(shapes, noFlow) {
		want = sum{want.drops + each, want.packets + each, want.bytes + each*uint64(len(b))}
	}
	for _, b := range shapes {
		flows[flowOf(b)] = true
	}
	for name, off := range variants(t) {
		t.Run(name, func(t *testing.T) {
			// Of each cause one record comes up on each CPU.
			k := l.r.openVariant(off, ignore, bucket{cost: int64(time.Hour), tolerance: longestJiffy})
			reader, err := ringbuf.NewReader(k.tenant.ring)
			l.r.must("ring buffer", err)
			defer reader.Close()
			l.h1.sendRaw(slices.Repeat(append(shapes, noFlow), each)...)
			var got sum
			to := l.r.link("eth1").Attrs().Index
			count := func(r *record, drops, packets, bytes uint64) {
				if r.dstErrno == 0 {
					return // neighbours' own talk
				}
				if int(r.inIf) != to || int(r.devIf) != to || r.dstIf == 0 || r.dstFlags&unix.IFF_UP == 0 {
					t.Errorf("the cause of a drop: %+v", *r)
				}
				got = sum{got.drops + drops, got.packets + packets, got.bytes + bytes}
			}
			raised := map[packet.Flow]uint64{}
			until(t, "all is counted", func() bool {
				for reader.AvailableBytes() > 0 {
					raw, err := reader.Read()
					l.r.must("read", err)
					r, err := parseRecord(raw.RawSample)
					l.r.must("record", err)
					count(&r, 1, r.packets, uint64(r.length))
					if r.dstErrno != 0 {
						raised[flowOf(r.header)]++
					}
				}
				l.r.must("held", k.held(func(h held) { count(h.record, h.drops, h.packets, h.bytes) }))
				return got.drops >= want.drops
			})
			if got != want {
				t.Errorf("counted %+v, want %+v", got, want)
			}
			h, err := k.turn(func(held) {})
			l.r.must("turn", err)
			list, _ := h.candidates(1)
			found := 0
			for _, c := range list {
				if parseCause(c.cause[:]).dstErrno == 0 {
					continue
				}
				if !flows[c.flow] {
					t.Errorf("%v is no flow that was sent", c.flow)
				} else if n := each - raised[c.flow]; n < c.least || n > c.most {
					t.Errorf("%v: %d held back, told [%d, %d]", c.flow, n, c.least, c.most)
				}
				found++
			}
			if found < len(flows)-1 { // two may share their cells
				t.Errorf("%d of %d flows are told of", found, len(flows))
			}
		})
	}
}

// TestProgramPace: under a flood of one cause records keep coming after those of the
// full bucket, and never more than the bucket of each CPU allows.
func TestProgramPace(t *testing.T) {
	l := newLab(t)
	l.r.route("10.20.0.0/16", "", unix.RTN_BLACKHOLE)
	_, ignore := ownProgram(t)
	cpus, err := ebpf.PossibleCPU()
	l.r.must("processors", err)
	b := bucket{cost: int64(time.Millisecond), tolerance: 20 * int64(time.Millisecond)}
	enough := cpus*(2+int(b.tolerance/b.cost)) + 100
	f := frames{from: l.h1.link("eth0").Attrs().HardwareAddr, to: l.r.link("eth1").Attrs().HardwareAddr}
	for name, off := range variants(t) {
		t.Run(name, func(t *testing.T) {
			k := l.r.openVariant(off, ignore, b)
			reader, err := ringbuf.NewReader(k.tenant.ring)
			l.r.must("ring buffer", err)
			defer reader.Close()
			var times []int64
			until(t, "records after those of the full bucket", func() bool {
				l.h1.sendFrames("eth0", 2000, func(i int) []byte { return f.udp4("10.0.1.2", "10.20.0.1", 9, 60, uint16(i), nil, nil) })
				for reader.AvailableBytes() > 0 {
					raw, err := reader.Read()
					l.r.must("read", err)
					r, err := parseRecord(raw.RawSample)
					l.r.must("record", err)
					if r.protocol == etherIPv4 {
						times = append(times, int64(r.time))
					}
				}
				return len(times) >= enough
			})
			slices.Sort(times)
			for i := range times {
				for n, at := range times[i:] {
					if most := int64(cpus) * (2 + (b.tolerance+at-times[i])/b.cost); int64(n) >= most {
						t.Fatalf("%d records within %v, want %d at most", n+1, time.Duration(at-times[i]), most)
					}
				}
			}
		})
	}
}

// TestProgramForgets: what each CPU remembers of which namespaces have agents holds
// no longer than it is true.
func TestProgramForgets(t *testing.T) {
	l := newLab(t)
	arrived := l.r.nftCount(nftables.ChainHookPrerouting, "10.20.0.1", false)
	l.r.route("10.20.0.0/16", "", unix.RTN_BLACKHOLE)
	off, ignore := ownProgram(t)
	k := l.r.openVariant(off, ignore, bucket{cost: int64(time.Hour), tolerance: longestJiffy})
	f := frames{from: l.h1.link("eth0").Attrs().HardwareAddr, to: l.r.link("eth1").Attrs().HardwareAddr}
	const each = 500
	var sent, counted uint64
	drop := func() {
		var all sync.WaitGroup
		for range runtime.NumCPU() {
			all.Go(func() {
				l.h1.sendFrames("eth0", each, func(i int) []byte { return f.udp4("10.0.1.2", "10.20.0.1", 9, 60, uint16(i), nil, nil) })
			})
			sent += each
		}
		all.Wait()
		until(t, "all has arrived", func() bool { return arrived()+l.r.link("eth1").Attrs().Statistics.RxDropped >= sent })
	}
	for range 5 {
		before := counted
		drop()
		until(t, "drops are counted", func() bool {
			now := k.tenant.count(countHeld)
			settled := now == counted && now > before
			counted = now
			return settled
		})
		l.r.must("leave", k.pause(true))
		drop()
		if now := k.tenant.count(countHeld); now != counted {
			t.Errorf("%d drops are counted of a namespace without an agent", now-counted)
		}
		l.r.must("come back", k.pause(false))
	}
}

// BenchmarkDropProgram measures what a drop of a flood costs in the kernel program,
// by the kernel's own statistics of it (their share, some 40 ns, included), as the
// program reads memory: of one flow, and of thousands. What interrupts the program is
// in its time: the least of the runs is its own, the median what it is in use.
func BenchmarkDropProgram(b *testing.B) {
	reasons := benchReasons(b)
	for name, off := range variants(b) {
		for _, flood := range []struct {
			name  string
			flows int
			six   bool
		}{{"one", 1, false}, {"many", 16_000, false}, {"six", 16_000, true}} {
			b.Run("read="+name+"/flows="+flood.name, func(b *testing.B) {
				l := newLab(b)
				l.r.route("10.20.0.0/16", "", unix.RTN_BLACKHOLE)
				l.r.route("fd20::/16", "", unix.RTN_BLACKHOLE)
				program := l.r.openVariant(off, reasons, leastPace.bucket()).shared.program
				f := frames{from: l.h1.link("eth0").Attrs().HardwareAddr, to: l.r.link("eth1").Attrs().HardwareAddr}
				list := make([][]byte, flood.flows)
				for i := range list {
					if flood.six {
						list[i] = f.udp6("fd00:1::2", "fd20::1", 9, 60, uint16(i))
					} else {
						list[i] = f.udp4("10.0.1.2", "10.20.0.1", 9, 60, uint16(i), nil, nil)
					}
				}
				l.perDrop(b, program, list)
			})
		}
	}
}

// perDrop sends frames in turn, which the router drops, and reports what the program
// took for each, by the kernel's own statistics of it.
func (l *lab) perDrop(b *testing.B, program *ebpf.Program, frames [][]byte) {
	b.Helper()
	enabled, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	l.r.must("program statistics", err)
	defer enabled.Close()
	stats := func() *ebpf.ProgramStats {
		s, err := program.Stats()
		l.r.must("program statistics", err)
		return s
	}
	var each []float64
	for b.Loop() {
		before := stats()
		l.h1.sendFrames("eth0", 50_000, func(i int) []byte { return frames[i%len(frames)] })
		after := stats()
		each = append(each, float64(after.Runtime-before.Runtime)/float64(after.RunCount-before.RunCount))
	}
	slices.Sort(each)
	b.ReportMetric(each[len(each)/2], "kernel-ns/drop")
	b.ReportMetric(each[0], "least-ns/drop")
	b.ReportMetric(0, "ns/op")
}

// benchReasons are those that an agent's program passes over, and those of
// ownProgram.
func benchReasons(b *testing.B) []uint32 {
	b.Helper()
	_, ignore := ownProgram(b)
	spec, err := loadBTF()
	if err != nil {
		b.Fatal(err)
	}
	_, names, err := readOffsets(spec)
	if err != nil {
		b.Fatal(err)
	}
	never := newClassifier(rules).never()
	for number, name := range names {
		if never[name] {
			ignore = append(ignore, number)
		}
	}
	return ignore
}
