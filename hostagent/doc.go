// Package hostagent is the agent on a server: it sees what this host's TCP had
// to send a second time, asks the tracer which way those packets go, and
// publishes both as Retransmit records. Beside these it counts what this host
// sent that arrived at once, and publishes it as FlowRecords: without them
// nobody could tell a busy link from a bad one.
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
//   - flowprogram.go are the programs that sample what sockets have sent: an
//     iterator over all of them, and the last word of each that is closed;
//     flowsample.go decodes a sample, flowkernel.go loads and reads.
//   - flowtable.go makes of these what was sent in an interval, each segment in
//     exactly one: a row per destination of the flows that sent nothing again,
//     and a record for each flow that did. flows.go runs it.
//   - counters.go counts everything, above all what was left out;
//     heartbeat.go says it every two seconds.
//   - agent.go wires these, in the network namespace that netns.go opens;
//     config.go and command.go make it `decaf host`.
//
// What does not live here: how a path is found (package tracer), how records
// travel (api/bus), what they mean (package correlator). Evidence flows one
// way: the agent reads nothing that was concluded from its records.
package hostagent
