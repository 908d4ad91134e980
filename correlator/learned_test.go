package correlator

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"decaf/api"
	"decaf/api/bus"
	"decaf/api/decafpb"
	"decaf/topology"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"
)

// surveyOf is what a host would tell of all paths to another.
func surveyOf(t *testing.T, top *topology.Topology, src, dst string, at time.Time) *decafpb.Survey {
	t.Helper()
	from, okF := top.Host(src)
	to, okT := top.Host(dst)
	if !okF || !okT {
		t.Fatalf("no hosts %s and %s", src, dst)
	}
	s := &decafpb.Survey{
		Origin: &decafpb.Origin{Producer: src, BootId: 1, Seq: 1}, TimeNs: uint64(at.UnixNano()),
		Src: from.Addresses[0].AsSlice(), Dst: to.Addresses[0].AsSlice(), DstPort: 443, Confidence: 95, Complete: true,
	}
	nodes := map[netip.Addr]uint32{}
	for _, p := range top.Paths(src, dst) {
		w := &decafpb.SurveyWalk{Flows: 1}
		for _, l := range p[:len(p)-1] {
			a := l.To.Addr.Addr()
			if nodes[a] == 0 {
				s.Nodes = append(s.Nodes, &decafpb.SurveyNode{Address: a.AsSlice()})
				nodes[a] = uint32(len(s.Nodes))
			}
			w.Hops = append(w.Hops, nodes[a])
		}
		s.Walks = append(s.Walks, w)
	}
	return s
}

// What all hosts walked, together, is the network itself, and nothing differs
// from it; of what one host walked it is said what is missing.
func TestLearnedFromAllHosts(t *testing.T) {
	top, err := topology.Clos(topology.ClosSpec{Site: "lab", Pods: 2, ToRs: 2, T1s: 2, T2s: 2, Hosts: 2})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_800_000_000, 0)
	cfg := DefaultConfig()
	cfg.Topology = top
	c, err := New(cfg, Deps{Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	seq := uint64(0)
	take := func(s *decafpb.Survey) {
		seq++
		s.Origin.Seq = seq
		c.take(&decafpb.Batch{Surveys: []*decafpb.Survey{s}})
	}
	got, err := c.Learned(context.Background(), 0)
	if err != nil || got.Topology != nil || len(got.Surveys) != 0 {
		t.Fatalf("before any survey: %+v, %v", got, err)
	}
	take(surveyOf(t, top, "p0-tor0-h0", "p1-tor1-h1", now))
	got, err = c.Learned(context.Background(), 0)
	if err != nil || got.Topology == nil || got.IP != 4 || len(got.Compared.Unseen) != 0 || len(got.Compared.Unknown) != 0 {
		t.Fatalf("one survey: %+v, %v", got, err)
	}
	for _, a := range top.Hosts {
		for _, b := range top.Hosts {
			if a != b {
				take(surveyOf(t, top, a.Name, b.Name, now))
			}
		}
	}
	got, err = c.Learned(context.Background(), 4)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Topology.Links) != len(top.Links) || len(got.Topology.Devices) != len(top.Devices) || got.Compared.Seen != len(top.Links) {
		t.Errorf("learned %d devices and %d links, %d seen; want %d and %d", len(got.Topology.Devices), len(got.Topology.Links), got.Compared.Seen, len(top.Devices), len(top.Links))
	}
	for _, l := range top.Links {
		from, okF := got.Topology.InterfaceAt(l.From.Addr.Addr())
		to, okT := got.Topology.InterfaceAt(l.To.Addr.Addr())
		if !okF || !okT || len(got.Topology.LinkBetween(from.Node, to.Node)) == 0 {
			t.Errorf("%s is not learned", l)
		}
	}
	if got, _ := c.Learned(context.Background(), 6); got.Topology != nil || got.OtherIP == 0 {
		t.Errorf("over IPv6: %+v", got)
	}
	// A file with a link less: that was walked, and is not in it.
	now = now.Add(49 * time.Hour)
	if got, _ := c.Learned(context.Background(), 0); len(got.Surveys) != 0 {
		t.Errorf("%d surveys of two days ago count", len(got.Surveys))
	}
}

func TestSurveysAreBoundedAndTheNewest(t *testing.T) {
	top, err := topology.Clos(topology.ClosSpec{Site: "lab", Pods: 1, ToRs: 2, T1s: 2, T2s: 2, Hosts: 1})
	if err != nil {
		t.Fatal(err)
	}
	at := time.Unix(1_800_000_000, 0)
	v := newSurveys()
	first := surveyOf(t, top, "p0-tor0-h0", "p0-tor1-h0", at)
	if newest, _ := v.add(first, top); !newest {
		t.Error("the first is refused")
	}
	if newest, _ := v.add(surveyOf(t, top, "p0-tor0-h0", "p0-tor1-h0", at.Add(-time.Second)), top); newest {
		t.Error("an older one takes its place")
	}
	forged := surveyOf(t, top, "p0-tor0-h0", "p0-tor1-h0", at.Add(time.Second))
	forged.Origin.Producer = "p0-tor1-h0"
	if newest, _ := v.add(forged, top); newest || v.foreign != 1 {
		t.Error("one host speaks of another's paths")
	}
	gone := 0
	for i := range 70 {
		s := &decafpb.Survey{
			Origin: &decafpb.Origin{Producer: "x"}, TimeNs: first.TimeNs + uint64(i) + 1,
			Src: []byte{192, 0, 2, byte(i)}, Dst: []byte{192, 0, 2, 200}, Why: string(make([]byte, 200<<10)),
		}
		_, out := v.add(s, top)
		gone += len(out)
	}
	size := 0
	for _, s := range v.of {
		size += proto.Size(s)
	}
	if size > maxSurveyBytes || size != v.bytes || gone == 0 || uint64(gone) != v.forgotten || len(v.of) != 71-gone {
		t.Errorf("%d bytes of %d surveys, counted %d, %d gone, %d forgotten", size, len(v.of), v.bytes, gone, v.forgotten)
	}
	if p, _ := pairOf(first); v.of[p] != nil {
		t.Error("the oldest is still there")
	}
}

// What hosts surveyed is still known after the correlator was stopped and started, and
// after the evidence that it came with is not read again; but no longer than it counts,
// and it is stored no longer either, whoever has the address by now.
func TestSurveysOutliveTheCorrelator(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	at := time.Now()
	later := func(d time.Duration) { b.now = func() time.Time { return time.Now().Add(d) } }
	c, stop := b.start()
	pairs := [][2]string{{h0, h1}, {h1, h0}, {h2, h1}}
	for _, p := range pairs {
		s := surveyOf(t, b.topo, p[0], p[1], at)
		s.Origin = nil
		b.hosts[p[0]].Publish(s)
	}
	learned := func() api.Learned {
		got, err := c.Learned(t.Context(), 0)
		must(t, err)
		return got
	}
	b.until("the surveys are known", func() bool { return len(learned().Surveys) == len(pairs) })
	before := learned()
	stop()

	kv, err := b.conn.KV(bus.BucketTopology)
	must(t, err)
	// An address has gone to another host since its survey was stored.
	foreign := surveyOf(t, b.topo, h2, h0, at)
	foreign.Origin.Producer = "renamed"
	p, _ := pairOf(foreign)
	must(t, write(t.Context(), kv, p.key(), foreign))
	held := func() int {
		keys, err := kv.Keys(t.Context())
		if errors.Is(err, jetstream.ErrNoKeysFound) {
			return 0
		}
		must(t, err)
		return len(keys)
	}

	later(2 * time.Hour)
	c, stop = b.start()
	after := learned()
	if len(after.Surveys) != len(pairs) || after.Foreign != 1 || after.Walks != before.Walks || after.Compared.Seen != before.Compared.Seen ||
		len(after.Topology.Links) != len(before.Topology.Links) || len(after.Topology.Devices) != len(before.Topology.Devices) {
		t.Errorf("after a restart %d surveys and %d walks, before %d and %d; %d of others' addresses", len(after.Surveys), after.Walks, len(before.Surveys), before.Walks, after.Foreign)
	}
	for i := range after.Surveys {
		if !proto.Equal(after.Surveys[i], before.Surveys[i]) {
			t.Errorf("%v, before %v", after.Surveys[i], before.Surveys[i])
		}
	}
	if n := held(); n != len(pairs)+1 {
		t.Errorf("%d are stored, want %d", n, len(pairs)+1)
	}
	stop()

	later(time.Duration(surveyAge) + time.Hour)
	c, _ = b.start()
	b.until("nothing is stored", func() bool { return held() == 0 })
	if n := len(learned().Surveys); n != 0 {
		t.Errorf("%d surveys of two days ago count", n)
	}
}
