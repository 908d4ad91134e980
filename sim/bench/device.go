package bench

import "github.com/spf13/pflag"

// deviceBench is "decaf sim bench device".
var deviceBench = bench{
	name:  "device",
	short: "Measure the device agent: what a flood of drops costs, and how soon an event is told",
	long: `Measure the device agent on a router between hosts in network namespaces of its own,
h1 - r - h2 and a sink, with the agent as a process in r:

  - a flood of drops while r forwards half of what it can: delivered of offered
    packets, agent off and on in turn (--pairs), the agent's processor time, and
    what the kernel program takes for a drop;
  - a long such flood (--flood) on one agent: its memory, and how that rises;
  - forwarding, unbounded, and one-way delay through r, while it drops 0, 1,000,
    100,000 and as many packets a second as it can, agent off and on in turn;
  - from a drop to a gNMI client's event: on a quiet device, and of a quiet class
    while another is flooded; an event that does not come counts as two seconds;
  - events a second to 1 and to 16 subscribers without loss, over mutual TLS and in
    plain text; beside 16 that read 10,000 a second one that never reads: how soon
    it is ended, and what the others miss;
  - flows of a flood as the aggregates tell of them, against what was sent;
  - sFlow drop notifications decoded a second, on one core.

The flood is of 300,000 drops a second, or of half of what this machine can. Figures
that a busy machine makes worse are worth something only on an idle one.`,
	flags: func(f *pflag.FlagSet, o *Options) {
		f.DurationVar(&o.Flood, "flood", o.Flood, "of the long flood on one agent")
	},
	run: runDevice,
}
