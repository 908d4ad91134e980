package yang

import (
	"fmt"
	"strconv"

	"decaf/api/decafpb"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
)

// Transition is a change of how much an agent reports, or a flow of a
// de-duplicated class that is dropped no longer. It is no drop.
type Transition struct {
	Sequence uint64 // since the agent started, from 1
	BootID   uint64
	TimeNs   uint64
	Kind     string // "threshold", "fuse", "flow"
	Class    string // "" is the whole agent
	From, To string // "events", "aggregates"; "full" … "off"; "stopped"
	Cause    string // what was measured: see decaf-loss.yang for the units
	Measured uint64
	Limit    uint64
	Flow     *decafpb.Flow // of kind flow
}

func (t *Transition) flow() *decafpb.Flow {
	if t.Flow == nil {
		t.Flow = &decafpb.Flow{}
	}
	return t.Flow
}

// transition is a transition with its place in the ring.
type transition struct {
	Transition
	slot uint64
}

var transitionLeaves = within("", append([]leaf[transition]{
	{name: "slot", typ: Uint64, always: true,
		getUint: func(t *transition) uint64 { return t.slot },
		setUint: func(t *transition, v uint64) { t.slot = v }},
	{name: "sequence", typ: Uint64, always: true,
		getUint: func(t *transition) uint64 { return t.Sequence },
		setUint: func(t *transition, v uint64) { t.Sequence = v }},
	{name: "boot-id", typ: Uint64, always: true,
		getUint: func(t *transition) uint64 { return t.BootID },
		setUint: func(t *transition, v uint64) { t.BootID = v }},
	{name: "time", typ: Uint64, always: true,
		getUint: func(t *transition) uint64 { return t.TimeNs },
		setUint: func(t *transition, v uint64) { t.TimeNs = v }},
	{name: "kind", typ: String, always: true,
		getString: func(t *transition) string { return t.Kind },
		setString: func(t *transition, v string) error { t.Kind = v; return nil }},
	{name: "class", typ: String,
		getString: func(t *transition) string { return t.Class },
		setString: func(t *transition, v string) error { t.Class = v; return nil }},
	{name: "from", typ: String,
		getString: func(t *transition) string { return t.From },
		setString: func(t *transition, v string) error { t.From = v; return nil }},
	{name: "to", typ: String,
		getString: func(t *transition) string { return t.To },
		setString: func(t *transition, v string) error { t.To = v; return nil }},
	{name: "cause", typ: String,
		getString: func(t *transition) string { return t.Cause },
		setString: func(t *transition, v string) error { t.Cause = v; return nil }},
	{name: "measured", typ: Uint64, always: true,
		getUint: func(t *transition) uint64 { return t.Measured },
		setUint: func(t *transition, v uint64) { t.Measured = v }},
	{name: "limit", typ: Uint64, always: true,
		getUint: func(t *transition) uint64 { return t.Limit },
		setUint: func(t *transition, v uint64) { t.Limit = v }},
}, fiveTuple(func(t *transition) *decafpb.Flow { return t.Flow }, func(t *transition) *decafpb.Flow { return t.flow() })...))

// TransitionUpdates returns the transition as one atomic notification with its
// own timestamp, prefix /loss/transitions/transition[slot=N]/state.
func TransitionUpdates(t Transition, slot uint64) *gnmipb.Notification {
	return &gnmipb.Notification{
		Timestamp: int64(t.TimeNs),
		Prefix:    statePath("transitions", "transition", "slot", strconv.FormatUint(slot, 10)),
		Atomic:    true,
		Update:    encode(nil, transitionLeaves, &transition{t, slot}),
	}
}

// DecodeTransition reads a notification of TransitionUpdates, in any encoding.
// It reports false, without error, for a notification about something else. One
// without sequence, boot id or kind is an error.
func DecodeTransition(n *gnmipb.Notification) (*Transition, bool, error) {
	t := &transition{}
	slot, is, err := decode(n, "transitions", "transition", "slot", func(path []*gnmipb.PathElem, v *gnmipb.TypedValue) error {
		if len(path) == 1 {
			return setLeaf(transitionLeaves, path[0].GetName(), t, v)
		}
		return nil
	})
	if err != nil || !is {
		return nil, is, err
	}
	if t.Sequence == 0 || t.BootID == 0 || t.Kind == "" {
		return nil, true, fmt.Errorf("transition in slot %s has no sequence, boot-id or kind: subscribe to whole transitions", slot)
	}
	return &t.Transition, true, nil
}
