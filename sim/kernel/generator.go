package kernel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// GeneratorConfig is one host's traffic.
type GeneratorConfig struct {
	Listen     []netip.AddrPort // where its server listens
	Rate       float64          // new connections per second; 0: serve only
	PacketsMin int              // data packets of a connection, drawn evenly
	PacketsMax int
	Targets    []Target
	Seed       uint64
	MaxOpen    int           // connections of its own at a time; more are skipped and counted
	Connect    time.Duration // may take this long to connect
	Transfer   time.Duration // and this long from then to the end
	Ready      time.Duration // how long to wait for the targets to listen before it starts
	Drain      time.Duration // how long connections may go on after the stop
	Quiet      time.Duration // without new ones that then ends the server
}

// DefaultGeneratorConfig has no server, no targets and no rate.
func DefaultGeneratorConfig() GeneratorConfig {
	return GeneratorConfig{
		PacketsMin: 1, PacketsMax: 100,
		MaxOpen: 1024,
		Connect: 10 * time.Second, Transfer: 20 * time.Second,
		Ready: 5 * time.Second, Drain: 2 * time.Second,
		Quiet: 200 * time.Millisecond,
	}
}

func (c GeneratorConfig) check() error {
	switch {
	case len(c.Listen) == 0 || slices.ContainsFunc(c.Listen, func(a netip.AddrPort) bool { return !a.IsValid() }):
		return errors.New("listen: no address to serve at")
	case c.Rate < 0 || c.Rate > 1e6:
		return fmt.Errorf("rate: %v connections per second is not in 0..1e6", c.Rate)
	case c.PacketsMin < 1 || c.PacketsMax < c.PacketsMin || c.PacketsMax > 1e6:
		return fmt.Errorf("packets: %d..%d is not a range of 1 to 1e6", c.PacketsMin, c.PacketsMax)
	case c.Rate > 0 && len(c.Targets) == 0:
		return errors.New("target: none given to connect to")
	case c.MaxOpen < 1:
		return fmt.Errorf("max-open: %d leaves no connection", c.MaxOpen)
	}
	for _, t := range c.Targets {
		if !(t.Weight > 0) || t.Weight > 1e9 {
			return fmt.Errorf("target %s: weight %v is not above 0", t.Addr, t.Weight)
		}
	}
	return nil
}

// TrafficStats is what one host's traffic came to.
type TrafficStats struct {
	Started   uint64 `json:"started"`   // connections begun
	Connected uint64 `json:"connected"` // of these, handshakes done
	Completed uint64 `json:"completed"` // of these, all sent and the end seen by the peer
	Failed    uint64 `json:"failed"`    // begun and not completed: refused, timed out, reset
	Skipped   uint64 `json:"skipped"`   // not begun, since too many were open

	SentPackets uint64 `json:"sent_packets"` // segments' worth of payload of completed connections
	SentBytes   uint64 `json:"sent_bytes"`

	Accepted      uint64 `json:"accepted"` // as server
	ReceivedBytes uint64 `json:"received_bytes"`
}

// congestionControl is what connections use: the commonest one that backs off on
// loss.
const congestionControl = "cubic"

// Generator is one host's traffic: a server that reads what it gets to the end,
// and a client that opens short connections at random times.
type Generator struct {
	cfg GeneratorConfig
	log *slog.Logger

	started, connected, completed, failed, skipped atomic.Uint64
	sentPackets, sentBytes                         atomic.Uint64
	accepted, receivedBytes                        atomic.Uint64
	served, asked                                  tracked
}

// NewGenerator checks the configuration; Run does the work.
func NewGenerator(cfg GeneratorConfig, log *slog.Logger) (*Generator, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("traffic: %w", err)
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Generator{cfg: cfg, log: log}, nil
}

// Stats may be called at any time.
func (g *Generator) Stats() TrafficStats {
	return TrafficStats{
		Started: g.started.Load(), Connected: g.connected.Load(), Completed: g.completed.Load(),
		Failed: g.failed.Load(), Skipped: g.skipped.Load(),
		SentPackets: g.sentPackets.Load(), SentBytes: g.sentBytes.Load(),
		Accepted: g.accepted.Load(), ReceivedBytes: g.receivedBytes.Load(),
	}
}

// Run serves and connects until the context ends, then lets open connections
// finish for a while and resets the rest.
func (g *Generator) Run(ctx context.Context) error {
	// The context ends arrivals, not connections: those are drained.
	var listeners []*net.TCPListener
	stop := func() (err error) {
		for _, ln := range listeners {
			err = errors.Join(err, ln.Close())
		}
		return err
	}
	for _, a := range g.cfg.Listen {
		ln, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(a))
		if err != nil {
			return errors.Join(fmt.Errorf("traffic: listen at %s: %w", a, err), stop())
		}
		listeners = append(listeners, ln)
	}
	var all sync.WaitGroup
	for _, ln := range listeners {
		all.Go(func() { g.serve(ln, &all) })
	}
	dialing, hangUp := context.WithCancel(context.WithoutCancel(ctx))
	defer hangUp()
	if g.cfg.Rate > 0 {
		g.awaitTargets(ctx)
		g.connect(ctx, dialing, &all)
	} else {
		<-ctx.Done()
	}
	// Others drain at the same time: serve until their connections end too.
	deadline := time.Now().Add(g.cfg.Drain)
	g.asked.drain(deadline)
	hangUp()
	g.awaitQuiet(deadline)
	g.served.drain(deadline)
	err := stop()
	all.Wait()
	if err != nil {
		return fmt.Errorf("traffic: stop listening: %w", err)
	}
	return nil
}

// serve accepts until the listener is closed. It adds its connections to all.
func (g *Generator) serve(ln *net.TCPListener, all *sync.WaitGroup) {
	for {
		conn, err := ln.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			g.log.Warn("accept a connection", "error", err)
			continue
		}
		g.accepted.Add(1)
		g.served.add(conn)
		all.Go(func() {
			defer g.served.remove(conn)
			conn.SetDeadline(time.Now().Add(g.cfg.Connect + g.cfg.Transfer))
			n, err := io.Copy(io.Discard, conn)
			g.receivedBytes.Add(uint64(n))
			if err != nil {
				conn.SetLinger(0)
			}
			conn.Close()
		})
	}
}

// awaitQuiet waits until no peer has connected for a while: one that has not been
// told to stop yet would be refused.
func (g *Generator) awaitQuiet(deadline time.Time) {
	for before := g.accepted.Load(); ; {
		wait := min(g.cfg.Quiet, time.Until(deadline))
		if wait <= 0 {
			return
		}
		timer := time.NewTimer(wait)
		<-timer.C
		now := g.accepted.Load()
		if now == before {
			return
		}
		before = now
	}
}

// awaitTargets waits until all targets listen, so that the first connections are
// not refused; not longer than the configuration says.
func (g *Generator) awaitTargets(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, g.cfg.Ready)
	defer cancel()
	var all sync.WaitGroup
	for _, t := range g.cfg.Targets {
		all.Go(func() {
			retry := time.NewTicker(20 * time.Millisecond)
			defer retry.Stop()
			for {
				conn, err := new(net.Dialer).DialContext(ctx, "tcp", t.Addr.String())
				if err == nil {
					conn.Close()
					return
				}
				select {
				case <-ctx.Done():
					g.log.Warn("target does not listen yet", "target", t.Addr, "error", err)
					return
				case <-retry.C:
				}
			}
		})
	}
	all.Wait()
}

// connect opens connections as they arrive, until ctx ends; dialing bounds the
// time to make them. It adds them to all.
func (g *Generator) connect(ctx, dialing context.Context, all *sync.WaitGroup) {
	a := newArrivals(g.cfg.Seed, g.cfg.Rate, g.cfg.PacketsMin, g.cfg.PacketsMax, g.cfg.Targets)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for at := time.Now(); ; {
		c := a.next()
		at = at.Add(c.after) // against the clock, so that delays do not add up
		timer.Reset(time.Until(at))
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if g.asked.count() >= g.cfg.MaxOpen {
			g.skipped.Add(1)
			continue
		}
		g.started.Add(1)
		done := g.asked.reserve()
		all.Go(func() {
			defer done()
			if err := g.send(dialing, c); err != nil {
				g.failed.Add(1)
				g.log.Debug("connection failed", "to", c.to, "packets", c.packets, "error", err)
			}
		})
	}
}

// send makes one connection and sends packets·MSS bytes, so that exactly so many
// full segments go out when nothing is lost.
func (g *Generator) send(ctx context.Context, c connection) (err error) {
	dialer := net.Dialer{Timeout: g.cfg.Connect, KeepAlive: -1, Control: backOff}
	nc, err := dialer.DialContext(ctx, "tcp", c.to.String())
	if err != nil {
		return err
	}
	conn := nc.(*net.TCPConn)
	g.connected.Add(1)
	g.asked.add(conn)
	defer g.asked.remove(conn)
	defer func() {
		if err != nil {
			// A reset ends it: else the kernel would go on retransmitting for
			// minutes, long after the fault.
			conn.SetLinger(0)
		}
		conn.Close()
	}()
	conn.SetDeadline(time.Now().Add(g.cfg.Transfer))
	mss, err := segmentSize(conn)
	if err != nil {
		return err
	}
	data := make([]byte, c.packets*mss)
	if _, err := conn.Write(data); err != nil {
		return err
	}
	if err := conn.CloseWrite(); err != nil {
		return err
	}
	// The peer closes when it has read all.
	if _, err := io.Copy(io.Discard, conn); err != nil {
		return err
	}
	g.completed.Add(1)
	g.sentPackets.Add(uint64(c.packets))
	g.sentBytes.Add(uint64(len(data)))
	return nil
}

// segmentSize is the payload of a full segment of this connection, options taken
// off.
func segmentSize(conn *net.TCPConn) (int, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var mss int
	var inner error
	if err := raw.Control(func(fd uintptr) { mss, inner = maxSegment(fd) }); err != nil {
		return 0, err
	}
	if inner != nil {
		return 0, fmt.Errorf("read the segment size: %w", inner)
	}
	if mss <= 0 {
		return 0, fmt.Errorf("read the segment size: %w", syscall.EINVAL)
	}
	return mss, nil
}

// tracked is a set of connections that can be waited for, with those still being
// made.
type tracked struct {
	mu    sync.Mutex
	open  map[*net.TCPConn]struct{}
	going int           // reserved and not done
	idle  chan struct{} // closed when nothing is left; nil while nobody waits
	over  bool          // drained: what comes now is reset
}

// reserve counts a connection from before it is made; done ends it.
func (t *tracked) reserve() (done func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.going++
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.going--
		t.tell()
	}
}

func (t *tracked) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.going
}

func (t *tracked) add(c *net.TCPConn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open == nil {
		t.open = make(map[*net.TCPConn]struct{})
	}
	t.open[c] = struct{}{}
	if t.over {
		c.SetLinger(0)
		c.Close()
	}
}

func (t *tracked) remove(c *net.TCPConn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.open, c)
	t.tell()
}

func (t *tracked) tell() {
	if t.idle != nil && len(t.open) == 0 && t.going == 0 {
		close(t.idle)
		t.idle = nil
	}
}

// drain waits until none is left; after the deadline it resets what is.
func (t *tracked) drain(deadline time.Time) {
	t.mu.Lock()
	idle := make(chan struct{})
	t.idle = idle
	t.tell()
	t.mu.Unlock()
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case <-idle:
	case <-timer.C:
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over, t.idle = true, nil
	for c := range t.open {
		c.SetLinger(0)
		c.Close()
	}
}
