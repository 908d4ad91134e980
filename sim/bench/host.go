package bench

import "github.com/spf13/pflag"

// hostBench is "decaf sim bench host".
var hostBench = bench{
	name:  "host",
	short: "Measure the host agent: what it costs a server that is busy, or loses packets",
	long: `Measure the host agent on a server in a network namespace of its own, a - r - b,
with the agent as a process in a and NATS beside it:

  - processor time (the process and the kernel's time in its programs), memory,
    bytes to NATS and probes a second, with 1,000 and 20,000 open connections and
    0, 100, 1,000 and 10,000 retransmits a second: thirty times --duration each up
    to 1,000 a second, ten times at 10,000;
  - of the connections, and of the bytes, that half of this machine's most would
    be, how many are delivered, agent off and on in turn (--pairs);
  - at 10,000 retransmits a second, what the agent could not read, trace or send, and
    over all of them how far its count of segments is off the kernel's;
  - more than 50,000 connections a minute that come and go (--churn): how many of
    them its tables counted, and its processor time.

The retransmits are real: half of what a sends is dropped at b. How many there were
is what the kernel counts. A machine that is busy otherwise makes figures worse.`,
	flags: func(f *pflag.FlagSet, o *Options) {
		f.DurationVar(&o.Churn, "churn", o.Churn, "of connections that come and go")
	},
	run: runHost,
}
