// Package yang is the model of what a device says over gNMI about the packets
// it dropped: module decaf-loss (decaf-loss.yang, OpenConfig style), its schema
// as data that a gNMI target can walk, and the translation between drop events,
// loss aggregates and transitions and gNMI notifications, both ways.
//
// What lives here: the module's text, Schema, the encoders a device uses
// (EventUpdates, AggregateUpdates, TransitionUpdates, ClassUpdates,
// ReportingUpdates, AgentUpdates) and the decoders a collector uses (DecodeEvent, DecodeAggregate,
// DecodeTransition, DecodeClass, DecodeReporting, DecodeAgent). What does not: sessions,
// subscriptions and queues (package gnmi), and where events come from (package
// device).
//
// The way through it: schema.go has the tree; event.go, aggregate.go,
// transition.go, class.go, reporting.go and agent.go tables of leaves, which the encoder, the decoder and the schema
// share; value.go reads and writes typed values; path.go takes paths apart.
//
//	/loss/events/event[slot=N]/state/…                 one atomic notification per event
//	/loss/aggregates/aggregate[slot=N]/state/…         the same per loss aggregate,
//	…/aggregate[slot=N]/flows/flow[rank=R]/state/…     with its top flows
//	…/aggregate[slot=N]/prefixes/prefix[rank=R]/state/…  and top prefixes
//	/loss/transitions/transition[slot=N]/state/…       a threshold crossed, a step of the fuse
//	/loss/classes/class[name=C]/state/…                counters
//	/loss/classes/class[name=C]/reporting/state/…      what is reported of it, what was left out
//	/loss/agent/state/…                                who speaks, since when, what it lost
package yang
