package correlator

import (
	"fmt"
	"slices"

	"decaf/correlator/blame"
)

// classSYN is of a device that loses SYNs and nothing else, and does not see it:
// a firewall or balancer whose table of connections is full.
const classSYN = classSilent + "/syn"

// HandshakeRule says what repeated SYNs must show before a device is named for
// them. A SYN is repeated for many reasons that are no device's, so what other
// losses need is not enough.
type HandshakeRule struct {
	Probability float64
	Flows       int // connections that repeated a SYN and nothing else, through the device
	Ends        int // distinct sources of these, and as many destinations
	// Others is how many connections may have lost data on the device for each of
	// these; Stopped how many SYNs may be repeated whose trace did not come through:
	// probes are no SYNs, so they pass.
	Others, Stopped float64
}

// DefaultHandshakeRule is tuned for no false finding.
func DefaultHandshakeRule() HandshakeRule {
	return HandshakeRule{Probability: 0.9995, Flows: 6, Ends: 2, Others: 0.1, Stopped: 0.25}
}

// handshakes looks for the device that swallows SYNs, by the same inference as of
// other losses.
type handshakes struct {
	rule HandshakeRule
	view *view
}

func newHandshakes(r HandshakeRule, ids *fabricIDs) *handshakes {
	v := newView(ids, func(f *Flow) bool { return f.synOnly() && f.Route.Full })
	v.shakes = true
	return &handshakes{r, v}
}

// synOnly says whether a flow repeated SYNs and nothing else.
func (f *Flow) synOnly() bool { return f.syns > 0 && f.kinds == [6]uint32{} }

// accuse gives the devices that are to be named.
func (h *handshakes) accuse(w *Window) []Candidate {
	through, stopped := 0, 0
	for _, f := range w.Flows {
		if f.synOnly() {
			through += btoi(f.Route.Full)
			stopped += btoi(!f.Route.Full)
		}
	}
	if through < h.rule.Flows || float64(stopped) > h.rule.Stopped*float64(through) {
		return nil
	}
	syn := *w
	syn.Pathless, syn.Joined, syn.Drops, syn.Watching = nil, nil, nil, nil
	v := h.view.take(&syn)
	result := v.live.InferOrder(v.order)
	var out []Candidate
	for _, b := range result.Components {
		if b.Component.Kind != blame.Device || b.Probability < h.rule.Probability || len(b.Equivalent) > 0 {
			continue
		}
		c := Candidate{
			Component: v.ids.components(b.Component)[0], Class: classSYN, Method: Fused{}.Name(), Probability: b.Probability,
			Reasons: slices.Clone(b.Trace), Opens: true,
		}
		src, dst := make(map[string]bool), make(map[string]bool)
		for i, f := range v.flows {
			if result.Causes[i].Component == b.Component && c.Component.on(f) {
				c.Flows = append(c.Flows, f)
				src[f.Src], dst[f.Dst] = true, true
			}
		}
		data := 0
		for _, f := range w.Flows {
			data += btoi(f.tells() && c.Component.on(f))
		}
		for _, j := range w.Joined {
			data += btoi(c.Component.on(j.Flow))
		}
		if len(c.Flows) < h.rule.Flows || len(src) < h.rule.Ends || len(dst) < h.rule.Ends || float64(data) > h.rule.Others*float64(len(c.Flows)) {
			continue
		}
		c.First, c.Last = onset(c.Flows)
		c.Reasons = append(c.Reasons, fmt.Sprintf("%d connections through it from %d hosts to %d repeated their SYN, and traces of theirs pass it; %d connections lost data there",
			len(c.Flows), len(src), len(dst), data))
		out = append(out, c)
	}
	return out
}
