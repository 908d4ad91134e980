package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"decaf/hostagent"
)

// Addresses of the two hosts.
const (
	hostAddrA = "10.9.1.1"
	hostAddrB = "10.9.2.1"
)

// hostRTO is the least retransmission timeout of the hosts. With the usual 200 ms
// connections that lose half of what they send wait most of the time, and send
// again less often than a rate says.
const hostRTO = 10 * time.Millisecond

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
	figures
	sockets []int         // open connections at which costs are measured
	rates   []int         // retransmits a second, ascending, likewise
	settle  time.Duration // until timeouts are as frequent as a rate makes them
	tables  time.Duration // interval of the agent's tables
	a, r, b *space
	nats    *natsBeside
}

// newHostRun builds what the benchmark runs on.
func newHostRun(ctx context.Context, o Options) (*hostRun, error) {
	h := &hostRun{
		Options: o, figures: figures{log: o.Log},
		sockets: []int{1_000, 20_000}, rates: []int{0, 100, 1_000, 10_000}, settle: 3 * time.Second, tables: hostagent.DefaultConfig().Tables.Interval,
	}
	if err := h.build(ctx); err != nil {
		return nil, errors.Join(err, h.close())
	}
	return h, nil
}

func runHost(ctx context.Context, o Options) (_ []Result, err error) {
	h, err := newHostRun(ctx, o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, h.close()) }()
	pairs := 3*o.Duration + time.Duration(o.Pairs)*(2*o.Duration+2*time.Second)
	parts := []part{
		{"connections, agent off and on in turn", pairs, func(ctx context.Context) error { return h.pairs(ctx, "connections", "connections/s", 1) }},
		{"throughput, agent off and on in turn", pairs, func(ctx context.Context) error { return h.pairs(ctx, "throughput", "answers/s", 1<<20) }},
		{"connections that come and go", o.Churn + h.tables/2 + 4*time.Second, h.churn},
	}
	costs := 10 * time.Second // to open connections, and until nothing counts any more
	for _, rate := range h.rates {
		costs += h.window(rate) + h.settle
		if rate > 0 {
			costs += h.trial(rate) + h.settle/2
		}
	}
	for _, sockets := range h.sockets {
		parts = append(parts, part{
			fmt.Sprintf("costs with %d connections", sockets), costs,
			func(ctx context.Context) error { return h.costs(ctx, sockets) },
		})
	}
	err = h.play(ctx, parts)
	return h.results, err
}

// build makes both hosts and NATS.
func (h *hostRun) build(ctx context.Context) (err error) {
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
	h.nats, err = newNATS(ctx, h.a.do)
	return err
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
	return host.nl.RouteAdd(&netlink.Route{Gw: net.ParseIP(gateway), RtoMin: int(hostRTO.Milliseconds()), RtoMinLock: true})
}

func (h *hostRun) close() (err error) {
	if h.nats != nil {
		err = h.nats.close()
	}
	for _, s := range []*space{h.a, h.r, h.b} {
		if s != nil {
			s.close()
		}
	}
	return err
}

// startAgent runs `decaf host` in a, and waits until it watches.
func (h *hostRun) startAgent(ctx context.Context) (*hostAgent, error) {
	return startHost(ctx, h.a.do, h.a.start, "a", []byte(hostTopology), fmt.Sprintf("tables: {interval: %v}\n", h.tables))
}

// hostUsage is what an agent took and counted so far.
type hostUsage struct {
	at       time.Time
	process  time.Duration // processor time
	programs map[string]programUsage
	resident float64 // bytes
	sent     uint64  // bytes to NATS
	counters map[string]float64
	segments uint64 // sent again by a, as the kernel counts
}

func (h *hostRun) usage(p *hostAgent) (u hostUsage, err error) {
	u.at = time.Now()
	u.sent = h.nats.sent.Load()
	var errs [5]error
	u.process, errs[0] = p.cpu()
	u.resident, errs[1] = p.resident()
	u.programs, errs[2] = hostPrograms(p.cmd.Process.Pid)
	u.counters, errs[3] = p.counters()
	u.segments, errs[4] = h.retransmitted()
	return u, errors.Join(errs[:]...)
}

// spent is what an agent took of a core from one time to another, in percent:
// its process, and the kernel in its programs.
func (h *hostRun) spent(before, after hostUsage) (process, programs float64) {
	took := after.at.Sub(before.at).Seconds()
	for name, p := range after.programs {
		share := 100 * (p.time - before.programs[name].time).Seconds() / took
		programs += share
		if n := p.missed - before.programs[name].missed; share >= 0.05 || n > 0 {
			h.Log("%s: %.2f %% of a core, %d runs left out", name, share, n)
		}
	}
	return 100 * (after.process - before.process).Seconds() / took, programs
}

// missed is how many retransmits at most the kernel did not show from one
// time to another.
func missed(before, after hostUsage) float64 { return rose(before, after, "events_missed") }

// rose is by how much counters rose whose names begin so.
func rose(before, after hostUsage, names string) (n float64) {
	for name := range after.counters {
		if strings.HasPrefix(name, names) {
			n += after.counters[name] - before.counters[name]
		}
	}
	return n
}

// iterators are programs that run on the agent's own time, as it reads.
var iterators = []string{"decaf_look", "decaf_flow_dump"}

// programUsage is what a program took so far.
type programUsage struct {
	time time.Duration
	// missed are the runs that the kernel left out, since the program was at work
	// on that processor already and had been interrupted.
	missed uint64
}

// hostPrograms says what was spent in each program of an agent. Other agents on
// the machine have programs of the same names: those that the process holds
// count.
func hostPrograms(pid int) (map[string]programUsage, error) {
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	if err != nil {
		return nil, err
	}
	took := map[string]programUsage{}
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
			sum := took[info.Name]
			took[info.Name] = programUsage{sum.time + s.Runtime, sum.missed + s.RecursionMisses}
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

// timed has the kernel time programs until undone.
func timed() (undo func(), err error) {
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		return nil, fmt.Errorf("have the kernel time programs: %w", err)
	}
	return func() { stats.Close() }, nil
}

// costs measures the agent beside so many connections, at each rate of retransmits.
func (h *hostRun) costs(ctx context.Context, sockets int) error {
	undo, err := timed()
	if err != nil {
		return err
	}
	defer undo()
	load, err := h.load(ctx, sockets)
	if err != nil {
		return err
	}
	defer load.stop()
	agent, err := h.startAgent(ctx)
	if err != nil {
		return err
	}
	defer agent.stop()
	first, err := h.usage(agent)
	if err != nil {
		return err
	}
	lossy, err := h.lossy()
	if err != nil {
		return err
	}
	defer lossy()
	resident, kbytes := 0.0, 0.0
	for _, rate := range h.rates {
		if err := h.lose(ctx, load, rate); err != nil {
			return err
		}
		before, err := h.usage(agent)
		if err != nil {
			return err
		}
		if err := pause(ctx, h.window(rate)); err != nil {
			return err
		}
		after, err := h.usage(agent)
		if err != nil {
			return err
		}
		took := after.at.Sub(before.at).Seconds()
		process, programs := h.spent(before, after)
		again := float64(after.segments-before.segments) / took
		sent := float64(after.sent-before.sent) / took / 1000
		at := fmt.Sprintf("%dk_sockets_%drps", sockets/1000, rate)
		what := fmt.Sprintf("%d sockets, %.0f retransmits/s", sockets, again)
		h.result("agent_cpu_pct_"+at, process+programs, "%", "of one core, process and programs, "+what)
		h.result("agent_programs_cpu_pct_"+at, programs, "%", "of this in its programs, "+what)
		h.result("agent_kbytes_per_s_"+at, sent, "kB/s", "to NATS, "+what)
		h.result("agent_probes_per_s_"+at, (after.counters["probes"]-before.counters["probes"])/took, "1/s", what)
		if rate <= 1_000 {
			resident = max(resident, after.resident)
		} else {
			h.result("agent_events_lost_ring_"+at, rose(before, after, "events_lost_ring"), "events", "that found the ring full, "+what)
			h.result("agent_events_missed_"+at, missed(before, after), "events", "at most, that the kernel showed none of the agent's programs, "+what)
			h.result("agent_traces_refused_"+at, rose(before, after, "traces_refused"), "traces", "of more than the budget and the queue hold, "+what)
			h.result("agent_records_merged_"+at, rose(before, after, "records_merged"), "records", "before they were sent, "+what)
			h.result("agent_records_left_out_"+at, rose(before, after, "records_left_out"), "records", "not sent, "+what)
		}
		if rate == 100 || rate == 1_000 {
			kbytes = max(kbytes, sent)
		}
	}
	h.result(fmt.Sprintf("agent_rss_mb_%dk_sockets", sockets/1000), resident/1e6, "MB", "resident, up to 1,000 retransmits/s")
	if sockets == 20_000 {
		h.result("agent_kbytes_per_s", kbytes, "kB/s", "to NATS, 20,000 sockets, at 100 or 1,000 retransmits/s, the more of both")
	}
	// Nothing more is lost, so that the agent comes to have read all there is.
	lossy()
	if err := load.rate(0); err != nil {
		return err
	}
	last, err := h.quiesced(ctx, agent, first)
	if err != nil {
		return err
	}
	counted, kernel := rose(first, last, "segments"), float64(last.segments-first.segments)
	of := fmt.Sprintf("_%dk_sockets", sockets/1000)
	h.result("agent_segments_off_pct"+of, 100*(counted/kernel-1), "%", "segments sent again that the agent counted, against the kernel, at all rates")
	h.result("agent_segments_kernel"+of, kernel, "segments", "that the kernel counted (TcpRetransSegs)")
	h.result("agent_segments_lost_ring"+of, rose(first, last, "events_lost_ring"), "events", "that found the ring full meanwhile")
	h.result("agent_segments_missed"+of, missed(first, last), "events", "at most, that the kernel showed none of the agent's programs")
	return nil
}

// window is how long costs measures at a rate: up to 1,000 a second as long as the
// tables' interval is by default, or their publication is in it or is not.
func (h *hostRun) window(rate int) time.Duration {
	if rate > 1_000 {
		return 10 * h.Duration
	}
	return 30 * h.Duration
}

// trial is how long lose looks what a rate comes to.
func (h *hostRun) trial(rate int) time.Duration {
	return max(h.Duration, 10*time.Second/time.Duration(rate))
}

// lose has a send as often as it takes for so many retransmits a second: what a
// connection sends while it waits for a timeout goes out, and is lost, as one.
func (h *hostRun) lose(ctx context.Context, load *hostLoad, rate int) error {
	if err := errors.Join(load.rate(rate), pause(ctx, h.settle)); err != nil || rate == 0 {
		return err
	}
	begin := time.Now()
	before, err1 := h.retransmitted()
	err2 := pause(ctx, h.trial(rate))
	after, err3 := h.retransmitted()
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	got := float64(after-before) / time.Since(begin).Seconds()
	more := min(max(float64(rate)/max(got, 1), 1), 4)
	return errors.Join(load.rate(int(more*float64(rate))), pause(ctx, h.settle/2))
}

// quiesced waits until neither the kernel nor the agent counts any more, and what
// they differ by is accounted for; if it never is, for some seconds.
func (h *hostRun) quiesced(ctx context.Context, agent *hostAgent, first hostUsage) (hostUsage, error) {
	last, err := h.usage(agent)
	same := 0
	for end := time.Now().Add(15 * time.Second); err == nil && time.Now().Before(end); {
		if err = pause(ctx, 500*time.Millisecond); err != nil {
			break
		}
		before := last
		if last, err = h.usage(agent); err != nil {
			break
		}
		if same++; last.segments != before.segments || rose(before, last, "segments") != 0 {
			same = 0
		}
		told := rose(first, last, "segments") + rose(first, last, "events_lost_ring") + missed(first, last)
		if same >= 2 && told >= float64(last.segments-first.segments) {
			break
		}
	}
	return last, err
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
	return sync.OnceFunc(func() {
		c.DelTable(table)
		c.Flush()
	}), nil
}

// pairs measures what a loaded host delivers without and with the agent, of half
// of the most exchanges that it can, with answers of so many bytes.
func (h *hostRun) pairs(ctx context.Context, name, unit string, bytes int) error {
	var rates []float64
	for range 3 {
		e, err := h.exchange(ctx, h.Duration, bytes, 0)
		if err != nil {
			return err
		}
		rates = append(rates, e.rate)
	}
	most := median(rates)
	if most == 0 {
		return fmt.Errorf("not one connection was answered within %v: give a longer --duration", h.Duration)
	}
	offered := most / 2
	var share [2][]float64 // agent off, on
	var less []float64     // percent of a pair
	for i := range h.Pairs {
		var pair [2]float64
		for turn := range 2 {
			on := (i + turn) % 2
			err := func() error {
				if on == 1 {
					agent, err := h.startAgent(ctx)
					if err != nil {
						return err
					}
					defer agent.stop()
				}
				e, err := h.exchange(ctx, h.Duration, bytes, offered)
				pair[on] = 100 * e.rate / offered
				return err
			}()
			if err != nil {
				return err
			}
			share[on] = append(share[on], pair[on])
		}
		less = append(less, pair[1]-pair[0])
		h.Log("pair %d of %d: %.2f %% delivered without, %.2f %% with the agent", i+1, h.Pairs, pair[0], pair[1])
	}
	change, ci := meanWithin(less)
	h.result("host_"+name+"_most", most, unit, "without the agent, by 8 workers")
	h.result("host_"+name+"_delivered_off_pct", mean(share[0]), "%", "of half of that, offered, agent off")
	h.result("host_"+name+"_delivered_on_pct", mean(share[1]), "%", "the same, agent on")
	h.result("host_"+name+"_change_pct", change, "% of offered", fmt.Sprintf("on less off, mean of %d pairs", h.Pairs))
	h.result("host_"+name+"_change_ci_pct", ci, "% of offered", "either way, 95 % confidence")
	return nil
}

// exchange opens connections from a to b, which answers each with so many bytes
// and closes, for so long, at a rate or as fast as it goes.
func (h *hostRun) exchange(ctx context.Context, d time.Duration, bytes int, rate float64) (e exchanged, err error) {
	var ln net.Listener
	if err := h.b.do(func() (err error) { ln, err = net.Listen("tcp4", hostAddrB+":0"); return err }); err != nil {
		return e, err
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
	var done, inTime, began atomic.Uint64
	const workers = 8
	start := time.Now()
	end := start.Add(d)
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
					done.Add(1)
					if time.Now().Before(end.Add(50 * time.Millisecond)) {
						inTime.Add(1)
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
	return exchanged{made: done.Load(), rate: float64(inTime.Load()) / d.Seconds()}, errors.Join(failed, ctx.Err())
}

// exchanged is what came of exchanges.
type exchanged struct {
	made uint64  // connections opened, answered whole and closed
	rate float64 // a second, of these that were so in time
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
