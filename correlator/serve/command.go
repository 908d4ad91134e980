package serve

import (
	"context"
	"log/slog"

	"github.com/spf13/cobra"

	"decaf/api/service"
)

// Command gives `decaf serve`.
func Command() *cobra.Command {
	return service.Daemon[Config]{
		Load: LoadConfig,
		Log:  func(c Config) service.LogConfig { return c.Log },
		Check: func(c Config, log *slog.Logger) error {
			_, err := New(c, log) // loads the topology
			return err
		},
		Serve: func(ctx context.Context, c Config, log *slog.Logger) error {
			s, err := New(c, log)
			if err != nil {
				return err
			}
			return s.Run(ctx)
		},
	}.Attach(&cobra.Command{
		Use:   "serve",
		Short: "Run the service: collect evidence, find what is at fault, answer reports",
		Long: `Run the service: NATS (embedded unless nats.url is given), the correlator, the
HTTP API and its page.

It subscribes over gNMI to the devices of the topology, takes the evidence of
host agents over NATS, and keeps it in the data directory. Settings come from
the file, then from DECAF_… variables (DECAF_API_LISTEN for api.listen).`,
		Example: `  decaf topology clos --pods 2 > topology.yaml
  cat > serve.yaml <<END
  topology: topology.yaml
  data: /var/lib/decaf
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
