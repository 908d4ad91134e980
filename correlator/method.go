package correlator

import (
	"fmt"
	"slices"
	"strings"

	"decaf/topology"
)

// Method turns the evidence of one window into ranked components. It is pure:
// the same window gives the same ranking.
type Method interface {
	Name() string
	// History is how many epochs before the live window help it, less and less
	// the older they are; 0 for a method that uses the window alone.
	History() int
	Rank(w *Window) *Ranking
}

// Methods are the names that [NewMethod] knows, the default first.
func Methods() []string { return []string{Fused{}.Name(), Vote{}.Name()} }

// NewMethod gives a method of blame by name, "" for the default.
func NewMethod(name string, cfg EngineConfig, t *topology.Topology) (Method, error) {
	switch name {
	case "", Fused{}.Name():
		return NewFused(t, cfg.Fused), nil
	case Vote{}.Name():
		return Vote{Rule: cfg.Rule}, nil
	}
	return nil, fmt.Errorf("method %q: give one of %s", name, strings.Join(Methods(), ", "))
}

// Ranking is what a method made of a window.
type Ranking struct {
	Method     string
	Start, End int64 // ns
	Total      float64
	Links      []LinkScore // by votes, highest first
	Candidates []Candidate // in the order of suspicion
	// Unexplained counts lossy flows that count and that no candidate that may
	// be named explains: the noise of the window.
	Unexplained int
	// Abstained says what could not be told, and why; at most maxAbstained.
	Abstained []string
}

// maxAbstained bounds the reasons for abstaining that a ranking keeps.
const maxAbstained = 8

// LinkScore is one directed link in a ranking.
type LinkScore struct {
	Link                  *topology.Link
	Votes, Share          float64
	Flows, Weak           int   // that count, that do not
	Sources, Destinations int   // of those that count
	at                    int32 // in Topology.Links
	// Probability is that the link, or one that cannot be told from it, is at
	// fault; 0 where the method gives none.
	Probability float64
}

// Candidate is a component under suspicion, and what for.
type Candidate struct {
	Component Component
	Class     string // of the drops, when a device saw them, or no-buffer; else see [classUnseen]
	Method    string // "fused", "vote", "device-evidence"
	// Opens says that the evidence suffices to name the component. Without it a
	// candidate only keeps a finding open that is open already.
	Opens        bool
	Votes, Share float64
	Probability  float64 // 0 while the method gives none
	// Equivalent are the components that explain the evidence as well: one of
	// them or this one is at fault.
	Equivalent  []Component
	Flows       []*Flow // lossy flows that support it
	Drops       []*Drop
	Matched     int
	First, Last int64 // time of the earliest and latest support, ns; 0 for none
	// Congested says that a queue overflowed for a moment: no fault. undecided says
	// that this is not known yet.
	Congested  bool
	undecided  bool
	Interfaces []string
	Hosts      []string // hurt, beside those of Flows
	Hurt       uint64   // connections hurt, where they are counted and not listed
	Pace       int64    // how long the longest interval is that its support comes in, ns
	Reasons    []string // decision trace
	Doubt      string   // why it may not be named, "" if it may

	own    []*Flow  // flows that no other named component crosses
	during [2]int64 // when it lost packets, ns; zeros: all the time, or nobody knows
	passed bool     // congestion that had ended well before the evidence does
}

// likely are the candidates that more probably are at fault than not.
func (r *Ranking) likely() []Candidate {
	return slices.DeleteFunc(slices.Clone(r.Candidates), func(c Candidate) bool { return c.Probability < 0.5 })
}

// momentFlows is how many flows must prove that they lost packets, for a moment to be
// told from noise that comes in bursts, as when a machine stalls: that is of timeouts.
const momentFlows = 4

// proved says whether so many flows prove losses of their own, from several hosts to
// several.
func (c *Candidate) proved() bool {
	n := 0
	src, dst := make(map[string]bool), make(map[string]bool)
	for _, f := range c.own {
		if f.Proof() {
			n++
			src[f.Src], dst[f.Dst] = true, true
		}
	}
	return n >= momentFlows && (len(src) > 1 || len(dst) > 1)
}

// proved says whether there are so many flows at all since a time.
func (w *Window) proved(since int64) bool {
	n := 0
	for _, f := range w.Flows {
		n += btoi(f.Last >= since && f.Proof())
	}
	return n >= momentFlows
}

// besides takes over what a longer look says of the candidates of a short one:
// whether a component loses packets for a moment only, and whether it loses any. The
// short look is for what stands in the light of others there; where the longer one
// sees nothing at all, it has too few losses to go by.
func (r *Ranking) besides(longer *Ranking) {
	likely := longer.likely()
	for i := range r.Candidates {
		c := &r.Candidates[i]
		if c.Opens && len(likely) == 0 && c.Probability > 0 && !c.proved() {
			c.Opens, c.Doubt = false, "in the window as a whole it does not stand out"
		}
		for _, l := range likely {
			if c.Component == l.Component {
				c.Class, c.Congested, c.undecided, c.passed = l.Class, l.Congested, l.undecided, l.passed
			}
		}
	}
}

// inform adds what the method thinks of components to candidates that rest on
// devices' word: how probable, and why. What a method that gives probabilities
// thinks unlikely, all evidence seen, is not opened: a busy machine drops a few
// packets here and there.
func (r *Ranking) inform(list []Candidate) {
	for i := range list {
		for j := range r.Candidates {
			if c := &r.Candidates[j]; c.Component == list[i].Component {
				list[i].Probability, list[i].Equivalent = c.Probability, c.Equivalent
				list[i].Reasons = append(list[i].Reasons, c.Reasons...)
				list[i].Opens = list[i].Opens && c.Probability >= 0.5
			}
		}
	}
}
