package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"decaf/api/decafpb"
	"decaf/api/packet"
	"decaf/tracer"
)

// tracesBeside is how many traces of a live flow are made beside a measurement.
const tracesBeside = 100

// Links of transfer: narrower than what the machine forwards, so that they lose packets
// and not its processors' backlogs, which empty the sooner the more else is done.
const (
	linkRate  = 1_000_000_000 / 8 // bytes per second
	linkBurst = 64 << 10          // bytes that pass at once
	linkQueue = 100 * 1514        // bytes that wait
)

// transfer has one flow fill links of linkRate, on which probes wait in the queue that
// it makes overflow.
func (b *tracing) transfer(ctx context.Context, v version) (err error) {
	for i := 1; i <= spines; i++ {
		undo, failed := b.narrow(fmt.Sprintf("s%d", i))
		if failed != nil {
			return failed
		}
		defer func() { err = errors.Join(err, undo()) }()
	}
	return b.undisturbed(ctx, v, 45000, "transfer", "one flow over links of 1 Gbit/s")
}

// fastest has one flow send as fast as the machine lets it. What is sent again there
// is what the machine's own backlogs drop.
func (b *tracing) fastest(ctx context.Context, v version) error {
	return b.undisturbed(ctx, v, 45001, "fastest", "one flow as fast as it goes")
}

// narrow has a port of r1 let out linkRate.
func (b *tracing) narrow(port string) (undo func() error, err error) {
	var q *netlink.Tbf
	err = b.f.Do("r1", func() error {
		link, err := netlink.LinkByName(port)
		if err != nil {
			return err
		}
		q = &netlink.Tbf{
			QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
			Rate:       linkRate, Limit: linkQueue, Buffer: netlink.Xmittime(linkRate, linkBurst),
		}
		return netlink.QdiscAdd(q)
	})
	if err != nil {
		return nil, fmt.Errorf("narrow r1's port %s: %w", port, err)
	}
	return func() error { return b.f.Do("r1", func() error { return netlink.QdiscDel(q) }) }, nil
}

// undisturbed compares what a flow from a port gets through while it is traced with
// what it gets through otherwise, in turn.
func (b *tracing) undisturbed(ctx context.Context, v version, port uint16, name, what string) (err error) {
	t, stop, err := b.tracer(ctx, unbounded)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	l, err := b.liveFlow(v.flow(port))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	// It finds its pace.
	if _, err := l.measure(ctx, b.Duration); err != nil {
		return err
	}
	var rates, again, dropped [2][]float64 // without traces, with them
	var change, more []float64             // of each pair
	epoch, complete := int64(0), 0
	for i := range b.Pairs {
		for turn := range 2 {
			on := (i + turn) % 2
			traced := make(chan int, 1)
			traced <- 0
			if on == 1 {
				<-traced
				epoch += tracesBeside // a flow is traced once in each
				go func() { traced <- l.trace(ctx, t, epoch, b.Duration) }()
			}
			m, err := l.measure(ctx, b.Duration)
			complete += <-traced
			if err != nil {
				return err
			}
			rates[on] = append(rates[on], m.mbit)
			again[on] = append(again[on], m.retransmits)
			dropped[on] = append(dropped[on], m.dropped)
		}
		change = append(change, 100*(rates[1][i]/rates[0][i]-1))
		more = append(more, again[1][i]-again[0][i])
		b.Log("pair %d of %d: %.1f Mbit/s without traces, %.1f with; %.0f and %.0f retransmits; %.0f and %.0f packets dropped by backlogs", i+1, b.Pairs,
			rates[0][i], rates[1][i], again[0][i], again[1][i], dropped[0][i], dropped[1][i])
	}
	faster, ci := meanWithin(change)
	what = fmt.Sprintf("of %d pairs, %s", b.Pairs, what)
	b.add(v, name+"_mbit_per_s", mean(rates[0]), "Mbit/s", "got through without traces, mean "+what)
	b.add(v, name+"_change_pct", faster, "%", fmt.Sprintf("more with %d traces of it, mean ", tracesBeside)+what)
	b.add(v, name+"_change_ci_pct", ci, "%", "either way, 95 % confidence")
	b.add(v, name+"_retransmits", mean(again[0]), "segments", "sent again without traces, mean "+what)
	extra, ci := meanWithin(more)
	b.add(v, name+"_retransmits_change", extra, "segments", fmt.Sprintf("more with %d traces of it, mean ", tracesBeside)+what)
	b.add(v, name+"_retransmits_change_ci", ci, "segments", "either way, 95 % confidence")
	b.add(v, name+"_backlog_drops", mean(dropped[0]), "packets", "dropped by this machine's processors without traces, mean "+what)
	b.add(v, name+"_backlog_drops_traced", mean(dropped[1]), "packets", "the same with traces")
	b.add(v, name+"_traces_complete_pct", 100*float64(complete)/float64(b.Pairs*tracesBeside), "%", "of the traces meanwhile found the whole path")
	return nil
}

// live is a connection that sends without end.
type live struct {
	flow packet.Flow
	conn *net.TCPConn
	over chan error
}

func (b *tracing) liveFlow(f packet.Flow) (*live, error) {
	l := &live{flow: f, over: make(chan error, 1)}
	err := b.f.Do("h1", func() error {
		c, err := net.DialTCP("tcp", net.TCPAddrFromAddrPort(f.Src), net.TCPAddrFromAddrPort(f.Dst))
		l.conn = c
		return err
	})
	if err != nil {
		return nil, err
	}
	go func() {
		chunk := make([]byte, 64<<10)
		for {
			if _, err := l.conn.Write(chunk); errors.Is(err, net.ErrClosed) {
				l.over <- nil
				return
			} else if err != nil {
				l.over <- fmt.Errorf("send: %w", err)
				return
			}
		}
	}()
	return l, nil
}

func (l *live) close() error {
	err := l.conn.Close()
	return errors.Join(err, <-l.over)
}

// progress is what a connection did in some time.
type progress struct {
	mbit        float64 // Mbit/s acknowledged
	retransmits float64 // segments sent again
	dropped     float64 // packets, of any flow, by the processors' backlogs
}

func (l *live) measure(ctx context.Context, d time.Duration) (m progress, err error) {
	begin := time.Now()
	lost, err := backlogDrops()
	if err != nil {
		return m, err
	}
	before, err := l.info()
	if err == nil {
		err = pause(ctx, d)
	}
	if err != nil {
		return m, err
	}
	after, err := l.info()
	if err != nil {
		return m, err
	}
	took := time.Since(begin)
	since, err := backlogDrops()
	return progress{
		mbit:        float64(after.Bytes_acked-before.Bytes_acked) * 8 / 1e6 / took.Seconds(),
		retransmits: float64(after.Total_retrans - before.Total_retrans),
		dropped:     float64(since - lost),
	}, err
}

// backlogDrops is how many packets the processors' receive backlogs had no room for
// (net.core.netdev_max_backlog) so far: the second column of softnet_stat.
func backlogDrops() (n uint64, err error) {
	const file = "/proc/net/softnet_stat"
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			return 0, fmt.Errorf("%s: line %q: want columns", file, line)
		}
		dropped, err := strconv.ParseUint(f[1], 16, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", file, err)
		}
		n += dropped
	}
	return n, nil
}

func (l *live) info() (info *unix.TCPInfo, err error) {
	raw, err := l.conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	errControl := raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
	if err := errors.Join(errControl, err); err != nil {
		return nil, fmt.Errorf("tcp_info: %w", err)
	}
	return info, nil
}

// trace traces the flow again and again, spread over some time, and says how many
// of the traces are whole.
func (l *live) trace(ctx context.Context, t *tracer.Tracer, epoch int64, d time.Duration) (complete int) {
	tick := time.NewTicker(d / (tracesBeside + 1))
	defer tick.Stop()
	for i := range int64(tracesBeside) {
		select {
		case <-ctx.Done():
			return complete
		case <-tick.C:
		}
		if isComplete(t.Trace(ctx, l.flow, epoch+i)) {
			complete++
		}
	}
	return complete
}

func isComplete(p *decafpb.Path) bool {
	return p.GetStatus() == decafpb.PathStatus_PATH_STATUS_COMPLETE
}
