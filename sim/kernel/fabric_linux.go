package kernel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"decaf/topology"
)

// Fabric is a built network. Safe for concurrent use.
type Fabric struct {
	topology *topology.Topology
	versions []version // that it speaks
	log      *slog.Logger
	nodes    []*node // the management namespace first
	byName   map[string]*node

	mu       sync.Mutex
	closed   bool
	children []child
	active   []*Active
}

// node is a namespace of the fabric with what is known of its inside.
type node struct {
	Node
	space *space
	index map[string]int // interface name → number
}

// child is a process that [Fabric.Start] started. The pid descriptor names it even
// after its number was given to another.
type child struct {
	node    string
	process *os.Process
	pidfd   int
}

// Build makes the fabric of a topology. It needs root and Linux 6.11 or later, and
// takes well under a second for [MaxNodes] nodes. What it made is gone after
// [Fabric.Close], and when the process ends in any way. The topology must not
// change afterwards.
func Build(ctx context.Context, t *topology.Topology, o Options) (_ *Fabric, err error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if err := check(t); err != nil {
		return nil, fmt.Errorf("kernel fabric: %w", err)
	}
	f := &Fabric{topology: t, versions: versions(t), log: o.Log, byName: make(map[string]*node)}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("kernel fabric: %w", err), f.Close())
		}
	}()
	// Nothing but IPv4 on the management network.
	if err := f.addNode(ctx, "", everywhere(ipv4)); err != nil {
		return nil, err
	}
	for _, d := range t.Devices {
		if err := f.addNode(ctx, d.Name, append(everywhere(f.versions...), forwarding(hashSeed(o.Seed, d.Name), f.versions...)...)); err != nil {
			return nil, err
		}
	}
	for _, h := range t.Hosts {
		if err := f.addNode(ctx, h.Name, everywhere(f.versions...)); err != nil {
			return nil, err
		}
	}
	macs, err := f.addCables(ctx)
	if err != nil {
		return nil, err
	}
	routes := routesOf(t)
	for i, n := range f.nodes {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if i == 0 {
			err = connectBridge(n.space, len(f.nodes)-1)
		} else {
			err = f.furnish(i, n, routes[n.Name], macs)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", n.title(), err)
		}
	}
	return f, f.awaitCarriers()
}

// awaitCarriers returns when all cables can carry packets, and all nodes take them.
func (f *Fabric) awaitCarriers() error {
	for i, n := range f.nodes {
		index := n.index
		if i == 0 {
			var err error
			if index, err = n.space.indexes(); err != nil {
				return err
			}
		}
		var all []int
		for name, number := range index {
			if i > 0 || name != "lo" { // the management namespace leaves it down
				all = append(all, number)
			}
		}
		if err := errors.Join(n.space.await(true, all...), n.space.awaitOwn(f.own(n.Name))); err != nil {
			return fmt.Errorf("%s: %w", n.title(), err)
		}
	}
	return nil
}

func (n *node) title() string {
	if n.Name == "" {
		return "management namespace"
	}
	return n.Name
}

func (f *Fabric) addNode(ctx context.Context, name string, settings []setting) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if f.byName[name] != nil {
		return fmt.Errorf("two nodes are named %q", name)
	}
	s, err := newSpace()
	if err != nil {
		return err
	}
	n := &node{space: s, Node: Node{Name: name, NetNS: s.fd, Inode: s.inode, ManagementAddr: managementAddr(len(f.nodes))}}
	f.nodes = append(f.nodes, n)
	f.byName[name] = n
	err = s.onResident(func() error {
		missing, err := applySettings(settings)
		if len(missing) > 0 && name == "" { // the same for all: say it once
			f.log.Warn("kernel lacks settings that keep the fabric quiet", "settings", missing)
		}
		return errors.Join(err, loseNormally())
	})
	if err != nil {
		return fmt.Errorf("%s: %w", n.title(), err)
	}
	return nil
}

// neighbour is what an interface has at its other end.
type neighbour struct {
	addrs []netip.Addr
	mac   []byte
}

// addresses are an interface's, by version.
func (f *Fabric) addresses(i *topology.Interface) (all []netip.Prefix) {
	for _, v := range f.versions {
		all = append(all, v.at(i))
	}
	return all
}

// own are the addresses of a node's interfaces.
func (f *Fabric) own(node string) (all []netip.Prefix) {
	for _, l := range f.topology.LinksFrom(node) {
		all = append(all, f.addresses(l.From)...)
	}
	return all
}

func (f *Fabric) neighbour(at *topology.Interface, mac []byte) neighbour {
	n := neighbour{mac: mac}
	for _, p := range f.addresses(at) {
		n.addrs = append(n.addrs, p.Addr())
	}
	return n
}

// addCables makes all veth pairs, those of the management network too, and gives
// the neighbours of the fabric's interfaces.
func (f *Fabric) addCables(ctx context.Context) (map[topology.Interface]neighbour, error) {
	neighbours := make(map[topology.Interface]neighbour, len(f.topology.Links))
	var macs uint32
	for _, l := range f.topology.Links {
		if _, done := neighbours[*l.From]; done {
			continue // the way back of one made already
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		from, to := f.byName[l.From.Node], f.byName[l.To.Node]
		if from == nil || to == nil {
			return nil, fmt.Errorf("link %s: no node of this name", l.Name)
		}
		a := end{in: from.space, name: l.From.Name, mac: hardwareAddr(macs)}
		b := end{in: to.space, name: l.To.Name, mac: hardwareAddr(macs + 1)}
		macs += 2
		if err := cable(a, b); err != nil {
			return nil, fmt.Errorf("make the link between %s and %s: %w", l.From, l.To, err)
		}
		neighbours[*l.From] = f.neighbour(l.To, b.mac)
		neighbours[*l.To] = f.neighbour(l.From, a.mac)
	}
	bridge := f.nodes[0].space
	if err := buildBridge(bridge); err != nil {
		return nil, err
	}
	for i, n := range f.nodes[1:] {
		port := end{in: bridge, name: portName(i + 1), mac: hardwareAddr(2*firstManagementMAC + uint32(i))}
		if err := cable(port, end{in: n.space, name: ManagementInterface, mac: managementMAC(i + 1)}); err != nil {
			return nil, fmt.Errorf("%s: make the management link: %w", n.Name, err)
		}
	}
	return neighbours, nil
}

// furnish gives node number i its addresses, neighbours and routes.
func (f *Fabric) furnish(i int, n *node, routes []route, neighbours map[topology.Interface]neighbour) error {
	s := n.space
	var err error
	if n.index, err = s.indexes(); err != nil {
		return err
	}
	if err := s.raise(n.index["lo"]); err != nil {
		return fmt.Errorf("lo: %w", err)
	}
	var names []string
	for _, l := range f.topology.LinksFrom(n.Name) {
		names = append(names, l.From.Name)
	}
	err = s.onResident(func() error {
		return errors.Join(
			without(plainOffloads, append(names, ManagementInterface)),
			writeSysctl("ipv4/conf/"+ManagementInterface+"/forwarding", "0"),
			f.quietManagement(),
		)
	})
	if err != nil {
		return err
	}
	for _, l := range f.topology.LinksFrom(n.Name) {
		index := n.index[l.From.Name]
		if err := s.raise(index, f.addresses(l.From)...); err != nil {
			return fmt.Errorf("%s: %w", l.From.Name, err)
		}
		peer := neighbours[*l.From]
		for _, a := range peer.addrs {
			if err := s.pin(index, a, peer.mac); err != nil {
				return fmt.Errorf("%s: %w", l.From.Name, err)
			}
		}
	}
	if h, ok := f.topology.Host(n.Name); ok {
		own := f.own(n.Name)
		for _, a := range h.Addresses {
			if slices.ContainsFunc(own, func(p netip.Prefix) bool { return p.Addr() == a }) {
				continue
			}
			if err := s.raise(n.index["lo"], netip.PrefixFrom(a, a.BitLen())); err != nil {
				return fmt.Errorf("lo: %w", err)
			}
		}
	}
	if err := connectNode(s, n.index, i); err != nil {
		return err
	}
	return s.install(routes, n.index)
}

// quietManagement keeps IPv6 off the management interface of the calling thread's
// namespace.
func (f *Fabric) quietManagement() error {
	if !slices.Contains(f.versions, ipv6) {
		return nil // off everywhere
	}
	return writeSysctl("ipv6/conf/"+ManagementInterface+"/disable_ipv6", "1")
}

// Topology is what the fabric was built from.
func (f *Fabric) Topology() *topology.Topology { return f.topology }

// Node gives a device or host by name, the management namespace by "", nil when
// there is none.
func (f *Fabric) Node(name string) *Node {
	if n := f.byName[name]; n != nil {
		return &n.Node
	}
	return nil
}

// ManagementAddr gives a node's address on the management network; "" is the
// management namespace. The zero Addr when there is no such node.
func (f *Fabric) ManagementAddr(name string) netip.Addr {
	if n := f.byName[name]; n != nil {
		return n.ManagementAddr
	}
	return netip.Addr{}
}

func (f *Fabric) node(name string) (*node, error) {
	if n := f.byName[name]; n != nil {
		return n, nil
	}
	return nil, fmt.Errorf("no node %q in the fabric", name)
}

// Do runs fn on a thread inside a node's namespace; "" is the management
// namespace. Goroutines that fn starts are elsewhere; sockets that it opens stay
// inside. A thread that fn locks to itself must be unlocked by it too.
func (f *Fabric) Do(name string, fn func() error) error {
	n, err := f.node(name)
	if err != nil {
		return err
	}
	return n.space.do(fn)
}

// Start starts a process in a node's namespace; "" is the management namespace.
// The process is killed when the fabric is closed or its holder dies. The caller
// waits for it (cmd.Wait), as it would after cmd.Start.
func (f *Fabric) Start(name string, cmd *exec.Cmd) error {
	n, err := f.node(name)
	if err != nil {
		return err
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL

	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return fmt.Errorf("start %s in %s: the fabric is closed", cmd.Path, n.title())
	}
	f.forgetEnded()
	if err := n.space.onResident(cmd.Start); err != nil {
		return fmt.Errorf("start %s in %s: %w", cmd.Path, n.title(), err)
	}
	// The process is not reaped before the caller waits for it, so its number is
	// still its own.
	fd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
	if err != nil {
		return errors.Join(fmt.Errorf("start %s in %s: watch the process: %w", cmd.Path, n.title(), err), cmd.Process.Kill(), cmd.Wait())
	}
	f.children = append(f.children, child{node: name, process: cmd.Process, pidfd: fd})
	return nil
}

// forgetEnded closes the descriptors of children that ended.
func (f *Fabric) forgetEnded() {
	f.children = slices.DeleteFunc(f.children, func(c child) bool {
		if !c.ended(0) {
			return false
		}
		unix.Close(c.pidfd)
		return true
	})
}

// ended waits up to ms milliseconds for the child's end, without reaping it.
func (c child) ended(ms int) bool {
	fds := []unix.PollFd{{Fd: int32(c.pidfd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, ms)
		if !errors.Is(err, unix.EINTR) {
			return n > 0
		}
	}
}

// killTime bounds the wait for a killed child, in milliseconds; one in an
// uninterruptible call may take longer.
const killTime = 5000

// Close ends faults, kills the processes started in the fabric, and gives up the
// namespaces with all that is in them. It may be called more than once.
func (f *Fabric) Close() error {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return nil
	}
	f.closed = true
	active := slices.Clone(f.active)
	f.mu.Unlock()

	var errs []error
	for _, a := range active {
		errs = append(errs, a.Stop())
	}
	for _, c := range f.children {
		if err := c.process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			errs = append(errs, fmt.Errorf("kill process %d: %w", c.process.Pid, err))
		}
	}
	for _, c := range f.children {
		if !c.ended(killTime) {
			errs = append(errs, fmt.Errorf("process %d did not die: its namespace stays until it does", c.process.Pid))
		}
		unix.Close(c.pidfd)
	}
	f.children = nil
	for _, n := range f.nodes {
		n.space.close()
	}
	return errors.Join(errs...)
}

// LinkCounters gives what each directed link's sending interface sent, by the
// link's name.
func (f *Fabric) LinkCounters() (map[string]Counters, error) {
	// Held throughout: a netlink handle that was closed opens another socket
	// wherever the calling thread is.
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, errors.New("link counters: the fabric is closed")
	}
	all := make(map[string]Counters, len(f.topology.Links))
	for _, n := range f.nodes[1:] {
		links, err := n.space.links()
		if err != nil {
			return nil, fmt.Errorf("link counters of %s: %w", n.Name, err)
		}
		for _, l := range links {
			if tl, ok := f.topology.LinkFrom(n.Name, l.Attrs().Name); ok && l.Attrs().Statistics != nil {
				all[tl.Name] = Counters{Packets: l.Attrs().Statistics.TxPackets, Bytes: l.Attrs().Statistics.TxBytes}
			}
		}
	}
	return all, nil
}
