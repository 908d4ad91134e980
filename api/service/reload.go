package service

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
)

// errReload is the cause of the end of what is begun again with other settings.
var errReload = errors.New("other settings are put in force")

// readyKey is of the func() in a context that [RunAll] calls once all is up.
type readyKey struct{}

// serve runs the daemon until ctx is done. With each hangup the configuration is
// read anew. One that differs is put in force by stopping in order and beginning
// again; with one that is wrong, does not come up, or needs privileges that were
// given up, the settings before it hold.
func (d Daemon[C]) serve(ctx context.Context, file string, cfg C, log *slog.Logger, hangup <-chan os.Signal) error {
	type settings struct {
		cfg C
		log *slog.Logger
	}
	now := settings{cfg, log}
	var before *settings // to go back to, while now is not up
	var given capabilities
	for {
		own, end := context.WithCancelCause(ctx)
		up, done := make(chan struct{}), make(chan error, 1)
		served := now
		go func() {
			done <- d.Serve(context.WithValue(own, readyKey{}, func() { close(up) }), served.cfg, served.log)
		}()
		var next *settings
		var err error
		asked := hangup // nil once the end has begun: the next one waits
	wait:
		for {
			select {
			case err = <-done:
				break wait
			case <-up:
				up, before = nil, nil
				given |= d.giveUp(file, now.cfg, now.log)
			case <-asked:
				cfg, log, rerr := d.load(file)
				switch {
				case rerr != nil:
					now.log.Error("the configuration is wrong: the settings before it hold", "error", rerr)
				case same(now.cfg, cfg):
					now.log.Info("the configuration is as it was")
				case d.lacks(cfg, given) != 0:
					now.log.Error("the new settings need privileges that were given up: the settings before them hold until a restart", "privileges", d.lacks(cfg, given).String())
				default:
					now.log.Info("the configuration has changed: beginning again")
					next, asked = &settings{cfg, log}, nil
					end(errReload)
				}
			}
		}
		end(nil)
		switch {
		case ctx.Err() != nil:
			return err
		case next != nil:
			if err != nil {
				now.log.Warn("did not stop in order", "error", err)
			}
			before, now = &settings{now.cfg, now.log}, *next
		case before != nil:
			before.log.Error("could not begin with the new settings: going back to those before", "error", err)
			before, now = nil, *before
		default:
			return err
		}
	}
}

// giveUp gives up what the daemon does not need now that it is up; it returns what.
func (d Daemon[C]) giveUp(file string, cfg C, log *slog.Logger) capabilities {
	if d.Needs == nil {
		return 0
	}
	n := d.Needs(cfg)
	if file != "" {
		n.Read = append(n.Read, file)
	}
	return giveUp(n, log)
}

// lacks tells which of the privileges given up a configuration needs.
func (d Daemon[C]) lacks(cfg C, given capabilities) capabilities {
	if given == 0 {
		return 0
	}
	return given & capabilitySet(d.Needs(cfg).Capabilities)
}

// load reads the settings and makes their logger.
func (d Daemon[C]) load(file string) (cfg C, log *slog.Logger, err error) {
	if cfg, err = d.Load(file); err != nil {
		return cfg, nil, err
	}
	log, err = d.logger(cfg)
	return cfg, log, err
}

// same says whether two configurations are the same when written down.
func same[C any](a, b C) bool {
	x, errA := DumpConfig(a)
	y, errB := DumpConfig(b)
	return errA == nil && errB == nil && bytes.Equal(x, y)
}
