package correlator

import (
	"strings"
	"testing"
	"time"

	"decaf/api"
	"decaf/api/decafpb"
)

// A device says over gNMI that its fuse is off, or that it ignores a class, and its
// silence counts no longer; then that all is as before, and it does again.
func TestDeviceThatTellsLess(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	c, _ := b.start()
	row := func() api.AgentRow {
		rows, err := c.Agents(t.Context())
		must(t, err)
		for _, r := range rows {
			if r.Name == instrumented {
				return r
			}
		}
		t.Fatal("the device is not listed")
		return api.AgentRow{}
	}
	watched := func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		now := c.now().UnixNano()
		return len(c.agents.watching(now, now)) == 1 && len(c.agents.heard(now, now)) == 1
	}
	set := func(fuse string, merged uint64, unreported ...string) {
		s := *b.state.Load()
		s.Fuse, s.AggregatesMerged, s.Unreported = fuse, merged, unreported
		b.state.Store(&s)
	}
	b.until("it is a witness", func() bool { return row().Reports == "full" && watched() })
	set("off", 7)
	b.until("its fuse is off", func() bool {
		r := row()
		return r.Reports == "off" && r.Fresh && r.Counters["aggregates_merged"] == 7 && !watched()
	})
	set("aggregates", 7, "policy/l3/acl")
	b.until("it ignores a class", func() bool { return row().Reports == "aggregates but policy/l3/acl" && !watched() })
	set("aggregates", 7)
	b.until("it is a witness by aggregates", func() bool { return row().Reports == "aggregates" && watched() })
}

// While NATS is away hosts see a fault begin and end, and a user tells of it in vain.
// When NATS returns, the fault is found by what their agents kept, with the times that
// it had, and the report has its answer, though it was final.
func TestEvidenceOfAnOutage(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.config = func(c *Config) {
		c.Engine.Late.Quiet, c.Engine.Late.PerStep, c.Engine.Report.Grace = 1e9, 50, 0
	}
	c, _ := b.start()
	now := time.Now()
	at, end := now.UnixNano()-90*second, now.UnixNano()-60*second
	r, err := c.FileReport(t.Context(), &decafpb.FaultReport{Src: "p0-tor0-h0", Dst: "p1-tor1-h1", FromNs: uint64(at), ToNs: uint64(end)})
	must(t, err)
	if v := r.GetVerdict(); v.GetVerdict() != verdictInsufficient || !v.GetFinal() {
		t.Fatalf("verdict %v", v)
	}
	listen := strings.TrimPrefix(b.url, "tls://")
	b.server.Stop()
	b.until("not ready", func() bool { return c.Ready() != nil })
	fb := newFabric(b.topo, 3, fault{link: linkOf(t, b.topo, "p0-t1-0>t2-1"), rate: .1, at: at, end: end})
	b.publish(fb.run(at-20*second, end+10*second))
	b.heartbeats(time.Unix(0, at-20*second), time.Unix(0, end+10*second))
	b.startNATS(listen)
	b.until("ready again", func() bool { return c.Ready() == nil })
	var f *decafpb.Finding
	b.until("the fault is found", func() bool {
		fs, err := c.Findings(t.Context(), api.Range{})
		must(t, err)
		for _, x := range fs {
			if f = x; x.GetComponent() != "link p0-t1-0>t2-1" {
				t.Fatalf("named %s, %v", x.GetComponent(), x.GetEvidence().GetReasons())
			}
		}
		return len(fs) == 1
	})
	if from, last := int64(f.GetFromNs()), int64(f.GetLastNs()); !f.GetLate() || from < at-5*second || from > at+10*second || last < end-10*second || last > end+10*second ||
		f.GetResolvedNs() != f.GetLastNs() || int64(f.GetDetectedNs()) < now.UnixNano() {
		t.Errorf("from %v, last %v, %v", time.Unix(0, from), time.Unix(0, last), f)
	}
	b.until("the report is answered", func() bool {
		r, err := c.Report(t.Context(), r.GetId())
		must(t, err)
		return r.GetVerdict().GetVerdict() == verdictNetwork && r.GetVerdict().GetFinding() == f.GetId() && r.GetVerdict().GetFinal()
	})
	if st := c.Stats().Late; st.Findings != 1 || st.Records == 0 {
		t.Errorf("%+v", st)
	}
}
