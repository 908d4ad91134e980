// Package hostagent is the agent on a server: it sees what this host's TCP had
// to send a second time, asks the tracer which way those packets go, and
// publishes both as Retransmit records.
//
// The way through it:
//
//   - kernel.go loads and attaches the programs of program.go, whose structure
//     offsets come from the running kernel's BTF (offsets.go), and reads their
//     ring buffer.
//   - event.go decodes what arrives there, kind.go names the kind of the
//     retransmit, clock.go turns the kernel's clock into UTC.
//   - rules.go decides what becomes of an event: ignored, recorded without a
//     trace and why, traced, or the later word that everything sent again had
//     arrived already.
//   - traces.go holds the book of one trace per flow and epoch, workers.go
//     runs the traces beside the event loop.
//   - counters.go counts everything, above all what was left out;
//     heartbeat.go says it every two seconds.
//   - agent.go wires these, config.go and command.go make it `decaf host`.
//
// What does not live here: how a path is found (package tracer), how records
// travel (api/bus), what they mean (package correlator). Evidence flows one
// way: the agent reads nothing that was concluded from its records.
package hostagent
