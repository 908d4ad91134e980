// Package device is the agent on a device that forwards packets: it learns of
// every packet the device drops, says in one vocabulary why, and serves that
// over gNMI.
//
// What lives here: where drops are seen (the Linux kernel's skb:kfree_skb, real
// switches' sFlow, the firewall's log, the counters of interfaces and queues), where
// the device's routes change, the tables that turn a source's reason into a class, the two
// streams and what bounds them, the counters, the agent's configuration and
// command. What does not: the gNMI sessions (api/gnmi), the model (api/yang),
// packet headers (api/packet), and any conclusion from drops (correlator).
//
// The way through it, along a drop: program_linux.go is the eBPF program, with
// the running kernel's field offsets from offsets_linux.go; share_linux.go attaches
// it, or finds the one that another agent of this kernel attached; kernel_linux.go
// reads the agent's ring buffer; record.go takes a record apart, its error numbers
// being those of errno.go; symbol_linux.go names the function that dropped, as
// function.go trims it; reason.go classifies, by the classes of class.go, and ethertype.go what is no IP;
// direction.go finds ingress and egress, named by interfaces_linux.go; event.go
// makes the drop event. The files named sflow and nflog have their own way up to
// there, observed.go, as have counters.go and counters_linux.go: losses that leave
// no packet, with the prefixes that are routed over the interface (prefixes.go);
// acl.go the counters of firewall rules, which are told of as they are, and by which
// ruleshare.go divides what the kernel held back of a flood among the rules that
// dropped it: by what they count, or else by what they log.
// routes.go and routes_linux.go follow routes and neighbours, flap.go finds those that
// change again and again, loop.go the packets that go in a circle; anomaly.go
// publishes both. All of that hears the kernel by rtnetlink_linux.go,
// and takes its messages apart by attribute.go.
// sources.go opens what there is; of a packet that the kernel
// dropped and the firewall logged rulename.go makes one event. Then reporter.go decides what is told of it; ledger.go counts and
// numbers. agent.go runs it all for one device, serve.go the agents of one
// process: its own, and one for each switch that sends it sFlow. config.go,
// settings.go, users.go, metrics.go and command.go are its outside; override.go
// takes what clients set over gNMI, keeps it and puts it in force.
//
// For those who use it: `decaf device --yang` prints the module that clients need,
// `decaf device --help` the budgets that the fuse has unless the file says otherwise,
// and calls of gnmi_cli that subscribe, set a class's threshold, have a class
// ignored, and set a filter for a path test, which command_test.go makes:
//
//	gnmi_cli -address 127.0.0.1:9339 -insecure -query /loss/events -query_type streaming
//	gnmi_cli -address 127.0.0.1:9339 -insecure -set -proto 'update {
//	  path { elem { name: "loss" } elem { name: "classes" } }
//	  val { json_ietf_val: "{\"class\": [{\"name\": \"no-buffer\", \"config\": {\"name\": \"no-buffer\"},"
//	    "\"reporting\": {\"config\": {\"threshold\": \"100\"}}}]}" } }'
//
// Health endpoints and metrics are off unless health is given. Once all sources run,
// the process keeps only the privileges that it takes to open them again (needs in
// command.go).
//
// The reporter is made of engines without I/O that take the time as a
// parameter. threshold.go stops the events of a class that has too many;
// repetition.go thins out those of one flow; filter.go lets those of a planned path
// test through; aggregate.go counts, always, with
// the top flows and prefixes from heavy.go; unreported.go says what
// neither events nor these tell of; fuse.go allows a class less when the
// agent takes more than its budget, as usage.go measures it, with what the kernel keeps
// for the program (usage_linux.go), and divides it among the agents of a process. stream.go gives
// them the time and publishes what they say.
//
// A flood is bounded where it is seen: the kernel program has a bucket for each class,
// for all CPUs together, as large as the class's threshold needs; until the class of a
// cause (place, reason, interfaces, route, protocol) is known, the cause has one of its
// own on each CPU, so that of n causes on m CPUs n times m times as much may come up, at
// first. Rules of several classes that drop at one place have one bucket together. What
// matches one of the first 8 filters (kernelFilters) has a bucket besides, as large as
// the fuse's budget of events; of a class that is de-duplicated one more drop of a flow
// that came up a moment ago is held back before the bucket, so that a fast flow hides no
// other one: its last drop, and how many there were, the agent reads from the program. The
// program counts what it holds back, and
// what finds no room, so that counters and aggregates are whole all the same, but
// for what the kernel does not show it: a drop that an interrupt makes while the
// program looks at another one. Those the kernel counts, for all agents together
// (drops-missed). In neither count is what happens where the kernel runs no program at
// a tracepoint at all: some kernels run none while certain tasks have the processor,
// nor in the interrupts of these. Of the flows of what was held back it keeps a sketch
// (sketch.go), from which attribution.go has bounds that always hold; an aggregate says
// of how many packets the flow is not certain (unattributed).
//
// source.go is the line between the two: the files named _linux are where drops
// are seen, all others build and are tested anywhere. Where there is no such
// source (source_other.go) the command is there all the same and says so.
package device
