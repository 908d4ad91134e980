package serve

import (
	"context"
	"log/slog"
	"sync/atomic"

	"github.com/spf13/cobra"

	"decaf/api/service"
)

// Command gives `decaf serve`.
func Command() *cobra.Command {
	var running atomic.Pointer[Service]
	return service.Daemon[Config]{
		Load: LoadConfig,
		Log:  func(c Config) service.LogConfig { return c.Log },
		Check: func(c Config, log *slog.Logger) error {
			_, err := New(c, log) // loads the topology
			return err
		},
		Needs: func(c Config) service.Needs { return needs(c, running.Load()) },
		Serve: func(ctx context.Context, c Config, log *slog.Logger) error {
			s, err := New(c, log)
			if err != nil {
				return err
			}
			running.Store(s)
			return s.Run(ctx)
		},
	}.Attach(&cobra.Command{
		Use:   "serve",
		Short: "Run the service: collect evidence, find what is at fault, answer reports",
		Long: `Run the service: NATS (embedded unless nats.url is given), the correlator, the
HTTP API and its page.

It subscribes over gNMI to the devices of the topology, takes the evidence of
host agents over NATS, and keeps it in the data directory. Settings come from
the file, then from DECAF_… variables (DECAF_API_LISTEN for api.listen).

method says how links, devices and hosts are named as the cause of loss:
  fused  infers it from all evidence at once: the paths of flows that lost
         packets, loss-free traffic, what devices drop, and what they would have
         shown and did not. Findings carry a probability, the components that
         cannot be told apart, and why. The default.
  vote   counts 007's votes: each flow that lost packets spreads one over the
         links of its path. Simple to check by hand; needs more flows on a large
         network, and names neither devices nor hosts by hosts' evidence alone.

tables.max_bytes bounds the memory for what hosts tell of each connection and
service, which decaf flows and the page show: those that are over and quiet go
first, trouble stays longest. 64 MiB, the default, hold 120,000 connections that
are told of once, 20,000 that are for long; 0 keeps none. nats.max_bytes and
nats.max_age bound the evidence that is kept on disk.`,
		Example: `  decaf topology clos --pods 2 > topology.yaml
  cat > serve.yaml <<END
  topology: topology.yaml
  data: /var/lib/decaf
  method: fused
  END
  decaf serve --config serve.yaml`,
	})
}

// LoadConfig reads a configuration file over the defaults, then the
// environment (DECAF_…), and validates.
func LoadConfig(file string) (Config, error) {
	cfg := DefaultConfig()
	err := service.LoadConfig(file, &cfg, "DECAF")
	return cfg, err
}
