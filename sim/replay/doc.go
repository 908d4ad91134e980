// Package replay reads and writes recorded evidence: JSON Lines with a topology,
// flows, drops and, for scoring, the truth. It is how blame is benchmarked, and how
// evidence from elsewhere comes in.
//
// # What lives here
//
//   - topology.go: nodes and directed links, names interned to numbers; also from a
//     topology file
//   - epoch.go: the evidence of one epoch, and its truth
//   - reader.go, line.go, scan.go: [Reader], the strict and fast way in: an unknown
//     field or a broken line is an error with its line number
//   - writer.go: [Writer], the way out, which [Reader] reads back equal
//   - fabric.go: evidence from the flow-level fabric
//   - score.go: precision, recall and flow accuracy, given blame and truth
//
// # What does not
//
// No inference: an engine takes an [Epoch], without its Truth, and gives components
// and causes.
//
// # The way through
//
// [NewReader], then [Reader.Next] for each epoch, so that a file of any length needs
// the memory of one epoch. The lines of a file:
//
//	{"topology":{"links":[["t0","s1"]],"hosts":{"h1":"t0"}}}
//	{"epoch":{"start_ns":0,"end_ns":30000000000}}
//	{"instrumented":{"device":"s1"}}
//	{"flow":{"src":"h1","dst":"h2","packets":57,"retransmits":1,"path":["h1","t0","s1","t4","h2"]}}
//	{"flow":{"src":"h1","dst":"h2","packets":80,"retransmits":0,"paths":[["h1","t0","s1","t4","h2"]]}}
//	{"flow":{"src":"h1","dst":"h2","packets":80,"retransmits":0}}
//	{"flow":{"src":"h1","dst":"h2","packets":57,"retransmits":2,"between_ns":[2100000000,2400000000]}}
//	{"drop":{"device":"s1","from":"t0","to":"t4","class":"no-buffer","count":3}}
//	{"truth":{"links":[["t0","s1"]],"devices":[],"hosts":[],"causes":[{"flow":17,"link":["t0","s1"]}]}}
//
// The topology comes first. Links are between switches and stand for both
// directions, given twice they are one; hosts name their ToR; no name has a ">". A path may stop early. A drop without a count is
// one packet. between_ns, of a flow's retransmits or of a drop, is when they were, from
// the first to the last, on the clock of the epochs; where it is not known it is left
// out. What follows an epoch line belongs to it; without one all is one
// epoch. Flow lines are counted from 1 through the whole file. Empty lines are
// passed over.
package replay
