package correlator

import (
	"strings"
	"testing"

	"decaf/api/decafpb"

	"google.golang.org/protobuf/proto"
)

// outage is a run in which nothing arrives from a moment on, and all of it at once
// at another, the oldest first.
func outage(list []arrival, from, to int64) (out []arrival) {
	var held []arrival
	for _, a := range list {
		if a.at >= from && a.at < to {
			held = append(held, a)
		}
	}
	n := 0
	for _, a := range list {
		switch {
		case a.at < from:
			out = append(out, a)
		case a.at < to:
			// They come within three seconds.
			out = append(out, arrival{to + int64(n)*3*second/int64(len(held)), stored(a.batch, to)})
			n++
		default:
			out = append(out, arrival{max(a.at, to+3*second), a.batch})
		}
	}
	return out
}

// stored is a batch as it is stored at this moment. What a device told of was
// received by its collector, before.
func stored(b *decafpb.Batch, at int64) *decafpb.Batch {
	b = proto.CloneOf(b)
	for _, r := range b.GetRetransmits() {
		r.ReceivedNs = uint64(at)
	}
	for _, d := range b.GetDrops() {
		d.ReceivedNs = d.GetTimeNs() + 20e6
	}
	return b
}

// A fault of two minutes within ten minutes without NATS is found when all that the
// agents had to say comes after them: what it is, from when to when, and nothing
// beside it. A fault that begins after is found as soon and as rightly as without.
func TestFaultWithinOutage(t *testing.T) {
	t.Parallel()
	topo := smallClos(t)
	const gone, back = 100 * second, 700 * second
	const at, end = 340 * second, 460 * second
	const then, until = 720 * second, 810 * second
	for _, c := range []struct {
		name   string
		past   *fault
		want   string
		class  string
		method Method
		alone  bool // compared with the same without what came late
	}{
		{"silent loss on a link", &fault{link: linkOf(t, topo, "p0-t1-0>t2-1"), rate: .05}, "link p0-t1-0>t2-1", classUnknown, nil, true},
		{"the same by votes", &fault{link: linkOf(t, topo, "p0-t1-0>t2-1"), rate: .05}, "link p0-t1-0>t2-1", classUnknown, Vote{Rule: DefaultRule()}, false},
		{"an access list", &fault{device: "t2-0", class: "policy/l3/acl", rate: .5}, "device t2-0", "policy/l3/acl", nil, false},
		{"a device that went", &fault{device: "t2-0", class: "errors/l2/tx", down: true}, "device t2-0", classDown, nil, true},
		{"nothing", nil, "", "", nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			live := fault{link: linkOf(t, topo, "p1-t1-1>p1-tor0"), rate: .05, at: then, end: until}
			faults := []fault{live}
			if c.past != nil {
				c.past.at, c.past.end = at, end
				faults = append(faults, *c.past)
			}
			fb := newFabric(topo, 11, faults...)
			fb.connections = 25
			arrivals := fb.run(gone-20*second, until)
			e := playWith(c.method, topo, outage(arrivals, gone, back), until)
			fs := components(e)
			want := 1
			if c.want != "" {
				want = 2
				f := fs[c.want]
				if f == nil {
					t.Errorf("not found: %+v", e.late.stats)
					f = &decafpb.Finding{}
				}
				from, last := int64(f.GetFromNs()), int64(f.GetLastNs())
				if from < at-5*second || from > at+10*second || last < end-20*second || last > end+10*second || f.GetResolvedNs() != f.GetLastNs() {
					t.Errorf("from %.1f s to %.1f s, resolved %.1f s", float64(from)/1e9, float64(last)/1e9, float64(f.GetResolvedNs())/1e9)
				}
				if detected := int64(f.GetDetectedNs()); !f.GetLate() || detected < back || detected > back+100*second {
					t.Errorf("late %v, at %.1f s", f.GetLate(), float64(detected)/1e9)
				}
				if f.GetClass() != c.class || !strings.Contains(strings.Join(f.GetEvidence().GetReasons(), "\n"), "found late") {
					t.Errorf("class %q, %v", f.GetClass(), f.GetEvidence().GetReasons())
				}
				if d := f.GetEvidence().GetDropCount(); !unseen(c.class) && d == 0 {
					t.Error("no drop is shown")
				}
			}
			if len(fs) != want || len(e.Findings()) != want {
				for _, f := range e.Findings() {
					t.Errorf("%s %s from %.1f s to %.1f s, found at %.1f s", f.GetComponent(), f.GetClass(), float64(f.GetFromNs())/1e9, float64(f.GetLastNs())/1e9, float64(f.GetDetectedNs())/1e9)
				}
			}

			for _, x := range e.Epochs() {
				if c.want != "" && x.Ranking.Start >= at && x.Ranking.End <= end && x.Lossy+x.Joined == 0 {
					t.Errorf("the epoch of %d s shows no loss", x.Ranking.Start/second)
				}
			}
			if !c.alone {
				return
			}
			var rest []arrival
			for _, a := range outage(arrivals, gone, back) {
				if a.at < gone || a.at >= back+3*second {
					rest = append(rest, a)
				}
			}
			alone := components(playWith(c.method, topo, rest, until))["link "+live.link.Name]
			with := fs["link "+live.link.Name]
			if alone == nil || with == nil {
				t.Fatalf("the live fault is named %v, and %v without what came late", with != nil, alone != nil)
			}
			if diff := int64(with.GetDetectedNs()) - int64(alone.GetDetectedNs()); diff < -second || diff > second || with.GetLate() {
				t.Errorf("named after %.2f s; without what came late after %.2f s", float64(int64(with.GetDetectedNs())-then)/1e9, float64(int64(alone.GetDetectedNs())-then)/1e9)
			}
		})
	}
}

// A fault that goes on through an outage of half a minute is one finding, which
// begins when it began.
func TestFaultThroughOutage(t *testing.T) {
	t.Parallel()
	topo := smallClos(t)
	const at, gone, back, end = 105 * second, 100 * second, 160 * second, 200 * second
	l := linkOf(t, topo, "p0-t1-0>t2-1")
	fb := newFabric(topo, 3, fault{link: l, rate: .05, at: at, end: end})
	arrivals := outage(fb.run(gone-20*second, end+10*second), gone, back)
	e := playWith(nil, topo, arrivals, end+60*second)
	fs := e.Findings()
	if len(fs) != 1 || fs[0].GetComponent() != "link "+l.Name {
		for _, f := range fs {
			t.Errorf("%s from %.1f s to %.1f s, found at %.1f s", f.GetComponent(), float64(f.GetFromNs())/1e9, float64(f.GetLastNs())/1e9, float64(f.GetDetectedNs())/1e9)
		}
		t.FailNow()
	}
	f := fs[0]
	if from, last := int64(f.GetFromNs()), int64(f.GetLastNs()); from > at+5*second || last < end-5*second || f.GetLate() {
		t.Errorf("from %.1f s to %.1f s, late %v", float64(from)/1e9, float64(last)/1e9, f.GetLate())
	}
}

// What is older than evidence is held is counted and no reason to look; what an
// earlier run may have looked at is none either.
func TestLateIsBounded(t *testing.T) {
	t.Parallel()
	topo := smallClos(t)
	const now = 10_000 * second
	e := NewEngine(DefaultEngineConfig(), topo, nil, counter("f"))
	record := func(e *Engine, at, received, now int64) { e.lateRecord(at, now, e.store.overdue(at, received, now)) }
	record(e, now-600*second, now-599*second, now) // stored in time, before the start
	if e.late.stats.Records != 0 {
		t.Errorf("%+v", e.late.stats)
	}
	record(e, now-600*second, now-second, now)
	if e.late.stats.Records != 1 || e.late.from != now-600*second {
		t.Errorf("%+v", e.late)
	}
	e.store.started = true
	record(e, now-3600*second, 0, now)
	record(e, now-10*second, 0, now)
	record(e, now-300*second, 0, now+second)
	if st := e.late.stats; st.Records != 3 || st.TooOld != 1 || e.late.from != now-600*second || e.late.to != now-300*second {
		t.Errorf("%+v", e.late)
	}
	// What is late at first keeps the live window waiting for the rest; what goes on to
	// be late does not.
	if !e.late.pouring(now + second) {
		t.Error("late evidence came, and the rest is not waited for")
	}
	slow := NewEngine(DefaultEngineConfig(), topo, nil, counter("f"))
	slow.store.started = true
	for i := range int64(200) {
		at := now + i*second/2
		record(slow, at-60*second, 0, at)
		if slow.late.pouring(at) != (i*second/2 < pourMost) {
			t.Fatalf("after %d half seconds: waits %v", i, slow.late.pouring(at))
		}
	}
	// The look ends, and leaves nothing behind it.
	for at := now + second; at < now+120*second; at += stepEvery {
		e.Step(at)
	}
	if e.late.look != nil || e.late.from != 0 || e.late.stats.Looks != 1 || e.store.connsFrom != 0 || len(e.Findings()) != 0 {
		t.Errorf("%+v", e.late)
	}
	if n := len(e.Epochs()); n > maxEpochs {
		t.Errorf("%d epochs", n)
	}
}

// What of a device's word is late: it was long on its way from the collector, or told
// of when no live window reached it any more; a clock that is wrong by less is none.
func TestLateWordOfDevices(t *testing.T) {
	t.Parallel()
	const now = 1000 * second
	for _, c := range []struct {
		name         string
		started      bool
		at, received int64
		want         bool
	}{
		{"at once", true, now - second, now, false},
		{"without a receipt", true, now - second, 0, false},
		{"of a slow clock", true, now - 20*second, now - second, false},
		{"of a device that was not reached", true, now - 40*second, now - second, true},
		{"kept by the collector", true, now - 21*second, now - 20*second, true},
		{"stored before the start", false, now - 21*second, now - 20*second, false},
		{"of a device that was not reached, before the start", false, now - 90*second, now - 20*second, true},
	} {
		s := NewStore(smallClos(t), DefaultStoreLimits())
		s.started = c.started
		if got := s.overdueTold(c.at, c.received, now); got != c.want {
			t.Errorf("%s: late %v", c.name, got)
		}
	}
}
