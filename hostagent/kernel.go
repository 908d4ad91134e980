package hostagent

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
)

// kernel is the first choice of a source of events: programs on the tracepoints
// of TCP, for the sockets of one, some or all network namespaces.
type kernel struct {
	layout   *layout
	ring     *ring
	wakeFrom *ebpf.Map
	stories  *ebpf.Map
	watched  *ebpf.Map
	news     *ebpf.Map // nil unless flows are counted
	spaces   *ebpf.Map // nil unless several namespaces are watched by name
	own      uint32    // the first of these
	links    []link.Link
	second   *ebpf.Program // on retransmits, beside one of links
	looks    []*link.Iter  // one, over watched
	detach   sync.Once
	// spent and caughtUp are those of kernelOptions.
	spent    func() time.Duration
	caughtUp func()
	// flows is nil unless asked for, drops where the kernel does not say why it
	// drops a packet.
	flows *flowKernel
	drops *dropKernel
	// missing names the tracepoints this kernel lacks, without which the
	// agent still works.
	missing []string
}

// kernelOptions say what to watch.
type kernelOptions struct {
	netns     uint32 // inode number of the network namespace; 0: all of them
	several   bool   // follow says which more are watched
	ringBytes int    // size of each event buffer
	flows     bool   // count what flows send
	peaks     string // which round-trip times of theirs count (tablesettings.go); "": all
	// spent, if set, says for how long nobody need be told of a retransmit at
	// once, since none could be traced; 0: tell.
	spent func() time.Duration
	// caughtUp, if set, is called now and then, when all that came was handled.
	caughtUp func()
}

// openKernel loads and attaches the programs. Events gather from then on; Run
// reads them.
func openKernel(o kernelOptions, log *slog.Logger) (_ *kernel, err error) {
	// Before Linux 5.11 maps counted against the limit of locked memory.
	if err := rlimit.RemoveMemlock(); err != nil {
		log.Debug("cannot raise the limit of locked memory", "err", err)
	}
	// The kernel's types are decoded once for layout and programs alike, and
	// forgotten afterwards: they take some megabytes.
	types := btf.NewCache()
	spec, err := types.Kernel()
	if err != nil {
		return nil, fmt.Errorf("read the kernel's type information: %w: decaf host needs Linux 5.12 or later with CONFIG_DEBUG_INFO_BTF, so that /sys/kernel/btf/vmlinux is there and readable", err)
	}
	l, err := readLayout(spec)
	if err != nil {
		return nil, fmt.Errorf("this kernel's TCP structures are not as expected, please report it with its version: %w", err)
	}
	k := &kernel{layout: l, spent: o.spent, caughtUp: o.caughtUp}
	defer func() {
		if err != nil {
			k.Close()
		}
	}()

	if k.ring, err = newRing("decaf_host", o.ringBytes); err != nil {
		return nil, err
	}
	if err := k.makeMaps(o); err != nil {
		return nil, err
	}
	p := &programs{
		layout: l, netns: o.netns, spaces: k.spaces,
		ring: k.ring, wakeFrom: k.wakeFrom, stories: k.stories, watched: k.watched, news: k.news,
	}
	specs := map[string]*ebpf.ProgramSpec{}
	stories, missing, err := p.storyPrograms(spec)
	if err != nil {
		return nil, err
	}
	k.missing = append(k.missing, missing...)
	for _, one := range stories {
		specs[one.Name] = one
	}
	for _, one := range []*ebpf.ProgramSpec{p.retransmit(false), p.closed(), p.synAck(), p.answers()} {
		// readLayout has insisted on the first; the others came with Linux 4.16.
		if _, err := tracepointArgs(spec, one.AttachTo); err != nil {
			k.missing = append(k.missing, one.AttachTo)
			continue
		}
		specs[one.Name] = one
	}
	if k.links, _, err = load(specs, types, nil); err != nil {
		return nil, err
	}
	if err := k.lookTwice(p.retransmit(true), types); err != nil {
		return nil, err
	}
	look := p.look()
	if _, k.looks, err = load(map[string]*ebpf.ProgramSpec{look.Name: look}, types, k.watched); err != nil {
		return nil, err
	}
	if k.drops, err = openDrops(p, spec, o.ringBytes, types); err != nil {
		if !errors.Is(err, errNoReasons) {
			return nil, err
		}
		k.missing = append(k.missing, "kfree_skb")
	}
	if o.flows {
		if k.flows, err = openFlows(p, o.peaks, o.ringBytes, types); err != nil {
			return nil, fmt.Errorf("%w (flows: {enabled: false} does without the counts of loss-free flows)", err)
		}
	}
	if lacks := k.lacks(); len(lacks) > 0 {
		log.Warn("this kernel lacks tracepoints; going on without", "tracepoints", lacks)
	}
	return k, nil
}

// makeMaps makes what the programs share beside the ring buffer.
func (k *kernel) makeMaps(o kernelOptions) (err error) {
	if k.wakeFrom, err = ebpf.NewMap(&ebpf.MapSpec{Name: "decaf_wake", Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1}); err != nil {
		return needsPrivilege("make the word that says when to wake the reader", err)
	}
	if k.stories, err = ebpf.NewMap(storiesSpec()); err != nil {
		return needsPrivilege("make the map of sockets", err)
	}
	if k.watched, err = ebpf.NewMap(watchedSpec()); err != nil {
		return needsPrivilege("make the map of sockets that sent again", err)
	}
	if o.flows {
		if k.news, err = ebpf.NewMap(newsSpec()); err != nil {
			return needsPrivilege("make the map of sockets with news", err)
		}
	}
	if o.netns == 0 || !o.several {
		return nil
	}
	if k.spaces, err = ebpf.NewMap(&ebpf.MapSpec{Name: "decaf_spaces", Type: ebpf.Hash, KeySize: 4, ValueSize: 1, MaxEntries: maxSpaces}); err != nil {
		return needsPrivilege("make the map of network namespaces", err)
	}
	k.own = o.netns
	return k.follow(nil)
}

// maxSpaces bounds the namespaces watched by name.
const maxSpaces = 4096

// follow says which namespaces are watched beside the first from now on.
func (k *kernel) follow(more []uint32) error {
	if k.spaces == nil {
		return nil
	}
	want := map[uint32]bool{k.own: true}
	for _, inum := range more {
		want[inum] = true
	}
	var gone []uint32
	var inum uint32
	var is uint8
	for all := k.spaces.Iterate(); all.Next(&inum, &is); {
		if !want[inum] {
			gone = append(gone, inum)
		}
		delete(want, inum)
	}
	for _, inum := range gone {
		if err := k.spaces.Delete(inum); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("forget a network namespace: %w", err)
		}
	}
	for inum := range want {
		if err := k.spaces.Put(inum, uint8(1)); err != nil {
			return fmt.Errorf("watch a network namespace: %w", err)
		}
	}
	return nil
}

// load loads programs and attaches them, iterators beside the others; over is
// what an iterator goes through, where that is a map. The caller closes what it
// is given, with an error too.
func load(specs map[string]*ebpf.ProgramSpec, types *btf.Cache, over *ebpf.Map) (links []link.Link, iters []*link.Iter, err error) {
	loaded, err := ebpf.NewCollectionWithOptions(&ebpf.CollectionSpec{Programs: specs}, ebpf.CollectionOptions{Cache: types})
	if err != nil {
		return nil, nil, needsPrivilege("load the programs", err)
	}
	defer loaded.Close() // the links hold the programs
	for name, prog := range loaded.Programs {
		to := specs[name].AttachTo
		if specs[name].AttachType == ebpf.AttachTraceIter {
			at, err := link.AttachIter(link.IterOptions{Program: prog, Map: over})
			if err != nil {
				return links, iters, needsPrivilege("make an iterator over "+to+" sockets", err)
			}
			iters = append(iters, at)
			continue
		}
		at, err := link.AttachTracing(link.TracingOptions{Program: prog})
		if err != nil {
			return links, iters, needsPrivilege("attach the program to "+to, err)
		}
		links = append(links, at)
	}
	return links, iters, nil
}

// lookTwice attaches the second program on retransmits, and keeps it for what it
// misses too.
func (k *kernel) lookTwice(spec *ebpf.ProgramSpec, types *btf.Cache) (err error) {
	loaded, err := ebpf.NewCollectionWithOptions(&ebpf.CollectionSpec{Programs: map[string]*ebpf.ProgramSpec{spec.Name: spec}}, ebpf.CollectionOptions{Cache: types})
	if err != nil {
		return needsPrivilege("load the second program on "+spec.AttachTo, err)
	}
	defer loaded.Close()
	k.second = loaded.DetachProgram(spec.Name)
	at, err := link.AttachTracing(link.TracingOptions{Program: k.second})
	if err != nil {
		return needsPrivilege("attach the second program to "+spec.AttachTo, err)
	}
	k.links = append(k.links, at)
	return nil
}

// needsPrivilege says what to do about a refusal by the kernel.
func needsPrivilege(doing string, err error) error {
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%s: %w: run decaf host as root, or give it the capabilities CAP_BPF, CAP_PERFMON and CAP_NET_RAW", doing, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// unlink detaches the programs, once.
func (k *kernel) unlink() error {
	var errs []error
	k.detach.Do(func() {
		for _, l := range k.links {
			errs = append(errs, l.Close())
		}
	})
	return errors.Join(errs...)
}

// Lost is how many events found the buffer full, since openKernel.
func (k *kernel) Lost() (uint64, error) { return k.ring.Lost() }

// Missed is how many retransmits at most neither of the two programs saw, since the kernel
// was running the second, and may have been running both, on that processor.
func (k *kernel) Missed() (uint64, error) {
	stats, err := k.second.Stats()
	if err != nil {
		return 0, fmt.Errorf("count what the programs missed: %w", err)
	}
	return stats.RecursionMisses, nil
}

// Close detaches the programs.
func (k *kernel) Close() error {
	var errs []error
	errs = append(errs, k.unlink())
	if k.flows != nil {
		errs = append(errs, k.flows.Close())
	}
	if k.ring != nil {
		errs = append(errs, k.ring.Close())
	}
	if k.drops != nil {
		errs = append(errs, k.drops.Close())
	}
	if k.second != nil {
		errs = append(errs, k.second.Close())
	}
	for _, i := range k.looks {
		errs = append(errs, i.Close())
	}
	for _, m := range []*ebpf.Map{k.wakeFrom, k.stories, k.watched, k.news, k.spaces} {
		if m != nil {
			errs = append(errs, m.Close())
		}
	}
	return errors.Join(errs...)
}
