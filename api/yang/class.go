package yang

import (
	"fmt"
	"time"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
)

// ClassCounters counts the drops of one class since the agent started.
type ClassCounters struct {
	Name    string // "policy/l3/acl"
	Packets uint64 // dropped
	Bytes   uint64 // dropped, from the IP header on
	Events  uint64 // reported one by one
}

var classLeaves = within("", []leaf[ClassCounters]{
	{name: "name", typ: String, always: true,
		getString: func(c *ClassCounters) string { return c.Name },
		setString: func(c *ClassCounters, v string) error { c.Name = v; return nil }},
	{name: "packets", typ: Uint64, always: true,
		getUint: func(c *ClassCounters) uint64 { return c.Packets },
		setUint: func(c *ClassCounters, v uint64) { c.Packets = v }},
	{name: "bytes", typ: Uint64, always: true,
		getUint: func(c *ClassCounters) uint64 { return c.Bytes },
		setUint: func(c *ClassCounters, v uint64) { c.Bytes = v }},
	{name: "events", typ: Uint64, always: true,
		getUint: func(c *ClassCounters) uint64 { return c.Events },
		setUint: func(c *ClassCounters, v uint64) { c.Events = v }},
})

// ClassUpdates returns the counters of a class as a notification with prefix
// /loss/classes/class[name=C]/state. It is not atomic: counters are sampled.
func ClassUpdates(c ClassCounters, now time.Time) *gnmipb.Notification {
	return &gnmipb.Notification{
		Timestamp: now.UnixNano(),
		Prefix:    statePath("classes", "class", "name", c.Name),
		Update:    encode(nil, classLeaves, &c),
	}
}

// DecodeClass reads a notification of ClassUpdates, in any encoding. It
// reports false, without error, for a notification about something else.
// Leaves that the notification does not hold are zero.
func DecodeClass(n *gnmipb.Notification) (*ClassCounters, bool, error) {
	c := &ClassCounters{}
	key, is, err := decode(n, "classes", "class", "name", func(path []*gnmipb.PathElem, v *gnmipb.TypedValue) error {
		if len(path) == 1 {
			if l := find(classLeaves, path[0].GetName()); l != nil {
				return l.set(c, v)
			}
		}
		return nil
	})
	if err != nil || !is {
		return nil, is, err
	}
	if key == "" {
		return nil, true, fmt.Errorf("class without a name")
	}
	c.Name = key
	return c, true, nil
}
