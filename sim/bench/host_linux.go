package bench

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"decaf/api/bus"

	"github.com/cilium/ebpf"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Addresses of the two hosts, and where the agent listens and finds NATS, on
// the loopback of a.
const (
	hostAddrA  = "10.9.1.1"
	hostAddrB  = "10.9.2.1"
	hostListen = "127.0.0.1:9340"
	hostNATS   = "127.0.0.1:4222"
)

// hostTopology is what the agent knows: a - r - b.
const hostTopology = `
site: bench
devices: [{name: r}]
hosts:
  - {name: a, addresses: [10.9.1.1]}
  - {name: b, addresses: [10.9.2.1]}
links:
  - {a: "a:eth0", a_addr: 10.9.1.1/24, b: "r:eth1", b_addr: 10.9.1.254/24}
  - {a: "b:eth0", a_addr: 10.9.2.1/24, b: "r:eth2", b_addr: 10.9.2.254/24}
`

// hostRun is one run of the host benchmark.
type hostRun struct {
	Options
	a, r, b *space
	dir     string
	nats    *bus.Server
	relay   net.Listener  // in a, to nats
	sent    atomic.Uint64 // bytes from the agent to NATS
	results []Result
}

func (h *hostRun) result(metric string, value float64, unit, what string) {
	h.results = append(h.results, Result{Metric: metric, Value: value, Unit: unit, What: what})
	h.Log("%s: %.4g %s", metric, value, unit)
}

func runHost(ctx context.Context, o Options) (_ []Result, err error) {
	h := &hostRun{Options: o}
	defer h.close()
	if err := h.build(ctx); err != nil {
		return nil, err
	}
	if err := h.pairs(ctx); err != nil {
		return h.results, err
	}
	return h.results, h.costs(ctx)
}

// build makes both hosts and NATS.
func (h *hostRun) build(ctx context.Context) (err error) {
	if h.dir, err = os.MkdirTemp("", "decaf-bench-"); err != nil {
		return err
	}
	if h.a, err = newSpace(); err != nil {
		return err
	}
	if h.b, err = newSpace(); err != nil {
		return err
	}
	if h.r, err = newSpace(); err != nil {
		return err
	}
	if err := cableHost(h.a, h.r, "eth1", hostAddrA, "10.9.1.254"); err != nil {
		return err
	}
	if err := cableHost(h.b, h.r, "eth2", hostAddrB, "10.9.2.254"); err != nil {
		return err
	}
	for _, s := range []*space{h.a, h.r, h.b} {
		if err := s.do(func() error {
			for file, value := range map[string]string{
				"net/ipv4/ip_forward":          "1",
				"net/ipv4/icmp_ratelimit":      "0",
				"net/ipv4/ip_local_port_range": "1024 65000",
				"net/ipv4/tcp_tw_reuse":        "1",
				"net/core/somaxconn":           "65535",
				"net/ipv4/tcp_max_syn_backlog": "65535",
			} {
				if err := os.WriteFile("/proc/sys/"+file, []byte(value), 0o644); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	log := slog.New(slog.DiscardHandler)
	h.nats, err = bus.StartServer(bus.ServerConfig{Listen: "127.0.0.1:0", Dir: filepath.Join(h.dir, "nats"), Site: "bench"}, log)
	if err != nil {
		return err
	}
	conn, err := bus.Connect(ctx, bus.ConnConfig{Server: h.nats, Name: "admin.bench", Site: "bench"}, log)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.WaitReady(ctx); err != nil {
		return err
	}
	if err := conn.EnsureStreams(ctx); err != nil {
		return err
	}
	if err := h.a.do(func() (err error) {
		h.relay, err = net.Listen("tcp", hostNATS)
		return err
	}); err != nil {
		return err
	}
	go h.forward()
	return nil
}

// cableHost joins eth0 of a host and a port of the router.
func cableHost(host, router *space, port, addr, gateway string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "eth0"
	if err := host.nl.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: port, PeerNamespace: netlink.NsFd(router.ns)}); err != nil {
		return fmt.Errorf("veth: %w", err)
	}
	for _, end := range []struct {
		s          *space
		name, addr string
	}{{router, port, gateway}, {host, "eth0", addr}, {host, "lo", ""}} {
		link, err := end.s.nl.LinkByName(end.name)
		if err != nil {
			return err
		}
		if end.addr != "" {
			at, err := netlink.ParseAddr(end.addr + "/24")
			if err != nil {
				return err
			}
			if err := end.s.nl.AddrAdd(link, at); err != nil {
				return err
			}
		}
		if err := end.s.nl.LinkSetUp(link); err != nil {
			return err
		}
	}
	return host.nl.RouteAdd(&netlink.Route{Gw: net.ParseIP(gateway)})
}

// forward joins who connects to the relay with NATS, and counts.
func (h *hostRun) forward() {
	for {
		c, err := h.relay.Accept()
		if err != nil {
			return
		}
		up, err := net.Dial("tcp", strings.TrimPrefix(h.nats.URL(), "nats://"))
		if err != nil {
			c.Close()
			continue
		}
		go func() {
			defer up.Close()
			buf := make([]byte, 64<<10)
			for {
				n, err := c.Read(buf)
				h.sent.Add(uint64(n))
				if _, werr := up.Write(buf[:n]); err != nil || werr != nil {
					return
				}
			}
		}()
		go func() {
			defer c.Close()
			io.Copy(c, up)
		}()
	}
}

func (h *hostRun) close() {
	if h.relay != nil {
		h.relay.Close()
	}
	if h.nats != nil {
		h.nats.Stop()
	}
	for _, s := range []*space{h.a, h.r, h.b} {
		if s != nil {
			s.close()
		}
	}
	if h.dir != "" {
		os.RemoveAll(h.dir)
	}
}

// process is a child in a.
type process struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  bytes.Buffer
	done chan error
	end  chan struct{} // ends the thread that it hangs on
}

// start runs this program with other arguments in a namespace.
func (s *space) start(stdout io.Writer, args ...string) (*process, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(exe, args...), done: make(chan error, 1), end: make(chan struct{})}
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	p.cmd.Stderr, p.cmd.Stdout = &p.out, &p.out
	if stdout != nil {
		p.cmd.Stdout = stdout
	}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // the death signal is of this thread
		err := netns.Set(s.ns)
		if err == nil {
			err = p.cmd.Start()
		}
		started <- err
		<-p.end
	}()
	if err := <-started; err != nil {
		close(p.end)
		return nil, fmt.Errorf("start %q: %w", args, err)
	}
	go func() { p.done <- p.cmd.Wait() }()
	return p, nil
}

func (p *process) stop() {
	p.in.Close()
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(10 * time.Second):
		p.cmd.Process.Kill()
		<-p.done
	}
	close(p.end)
}

// startAgent runs `decaf host` in a, and waits until it watches.
func (h *hostRun) startAgent(ctx context.Context) (*process, error) {
	file := filepath.Join(h.dir, "host.yaml")
	topology := filepath.Join(h.dir, "topology.yaml")
	if err := os.WriteFile(topology, []byte(hostTopology), 0o600); err != nil {
		return nil, err
	}
	text := "name: a\nsite: bench\ntopology: " + topology + "\nlisten: " + hostListen + "\nlog: {level: warn}\nnats: {url: \"nats://" + hostNATS + "\"}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil, err
	}
	p, err := h.a.start(nil, "host", "--config", file)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(30 * time.Second); ; {
		_, err := h.ask("/readyz")
		if err == nil {
			return p, nil
		}
		select {
		case died := <-p.done:
			p.done <- died
			p.stop()
			return nil, fmt.Errorf("the agent ended at once (%v); it said: %s", died, p.out.String())
		case <-ctx.Done():
			p.stop()
			return nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			p.stop()
			return nil, fmt.Errorf("the agent does not get ready: %w; it said: %s", err, p.out.String())
		}
	}
}

// ask gets a page of the agent.
func (h *hostRun) ask(path string) (string, error) {
	t := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, addr string) (c net.Conn, err error) {
		err = h.a.do(func() (err error) { c, err = (&net.Dialer{}).DialContext(ctx, "tcp", addr); return err })
		return c, err
	}}
	client := &http.Client{Transport: t, Timeout: 5 * time.Second}
	r, err := client.Get("http://" + hostListen + path)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", path, r.Status)
	}
	return string(b), err
}

// probes is how many the agent has sent.
func (h *hostRun) probes() (float64, error) {
	page, err := h.ask("/metrics")
	if err != nil {
		return 0, err
	}
	m := regexp.MustCompile(`(?m)^decaf_host_\w*probes\w* (\S+)$`).FindStringSubmatch(page)
	if m == nil {
		return 0, errors.New("the agent does not tell how many probes it sent")
	}
	return strconv.ParseFloat(m[1], 64)
}

// hostUsage is what an agent took so far.
type hostUsage struct {
	at       time.Time
	process  time.Duration            // processor time
	programs map[string]time.Duration // the kernel's, in its programs
	resident float64                  // bytes
	sent     uint64                   // bytes to NATS
	probes   float64
	segments uint64 // sent again by a, as the kernel counts
}

func (h *hostRun) usage(p *process) (u hostUsage, err error) {
	u.at = time.Now()
	u.sent = h.sent.Load()
	var errs [5]error
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return u, fmt.Errorf("the agent is gone: %w; it said: %s", err, p.out.String())
	}
	_, rest, _ := strings.Cut(string(b), ") ") // the name may have anything in it
	f := strings.Fields(rest)
	if len(f) < 22 {
		return u, fmt.Errorf("read the agent's processor time: %q", b)
	}
	user, err1 := strconv.ParseUint(f[11], 10, 64)
	system, err2 := strconv.ParseUint(f[12], 10, 64)
	pages, err3 := strconv.ParseFloat(f[21], 64)
	errs[0] = errors.Join(err1, err2, err3)
	u.process = time.Duration(user+system) * (time.Second / 100) // USER_HZ
	u.resident = pages * float64(os.Getpagesize())
	u.programs, errs[1] = hostPrograms(p.cmd.Process.Pid)
	u.probes, errs[2] = h.probes()
	u.segments, errs[3] = h.retransmitted()
	return u, errors.Join(errs[:]...)
}

// iterators are programs that run on the agent's own time, as it reads.
var iterators = []string{"decaf_look", "decaf_flow_dump"}

// hostPrograms says what time was spent in each program of an agent. Other
// agents on the machine have programs of the same names: those that the process
// holds count.
func hostPrograms(pid int) (map[string]time.Duration, error) {
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	if err != nil {
		return nil, err
	}
	took := map[string]time.Duration{}
	seen := map[uint64]bool{}
	for _, link := range links {
		b, err := os.ReadFile(link)
		if err != nil {
			continue // closed since
		}
		m := programOf.FindSubmatch(b)
		if m == nil {
			continue
		}
		id, err := strconv.ParseUint(string(m[1]), 10, 32)
		if err != nil || seen[id] {
			continue
		}
		seen[id] = true
		p, err := ebpf.NewProgramFromID(ebpf.ProgramID(id))
		if err != nil {
			return nil, err
		}
		info, err1 := p.Info()
		s, err2 := p.Stats()
		p.Close()
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		if !slices.Contains(iterators, info.Name) {
			took[info.Name] += s.Runtime
		}
	}
	if len(took) == 0 {
		return nil, errors.New("the agent has no program in the kernel")
	}
	return took, nil
}

// programOf finds the program of a link, by the link's file.
var programOf = regexp.MustCompile(`(?m)^prog_id:\s*(\d+)$`)

// retransmitted is TcpRetransSegs of a.
func (h *hostRun) retransmitted() (n uint64, err error) {
	err = h.a.do(func() error {
		b, err := os.ReadFile("/proc/thread-self/net/snmp")
		if err != nil {
			return err
		}
		var names []string
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) == 0 || f[0] != "Tcp:" {
				continue
			}
			if names == nil {
				names = f
				continue
			}
			for i, name := range names {
				if name == "RetransSegs" {
					n, err = strconv.ParseUint(f[i], 10, 64)
					return err
				}
			}
		}
		return errors.New("no RetransSegs in /proc/net/snmp")
	})
	return n, err
}

// costs measures the agent by sockets and retransmits.
func (h *hostRun) costs(ctx context.Context) error {
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		return fmt.Errorf("have the kernel time programs: %w", err)
	}
	defer stats.Close()
	worst := 0.0
	for _, sockets := range []int{1_000, 20_000} {
		load, err := h.load(ctx, sockets)
		if err != nil {
			return err
		}
		bytes, err := h.level(ctx, sockets, load)
		load.stop()
		if err != nil {
			return err
		}
		worst = max(worst, bytes)
	}
	h.result("agent_kbytes_per_s", worst, "kB/s", "to NATS, 20,000 sockets, at 100 or 1,000 retransmits/s, the more of both")
	return nil
}

// level measures at a number of sockets. It returns the kB/s that count.
func (h *hostRun) level(ctx context.Context, sockets int, load *hostLoad) (kbytes float64, err error) {
	agent, err := h.startAgent(ctx)
	if err != nil {
		return 0, err
	}
	defer agent.stop()
	lossy, err := h.lossy()
	if err != nil {
		return 0, err
	}
	defer lossy()
	resident := 0.0
	for _, rate := range []int{0, 100, 1_000, 10_000} {
		if err := load.rate(rate); err != nil {
			return 0, err
		}
		// Until timeouts are as frequent as they will be.
		if err := pause(ctx, 3*time.Second); err != nil {
			return 0, err
		}
		before, err := h.usage(agent)
		if err != nil {
			return 0, err
		}
		if err := pause(ctx, 10*h.Duration); err != nil {
			return 0, err
		}
		after, err := h.usage(agent)
		if err != nil {
			return 0, err
		}
		took := after.at.Sub(before.at).Seconds()
		process := 100 * (after.process - before.process).Seconds() / took
		programs := 0.0
		for name, d := range after.programs {
			share := 100 * (d - before.programs[name]).Seconds() / took
			programs += share
			if share >= 0.05 {
				h.Log("%s: %.2f %% of a core", name, share)
			}
		}
		again := float64(after.segments-before.segments) / took
		sent := float64(after.sent-before.sent) / took / 1000
		at := fmt.Sprintf("%dk_sockets_%drps", sockets/1000, rate)
		what := fmt.Sprintf("%d sockets, %.0f retransmits/s", sockets, again)
		h.result("agent_cpu_pct_"+at, process+programs, "%", "of one core, process and programs, "+what)
		h.result("agent_programs_cpu_pct_"+at, programs, "%", "of this in its programs, "+what)
		h.result("agent_kbytes_per_s_"+at, sent, "kB/s", "to NATS, "+what)
		h.result("agent_probes_per_s_"+at, (after.probes-before.probes)/took, "1/s", what)
		if rate <= 1_000 {
			resident = max(resident, after.resident)
		}
		if sockets == 20_000 && (rate == 100 || rate == 1_000) {
			kbytes = max(kbytes, sent)
		}
	}
	h.result(fmt.Sprintf("agent_rss_mb_%dk_sockets", sockets/1000), resident/(1<<20), "MB", "resident, up to 1,000 retransmits/s")
	return kbytes, nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// lossy makes b drop half of what it gets, until undone.
func (h *hostRun) lossy() (undo func(), err error) {
	c, err := nftables.New(nftables.WithNetNSFd(int(h.b.ns)))
	if err != nil {
		return nil, err
	}
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "lossy"})
	chain := c.AddChain(&nftables.Chain{
		Name: "in", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw,
	})
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Numgen{Register: 1, Modulus: 2, Type: unix.NFT_NG_RANDOM},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.NativeEndian.AppendUint32(nil, 0)},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}})
	if err := c.Flush(); err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	return func() {
		c.DelTable(table)
		c.Flush()
	}, nil
}

// pairs measures what a loaded host delivers without and with the agent.
func (h *hostRun) pairs(ctx context.Context) error {
	for _, k := range []struct {
		name, unit string
		bytes      int // of each answer
	}{
		{"connections", "connections/s", 1},
		{"throughput", "answers/s", 1 << 20},
	} {
		most, err := h.exchange(ctx, k.bytes, 0)
		if err != nil {
			return err
		}
		offered := most / 2
		var off, on []float64
		for range h.Pairs {
			without, err := h.exchange(ctx, k.bytes, offered)
			if err != nil {
				return err
			}
			agent, err := h.startAgent(ctx)
			if err != nil {
				return err
			}
			with, err := h.exchange(ctx, k.bytes, offered)
			agent.stop()
			if err != nil {
				return err
			}
			off, on = append(off, without/offered), append(on, with/offered)
		}
		h.result("host_"+k.name+"_most", most, k.unit, "without the agent, by 8 workers")
		h.result("host_"+k.name+"_delivered_off_pct", 100*meanOf(off), "%", "of half of that, offered, agent off")
		h.result("host_"+k.name+"_delivered_on_pct", 100*meanOf(on), "%", "the same, agent on")
		h.result("host_"+k.name+"_change_pct", 100*(meanOf(on)/meanOf(off)-1), "%", fmt.Sprintf("on against off, %d pairs", h.Pairs))
	}
	return nil
}

// exchange opens connections from a to b, which answers each with so many bytes
// and closes, at a rate or as fast as it goes. It returns how many a second were
// answered whole.
func (h *hostRun) exchange(ctx context.Context, bytes int, rate float64) (float64, error) {
	var ln net.Listener
	if err := h.b.do(func() (err error) { ln, err = net.Listen("tcp4", hostAddrB+":0"); return err }); err != nil {
		return 0, err
	}
	var servers sync.WaitGroup
	defer servers.Wait()
	defer ln.Close()
	servers.Go(func() {
		answer := make([]byte, bytes)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			servers.Go(func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(10 * time.Second))
				if _, err := io.ReadFull(c, make([]byte, 1)); err == nil {
					c.Write(answer)
				}
			})
		}
	})
	var done, began atomic.Uint64
	const workers = 8
	start := time.Now()
	end := start.Add(h.Duration)
	errs := make(chan error, workers)
	for range workers {
		go func() {
			errs <- h.a.do(func() error {
				for time.Now().Before(end) && ctx.Err() == nil {
					if rate > 0 {
						// The nth is due at its time; what is late is not made up
						// for after the end.
						due := start.Add(time.Duration(float64(began.Add(1)) / rate * 1e9))
						time.Sleep(time.Until(due))
						if !due.Before(end) {
							return nil
						}
					}
					if err := oneExchange(ln.Addr().String(), bytes); err != nil {
						return err
					}
					if time.Now().Before(end.Add(50 * time.Millisecond)) {
						done.Add(1)
					}
				}
				return nil
			})
		}()
	}
	var failed error
	for range workers {
		if err := <-errs; err != nil {
			failed = err
		}
	}
	return float64(done.Load()) / h.Duration.Seconds(), errors.Join(failed, ctx.Err())
}

func oneExchange(to string, bytes int) error {
	c, err := net.DialTimeout("tcp4", to, 5*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Write([]byte("?")); err != nil {
		return err
	}
	_, err = io.CopyN(io.Discard, c, int64(bytes))
	return err
}
