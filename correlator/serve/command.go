package serve

import (
	"fmt"

	"github.com/spf13/cobra"

	"decaf/api/service"
)

// Command gives `decaf serve`.
func Command() *cobra.Command {
	var file string
	var check, dump bool
	cmd := &cobra.Command{
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
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg := DefaultConfig()
			if err := service.LoadConfig(file, &cfg, "DECAF"); err != nil {
				return err
			}
			if dump {
				text, err := service.DumpConfig(cfg)
				if err == nil {
					_, err = cmd.OutOrStdout().Write(text)
				}
				return err
			}
			log, err := service.Logger(cfg.Log.Level, cfg.Log.Format)
			if err != nil {
				return err
			}
			s, err := New(cfg, log)
			if err != nil {
				return err
			}
			if check {
				fmt.Fprintln(cmd.OutOrStdout(), "the configuration is good")
				return nil
			}
			ctx, stop := service.Signals(cmd.Context())
			defer stop()
			return s.Run(ctx)
		},
	}
	f := cmd.Flags()
	f.StringVar(&file, "config", "", "configuration file (YAML)")
	f.BoolVar(&check, "check", false, "check the configuration and the topology, then end")
	f.BoolVar(&dump, "dump", false, "print the settings in force, then end")
	return cmd
}
