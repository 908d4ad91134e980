package sim

import (
	"fmt"
	"time"
)

// freshFor is how long an agent's silence means nothing yet, as the correlator has
// it: four heartbeats.
const freshFor = 8 * time.Second

// presence knows when producers of evidence were heard of.
type presence struct{ spans map[string][]span }

// span is a time without a silence longer than freshFor, in ns.
type span struct{ first, last int64 }

func newPresence() *presence { return &presence{make(map[string][]span)} }

// beat takes a sign of life; those of one producer come in order of time.
func (p *presence) beat(name string, at int64) {
	list := p.spans[name]
	if n := len(list); n > 0 && at-list[n-1].last <= int64(freshFor) {
		list[n-1].last = max(list[n-1].last, at)
		return
	}
	p.spans[name] = append(list, span{at, at})
}

// all says whether a producer was heard all through a window, and if not, why.
func (p *presence) all(name string, from, to int64) (bool, string) {
	list := p.spans[name]
	if len(list) == 0 {
		return false, fmt.Sprintf("the agent of %s was never heard", name)
	}
	for _, s := range list {
		if s.first <= from+int64(freshFor) && s.last >= to-int64(freshFor) {
			return true, ""
		}
	}
	if first := list[0].first; first > from+int64(freshFor) {
		return false, fmt.Sprintf("the agent of %s is heard only since %s", name, time.Unix(0, first).UTC().Format(time.RFC3339))
	}
	return false, fmt.Sprintf("the agent of %s was silent for a part of the window", name)
}
