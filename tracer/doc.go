// Package tracer finds the path that a TCP flow takes, without disturbing the
// flow: 007's traceroute (NSDI 2018, section 4.2), which sends one probe per TTL
// with the flow's own five-tuple, all at once. And it finds all paths between two
// hosts, by the multipath detection algorithm (MDA).
//
// What makes the path that of the flow, and harmless:
//   - the probes carry the flow's five-tuple as it is on the wire, after what this
//     host's connection tracking, IPVS or a load balancer makes of it, so that
//     every router's hash picks for them what it picks for the flow; where that is
//     not known there is no trace, and the reason is counted;
//   - the TTLs end at the last switch before the destination when the distance
//     is known (from the topology, or from the TTL of packets that came in); where it
//     is not, a connection is traced hop by hop, up to the first that is silent, which
//     is asked twice. And the TCP checksum is wrong, so that a probe that reaches the
//     destination all the same is dropped unanswered;
//   - where something drops wrong checksums, which silence behind a hop suggests,
//     probes follow that are right and look like old segments of the connection;
//     they are sent only where the distance is known and where the connection
//     stands, and counted; whether they help is remembered for the destination;
//   - TTL and a nonce travel in the IP ID and the TCP sequence (for IPv6, which
//     has no ID, in the TCP sequence and acknowledgement), which every router must
//     quote: answers that do not name a live probe are counted and ignored, and
//     drops which our own probes cause can be told from the flow's;
//   - probes that stay unanswered are sent again after 2, 6, 14 and 30 ms, since
//     a path is asked for just when packets are being lost;
//   - the probes can leave in the caller's own step (Start), the farthest first,
//     and their answers are looked for without sleeping for a moment (Glance):
//     to be woken up takes a process longer than most answers;
//   - one token bucket for the whole host keeps the switches' ICMP budget; its tokens
//     come back at random moments, so that hosts which lost packets together do
//     not trace in step; a trace it refuses is "unseen" and says so.
//
// What makes it one path: a hop that answered late has its neighbours asked once
// more, so that a path which changed meanwhile shows; a TTL that two addresses
// answer for is asked four times more, which tells balancing packet by packet from
// a change; an address at two TTLs is a loop. All of these are PARTIAL and say why;
// no path is made up of two.
//
// The way through it:
//   - tracer.go: Tracer, who may trace; budget.go: how many, and when; cache.go: one
//     trace per flow and epoch; machine.go: the state of one trace (no sockets, the
//     clock is a parameter); identity.go: how a probe is marked and known again
//   - enumerate.go: all paths, on demand and on schedule (Survey); mda.go: the
//     algorithm, again without sockets and clock, and its result, Fan
//   - translate.go: what a flow is on the wire; conntrack.go and conntrack_linux.go
//     (ctnetlink), ipvs.go (/proc/net/ip_vs_conn), balancer.go (HTTP), tap_linux.go
//     (answers to what was given another destination)
//   - watch.go: what packets that come in tell, of which none wakes this process
//     up; checksums.go: who needs right checksums; receive.go, socket_linux.go,
//     wire_linux.go and neighbour_linux.go: the sockets; filter.go: the filter that
//     keeps other ICMP out
//   - command.go, print.go, picture.go, connected_linux.go: "decaf trace"
//
// What does not live here: when to trace and for whom (package hostagent), what
// an address on the path means, and how a topology is made of paths (package
// topology).
//
// Limits. On a host with several default routes the kernel picks the first link
// for a raw packet without looking at its ports; paths there may start on the wrong
// uplink. Routers that hash the IPv6 flow label need Request.FlowLabel. The way back
// may be longer than the way there: then the TTL of what comes in says too much, and
// probes reach the host. Connection tracking is asked about its default zone alone:
// what is translated in another looks untranslated. IPVS is read in the network
// namespace of the process, whatever that of the Tracer, and its format is known from
// the kernel's source only. An enumeration needs other source ports, so it is not
// made for a flow that this host translates.
package tracer
