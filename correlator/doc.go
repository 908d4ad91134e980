// Package correlator turns evidence into findings and verdicts: it says which
// link or device lost the packets, from what hosts and devices report.
//
// # What lives here
//
// Pure engines, with no I/O and the clock a parameter:
//
//   - dedupe.go: what was seen before, and what never came (sequence gaps)
//   - store.go, flow.go, drop.go, traffic.go: the bounded index of evidence;
//     suppressed.go, flap.go, hostlog.go: what devices only count, what they say of
//     routes, and how hosts' connections went
//   - conntables.go, conntable.go, connpart.go: what hosts tell of each connection and
//     service, for people to look at (connquery.go, connrows.go); nothing is
//     concluded from it
//   - learned.go: hosts' surveys of equal-cost paths, and the topology they show
//   - probe.go: our own probes' drops are never evidence
//   - wire.go: packets as a tunnel or a translation made them look
//   - losstime.go: when a packet was lost that was sent again
//   - tailprobe.go: a lone tail loss probe counts half
//   - route.go, trail.go: from a trace's addresses to directed links, and to who
//     was alive
//   - pathset.go: the ECMP set between two hosts, and the share of a link in it
//   - component.go: links, devices and hosts by name
//   - lag.go: how long to wait for a device's word
//   - join.go: a device's drop and a host's retransmit are one loss
//   - window.go, method.go: the evidence of one window, and what a method of
//     blame makes of it
//   - fused.go, view.go, network.go: the default, inference from all evidence at
//     once (package blame), fed with what changed since the last step
//   - timing.go: when a window's evidence was, in the terms of package blame
//   - congestion.go: does a queue overflow, or is the link at fault?
//   - unseen.go: the class of losses that no device told of
//   - vote.go: 007's votes and Algorithm 1
//   - rule.go: what a voted link must show before it is named
//   - device.go: components that devices themselves accuse
//   - down.go, handshake.go: devices that have gone, or swallow SYNs
//   - host.go: hosts in trouble of their own
//   - find.go: findings over time
//   - report.go: the verdict on a fault report
//   - epoch.go: the record of closed epochs
//   - late.go: evidence of a time that the live window has left behind
//   - engine.go: all of these in order, one step at a time
//
// Adapters around them:
//
//   - collector.go: gNMI subscriptions to devices, published onto the bus
//   - agents.go, witness.go: who has been heard of, and whose silence means something
//   - restore.go, saver.go: findings, verdicts and surveys out of their buckets and
//     into them
//   - seen.go: how far evidence has been looked at, by this run or the one before
//   - correlator.go: bus, key-value buckets and the tick
//   - backend.go: what the API shows
//   - metrics.go: what /metrics shows
//
// # What does not
//
// How evidence is gathered (packages device, hostagent, tracer), how it travels
// (api/bus), how it is shown (api). Nothing concluded here is ever fed back in
// as evidence.
//
// # Congestion
//
// Components are named by how much was lost, whatever the times; times then say
// whether a link loses for a moment, see [blame.Options]. Whether that is congestion,
// a finding of class no-buffer, is told by how the lost packets followed one another,
// and by devices that would have told of it ([CongestionRule]). Without a sign of either
// what has passed was congestion, what lasts is a fault, and what has begun just now is of
// class unknown; the decision trace says so. So is a fault of which no device would have
// told; one whose devices tell of all that they drop, and told of nothing, is silent.
//
// # The topology
//
// There is always one, and a correlator keeps it to its end: a file that people wrote,
// one of containerlab, one that `decaf trace HOST:PORT --all-paths --learn FILE` made of
// what it found, or what surveys show of a network without a file. Of that more is
// learned while it is in use; then another correlator follows (package serve).
//
// # The way through
//
// Begin with [Engine.Step], which names the rules in the order they are applied.
package correlator
