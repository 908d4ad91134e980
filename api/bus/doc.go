// Package bus carries evidence from its producers to whoever reads it, over
// NATS JetStream: what subjects are called (subject.go), how records become
// batches and bytes (record.go, batch.go, valid.go), how a producer sends them
// and keeps them while NATS is away (spool.go, merge.go, publisher.go), how they
// are read back (consume.go, position.go), who may do what (permission.go), the
// embedded server (server.go, auth.go), and the connection and streams all of
// it stands on (conn.go, streams.go), and what it counts (metrics.go).
//
// What records mean is no business of this package; it only checks that they
// are well formed and that a producer speaks for itself.
//
// # What is promised
//
// A record given to [Publisher.Publish] reaches every [Conn.Consume] at least
// once, in the producer's order, unless the spool overflowed, the record was
// unfit, or the producing process itself ended before its server had it on
// disk (the spool is in memory); the first two are counted, and what the spool
// left out is a hole in the producer's sequence numbers. Before it leaves anything
// out, a spool that fills merges its oldest flow records, those of the same
// connection, service or pair of hosts: what they count stays, over a longer
// time, and they too leave holes, which are counted apart. That holds while NATS
// is away, and also when NATS dies without warning: JetStream acknowledges
// evidence before it is on disk (at most 2 s before), so a publisher keeps
// what was acknowledged that recently and sends it again after a reconnect.
// Duplicates are dropped by batch id where both copies are near enough in
// time; a reader that must not count twice looks at the records' origin.
//
// Reports and findings in the KV buckets are on disk before they are
// acknowledged.
package bus
