// Package packet reads and writes packet headers: flows (five-tuples), the
// headers of dropped packets, traceroute probes, and the ICMP errors that
// answer them.
//
// It is the only package that imports gopacket, so that a swap is one import.
// gopacket builds the packets we send, with layers of our own (probe.go says
// why). What we receive is read by hand: a
// dropped packet is often cut short or broken, which is why it was dropped, and
// gopacket decodes a header whole or not at all; the tests hold the two against
// each other on packets that are whole.
//
// The way through it: flow.go (Flow and its wire form), decode.go (headers of
// any packet, from the IP header on), encapsulation.go (the packet inside a tunnel, or
// inside several), probe.go (what the tracer sends),
// icmperror.go (what comes back), extension.go (RFC 4884 extension objects in
// it).
//
// What does not live here: sockets, timing and the pairing of probes with
// answers (package tracer).
package packet
