package yang

import (
	"fmt"
	"strconv"
	"strings"

	"decaf/api/decafpb"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
)

// maxNextHops bounds what a decoder takes of a leaf-list of next hops.
const maxNextHops = 256

// route is a route event with the numbers that only its device knows.
type route struct {
	*decafpb.RouteEvent
	slot, sequence, bootID uint64
}

var routeLeaves = within("", []leaf[route]{
	{name: "slot", typ: Uint64, always: true,
		getUint: func(r *route) uint64 { return r.slot },
		setUint: func(r *route, v uint64) { r.slot = v }},
	{name: "sequence", typ: Uint64, always: true,
		getUint: func(r *route) uint64 { return r.sequence },
		setUint: func(r *route, v uint64) { r.sequence = v }},
	{name: "boot-id", typ: Uint64, always: true,
		getUint: func(r *route) uint64 { return r.bootID },
		setUint: func(r *route, v uint64) { r.bootID = v }},
	{name: "time", typ: Uint64, always: true,
		getUint: func(r *route) uint64 { return r.TimeNs },
		setUint: func(r *route, v uint64) { r.TimeNs = v }},
	{name: "prefix", typ: String, always: true,
		getString: func(r *route) string { return prefixString(r.Prefix) },
		setString: func(r *route, v string) (err error) { r.Prefix, err = prefixOf(v); return err }},
	{name: "change", typ: String, always: true,
		getString: func(r *route) string { return changeWord(r.Change) },
		setString: func(r *route, v string) (err error) { r.Change, err = changeOf(v); return err }},
	{name: "old-next-hop", typ: Strings,
		getStrings: func(r *route) []string { return addressStrings(r.OldNextHops) },
		setStrings: func(r *route, v []string) (err error) { r.OldNextHops, err = addressList(v); return err }},
	{name: "new-next-hop", typ: Strings,
		getStrings: func(r *route) []string { return addressStrings(r.NewNextHops) },
		setStrings: func(r *route, v []string) (err error) { r.NewNextHops, err = addressList(v); return err }},
	{name: "changes", typ: Uint,
		getUint: func(r *route) uint64 { return uint64(r.Changes) },
		setUint: func(r *route, v uint64) { r.Changes = uint32(v) }},
	{name: "interface", typ: String,
		getString: func(r *route) string { return r.Interface },
		setString: func(r *route, v string) error { r.Interface = v; return nil }},
})

// RouteUpdates returns the route event as one atomic notification with its own
// timestamp, prefix /loss/routes/route[slot=N]/state. Origin is sent as that of
// an event is.
func RouteUpdates(ev *decafpb.RouteEvent, slot, bootID uint64) *gnmipb.Notification {
	return &gnmipb.Notification{
		Timestamp: int64(ev.GetTimeNs()),
		Prefix:    statePath("routes", "route", "slot", strconv.FormatUint(slot, 10)),
		Atomic:    true,
		Update:    encode(nil, routeLeaves, &route{RouteEvent: ev, slot: slot, sequence: ev.GetOrigin().GetSeq(), bootID: bootID}),
	}
}

// DecodeRoute turns a notification of RouteUpdates, in any encoding, back. It
// reports false, without error, for a notification about something else. Origin
// is filled as DecodeEvent does. One without sequence, boot id, prefix or change is
// an error, as are values of the wrong type or range.
func DecodeRoute(n *gnmipb.Notification) (*decafpb.RouteEvent, bool, error) {
	r := &route{RouteEvent: &decafpb.RouteEvent{}}
	slot, is, err := decode(n, "routes", "route", "slot", func(path []*gnmipb.PathElem, v *gnmipb.TypedValue) error {
		if len(path) == 1 {
			return setLeaf(routeLeaves, path[0].GetName(), r, v)
		}
		return nil
	})
	if err != nil || !is {
		return nil, is, err
	}
	if r.sequence == 0 || r.bootID == 0 || r.Prefix == nil || r.Change == decafpb.RouteChange_ROUTE_CHANGE_UNSPECIFIED {
		return nil, true, fmt.Errorf("route in slot %s has no sequence, boot-id, prefix or change: subscribe to whole route changes", slot)
	}
	r.Origin = &decafpb.Origin{Producer: n.GetPrefix().GetTarget(), BootId: r.bootID, Seq: r.sequence}
	return r.RouteEvent, true, nil
}

const changePrefix = "ROUTE_CHANGE_"

// changeWord is the module's word for a change: that of the wire schema in small
// letters.
func changeWord(c decafpb.RouteChange) string {
	return strings.ToLower(strings.TrimPrefix(c.String(), changePrefix))
}

func changeOf(word string) (decafpb.RouteChange, error) {
	n, ok := decafpb.RouteChange_value[changePrefix+strings.ToUpper(word)]
	if !ok || n == 0 {
		return 0, fmt.Errorf("%q is no change of a route: want withdrawn, changed or flapping", word)
	}
	return decafpb.RouteChange(n), nil
}

func addressStrings(list [][]byte) []string {
	var out []string
	for _, b := range list {
		if s := addressString(b); s != "" {
			out = append(out, s)
		}
	}
	return out
}

func addressList(list []string) ([][]byte, error) {
	if len(list) > maxNextHops {
		return nil, fmt.Errorf("%d next hops are more than %d", len(list), maxNextHops)
	}
	var out [][]byte
	for _, s := range list {
		b, err := addressBytes(s)
		if err != nil {
			return nil, err
		}
		out = append(out, b)
	}
	return out, nil
}
