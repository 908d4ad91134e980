// Package gnmi is a gNMI target (server) engine: Capabilities, Get, Set and
// Subscribe ONCE, POLL and STREAM over any schema tree, with bounded rings of
// events beside sampled state, the history and depth extensions, and users. It
// knows nothing of packet loss: the schema and the values come from outside, and
// what may be set there is judged there.
//
// What lives here: sessions, paths and wildcards, encodings, modes and timers,
// queues and their limits, what a Set comes to, status codes. What does not: the
// model (package yang), where values come from and what settings do (package
// device), and clients.
//
// The way through it: target.go is the adapter to gRPC and holds the events,
// login.go says who may call; capabilities.go, get.go and set.go answer their
// calls; subscribe.go checks a subscription, qos.go marks its packets and stream.go
// serves it. Underneath, without I/O: path.go (wildcards and levels against the
// schema), extension.go (history and depth), plan.go (what a subscription asks
// for), ring.go (the last events), queue.go (one subscriber's backlog), select.go
// (the leaves a path asks for), settings.go (the tree that a Set changes),
// encode.go and tree.go (values), wire.go (the bytes of an answer), frame.go
// (encode once, send to all).
//
// Three kinds of data. An event is an atomic notification handed to Publish; the
// engine keeps the last Config.Ring of each list, and every subscriber gets each
// once, in order, or learns that it was too slow: what it lost is told as
// duplicates of the next, and past a limit its stream ends. State is asked for
// when a subscriber's timer is due, so that for a slow one it coalesces by itself;
// one look serves all that come within a moment. What is set is state that
// subscribers see change, and go, at once (Changed). Nothing a subscriber does or
// fails to do makes memory grow or holds up Publish.
//
// That is so because a call holds next to nothing of its own. Who wants changes alone
// has a version of the state and the number of an event: what changed since is known
// once for all. What a subscriber is still to be sent of the events is in its queue,
// also of those that were there before it; and however many queues there are, no event
// is in any when Config.Queue of its list, or twice Config.Ring, came after it: who
// was to have it lost it. While state is sent to one that does not read, nobody holds
// the look that it is of: what is left of it comes from a later one. A path that is
// asked for twice in a call is looked at once. What went is remembered for those who
// wait for it, to a limit (maxGone), past which a stream that was not told ends.
//
// A Get is one message, of which gRPC clients take 4 MiB unless they are told to take
// more: an answer that is larger ends with RESOURCE_EXHAUSTED before it is made, and
// Subscribe ONCE has the same in parts. Large answers are made one at a time; one that
// its client does not read is held until its call ends.
//
// An event of many leaves is packed when it is no longer new: its updates in their
// PROTO form, a sixth of the room or less, which go to who wants all of it as they
// are, or in JSON value by value; who wants some of it has those decoded, and who
// wants nothing of it costs nothing.
//
// What many events to many subscribers cost is the messages of gRPC and the waking
// of everybody. So an event is written once, for each form in which somebody asks
// for it, before it is in anybody's queue; and a subscriber that was just sent
// events is woken for more a little later (Config.Gather), unless they are many.
// An event after a pause goes at once.
//
// At its end the target takes no new calls, sends what was published (for as long
// as Config.Drain) and ends each stream with UNAVAILABLE.
//
// A history request is served from the rings: a range has what happened in it,
// then sync_response; what was there before it is no part of it, and state has no
// past.
package gnmi
