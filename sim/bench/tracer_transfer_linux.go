package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"decaf/api/decafpb"
	"decaf/api/packet"
	"decaf/tracer"
)

// tracesBeside is how many traces of a live flow are made beside a measurement.
const tracesBeside = 100

// transfer has one flow send as fast as it can, and compares what it gets through
// while it is traced with what it gets through otherwise, in turn.
func (b *tracing) transfer(ctx context.Context, v version) (err error) {
	t, stop, err := b.tracer(ctx, unbounded)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	l, err := b.liveFlow(v.flow(45000))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	// It finds its pace.
	if _, err := l.measure(ctx, b.Duration); err != nil {
		return err
	}
	var rates, again [2][]float64 // without traces, with them
	var change, more []float64    // of each pair
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
		}
		change = append(change, 100*(rates[1][i]/rates[0][i]-1))
		more = append(more, again[1][i]-again[0][i])
		b.Log("pair %d of %d: %.0f Mbit/s without traces, %.0f with; %.0f and %.0f retransmits", i+1, b.Pairs, rates[0][i], rates[1][i], again[0][i], again[1][i])
	}
	faster, ci := meanWithin(change)
	what := fmt.Sprintf("of %d pairs, one flow as fast as it goes", b.Pairs)
	b.add(v, "transfer_mbit_per_s", mean(rates[0]), "Mbit/s", "got through without traces, mean "+what)
	b.add(v, "transfer_change_pct", faster, "%", fmt.Sprintf("more with %d traces of it, mean ", tracesBeside)+what)
	b.add(v, "transfer_change_ci_pct", ci, "%", "either way, 95 % confidence")
	b.add(v, "transfer_retransmits", mean(again[0]), "segments", "sent again without traces, mean "+what)
	extra, ci := meanWithin(more)
	b.add(v, "transfer_retransmits_change", extra, "segments", fmt.Sprintf("more with %d traces of it, mean ", tracesBeside)+what)
	b.add(v, "transfer_retransmits_change_ci", ci, "segments", "either way, 95 % confidence")
	b.add(v, "transfer_traces_complete_pct", 100*float64(complete)/float64(b.Pairs*tracesBeside), "%", "of the traces meanwhile found the whole path")
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
type progress struct{ mbit, retransmits float64 } // Mbit/s acknowledged, segments sent again

func (l *live) measure(ctx context.Context, d time.Duration) (m progress, err error) {
	begin := time.Now()
	before, err := l.info()
	if err == nil {
		err = pause(ctx, d)
	}
	if err != nil {
		return m, err
	}
	after, err := l.info()
	return progress{
		mbit:        float64(after.Bytes_acked-before.Bytes_acked) * 8 / 1e6 / time.Since(begin).Seconds(),
		retransmits: float64(after.Total_retrans - before.Total_retrans),
	}, err
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
