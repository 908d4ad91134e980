// Package yang is the model of what a device says over gNMI about the packets
// it dropped: module decaf-loss (decaf-loss.yang, OpenConfig style), its schema
// as data that a gNMI target can walk, and the translation between
// decafpb.DropEvent and gNMI notifications, both ways.
//
// What lives here: the module's text, Schema, the encoders a device uses
// (EventUpdates, ClassUpdates, AgentUpdates) and the decoders a collector uses
// (DecodeEvent, DecodeClass, DecodeAgent). What does not: sessions,
// subscriptions and queues (package gnmi), and where events come from (package
// device).
//
// The way through it: schema.go has the tree, event.go, class.go and agent.go
// one table of leaves each, which the encoder, the decoder and the schema
// share; value.go reads and writes typed values; path.go takes paths apart.
//
//	/loss/events/event[slot=N]/state/…      one atomic notification per event
//	/loss/classes/class[name=C]/state/…     counters
//	/loss/agent/state/…                     who speaks, since when, what it lost
package yang
