package serve

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"decaf/api"
	"decaf/api/decafpb"
	"decaf/correlator"
	"decaf/topology"
)

// While correlators change over no report is filed: those under way end first, those
// that come wait, and one that cannot wait any more is told to come again.
func TestReportsWaitForTheNextCorrelator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := correlator.DefaultConfig()
		var err error
		if cfg.Topology, err = topology.New("lab", nil, nil, nil); err != nil {
			t.Fatal(err)
		}
		before, err := correlator.New(cfg, correlator.Deps{})
		if err != nil {
			t.Fatal(err)
		}
		var l live
		l.now.Store(before)
		if err := l.enter(t.Context()); err != nil {
			t.Fatal(err)
		}
		shut, entered := false, false
		go func() { l.shutReports(); shut = true }()
		synctest.Wait()
		if shut {
			t.Error("the change goes on while a report is being filed")
		}
		go func() {
			if err := l.enter(t.Context()); err != nil {
				t.Error(err)
			}
			entered = true
			l.filing.Done()
		}()
		synctest.Wait()
		if entered {
			t.Error("a report is filed while others end")
		}
		l.filing.Done()
		synctest.Wait()
		if !shut || entered {
			t.Errorf("shut %v, entered %v", shut, entered)
		}
		given, giveUp := context.WithCancel(t.Context())
		giveUp()
		// What it waits for may be more than the change.
		if _, err := l.FileReport(given, &decafpb.FaultReport{}); !errors.Is(err, api.ErrUnavailable) || !strings.Contains(err.Error(), before.Ready().Error()) {
			t.Errorf("of one that cannot wait: %v", err)
		}
		l.openReports()
		synctest.Wait()
		if !entered {
			t.Error("a report still waits")
		}
	})
}
