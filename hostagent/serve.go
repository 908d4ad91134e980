package hostagent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"sync/atomic"

	"decaf/api/agentconfig"
	"decaf/api/bus"
	"decaf/api/service"
	"decaf/topology"
	"decaf/tracer"
)

// gcPercent is how much garbage there may be beside what is in use. With 20,000
// connections 50 takes some 10 MB more.
const gcPercent = 30

// batchDelay is how long a record waits at most for others to travel with: as
// long as the reader of retransmits leaves those that nobody traces (tick), for it
// sends all there is when it has read them. Each batch costs a wake-up for its
// acknowledgement; at some hundred retransmits a second one every 10 ms would be
// most of the agent's cost, and nobody acts on a record sooner.
const batchDelay = tick + tick/3

// frugal sets the process up for an agent, which shares its machine with the work it
// watches. What it returns undoes that.
func frugal() (undo func()) {
	// Memory is dearer than the little more that collecting it oftener costs.
	percent := debug.SetGCPercent(gcPercent)
	// What an agent does is rare and short. With one processor to run on, what one
	// goroutine hands to the next needs no other thread woken up, which else
	// costs more than the work; and it never takes more than one from others.
	procs := runtime.GOMAXPROCS(0)
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(1)
	}
	return func() {
		debug.SetGCPercent(percent)
		runtime.GOMAXPROCS(procs)
	}
}

// Serve runs a host agent with all it needs, in the network namespace of the
// process, until ctx is done: connection to NATS, publisher, tracer, health
// endpoints. What the agent saw is sent before it returns.
func Serve(ctx context.Context, cfg Config, log *slog.Logger) error {
	if err := cfg.Validate(); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	topo, err := loadTopology(cfg, log)
	if err != nil {
		return err
	}
	defer frugal()()
	health := service.NewHealth()
	var (
		conn  *bus.Conn
		pub   *bus.Publisher
		trace *tracers
		look  *survey
		agent *Agent
		// watching is whether the agent watches the kernel.
		watching atomic.Bool
	)
	// Asked before anything is served, or a process that starts would say it is ready.
	health.Ready("kernel events", func() error {
		if !watching.Load() {
			return errors.New("not attached yet")
		}
		return nil
	})
	return service.RunAll(ctx, log,
		service.Part{
			Name: "health endpoint",
			Run:  func(ctx context.Context) error { return health.Serve(ctx, cfg.Listen, log) },
		},
		service.Part{
			Name: "tracer",
			Start: func(context.Context) error {
				traceCfg, err := cfg.Trace.tracer()
				if err != nil {
					return err
				}
				trace, err = newTracers(traceCfg, distances(topo), cfg.Namespaces, log)
				if errors.Is(err, os.ErrPermission) {
					return fmt.Errorf("%w, and CAP_BPF and CAP_PERFMON besides, to watch TCP", err)
				}
				return err
			},
			Run: func(ctx context.Context) error { return trace.Run(ctx) },
			Stop: func(context.Context) error {
				return trace.Close()
			},
		},
		service.Part{
			Name: "publisher",
			Start: func(ctx context.Context) (err error) {
				conn, err = bus.Connect(ctx, bus.ConnConfig{
					URL: cfg.NATS.URL, TLS: cfg.NATS.TLS, Name: "host." + cfg.Name, Site: cfg.Site,
				}, log)
				if err != nil {
					return err
				}
				health.Ready("nats", conn.Ready)
				pub = bus.NewPublisher(conn, cfg.Name, bus.PublisherOptions{MaxDelay: batchDelay})
				return nil
			},
			Stop: func(ctx context.Context) error {
				err := pub.Close(ctx)
				conn.Close()
				return err
			},
		},
		service.Part{
			Name: "survey of all paths",
			Start: func(context.Context) error {
				look = newSurvey(trace.own, distances(topo), cfg.Site, cfg.Survey.File, pub.Publish, log)
				look.set(cfg.Survey.told())
				return nil
			},
			Run: func(ctx context.Context) error { return look.Run(ctx) },
		},
		service.Part{
			Name: "host agent",
			Start: func(context.Context) error {
				agent = New(cfg, Deps{
					Log: log, Publisher: pub, Tracer: trace, Topology: topo, Version: service.Version(),
					Settings: conn, SetTraceRate: trace.SetRate, SetSurvey: look.set,
					SetBalancer: func(b agentconfig.Balancer) error {
						to, err := cfg.Trace.balancer(b)
						if err != nil {
							return err
						}
						return trace.own.SetBalancer(to)
					},
					Counters: func() map[string]uint64 {
						out := trace.Counters()
						look.counters(out)
						s := pub.Stats()
						out[countPubLeftOut] = s.LeftOut
						out[countPubWaiting] = s.Waiting
						out[countPubMerged] = s.Merged
						return out
					},
				})
				agent.register(health)
				return nil
			},
			Run: func(ctx context.Context) error { return agent.Run(ctx) },
			Ready: func(ctx context.Context) error {
				select {
				case <-agent.Attached():
					watching.Store(true)
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			},
		},
	)
}

// loadTopology reads the topology, and says when this host is not in it: its
// records would then name nobody.
func loadTopology(cfg Config, log *slog.Logger) (*topology.Topology, error) {
	if cfg.Topology == "" {
		log.Warn("no topology: retransmitted SYNs are not traced, and how far a destination is its own packets must tell")
		return nil, nil
	}
	topo, err := topology.Load(cfg.Topology)
	if err != nil {
		return nil, fmt.Errorf("topology: %w", err)
	}
	if _, ok := topo.Host(cfg.Name); !ok {
		return nil, fmt.Errorf("topology %s has no host %q: set name to this host's name there", cfg.Topology, cfg.Name)
	}
	if topo.Site != "" && topo.Site != cfg.Site {
		return nil, fmt.Errorf("topology %s is of site %q, the configuration of site %q: set site to the one meant", cfg.Topology, topo.Site, cfg.Site)
	}
	return topo, nil
}

// distances tells the tracer how many switches lie between two addresses: 0 where
// the topology lacks one, and then the tracer goes by what it overhears.
func distances(topo *topology.Topology) tracer.Distance {
	if topo == nil {
		return nil
	}
	return func(src, dst netip.Addr) int {
		from, ok := topo.HostAt(src)
		if !ok {
			return 0
		}
		to, ok := topo.HostAt(dst)
		if !ok {
			return 0
		}
		return topo.Distance(from.Name, to.Name)
	}
}

// register shows the counters at /metrics.
func (a *Agent) register(h *service.Health) {
	for name := range maps.Keys(a.Counters()) {
		h.Metrics().NewGauge("decaf_host_"+name, func() float64 { return float64(a.Counters()[name]) })
	}
}
