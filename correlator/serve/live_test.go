package serve

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"decaf/api"
	"decaf/api/decafpb"
)

// While correlators change over no report is filed: those under way end first, those
// that come wait, and one that cannot wait any more is told to come again.
func TestReportsWaitForTheNextCorrelator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l live
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
		if _, err := l.FileReport(given, &decafpb.FaultReport{}); !errors.Is(err, api.ErrUnavailable) {
			t.Errorf("of one that cannot wait: %v", err)
		}
		l.openReports()
		synctest.Wait()
		if !entered {
			t.Error("a report still waits")
		}
	})
}
