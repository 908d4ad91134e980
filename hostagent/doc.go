// Package hostagent is the agent on a server: it sees what this host's TCP had
// to send a second time, asks the tracer which way those packets go, and
// publishes both as Retransmit records. Beside these it counts what this host
// sent that arrived at once, and publishes it as FlowRecords: without them
// nobody could tell a busy link from a bad one.
//
// The way through it:
//
//   - source.go says how retransmits may be seen, and takes the best way there
//     is. That is kernel.go, which loads and attaches the programs of
//     program.go, whose structure offsets come from the running kernel's BTF
//     (offsets.go); read.go reads their ring buffer (ring.go). The lesser ways are one,
//     fallback_linux.go: sock_diag (diag_linux.go) in each network namespace
//     (diagspaces_linux.go), told where to look by classic tracepoints
//     (classic_linux.go) through programs (tracepoint_linux.go) or perf events
//     (perf_linux.go), or each second. How connections end these tell too
//     (endings.go).
//   - connevent.go are the programs that note on each socket what else happens
//     to it: states, errors, resets, reductions of its window, its process.
//   - localprogram.go tells what this host itself drops, local.go which
//     retransmits that explains. container.go names containers.
//   - spuriousprogram.go reads in what sockets that sent something again receive
//     the other end's word that it had it already, and looks at what the kernel
//     counts of that; spurious.go takes the records of these back, one by one.
//   - event.go decodes what arrives there, kind.go names the kind of the
//     retransmit, clock.go turns the kernel's clock into UTC. Over IPv6 a timeout
//     gives a flow another flow label, and routers may go by that: the event's is the
//     one with which the packets were lost. Where that is not known (a connection
//     older than the agent) the path is the later label's, and PARTIAL.
//   - rules.go decides what becomes of an event: ignored, recorded without a
//     trace and why, traced, or the later word that everything sent again had
//     arrived already.
//   - traces.go holds the book of one trace per flow and epoch, workers.go
//     has their first probes sent in the event loop and the rest done beside it.
//   - flowprogram.go are the programs that sample what sockets have done:
//     iterators over all of them and over those of which there is news, and the
//     last word of each connection that ends; flowsample.go decodes a sample,
//     flowkernel.go loads and reads, flowspaces.go goes through the network
//     namespaces. Where no programs can be loaded flowdiag_linux.go asks
//     sock_diag instead.
//   - flowtable.go makes of these what was sent in an interval, each segment in
//     exactly one: a row per destination of the flows that sent nothing again.
//     It says which flows are followed when there are too many.
//   - table.go holds what the patent's flow table and closed-connections table
//     do (US 10,778,507): a record for each connection, and sums per address
//     and service port. A record with a cookie is one connection; one with
//     flows and a port is such a sum; one with flows and no port is a row.
//     tablesettings.go says what is tracked. heldup.go tells ahead of an interval's
//     end what waits at closed windows. flows.go runs all four.
//   - remote.go follows what the agent is told while it runs (package
//     api/agentconfig): asked for with each heartbeat, and at once when it
//     hears of a change.
//   - counters.go counts everything, above all what was left out;
//     heartbeat.go says it every two seconds.
//   - tracers.go are the Tracers of this and other network namespaces, survey.go
//     has all equal-cost paths looked for on schedule, surveyrecord.go makes what
//     is found a record.
//   - agent.go wires these, in the network namespace that netns.go opens;
//     config.go and command.go make it `decaf host`.
//
// What a record of a connection tells is what tables 1 and 2 of the patent list, and
// what a sample shows besides at no cost worth measuring: this end's own window, how
// far round trips differ and the lowest of them, reordering, unanswered probes of a
// closed window, owner and duration. Of what Linux knows beyond that there are left
// out: the back-off of the timer (the probes, and the timeouts, say as much), when
// something was last sent or received (active says whether there was anything), the
// round trip seen as a receiver (without timestamps it is the time that a window
// takes), the inode (a reader would need the process's open files for it), how often
// the packets changed their path hash (a trace shows the path itself), and
// descriptions of the timeouts' episodes beyond their count.
//
// The lesser sources know less. Of how a connection ended sock_diag alone says that one
// was never established, so has failed, refused if it was answered; all others are
// closed. With classic tracepoints, through programs or perf events, there come error,
// resets and so the state terminated, each as far as the kernel has its tracepoint (the
// name of the source says which it lacks). What none of the three tells is reductions
// of the congestion window, names of processes and containers, what this host drops
// itself, flow labels, timestamps, and:
//
//   - when a connection that came and went between two looks was opened;
//   - what was sent since the last look on a connection whose owner had the kernel
//     forget it (SO_LINGER 0, a connect call that waits and fails); without tracepoints,
//     and if no look showed it, that there was one at all;
//   - the end of a connection whose owner keeps the dead socket for minutes, until it
//     is closed: by then it counts as vanished;
//   - the error of a socket that its owner had closed before; and which of two errors it
//     was where the owner, woken up by it, takes it before the tracepoint is reached:
//     a reset's is known, the rest is taken for a timeout.
//
// They watch network namespaces by their sockets there, each second and as they are
// closed; with all of them, those of processes and those with a name, found within 30
// seconds. With the agent's own there may be 1,024 (maxDiagSpaces), and those that are
// named come first; how many are not watched, for that or as they cannot be opened, is
// counted, and told when the reason changes. Such a socket keeps its namespace alive, so it is
// closed within a second of the last process or name that the namespace had. Classic
// tracepoints know no namespace: what is sent again is looked for where its address was
// seen; of two connections with the same addresses and ports the one whose counts went
// up did it, and for ends the socket's place in memory tells them apart, but for two
// errors at the same moment.
//
// What does not live here: how a path is found (package tracer), how records
// travel (api/bus), what they mean (package correlator). Evidence flows one
// way: the agent reads nothing that was concluded from its records.
package hostagent
