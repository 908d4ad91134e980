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

topology names the file of the network. Where there is none, write learned: then
the surveys of host agents ("decaf agents config set all survey=…") tell of it.
The service starts with what was in use before, else with the stored surveys,
else with nothing but the hosts that are heard of, and takes up by itself what surveys
show by then: once that has been the same for half a minute, at most once a
minute and rarer where it goes on changing. Findings, reports and evidence stay. A link that is not shown any more
goes after two days. Where the topology comes from is in the log and stands at the
head of what "decaf links" and the page could not tell; "decaf topology learn" says
what it lacks. Devices are named by an address and none is asked for its drops:
evidence is that of hosts alone. Every host with a certificate of the site's
authority may connect and has a say in it, as no file lists them. site is then
that of the host agents ("default" unless given), and traces per second and host
follow the topology as soon as it is a regular Clos.

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
  decaf serve --config serve.yaml

  # of a network that no file describes
  cat > serve.yaml <<END
  topology: learned
  data: /var/lib/decaf
  nats: {listen: "192.0.2.10:4222", tls: {ca: ca.pem, cert: nats.pem, key: nats-key.pem}}
  END
  decaf serve --config serve.yaml &
  decaf agents config set all survey=10m,10.0.0.2:22,10.0.1.2:22,99%`,
	})
}

// LoadConfig reads a configuration file over the defaults, then the
// environment (DECAF_…), and validates.
func LoadConfig(file string) (Config, error) {
	cfg := DefaultConfig()
	err := service.LoadConfig(file, &cfg, "DECAF")
	return cfg, err
}
