// Package gnmi is a gNMI target (server) engine: Capabilities, Get and
// Subscribe ONCE, POLL and STREAM over any schema tree, with a bounded ring of
// events beside sampled state. It knows nothing of packet loss: the schema and
// the values come from outside.
//
// What lives here: sessions, paths and wildcards, encodings, modes and timers,
// queues and their limits, status codes. What does not: the model (package
// yang), where values come from (package device), and clients.
//
// The way through it: target.go is the adapter to gRPC and holds the events;
// capabilities.go, get.go and set.go answer their calls; subscribe.go checks a
// subscription and stream.go serves it. Underneath, without I/O: path.go
// (wildcards against the schema), plan.go (what a subscription asks for),
// ring.go (the last events), queue.go (one subscriber's backlog), select.go
// (the leaves a path asks for), encode.go and tree.go (values), frame.go
// (encode once, send to all).
//
// Two kinds of data. An event is an atomic notification handed to Publish; the
// engine keeps the last Config.Ring of them, and every subscriber gets each
// once, in order, or learns that it was too slow. State is asked for when a
// subscriber's timer is due, so that for a slow one it coalesces by itself.
// Nothing a client does or fails to do makes memory grow or holds up Publish.
package gnmi
