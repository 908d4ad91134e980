package hostagent

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"decaf/api/agentconfig"
	"decaf/api/decafpb"
	"decaf/topology"
	"decaf/tracer"

	"google.golang.org/protobuf/proto"
)

// rounds is a surveyor that makes one round each time, of paths it is given.
type rounds struct {
	fan   *tracer.Fan
	err   error
	begun []string // when it began, what for
	asked []tracer.EnumerateRequest
}

func (r *rounds) Survey(ctx context.Context, every time.Duration, targets func() []tracer.EnumerateRequest, found func(tracer.EnumerateRequest, *tracer.Fan, *decafpb.Path, error)) {
	r.begun = append(r.begun, every.String())
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		for _, one := range targets() {
			r.asked = append(r.asked, one)
			found(one, r.fan, nil, r.err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// A survey follows what it is told: the same again changes nothing, another
// begins anew, off ends it. What fails is counted each time; what cannot be kept
// is said and counted, and the next round goes on.
func TestSurveyFollowsWhatItIsTold(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		hop := func(a string) []tracer.Node { return []tracer.Node{{Address: netip.MustParseAddr(a)}} }
		by := &rounds{fan: &tracer.Fan{
			Hops:  [][]tracer.Node{hop("10.2.1.1"), hop("10.3.1.1")},
			Paths: []tracer.FanPath{{Nodes: []int{0, 0}}},
		}}
		far := func(_, dst netip.Addr) int {
			if dst == netip.MustParseAddr("127.0.0.2") {
				return 2
			}
			return 0
		}
		file := filepath.Join(dir, "learnt.yaml")
		var told []*decafpb.Survey
		s := newSurvey(by, far, "lab", file, func(m proto.Message) { told = append(told, m.(*decafpb.Survey)) }, testLog(t))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		counts := func(what string, surveys, failed, paths, unwritten uint64) {
			t.Helper()
			synctest.Wait()
			got := map[string]uint64{}
			s.counters(got)
			if got[countSurveys] != surveys || got[countSurveysFailed] != failed || got[countSurveyPaths] != paths || got[countSurveyUnwritten] != unwritten {
				t.Errorf("%s: %v", what, got)
			}
		}
		// Loopback has a route wherever this runs.
		order := agentconfig.Survey{Every: time.Minute, To: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.2:7"), netip.MustParseAddrPort("127.0.0.3:7")}}
		s.set(order)
		counts("a round", 2, 0, 2, 0)
		s.set(order)
		time.Sleep(time.Minute)
		counts("another round", 4, 0, 2, 0)
		if len(by.begun) != 1 {
			t.Errorf("begun %v: the same once more is no new survey", by.begun)
		}
		if known, unknown := by.asked[0], by.asked[1]; known.Distance != 2 || known.New || unknown.Distance != 0 || !unknown.New || known.Epoch >= 0 || by.asked[2].Epoch == known.Epoch {
			t.Errorf("asked %+v and %+v, want a SYN only where the distance is not known, and an epoch of its own for each round", known.Request, unknown.Request)
		}
		if len(told) != 4 || len(told[0].GetWalks()) != 1 || len(told[0].GetNodes()) != 2 || told[3].GetDstPort() != 7 {
			t.Errorf("published %v", told)
		}
		if found, err := topology.Load(file); err != nil || len(found.Devices) != 2 {
			t.Errorf("learnt %v, %v", found, err)
		}

		by.err = errors.New("no distance to go by")
		order.Every = 2 * time.Minute
		s.set(order)
		counts("it fails", 4, 2, 0, 0)
		time.Sleep(2 * time.Minute)
		counts("again", 4, 4, 0, 0)

		by.err = nil
		s.file = filepath.Join(dir, "nowhere", "learnt.yaml")
		order.Every = 3 * time.Minute
		s.set(order)
		counts("no such folder", 6, 4, 2, 2)

		s.set(agentconfig.Survey{})
		time.Sleep(time.Hour)
		counts("off", 6, 4, 0, 2)
		if len(by.begun) != 3 {
			t.Errorf("begun %v", by.begun)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("%v, %v: want the topology file alone", left, err)
	}
}
