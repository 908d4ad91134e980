// Package topology knows the network: devices, hosts, their interfaces and the
// directed links between them, and what follows from these alone: which
// interface owns an address, which link leaves or enters an interface, and the
// set of equal-cost paths (ECMP set) between two hosts.
//
// # What lives here
//
//   - topology.go: the types, and [New], which checks and indexes them
//   - check.go: what makes a topology valid
//   - file.go, marshal.go: the YAML form, read by [Load] and [Parse], written by [Topology.Marshal]
//   - lines.go: the fast way in for what Marshal writes, of up to a million links
//   - clos.go: [Clos], which builds a Clos fabric of any size, with addresses of IPv4,
//     IPv6 or both
//   - index.go: look-ups by name, interface and address
//   - path.go: shortest paths, their number, and the share of each link in them
//   - shape.go: [Topology.ClosShape], which recognises a Clos by its links
//   - detection.go: [Detection], what votes can find on a Clos (007's Theorem 2),
//     and its trace budget
//   - learn.go: [Learn], which makes a topology of traced paths
//   - learnlasting.go: [Lasting], a topology that is in use while it is learned again
//   - compare.go: [Topology.Compare], which says what traced paths show of one
//   - command.go, summary.go: `decaf topology check` and `decaf topology clos`
//   - strictyaml: the strict YAML reader that this package and scenario files share
//
// # What does not
//
// Nothing here opens a socket or knows of drops, flows or findings. A topology
// is read-only once built and may be shared by any number of goroutines.
//
// # The way through
//
// Begin with [Topology], then [Topology.Paths]. Everything else of decaf names
// components as this package does: a device or host by its name, a directed
// link as "a>b", or "a:eth1>b:eth3" where two nodes share several links.
package topology
