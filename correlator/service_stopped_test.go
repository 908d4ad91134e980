package correlator

import (
	"testing"
	"time"

	"decaf/api"
	"decaf/api/bus"
	"decaf/api/decafpb"

	"google.golang.org/protobuf/proto"
)

// While no correlator runs, NATS stores what hosts see: a fault that comes and goes then
// is found after the start, with the times that it had. What was found before the stop
// is not found again, nor is anything by what an earlier run had looked at.
func TestFaultWhileNoCorrelatorRuns(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.config = func(c *Config) { c.Engine.Late.Quiet, c.Engine.Late.PerStep, c.Engine.Report.Grace = 1e9, 50, 0 }
	// The first run is of a while ago.
	const ago = 150 * time.Second
	b.now = func() time.Time { return time.Now().Add(-ago) }
	now := b.now().UnixNano()
	one, two := linkOf(t, b.topo, "p1-t1-1>p1-tor0"), linkOf(t, b.topo, "p0-t1-0>t2-1")

	c, stop := b.start()
	before := fault{link: one, rate: .1, at: now - 70*second, end: now - 40*second}
	fb := newFabric(b.topo, 3, before)
	b.publishStored(fb.run(before.at-20*second, before.end+10*second))
	findings := func() []*decafpb.Finding {
		fs, err := c.Findings(t.Context(), api.Range{})
		must(t, err)
		return fs
	}
	b.until("the first fault is found", func() bool { return len(findings()) == 1 })
	first := findings()[0]
	looked := func() int64 {
		kv, err := b.conn.KV(bus.BucketLeases)
		must(t, err)
		e, err := kv.Get(t.Context(), seenKey)
		if err != nil {
			return 0
		}
		var h decafpb.Heartbeat
		must(t, proto.Unmarshal(e.Value(), &h))
		return int64(h.GetTimeNs())
	}
	stop()
	stopped := looked()
	if stopped < now {
		t.Fatalf("looked at until %v; it is %v", time.Unix(0, stopped), time.Unix(0, now))
	}

	// Nobody looks while this is told of, in time.
	b.now = time.Now
	gone := fault{link: two, rate: .1, at: now + 50*second, end: now + 80*second}
	late := newFabric(b.topo, 4, gone)
	late.seqs, late.port, late.cookie = fb.seqs, fb.port, fb.cookie
	stored := b.stored()
	b.publishStored(late.run(gone.at-20*second, gone.end+10*second))
	b.heartbeats(time.Unix(0, gone.at-20*second), time.Unix(0, gone.end+10*second))
	b.until("all is stored", func() bool { return b.stored() > stored && b.unsent() == 0 })

	c, stop = b.start()
	b.until("the fault of meanwhile is found", func() bool { return len(findings()) > 1 })
	idle := func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.engine.late.looksFrom() == 0 && c.engine.late.look == nil && !c.unread
	}
	b.until("the look is over", idle)
	fs := findings()
	if len(fs) != 2 {
		for _, f := range fs {
			t.Errorf("%s from %v to %v, late %v, found at %v", f.GetComponent(), time.Unix(0, int64(f.GetFromNs())), time.Unix(0, int64(f.GetLastNs())), f.GetLate(), time.Unix(0, int64(f.GetDetectedNs())))
		}
		t.FailNow()
	}
	for _, f := range fs {
		from, last := int64(f.GetFromNs()), int64(f.GetLastNs())
		want := gone
		if f.GetId() == first.GetId() {
			want = before
		} else if int64(f.GetDetectedNs()) < stopped {
			t.Errorf("found at %v", time.Unix(0, int64(f.GetDetectedNs())))
		}
		if f.GetComponent() != "link "+want.link.Name || !f.GetLate() || f.GetResolvedNs() != f.GetLastNs() ||
			from < want.at-5*second || from > want.at+10*second || last < want.end-10*second || last > want.end+10*second {
			t.Errorf("%s from %.1f s to %.1f s after it began, late %v", f.GetComponent(), float64(from-want.at)/1e9, float64(last-want.at)/1e9, f.GetLate())
		}
	}
	if st := c.Stats().Late; st.Looks == 0 || st.Findings != 1 {
		t.Errorf("%+v", st)
	}

	// Nothing is left for a third run to look at.
	stop()
	c, _ = b.start()
	b.until("what is stored is read", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return !c.unread && c.engine.store.Stats().Retransmits > 0
	})
	if fs := findings(); len(fs) != 2 {
		t.Errorf("a third run finds %d", len(fs))
	}
	if st := c.Stats().Late; st.Findings != 0 {
		t.Errorf("%+v", st)
	}
}

// publishStored sends the arrivals of a fabric of the mind as if each had been stored when
// it arrived.
func (b *bench) publishStored(arrivals []arrival) {
	for _, a := range arrivals {
		for _, r := range a.batch.GetRetransmits() {
			p := b.hosts[r.GetOrigin().GetProducer()]
			r.Origin, r.ReceivedNs = nil, uint64(a.at)
			p.Publish(r)
		}
	}
}

// stored is how many records of hosts NATS has taken, and unsent how many it has not.
func (b *bench) stored() (n uint64) {
	for _, p := range b.hosts {
		n += p.Stats().Stored
	}
	return n
}

func (b *bench) unsent() (n uint64) {
	for _, p := range b.hosts {
		st := p.Stats()
		n += st.Records - st.Stored
	}
	return n
}
