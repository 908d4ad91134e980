package correlator

import (
	"fmt"
	"maps"
	"slices"
)

// classDown is of a device that has gone: no packet passes, and it says nothing.
const classDown = "device/down"

// DownRule says what must be seen before a device is named for being down. Flows
// must lose their packets before it, none of their traces passes it or is answered
// by it, and it says nothing. Which of several devices it is, where ECMP leaves a
// choice, either its own agent tells by falling silent at the same time, or its
// neighbours do by what they drop at their ports to it.
type DownRule struct {
	Flows int   // whose traces stopped before it
	Ends  int   // distinct sources of these
	Links int   // into it, at which neighbours drop; where its agent goes on
	Slack int64 // by how much its agent's silence may come after the first such trace, ns
	// Hold is how long a link at whose far end a device may be down is not named,
	// ns: the device may be at fault for all its links.
	Hold int64
}

// DefaultDownRule is tuned for no false finding.
func DefaultDownRule() DownRule {
	return DownRule{Flows: 4, Ends: 2, Links: 2, Slack: 3e9, Hold: 3e9}
}

// suspectDown is what speaks for a device being down.
type suspectDown struct {
	flows []*Flow // whose traces stopped before it
	told  []*Flow // of these, those of which a neighbour showed a drop at its port to it
	drops []*Drop
	seen  map[*Drop]bool
	links map[string]bool // of these drops
	first int64           // ns
}

// downs looks for devices that are down.
type downs struct {
	rule     DownRule
	lastSeen map[string]int64 // by device: when its agent was last known to be fresh, ns
	suspects map[string]*suspectDown
}

func newDowns(r DownRule) *downs { return &downs{rule: r, lastSeen: make(map[string]int64)} }

// fresh notes which agents are heard at a moment.
func (d *downs) fresh(names []string, now int64) {
	for _, n := range names {
		d.lastSeen[n] = now
	}
}

// silent says whether a device's agent has fallen silent, and until when at least
// it was heard.
func (d *downs) silent(device string, now int64) (heard int64, is bool) {
	at, known := d.lastSeen[device]
	return at - freshFor, known && at < now
}

// accuse gives the devices that are to be named. spoke says when a device last
// told of anything but its health, ns.
func (d *downs) accuse(w *Window, now int64, spoke func(device string) int64) []Candidate {
	d.suspects = make(map[string]*suspectDown)
	stopped := false
	alive := make(map[string]int64)
	each := func(do func(f *Flow, j *Join)) {
		for _, f := range w.Flows {
			do(f, nil)
		}
		for _, f := range w.Pathless {
			do(f, nil)
		}
		for i := range w.Joined {
			do(w.Joined[i].Flow, &w.Joined[i].Join)
		}
	}
	each(func(f *Flow, _ *Join) { stopped = stopped || f.stopped() })
	if !stopped {
		return nil
	}
	each(func(f *Flow, _ *Join) {
		for _, x := range f.trails {
			for _, n := range x.answered {
				alive[n] = max(alive[n], x.at)
			}
		}
	})
	each(func(f *Flow, j *Join) { d.suspect(w, f, j, alive, spoke) })
	var out []Candidate
	for _, name := range slices.Sorted(maps.Keys(d.suspects)) {
		s := d.suspects[name]
		src := make(map[string]bool)
		for _, f := range s.flows {
			src[f.Src] = true
		}
		heard, silent := d.silent(name, now)
		why := ""
		switch {
		case len(s.flows) < d.rule.Flows || len(src) < d.rule.Ends:
		case len(s.links) >= d.rule.Links && len(s.told) >= d.rule.Flows:
			why = fmt.Sprintf("its neighbours drop what they have for it at %d ports", len(s.links))
		case silent && s.first >= heard-d.rule.Slack && d.neighboursSpeak(w, name, now):
			why = "its agent has fallen silent at the same time, those of its neighbours have not"
		}
		if why == "" {
			continue
		}
		c := Candidate{
			Component: Component{Node: name}, Class: classDown, Method: methodDevice, Opens: true, Flows: s.flows, Drops: s.drops,
			First:   s.first,
			Reasons: []string{why, fmt.Sprintf("traces of %d flows from %d hosts stop before it, and since then none was answered by it", len(s.flows), len(src))},
		}
		for _, x := range s.drops {
			c.Matched += btoi(x.Matched)
		}
		for _, x := range w.Drops {
			if x.Component.within(c.Component) && x.Time >= s.first {
				c.Last = max(c.Last, x.Time)
			}
		}
		for _, f := range s.flows {
			c.Last = max(c.Last, f.Last)
		}
		out = append(out, c)
	}
	return out
}

// suspect notes what a flow says of the devices that its traces stopped before.
func (d *downs) suspect(w *Window, f *Flow, j *Join, alive map[string]int64, spoke func(string) int64) {
	for i := range f.trails {
		x := &f.trails[i]
		if !x.stopped {
			continue
		}
		for _, name := range x.next(w.paths, f.Src, f.Dst) {
			// A word on its way, or a packet in its queue, may be a little later.
			if x.at <= alive[name] || x.at+clockSlack/4 <= spoke(name) {
				continue
			}
			var shown []*Drop
			if j != nil {
				for _, p := range j.Drops {
					if l := p.Component.Link; l != nil && l.To.Node == name && l.From.Node == p.Device {
						shown = append(shown, p)
					}
				}
				if len(shown) == 0 {
					continue // it is known where it was lost: elsewhere
				}
			}
			s := d.suspects[name]
			if s == nil {
				s = &suspectDown{links: make(map[string]bool), seen: make(map[*Drop]bool)}
				d.suspects[name] = s
			}
			if n := len(s.flows); n == 0 || s.flows[n-1] != f {
				s.flows = append(s.flows, f)
				if len(shown) > 0 {
					s.told = append(s.told, f)
				}
			}
			for _, p := range shown {
				s.links[p.Component.Link.Name] = true
				if !s.seen[p] {
					s.seen[p] = true
					s.drops = append(s.drops, p)
				}
			}
			if s.first == 0 || x.at < s.first {
				s.first = x.at
			}
		}
	}
}

// neighboursSpeak says whether the agents of all neighbours are heard: else it is
// the way to the agents that is down.
func (d *downs) neighboursSpeak(w *Window, device string, now int64) bool {
	for _, l := range w.Topo.LinksFrom(device) {
		if _, ok := w.Topo.Device(l.To.Node); ok && d.lastSeen[l.To.Node] < now {
			return false
		}
	}
	return true
}

// explains says whether a device that is down may have lost the flow's packets, or
// what answered them.
func (d *downs) explains(c Component, f *Flow, paths *pathSets) bool {
	if c.on(f) {
		return true
	}
	for i := range f.trails {
		if x := &f.trails[i]; x.stopped && slices.Contains(x.next(paths, f.Src, f.Dst), c.Node) {
			return true
		}
	}
	return (!f.Route.Full && paths.mayCross(f.Src, f.Dst, c)) || !f.Proof() && paths.mayCross(f.Dst, f.Src, c)
}

// take takes what devices that are down explain out of a window.
func (d *downs) take(w *Window, since map[Component]int64) {
	for c, from := range since {
		mine := func(f *Flow) bool { return f.Last >= from-settleSlack && d.explains(c, f, w.paths) }
		before := len(w.Flows)
		w.Flows = slices.DeleteFunc(w.Flows, mine)
		w.Pathless = slices.DeleteFunc(w.Pathless, mine)
		w.Explained += before - len(w.Flows)
		w.Joined = slices.DeleteFunc(w.Joined, func(j JoinedFlow) bool {
			return slices.ContainsFunc(j.Join.Drops, func(p *Drop) bool { return p.Component.within(c) && p.Time >= from-settleSlack })
		})
		w.Drops = slices.DeleteFunc(w.Drops, func(p *Drop) bool { return p.Component.within(c) && p.Time >= from-settleSlack })
	}
}

// hold keeps links from being named at whose end a device may be down, until that
// is known.
func (d *downs) hold(candidates []Candidate, open map[Component]bool, now int64) {
	for i := range candidates {
		c := &candidates[i]
		if !c.Opens || open[c.Component] || c.Class == classDown {
			continue
		}
		for name, s := range d.suspects {
			device := Component{Node: name}
			waits := len(s.told) > 0 && now < s.first+d.rule.Hold
			if (waits || open[device]) && (c.Component.within(device) || c.Component == device) {
				c.Opens = false
				c.Doubt = "the device at its end may be down"
			}
		}
	}
}
