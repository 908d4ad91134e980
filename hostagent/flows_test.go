package hostagent

import (
	"errors"
	"slices"
	"testing"
	"time"
)

// askedReader is a flowReader that notes what it is asked for.
type askedReader struct {
	lists   bool
	asked   []dumped
	samples []*flowSample
	lost    uint64
	err     error
}

func (r *askedReader) Lists() bool { return r.lists }

func (r *askedReader) Dump(of dumped, each func(*flowSample), _ func(error)) error {
	r.asked = append(r.asked, of)
	for _, s := range r.samples {
		each(s)
	}
	return r.err
}

func (r *askedReader) Wait(time.Time, func(*flowSample), func(error)) error { return nil }
func (r *askedReader) Stop()                                                {}
func (r *askedReader) Lost() (uint64, error)                                { return r.lost, nil }

// Dumps are of the list of sockets with news, unless there is a reason to come by
// all; and show all where something may have gone by unseen.
func TestKindsOfDumps(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Flows.MaxFlows = 2000
	setup := func(lists bool) (*askedReader, *flowCounter, func(last bool, want ...dumped)) {
		r := &askedReader{lists: lists}
		c := newFlowCounter(New(cfg, Deps{Publisher: newRecorder(), Tracer: tracerFunc(complete)}), r)
		c.tablesDue = time.Now().Add(time.Hour)
		return r, c, func(last bool, want ...dumped) {
			t.Helper()
			r.asked = nil
			for range want {
				if err := c.dump(time.Now(), last); err != nil {
					t.Fatal(err)
				}
			}
			if !slices.Equal(r.asked, want) {
				t.Errorf("asked for %v, want %v", r.asked, want)
			}
		}
	}
	const all, changed, listed = dumpAll, dumpChanged, dumpListed

	r, c, want := setup(true)
	want(false, all, listed, listed, listed, listed, listed, changed, listed)
	want(true, changed) // the agent ends
	want(false, listed)
	c.tablesDue = time.Now()
	want(false, changed) // the tables are due
	c.tablesDue = time.Now().Add(time.Hour)
	want(false, listed)
	r.lost++
	want(false, all, all, listed) // flows are gone that only two of them tell
	r.err = errors.New("no more memory")
	want(false, listed) // breaks off
	r.err = nil
	want(false, all, all, listed)
	settings := cfg.tableSettings()
	settings.Interval = time.Minute
	c.a.tableSettings.Store(&settings)
	want(false, changed) // the tables end their interval
	c.publishTables(time.Now(), false)
	c.tablesDue = time.Now().Add(time.Hour)
	want(false, all, listed) // connections that were not tracked have entries to be made
	for i := range 1500 {
		r.samples = append(r.samples, conn(uint64(i+1), nil))
	}
	want(false, listed, changed, changed) // of a list as long all are as soon read
	for i := range 1000 {
		r.samples = append(r.samples, conn(uint64(i+5000), nil))
	}
	want(false, changed, all, all) // some found no place, and may find one
	r.samples = nil
	want(false, all, listed)

	_, c, want = setup(false)
	want(false, all, changed, changed)
	c.partial = partialDumps - 1
	want(false, changed, all, changed)
}
