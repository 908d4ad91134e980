package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"decaf/api/decafpb"
	"decaf/api/packet"
	"decaf/api/yang"
	"decaf/device"
	"decaf/device/sflow"
	"decaf/device/sflow/sflowtest"
)

// mostFlood is what a flood is at most, in drops a second.
const mostFlood = 300_000

// deviceRun is one run of the device benchmark.
type deviceRun struct {
	Options
	figures
	*router
	forward, flood *blaster
	most           struct{ forward, drops float64 } // a second, without an agent
}

// newDeviceRun builds what the benchmark runs on.
func newDeviceRun(o Options) (_ *deviceRun, err error) {
	b := &deviceRun{Options: o, figures: figures{log: o.Log}}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	if b.router, err = newRouter(); err != nil {
		return nil, err
	}
	h1 := netip.MustParseAddrPort("10.0.1.2:40000")
	if b.forward, err = b.blast([][]byte{udp(h1, sinkAddress)}); err != nil {
		return nil, err
	}
	b.flood, err = b.blast([][]byte{udp(h1, floodAddress)})
	return b, err
}

func (b *deviceRun) close() {
	for _, s := range []*blaster{b.forward, b.flood} {
		if s != nil {
			s.close()
		}
	}
	if b.router != nil {
		b.router.close()
	}
}

func runDevice(ctx context.Context, o Options) ([]Result, error) {
	b, err := newDeviceRun(o)
	if err != nil {
		return nil, err
	}
	defer b.close()
	// Agents are started and stopped within a second or so.
	d, n := o.Duration, time.Duration(o.Pairs)
	single := time.Duration(b.samples())*singleGap + 2*time.Second
	// What all others go by.
	if err := b.play(ctx, []part{{"what the machine can do", 6 * d, b.limits}}); err != nil {
		return b.results, err
	}
	err = b.play(ctx, []part{
		{"a flood, agent off and on in turn", n * (4*d + 2*time.Second), b.pairs},
		{"a long flood on one agent", o.Flood + 2*time.Second, b.memory},
		{"what a drop costs in the kernel", 18*d + 20*time.Second, b.kernelCost},
		{"forwarding beside drops", min(n, 3) * (16*d + 8*time.Second), b.sweep},
		{"events of a quiet device", single, b.quiet},
		{"events of a quiet class under a flood", single, b.quietClass},
		{"events to many subscribers", 18 * (d + 2*time.Second), b.fanOut},
		{"a subscriber that never reads", d + 12*time.Second, b.slowReader},
		{"flows of a flood", 3*d + 4*time.Second, b.topFlows},
		{"sFlow", d, b.sflow},
	})
	return b.results, err
}

// traffic is what went through r in some time.
type traffic struct {
	delivered, dropped float64
	seconds            float64
}

// none is a rate of no packets; 0 is as many as there can be.
const none = -1

// drive sends both streams at once, at so many packets a second, for as long as
// one measurement.
func (b *deviceRun) drive(ctx context.Context, forward, flood float64) (traffic, error) {
	return b.driveFor(ctx, b.Duration, forward, flood)
}

func (b *deviceRun) driveFor(ctx context.Context, d time.Duration, forward, flood float64) (t traffic, err error) {
	before, err := b.arrived()
	if err != nil {
		return t, err
	}
	begin := time.Now()
	run, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	var group errgroup.Group
	if forward != none {
		group.Go(func() error { _, err := b.forward.run(run, forward); return err })
	}
	if flood != none {
		group.Go(func() error {
			n, err := b.flood.run(run, flood)
			t.dropped = float64(n)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return t, err
	}
	t.seconds = time.Since(begin).Seconds()
	// What is on its way arrives within a few turns of the CPUs' receive queues.
	after, err := b.arrived()
	for last := before; err == nil && after != last; {
		last = after
		time.Sleep(10 * time.Millisecond)
		after, err = b.arrived()
	}
	t.delivered = float64(after - before)
	return t, err
}

func (b *deviceRun) limits(ctx context.Context) error {
	var forward, drops []float64
	for range 3 {
		t, err := b.drive(ctx, 0, none)
		if err != nil {
			return err
		}
		forward = append(forward, t.delivered/t.seconds)
		if t, err = b.drive(ctx, none, 0); err != nil {
			return err
		}
		drops = append(drops, t.dropped/t.seconds)
	}
	b.most.forward, b.most.drops = median(forward), median(drops)
	b.result("forwarding_most_pps", b.most.forward, "1/s", "packets forwarded, one sender, no drops, no agent")
	b.result("drops_most_per_s", b.most.drops, "1/s", "packets dropped, one sender, no agent")
	return nil
}

// floodRate is the flood of most measurements.
func (b *deviceRun) floodRate() float64 { return min(mostFlood, b.most.drops/2) }

// pairs compares agent off with on under the flood, in turn.
func (b *deviceRun) pairs(ctx context.Context) error {
	offered := b.most.forward / 2
	var lost, drops []float64 // percentage points more with the agent
	var cpu, seconds float64
	var share [2][]float64 // percent delivered of offered, agent off and on
	for i := range b.Pairs {
		for turn := range 2 {
			on := (i+turn)%2 == 1
			var a *deviceAgent
			var before time.Duration
			var err error
			if on {
				if a, err = b.startDevice(ctx, ""); err != nil {
					return err
				}
			}
			// Once for the beginning of the flood, which is another matter: its
			// first drops have events.
			t, err := b.drive(ctx, offered, b.floodRate())
			if on && err == nil {
				before, err = a.cpu()
			}
			if err == nil {
				t, err = b.drive(ctx, offered, b.floodRate())
			}
			side := 0
			if on {
				side = 1
				after, errCPU := a.cpu()
				cpu += (after - before).Seconds()
				seconds += t.seconds
				drops = append(drops, t.dropped/t.seconds)
				a.stop()
				err = errors.Join(err, errCPU)
			}
			if err != nil {
				return err
			}
			// Of what was asked of the sender: r forwards on its time, and what makes that
			// slower shows as packets that it did not come to send.
			share[side] = append(share[side], 100*t.delivered/(offered*t.seconds))
		}
		lost = append(lost, share[0][i]-share[1][i])
		b.Log("pair %d of %d: %.2f %% delivered without, %.2f %% with the agent", i+1, b.Pairs, share[0][i], share[1][i])
	}
	less, ci := meanWithin(lost)
	b.result("flood_drops_per_s", median(drops), "1/s", "packets dropped in these runs, agent on")
	b.result("flood_offered_per_s", offered, "1/s", "packets asked of the sender to forward: half of the most")
	b.result("flood_delivered_off_pct", mean(share[0]), "%", "delivered of these, without the agent, mean")
	b.result("flood_delivered_on_pct", mean(share[1]), "%", "the same with it")
	b.result("flood_forwarding_loss_pct", less, "%", fmt.Sprintf("delivered of offered packets, less with the agent: mean of %d pairs", b.Pairs))
	b.result("flood_forwarding_loss_ci_pct", ci, "%", "either way, 95 % confidence")
	b.result("flood_agent_cpu_pct", 100*cpu/seconds, "% of a core", "the agent's process, outside the kernel program")
	return nil
}

// kernelCost reads the kernel's statistics of the drop program under the flood.
func (b *deviceRun) kernelCost(ctx context.Context) error {
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		return fmt.Errorf("program statistics: %w", err)
	}
	defer stats.Close()
	for _, agents := range []int{1, 10} {
		a, err := b.startDevice(ctx, "")
		if err != nil {
			return err
		}
		each, err := func() (each []float64, err error) { // of each flood, ascending
			defer a.stop()
			for range agents - 1 { // elsewhere on this kernel, with nothing to see
				n, err := newRouter()
				if err != nil {
					return nil, err
				}
				defer n.close()
				other, err := n.startDevice(ctx, "")
				if err != nil {
					return nil, err
				}
				defer other.stop()
			}
			for range 9 {
				before, err := dropPrograms()
				if err != nil {
					return nil, err
				}
				if _, err := b.drive(ctx, none, b.floodRate()); err != nil {
					return nil, err
				}
				after, err := dropPrograms()
				if err != nil {
					return nil, err
				}
				did := since(before, after)
				each = append(each, float64(did.time)/float64(max(did.runs, 1)))
			}
			slices.Sort(each)
			return each, nil
		}()
		if err != nil {
			return err
		}
		name, of := "flood_kernel_ns_per_drop", "in the kernel program, with the statistics' own share"
		if agents > 1 {
			name, of = fmt.Sprintf("%s_%d_agents", name, agents), "the same with more agents on this kernel"
		}
		b.result(name, median(each), "ns", of+", the median of nine floods")
		// What interrupts the program is not its own, and is in its time.
		b.result(name+"_min", each[0], "ns", "the least of them")
	}
	return nil
}

// dropProgram is how the agents' program is called.
var dropProgram = regexp.MustCompile(`^decaf_[0-9a-f]{9}$`)

// programRuns are the statistics of a program.
type programRuns struct{ runs, time uint64 }

// since sums up what programs did that were there before and are now.
func since(before, after map[ebpf.ProgramID]programRuns) (sum programRuns) {
	for id, b := range before {
		if a, ok := after[id]; ok {
			sum.runs += a.runs - b.runs
			sum.time += a.time - b.time
		}
	}
	return sum
}

// dropPrograms are the statistics of the agents' programs.
func dropPrograms() (all map[ebpf.ProgramID]programRuns, err error) {
	all = map[ebpf.ProgramID]programRuns{}
	for id := ebpf.ProgramID(0); ; {
		if id, err = ebpf.ProgramGetNextID(id); errors.Is(err, unix.ENOENT) {
			break
		} else if err != nil {
			return nil, err
		}
		p, err := ebpf.NewProgramFromID(id)
		if err != nil {
			continue // gone since
		}
		info, err1 := p.Info()
		s, err2 := p.Stats()
		p.Close()
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		if dropProgram.MatchString(info.Name) {
			all[id] = programRuns{s.RunCount, uint64(s.Runtime)}
		}
	}
	if len(all) == 0 {
		return nil, errors.New("the agent has no program in the kernel")
	}
	return all, nil
}

// sweep measures forwarding and delay beside so many drops.
func (b *deviceRun) sweep(ctx context.Context) error {
	for _, at := range []struct {
		name string
		rate float64
	}{{"0", none}, {"1k", 1000}, {"100k", 100_000}, {"max", 0}} {
		var rates [2][]float64
		var delays [2][]time.Duration
		for i := range min(3, b.Pairs) {
			for turn := range 2 {
				on := (i + turn) % 2
				err := func() error {
					if on == 1 {
						a, err := b.startDevice(ctx, "")
						if err != nil {
							return err
						}
						defer a.stop()
					}
					t, err := b.drive(ctx, 0, at.rate)
					if err != nil {
						return err
					}
					rates[on] = append(rates[on], t.delivered/t.seconds)
					d, err := b.delay(ctx, at.rate)
					delays[on] = append(delays[on], d...)
					return err
				}()
				if err != nil {
					return err
				}
			}
		}
		for on, name := range []string{"off", "on"} {
			what := fmt.Sprintf("beside %s drops/s, agent %s", at.name, name)
			b.result(fmt.Sprintf("forwarding_%s_drops_%s_pps", at.name, name), median(rates[on]), "1/s", "forwarded "+what)
			b.result(fmt.Sprintf("delay_%s_drops_%s_p50_us", at.name, name), quantile(delays[on], .5, time.Microsecond), "µs", "through r "+what)
			b.result(fmt.Sprintf("delay_%s_drops_%s_p99_us", at.name, name), quantile(delays[on], .99, time.Microsecond), "µs", "through r "+what)
		}
	}
	return nil
}

// delay sends a packet each millisecond from h1 to h2 beside a flood and returns
// how long each took, process to process.
func (b *deviceRun) delay(ctx context.Context, flood float64) (took []time.Duration, err error) {
	run, cancel := context.WithTimeout(ctx, b.Duration)
	defer cancel()
	open := func(s *space, bind, connect unix.Sockaddr) (fd int, err error) {
		err = s.do(func() (err error) {
			if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
				return err
			}
			if bind != nil {
				err = unix.Bind(fd, bind)
			} else {
				err = unix.Connect(fd, connect)
			}
			if err == nil {
				err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000})
			}
			return err
		})
		return fd, err
	}
	to := &unix.SockaddrInet4{Port: 4001, Addr: [4]byte{10, 0, 2, 2}}
	in, err := open(b.h2, to, nil)
	if err != nil {
		return nil, fmt.Errorf("open h2's socket: %w", err)
	}
	defer unix.Close(in)
	out, err := open(b.h1, nil, to)
	if err != nil {
		return nil, fmt.Errorf("open h1's socket: %w", err)
	}
	defer unix.Close(out)
	var group errgroup.Group
	begin := time.Now()
	group.Go(func() error {
		var buf [8]byte
		for {
			n, err := unix.Read(in, buf[:])
			switch {
			case err == nil && n == len(buf):
				sent := time.Duration(binary.NativeEndian.Uint64(buf[:]))
				took = append(took, time.Since(begin)-sent)
			case errors.Is(err, unix.EAGAIN) && run.Err() != nil:
				return nil
			case err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR):
				return fmt.Errorf("receive: %w", err)
			}
		}
	})
	group.Go(func() error {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for run.Err() == nil {
			var buf [8]byte
			binary.NativeEndian.PutUint64(buf[:], uint64(time.Since(begin)))
			if _, err := unix.Write(out, buf[:]); err != nil && !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.ENOBUFS) {
				return fmt.Errorf("send: %w", err)
			}
			<-tick.C
		}
		return nil
	})
	if flood != none {
		group.Go(func() error { _, err := b.flood.run(run, flood); return err })
	}
	return took, group.Wait()
}

// topFlows sends a flood of known flows and holds the aggregates against it.
func (b *deviceRun) topFlows(ctx context.Context) error {
	const large = 20
	dice := rand.New(rand.NewPCG(1, 1))
	var packets [][]byte
	share := map[netip.AddrPort]float64{}
	add := func(src netip.AddrPort, n int) {
		packets = append(packets, slices.Repeat([][]byte{udp(src, floodAddress)}, n)...)
	}
	const total = 20_000
	for i := range large { // 1.2 % to 4.05 %, half of all together
		src := netip.AddrPortFrom(netip.MustParseAddr("10.0.1.2"), uint16(40_000+i))
		n := total * (120 + 15*i) / 10_000
		add(src, n)
		share[src] = float64(n) / total
	}
	for i := 0; len(packets) < total; i++ {
		add(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 1, byte(10 + i%200)}), uint16(1000+i)), 1)
	}
	dice.Shuffle(len(packets), func(i, j int) { packets[i], packets[j] = packets[j], packets[i] })
	flood, err := b.blast(packets)
	if err != nil {
		return err
	}
	defer flood.close()
	a, err := b.startDevice(ctx, "")
	if err != nil {
		return err
	}
	defer a.stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex
	var all uint64
	type told struct{ low, high, without float64 } // without: 1 % of aggregates that do not tell of it
	flows := map[netip.AddrPort]*told{}
	for src := range share {
		flows[src] = &told{}
	}
	missed := 0
	wait, err := a.watch(ctx, "aggregates", func(u *gnmipb.Notification, _ time.Time) error {
		g, is, err := yang.DecodeAggregate(u)
		if err != nil || !is || g.Class != device.PolicyL3NullRoute {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		all += g.Packets
		in := map[netip.AddrPort]*decafpb.FlowCount{}
		for _, c := range g.TopFlows {
			f, err := packet.FlowFromPB(c.Flow)
			if err != nil {
				return err
			}
			in[f.Src] = c
		}
		for src, t := range flows {
			c := in[src]
			if c == nil {
				t.without += float64(g.Packets) / 100
				if g.Packets > total { // a whole round of the flood: it is above 1 % of it
					missed++
				}
				continue
			}
			t.low += float64(c.Packets - c.PacketsError)
			t.high += float64(c.Packets)
		}
		return nil
	})
	if err != nil {
		return err
	}
	run, stop := context.WithTimeout(ctx, 3*b.Duration)
	defer stop()
	sent, err := flood.run(run, b.floodRate())
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		mu.Lock()
		done := all >= sent
		mu.Unlock()
		if done || time.Now().After(deadline) {
			break
		}
	}
	cancel()
	if err := wait(); err != nil {
		return err
	}
	worst, outside := 0.0, 0
	for src, t := range flows {
		// What was sent of it, to the last round.
		truth, slack := share[src]*float64(sent), share[src]*total
		worst = max(worst, math.Abs((t.low+t.high+t.without)/2-truth)/float64(sent))
		if t.low > truth+slack || t.high+t.without < truth-slack {
			outside++
		}
	}
	b.result("aggregate_packets_pct", 100*float64(all)/float64(sent), "%", "of a flood's packets are in the aggregates")
	b.result("aggregate_top_flow_error_pct", 100*worst, "% of the flood", fmt.Sprintf("the most that one of %d flows above 1 %% is told wrong by", large))
	b.result("aggregate_top_flows_outside", float64(outside), "", "flows above 1 % that are not within their stated bounds")
	b.result("aggregate_top_flows_missed", float64(missed), "", "flows above 1 % that an aggregate does not tell of")
	return nil
}

// sflow decodes datagrams of drop notifications, as switches send them.
func (b *deviceRun) sflow(ctx context.Context) error {
	const perDatagram = 8
	d := sflowtest.Datagram{Agent: netip.MustParseAddr("192.0.2.1"), Sequence: 1}
	frame := append(make([]byte, 12, 96), 8, 0)
	frame = append(frame, udp(netip.MustParseAddrPort("10.0.1.2:4000"), sinkAddress)...)
	for i := range uint32(perDatagram) {
		d.Samples = append(d.Samples, sflowtest.Drop{
			Sequence: i, Index: 7, Input: 7, Reason: 258,
			Records: [][]byte{sflowtest.Header(1, uint32(len(frame)), 0, frame), sflowtest.Function("nft_do_chain"), sflowtest.LinuxReason("NETFILTER_DROP")},
		}.Sample())
	}
	raw := d.Bytes()
	var r sflow.Reader
	n, begin := 0, time.Now()
	for time.Since(begin) < b.Duration && ctx.Err() == nil {
		for range 1000 {
			if err := r.Reset(raw); err != nil {
				return err
			}
			for r.Next() {
				n++
			}
			if err := r.Err(); err != nil {
				return err
			}
		}
	}
	b.result("sflow_notifications_per_s", float64(n)/time.Since(begin).Seconds(), "1/s", "decoded on one core")
	return nil
}
