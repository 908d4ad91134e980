package device

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"decaf/api/packet"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// The agents of one kernel, each of them a process of its own in a network
// namespace of its own, share one attached program: what a drop costs the machine
// does not grow with their number. Nothing of that is in a file system, since
// agents in containers and under ip netns exec see different ones: the first
// attaches the program, the others find it by asking the kernel for its links.
// Each holds a descriptor of it, so it is detached when the last of them ends,
// however that ends.
//
// What an agent is to the program is its entry in the agents map, at a slot that
// it takes by an atomic exchange in the map's memory, its own maps at that slot
// of the arrays of maps, and its namespace in the spaces map. The entry's token
// is the number of a map that the agent alone holds: when that map is gone the
// agent is, however it ended, and whoever notices first takes the slot over and
// clears it (sweep). Agents look for the dead when they start and every
// sweepEvery.

const (
	// maxAgents bounds the agents of one kernel.
	maxAgents = 1024
	// ready is the entry of the agents map that is nobody's: its token says
	// whether the program can be joined.
	ready = maxAgents
	// electTime bounds the wait for who began earlier; stuck there it is stopped.
	electTime  = 5 * time.Second
	sweepEvery = 10 * time.Second

	// kernelBuffer is the ring buffer between kernel and agent: some 4800 records.
	kernelBuffer = 1 << 20
	// maxCauses bounds what drops are counted by in the kernel: reasons, places
	// and interfaces.
	maxCauses = 1024
	// maxFlows bounds the flows of de-duplicated classes that the kernel remembers:
	// of more, those that were dropped longest ago come up again, and the agent knows
	// them. There is room for them while a class is de-duplicated: some 2 MB.
	maxFlows = maxRepeated
)

var (
	errTaken = errors.New("another agent watches this network namespace")
	errFull  = fmt.Errorf("there are %d agents on this kernel already", maxAgents)
)

// shared is the program that all agents of one kernel use, and its maps.
type shared struct {
	id      link.ID
	link    link.Link
	program *ebpf.Program
	maps    map[string]*ebpf.Map // by name
	agents  []byte               // the agents map's memory
	recent  []byte               // the recent map's
}

// The shared maps' names, which the kernel cuts after 15 characters.
const (
	spacesMap   = "decaf_spaces"
	recentMap   = "decaf_recent"
	agentsMap   = "decaf_agents"
	ringsMap    = "decaf_rings"
	causesMap   = "decaf_causes"
	pacesMap    = "decaf_paces"
	classesMap  = "decaf_classes"
	filtersMap  = "decaf_filters"
	flowsMap    = "decaf_flows"
	sketchesMap = "decaf_sketches"
)

// ownMaps are those of them that hold an agent's own, at its slot.
var ownMaps = []string{ringsMap, causesMap, pacesMap, classesMap, filtersMap, flowsMap, sketchesMap}

// sharedMaps describes them; CPUs is how many this machine can have.
func sharedMaps(cpus int) []*ebpf.MapSpec {
	arrayOf := func(name string, inner *ebpf.MapSpec) *ebpf.MapSpec {
		return &ebpf.MapSpec{Name: name, Type: ebpf.ArrayOfMaps, KeySize: 4, ValueSize: 4, MaxEntries: maxAgents, InnerMap: inner}
	}
	list := []*ebpf.MapSpec{
		{Name: spacesMap, Type: ebpf.Hash, KeySize: 4, ValueSize: 4, MaxEntries: maxAgents},
		{Name: recentMap, Type: ebpf.Array, KeySize: 4, ValueSize: recentSize(cpus), MaxEntries: 1, Flags: unix.BPF_F_MMAPABLE},
		{Name: agentsMap, Type: ebpf.Array, KeySize: 4, ValueSize: agentSize, MaxEntries: maxAgents + 1, Flags: unix.BPF_F_MMAPABLE},
	}
	for _, name := range ownMaps {
		list = append(list, arrayOf(name, innerMap(name, cpus)))
	}
	return list
}

// recentSize is that of the recent map's entry.
func recentSize(cpus int) uint32 { return uint32(recentFirst + cpus*recentCPU) }

// innerMap describes one of an agent's own maps.
func innerMap(name string, cpus int) *ebpf.MapSpec {
	switch name {
	case ringsMap:
		return &ebpf.MapSpec{Name: "decaf_ring", Type: ebpf.RingBuf, MaxEntries: kernelBuffer}
	case causesMap:
		return &ebpf.MapSpec{Name: "decaf_cause", Type: ebpf.PerCPUHash, KeySize: causeSize, ValueSize: tallySize, MaxEntries: maxCauses}
	case pacesMap:
		return &ebpf.MapSpec{Name: "decaf_pace", Type: ebpf.Hash, KeySize: causeSize, ValueSize: 4, MaxEntries: maxCauses}
	case classesMap:
		return &ebpf.MapSpec{Name: "decaf_class", Type: ebpf.Array, KeySize: 4, ValueSize: bucketSize, MaxEntries: classBuckets, Flags: unix.BPF_F_MMAPABLE}
	case filtersMap:
		return &ebpf.MapSpec{Name: "decaf_filter", Type: ebpf.Array, KeySize: 4, ValueSize: filtersSize, MaxEntries: 1}
	case flowsMap:
		return &ebpf.MapSpec{Name: "decaf_flow", Type: ebpf.LRUHash, KeySize: 8, ValueSize: flowEntry, MaxEntries: maxFlows}
	}
	return &ebpf.MapSpec{Name: "decaf_sketch", Type: ebpf.Array, KeySize: 4, ValueSize: cpuSize, MaxEntries: uint32(cpus), Flags: unix.BPF_F_MMAPABLE}
}

// openShared finds the program that serves this kernel's agents, or attaches it,
// and enters the agent of a namespace. reasons are those to pass over.
func openShared(off *offsets, reasons []uint32, space uint32, b bucket, log *slog.Logger) (_ *shared, _ *tenant, err error) {
	name, err := programName(off, reasons)
	if err != nil {
		return nil, nil, err
	}
	var own *shared
	defer func() {
		if err != nil && own != nil {
			own.close()
		}
	}()
	for begin := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		// The oldest that is there wins. Who attached one and finds an older
		// goes over to that: several may have begun at once.
		wait := false
		err := eachLink(func(id link.ID, l link.Link) (bool, error) {
			if own != nil && id >= own.id {
				l.Close()
				return false, nil
			}
			s, err := openLink(id, l, name)
			if s == nil || err != nil {
				return true, err
			}
			if s.token(ready).Load() == 0 {
				wait = true
				s.close()
				return false, nil
			}
			m, err := s.enter(space, b)
			if errors.Is(err, errTaken) || errors.Is(err, errFull) {
				s.close()
				return true, nil
			}
			if err != nil {
				s.close()
				return false, err
			}
			return false, joined{s, m}
		})
		if j := (joined{}); errors.As(err, &j) {
			if own != nil {
				own.close()
			}
			return j.shared, j.tenant, nil
		}
		switch {
		case err == nil:
		case errors.Is(err, unix.EAGAIN): // one is being attached
			wait = true
		case !errors.Is(err, unix.EPERM):
			return nil, nil, err
		case own == nil:
			log.Warn("this agent has a drop program of its own, at its own cost to the machine: to share one with other agents it needs cap_sys_admin")
		}
		if own == nil {
			if own, err = attachShared(off, reasons, name); err != nil {
				return nil, nil, err
			}
			continue
		}
		if wait && time.Since(begin) < electTime {
			continue
		}
		own.token(ready).Store(1)
		m, err := own.enter(space, b)
		if errors.Is(err, errTaken) { // by one that joined since
			own.close()
			own = nil
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		return own, m, nil
	}
}

// joined carries a success out of eachLink.
type joined struct {
	shared *shared
	tenant *tenant
}

func (joined) Error() string { return "joined" }

// programName is one for each program that decaf can make: versions that differ,
// in what they do or in the shape of their maps, do not meet.
func programName(off *offsets, reasons []uint32) (string, error) {
	h := sha256.New()
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return "", fmt.Errorf("count processors: %w", err)
	}
	fmt.Fprintln(h, dropProgram(off, reasons, cpus, programMaps{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}).Instructions)
	for _, m := range sharedMaps(cpus) {
		fmt.Fprintln(h, m)
		if m.InnerMap != nil {
			fmt.Fprintln(h, m.InnerMap)
		}
	}
	return fmt.Sprintf("decaf_%.9x", h.Sum(nil))[:len("decaf_")+9], nil
}

// eachLink calls fn with each link of this kernel, the oldest first, until it
// says to stop. The link is fn's to close.
func eachLink(fn func(id link.ID, l link.Link) (more bool, err error)) error {
	var it link.Iterator
	defer it.Close()
	for it.Next() {
		if more, err := fn(it.ID, it.Take()); !more || err != nil {
			return err
		}
	}
	return it.Err()
}

// openLink opens the program and the maps behind a link, which it takes over. It
// returns nil when the program is another, or gone.
func openLink(id link.ID, l link.Link, name string) (_ *shared, err error) {
	s := &shared{id: id, link: l, maps: map[string]*ebpf.Map{}}
	keep := false
	defer func() {
		if !keep {
			s.close()
		}
	}()
	info, err := l.Info()
	if err != nil || info.Program == 0 {
		return nil, nil // of some kind that has none
	}
	if s.program, err = ebpf.NewProgramFromID(info.Program); err != nil {
		return nil, nil // gone since
	}
	of, err := s.program.Info()
	if err != nil || of.Name != name {
		return nil, nil
	}
	ids, _ := of.MapIDs()
	for _, id := range ids {
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			return nil, fmt.Errorf("open the maps of the drop program that is attached: %w", err)
		}
		mi, err := m.Info()
		if err != nil {
			m.Close()
			return nil, fmt.Errorf("open the maps of the drop program that is attached: %w", err)
		}
		s.maps[mi.Name] = m
	}
	if err := s.mapShared(); err != nil {
		return nil, err
	}
	keep = true
	return s, nil
}

// attachShared makes and attaches the program. Nobody can join it yet.
func attachShared(off *offsets, reasons []uint32, name string) (_ *shared, err error) {
	s := &shared{maps: map[string]*ebpf.Map{}}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("count processors: %w", err)
	}
	for _, spec := range sharedMaps(cpus) {
		m, err := ebpf.NewMap(spec)
		if err != nil {
			return nil, fmt.Errorf("create the map %s: %w", spec.Name, err)
		}
		s.maps[spec.Name] = m
	}
	if err := s.mapShared(); err != nil {
		return nil, err
	}
	fd := func(name string) int { return s.maps[name].FD() }
	spec := dropProgram(off, reasons, cpus, programMaps{
		spaces: fd(spacesMap), recent: fd(recentMap), agents: fd(agentsMap), rings: fd(ringsMap), causes: fd(causesMap), paces: fd(pacesMap),
		classes: fd(classesMap), filters: fd(filtersMap), flows: fd(flowsMap), sketches: fd(sketchesMap),
	})
	spec.Name = name
	if s.program, err = ebpf.NewProgram(spec); err != nil {
		return nil, fmt.Errorf("load drop program: %w", err)
	}
	if s.link, err = link.AttachTracing(link.TracingOptions{Program: s.program, AttachType: ebpf.AttachTraceRawTp}); err != nil {
		return nil, fmt.Errorf("attach to skb:kfree_skb: %w", err)
	}
	info, err := s.link.Info()
	if err != nil {
		return nil, fmt.Errorf("attach to skb:kfree_skb: %w", err)
	}
	s.id = info.ID
	return s, nil
}

// mapShared maps the memory of the maps that agents write themselves.
func (s *shared) mapShared() (err error) {
	for _, name := range slices.Concat([]string{spacesMap, recentMap, agentsMap}, ownMaps) {
		if s.maps[name] == nil {
			return fmt.Errorf("the drop program that is attached has no map %s", name)
		}
	}
	if s.agents, err = mapMemory(s.maps[agentsMap], agentSize*(maxAgents+1)); err != nil {
		return err
	}
	s.recent, err = mapMemory(s.maps[recentMap], int(s.maps[recentMap].ValueSize()))
	return err
}

// spacesChanged tells the program that what it remembers of the spaces map is old.
// It comes after the change.
func (s *shared) spacesChanged() {
	(*atomic.Uint64)(unsafe.Pointer(&s.recent[recentChanges])).Add(1)
}

// token is the owner of a slot; 0 is nobody.
func (s *shared) token(slot int) *atomic.Uint64 { return s.word(slot, agentToken) }

func (s *shared) word(slot, off int) *atomic.Uint64 {
	return (*atomic.Uint64)(unsafe.Pointer(&s.agents[slot*agentSize+off]))
}

func (s *shared) close() {
	unmap(s.agents)
	unmap(s.recent)
	for _, m := range s.maps {
		m.Close()
	}
	if s.program != nil {
		s.program.Close()
	}
	if s.link != nil {
		s.link.Close()
	}
}

// mapMemory maps a map of BPF_F_MMAPABLE; size is that of all its entries.
func mapMemory(m *ebpf.Map, size int) ([]byte, error) {
	page := os.Getpagesize()
	b, err := unix.Mmap(m.FD(), 0, (size+page-1)/page*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map the memory of %s: %w", m, err)
	}
	return b[:size:cap(b)], nil
}

// unmap takes back what mapMemory mapped, or nil.
func unmap(b []byte) {
	if b != nil {
		unix.Munmap(b[:cap(b)])
	}
}

// tenant is one agent's part of the shared program.
type tenant struct {
	shared *shared
	space  uint32 // inode of its network namespace
	slot   uint32
	token  *ebpf.Map // lives as long as this process
	id     uint64    // its number

	ring, causes, paces, classes, sketches *ebpf.Map

	filters, flows *ebpf.Map // nil: there are none; guarded by kernel.pacing
	buckets        []byte    // the memory of classes
	cells          []byte    // the memory of sketches
	seed           uint64    // of all marks

	mu   sync.Mutex
	bank int  // which one the program writes
	out  bool // of the program, for a while
	left bool // it, for ever
}

// enter makes an agent of the program's: from then on drops of its namespace
// come. An error that is errTaken or errFull says that it has no place here.
func (s *shared) enter(space uint32, b bucket) (_ *tenant, err error) {
	m := &tenant{shared: s, space: space}
	claimed := false
	defer func() {
		if err != nil {
			if claimed {
				s.release(m.slot, m.id)
			}
			m.close()
		}
	}()
	if m.token, err = ebpf.NewMap(&ebpf.MapSpec{Name: "decaf_token", Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}); err != nil {
		return nil, fmt.Errorf("create the agent's token: %w", err)
	}
	info, err := m.token.Info()
	if err != nil {
		return nil, fmt.Errorf("create the agent's token: %w", err)
	}
	id, ok := info.ID()
	if !ok {
		return nil, errors.New("create the agent's token: the kernel does not number its maps: need Linux 4.13 or later")
	}
	m.id = uint64(id)
	s.sweep(m.id)

	var slot uint32
	if err := s.maps[spacesMap].Lookup(space, &slot); err == nil {
		return nil, errTaken
	}
	for claimed = false; slot < maxAgents; slot++ {
		if claimed = s.token(int(slot)).CompareAndSwap(0, m.id); claimed {
			break
		}
	}
	if !claimed {
		return nil, errFull
	}
	m.slot = slot
	if err := m.make(); err != nil {
		return nil, err
	}
	m.setPace(b)
	s.word(int(slot), agentSeed).Store(m.seed)
	s.word(int(slot), agentBank).Store(0)
	s.word(int(slot), agentAsleep).Store(0)
	s.word(int(slot), agentFilters).Store(0)
	for name, inner := range map[string]*ebpf.Map{ringsMap: m.ring, causesMap: m.causes, pacesMap: m.paces, classesMap: m.classes, sketchesMap: m.sketches} {
		if err := s.maps[name].Put(slot, inner); err != nil {
			return nil, fmt.Errorf("enter the agent in %s: %w", name, err)
		}
	}
	// Last: from here on records come.
	if err := s.maps[spacesMap].Update(space, slot, ebpf.UpdateNoExist); err != nil {
		if errors.Is(err, ebpf.ErrKeyExist) {
			return nil, errTaken
		}
		return nil, fmt.Errorf("enter the agent's network namespace: %w", err)
	}
	s.spacesChanged()
	return m, nil
}

// make makes the agent's own maps.
func (m *tenant) make() (err error) {
	var random [8]byte
	if _, err := rand.Read(random[:]); err != nil {
		return fmt.Errorf("draw the sketch's seed: %w", err)
	}
	m.seed = binary.NativeEndian.Uint64(random[:])
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return fmt.Errorf("count processors: %w", err)
	}
	for _, want := range []struct {
		name string
		to   **ebpf.Map
	}{{ringsMap, &m.ring}, {causesMap, &m.causes}, {pacesMap, &m.paces}, {classesMap, &m.classes}, {sketchesMap, &m.sketches}} {
		if *want.to, err = newInner(want.name, cpus); err != nil {
			return err
		}
	}
	if m.buckets, err = mapMemory(m.classes, classBuckets*bucketSize); err != nil {
		return err
	}
	m.cells, err = mapMemory(m.sketches, cpuSize*cpus)
	return err
}

func newInner(name string, cpus int) (*ebpf.Map, error) {
	spec := innerMap(name, cpus)
	m, err := ebpf.NewMap(spec)
	if err != nil {
		return nil, fmt.Errorf("create the map %s: %w", spec.Name, err)
	}
	return m, nil
}

// setPace sets how many records come up of a cause whose class is not known.
func (m *tenant) setPace(b bucket) {
	m.shared.word(int(m.slot), agentPace+bucketTolerate-bucketCost).Store(uint64(b.tolerance))
	m.shared.word(int(m.slot), agentPace).Store(uint64(b.cost))
	m.changed()
}

// changed has the program look up anew what holds for a cause, and tell anew of each
// flow of a de-duplicated class.
func (m *tenant) changed() { m.shared.word(int(m.slot), agentPaces).Add(1) }

// setBucket sets how many records come up of a class, and in how many jiffies a flow
// of it is told of once; 0 is each time. It holds once changed is called.
func (m *tenant) setBucket(class uint32, b bucket, repeat uint32) {
	at := m.buckets[class*bucketSize:]
	(*atomic.Uint64)(unsafe.Pointer(&at[bucketTolerate])).Store(uint64(b.tolerance))
	(*atomic.Uint64)(unsafe.Pointer(&at[bucketCost])).Store(uint64(b.cost))
	(*atomic.Uint32)(unsafe.Pointer(&at[bucketRepeat])).Store(repeat)
}

// setClass tells the class of a cause. It holds once changed is called.
func (m *tenant) setClass(cause [causeSize]byte, class uint32) error {
	if err := m.paces.Put(cause[:], class); err != nil {
		return fmt.Errorf("tell the drop program a cause's class: %w", err)
	}
	return nil
}

// rememberFlows makes room for the flows of de-duplicated classes, or gives it free.
func (m *tenant) rememberFlows(yes bool) error {
	switch {
	case yes && m.flows == nil:
		flows, err := newInner(flowsMap, 0)
		if err == nil {
			err = m.shared.maps[flowsMap].Put(m.slot, flows)
		}
		if err != nil {
			if flows != nil {
				flows.Close()
			}
			return fmt.Errorf("remember flows in the drop program: %w", err)
		}
		m.flows = flows
	case !yes && m.flows != nil:
		if err := m.shared.maps[flowsMap].Delete(m.slot); err != nil {
			return fmt.Errorf("forget flows in the drop program: %w", err)
		}
		m.flows.Close()
		m.flows = nil
	}
	return nil
}

// flow returns what the program has on a flow of a class: when it was last dropped,
// in ns since boot by jiffies of so many ns, and the packets that it held back since it
// remembers it.
func (m *tenant) flow(class uint32, f packet.Flow, jiffy int64) (seen int64, repeats uint64, ok bool) {
	if m.flows == nil {
		return 0, 0, false
	}
	var v [flowEntry / 8]uint64
	if err := m.flows.Lookup(flowMark(m.seed, class, f), &v); err != nil {
		return 0, 0, false
	}
	return int64(v[flowTime/8]) + int64(v[flowSeen/8]-v[flowTold/8])*jiffy, v[flowRepeats/8], true
}

// forgetFlow has the next drop of a flow of a class come up.
func (m *tenant) forgetFlow(class uint32, f packet.Flow) {
	if m.flows != nil {
		m.flows.Delete(flowMark(m.seed, class, f)) // one that is not there is as good
	}
}

// setFilters puts filters in force, in place of those before, of which it returns by
// filter how many packets matched that did not come up. It returns when the program
// runs nowhere any more with those.
func (m *tenant) setFilters(list [][filterSize]byte, b bucket) (missed []uint64, err error) {
	var next *ebpf.Map
	if len(list) > 0 {
		if next, err = newInner(filtersMap, 0); err != nil {
			return nil, err
		}
		var v [filtersSize]byte
		binary.NativeEndian.PutUint64(v[bucketCost:], uint64(b.cost))
		binary.NativeEndian.PutUint64(v[bucketTolerate:], uint64(b.tolerance))
		for i, f := range list {
			row := v[filterFirst+i*filterSize:]
			copy(row, f[:])
			binary.NativeEndian.PutUint64(row[filterBit:], 1<<i)
		}
		if err = next.Put(uint32(0), v); err == nil {
			err = m.shared.maps[filtersMap].Put(m.slot, next)
		}
		if err != nil {
			next.Close()
			return nil, fmt.Errorf("set filters in the drop program: %w", err)
		}
	} else if m.filters != nil {
		if err := m.shared.maps[filtersMap].Delete(m.slot); err != nil {
			return nil, fmt.Errorf("take filters out of the drop program: %w", err)
		}
	}
	m.shared.word(int(m.slot), agentFilters).Store(uint64(len(list)))
	m.changed()
	if m.filters != nil {
		missed, err = m.missed()
		m.filters.Close()
	}
	m.filters = next
	return missed, err
}

// missed returns how many packets matched each filter that did not come up.
func (m *tenant) missed() ([]uint64, error) {
	var v [filtersSize]byte
	if err := m.filters.Lookup(uint32(0), &v); err != nil {
		return nil, fmt.Errorf("read what matched filters: %w", err)
	}
	out := make([]uint64, kernelFilters)
	for i := range out {
		out[i] = binary.NativeEndian.Uint64(v[filterFirst+i*filterSize+filterMissed:])
	}
	return out, nil
}

// count returns a counter over all CPUs.
func (m *tenant) count(which int) (sum uint64) {
	for c := range slices.Chunk(m.cells, cpuSize) {
		sum += (*atomic.Uint64)(unsafe.Pointer(&c[8*which])).Load()
	}
	return sum
}

// turn has the program write the other bank of tallies and sketches, and returns
// the one that it wrote, and the sketch in that: both tell of the same drops. They
// stay as they are until the next turn.
func (m *tenant) turn() (bank int, _ *sketch, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	sketchOf := func(bank int) *sketch {
		s := &sketch{seed: m.seed}
		for of := range slices.Chunk(m.cells, cpuSize) {
			s.perCPU = append(s.perCPU, of[cpuBanks+bank*sketchSize:][:sketchSize])
		}
		return s
	}
	bank = m.bank
	if m.left {
		return bank, sketchOf(bank), nil
	}
	sketchOf(1 - bank).clear()
	m.bank = 1 - bank
	m.shared.word(int(m.slot), agentBank).Store(uint64(m.bank))
	// To put a map into an array of maps returns when the program runs nowhere any
	// more that began before (kernel/bpf/syscall.c, maybe_wait_bpf_programs).
	if err := m.shared.maps[sketchesMap].Put(m.slot, m.sketches); err != nil {
		return 0, nil, fmt.Errorf("wait for the drop program: %w", err)
	}
	return bank, sketchOf(bank), nil
}

// pause takes the namespace out of the program, or puts it back: while it is out
// a drop in it costs next to nothing, and is not counted.
func (m *tenant) pause(out bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if out == m.out || m.left {
		return nil
	}
	spaces := m.shared.maps[spacesMap]
	if out {
		if err := spaces.Delete(m.space); err != nil {
			return fmt.Errorf("leave the drop program: %w", err)
		}
	} else if err := spaces.Update(m.space, m.slot, ebpf.UpdateNoExist); err != nil {
		if errors.Is(err, ebpf.ErrKeyExist) {
			err = errTaken
		}
		return fmt.Errorf("come back to the drop program: %w", err)
	}
	m.shared.spacesChanged()
	m.out = out
	return nil
}

// leave ends it: when it returns no more records come.
func (m *tenant) leave() error {
	err := m.pause(true)
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.left {
		m.left = true
		m.shared.release(m.slot, m.id)
	}
	return err
}

func (m *tenant) close() {
	unmap(m.cells)
	unmap(m.buckets)
	for _, x := range []*ebpf.Map{m.ring, m.causes, m.paces, m.classes, m.filters, m.flows, m.sketches, m.token} {
		if x != nil {
			x.Close()
		}
	}
}

// release clears a slot that has the owner's token, and gives it free. Taking a
// map out of an array of maps waits for the programs that run.
func (s *shared) release(slot uint32, owner uint64) {
	s.spacesChanged() // who died may not have come to it
	for _, name := range ownMaps {
		s.maps[name].Delete(slot) // one that is not there is as good
	}
	s.token(int(slot)).CompareAndSwap(owner, 0)
}

// sweep clears the slots of agents that ended without leaving; own is the token
// of who sweeps. It returns how many there were.
func (s *shared) sweep(own uint64) (n int) {
	for slot := range uint32(maxAgents) {
		t := s.token(int(slot)).Load()
		if t == 0 || t == own || alive(t) || !s.token(int(slot)).CompareAndSwap(t, own) {
			continue
		}
		var space, at uint32
		var dead []uint32
		for entries := s.maps[spacesMap].Iterate(); entries.Next(&space, &at); {
			if at == slot {
				dead = append(dead, space)
			}
		}
		for _, space := range dead {
			s.maps[spacesMap].Delete(space)
		}
		s.release(slot, own)
		n++
	}
	return n
}

// alive reports whether the agent with a token is: one that cannot be asked for
// is.
func alive(token uint64) bool {
	m, err := ebpf.NewMapFromID(ebpf.MapID(token))
	if err != nil {
		return !errors.Is(err, os.ErrNotExist)
	}
	m.Close()
	return true
}
