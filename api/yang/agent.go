package yang

import (
	"time"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
)

// AgentState is who speaks, since when, and what it had to leave out.
type AgentState struct {
	Name              string // of the device
	BootID            uint64 // drawn at random at start
	Version           string
	StartedNs         uint64
	EventSource       string // how drops are seen: "tp_btf"
	Slots             uint64 // of the event ring
	Events            uint64 // sequence of the last event
	EventsLost        uint64 // drops not taken from the kernel in time; their class counts them
	DropsMissed       uint64 // drops of any namespace of its kernel that nobody looked at; no class counts them
	EventsLostQueue   uint64 // events not sent to slow subscribers
	DropsIgnored      uint64 // freed for a reason that is no loss, or on an interface left out
	DropsUnclassified uint64 // in class unknown because no rule knows the reason
	Subscribers       uint64

	Aggregates          uint64   // sequence of the last loss aggregate
	AggregatesMerged    uint64   // packets counted without their interfaces: too many aggregates at a time
	Transitions         uint64   // sequence of the last transition
	Fuse                string   // what it allows of the whole agent: "full"
	Unreported          []string // classes that neither events nor aggregates tell of, or only late
	DropsUncounted      uint64   // taken while the fuse was off for their class
	DuplicatesForgotten uint64   // flows forgotten before they stopped: too many
	CPU                 uint64   // thousandths of one core
	MemoryBytes         uint64
}

var agentLeaves = within("", []leaf[AgentState]{
	{name: "name", typ: String,
		getString: func(a *AgentState) string { return a.Name },
		setString: func(a *AgentState, v string) error { a.Name = v; return nil }},
	{name: "boot-id", typ: Uint64, always: true,
		getUint: func(a *AgentState) uint64 { return a.BootID },
		setUint: func(a *AgentState, v uint64) { a.BootID = v }},
	{name: "version", typ: String,
		getString: func(a *AgentState) string { return a.Version },
		setString: func(a *AgentState, v string) error { a.Version = v; return nil }},
	{name: "started", typ: Uint64, always: true,
		getUint: func(a *AgentState) uint64 { return a.StartedNs },
		setUint: func(a *AgentState, v uint64) { a.StartedNs = v }},
	{name: "event-source", typ: String,
		getString: func(a *AgentState) string { return a.EventSource },
		setString: func(a *AgentState, v string) error { a.EventSource = v; return nil }},
	{name: "slots", typ: Uint64, always: true,
		getUint: func(a *AgentState) uint64 { return a.Slots },
		setUint: func(a *AgentState, v uint64) { a.Slots = v }},
	{name: "events", typ: Uint64, always: true,
		getUint: func(a *AgentState) uint64 { return a.Events },
		setUint: func(a *AgentState, v uint64) { a.Events = v }},
	{name: "events-lost", typ: Uint64, always: true,
		getUint: func(a *AgentState) uint64 { return a.EventsLost },
		setUint: func(a *AgentState, v uint64) { a.EventsLost = v }},
	{name: "drops-missed", typ: Uint64, always: true,
		getUint: func(a *AgentState) uint64 { return a.DropsMissed },
		setUint: func(a *AgentState, v uint64) { a.DropsMissed = v }},
	{name: "events-lost-queue", typ: Uint64, always: true,
		getUint: func(a *AgentState) uint64 { return a.EventsLostQueue },
		setUint: func(a *AgentState, v uint64) { a.EventsLostQueue = v }},
	{name: "drops-ignored", typ: Uint64, always: true,
		getUint: func(a *AgentState) uint64 { return a.DropsIgnored },
		setUint: func(a *AgentState, v uint64) { a.DropsIgnored = v }},
	{name: "drops-unclassified", typ: Uint64, always: true,
		getUint: func(a *AgentState) uint64 { return a.DropsUnclassified },
		setUint: func(a *AgentState, v uint64) { a.DropsUnclassified = v }},
	{name: "subscribers", typ: Uint64, always: true,
		getUint: func(a *AgentState) uint64 { return a.Subscribers },
		setUint: func(a *AgentState, v uint64) { a.Subscribers = v }},
	{name: "aggregates", typ: Uint64, always: true,
		getUint: func(a *AgentState) uint64 { return a.Aggregates },
		setUint: func(a *AgentState, v uint64) { a.Aggregates = v }},
	{name: "aggregates-merged", typ: Uint64, always: true,
		getUint: func(a *AgentState) uint64 { return a.AggregatesMerged },
		setUint: func(a *AgentState, v uint64) { a.AggregatesMerged = v }},
	{name: "transitions", typ: Uint64, always: true,
		getUint: func(a *AgentState) uint64 { return a.Transitions },
		setUint: func(a *AgentState, v uint64) { a.Transitions = v }},
	{name: "fuse", typ: String,
		getString: func(a *AgentState) string { return a.Fuse },
		setString: func(a *AgentState, v string) error { a.Fuse = v; return nil }},
	{name: "unreported", typ: Strings,
		getStrings: func(a *AgentState) []string { return a.Unreported },
		setStrings: func(a *AgentState, v []string) error { a.Unreported = v; return nil }},
	{name: "drops-uncounted", typ: Uint64, always: true,
		getUint: func(a *AgentState) uint64 { return a.DropsUncounted },
		setUint: func(a *AgentState, v uint64) { a.DropsUncounted = v }},
	{name: "duplicates-forgotten", typ: Uint64, always: true,
		getUint: func(a *AgentState) uint64 { return a.DuplicatesForgotten },
		setUint: func(a *AgentState, v uint64) { a.DuplicatesForgotten = v }},
	{name: "cpu", typ: Uint64, always: true,
		getUint: func(a *AgentState) uint64 { return a.CPU },
		setUint: func(a *AgentState, v uint64) { a.CPU = v }},
	{name: "memory", typ: Uint64, always: true,
		getUint: func(a *AgentState) uint64 { return a.MemoryBytes },
		setUint: func(a *AgentState, v uint64) { a.MemoryBytes = v }},
})

// AgentUpdates returns the state as a notification with prefix
// /loss/agent/state.
func AgentUpdates(a AgentState, now time.Time) *gnmipb.Notification {
	return &gnmipb.Notification{
		Timestamp: now.UnixNano(),
		Prefix:    statePath("agent", "", "", ""),
		Update:    encode(nil, agentLeaves, &a),
	}
}

// DecodeAgent reads a notification of AgentUpdates, in any encoding. It
// reports false, without error, for a notification about something else.
// Leaves that the notification does not hold are zero.
func DecodeAgent(n *gnmipb.Notification) (*AgentState, bool, error) {
	a := &AgentState{}
	_, is, err := decode(n, "agent", "", "", func(path []*gnmipb.PathElem, v *gnmipb.TypedValue) error {
		if len(path) == 1 {
			if l := find(agentLeaves, path[0].GetName()); l != nil {
				return l.set(a, v)
			}
		}
		return nil
	})
	if err != nil || !is {
		return nil, is, err
	}
	return a, true, nil
}
