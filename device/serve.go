package device

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"decaf/api/service"

	"golang.org/x/sync/errgroup"
)

// Serve runs the agents of a configuration, with their health endpoints, until
// ctx ends.
func Serve(ctx context.Context, cfg Config, log *slog.Logger) error {
	f, err := newFleet(cfg, log)
	if err != nil {
		return err
	}
	if err := f.open(); err != nil {
		return err
	}
	defer f.close()
	return service.RunAll(ctx, log, f.parts()...)
}

// fleet are the agents of one process: this device's own, and one for each
// switch that sends it sFlow.
type fleet struct {
	cfg      Config
	log      *slog.Logger
	own      *Agent // nil: this device has no source
	switches []*Agent
	listener *sflowListener // nil: none is opened

	blind     context.Context // ends when own turned out to see nothing
	turnBlind context.CancelFunc
}

// newFleet checks the configuration and reads the TLS files.
func newFleet(cfg Config, log *slog.Logger) (*fleet, error) {
	own, err := New(cfg, log)
	if err != nil {
		return nil, err
	}
	f := &fleet{cfg: cfg, log: log}
	f.blind, f.turnBlind = context.WithCancel(context.Background())
	process := new(meter)
	if cfg.own() {
		f.own = own
		own.share = process.join()
	}
	for _, s := range cfg.SFlow.Switches {
		a, err := newAgent(cfg.of(s), log)
		if err != nil {
			return nil, err
		}
		a.share = process.join()
		f.switches = append(f.switches, a)
	}
	return f, nil
}

// open opens the socket that the switches send to. Where that fails this
// device's own drops are still told of.
func (f *fleet) open() error {
	if f.cfg.SFlow.Listen == "" {
		return nil
	}
	l, err := openSFlow(f.cfg.SFlow, f.log)
	if err != nil {
		if f.own == nil {
			return err
		}
		f.log.Error("the sFlow source does not run: the drops of switches are not seen", "error", err)
		f.switches = nil // one without a source would show a switch that drops nothing
		return nil
	}
	f.listener = l
	for _, a := range f.switches {
		s, _ := l.device(a.cfg.Name) // made of the same configuration
		a.open = func() (*sources, error) { return &sources{remote: s}, nil }
	}
	return nil
}

// close closes what open opened and nothing ran.
func (f *fleet) close() {
	if f.listener != nil {
		f.listener.conn.Close()
	}
}

// parts are what runs. The listener ends after the switches' agents.
func (f *fleet) parts() []service.Part {
	health := service.NewHealth()
	out := []service.Part{{Name: "health", Run: func(ctx context.Context) error { return health.Serve(ctx, f.cfg.Health, f.log) }}}
	if f.listener != nil {
		f.listener.describe(health.Metrics())
		out = append(out, service.Part{Name: "sflow", Run: f.listener.run})
		for _, s := range f.listener.switches {
			s.describe(health.Metrics())
		}
	}
	for _, a := range f.switches {
		a.Describe(health.Metrics())
		health.Ready("gnmi "+a.cfg.Name, a.listening)
	}
	if len(f.switches) > 0 {
		out = append(out, service.Part{Name: "agents of switches", Run: f.runSwitches, Ready: func(ctx context.Context) error {
			for _, a := range f.switches {
				if err := a.ready(ctx); err != nil {
					return err
				}
			}
			return nil
		}})
	}
	if f.own != nil {
		f.own.Describe(health.Metrics())
		health.Ready("gnmi", func() error {
			if f.blind.Err() != nil {
				return nil
			}
			return f.own.listening()
		})
		out = append(out, service.Part{Name: "agent", Run: f.runOwn, Ready: func(ctx context.Context) error {
			ctx, stop := context.WithCancel(ctx)
			defer stop()
			defer context.AfterFunc(f.blind, stop)()
			if err := f.own.ready(ctx); f.blind.Err() == nil {
				return err
			}
			return nil
		}})
	}
	return out
}

// runSwitches runs the agents of all switches, which end at the same time: each may
// take a while over a subscriber that does not read.
func (f *fleet) runSwitches(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, a := range f.switches {
		group.Go(func() error { return a.Run(ctx) })
	}
	return group.Wait()
}

// runOwn runs this device's own agent. When it can see nothing here the switches
// are still spoken for.
func (f *fleet) runOwn(ctx context.Context) error {
	err := f.own.Run(ctx)
	if !errors.Is(err, errNoSource) || len(f.switches) == 0 {
		return err
	}
	f.log.Error("this device's own drops are not seen: it has no gNMI target, its switches have", "error", err)
	f.turnBlind()
	<-ctx.Done()
	return nil
}

// ready waits until the agent listens.
func (a *Agent) ready(ctx context.Context) error {
	if a.Addr(ctx) == nil {
		return ctx.Err()
	}
	return nil
}

// listening says whether the agent listens by now.
func (a *Agent) listening() error {
	// An address at once, or none: a context that is over does not wait.
	over, cancel := context.WithDeadline(context.Background(), time.Unix(0, 0))
	defer cancel()
	if a.Addr(over) == nil {
		return errors.New("not listening yet")
	}
	return nil
}
