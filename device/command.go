package device

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"decaf/api/service"

	"github.com/spf13/cobra"
)

// Command is `decaf device`.
func Command() *cobra.Command {
	return service.Daemon[Config]{
		Load: LoadConfig,
		Log:  func(c Config) service.LogConfig { return c.Log },
		Check: func(c Config, log *slog.Logger) error {
			_, err := newFleet(c, log) // reads the TLS files
			return err
		},
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
each so often while they go on, and a transition when they stopped.

What is different for a class, and for all below it, stands under classes:

  classes:
    policy/l3/acl: {deduplicate: 10s}    # one event per flow and 10 s
    no-buffer: {threshold: 100}          # few events, and aggregates
    errors/l2: {ignore: true}            # counted, never reported

A fuse keeps the agent from harming the device: above a budget (fuse.cpu in
cores, fuse.memory_bytes, fuse.events a second, fuse.queue as a share) the class
that makes most of the work is allowed less, step by step: full, sampled
(1 event in 16), aggregates, counters, off. After fuse.back_off of quiet it is
allowed more again. Each step is a transition.

What stands under report, classes, aggregates and fuse can be set while the agent
runs, over gNMI (Set on /loss/reporting, /loss/classes, /loss/fuse). It holds at
once, is kept beside the configuration file (device.yaml: device.settings.json),
and stands over it until it is deleted. So can filters for a planned path test
(/loss/filters): drops that match one have an event each, whatever the thresholds
say, with the filter's name; drops of other flows have none meanwhile, unless the
filter has only: false (anomalies, losses that show no packet, transitions and
aggregates go on). A filter must have an end-time, at which it removes itself.

Who may set is whom tls lets in with a certificate, anyone on loopback, or a user:

  users:
  - {name: noc, password_file: /etc/decaf/noc.password, write: true}

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
prefix as its reason. Each switch has a gNMI target of its own, with the same TLS
files, and appears as the device that it is named; what any other address sends is
refused. With kernel: false and no nflog.groups the agent speaks for switches alone.

A loss that only a counter shows is an event without a packet, with the prefixes
routed over its interface; what the kernel told of already is not told of again.
Each change of a route is in /loss/routes; one that flaps, and packets that go in a
circle, are events of class anomaly, which count no packets.

It watches the network namespace it runs in, and needs root, or the
capabilities CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, on Linux 5.17 or later with
BTF type information. For counters, routes and switches it needs none of that. On other systems
--check and --dump work, to prepare a configuration, and switches are spoken
for; this device's own agent says why it cannot run.

Every key of the configuration file can be given as an environment variable:
tls.cert is DECAF_TLS_CERT; classes and switches stand in the file alone. --dump
shows all keys with the values in force.`,
		Example: `  decaf device --config /etc/decaf/device.yaml
  decaf device --config device.yaml --check
  DECAF_NAME=p0-t1-0 DECAF_LISTEN=127.0.0.1:9339 decaf device`,
	})
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
