package device

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"decaf/api/service"
	"decaf/api/yang"

	"github.com/spf13/cobra"
)

// Command is `decaf device`.
func Command() *cobra.Command {
	fuse := DefaultConfig().Fuse
	cmd := service.Daemon[Config]{
		Load: LoadConfig,
		Log:  func(c Config) service.LogConfig { return c.Log },
		Check: func(c Config, log *slog.Logger) error {
			_, err := newFleet(c, log) // reads the TLS files
			return err
		},
		Needs: needs,
		Serve: Serve,
	}.Attach(&cobra.Command{
		Use:   "device",
		Short: "Run the agent on a switch, router or firewall: the packets it drops, and why",
		Long: `Run the agent on a device that forwards packets. It watches the packets that the
kernel drops, tells why in the classes of the IETF discard model, and serves
that over gNMI (model decaf-loss). It holds up no packet, and it sends nothing
unless a client subscribes.

It tells of drops in two streams. /loss/events has an event for each dropped
packet, as long as its class has less than report.threshold of them a second
(default 1000); above it the events of that class stop until the rate has been
under 80 % of the threshold for report.hold (2s). /loss/aggregates goes on
whatever happens: every report.interval (1s), by class and interface, how many
packets were dropped, how many had no event and why, and the flows and prefixes
that had most of them. /loss/transitions tells when a class crosses its
threshold. With report.deduplicate a flow has one event when its drops begin, one
about each so often while they go on (in a flood up to an eighth, or .1 s, later),
and a transition when they stopped.

What is different for a class, and for all below it, stands under classes:

  classes:
    policy/l3/acl: {deduplicate: 10s}    # one event per flow and 10 s
    no-buffer: {threshold: 100}          # few events, and aggregates
    errors/l2: {ignore: true}            # counted, never reported

A fuse keeps the agent from harming the device: above a budget the class that
makes most of the work is allowed less, step by step: full, sampled (1 event in
16), aggregates, counters, off. After fuse.back_off of quiet it is allowed more
again; each relapse doubles that, up to fuse.max_back_off. Each step is a
transition. The budget, of the process and all its agents, unless the file says
otherwise:

` + fuseDefaults(fuse) + `

At most aggregates.open (256) aggregates are open at a time, at some 100 kB each in
a flood; drops at further interfaces are counted, with their flows, in one for each
class that names no interface, and in aggregates-merged.

What stands under report, classes, aggregates and fuse, but for aggregates.open,
can be set while the agent runs, over gNMI (Set on /loss/reporting, /loss/classes,
/loss/fuse). It holds at once, is kept beside the configuration file (device.yaml:
device.settings.json), and stands over it until it is deleted. So can filters for a
planned path test (/loss/filters): drops that match one have an event each, whatever
the thresholds say, up to fuse.events a second, with the filter's name; in a flood
this holds for the first 8 filters by name. Drops of other flows have none meanwhile,
unless the filter has only: false (anomalies, losses that show no packet, transitions
and aggregates go on). A filter must have an end-time, at which it removes itself.

Who may set is whom tls lets in with a certificate, anyone on loopback, or a user:

  users:
  - {name: noc, password_file: /etc/decaf/noc.password, write: true}

A Get answers with 4 MiB at most, which is what gRPC clients take in one message;
the aggregates of a flood in full are more, and Get then ends with
RESOURCE_EXHAUSTED: subscribe with mode ONCE, or ask for a narrower path. A
subscriber that does not read loses the oldest events, is told how many (duplicates),
and ends with RESOURCE_EXHAUSTED when they are too many.

/healthz, /readyz and /metrics (Prometheus) are off unless health names a loopback
address for them (health: 127.0.0.1:9331).

Drops are seen in up to five ways, each of which can be switched off; one that
cannot run here says why in the log, and the others go on:

  kernel: true        # what this machine's kernel drops
  nflog:              # which firewall rule dropped it, by the prefix of its log
    groups: [12]
    classes: [{prefix: rate-, class: policy/l3/policer}]
  counters:           # losses that leave no packet: interfaces' errors, queues' drops
    interval: 1s      # 0s is off
  routes:             # changes of routes and neighbours, and those that flap:
    window: 1m        # 5 changes in a minute; 0s is off
    changes: 5
  sflow:              # what switches drop that send sFlow drop notifications
    listen: 192.0.2.10:6343
    switches:
    - {name: leaf1, listen: "127.0.0.1:9340", agent: 192.0.2.1, interfaces: {1: swp1}}

The agents of one kernel share one program in it, for which they need
cap_sys_admin; without that each has its own. A fuse that is off takes the agent's
namespace out of the program: what the kernel drops meanwhile is not counted.

With nft, a rule is logged by: log group 12 prefix "acl-12" drop. Its event has the
prefix as its reason. What a flood leaves without an event is of the class of the
rule that dropped it too: as rules count, where they do (counter log group 12 …),
else as they log, which is less exact while logs are lost. Each switch has a gNMI target of its own, with the same TLS
files, and appears as the device that it is named; what any other address sends is
refused. With kernel: false and no nflog.groups the agent speaks for switches alone.

A loss that only a counter shows is an event without a packet, with the prefixes
routed over its interface; what the kernel told of already is not told of again.
Each change of a route is in /loss/routes; one that flaps, and packets that go in a
circle, are events of class anomaly, which count no packets.

It watches the network namespace it runs in, and needs root, or the
capabilities CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, on Linux 5.17 or later with
BTF type information. For counters, routes and switches it needs none of that. Once
it is up it gives up all other privileges, for good, and says in the log what is
left; a change of the configuration that needs more takes a restart. On other systems
--check and --dump work, to prepare a configuration, and switches are spoken
for; this device's own agent says why it cannot run.

Every key of the configuration file can be given as an environment variable:
tls.cert is DECAF_TLS_CERT; classes and switches stand in the file alone. --dump
shows all keys with the values in force.`,
		Example: `  decaf device --config /etc/decaf/device.yaml
  decaf device --config device.yaml --check
  DECAF_NAME=p0-t1-0 DECAF_LISTEN=127.0.0.1:9339 decaf device
  decaf device --yang > decaf-loss.yang

` + clientExamples,
	})
	// What clients of the target need to know of it, without one that runs.
	var model bool
	cmd.Flags().BoolVar(&model, "yang", false, "print the YANG module "+yang.Module+", then exit")
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if model {
			_, err := io.WriteString(cmd.OutOrStdout(), yang.Text())
			return err
		}
		return run(cmd, args)
	}
	return cmd
}

// fuseDefaults are the fuse's settings as a configuration file has them.
func fuseDefaults(c FuseConfig) string {
	return fmt.Sprintf(`  fuse:
    cpu: %-18v # cores
    memory_bytes: %-9d # %d MiB
    events: %-15v # a second
    queue: %-16v # share of the room between kernel and agent
    back_off: %s
    max_back_off: %s`, c.CPU, c.MemoryBytes, c.MemoryBytes>>20, c.Events, c.Queue, c.BackOff, c.MaxBackOff)
}

// clientExamples are calls of gnmi_cli, which a test makes.
const clientExamples = `  # each drop as it happens; with TLS: -ca_crt FILE in place of -insecure, and
  # -client_crt FILE -client_key FILE, or -with_user_pass
  gnmi_cli -address 127.0.0.1:9339 -insecure -query /loss/events -query_type streaming

  # of one class few events, of another and all below it none, nor aggregates
  gnmi_cli -address 127.0.0.1:9339 -insecure -set -proto 'update {
    path { elem { name: "loss" } elem { name: "classes" } }
    val { json_ietf_val: "{\"class\": ["
      "{\"name\": \"no-buffer\", \"config\": {\"name\": \"no-buffer\"}, \"reporting\": {\"config\": {\"threshold\": \"100\"}}},"
      "{\"name\": \"errors/l2\", \"config\": {\"name\": \"errors/l2\"}, \"reporting\": {\"config\": {\"ignore\": true}}}]}" } }'

  # a planned path test: for ten minutes events of these packets alone
  gnmi_cli -address 127.0.0.1:9339 -insecure -set -proto 'replace {
    path { elem { name: "loss" } elem { name: "filters" } elem { name: "filter" key { key: "name" value: "test-1" } } }
    val { json_ietf_val: "{\"config\": {\"name\": \"test-1\", \"destination-prefix\": \"10.0.9.0/24\", \"protocol\": 17,"
      " \"dscp\": 46, \"end-time\": \"'$(($(date +%s) + 600))'000000000\"}}" } }'

  # what is set, and all of it taken back
  gnmi_cli -address 127.0.0.1:9339 -insecure -query /loss/filters,/loss/classes
  gnmi_cli -address 127.0.0.1:9339 -insecure -set -proto 'delete { elem { name: "loss" } }'`

// needs are those of the sources that are asked for: the kernel's program takes
// cap_bpf and cap_perfmon, and cap_sys_admin to be shared by all agents; the
// firewall's log and rules take cap_net_admin. A fuse that was off takes its source
// up again, and so does what begins with other settings.
func needs(c Config) service.Needs {
	n := service.Needs{Read: c.TLS.Files()}
	listen := []string{c.Listen, c.Health, c.SFlow.Listen}
	for _, s := range c.SFlow.Switches {
		listen = append(listen, s.Listen)
	}
	n.Capabilities = service.NeedsToListen(listen...)
	if c.Kernel {
		n.Capabilities = append(n.Capabilities, service.CapBPF, service.CapPerfmon, service.CapSysAdmin)
	}
	if c.Kernel || len(c.NFLOG.Groups) > 0 || c.Counters.Interval > 0 || c.Routes.Window > 0 {
		n.Capabilities = append(n.Capabilities, service.CapNetAdmin)
	}
	for _, u := range c.Users {
		n.Read = append(n.Read, u.PasswordFile)
	}
	if c.Settings != "" {
		n.Write = append(n.Write, filepath.Dir(c.Settings))
	}
	return n
}

// LoadConfig reads a configuration file over the defaults, then the
// environment (DECAF_…), and validates. A name that is given nowhere is the
// machine's own; settings that are given nowhere lie beside the file.
func LoadConfig(file string) (Config, error) {
	cfg := DefaultConfig()
	if name, err := os.Hostname(); err == nil {
		cfg.Name = name
	}
	err := service.LoadConfig(file, &cfg, "DECAF")
	if cfg.Settings == "" && file != "" {
		cfg.Settings = strings.TrimSuffix(file, filepath.Ext(file)) + ".settings.json"
	}
	return cfg, err
}
