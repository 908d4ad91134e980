package hostagent

import (
	"log/slog"
	"os"

	"decaf/api/service"

	"github.com/spf13/cobra"
)

// Command is `decaf host`.
func Command() *cobra.Command {
	return service.Daemon[Config]{
		Load: LoadConfig,
		Log:  func(c Config) service.LogConfig { return c.Log },
		Check: func(c Config, log *slog.Logger) error {
			_, err := loadTopology(c, log)
			return err
		},
		Needs: needs,
		Serve: Serve,
	}.Attach(&cobra.Command{
		Use:   "host",
		Short: "Run the agent on a server: retransmits and the paths they took",
		Long: `Run the agent on a server. It watches what this host's TCP has to send a second
time, traces the way these packets go with the connection's own five-tuple, and
publishes both over NATS. It never looks at payload. A trace ends at the last
switch: how far that is the topology says, or the TTL of packets that come from
there. Where neither does (a connection older than the agent, to a host that the
topology does not have) it goes on switch by switch, and two probes at most, which
are dropped for their checksum, come as far as the other end.

Every flows.interval (5s) it also publishes how much was sent without loss: per
destination address the flows, packets and bytes. This tells busy links from bad
ones. An interval's end takes some 2 µs per open connection; flows: {enabled:
false} turns it off.

Every tables.interval (30s) it publishes what each connection did: bytes sent and
received, written and read by the application, round-trip times, retransmits,
windows, resets, and how those ended that did; and sums of these per address and
service port. tables: {enabled: false} turns it off.

trace.rate bounds the traces. Where it is 0, it is what 007's bound gives for the
topology: so many that no switch answers more than 100 probes a second.
trace.balancer names a load balancer to ask, over HTTP, what became of a connection
to one of its addresses: {url: "http://lb.example:8080/flow", networks: [10.9.0.0/16],
timeout: 200ms}. A flow that nobody can resolve is not traced, and counted.
survey: {every: 10m, to: ["10.0.1.1:443"], file: learnt.yaml} finds all equal-cost
paths there again and again, with what traces leave of the rate, and keeps what it
finds as a topology file.

While the agent runs, ` + "`decaf agents config set`" + ` changes the tables' interval,
leaves connections out or lists but a sample of them, and sets trace rate, balancer
and survey.

It watches the network namespace it runs in, and with namespaces: [all], or names
of them, others too: their flows are traced from where they are. It needs root, or
the capabilities CAP_BPF, CAP_PERFMON and CAP_NET_RAW, on Linux 5.12 or later with
BTF type information. Once it is up it gives up all other privileges; the log says
what is left. On a kernel without that, source: auto takes what there is: a classic
tracepoint, perf events, or asking for all sockets again and again (sock_diag). All
of them know less of each retransmit and of who owns a connection; sock_diag alone
knows neither errors nor resets of those that end. The heartbeat and
` + "`decaf agents`" + ` name the source in use, and what the kernel lacks of it ("tp_btf
without kfree_skb": nobody tells what this host drops itself). Where a privilege is
missing it says so and ends.

What is no evidence is left out by ignore_interfaces and ignore_networks: the
management network, for one, which carries the evidence itself.

While NATS is away, evidence waits in memory, up to 32 MiB; then the oldest counts
are merged and what is lost is counted. An agent that is stopped meanwhile waits 3 s
for NATS to come back, then says how many records it did not send.

Every key of the configuration file can be given as an environment variable:
nats.url is DECAF_NATS_URL. --dump shows all keys with the values in force.`,
		Example: `  decaf host --config /etc/decaf/host.yaml
  decaf host --config host.yaml --check
  DECAF_NAME=web1 DECAF_SITE=east DECAF_TOPOLOGY=east.yaml DECAF_NATS_URL=nats://127.0.0.1:4222 decaf host`,
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
