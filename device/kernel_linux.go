package device

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"decaf/api/packet"
	"decaf/api/yang"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"
)

// kernel is the source of drops that the Linux kernel itself sees:
// skb:kfree_skb in the agent's network namespace.
type kernel struct {
	log     *slog.Logger
	reasons map[uint32]string // by number, of the running kernel
	names   *interfaces
	symbols *symbols
	shared  *shared
	tenant  *tenant
	tallies map[string]*[2]tally // by cause, of both banks, as last read; bounded by maxCauses
	turned  map[string]bool      // causes that had drops since the last turn
	unsent  uint64               // drops in the tallies, as last read
	misses  uint64               // recursions of the program before this agent came
	reader  *ringbuf.Reader

	pacing  sync.Mutex // guards what follows
	paceOf  func(class string) pace
	classes map[[causeSize]byte][]string // of the causes that are known; at most maxCauses
	buckets [][]string                   // their classes: most have one; fewer than classBuckets
	jiffy   int64                        // ns

	filters  []*yang.Filter // that the program knows
	filtered pace           // of what matches them
	counted  []uint64       // packets that matched and did not come up, as last told
	owed     []missedFilter // the same, of filters before, still to be told
}

// missedFilter is how many packets matched a filter that did not come up.
type missedFilter struct {
	filter  *yang.Filter
	packets uint64
}

// openSource sees the drops of the network namespace of the calling thread, by
// the program that all agents of this kernel share. never holds the reasons to
// pass over.
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
	k := &kernel{log: log, reasons: reasons, tallies: map[string]*[2]tally{}, turned: map[string]bool{}, classes: map[[causeSize]byte][]string{}, jiffy: longestJiffy}
	var tick unix.Timespec
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &tick); err == nil && tick.Nano() > 0 {
		k.jiffy = tick.Nano()
	}
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
	if k.symbols, err = newSymbols(); err != nil {
		return nil, err
	}
	var ignore []uint32
	for number, name := range reasons {
		if never[name] {
			ignore = append(ignore, number)
		}
	}
	k.shared, k.tenant, err = openShared(off, ignore, uint32(ns.Ino), limit.bucket(), log)
	var refused *ebpf.VerifierError
	if errors.As(err, &refused) && off.direct != nil {
		log.Info("the kernel does not let the drop program load from memory directly: it does with more work", "error", err)
		off.direct = nil
		k.shared, k.tenant, err = openShared(off, ignore, uint32(ns.Ino), limit.bucket(), log)
	}
	if err != nil {
		return nil, err
	}
	k.misses = k.recursions()
	if k.reader, err = ringbuf.NewReader(k.tenant.ring); err != nil {
		k.tenant.leave()
		return nil, fmt.Errorf("open ring buffer: %w", err)
	}
	return k, nil
}

// read leaves the program when ctx ends.
func (k *kernel) read(ctx context.Context, handle func(r *record, at time.Time)) error {
	// Once the agent is out of the program nothing is added, and a flush makes
	// Read end with ErrFlushed when all was read.
	left := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(left)
		if err := errors.Join(k.tenant.leave(), k.reader.Flush()); err != nil {
			k.log.Warn("the end was not clean", "error", err)
		}
	})
	defer func() {
		if stop() {
			k.tenant.leave()
			return
		}
		<-left
	}()
	ctx, stopSweeping := context.WithCancel(ctx)
	defer stopSweeping()
	go k.sweep(ctx)
	k.reader.SetDeadline(time.Now().Add(beat))
	var (
		raw   ringbuf.Record
		clock = bootClock{now: systemClocks()}
	)
	for {
		err := k.reader.ReadInto(&raw)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			k.reader.SetDeadline(time.Now().Add(beat)) // records of a flood wake nobody
			continue
		}
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

// sweep clears up after agents that were killed, now and then until ctx ends.
func (k *kernel) sweep(ctx context.Context) {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if n := k.shared.sweep(k.tenant.id); n > 0 {
				k.log.Info("cleared up after agents that had ended without leaving the drop program", "agents", n)
			}
		}
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
	return k.tenant.count(countLost), k.tenant.count(countIgnored), nil
}

// missed is [recursive]'s.
func (k *kernel) missed() uint64 { return less(k.recursions(), k.misses) }

// recursions is how often the kernel did not run the program since it was running on
// that processor already: recursion_misses of struct bpf_prog_info, from Linux 5.12
// on, 0 before.
func (k *kernel) recursions() uint64 {
	stats, err := k.shared.program.Stats()
	if err != nil {
		k.log.Warn("what the drop program missed is not known", "error", err)
		return 0
	}
	return stats.RecursionMisses
}

// setPace is [paced]'s. It holds at once.
func (k *kernel) setPace(unknown pace, of func(class string) pace) {
	k.pacing.Lock()
	defer k.pacing.Unlock()
	k.paceOf = of
	once := false
	for i := range k.buckets {
		once = k.setBucket(uint32(i+1)) || once
	}
	k.rememberFlows(once)
	k.tenant.setPace(unknown.bucket())
}

// setBucket sets the pace of a bucket, counted from 1: the highest of its classes. It
// reports whether flows are handed on once a while, as all of them may be.
func (k *kernel) setBucket(number uint32) bool {
	p := pace{once: math.MaxInt64}
	for _, class := range k.buckets[number-1] {
		of := k.paceOf(class)
		p = pace{rate: max(p.rate, of.rate), burst: max(p.burst, of.burst), once: min(p.once, of.once)}
	}
	repeat := (int64(p.once) + k.jiffy - 1) / k.jiffy
	k.tenant.setBucket(number, p.bucket(), uint32(min(repeat, math.MaxUint32)))
	return p.once > 0
}

func (k *kernel) rememberFlows(yes bool) {
	if err := k.tenant.rememberFlows(yes); err != nil {
		k.log.Warn("a fast flow of a class that is de-duplicated may hide the first drop of another", "error", err)
	}
}

// classed is [paced]'s.
func (k *kernel) classed(r *record, class string) {
	cause := [causeSize]byte(r.cause)
	k.pacing.Lock()
	defer k.pacing.Unlock()
	known, ok := k.classes[cause]
	if k.paceOf == nil || slices.Contains(known, class) || !ok && len(k.classes) >= maxCauses {
		return
	}
	classes := slices.Sorted(slices.Values(append(slices.Clone(known), class)))
	k.classes[cause] = classes
	number := uint32(1 + slices.IndexFunc(k.buckets, func(b []string) bool { return slices.Equal(b, classes) }))
	if number == 0 && len(k.buckets) < classBuckets-1 {
		k.buckets = append(k.buckets, classes)
		number = uint32(len(k.buckets))
		if k.setBucket(number) {
			k.rememberFlows(true)
		}
	} // or 0: it goes on as if its class were not known
	if err := k.tenant.setClass(cause, number); err != nil {
		k.log.Warn("some drops are handed on at the pace of the class with the highest threshold", "error", err)
	}
	k.tenant.changed()
}

// setFilters is [filterer]'s.
func (k *kernel) setFilters(list []*yang.Filter, of pace) error {
	k.pacing.Lock()
	defer k.pacing.Unlock()
	if of == k.filtered && slices.EqualFunc(list, k.filters, sameFilter) {
		return nil
	}
	rows := make([][filterSize]byte, len(list))
	for i, f := range list {
		rows[i] = filterRow(f)
	}
	missed, err := k.tenant.setFilters(rows, of.bucket())
	k.owe(missed)
	if err != nil {
		return err
	}
	k.filters, k.filtered, k.counted = slices.Clone(list), of, make([]uint64, len(list))
	return nil
}

// owe takes in what the program counted of the filters.
func (k *kernel) owe(missed []uint64) {
	for i, f := range k.filters {
		if i < len(missed) && missed[i] > k.counted[i] {
			k.owed = append(k.owed, missedFilter{f, missed[i] - k.counted[i]})
			k.counted[i] = missed[i]
		}
	}
}

// missedOf is [filterer]'s.
func (k *kernel) missedOf(handle func(f *yang.Filter, packets uint64)) (err error) {
	k.pacing.Lock()
	var missed []uint64
	if len(k.filters) > 0 {
		missed, err = k.tenant.missed()
		k.owe(missed)
	}
	owed := k.owed
	k.owed = nil
	k.pacing.Unlock()
	for _, m := range owed {
		handle(m.filter, m.packets)
	}
	return err
}

// filterRow is a filter as the program has it.
func filterRow(f *yang.Filter) (row [filterSize]byte) {
	mask, value := row[filterMask:filterValue], row[filterValue:filterMissed]
	for _, side := range []struct {
		of     netip.Prefix
		v4, v6 int
	}{{f.Source, flowSource, flowSource}, {f.Destination, flowDestination4, flowDestination}} {
		if !side.of.IsValid() {
			continue
		}
		at, version := side.v4, byte(4)
		if side.of.Addr().Is6() {
			at, version = side.v6, 6
		}
		mask[flowVersion], value[flowVersion] = 0xff, version
		copy(value[at:], side.of.Masked().Addr().AsSlice())
		for bit := range side.of.Bits() {
			mask[at+bit/8] |= 0x80 >> (bit % 8)
		}
	}
	port := func(at int, of *uint16) {
		if of != nil {
			binary.BigEndian.PutUint16(mask[at:], 0xffff)
			binary.BigEndian.PutUint16(value[at:], *of)
		}
	}
	port(flowPorts, f.SourcePort)
	port(flowPorts+2, f.DestinationPort)
	if f.Protocol != nil {
		mask[flowProtocol], value[flowProtocol] = 0xff, *f.Protocol
	}
	if f.DSCP != nil {
		mask[flowDSCP], value[flowDSCP] = 0xff, *f.DSCP
	}
	return row
}

// repeated is [repeating]'s.
func (k *kernel) repeated(now time.Time, class string, f packet.Flow) (last time.Time, packets uint64, ok bool) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil { // there is no kernel without it
		panic(err)
	}
	k.pacing.Lock()
	defer k.pacing.Unlock()
	var latest int64
	for i, b := range k.buckets {
		if !slices.Contains(b, class) {
			continue
		}
		if seen, held, known := k.tenant.flow(uint32(i+1), f, k.jiffy); known {
			latest, packets, ok = max(latest, seen), packets+held, true
		}
	}
	return now.Add(-time.Duration(max(ts.Nano()-latest, 0))), packets, ok
}

// forget is [repeating]'s.
func (k *kernel) forget(class string, f packet.Flow) {
	k.pacing.Lock()
	defer k.pacing.Unlock()
	for i, b := range k.buckets {
		if slices.Contains(b, class) {
			k.tenant.forgetFlow(uint32(i+1), f)
		}
	}
}

// anew is [repeating]'s.
func (k *kernel) anew() { k.tenant.changed() }

// pause takes the agent out of the program, or back in: out of it a drop costs
// next to nothing, and is not counted.
func (k *kernel) pause(out bool) error { return k.tenant.pause(out) }

// bucket is the pace as the program counts.
func (p pace) bucket() bucket {
	cost := float64(time.Second) / max(p.rate, 1)
	return bucket{cost: int64(max(cost, 1)), tolerance: max(int64(cost*max(p.burst-1, 0)), longestJiffy)}
}

// tally is what was not sent of a cause, over all CPUs.
type tally struct{ held, lost, again [3]uint64 } // drops, packets, bytes

// all is how many drops that is.
func (t tally) all() uint64 { return t.held[0] + t.lost[0] + t.again[0] }

// held reads the causes map when its drops changed.
func (k *kernel) held(handle func(held)) error {
	if k.tenant.count(countHeld)+k.tenant.count(countLost) == k.unsent {
		return nil
	}
	return k.readTallies(k.tenant.bank, handle)
}

// turn reads the causes map and the sketch up to one and the same drop.
func (k *kernel) turn(handle func(held)) (*heldBack, error) {
	bank, s, err := k.tenant.turn()
	if err != nil {
		return nil, err
	}
	if err := k.readTallies(bank, handle); err != nil {
		return nil, err
	}
	h := &heldBack{sketch: s}
	for key := range k.turned {
		r := parseCause([]byte(key))
		h.causes = append(h.causes, heldCause{key: [causeSize]byte([]byte(key)), record: &r})
	}
	clear(k.turned)
	return h, nil
}

// readTallies hands on what is new in one bank of the causes map.
func (k *kernel) readTallies(bank int, handle func(held)) error {
	var key [causeSize]byte
	var values [][tallySize]byte
	entries := k.tenant.causes.Iterate()
	for entries.Next(&key, &values) {
		var now tally
		for _, v := range values {
			for i := range 3 {
				now.held[i] += binary.NativeEndian.Uint64(v[tallyHeld+bank*tallyBank+8*i:])
				now.lost[i] += binary.NativeEndian.Uint64(v[tallyLost+bank*tallyBank+8*i:])
				now.again[i] += binary.NativeEndian.Uint64(v[tallyAgain+bank*tallyBank+8*i:])
			}
		}
		tallies := k.tallies[string(key[:])]
		if tallies == nil {
			tallies = new([2]tally)
			k.tallies[string(key[:])] = tallies
		}
		before := tallies[bank]
		if now == before {
			continue
		}
		tallies[bank] = now
		k.turned[string(key[:])] = true
		k.unsent += now.all() - before.all()
		r := parseCause(key[:])
		for _, w := range []struct {
			now, before [3]uint64
			lost, again bool
		}{{now.held, before.held, false, false}, {now.lost, before.lost, true, false}, {now.again, before.again, false, true}} {
			// The program may be between two of them: what is a drop now may be its
			// packets the next time.
			if w.now != w.before {
				handle(held{record: &r, drops: w.now[0] - w.before[0], packets: w.now[1] - w.before[1], bytes: w.now[2] - w.before[2], lost: w.lost, again: w.again})
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
		cause:    slices.Clone(b[:causeSize]),
		location: ne.Uint64(b[causeLocation:]),
		reason:   ne.Uint32(b[causeReason:]),
		inIf:     ne.Uint32(b[causeInIf:]),
		devIf:    ne.Uint32(b[causeDevIf:]),
		dstIf:    ne.Uint32(b[causeDstIf:]),
		dstFlags: ne.Uint32(b[causeDstFlags:]),
		dstErrno: routeErrno(ne.Uint16(b[causeDstError:])),
		protocol: binary.BigEndian.Uint16(b[causeProtocol:]),
	}
}

// backlog is how full the ring buffer is, from 0 to 1.
func (k *kernel) backlog() float64 {
	return float64(k.reader.AvailableBytes()) / float64(k.reader.BufferSize())
}

func (k *kernel) close() {
	if k.reader != nil {
		k.reader.Close()
	}
	if k.tenant != nil {
		k.tenant.close()
	}
	if k.shared != nil {
		k.shared.close()
	}
	if k.symbols != nil {
		k.symbols.close()
	}
	if k.names != nil {
		k.names.close()
	}
}

// bootClock turns the kernel's time since boot into time of day, by how far apart
// the two are when a record is read: a clock that somebody sets is followed with the
// next record, one that NTP steers each comparedEvery, so that in between what
// happened later has the later time.
type bootClock struct {
	now      func() (wall, boot int64) // ns, of one moment
	known    bool
	compared int64 // time since boot when offset was taken
	offset   int64 // ns to add to it
}

const (
	comparedEvery = time.Second
	// steppedBy is more than the clocks drift apart in between. What looks like it may
	// be a pause of this process between the two readings: then the next one differs.
	steppedBy = time.Millisecond
	readings  = 4
)

func (c *bootClock) at(boot uint64) time.Time {
	wall, since := c.now()
	offset := wall - since
	for n := 1; n < readings && c.known && apart(offset, c.offset); n++ {
		again, then := c.now()
		steady := !apart(again-then, offset)
		if offset, since = again-then, then; steady {
			break
		}
	}
	if !c.known || apart(offset, c.offset) || since-c.compared >= int64(comparedEvery) {
		c.known, c.compared, c.offset = true, since, offset
	}
	return time.Unix(0, int64(boot)+c.offset)
}

// apart reports whether no steering explains that two offsets differ.
func apart(a, b int64) bool { return max(a-b, b-a) > int64(steppedBy) }

// systemClocks returns what reads time of day and CLOCK_MONOTONIC together, without
// a system call: a time has a reading of both, of which it gives the latter away as
// what passed since another one.
func systemClocks() func() (wall, boot int64) {
	begin := time.Now()
	var boot int64 // when it begins, by the reading that took least
	for n, least := 0, time.Duration(math.MaxInt64); n < 8; n++ {
		var ts unix.Timespec
		before := time.Since(begin)
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil { // there is no kernel without it
			panic(err)
		}
		if took := time.Since(begin) - before; took < least {
			least, boot = took, ts.Nano()-int64(before+took/2)
		}
	}
	return func() (int64, int64) {
		now := time.Now()
		return now.UnixNano(), boot + int64(now.Sub(begin))
	}
}
