package device

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"time"

	"decaf/api/service"

	"github.com/spf13/cobra"
)

// Command is `decaf device`.
func Command() *cobra.Command {
	return service.Daemon[Config]{
		Load: LoadConfig,
		Log:  func(c Config) service.LogConfig { return c.Log },
		Check: func(c Config, log *slog.Logger) error {
			_, err := New(c, log) // reads the TLS files
			return err
		},
		Serve: Serve,
	}.Attach(&cobra.Command{
		Use:   "device",
		Short: "Run the agent on a switch, router or firewall: the packets it drops, and why",
		Long: `Run the agent on a device that forwards packets. It watches the packets that the
kernel drops, tells why in the classes of the IETF discard model, and serves
drop events and counters over gNMI (model decaf-loss). It holds up no packet,
and it sends nothing unless a client subscribes.

It watches the network namespace it runs in, and needs root, or the
capabilities CAP_BPF and CAP_PERFMON, on Linux 5.17 or later with BTF type
information. On other systems --check and --dump work, to prepare a
configuration; the agent itself ends at once and says why.

Every key of the configuration file can be given as an environment variable:
tls.cert is DECAF_TLS_CERT. --dump shows all keys with the values in force.`,
		Example: `  decaf device --config /etc/decaf/device.yaml
  decaf device --config device.yaml --check
  DECAF_NAME=p0-t1-0 DECAF_LISTEN=127.0.0.1:9339 decaf device`,
	})
}

// LoadConfig reads a configuration file over the defaults, then the
// environment (DECAF_…), and validates. A name that is given nowhere is the
// machine's own.
func LoadConfig(file string) (Config, error) {
	cfg := DefaultConfig()
	if name, err := os.Hostname(); err == nil {
		cfg.Name = name
	}
	err := service.LoadConfig(file, &cfg, "DECAF")
	return cfg, err
}

// Serve runs an agent with its health endpoints until ctx ends.
func Serve(ctx context.Context, cfg Config, log *slog.Logger) error {
	a, err := New(cfg, log)
	if err != nil {
		return err
	}
	health := service.NewHealth()
	a.Describe(health.Metrics())
	health.Ready("gnmi", func() error {
		// An address at once, or none: a context that is over does not wait.
		over, cancel := context.WithDeadline(ctx, time.Unix(0, 0))
		defer cancel()
		if a.Addr(over) == nil {
			return errors.New("not listening yet")
		}
		return nil
	})
	return service.RunAll(ctx, log,
		service.Part{Name: "health", Run: func(ctx context.Context) error { return health.Serve(ctx, cfg.Health, log) }},
		service.Part{Name: "agent", Run: a.Run, Ready: func(ctx context.Context) error {
			if a.Addr(ctx) == nil {
				return ctx.Err()
			}
			return nil
		}},
	)
}
