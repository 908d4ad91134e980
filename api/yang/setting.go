package yang

import (
	"fmt"
	"net/netip"
	"time"

	"decaf/api/yang/model"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
)

// General is how drops of every class are reported, as far as the class says
// nothing else.
type General struct {
	Threshold    uint64 // drops per second
	Report       ReportSettings
	PrefixLength struct{ V4, V6 uint64 }
}

var generalLeaves = within("", append(append([]leaf[General]{
	{name: "threshold", typ: Uint64, always: true,
		getUint: func(g *General) uint64 { return g.Threshold },
		setUint: func(g *General, v uint64) { g.Threshold = v }},
}, reportSettingLeaves(func(g *General) *ReportSettings { return &g.Report })...), []leaf[General]{
	{name: "prefix-length-ipv4", typ: Uint, always: true, max: 32,
		getUint: func(g *General) uint64 { return g.PrefixLength.V4 },
		setUint: func(g *General, v uint64) { g.PrefixLength.V4 = v }},
	{name: "prefix-length-ipv6", typ: Uint, always: true, max: 128,
		getUint: func(g *General) uint64 { return g.PrefixLength.V6 },
		setUint: func(g *General, v uint64) { g.PrefixLength.V6 = v }},
}...))

// GeneralUpdates returns what holds as a notification with prefix
// /loss/reporting/state.
func GeneralUpdates(g General, now time.Time) *gnmipb.Notification {
	return &gnmipb.Notification{Timestamp: now.UnixNano(), Prefix: statePath("reporting", "", "", ""), Update: encode(nil, generalLeaves, &g)}
}

// FuseSettings is what the agent may take from its device.
type FuseSettings struct {
	CPU          uint64 // thousandths of one core
	MemoryBytes  uint64
	Events       uint64 // per second
	Queue        uint64 // thousandths of its room
	BackOffMs    uint64
	MaxBackOffMs uint64
}

var fuseLeaves = within("", []leaf[FuseSettings]{
	{name: "cpu", typ: Uint, always: true,
		getUint: func(f *FuseSettings) uint64 { return f.CPU },
		setUint: func(f *FuseSettings, v uint64) { f.CPU = v }},
	{name: "memory", typ: Uint64, always: true,
		getUint: func(f *FuseSettings) uint64 { return f.MemoryBytes },
		setUint: func(f *FuseSettings, v uint64) { f.MemoryBytes = v }},
	{name: "events", typ: Uint64, always: true,
		getUint: func(f *FuseSettings) uint64 { return f.Events },
		setUint: func(f *FuseSettings, v uint64) { f.Events = v }},
	{name: "queue", typ: Uint, always: true,
		getUint: func(f *FuseSettings) uint64 { return f.Queue },
		setUint: func(f *FuseSettings, v uint64) { f.Queue = v }},
	{name: "back-off", typ: Uint, always: true,
		getUint: func(f *FuseSettings) uint64 { return f.BackOffMs },
		setUint: func(f *FuseSettings, v uint64) { f.BackOffMs = v }},
	{name: "max-back-off", typ: Uint, always: true,
		getUint: func(f *FuseSettings) uint64 { return f.MaxBackOffMs },
		setUint: func(f *FuseSettings, v uint64) { f.MaxBackOffMs = v }},
})

// FuseUpdates returns what holds as a notification with prefix
// /loss/fuse/state.
func FuseUpdates(f FuseSettings, now time.Time) *gnmipb.Notification {
	return &gnmipb.Notification{Timestamp: now.UnixNano(), Prefix: statePath("fuse", "", "", ""), Update: encode(nil, fuseLeaves, &f)}
}

// Filter tells the packets of a planned path test. A field that is nil, or not
// valid, is any.
type Filter struct {
	Name                string
	Source, Destination netip.Prefix
	Protocol            *uint8
	SourcePort          *uint16
	DestinationPort     *uint16
	DSCP                *uint8
	Only                bool   // drops that match no filter have no event
	EndNs               uint64 // when it removes itself
	Matched             uint64 // packets since it was set or changed
}

var filterLeaves = within("", []leaf[Filter]{
	{name: "name", typ: String,
		getString: func(f *Filter) string { return f.Name },
		setString: func(f *Filter, v string) error { f.Name = v; return nil }},
	{name: "source-prefix", typ: String,
		getString: func(f *Filter) string { return rangeString(f.Source) },
		setString: func(f *Filter, v string) (err error) { f.Source, err = netip.ParsePrefix(v); return err }},
	{name: "destination-prefix", typ: String,
		getString: func(f *Filter) string { return rangeString(f.Destination) },
		setString: func(f *Filter, v string) (err error) { f.Destination, err = netip.ParsePrefix(v); return err }},
	optional("protocol", 255, func(f *Filter) **uint8 { return &f.Protocol }),
	optional("source-port", 65535, func(f *Filter) **uint16 { return &f.SourcePort }),
	optional("destination-port", 65535, func(f *Filter) **uint16 { return &f.DestinationPort }),
	optional("dscp", 63, func(f *Filter) **uint8 { return &f.DSCP }),
	{name: "only", typ: Bool, always: true,
		getBool: func(f *Filter) bool { return f.Only },
		setBool: func(f *Filter, v bool) { f.Only = v }},
	{name: "end-time", typ: Uint64, always: true,
		getUint: func(f *Filter) uint64 { return f.EndNs },
		setUint: func(f *Filter, v uint64) { f.EndNs = v }},
})

var filterCounterLeaves = within("", []leaf[Filter]{
	{name: "matched", typ: Uint64, always: true,
		getUint: func(f *Filter) uint64 { return f.Matched },
		setUint: func(f *Filter, v uint64) { f.Matched = v }},
})

// optional is a number of a filter that may be 0 and still be given.
func optional[N uint8 | uint16](name string, most uint64, of func(*Filter) **N) leaf[Filter] {
	return leaf[Filter]{
		name: name, typ: Uint, always: true, max: most,
		absent:  func(f *Filter) bool { return *of(f) == nil },
		getUint: func(f *Filter) uint64 { return uint64(**of(f)) },
		setUint: func(f *Filter, v uint64) { n := N(v); *of(f) = &n },
	}
}

func rangeString(p netip.Prefix) string {
	if !p.IsValid() {
		return ""
	}
	return p.String()
}

// FilterUpdates returns what holds of a filter, and what it saw, as
// notifications with prefix /loss/filters/filter[name=F]/state, and /counters
// below it.
func FilterUpdates(f Filter, now time.Time) []*gnmipb.Notification {
	at := statePath("filters", "filter", "name", f.Name)
	counters := &gnmipb.Path{Elem: append(at.Elem[:len(at.Elem):len(at.Elem)], &gnmipb.PathElem{Name: "counters"})}
	return []*gnmipb.Notification{
		{Timestamp: now.UnixNano(), Prefix: at, Update: encode(nil, filterLeaves, &f)},
		{Timestamp: now.UnixNano(), Prefix: counters, Update: encode(nil, filterCounterLeaves, &f)},
	}
}

// ParseSettings reads the settable part of the module as JSON by RFC 7951, its
// root being the tree's, and holds it against the module: types, ranges and
// patterns. What is not given is nil.
func ParseSettings(text []byte) (*model.Loss, error) {
	d := &model.Device{}
	if err := model.Unmarshal(text, d); err != nil {
		return nil, fmt.Errorf("module %s: %w", Module, err)
	}
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("module %s: %w", Module, err)
	}
	if d.Loss == nil {
		d.Loss = &model.Loss{}
	}
	return d.Loss, nil
}
