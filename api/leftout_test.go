package api

import (
	"slices"
	"strings"
	"testing"
)

func TestLeftOut(t *testing.T) {
	c := map[string]uint64{"events": 5, "aggregates_merged": 40, "drops_missed": 2, "events_lost": 0, "records_left_out": 1, "drops_ignored": 3, "flows_evicted": 9}
	if got, want := leftOut(c), []string{"aggregates_merged=40", "drops_missed=2", "flows_evicted=9", "records_left_out=1"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if got := leftOutShort(c); got != "aggregates_merged=40 drops_missed=2 and 2 more" {
		t.Error(got)
	}
	if got := leftOutShort(map[string]uint64{"events_lost": 3}); got != "events_lost=3" {
		t.Error(got)
	}
	for reports, want := range map[string]bool{"": false, "full": false, "full but no-buffer": true, "sampled": true, "off": true} {
		if got := (AgentView{Reports: reports}).Partial(); got != want {
			t.Errorf("%q: partial %v", reports, got)
		}
	}
}

// The page and the table say of a device that tells of less than all drops what it
// does tell of.
func TestPartialAgentsAreShown(t *testing.T) {
	body := getPage(t, serve(t, newFake(t))+"/", 200)
	for _, want := range []string{"tells of counters", "reports counters"} {
		if !strings.Contains(body, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	if strings.Contains(body, "reports full") {
		t.Error("a device that tells of all is among those in trouble")
	}
}
