package correlator

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
)

// methodDevice names findings that rest on what devices said.
const methodDevice = "device-evidence"

// DeviceRule is what devices' drops must show before their component is named.
type DeviceRule struct {
	Drops   int // of one component and class
	Matched int // of them, the very segment a host sent again; or
	Flows   int // lossy flows that the drops explain
}

// DefaultDeviceRule is the design's: devices err too, so a host must agree.
func DefaultDeviceRule() DeviceRule { return DeviceRule{Drops: 3, Matched: 1, Flows: 2} }

// accuse gathers the components that devices' drops speak against.
func (r DeviceRule) accuse(w *Window) []Candidate {
	type group struct {
		drops   []*Drop
		packets uint64 // dropped, those counted too
		matched int
		flows   map[*Flow]bool // explained, counting for the rule
	}
	type key struct {
		component Component
		class     string
	}
	groups := make(map[key]*group)
	for _, d := range w.Drops {
		k := key{d.Component, d.Event.GetClass()}
		g := groups[k]
		if g == nil {
			g = &group{flows: map[*Flow]bool{}}
			groups[k] = g
		}
		g.drops = append(g.drops, d)
		g.packets += max(1, d.packets)
		if d.Matched {
			g.matched++
		}
	}
	for _, j := range w.Joined {
		for _, d := range j.Join.Drops {
			g := groups[key{d.Component, d.Event.GetClass()}]
			if g == nil || d.in != w {
				continue
			}
			// A TTL that ran out explains a flow only if it took the very
			// segment, or its acknowledgement: all else is someone's trace.
			if isClass(d.Event.GetClass(), classTTL) && j.Join.Matched+j.Join.Answer == 0 {
				continue
			}
			g.flows[j.Flow] = true
		}
	}

	byComponent := make(map[Component]*Candidate)
	most := make(map[Component]uint64)
	order := slices.SortedFunc(maps.Keys(groups), func(a, b key) int {
		return cmp.Or(cmp.Compare(a.component.String(), b.component.String()), cmp.Compare(a.class, b.class))
	})
	for _, k := range order {
		g := groups[k]
		opens := g.packets >= uint64(r.Drops) && (g.matched >= r.Matched || len(g.flows) >= r.Flows)
		c := byComponent[k.component]
		if c == nil {
			c = &Candidate{Component: k.component, Method: methodDevice}
			byComponent[k.component] = c
		}
		// Several classes of one component are one finding, named for the class
		// with most drops among those that suffice.
		weight := min(g.packets, 1<<32)
		if opens {
			weight += 1 << 33
		}
		if weight > most[k.component] {
			most[k.component], c.Class = weight, k.class
		}
		c.Opens = c.Opens || opens
		c.Drops = append(c.Drops, g.drops...)
		c.Matched += g.matched
		for f := range g.flows {
			if !slices.Contains(c.Flows, f) {
				c.Flows = append(c.Flows, f)
			}
		}
		for _, d := range g.drops {
			if c.First == 0 || d.Time < c.First {
				c.First = d.Time
			}
			c.Last = max(c.Last, d.Time)
		}
		c.Reasons = append(c.Reasons, fmt.Sprintf("%d drops of class %q, %d of them the very segment a host sent again; they explain %d lossy flows",
			g.packets, k.class, g.matched, len(g.flows)))
	}

	out := make([]Candidate, 0, len(byComponent))
	for _, c := range byComponent {
		c.Interfaces = interfacesOf(c)
		slices.SortFunc(c.Flows, func(a, b *Flow) int { return cmp.Compare(a.Received, b.Received) })
		out = append(out, *c)
	}
	slices.SortFunc(out, func(a, b Candidate) int {
		return cmp.Or(-cmp.Compare(len(a.Drops), len(b.Drops)), cmp.Compare(a.Component.String(), b.Component.String()))
	})
	return out
}

// interfacesOf lists the interfaces that a device's drops name.
func interfacesOf(c *Candidate) []string {
	if c.Component.Link != nil {
		return nil
	}
	set := map[string]bool{}
	for _, d := range c.Drops {
		for _, name := range []string{d.Event.GetIngress(), d.Event.GetEgress()} {
			if name != "" {
				set[name] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(set))
}

// believe takes out of the vote what a device that is named by its own drops
// explains beyond the flows whose drops it showed: events get lost, and a queue
// delays what it does not drop. A device is believed only as long as it shows
// most of the losses on paths through it; else something else is at fault too.
func believe(w *Window, named []Component, since map[Component]int64) {
	for _, c := range named {
		told := 0
		for _, j := range w.Joined {
			for _, d := range j.Join.Drops {
				if d.Component == c && d.in == w {
					told++
					break
				}
			}
		}
		mine := func(f *Flow) bool { return f.Last >= since[c]-clockSlack && c.on(f) }
		untold := 0
		for _, f := range w.Flows {
			if f.counts() && mine(f) {
				untold++
			}
		}
		if untold > told {
			continue
		}
		before := len(w.Flows)
		w.Flows = slices.DeleteFunc(w.Flows, func(f *Flow) bool {
			return mine(f) || !f.Proof() && f.Last >= since[c]-settleSlack && w.paths.mayCross(f.Dst, f.Src, c)
		})
		w.Explained += before - len(w.Flows)
		w.spent = append(w.spent, Settled{Component: c, From: since[c] - clockSlack, Last: math.MaxInt64})
	}
}
