package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// stopLimit is how long one part may take to stop before RunAll gives up on
// it and goes on to the next.
const stopLimit = 15 * time.Second

// Part is one thing a process runs. Every field but Name may be nil.
type Part struct {
	Name string
	// Start prepares the part and returns once the parts after it may use it.
	Start func(ctx context.Context) error
	// Run works until ctx is done. Its return before that, with or without
	// an error, ends the process.
	Run func(ctx context.Context) error
	// Ready blocks until what Run does can be used by the parts after it.
	Ready func(ctx context.Context) error
	// Stop undoes Start, after Run has returned. Its ctx ends after 15 s.
	Stop func(ctx context.Context) error
}

type running struct {
	part   Part
	cancel context.CancelFunc
	done   chan struct{} // closed when Run has returned; nil without Run
}

// RunAll starts parts in order, tells systemd that the service is ready,
// waits until ctx is done or a part dies, and stops the parts in reverse
// order, each one's Run before the next one's. It returns nil after an orderly
// end asked for by ctx, else what went wrong first, with what went wrong while
// stopping joined to it. A panic of a part is an error like any other, so that
// the others still stop in order; its stack goes to the log at debug level.
func RunAll(ctx context.Context, log *slog.Logger, parts ...Part) error {
	var (
		up    []*running
		cause error
		died  = make(chan error, len(parts))
	)
	for _, p := range parts {
		r, err := launch(ctx, log, p, died)
		if r != nil {
			up = append(up, r)
		}
		if err != nil {
			// Asked to end while starting: no failure.
			if ctx.Err() == nil || !errors.Is(err, context.Cause(ctx)) && !errors.Is(err, ctx.Err()) {
				cause = err
			}
			break
		}
		if ctx.Err() != nil || len(died) > 0 {
			break
		}
	}
	if cause == nil && ctx.Err() == nil {
		if len(died) == 0 {
			notify(log, daemon.SdNotifyReady)
			if ready, ok := ctx.Value(readyKey{}).(func()); ok {
				ready()
			}
		}
		select {
		case <-ctx.Done():
		case cause = <-died:
		}
	}
	if errors.Is(context.Cause(ctx), errReload) {
		notify(log, daemon.SdNotifyReloading+"\n"+daemon.SdNotifyMonotonicUsec())
	} else {
		notify(log, daemon.SdNotifyStopping)
	}
	errs := []error{cause}
	for i := len(up) - 1; i >= 0; i-- {
		errs = append(errs, up[i].stop(ctx, log))
	}
	// A part that died at the same time as the first one: worth a line too.
	for len(died) > 0 {
		if err := <-died; err != nil && cause == nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func launch(ctx context.Context, log *slog.Logger, p Part, died chan<- error) (*running, error) {
	log.Debug("starting", "part", p.Name)
	if p.Start != nil {
		if err := guard(log, func() error { return p.Start(ctx) }); err != nil {
			return nil, fmt.Errorf("start %s: %w", p.Name, err)
		}
	}
	// Not a child of ctx: a part runs on until its turn to stop comes.
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r := &running{part: p, cancel: cancel}
	if p.Run != nil {
		r.done = make(chan struct{})
		go func() {
			defer close(r.done)
			err := guard(log, func() error { return p.Run(own) })
			switch {
			case err != nil && own.Err() != nil && errors.Is(err, context.Canceled):
				// It says that it was asked to end.
			case err != nil:
				died <- fmt.Errorf("%s: %w", p.Name, err)
			case own.Err() == nil:
				died <- fmt.Errorf("%s ended without being asked to", p.Name)
			}
		}()
	}
	if p.Ready == nil {
		return r, nil
	}
	wait, stopWait := context.WithCancel(ctx)
	defer stopWait()
	ready := make(chan error, 1)
	go func() { ready <- guard(log, func() error { return p.Ready(wait) }) }()
	select {
	case err := <-ready:
		if err != nil {
			return r, fmt.Errorf("wait for %s to become ready: %w", p.Name, err)
		}
		return r, nil
	case <-r.done: // nil without Run, and then blocks
		stopWait()
		<-ready
		// What it died of is in died.
		return r, nil
	}
}

func (r *running) stop(ctx context.Context, log *slog.Logger) error {
	log.Debug("stopping", "part", r.part.Name)
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopLimit)
	defer cancel()
	r.cancel()
	if r.done != nil {
		select {
		case <-r.done:
		case <-limit.Done():
			return fmt.Errorf("stop %s: still running after %s", r.part.Name, stopLimit)
		}
	}
	if r.part.Stop != nil {
		if err := guard(log, func() error { return r.part.Stop(limit) }); err != nil {
			return fmt.Errorf("stop %s: %w", r.part.Name, err)
		}
	}
	return nil
}

func guard(log *slog.Logger, fn func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			log.Debug("panic", "value", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("internal error: %v: run with log level debug for where, and report it", p)
		}
	}()
	return fn()
}

func notify(log *slog.Logger, state string) {
	// Without systemd NOTIFY_SOCKET is unset and this does nothing.
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("cannot tell systemd", "state", state, "error", err)
	}
}

// Signals returns a context that ends with SIGINT or SIGTERM. After the first
// signal the default handling is back, so that a second one ends a process
// that will not stop. The caller must call the CancelFunc.
func Signals(ctx context.Context) (context.Context, context.CancelFunc) {
	out, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(out, stop)
	return out, stop
}

// hangups returns a channel of SIGHUPs. The caller must call the function.
func hangups() (<-chan os.Signal, func()) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGHUP)
	return c, func() { signal.Stop(c) }
}
