package bench

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"decaf/api/agentconfig"
	"decaf/api/decafpb"
	"decaf/api/packet"
	"decaf/hostagent"
	"decaf/sim/kernel"
	"decaf/sim/scenario"
	"decaf/topology"
	"decaf/tracer"
)

const fanPort = 5201

// version is one of the Internet Protocol's: v6 or not.
type version bool

const (
	ipv4 version = false
	ipv6 version = true
)

// versions are measured one after the other.
var versions = []version{ipv4, ipv6}

// metric names a figure of a version: that of IPv4 plainly.
func (v version) metric(name string) string {
	if v {
		return name + suffix6
	}
	return name
}

// what tells people so.
func (v version) what(text string) string {
	if v && text != "" {
		return "IPv6: " + text
	}
	return text
}

// addr is an address of the fan.
func (v version) addr(net, i, side byte) netip.Addr {
	a := netip.AddrFrom4([4]byte{10, net, i, side})
	if v {
		return topology.ClosAddr6(a)
	}
	return a
}

func (v version) source() netip.Addr { return v.addr(1, 0, 0) }

func (v version) target() netip.AddrPort { return netip.AddrPortFrom(v.addr(4, 0, 1), fanPort) }

// spine is the address that r1 reaches a spine at.
func (v version) spine(i byte) netip.Addr { return v.addr(2, i, 1) }

func (v version) flow(port uint16) packet.Flow {
	return packet.Flow{Src: netip.AddrPortFrom(v.source(), port), Dst: v.target(), Proto: packet.TCP}
}

// fanTopology is h1 - r1 - {s1..s4} - r2 - h2, all with both versions.
func fanTopology() (*topology.Topology, error) {
	devices := []*topology.Device{{Name: "r1"}, {Name: "r2"}}
	hosts := []*topology.Host{
		{Name: "h1", Addresses: []netip.Addr{ipv4.source(), ipv6.source()}},
		{Name: "h2", Addresses: []netip.Addr{ipv4.target().Addr(), ipv6.target().Addr()}},
	}
	end := func(node, name string, net, i, side byte) topology.Interface {
		return topology.Interface{Node: node, Name: name,
			Addr: netip.PrefixFrom(ipv4.addr(net, i, side), 31), Addr6: netip.PrefixFrom(ipv6.addr(net, i, side), 127)}
	}
	cables := []topology.Cable{
		{A: end("h1", "eth0", 1, 0, 0), B: end("r1", "h1", 1, 0, 1)},
		{A: end("r2", "h2", 4, 0, 0), B: end("h2", "eth0", 4, 0, 1)},
	}
	for i := byte(1); i <= spines; i++ {
		s := fmt.Sprint("s", i)
		devices = append(devices, &topology.Device{Name: s})
		cables = append(cables,
			topology.Cable{A: end("r1", s, 2, i, 0), B: end(s, "r1", 2, i, 1)},
			topology.Cable{A: end(s, "r2", 3, i, 0), B: end("r2", s, 3, i, 1)})
	}
	return topology.New("bench", devices, hosts, cables)
}

// tracing is a run of the benchmark.
type tracing struct {
	Options
	figures
	f    *kernel.Fabric
	nats *natsBeside // at h1's loopback
}

func (b *tracing) add(v version, metric string, value float64, unit, what string) {
	b.result(v.metric(metric), value, unit, v.what(what))
}

// newTracing builds the fan with a server at h2; end takes it down again.
func newTracing(ctx context.Context, o Options) (b *tracing, end func() error, err error) {
	topo, err := fanTopology()
	if err != nil {
		return nil, nil, err
	}
	f, err := kernel.Build(ctx, topo, kernel.Options{Seed: 1})
	if err != nil {
		return nil, nil, err
	}
	b = &tracing{Options: o, figures: figures{log: o.Log}, f: f}
	var served sync.WaitGroup
	var listeners []net.Listener
	end = func() (err error) {
		if b.nats != nil {
			err = b.nats.close()
		}
		for _, l := range listeners {
			err = errors.Join(err, l.Close())
		}
		err = errors.Join(err, f.Close())
		served.Wait()
		return err
	}
	for _, v := range versions {
		err := f.Do("h2", func() error {
			l, err := net.Listen("tcp", v.target().String())
			if err == nil {
				listeners = append(listeners, l)
				served.Go(func() { serve(l) })
			}
			return err
		})
		if err != nil {
			return nil, nil, errors.Join(err, end())
		}
	}
	if b.nats, err = newNATS(ctx, func(fn func() error) error { return f.Do("h1", fn) }); err != nil {
		return nil, nil, errors.Join(err, end())
	}
	return b, end, nil
}

func runTracer(ctx context.Context, o Options) (_ []Result, err error) {
	b, end, err := newTracing(ctx, o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, end()) }()
	var parts []part
	for _, v := range versions {
		d, fresh := o.Duration, time.Duration(o.Pairs)*100*time.Millisecond
		peers := 25 * time.Second // of which most is two that know IPv4 only
		if v == ipv6 {
			peers = 10 * time.Second
		}
		for _, p := range []struct {
			what  string
			takes time.Duration
			run   func(context.Context, version) error
		}{
			{"traces in a running process", 2 * time.Second, b.running},
			{"fresh processes, one path", fresh, b.process},
			{"fresh processes, all paths", fresh, b.allPaths},
			{"a live flow over links of 1 Gbit/s, with a hundred traces and without in turn", time.Duration(2*o.Pairs+1) * d, b.transfer},
			{"a live flow as fast as it goes, in the same way", time.Duration(2*o.Pairs+1) * d, b.fastest},
			{"from retransmit to path, with traffic and 1 % loss", 10*d + time.Second, b.latency},
			{"the same within the default budget", 10*d + time.Second, b.budget},
			{"other tools", peers, b.peers},
		} {
			parts = append(parts, part{v.what(p.what), p.takes, func(ctx context.Context) error { return p.run(ctx, v) }})
		}
	}
	err = b.play(ctx, parts)
	return b.results, err
}

// serve takes connections and throws away what comes.
func serve(l net.Listener) {
	var all sync.WaitGroup
	defer all.Wait()
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		all.Go(func() {
			defer c.Close()
			io.Copy(io.Discard, c) // a reset is no matter here
		})
	}
}

// budget is how many traces a second may start, and how many at once.
type budget struct {
	rate  float64
	burst int
}

// unbounded is a budget that is never spent.
var unbounded = budget{agentconfig.MaxTraceRate, 1e6}

// defaultBudget is a host agent's, where the topology tells of no other.
var defaultBudget = budget{tracer.DefaultConfig().Rate, hostagent.DefaultConfig().Trace.Burst}

// tracer starts a tracer at h1.
func (b *tracing) tracer(ctx context.Context, of budget) (t *tracer.Tracer, stop func() error, err error) {
	cfg := tracer.DefaultConfig()
	cfg.Rate, cfg.Burst = of.rate, of.burst
	err = b.f.Do("h1", func() (err error) {
		t, err = tracer.New(cfg, tracer.Distances(b.f.Topology()), slog.New(slog.DiscardHandler))
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	over := make(chan error, 1)
	go func() { over <- t.Run(ctx) }()
	return t, func() error { cancel(); return <-over }, nil
}

const runningTraces = 3000

func (b *tracing) running(ctx context.Context, v version) error {
	t, stop, err := b.tracer(ctx, unbounded)
	if err != nil {
		return err
	}
	var took []time.Duration
	complete := 0
	for i := range runningTraces {
		start := time.Now()
		p := t.Trace(ctx, v.flow(uint16(20000+i)), 1)
		took = append(took, time.Since(start))
		if isComplete(p) {
			complete++
		}
	}
	b.add(v, "one_path_running_p50_us", quantile(took, .5, time.Microsecond), "us", "one path, three switches, in a running process")
	b.add(v, "one_path_running_p99_us", quantile(took, .99, time.Microsecond), "us", "")
	b.add(v, "one_path_running_complete_pct", 100*float64(complete)/runningTraces, "%", "of these found the whole path")
	return stop()
}

// installed makes a command of a program of the machine.
func installed(ctx context.Context, argv ...string) (*exec.Cmd, error) {
	return exec.CommandContext(ctx, argv[0], argv[1:]...), nil
}

// timed runs a command at h1: how long it took, what it wrote, how many packets
// h1 sent meanwhile.
func (b *tracing) timed(ctx context.Context, command func(context.Context, ...string) (*exec.Cmd, error), args ...string) (took time.Duration, out []byte, packets uint64, err error) {
	before, err := b.f.LinkCounters()
	if err != nil {
		return 0, nil, 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd, err := command(ctx, args...)
	if err != nil {
		return 0, nil, 0, err
	}
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	start := time.Now()
	if err := b.f.Start("h1", cmd); err != nil {
		return 0, nil, 0, err
	}
	if err := cmd.Wait(); err != nil {
		return 0, nil, 0, fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	took = time.Since(start)
	after, err := b.f.LinkCounters()
	return took, stdout.Bytes(), after["h1>r1"].Packets - before["h1>r1"].Packets, err
}

// spinesIn counts the spines that a text names, by the address that r1 reaches them at.
func (v version) spinesIn(text []byte) (n int) {
	for i := byte(1); i <= spines; i++ {
		if bytes.Contains(text, []byte(v.spine(i).String())) {
			n++
		}
	}
	return n
}

func (b *tracing) process(ctx context.Context, v version) error {
	var took []time.Duration
	complete := 0
	for i := range b.Pairs {
		d, out, _, err := b.timed(ctx, program, "trace", v.target().String(), "--flow", v.flow(uint16(30000+i)).Src.String(), "--json")
		if err != nil {
			return err
		}
		took = append(took, d)
		if v.spinesIn(out) == 1 {
			complete++
		}
	}
	b.add(v, "one_path_process_ms", quantile(took, .5, time.Millisecond), "ms", `"decaf trace" as a fresh process, median`)
	b.add(v, "one_path_process_complete_pct", 100*float64(complete)/float64(b.Pairs), "%", "of these found the path")
	return nil
}

func (b *tracing) allPaths(ctx context.Context, v version) error {
	var took []time.Duration
	var probes, found []float64
	for range b.Pairs {
		d, out, packets, err := b.timed(ctx, program, "trace", v.target().String(), "--all-paths", "--json")
		if err != nil {
			return err
		}
		var told struct {
			Paths []json.RawMessage `json:"paths"`
		}
		if err := json.Unmarshal(out, &told); err != nil {
			return err
		}
		took, probes, found = append(took, d), append(probes, float64(packets)), append(found, float64(len(told.Paths)))
	}
	b.add(v, "ecmp_all_paths_ms", quantile(took, .5, time.Millisecond), "ms", `"decaf trace --all-paths" as a fresh process, 95 % sure, median`)
	b.add(v, "ecmp_paths_found", mean(found), "paths", "of four, mean")
	b.add(v, "ecmp_packets", mean(probes), "packets", "sent by h1 for it, mean")
	return nil
}

// Traffic of the latency part: short connections, so that many flows retransmit.
const (
	benchWorkers = 10
	benchEvery   = 50 * time.Millisecond // one connection of each worker
	benchBytes   = 32 << 10
)

// observed is what became of flows that lost packets.
type observed struct {
	seen     []*decafpb.Retransmit
	truth    *spineWatch
	answers  float64 // of ICMP, a second, of the busiest switch
	asked    uint64  // traces, of which
	refused  uint64  // the budget had none for
	duration time.Duration
}

// watch runs traffic with 1 % loss on each path beside an agent whose traces have
// a budget.
func (b *tracing) watch(ctx context.Context, v version, of budget) (o observed, err error) {
	agent, err := b.startAgent(ctx, of)
	if err != nil {
		return o, err
	}
	defer func() {
		_, _, e := agent.end(context.WithoutCancel(ctx))
		err = errors.Join(err, e)
	}()
	if o.truth, err = b.watchSpines(v); err != nil {
		return o, err
	}
	defer func() { err = errors.Join(err, o.truth.close()) }()
	for i := 1; i <= spines; i++ {
		fault, failed := b.f.Apply(scenario.Fault{On: fmt.Sprintf("link r1>s%d", i), Kind: "silent-loss", Rate: 0.01})
		if failed != nil {
			return o, failed
		}
		defer func() { err = errors.Join(err, fault.Stop()) }()
	}
	before, err := b.timeExceeded(v)
	if err != nil {
		return o, err
	}
	begin := time.Now()
	if err := b.traffic(ctx, v, begin.Add(10*b.Duration)); err != nil {
		return o, err
	}
	o.duration = time.Since(begin)
	after, err := b.timeExceeded(v)
	if err != nil {
		return o, err
	}
	seen, told, err := agent.end(ctx)
	if err != nil {
		return o, err
	}
	for name := range after {
		o.answers = max(o.answers, float64(after[name]-before[name])/o.duration.Seconds())
	}
	o.seen, o.refused = seen, told["traces_refused"]
	o.asked = told["traces"] + o.refused
	return o, nil
}

func (b *tracing) latency(ctx context.Context, v version) error {
	o, err := b.watch(ctx, v, unbounded)
	if err != nil {
		return err
	}
	b.judge(v, o.seen, o.truth)
	b.add(v, "icmp_per_switch_max_pps", o.answers, "1/s", "answers of the busiest switch, without a budget")
	return nil
}

func (b *tracing) budget(ctx context.Context, v version) error {
	o, err := b.watch(ctx, v, defaultBudget)
	if err != nil {
		return err
	}
	b.add(v, "icmp_per_s_per_switch_default_budget", o.answers, "1/s", fmt.Sprintf("answers of the busiest switch, %.0f traces/s and %d at once allowed, over %v", defaultBudget.rate, defaultBudget.burst, o.duration.Round(100*time.Millisecond)))
	b.add(v, "traces_refused_pct_default_budget", 100*float64(o.refused)/float64(o.asked), "%", fmt.Sprintf("of %d traces asked for meanwhile", o.asked))
	return nil
}

// judge compares the agent's records with what the spines saw.
func (b *tracing) judge(v version, seen []*decafpb.Retransmit, truth *spineWatch) {
	truth.mu.Lock()
	defer truth.mu.Unlock()
	var took, began, traced []time.Duration
	flows := make(map[uint32]bool)   // with a retransmission
	correct := make(map[uint32]bool) // traced whole → by the spine that carried it
	unknown := 0
	for _, r := range seen {
		if r.GetUndone() || r.GetFlow().GetDstPort() != fanPort || len(r.GetFlow().GetDst()) != v.target().Addr().BitLen()/8 {
			continue
		}
		port, p := r.GetFlow().GetSrcPort(), r.GetPath()
		flows[port] = true
		if p.GetStatus() != decafpb.PathStatus_PATH_STATUS_COMPLETE || len(p.GetHops()) != 3 {
			continue // repeated in the epoch, or in part
		}
		took = append(took, time.Duration(p.GetStartNs()+p.GetTookNs()-r.GetTimeNs()))
		began = append(began, time.Duration(p.GetStartNs()-r.GetTimeNs()))
		traced = append(traced, time.Duration(p.GetTookNs()))
		spine, ok := truth.by[uint16(port)]
		if !ok {
			unknown++
			continue
		}
		at, _ := netip.AddrFromSlice(p.GetHops()[1].GetAddress())
		correct[port] = at == v.spine(spine)
	}
	right := 0
	for _, ok := range correct {
		if ok {
			right++
		}
	}
	b.add(v, "path_latency_p50_ms", quantile(took, .5, time.Millisecond), "ms", "from the retransmission to the whole path, in a decaf host with all that it does")
	b.add(v, "path_latency_p99_ms", quantile(took, .99, time.Millisecond), "ms", "")
	b.add(v, "path_begin_p50_ms", quantile(began, .5, time.Millisecond), "ms", "of this until the trace began")
	b.add(v, "path_trace_p50_ms", quantile(traced, .5, time.Millisecond), "ms", "of this for the trace itself")
	b.add(v, "path_samples", float64(len(took)), "traces", "")
	b.add(v, "path_found_pct", 100*float64(len(correct)+unknown)/float64(len(flows)), "%", "of the flows that retransmitted have their whole path")
	b.add(v, "path_correct_pct", 100*float64(right)/float64(len(correct)), "%", "of those paths are the ones the flows' packets took")
}

// traffic opens connections until a time.
func (b *tracing) traffic(ctx context.Context, v version, until time.Time) error {
	group, ctx := errgroup.WithContext(ctx)
	for w := range benchWorkers {
		group.Go(func() error {
			port := uint16(10000 + 2000*w)
			tick := time.NewTicker(benchEvery)
			defer tick.Stop()
			for ctx.Err() == nil && time.Now().Before(until) {
				if err := b.connection(v.flow(port)); err != nil {
					return err
				}
				if port++; port%2000 == 0 {
					port -= 2000
				}
				<-tick.C
			}
			return ctx.Err()
		})
	}
	return group.Wait()
}

// connection sends its bytes and waits until they have arrived.
func (b *tracing) connection(f packet.Flow) error {
	var c net.Conn
	err := b.f.Do("h1", func() (err error) {
		d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(f.Src), Timeout: 5 * time.Second}
		c, err = d.Dial("tcp", f.Dst.String())
		return err
	})
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil // of the last round, not forgotten yet
	} else if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write(make([]byte, benchBytes)); err != nil {
		return err
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, c)
	return err
}

// timeExceeded gives the ICMP time exceeded messages that each switch sent.
func (b *tracing) timeExceeded(v version) (map[string]uint64, error) {
	out := make(map[string]uint64)
	for _, d := range b.f.Topology().Devices {
		err := b.f.Do(d.Name, func() (err error) {
			out[d.Name], err = v.timeExceeded()
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", d.Name, err)
		}
	}
	return out, nil
}

// timeExceeded reads the counter of the calling thread's namespace.
func (v version) timeExceeded() (uint64, error) {
	if v == ipv6 {
		const name = "Icmp6OutTimeExcds"
		text, err := os.ReadFile("/proc/thread-self/net/snmp6")
		if err != nil {
			return 0, err
		}
		for line := range strings.Lines(string(text)) { // a name and a value
			if words := strings.Fields(line); len(words) == 2 && words[0] == name {
				return strconv.ParseUint(words[1], 10, 64)
			}
		}
		return 0, fmt.Errorf("no %s in /proc/net/snmp6", name)
	}
	text, err := os.ReadFile("/proc/thread-self/net/snmp")
	if err != nil {
		return 0, err
	}
	var names []string
	for line := range strings.Lines(string(text)) { // in pairs: names, values
		words := strings.Fields(line)
		if words[0] != "Icmp:" {
			continue
		}
		if names == nil {
			names = words
			continue
		}
		if i := slices.Index(names, "OutTimeExcds"); i >= 0 && i < len(words) {
			return strconv.ParseUint(words[i], 10, 64)
		}
	}
	return 0, errors.New("no OutTimeExcds in /proc/net/snmp")
}

// spineWatch learns from the packets that reach the spines which one carries a
// flow: from data only, which no probe has.
type spineWatch struct {
	v     version
	files []*os.File
	all   sync.WaitGroup
	mu    sync.Mutex
	by    map[uint16]byte // source port → spine
}

func (b *tracing) watchSpines(v version) (*spineWatch, error) {
	w := &spineWatch{v: v, by: make(map[uint16]byte)}
	for i := byte(1); i <= spines; i++ {
		err := b.f.Do(fmt.Sprint("s", i), func() error {
			protocol := unix.ETH_P_IP
			if v == ipv6 {
				protocol = unix.ETH_P_IPV6
			}
			fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol>>8|protocol&0xff<<8)
			if err != nil {
				return err
			}
			file := os.NewFile(uintptr(fd), "spine")
			w.files = append(w.files, file)
			w.all.Go(func() { w.read(file, i) })
			return nil
		})
		if err != nil {
			return nil, errors.Join(fmt.Errorf("watch s%d: %w", i, err), w.close())
		}
	}
	return w, nil
}

func (w *spineWatch) read(file *os.File, spine byte) {
	b := make([]byte, 2048)
	for {
		n, err := file.Read(b)
		if err != nil {
			return // closed
		}
		if port, ok := w.v.dataFrom(b[:n]); ok {
			w.mu.Lock()
			w.by[port] = spine
			w.mu.Unlock()
		}
	}
}

// dataFrom reads the source port of a packet of TCP that carries data to the target.
func (v version) dataFrom(ip []byte) (port uint16, ok bool) {
	var header, length int
	switch {
	case v == ipv6 && len(ip) >= 40 && ip[6] == packet.TCP:
		header, length = 40, int(binary.BigEndian.Uint16(ip[4:]))+40
	case v == ipv4 && len(ip) >= 20 && ip[9] == packet.TCP:
		header, length = int(ip[0]&0xf)*4, int(binary.BigEndian.Uint16(ip[2:]))
	default:
		return 0, false
	}
	if header < 20 || len(ip) < header+20 {
		return 0, false
	}
	tcp := ip[header:]
	data := length - header - int(tcp[12]>>4)*4
	return binary.BigEndian.Uint16(tcp), data > 0 && binary.BigEndian.Uint16(tcp[2:]) == fanPort
}

func (w *spineWatch) close() error {
	var err error
	for _, f := range w.files {
		err = errors.Join(err, f.Close())
	}
	w.files = nil
	w.all.Wait()
	return err
}

// peers runs other tools on the same fan.
func (b *tracing) peers(ctx context.Context, v version) error {
	to, port := v.target().Addr().String(), strconv.Itoa(fanPort)
	family := "-4"
	if v == ipv6 {
		family = "-6"
	}
	tools := map[string][]string{
		"traceroute": {"traceroute", family, "-T", "-p", port, "-n", "--sport=40002", "-q1", to},
		"mtr":        {"mtr", family, "-n", "--tcp", "-P", port, "-r", "-c", "1", to},
		"scamper":    {"scamper", "-I", "trace -P tcp -d " + port + " -s 40010 " + to},
	}
	if v == ipv4 { // these know TCP over no other
		tools["scamper_tracelb"] = []string{"scamper", "-I", "tracelb -P tcp-sport -c 95 -W 15 -d " + port + " " + to}
		tools["tcptraceroute"] = []string{"tcptraceroute", "-n", "-q1", to, port}
	}
	for _, name := range slices.Sorted(maps.Keys(tools)) {
		if _, err := exec.LookPath(tools[name][0]); err != nil {
			b.Log("%s is not installed: left out", tools[name][0])
		} else if err := b.peer(ctx, v, name, installed, tools[name]); err != nil {
			b.Log("%v: left out", err)
		}
	}
	return ctx.Err()
}

// peer runs a tool three times, or once where that takes long.
func (b *tracing) peer(ctx context.Context, v version, name string, command func(context.Context, ...string) (*exec.Cmd, error), argv []string) error {
	var took []time.Duration
	var packets []float64
	paths := 0
	for len(took) < 3 {
		d, out, sent, err := b.timed(ctx, command, argv...)
		if err != nil {
			return err
		}
		if sent == 0 {
			return fmt.Errorf("%s sends nothing", strings.Join(argv, " "))
		}
		took, packets, paths = append(took, d), append(packets, float64(sent)), v.spinesIn(out)
		if d > time.Second {
			break // once says it
		}
	}
	b.add(v, name+"_ms", quantile(took, .5, time.Millisecond), "ms", strings.Join(argv, " "))
	b.add(v, name+"_packets", mean(packets), "packets", "sent by h1 for it")
	b.add(v, name+"_paths", float64(paths), "paths", "found")
	return nil
}
