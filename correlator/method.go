package correlator

import "decaf/topology"

// Method turns the evidence of one window into ranked components. It is pure:
// the same window gives the same ranking.
type Method interface {
	Name() string
	Rank(w *Window) *Ranking
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
}

// LinkScore is one directed link in a ranking.
type LinkScore struct {
	Link                  *topology.Link
	Votes, Share          float64
	Flows, Weak           int // that count, that do not
	Sources, Destinations int // of those that count
}

// Candidate is a component under suspicion, and what for.
type Candidate struct {
	Component Component
	Class     string // of the drops, when a device saw them
	Method    string // "vote", "device-evidence"
	// Opens says that the evidence suffices to name the component. Without it a
	// candidate only keeps a finding open that is open already.
	Opens        bool
	Votes, Share float64
	Probability  float64 // 0 while the method gives none
	Flows        []*Flow // lossy flows that support it
	Drops        []*Drop
	Matched      int
	First, Last  int64 // time of the earliest and latest support, ns; 0 for none
	Interfaces   []string
	Reasons      []string // decision trace
}
