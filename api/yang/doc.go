// Package yang is the model of what a device says over gNMI about the packets
// it dropped: module decaf-loss (decaf-loss.yang, OpenConfig style), its schema
// as data that a gNMI target can walk, and the translation between drop events,
// loss aggregates and transitions and gNMI notifications, both ways.
//
// What lives here: the module's text, Schema, the encoders a device uses
// (EventUpdates, AggregateUpdates, RouteUpdates, TransitionUpdates, ClassUpdates,
// ReportingUpdates, AgentUpdates, and for what is set GeneralUpdates, FuseUpdates and
// FilterUpdates), the reader of what is set (ParseSettings) and the decoders a collector uses (DecodeEvent, DecodeAggregate, DecodeRoute,
// DecodeTransition, DecodeClass, DecodeReporting, DecodeAgent). What does not: sessions,
// subscriptions and queues (package gnmi), and where events come from (package
// device).
//
// The way through it: schema.go has the tree; event.go, aggregate.go, route.go,
// transition.go, class.go, reporting.go and agent.go tables of leaves, which the encoder, the decoder and the schema
// share; setting.go has those of what is set, whose types, ranges and patterns the
// structs in package model check, which ygot generates (go generate ./api/yang/...);
// value.go reads and writes typed values; path.go takes paths apart. openconfig.go
// has the few standard paths that are served of any device, openconfig_acl.go those
// of firewall rules.
//
//	/loss/events/event[slot=N]/state/…                 one atomic notification per event
//	/loss/aggregates/aggregate[slot=N]/state/…         the same per loss aggregate,
//	…/aggregate[slot=N]/flows/flow[rank=R]/state/…     with its top flows
//	…/aggregate[slot=N]/prefixes/prefix[rank=R]/state/…  and top prefixes
//	/loss/transitions/transition[slot=N]/state/…       a threshold crossed, a step of the fuse
//	/loss/routes/route[slot=N]/state/…                 a change of a route or a neighbour
//	/loss/classes/class[name=C]/state/…                counters
//	/loss/classes/class[name=C]/reporting/state/…      what is reported of it, what was left out
//	/loss/classes/class[name=C]/reporting/config/…     what was set for it and all below it
//	/loss/reporting/{config,state}/…                   what was set, and holds, for all classes
//	/loss/fuse/{config,state}/…                        what the agent may take
//	/loss/filters/filter[name=F]/{config,state}/…      for planned path tests, with an end
//	/loss/agent/state/…                                who speaks, since when, what it lost
package yang
