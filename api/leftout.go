package api

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// leftOutWords are in the names of those counters of a heartbeat that count what
// was left out, other than on request.
var leftOutWords = []string{"lost", "left_out", "refused", "missed", "uncounted", "merged", "evicted", "vanished", "unreadable"}

// countsLeftOut says whether a counter of that name counts what was left out.
func countsLeftOut(name string) bool {
	return slices.ContainsFunc(leftOutWords, func(w string) bool { return strings.Contains(name, w) })
}

// leftOut lists the counters of what an agent left out that are not zero, by name.
func leftOut(counters map[string]uint64) (list []string) {
	for _, name := range slices.Sorted(maps.Keys(counters)) {
		if n := counters[name]; n > 0 && countsLeftOut(name) {
			list = append(list, fmt.Sprintf("%s=%d", name, n))
		}
	}
	return list
}

// leftOutShort is for tables: the first few.
func leftOutShort(counters map[string]uint64) string {
	const most = 2
	list := leftOut(counters)
	if n := len(list); n > most {
		list = append(list[:most], fmt.Sprintf("and %d more", n-most))
	}
	return strings.Join(list, " ")
}

// Partial says whether a device is known to tell of less than all drops.
func (a AgentView) Partial() bool { return a.Reports != "" && a.Reports != "full" }
