package hostagent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"os"
	"runtime"
	"sync"
	"time"

	"decaf/api/agentconfig"
	"decaf/api/decafpb"
	"decaf/api/service"
	"decaf/tracer"
)

// tracers trace from the agent's own network namespace and, for flows of others,
// from these: only there the kernel sends the probes the way it sends the flow,
// and only there their answers arrive. Where the agent's namespace translates such
// a flow (a container behind this host's NAT), the probes carry what becomes of it
// and leave from here: they would not pass the translation as the flow does. All
// of them share the host's budget.
//
// A Tracer keeps its namespace alive, so it is opened when first needed and
// closed when nothing was traced for a while.
type tracers struct {
	own *tracer.Tracer
	cfg tracer.Config // of the others
	far tracer.Distance
	log *slog.Logger
	// idle is how long one is kept without a trace.
	idle time.Duration

	mu      sync.Mutex
	spaces  *flowSpaces
	of      map[uint32]*spaceTracer
	closed  bool
	retired map[string]uint64 // counters of those closed
	missed  uint64            // traces for want of a Tracer
	running sync.WaitGroup
}

// spaceTracer is a Tracer of another namespace.
type spaceTracer struct {
	*tracer.Tracer
	stop  context.CancelFunc
	users int       // traces under way
	used  time.Time // last
}

const (
	// tracerIdle is longer than a connection waits between two retransmits of
	// the first seconds of a fault.
	tracerIdle = 10 * time.Second
	// maxSpaceTracers bounds the Tracers of other namespaces: each has some
	// sockets and goroutines, and a MiB of buffers at most.
	maxSpaceTracers = 64
)

// newTracers opens the Tracer of the namespace of the calling thread. names are
// the other namespaces that are watched, as in Config.
func newTracers(cfg tracer.Config, far tracer.Distance, names []string, log *slog.Logger) (_ *tracers, err error) {
	t := &tracers{cfg: cfg, far: far, log: log, idle: tracerIdle, of: map[uint32]*spaceTracer{}, retired: map[string]uint64{}}
	if t.own, err = tracer.New(cfg, far, log); err != nil {
		return nil, err
	}
	ns, inum, err := openNetNS("")
	if err != nil {
		return nil, errors.Join(err, t.own.Close())
	}
	t.spaces = newFlowSpaces(ns, inum, names)
	t.cfg.Host = t.own
	// Balancers of all sorts come after it: the host's own Tracer asks them.
	t.cfg.Translate = tracer.Translation{Conntrack: true}
	return t, nil
}

// Run reads answers until ctx is done, and closes all Tracers then.
func (t *tracers) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var sweeping sync.WaitGroup
	sweeping.Go(func() {
		tick := time.NewTicker(max(t.idle/4, time.Millisecond))
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				t.sweep(time.Now())
			}
		}
	})
	err := t.own.Run(ctx)
	cancel()
	sweeping.Wait()
	return errors.Join(err, t.Close())
}

// Close closes all Tracers. It may be called more than once.
func (t *tracers) Close() error {
	t.mu.Lock()
	first := !t.closed
	t.closed = true
	for inum, s := range t.of {
		t.retire(inum, s)
	}
	t.mu.Unlock()
	t.running.Wait()
	err := t.own.Close()
	if first {
		err = errors.Join(err, t.spaces.own.Close())
	}
	return err
}

// sweep closes the Tracers that nobody needs any more.
func (t *tracers) sweep(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for inum, s := range t.of {
		if s.users == 0 && now.Sub(s.used) >= t.idle {
			t.retire(inum, s)
		}
	}
}

// retire closes a Tracer and keeps its counts. The lock is held.
func (t *tracers) retire(inum uint32, s *spaceTracer) {
	delete(t.of, inum)
	s.stop()
	for name, n := range s.Stats().Counters() {
		t.retired[name] += n
	}
}

// Do traces a flow of the agent's own namespace.
func (t *tracers) Do(ctx context.Context, r tracer.Request) *decafpb.Path { return t.own.Do(ctx, r) }

// Start is that of starter.
func (t *tracers) Start(r tracer.Request) func(context.Context) *decafpb.Path {
	return t.own.Start(r)
}

// Spent is that of PathTracer: the budget is the host's.
func (t *tracers) Spent() time.Duration { return t.own.Spent() }

// Refuse is that of PathTracer.
func (t *tracers) Refuse() *decafpb.Path { return t.own.Refuse() }

// DoIn traces a flow of a network namespace.
func (t *tracers) DoIn(ctx context.Context, netns uint32, r tracer.Request) *decafpb.Path {
	if netns == 0 || netns == t.spaces.inum {
		return t.own.Do(ctx, r)
	}
	s, err := t.take(netns)
	if err != nil {
		return &decafpb.Path{
			Status: decafpb.PathStatus_PATH_STATUS_SKIPPED, StartNs: uint64(time.Now().UnixNano()),
			Why: "the flow is of another network namespace, from which nothing can be traced: " + err.Error(),
		}
	}
	defer func() {
		t.mu.Lock()
		s.users--
		s.used = time.Now()
		t.mu.Unlock()
	}()
	return s.Do(ctx, r)
}

// take gives the Tracer of a namespace to one more user.
func (t *tracers) take(netns uint32) (*spaceTracer, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, errors.New("the tracer is closed")
	}
	s := t.of[netns]
	if s == nil {
		var err error
		if s, err = t.open(netns); err != nil {
			t.missed++
			return nil, err
		}
		t.of[netns] = s
	}
	s.users++
	return s, nil
}

// open opens the Tracer of a namespace. The lock is held: it takes a
// millisecond, and nobody else opens the same one meanwhile.
func (t *tracers) open(netns uint32) (*spaceTracer, error) {
	if len(t.of) >= maxSpaceTracers {
		return nil, fmt.Errorf("it is traced from %d others already", len(t.of))
	}
	ns, err := t.spaces.open(netns)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	type made struct {
		t   *tracer.Tracer
		err error
	}
	done := make(chan made)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends in the other namespace
		var m made
		if m.err = enterNetNS(ns, netns); m.err == nil {
			m.t, m.err = tracer.New(t.cfg, t.far, t.log)
		}
		done <- m
	}()
	m := <-done
	if m.err != nil {
		return nil, m.err
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &spaceTracer{Tracer: m.t, stop: stop, used: time.Now()}
	t.running.Go(func() {
		if err := m.t.Run(ctx); err != nil {
			t.log.Warn("tracing from another network namespace broke off", "netns", netns, "err", err)
			t.mu.Lock()
			if t.of[netns] == s {
				t.retire(netns, s)
			}
			t.mu.Unlock()
		}
	})
	return s, nil
}

// SetRate changes how many traces per second all of them together may start.
func (t *tracers) SetRate(perSecond float64) { t.own.SetRate(perSecond) }

// Counters are those of all Tracers together.
func (t *tracers) Counters() map[string]uint64 {
	out := t.own.Stats().Counters()
	t.mu.Lock()
	defer t.mu.Unlock()
	add := func(counts map[string]uint64) {
		for name, n := range counts {
			out[name] += n
		}
	}
	add(t.retired)
	for s := range maps.Values(t.of) {
		add(s.Stats().Counters())
	}
	out[countTraceRate] = uint64(math.Round(1000 * t.own.Rate()))
	out[countSpaceTracers] = uint64(len(t.of))
	out[countSpaceMissed] = t.missed
	return out
}

// tracer is the tracer's part of the configuration.
func (c TraceConfig) tracer() (tracer.Config, error) {
	t := tracer.DefaultConfig()
	t.Rate, t.Burst, t.MaxTTL, t.Resend, t.Timeout = c.rate(0), c.Burst, c.MaxTTL, c.Resend, c.Timeout
	t.MaxLive = max(t.MaxLive, c.Workers)
	t.Translate.Changeable = true
	var err error
	t.Translate.Balancer, err = c.balancer(c.Balancer.told())
	return t, err
}

// rate is how many traces a second may start where nobody tells the agent: as
// the file says, else the bound of the topology, else 007's own figure.
func (c TraceConfig) rate(bound float64) float64 {
	switch {
	case c.Rate > 0:
		return c.Rate
	case bound > 0:
		return bound
	}
	return defaultTraceRate
}

// balancer is how the tracer asks one; nil where none is to be asked. Its files
// of keys are of the agent's own configuration, whoever names the balancer.
func (c TraceConfig) balancer(b agentconfig.Balancer) (*tracer.BalancerConfig, error) {
	if b.URL == "" {
		return nil, nil
	}
	cfg := tracer.DefaultBalancer()
	cfg.URL, cfg.Networks = b.URL, b.Networks
	if b.Timeout > 0 {
		cfg.Timeout = b.Timeout
	}
	if c.Balancer.TLS != nil {
		client, err := balancerClient(*c.Balancer.TLS)
		if err != nil {
			return nil, fmt.Errorf("trace.balancer.tls: %w", err)
		}
		cfg.Client = client
	}
	return &cfg, nil
}

// open opens the namespace with an inode number.
func (s *flowSpaces) open(inum uint32) (*os.File, error) {
	for _, file := range s.files() {
		f, is, err := openNetNS(file)
		if err != nil {
			continue
		}
		if is == inum {
			return f, nil
		}
		f.Close()
	}
	// It may be newer than the list of those of processes.
	if s.all && time.Since(s.at) > time.Second {
		s.at = time.Time{}
		return s.open(inum)
	}
	return nil, errors.New("it is not to be found, or gone")
}

// balancerClient speaks https with files of one's own.
func balancerClient(files service.TLSFiles) (*http.Client, error) {
	t, err := files.Client("")
	if err != nil {
		return nil, err
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: t, Proxy: http.ProxyFromEnvironment}}, nil
}
