// Package flow is the flow-level fabric: a Clos of any size on which scenarios
// run without privileges, without a kernel and in no time at all. Everything is
// drawn from a seed; the same scenario and seed give the same run, bit by bit.
//
// # What lives here
//
//   - graph.go: the Clos as numbers: nodes, directed links, routes, addresses,
//     computed rather than stored, so that a million links cost little; names and
//     numbering are those of topology.Clos
//   - fault.go: every fault kind of a scenario: where it acts, what it takes, what
//     a device says of it; active.go: when it is there
//   - dice.go: which packets die, per packet and link in path order
//   - pattern.go: who talks to whom; agents.go: which devices are instrumented,
//     and which of them lie
//   - bulk.go: [Fabric.Flows], the epoch form: flows, what they lost and where,
//     what devices saw; no records, no time within a flow
//   - fabric.go, schedule.go: [Fabric.Next], the record form: what agents send,
//     in time order
//   - tcp.go, trace.go, packet.go, record.go: the connections, traces and packets
//     behind these records
//   - truth.go: what really happened, for scoring only
//
// # What does not
//
// Nothing here draws conclusions, keeps time by a clock or does I/O. Scenario
// files are package scenario's; the file form of an epoch is package replay's.
//
// # The way through
//
// [New] takes a drawn scenario. Then either call [Fabric.Flows] for an epoch, or
// [Fabric.Next] until it says no, and then [Fabric.Truth].
//
// # What is modelled, and how
//
// A packet crosses its path link by link; on each, in this order, it may overflow
// the queue at the sending end, be lost on the wire, or be dropped by the device
// at the receiving end. The first that takes it is the truth. Each switch sends a
// flow to one of its next hops at random, as a good hash does. TCP is modelled as
// far as the kinds of retransmits and their times go, not its throughput.
//
// Addresses are those of topology.Clos, of IPv4, IPv6 or both. Inside they are the IPv4
// number and a flag, since every IPv6 address of a Clos goes with one.
package flow
