package correlator

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
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
	if newest, _ := v.add(first, top, at.UnixNano()); !newest {
		t.Error("the first is refused")
	}
	if newest, _ := v.add(surveyOf(t, top, "p0-tor0-h0", "p0-tor1-h0", at.Add(-time.Second)), top, at.UnixNano()); newest {
		t.Error("an older one takes its place")
	}
	forged := surveyOf(t, top, "p0-tor0-h0", "p0-tor1-h0", at.Add(time.Second))
	forged.Origin.Producer = "p0-tor1-h0"
	if newest, _ := v.add(forged, top, at.UnixNano()); newest || v.foreign != 1 {
		t.Error("one host speaks of another's paths")
	}
	gone := 0
	for i := range 70 {
		s := &decafpb.Survey{
			Origin: &decafpb.Origin{Producer: "x"}, TimeNs: first.TimeNs + uint64(i) + 1,
			Src: []byte{192, 0, 2, byte(i)}, Dst: []byte{192, 0, 2, 200}, Why: string(make([]byte, 200<<10)),
		}
		_, out := v.add(s, top, at.UnixNano())
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

	later(time.Duration(SurveyAge) + time.Hour)
	c, _ = b.start()
	b.until("nothing is stored", func() bool { return held() == 0 })
	if n := len(learned().Surveys); n != 0 {
		t.Errorf("%d surveys of two days ago count", n)
	}
}

// A survey of a time to come would stand in the way of all that follow: it is left out,
// whether it is sent or was stored, and counted. Clocks may differ a little.
func TestSurveysOfATimeToComeAreLeftOut(t *testing.T) {
	top := smallClos(t)
	now := time.Unix(1_800_000_000, 0)
	cfg := DefaultConfig()
	cfg.Topology = top
	c, err := New(cfg, Deps{Now: func() time.Time { return now }})
	must(t, err)
	seq := uint64(0)
	take := func(s *decafpb.Survey) {
		seq++
		s.Origin.Seq = seq
		c.take(&decafpb.Batch{Surveys: []*decafpb.Survey{s}})
	}
	ahead := surveyOf(t, top, h0, h1, now.Add(6*time.Minute))
	take(ahead)
	far := surveyOf(t, top, h0, h1, now)
	far.TimeNs = 1 << 63 // no time of an int64
	take(far)
	if got := c.Surveys(); got.Held != 0 || got.Ahead != 2 {
		t.Errorf("%+v", got)
	}
	take(surveyOf(t, top, h0, h1, now))
	take(surveyOf(t, top, h1, h0, now.Add(4*time.Minute)))
	if got := c.Surveys(); got.Held != 2 || got.Ahead != 2 {
		t.Errorf("%+v", got)
	}
	again, err := New(cfg, Deps{Now: func() time.Time { return now }})
	must(t, err)
	again.restoreSurveys([]*decafpb.Survey{ahead, surveyOf(t, top, h1, h0, now)}, now.UnixNano())
	p, _ := pairOf(ahead)
	m, queued := again.saves.takeAll()[saveKey{saveSurvey, p.key()}]
	if got := again.Surveys(); got.Held != 1 || m != nil || !queued {
		t.Errorf("of what was stored %+v are held; it is deleted: %v", got, queued)
	}
}

// Where no file says whose an address is, the first host that surveys from it has it, and
// no other may speak of its paths; until its surveys do not count any more.
func TestAddressesOfNoFileAreTheFirstHosts(t *testing.T) {
	top := smallClos(t)
	none, err := topology.New("lab", nil, nil, nil)
	must(t, err)
	now := time.Unix(1_800_000_000, 0)
	cfg := DefaultConfig()
	cfg.Topology = none
	c, err := New(cfg, Deps{Now: func() time.Time { return now }})
	must(t, err)
	c.Unfiled()
	seq := uint64(0)
	take := func(producer, src, dst string) {
		s := surveyOf(t, top, src, dst, now)
		seq++
		s.Origin.Producer, s.Origin.Seq = producer, seq
		c.take(&decafpb.Batch{Surveys: []*decafpb.Survey{s}})
	}
	name := func() string {
		got, err := c.Learned(t.Context(), 0)
		must(t, err)
		h, ok := top.Host(h0)
		if !ok || got.Topology == nil {
			t.Fatal("nothing is learned")
		}
		l, _ := got.Topology.HostAt(h.Addresses[0])
		return l.Name
	}
	take(h0, h0, h1)
	take(h0, h0, h2)
	take("thief", h0, h1)
	take("thief", h0, "p1-tor1-h1")
	if got := c.Surveys(); got.Held != 2 || got.Foreign != 2 || name() != h0 {
		t.Errorf("%+v, and the host is %s", got, name())
	}
	// Its surveys taken anew count once.
	now = now.Add(time.Hour)
	take(h0, h0, h1)
	take(h0, h0, h2)
	now = now.Add(time.Duration(SurveyAge) + time.Second)
	take("heir", h0, h2)
	if got := c.Surveys(); got.Held != 1 || name() != "heir" {
		t.Errorf("after two days %+v, and the host is %s", got, name())
	}
}

// runUnfiled runs a correlator with a topology that was learned.
func (b *bench) runUnfiled(top *topology.Topology) (c *Correlator, stop func()) {
	cfg := DefaultConfig()
	cfg.Topology, cfg.Site = top, b.topo.Site
	c, err := New(cfg, Deps{Conn: b.conn, Log: quiet(), Now: b.now})
	must(b.t, err)
	c.Unfiled()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Errorf("run: %v", err)
		}
	})
	b.t.Cleanup(stop)
	b.until("ready", func() bool { return c.Ready() == nil })
	return c, stop
}

// A correlator with a learned topology does not go on with a finding of what that does
// not have; with all others it does. A file's word ends none, nor does one with nothing
// in it.
func TestFindingsOfWhatIsNoMoreEnd(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	link := b.topo.LinkBetween("p0-t1-0", "t2-1")[0]
	kept, gone := "link "+link.Name, "device nobody"
	now := uint64(time.Now().UnixNano())
	kv, err := b.conn.KV(bus.BucketFindings)
	must(t, err)
	for i, component := range []string{kept, gone} {
		id := newID("f")
		must(t, write(t.Context(), kv, id, &decafpb.Finding{Id: id, Component: component, FromNs: now - uint64(i+1), DetectedNs: now, LastNs: now, Flows: 5}))
	}
	c, stop := b.start()
	open := func() (list []string) {
		fs, err := c.Findings(t.Context(), api.Range{})
		must(t, err)
		for _, f := range fs {
			if f.GetResolvedNs() == 0 {
				list = append(list, f.GetComponent())
			} else if f.GetComponent() == gone && len(f.GetEvidence().GetReasons()) == 0 {
				t.Error("nothing says why it ended")
			}
		}
		return list
	}
	if got := open(); len(got) != 2 {
		t.Fatalf("open are %v", got)
	}
	stop()
	none, err := topology.New(b.topo.Site, nil, nil, nil)
	must(t, err)
	c, stop = b.runUnfiled(none)
	if got := open(); len(got) != 2 {
		t.Fatalf("by a topology without anything open are %v", got)
	}
	stop()
	for range 2 {
		c, stop = b.runUnfiled(b.topo)
		if got := open(); len(got) != 1 || got[0] != kept {
			t.Errorf("open are %v, want %s alone", got, kept)
		}
		stop()
	}
	stored, err := recordsOf[decafpb.Finding](t.Context(), kv, quiet())
	must(t, err)
	for _, f := range stored {
		if resolved := f.GetResolvedNs() != 0; resolved != (f.GetComponent() == gone) {
			t.Errorf("stored of %s: resolved %v", f.GetComponent(), resolved)
		}
	}
}

// Hosts that no file lists are there as soon as they are heard of, to be told what to
// survey; devices are not, nor is anybody where a file lists them.
func TestHostsOfNoFileAreHeardOf(t *testing.T) {
	for _, unfiled := range []bool{true, false} {
		cfg := DefaultConfig()
		cfg.Topology = smallClos(t)
		c, err := New(cfg, Deps{Now: func() time.Time { return time.Unix(1_800_000_000, 0) }})
		must(t, err)
		if unfiled {
			c.Unfiled()
		}
		for i, name := range []string{h0, "newcomer", "switch"} {
			role := "host"
			if name == "switch" {
				role = "device"
			}
			c.take(&decafpb.Batch{Heartbeats: []*decafpb.Heartbeat{{
				Origin: &decafpb.Origin{Producer: name, BootId: 1, Seq: uint64(i + 1)}, TimeNs: uint64(1_799_999_999e9), Role: role,
			}}})
		}
		want := map[string]int64{h0: 1_799_999_999e9}
		if unfiled {
			want["newcomer"] = 1_799_999_999e9
		}
		if got := c.Hosts(); !maps.Equal(got, want) {
			t.Errorf("without a file %v: heard of are %v, want %v", unfiled, got, want)
		}
	}
}

// What could not be stored by the end of Run, since NATS was away, is stored when it is
// back, before another correlator goes on.
func TestWhatIsLeftToSaveIsSavedWhenNATSReturns(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	c, stop := b.start()
	listen := strings.TrimPrefix(b.url, "tls://")
	b.server.Stop()
	b.until("not ready", func() bool { return c.Ready() != nil })
	f := &decafpb.Finding{Id: "f-last", Component: "device nobody", FromNs: 1}
	c.saves.put(saveFinding, f.Id, f)
	stop()
	given, giveUp := context.WithCancel(t.Context())
	giveUp()
	c.Flush(given) // ends though nothing is stored
	flushed := make(chan struct{})
	go func() { defer close(flushed); c.Flush(t.Context()) }()
	b.startNATS(listen)
	b.until("all is stored", func() bool {
		select {
		case <-flushed:
			return true
		default:
			return false
		}
	})
	kv, err := b.conn.KV(bus.BucketFindings)
	must(t, err)
	list, err := recordsOf[decafpb.Finding](t.Context(), kv, quiet())
	must(t, err)
	if len(list) != 1 || !proto.Equal(list[0], f) {
		t.Errorf("stored are %v, want %v", list, f)
	}
}

// noticed is a log that tells of each line.
type noticed chan string

func (n noticed) Write(line []byte) (int, error) {
	n <- string(line)
	return len(line), nil
}

// Where the buckets cannot be read, as when NATS is about to go or has just come, Run
// tries again; for good it does not.
func TestRunTriesAgainWhereBucketsCannotBeRead(t *testing.T) {
	t.Parallel()
	server, err := bus.StartServer(bus.ServerConfig{Listen: "127.0.0.1:0", Dir: t.TempDir(), Site: "lab", MaxBytes: 256 << 20}, quiet())
	must(t, err)
	t.Cleanup(server.Stop)
	conn, err := bus.Connect(t.Context(), bus.ConnConfig{Server: server, Name: "admin.decaf", Site: "lab", MaxBytes: 256 << 20}, quiet())
	must(t, err)
	t.Cleanup(conn.Close)
	up, giveUp := context.WithTimeout(t.Context(), 20*time.Second)
	defer giveUp()
	must(t, conn.WaitReady(up))
	cfg := DefaultConfig()
	cfg.Topology, cfg.Site = smallClos(t), "lab"
	run := func(ctx context.Context) (c *Correlator, lines noticed, done chan error) {
		lines, done = make(noticed, 100), make(chan error, 1)
		c, err := New(cfg, Deps{Conn: conn, Log: slog.New(slog.NewTextHandler(lines, nil))})
		must(t, err)
		go func() { done <- c.Run(ctx) }()
		return c, lines, done
	}
	_, _, done := run(t.Context())
	if err := <-done; err == nil || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("without buckets: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	c, lines, done := run(ctx)
	select {
	case line := <-lines:
		if !strings.Contains(line, "will try again") {
			t.Errorf("said is %s", line)
		}
	case err := <-done:
		t.Fatalf("it does not try again: %v", err)
	}
	must(t, conn.EnsureStreams(ctx))
	for c.Ready() != nil {
		select {
		case err := <-done:
			t.Fatal(err)
		case <-time.After(10 * time.Millisecond):
		}
	}
	cancel()
	must(t, <-done)
}

// A correlator that has ended says of agents what it knew then: until another goes on
// they are not silent for its not listening.
func TestAgentsOfOneThatHasEnded(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var ahead atomic.Int64
	b.now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	c, stop := b.start()
	fresh := func() bool {
		rows, err := c.Agents(t.Context())
		must(t, err)
		for _, r := range rows {
			if r.Name == h0 {
				return r.Fresh
			}
		}
		return false
	}
	b.heartbeats(time.Now().Add(-4*time.Second), time.Now())
	b.until("a host is heard", fresh)
	stop()
	ahead.Store(int64(time.Hour))
	if !fresh() {
		t.Error("it is silent")
	}
}
