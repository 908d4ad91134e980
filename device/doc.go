// Package device is the agent on a device that forwards packets: it learns of
// every packet the device drops, says in one vocabulary why, and serves that
// over gNMI.
//
// What lives here: where drops are seen (the Linux kernel's skb:kfree_skb),
// the tables that turn a source's reason into a class, the event sequence and
// the counters, the agent's configuration and command. What does not: the gNMI
// sessions (api/gnmi), the model (api/yang), packet headers (api/packet), and
// any conclusion from drops (correlator).
//
// The way through it, along a drop: program_linux.go is the eBPF program, with
// the running kernel's field offsets from offsets_linux.go; kernel_linux.go loads
// it and reads its ring buffer; record.go takes a record apart, its error numbers
// being those of errno.go; symbol_linux.go names the function that dropped, as
// function.go trims it; reason.go classifies, by the classes of class.go;
// direction.go finds ingress and egress, named by interfaces_linux.go; event.go
// makes the drop event; ledger.go counts and numbers; agent.go runs it all,
// config.go and command.go are its outside.
//
// source.go is the line between the two: the files named _linux are where drops
// are seen, all others build and are tested anywhere. Where there is no such
// source (source_other.go) the command is there all the same and says so.
package device
