// Package tracer finds the path that a TCP flow takes, without disturbing the
// flow: 007's traceroute (NSDI 2018, section 4.2), which sends one probe per TTL
// with the flow's own five-tuple, all at once.
//
// What makes the path that of the flow, and harmless:
//   - the probes carry the flow's five-tuple, so that every router's hash picks
//     for them what it picks for the flow;
//   - the TTLs end at the last switch before the destination when the distance
//     is known, and the TCP checksum is wrong, so that a probe that reaches the
//     destination all the same is dropped unanswered;
//   - TTL and a nonce travel in the IP ID and the TCP sequence (for IPv6, which
//     has no ID, in the TCP sequence and acknowledgement), which every router must
//     quote: answers that do not name a live probe are counted and ignored, and
//     drops which our own probes cause can be told from the flow's;
//   - probes that stay unanswered are sent again after 2, 6, 14 and 30 ms, since
//     a path is asked for just when packets are being lost;
//   - one token bucket for the whole host keeps the switches' ICMP budget; a
//     trace it refuses is "unseen" and says so.
//
// The way through it: tracer.go (Tracer: who may trace, when), machine.go (the
// state of one trace; no sockets, the clock is a parameter), identity.go (how a
// probe is marked and known again), cache.go (one trace per flow and epoch),
// receive.go and socket_linux.go (one raw sender and one ICMP receiver per
// address family), filter.go (the socket filter that keeps other ICMP out),
// command.go ("decaf trace").
//
// What does not live here: when to trace and for whom (package hostagent), what
// an address on the path means (package topology).
//
// Limits. On a host with several default routes the kernel picks the first link
// for a raw packet without looking at its ports; paths there may start on the wrong
// uplink. Routers that hash the IPv6 flow label need Request.FlowLabel.
package tracer
