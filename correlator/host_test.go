package correlator

import (
	"slices"
	"strings"
	"testing"

	"decaf/api/decafpb"
	"decaf/topology"
)

// told makes one record of each pair of hosts, with what a function changes of it.
func told(topo *topology.Topology, change func(src, dst string, r *ConnRecord)) (rows []ConnRecord) {
	for i, src := range topo.Hosts {
		for j, dst := range topo.Hosts {
			if i == j {
				continue
			}
			r := ConnRecord{Src: int32(i), Dst: int32(j), Start: 90 * second, End: 100 * second, Flows: 14, Timed: 14, RTT: 14 * 0.5e6}
			change(src.Name, dst.Name, &r)
			rows = append(rows, r)
		}
	}
	return rows
}

// Which troubles are a host's own, and which are not.
func TestHostRule(t *testing.T) {
	t.Parallel()
	topo := smallClos(t)
	const h = "p0-tor0-h0"
	for _, c := range []struct {
		name   string
		change func(src, dst string, r *ConnRecord)
		want   []string // component and class
	}{
		{"nothing", func(_, _ string, _ *ConnRecord) {}, nil},
		{"it resets half", func(_, dst string, r *ConnRecord) {
			if dst == h {
				r.Resets = 7
			}
		}, []string{"host p0-tor0-h0 host/reset"}},
		{"one client is reset", func(src, dst string, r *ConnRecord) {
			if dst == h && src == "p1-tor0-h0" {
				r.Resets = 14
			}
		}, nil},
		{"one client is reset everywhere", func(src, _ string, r *ConnRecord) {
			if src == "p1-tor0-h0" {
				r.Resets = 14
			}
		}, nil},
		{"everyone resets a tenth", func(_, _ string, r *ConnRecord) { r.Resets = 1.4 }, nil},
		{"everyone resets all", func(_, _ string, r *ConnRecord) { r.Resets = 14 }, nil},
		{"few resets", func(_, dst string, r *ConnRecord) {
			if dst == h {
				r.Resets = 0.5
			}
		}, nil},
		{"nobody gets through to it", func(_, dst string, r *ConnRecord) {
			if dst == h {
				r.Flows, r.Timed, r.RTT = 0, 0, 0
			}
		}, nil},
		{"it does not read", func(_, dst string, r *ConnRecord) {
			if dst == h {
				r.Zero = 14 * 300e6
			}
		}, []string{"host p0-tor0-h0 host/zero-window"}},
		{"it reads a little late", func(_, dst string, r *ConnRecord) {
			if dst == h {
				r.Zero = 14 * 15e6
			}
		}, nil},
		{"nobody reads", func(_, _ string, r *ConnRecord) { r.Zero = 14 * 300e6 }, nil},
		{"one client's flows are not read", func(src, dst string, r *ConnRecord) {
			if dst == h && src == "p1-tor0-h0" {
				r.Zero = 14 * 5e9
			}
		}, nil},
		{"it sends late", func(src, dst string, r *ConnRecord) {
			if src == h || dst == h {
				r.RTT = 14 * 150e6
			}
		}, []string{"host p0-tor0-h0 host/slow"}},
		{"its rack sends late", func(src, _ string, r *ConnRecord) {
			if strings.HasPrefix(src, "p0-tor0") {
				r.RTT = 14 * 150e6
			}
		}, nil},
		{"the way to the other pod is slow for half", func(src, dst string, r *ConnRecord) {
			if src[:2] != dst[:2] {
				r.RTT = 14 * 25e6
			}
		}, nil},
		{"all is slow", func(_, _ string, r *ConnRecord) { r.RTT = 14 * 150e6 }, nil},
		{"it is slow to one host", func(src, dst string, r *ConnRecord) {
			if src == h && dst == "p1-tor0-h0" {
				r.RTT = 14 * 2e9
			}
		}, nil},
		{"it is a little slow", func(src, _ string, r *ConnRecord) {
			if src == h {
				r.RTT = 14 * 4e6
			}
		}, nil},
		{"it reset some a while ago", func(_, dst string, r *ConnRecord) {
			if dst == h {
				r.Resets, r.Start, r.End = 7, 80*second, 90*second
			}
		}, nil},
		{"it was slow long ago", func(src, _ string, r *ConnRecord) {
			if src == h {
				r.RTT, r.Start, r.End = 14*150e6, 10*second, 20*second
			}
		}, nil},
		{"hardly a connection", func(src, dst string, r *ConnRecord) {
			r.Flows, r.Timed, r.RTT = 1, 1, 0.5e6
			if src == h {
				r.RTT = 150e6
			}
			if dst == h {
				r.Zero = 2e9
			}
		}, nil},
	} {
		var got []string
		for _, c := range DefaultHostRule().accuse(topo, told(topo, c.change), 105*second, func(string) bool { return false }) {
			if !c.Opens {
				continue
			}
			got = append(got, c.Component.String()+" "+c.Class)
			if c.Method != methodHost || c.First == 0 || c.Last != 100*second || len(c.Hosts) < 2 || len(c.Reasons) == 0 {
				t.Errorf("%+v", c)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: named %v, want %v", c.name, got, c.want)
		}
	}
	slow := told(topo, func(src, _ string, r *ConnRecord) {
		if src == h {
			r.RTT = 14 * 150e6
		}
	})
	if got := DefaultHostRule().accuse(topo, slow, 105*second, func(host string) bool { return host == h }); len(got) != 0 {
		t.Errorf("named %v, whose own link may be at fault", got)
	}
}

// Hosts tell ahead of what waits at a closed window. That is enough to name a host,
// if those that say nothing, and what was before, do not speak against it.
func TestClosedWindowsAreNamedEarly(t *testing.T) {
	t.Parallel()
	topo := smallClos(t)
	const h = "p0-tor0-h0"
	// Tables of 30 s, and what is told after their end by some: 8 connections each, so
	// that two hosts' are enough, and how long each of these waited.
	now := 108 * second
	early := func(name string, service bool, peers int, zero float64, busy float64, to func(dst string) bool, want ...string) {
		t.Helper()
		rows := told(topo, func(_, _ string, r *ConnRecord) { r.Start, r.Flows, r.Service = 70*second, busy, service })
		for i := range topo.Hosts {
			n := 0
			for j, dst := range topo.Hosts {
				if i != j && to(dst.Name) && i <= peers {
					rows = append(rows, ConnRecord{Src: int32(i), Dst: int32(j), Start: int64(103+n%4) * second, End: int64(104+n%4) * second, Flows: 8, Zero: 8 * zero, Service: service})
					n++
				}
			}
		}
		var got []string
		for _, c := range DefaultHostRule().accuse(topo, rows, now, func(string) bool { return false }) {
			got = append(got, c.Component.String()+" "+c.Class)
			if !c.Opens || c.First < 103*second || len(c.Hosts) != peers {
				t.Errorf("%s: %+v", name, c)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: named %v, want %v", name, got, want)
		}
	}
	itself := func(dst string) bool { return dst == h }
	if topo.Hosts[0].Name != h {
		t.Fatalf("the first host is %s", topo.Hosts[0].Name)
	}
	for _, service := range []bool{false, true} {
		early("three of seven wait", service, 3, 150e6, 60, itself, "host p0-tor0-h0 host/zero-window")
		early("all wait", service, 7, 150e6, 60, itself, "host p0-tor0-h0 host/zero-window")
		early("two of seven wait", service, 2, 900e6, 60, itself)
		early("three wait a little", service, 3, 40e6, 60, itself)
		early("three wait, and many connections of the others do not", service, 3, 150e6, 200, itself)
		early("all wait everywhere", service, 7, 150e6, 60, func(string) bool { return true })
	}

	// Tables of 5 s: three of seven wait, two of 14 connections each 420 ms, after as many of
	// each had been well.
	rows := told(topo, func(_, _ string, _ *ConnRecord) {})
	rows = append(rows, told(topo, func(src, dst string, r *ConnRecord) {
		r.Start, r.End = 100*second, 105*second
		if dst == h && (src == "p0-tor1-h0" || src == "p1-tor0-h0" || src == "p1-tor1-h0") {
			r.Zero = 14 * 60e6
		}
	})...)
	rule := DefaultHostRule()
	find := func() []Candidate {
		return rule.accuse(topo, rows, 105*second+second/2, func(string) bool { return false })
	}
	if got := find(); len(got) != 1 || got[0].Class != classHostZero || !got[0].Opens {
		t.Errorf("named %+v, want the host that does not read", got)
	}
	if rule.Early = 0; len(find()) != 0 {
		t.Errorf("named %+v by what was well as much as by what was not", find())
	}
}

// What is told ahead of a table is what is held up. The connections of the same host
// that are not, to the same other and to all others, count as if they were told of.
func TestWhatIsToldAheadIsNotAll(t *testing.T) {
	t.Parallel()
	topo := smallClos(t)
	const h = "p0-tor0-h0"
	index := make(map[string]int32)
	for i, x := range topo.Hosts {
		index[x.Name] = int32(i)
	}
	type ahead struct {
		src, dst          string
		resets, zero, rtt float64 // of each of 5 connections a second
	}
	var clients []string
	for _, x := range topo.Hosts {
		if x.Name != h {
			clients = append(clients, x.Name)
		}
	}
	var slowPort, resetPort, bothPorts []ahead
	for i, c := range clients[:4] {
		if i < 3 {
			slowPort = append(slowPort, ahead{c, h, 0, 100e6, 0.5e6})
		}
		resetPort = append(resetPort, ahead{c, h, 1, 60e6, 0.5e6})
	}
	for _, c := range clients {
		bothPorts = append(bothPorts, ahead{c, h, 0, 900e6, 0.5e6})
	}
	for _, c := range []struct {
		name string
		told []ahead
		// Connections in 30 s that are not held up, of each pair, and of those to the
		// server of whom nothing is told ahead.
		busy, others float64
		want         string
	}{
		{"one port of a server is slow", slowPort, 1000, 60, ""},
		{"one port of a server resets what it holds up", resetPort, 1000, 1000, ""},
		{"a client of two slow servers", []ahead{
			{h, "p1-tor0-h0", 0, 100e6, 150e6}, {h, "p1-tor1-h0", 0, 100e6, 150e6},
			{"p0-tor0-h1", "p1-tor0-h1", 0, 100e6, 0.5e6}, {"p0-tor1-h0", "p1-tor1-h1", 0, 100e6, 0.5e6}, {"p0-tor1-h1", "p0-tor0-h1", 0, 100e6, 0.5e6},
		}, 1000, 1000, ""},
		{"a server that hardly reads", bothPorts, 150, 150, "host p0-tor0-h0 host/zero-window"},
	} {
		busy := func(src, dst string) float64 {
			if dst == h && !slices.ContainsFunc(c.told, func(a ahead) bool { return a.src == src && a.dst == dst }) {
				return c.others
			}
			return c.busy
		}
		// A table of 30 s, what is told ahead every second, rows every 5 s.
		var rows []ConnRecord
		for end := 61 * second; end <= 115*second; end += second {
			for _, a := range c.told {
				rows = append(rows, ConnRecord{Src: index[a.src], Dst: index[a.dst], Start: end - second, End: end,
					Flows: 5, Resets: 5 * a.resets, Zero: 5 * a.zero, RTT: 5 * a.rtt, Timed: 5, Service: true})
			}
			if end == 90*second {
				rows = append(rows, told(topo, func(src, dst string, r *ConnRecord) {
					r.Start, r.End, r.Service = 60*second, end, true
					r.Flows, r.Timed, r.RTT = busy(src, dst), busy(src, dst), busy(src, dst)*0.5e6
				})...)
			}
			if end%(5*second) == 0 {
				rows = append(rows, told(topo, func(src, dst string, r *ConnRecord) {
					r.Start, r.End, r.Flows, r.Timed, r.RTT = end-5*second, end, busy(src, dst)/6, 0, 0
				})...)
			}
		}
		for now := 90*second + second/2; now < 116*second; now += second {
			until := slices.DeleteFunc(slices.Clone(rows), func(r ConnRecord) bool { return r.End > now })
			var got []string
			for _, x := range DefaultHostRule().accuse(topo, until, now, func(string) bool { return false }) {
				got = append(got, x.Component.String()+" "+x.Class)
			}
			if strings.Join(got, ", ") != c.want {
				t.Errorf("%s, %.1f s after the table: named %q, want %q", c.name, float64(now-90*second)/1e9, got, c.want)
			}
		}
	}
}

// A host that sums up its services tells of each connection twice, and it counts once.
func TestServiceSumsCountOnce(t *testing.T) {
	t.Parallel()
	rec := func(f *decafpb.FlowRecord) ConnRecord {
		c, ok := connRecord(f, 0, 1)
		if !ok {
			t.Fatalf("not told: %v", f)
		}
		return c
	}
	port := &decafpb.Flow{SrcPort: 40000, DstPort: 80}
	one := &decafpb.FlowRecord{Flow: port, State: decafpb.FlowRecord_STATE_TERMINATED, Error: errReset, RttMeanNs: 3e6, ZeroWindowNs: 5}
	refused := &decafpb.FlowRecord{Flow: port, State: decafpb.FlowRecord_STATE_FAILED, Error: 111}
	row := &decafpb.FlowRecord{Flow: &decafpb.Flow{}, Flows: 10, Packets: 100}
	service := &decafpb.FlowRecord{Flow: &decafpb.Flow{DstPort: 80}, Flows: 12, TerminatedFlows: 3, ResetsReceived: 2, FailedFlows: 1, RttMeanNs: 2e6, ZeroWindowNs: 7}
	if _, ok := connRecord(&decafpb.FlowRecord{Flow: port, Inbound: true}, 0, 1); ok {
		t.Error("the server's word on a connection is counted beside the client's")
	}
	sumBefore, sumElsewhere := rec(service), rec(service)
	sumBefore.End, sumElsewhere.Dst = -1, 2
	for _, c := range []struct {
		name string
		rows []ConnRecord
		want connSum
	}{
		{"rows and single records", []ConnRecord{rec(row), rec(one), rec(refused)}, connSum{flows: 12, resets: 1, zero: 5, rtt: 3e6, timed: 1}},
		{"with sums before", []ConnRecord{sumBefore, rec(row), rec(one)}, connSum{flows: 10}},
		{"with sums of another pair alone, these are answers", []ConnRecord{sumElsewhere, rec(row), rec(one)}, connSum{}},
		{"with sums", []ConnRecord{rec(one), rec(row), rec(refused), rec(service)}, connSum{flows: 12, resets: 2, zero: 7, rtt: 24e6, timed: 12}},
	} {
		rule := DefaultHostRule()
		var got connSum
		if s := rule.connSums(c.rows, 0, tellersOf(c.rows, -second))[pair{0, 1}]; s != nil {
			got = *s
		}
		if got.times = c.want.times; got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestConnLogIsBounded(t *testing.T) {
	t.Parallel()
	l := connLog{limit: 128}
	evicted := uint64(0)
	for i := range int64(1000) {
		evicted += l.add(ConnRecord{End: i})
	}
	if len(l.rows) > 128 || evicted != 1000-uint64(len(l.rows)) || l.came != 1000 {
		t.Errorf("%d held, %d evicted", len(l.rows), evicted)
	}
	if l.prune(995); len(l.rows) != 5 {
		t.Errorf("%d rows held that are not old", len(l.rows))
	}
}

// A host in trouble is a finding while the trouble lasts, and the answer to
// reports of its connections, each by its own word.
func TestHostFindingAnswersReports(t *testing.T) {
	t.Parallel()
	topo := smallClos(t)
	const h = "p0-tor0-h0"
	for _, c := range []struct {
		class  string
		record func(r *decafpb.FlowRecord, src, dst string)
		// verdicts on reports from and to the host
		from, to string
	}{
		{classHostReset, func(r *decafpb.FlowRecord, _, dst string) {
			if dst == h {
				r.TerminatedFlows, r.ResetsReceived = 5, 5
			}
		}, verdictSource, verdictServer},
		{classHostZero, func(r *decafpb.FlowRecord, _, dst string) {
			if dst == h {
				r.ZeroWindowNs = 3e9
			}
		}, verdictSource, verdictServer},
		{classHostSlow, func(r *decafpb.FlowRecord, src, _ string) {
			if src == h {
				r.RttMeanNs = 200e6
			}
		}, verdictSource, verdictDestination},
	} {
		e := NewEngine(DefaultEngineConfig(), topo, nil, counter("f"))
		seq := uint64(0)
		report := func(now int64) {
			for _, src := range topo.Hosts {
				for _, dst := range topo.Hosts {
					if src == dst {
						continue
					}
					seq++
					r := &decafpb.FlowRecord{Origin: &decafpb.Origin{Producer: src.Name, BootId: 1, Seq: seq},
						StartNs: uint64(now - 5*second), EndNs: uint64(now), Flows: 10, Packets: 500, RttMeanNs: 5e5,
						Flow: &decafpb.Flow{Src: src.Addresses[0].AsSlice(), Dst: dst.Addresses[0].AsSlice(), DstPort: 80, Protocol: 6}}
					if now > 110*second && now <= 130*second {
						c.record(r, src.Name, dst.Name)
					}
					e.Add(&decafpb.Batch{Flows: []*decafpb.FlowRecord{r}}, now)
				}
			}
		}
		answer := func(src, dst string) *decafpb.Verdict {
			v, err := e.Answer(&decafpb.FaultReport{Src: src, Dst: dst, FromNs: uint64(100 * second), ToNs: uint64(130 * second)},
				func(string, int64, int64) (bool, string) { return true, "" }, 130*second)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
		for now := 100 * second; now <= 170*second; now += stepEvery {
			if now%(5*second) == 0 {
				report(now)
			}
			e.Step(now)
			if now != 129*second {
				continue
			}
			for _, x := range []struct{ src, dst, want string }{{h, "p1-tor0-h0", c.from}, {"p1-tor0-h0", h, c.to}, {"p1-tor0-h0", "p1-tor1-h0", verdictNotNetwork}} {
				v := answer(x.src, x.dst)
				if v.GetVerdict() != x.want || x.want != verdictNotNetwork && (v.GetComponent() != "host "+h || v.GetClass() != c.class) {
					t.Errorf("%s: %s > %s: %v", c.class, x.src, x.dst, v)
				}
			}
		}
		fs := e.Findings()
		if len(fs) != 1 || fs[0].GetComponent() != "host "+h || fs[0].GetClass() != c.class || fs[0].GetMethod() != methodHost || len(fs[0].GetHosts()) != 7 || fs[0].GetFlows() < 70 {
			t.Fatalf("%s: findings %v", c.class, fs)
		}
		if f := fs[0]; int64(f.GetFromNs()) < 110*second || int64(f.GetDetectedNs()) > 116*second || int64(f.GetResolvedNs()) != 130*second {
			t.Errorf("%s: from %d, detected %d, resolved %d", c.class, f.GetFromNs(), f.GetDetectedNs(), f.GetResolvedNs())
		}
		if int64(fs[0].GetResolvedNs()) == 0 {
			t.Errorf("%s: never resolved", c.class)
		}
	}
}
