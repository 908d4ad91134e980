package flow

import (
	"fmt"
	"testing"
	"time"

	"decaf/api/decafpb"
	"decaf/sim/scenario"
)

// parse reads the keys of a scenario on the small Clos, and draws it.
func parse(t testing.TB, keys string) *scenario.Scenario {
	t.Helper()
	s, err := scenario.Parse("test", []byte("name: test\nfabric: {kind: clos, pods: 2, tors: 2, t1: 2, t2: 2, hosts: 2}\n"+keys))
	if err != nil {
		t.Fatal(err)
	}
	topo, err := s.Fabric.Topology()
	if err != nil {
		t.Fatal(err)
	}
	if s, err = s.Draw(topo, 1); err != nil {
		t.Fatal(err)
	}
	return s
}

// oneFault is half a minute of traffic with one fault all through.
func oneFault(t testing.TB, fault string) *scenario.Scenario {
	return parse(t, fmt.Sprintf("duration: 30s\ntraffic: {connections_per_host: 10/s}\nfaults:\n  - {at: 0s, %s}\n", fault))
}

func build(t testing.TB, s *scenario.Scenario, seed uint64, o Options) *Fabric {
	t.Helper()
	f, err := New(s, seed, o)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// records is everything a run emitted, by kind.
type records struct {
	drops       []*decafpb.DropEvent
	aggregates  []*decafpb.LossAggregate
	routes      []*decafpb.RouteEvent
	flows       []*decafpb.FlowRecord
	retransmits []*decafpb.Retransmit
	exchanges   []*decafpb.Exchange
	heartbeats  []*decafpb.Heartbeat
	batches     int
}

// play runs a fabric to its end and checks what holds for every run: time does not
// go backwards, nothing comes before it happened, and sequence numbers have no gap.
func play(t testing.TB, f *Fabric) *records {
	t.Helper()
	all := new(records)
	last := time.Duration(0)
	seqs := map[string]uint64{}
	for {
		at, b, ok := f.Next()
		if !ok {
			break
		}
		if at < last {
			t.Fatalf("a batch of %s after one of %s", at, last)
		}
		last = at
		all.batches++
		check := func(kind string, o *decafpb.Origin, happened uint64) {
			name := kind + " " + o.GetProducer()
			seqs[name]++
			if o.GetSeq() != seqs[name] || o.GetBootId() == 0 {
				t.Fatalf("%s: sequence %d, want %d; boot id %d", name, o.GetSeq(), seqs[name], o.GetBootId())
			}
			if happened > f.clock(at) {
				t.Fatalf("%s: happened %s after it arrived", name, time.Duration(happened-f.clock(at)))
			}
		}
		for _, r := range b.Drops {
			check("drop", r.Origin, r.TimeNs)
		}
		for _, r := range b.Aggregates {
			check("aggregate", r.Origin, r.EndNs)
		}
		for _, r := range b.Routes {
			check("route", r.Origin, r.TimeNs)
		}
		for _, r := range b.Flows {
			check("flow", r.Origin, r.EndNs)
		}
		for _, r := range b.Retransmits {
			check("retransmit", r.Origin, r.TimeNs)
		}
		for _, r := range b.Exchanges {
			check("exchange", r.Origin, r.TimeNs)
		}
		for _, r := range b.Heartbeats {
			check("heartbeat", r.Origin, r.TimeNs)
		}
		all.drops = append(all.drops, b.Drops...)
		all.aggregates = append(all.aggregates, b.Aggregates...)
		all.routes = append(all.routes, b.Routes...)
		all.flows = append(all.flows, b.Flows...)
		all.retransmits = append(all.retransmits, b.Retransmits...)
		all.exchanges = append(all.exchanges, b.Exchanges...)
		all.heartbeats = append(all.heartbeats, b.Heartbeats...)
	}
	return all
}
