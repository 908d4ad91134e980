package device

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"
)

// kernelBuffer is the ring buffer between kernel and agent: some 4800 records.
const kernelBuffer = 1 << 20

// maxCauses bounds what drops are counted by in the kernel: reasons, places and
// interfaces.
const maxCauses = 1024

// kernel is the source of drops that the Linux kernel itself sees:
// skb:kfree_skb in the agent's network namespace.
type kernel struct {
	log      *slog.Logger
	reasons  map[uint32]string // by number, of the running kernel
	names    *interfaces
	symbols  *symbols
	events   *ebpf.Map
	counters *ebpf.Map
	causes   *ebpf.Map
	tallies  map[string]tally // as last read; bounded by maxCauses
	unsent   uint64           // drops in them, as last read
	program  *ebpf.Program
	link     link.Link
	reader   *ringbuf.Reader
}

// openSource loads and attaches the program, for the network namespace of the
// calling thread. never holds the reasons to pass over.
func openSource(never map[string]bool, limit pace, log *slog.Logger) (_ source, err error) {
	var ns unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &ns); err != nil {
		return nil, fmt.Errorf("find own network namespace: %w", err)
	}
	spec, err := loadBTF()
	if err != nil {
		return nil, err
	}
	off, reasons, err := readOffsets(spec)
	if err != nil {
		return nil, err
	}
	k := &kernel{log: log, reasons: reasons, tallies: map[string]tally{}}
	defer func() {
		if err == nil {
			return
		}
		k.close()
		if errors.Is(err, unix.EPERM) {
			err = fmt.Errorf("%w: run as root, or give the binary cap_bpf, cap_perfmon and cap_net_admin", err)
		}
	}()
	if k.names, err = openInterfaces(log); err != nil {
		return nil, err
	}
	if k.events, err = ebpf.NewMap(&ebpf.MapSpec{Name: "decaf_drops", Type: ebpf.RingBuf, MaxEntries: kernelBuffer}); err != nil {
		return nil, fmt.Errorf("create ring buffer: %w", err)
	}
	if k.counters, err = ebpf.NewMap(&ebpf.MapSpec{Name: "decaf_counts", Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: 8, MaxEntries: counters}); err != nil {
		return nil, fmt.Errorf("create counters: %w", err)
	}
	if k.causes, err = ebpf.NewMap(&ebpf.MapSpec{Name: "decaf_causes", Type: ebpf.PerCPUHash, KeySize: causeSize, ValueSize: tallySize, MaxEntries: maxCauses}); err != nil {
		return nil, fmt.Errorf("create causes: %w", err)
	}
	if k.symbols, err = newSymbols(); err != nil {
		return nil, err
	}
	var ignore []uint32
	for number, name := range reasons {
		if never[name] {
			ignore = append(ignore, number)
		}
	}
	if k.program, err = ebpf.NewProgram(dropProgram(off, uint32(ns.Ino), ignore, limit.bucket(), k.events, k.counters, k.causes)); err != nil {
		return nil, fmt.Errorf("load drop program: %w", err)
	}
	if k.reader, err = ringbuf.NewReader(k.events); err != nil {
		return nil, fmt.Errorf("open ring buffer: %w", err)
	}
	// Last: from here on records come.
	if k.link, err = link.AttachTracing(link.TracingOptions{Program: k.program, AttachType: ebpf.AttachTraceRawTp}); err != nil {
		return nil, fmt.Errorf("attach to skb:kfree_skb: %w", err)
	}
	return k, nil
}

// read detaches when ctx ends.
func (k *kernel) read(ctx context.Context, handle func(r *record, at time.Time)) error {
	// Once the program is detached nothing is added, and a flush makes Read
	// end with ErrFlushed when all was read.
	detached := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(detached)
		if err := errors.Join(k.link.Close(), k.reader.Flush()); err != nil {
			k.log.Warn("the end was not clean", "error", err)
		}
	})
	defer func() {
		if !stop() {
			<-detached
			k.link = nil
		}
	}()
	var (
		raw   ringbuf.Record
		clock bootClock
	)
	for {
		err := k.reader.ReadInto(&raw)
		if errors.Is(err, ringbuf.ErrFlushed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read drops from the kernel: %w", err)
		}
		r, err := parseRecord(raw.RawSample)
		if err != nil {
			return err // the program and parseRecord disagree: nothing will be right
		}
		handle(&r, clock.at(r.time))
	}
}

func (k *kernel) function(location uint64) string {
	name, err := k.symbols.name(location)
	if err != nil {
		k.log.Warn("drop without its function", "error", err)
	}
	return name
}

// reason names a drop reason. Subsystems have their own, above 2^16.
func (k *kernel) reason(number uint32) string {
	if name, ok := k.reasons[number]; ok {
		return name
	}
	return fmt.Sprintf("REASON_%d", number)
}

func (k *kernel) ifname(index uint32) string { return k.names.name(index) }

func (k *kernel) counts() (lost, passed uint64, err error) {
	lost, errLost := k.count(countLost)
	passed, errPassed := k.count(countIgnored)
	return lost, passed, errors.Join(errLost, errPassed)
}

// bucket is the pace as the program counts.
func (p pace) bucket() bucket {
	cost := float64(time.Second) / max(p.rate, 1)
	return bucket{cost: int64(max(cost, 1)), tolerance: int64(cost * max(p.burst-1, 0))}
}

// tally is what was not sent of a cause, over all CPUs.
type tally struct{ held, lost [3]uint64 } // drops, packets, bytes

// held reads the causes map when its drops changed.
func (k *kernel) held(handle func(held)) error {
	bucketed, err1 := k.count(countHeld)
	lost, err2 := k.count(countLost)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	if bucketed+lost == k.unsent {
		return nil
	}
	var key [causeSize]byte
	var values [][tallySize]byte
	entries := k.causes.Iterate()
	for entries.Next(&key, &values) {
		var now tally
		for _, v := range values {
			for i := range 3 {
				now.held[i] += binary.NativeEndian.Uint64(v[tallyHeld+8*i:])
				now.lost[i] += binary.NativeEndian.Uint64(v[tallyLost+8*i:])
			}
		}
		before := k.tallies[string(key[:])]
		if now == before {
			continue
		}
		k.tallies[string(key[:])] = now
		k.unsent += now.held[0] - before.held[0] + now.lost[0] - before.lost[0]
		r := parseCause(key[:])
		for _, w := range []struct {
			now, before [3]uint64
			lost        bool
		}{{now.held, before.held, false}, {now.lost, before.lost, true}} {
			if drops := w.now[0] - w.before[0]; drops > 0 {
				handle(held{record: &r, drops: drops, packets: w.now[1] - w.before[1], bytes: w.now[2] - w.before[2], lost: w.lost})
			}
		}
	}
	if err := entries.Err(); err != nil {
		return fmt.Errorf("read what the kernel held back: %w", err)
	}
	return nil
}

// parseCause reads a key of the causes map.
func parseCause(b []byte) record {
	ne := binary.NativeEndian
	return record{
		location: ne.Uint64(b[causeLocation:]),
		reason:   ne.Uint32(b[causeReason:]),
		inIf:     ne.Uint32(b[causeInIf:]),
		devIf:    ne.Uint32(b[causeDevIf:]),
		dstIf:    ne.Uint32(b[causeDstIf:]),
		dstFlags: ne.Uint32(b[causeDstFlags:]),
		dstErrno: routeErrno(ne.Uint16(b[causeDstError:])),
	}
}

// backlog is how full the ring buffer is, from 0 to 1.
func (k *kernel) backlog() float64 {
	return float64(k.reader.AvailableBytes()) / float64(k.reader.BufferSize())
}

// count returns one of the program's counters over all CPUs.
func (k *kernel) count(key uint32) (uint64, error) {
	var per []uint64
	if err := k.counters.Lookup(key, &per); err != nil {
		return 0, fmt.Errorf("read kernel counter: %w", err)
	}
	var sum uint64
	for _, v := range per {
		sum += v
	}
	return sum, nil
}

func (k *kernel) close() {
	if k.link != nil {
		k.link.Close()
	}
	if k.reader != nil {
		k.reader.Close()
	}
	if k.program != nil {
		k.program.Close()
	}
	if k.symbols != nil {
		k.symbols.close()
	}
	if k.names != nil {
		k.names.close()
	}
	for _, m := range []*ebpf.Map{k.events, k.counters, k.causes} {
		if m != nil {
			m.Close()
		}
	}
}

// bootClock turns the kernel's time since boot into time of day. The two drift
// apart as NTP steers the latter, so they are compared anew each second.
type bootClock struct {
	compared time.Time
	offset   time.Duration // what to add to CLOCK_MONOTONIC
}

func (c *bootClock) at(boot uint64) time.Time {
	if now := time.Now(); now.Sub(c.compared) > time.Second {
		var ts unix.Timespec
		if unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) == nil {
			now = time.Now()
			c.offset = time.Duration(now.UnixNano() - ts.Nano())
			c.compared = now
		}
	}
	return time.Unix(0, int64(boot)+int64(c.offset))
}
