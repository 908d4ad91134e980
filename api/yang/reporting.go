package yang

import (
	"fmt"
	"time"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
)

// ClassReporting is what an agent reports of a class at present, and what it
// left out since it started.
type ClassReporting struct {
	Name       string // "policy/l3/acl"
	Stream     string // "events", "aggregates" (above the threshold), "ignored"
	Fuse       string // what it allows of the class: "full" to "off"
	Threshold  uint64 // drops per second above which there are no events
	Settings   ReportSettings
	Suppressed Suppressed
}

// ReportSettings is how drops are reported, but for the threshold.
type ReportSettings struct {
	Burst               uint64 // drops
	HoldMs              uint64
	AggregateIntervalMs uint64
	DeduplicateMs       uint64 // 0: not
	Ignore              bool
}

// Suppressed counts drops that had no event of their own, by why.
type Suppressed struct {
	Threshold uint64 // the class's rate was above its threshold
	Fuse      uint64 // the fuse allowed less than all events
	Queue     uint64 // no room between where drops are seen and the agent
	Duplicate uint64 // the flow had an event already
	Filter    uint64 // matched no filter while events were for those that do
}

// suppressedLeaves are those leaves of any record that has a Suppressed.
func suppressedLeaves[T any](of func(*T) *Suppressed) []leaf[T] {
	return []leaf[T]{
		{name: "suppressed-threshold", typ: Uint64, always: true,
			getUint: func(r *T) uint64 { return of(r).Threshold },
			setUint: func(r *T, v uint64) { of(r).Threshold = v }},
		{name: "suppressed-fuse", typ: Uint64, always: true,
			getUint: func(r *T) uint64 { return of(r).Fuse },
			setUint: func(r *T, v uint64) { of(r).Fuse = v }},
		{name: "suppressed-queue", typ: Uint64, always: true,
			getUint: func(r *T) uint64 { return of(r).Queue },
			setUint: func(r *T, v uint64) { of(r).Queue = v }},
		{name: "suppressed-duplicate", typ: Uint64, always: true,
			getUint: func(r *T) uint64 { return of(r).Duplicate },
			setUint: func(r *T, v uint64) { of(r).Duplicate = v }},
		{name: "suppressed-filter", typ: Uint64, always: true,
			getUint: func(r *T) uint64 { return of(r).Filter },
			setUint: func(r *T, v uint64) { of(r).Filter = v }},
	}
}

var reportingLeaves = within("state", append([]leaf[ClassReporting]{
	{name: "stream", typ: String,
		getString: func(c *ClassReporting) string { return c.Stream },
		setString: func(c *ClassReporting, v string) error { c.Stream = v; return nil }},
	{name: "fuse", typ: String,
		getString: func(c *ClassReporting) string { return c.Fuse },
		setString: func(c *ClassReporting, v string) error { c.Fuse = v; return nil }},
	{name: "threshold", typ: Uint64, always: true,
		getUint: func(c *ClassReporting) uint64 { return c.Threshold },
		setUint: func(c *ClassReporting, v uint64) { c.Threshold = v }},
}, append(reportSettingLeaves(func(c *ClassReporting) *ReportSettings { return &c.Settings }),
	suppressedLeaves(func(c *ClassReporting) *Suppressed { return &c.Suppressed })...)...))

// reportSettingLeaves are those leaves of any record that has a ReportSettings.
func reportSettingLeaves[T any](of func(*T) *ReportSettings) []leaf[T] {
	return []leaf[T]{
		{name: "burst", typ: Uint64, always: true,
			getUint: func(r *T) uint64 { return of(r).Burst },
			setUint: func(r *T, v uint64) { of(r).Burst = v }},
		{name: "hold", typ: Uint, always: true,
			getUint: func(r *T) uint64 { return of(r).HoldMs },
			setUint: func(r *T, v uint64) { of(r).HoldMs = v }},
		{name: "aggregate-interval", typ: Uint, always: true,
			getUint: func(r *T) uint64 { return of(r).AggregateIntervalMs },
			setUint: func(r *T, v uint64) { of(r).AggregateIntervalMs = v }},
		{name: "deduplicate-interval", typ: Uint, always: true,
			getUint: func(r *T) uint64 { return of(r).DeduplicateMs },
			setUint: func(r *T, v uint64) { of(r).DeduplicateMs = v }},
		{name: "ignore", typ: Bool, always: true,
			getBool: func(r *T) bool { return of(r).Ignore },
			setBool: func(r *T, v bool) { of(r).Ignore = v }},
	}
}

// ReportingUpdates returns what is reported of a class as a notification with
// prefix /loss/classes/class[name=C]/reporting. It is not atomic: it is sampled.
func ReportingUpdates(c ClassReporting, now time.Time) *gnmipb.Notification {
	prefix := statePath("classes", "class", "name", c.Name)
	prefix.Elem[len(prefix.Elem)-1] = &gnmipb.PathElem{Name: "reporting"}
	return &gnmipb.Notification{Timestamp: now.UnixNano(), Prefix: prefix, Update: encode(nil, reportingLeaves, &c)}
}

// DecodeReporting reads a notification of ReportingUpdates, in any encoding. It
// reports false, without error, for a notification about something else. Leaves
// that the notification does not hold are zero.
func DecodeReporting(n *gnmipb.Notification) (*ClassReporting, bool, error) {
	c, any := &ClassReporting{}, false
	key, _, err := decodeBy(inside, n, "classes", "class", "name", func(path []*gnmipb.PathElem, v *gnmipb.TypedValue) error {
		if len(path) == 3 && path[0].GetName() == "reporting" && path[1].GetName() == "state" {
			any = true
			return setLeaf(reportingLeaves, path[2].GetName(), c, v)
		}
		return nil
	})
	if err != nil || !any {
		return nil, any, err
	}
	if key == "" {
		return nil, true, fmt.Errorf("class without a name")
	}
	c.Name = key
	return c, true, nil
}
