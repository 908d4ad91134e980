package replay

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"decaf/sim/flow"
	"decaf/sim/scenario"
	"decaf/topology"
)

func fabric(t testing.TB, spec topology.ClosSpec, seed uint64, change func(*scenario.Scenario)) *flow.Fabric {
	t.Helper()
	s := scenario.Default()
	s.Name, s.Duration = "test", 60*time.Second
	s.Fabric.ClosSpec = spec
	s.Traffic.ConnectionsPerHost = 2
	s.Noise = 1e-5
	if change != nil {
		change(s)
	}
	f, err := flow.New(s, seed, flow.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

var (
	middle    = topology.ClosSpec{Pods: 2, ToRs: 4, T1s: 4, T2s: 4, Hosts: 8}
	published = topology.ClosSpec{Pods: 2, ToRs: 20, T1s: 8, T2s: 10, Hosts: 40}
)

func someFaults(s *scenario.Scenario) {
	s.Lying = 0.2
	s.Faults = []scenario.Fault{
		{On: "link p0-tor0>p0-t1-0", Kind: "silent-loss", Rate: 0.01},
		{On: "link p0-tor1>p0-t1-1", Kind: "queue", Rate: 0.05},
		{On: "link p1-t1-1>t2-2", Kind: "corrupt", Rate: 0.05, At: 30 * time.Second},
		{On: "device t2-0", Kind: "acl", Rate: 0.1},
		{On: "device t2-1", Kind: "device-down", At: 10 * time.Second, For: 5 * time.Second, Rate: 1},
		{On: "host p0-tor0-h0", Kind: "host-slow", Rate: 1},
	}
}

// A fabric's run is read back as it was, and the truth is only what scoring needs.
func TestFabricIsReadBack(t *testing.T) {
	f := fabric(t, middle, 1, someFaults)
	var file bytes.Buffer
	if err := WriteFabric(&file, f, 30*time.Second, FabricOptions{}); err != nil {
		t.Fatal(err)
	}
	topo, epochs, err := Read(bytes.NewReader(file.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	graph, err := FromGraph(f.Graph())
	if err != nil {
		t.Fatal(err)
	}
	if len(epochs) != 2 || topo.Links() != f.Graph().Links() || topo.Hosts() != f.Graph().Hosts() {
		t.Fatalf("%d epochs, %d links, %d hosts", len(epochs), topo.Links(), topo.Hosts())
	}
	for l := range LinkID(topo.Links()) {
		if topo.LinkName(l) != graph.LinkName(l) || graph.LinkName(l) != f.Graph().LinkName(flow.Link(l)) {
			t.Fatalf("link %d is %s, %s before it was written", l, topo.LinkName(l), graph.LinkName(l))
		}
	}
	flows := 0
	for i, got := range epochs {
		from := time.Duration(i) * 30 * time.Second
		in := f.Flows(from, from+30*time.Second, nil)
		want := FromFabric(f, in, FabricOptions{})
		want.FirstFlow = flows
		flows += len(want.Flows)
		if a, b := words(topo, got), words(graph, want); a != b {
			t.Errorf("epoch %d: read back\n%.2000s\nwritten\n%.2000s", i, a, b)
		}
		if int64(got.StartNS) != f.Start().UnixNano()+int64(from) || got.EndNS-got.StartNS != 30e9 {
			t.Errorf("epoch %d is of %d to %d", i, got.StartNS, got.EndNS)
		}
		lossy, causes := 0, map[int32]bool{}
		for _, c := range got.Truth.Causes {
			causes[c.Flow] = true
		}
		for k := range got.Flows {
			fl := &got.Flows[k]
			if fl.Retransmits > 0 {
				lossy++
				if !causes[int32(k)] {
					t.Fatalf("flow %d lost packets for no cause", k)
				}
			} else if fl.Paths() > 0 {
				t.Fatal("a loss-free flow was traced")
			}
		}
		if lossy == 0 || len(causes) != lossy || len(got.Drops) == 0 {
			t.Errorf("epoch %d: %d lossy flows, %d with causes, %d drops", i, lossy, len(causes), len(got.Drops))
		}
		wantTruth := "p0-tor0>p0-t1-0 p0-tor1>p0-t1-1"
		devices := " t2-0 t2-1"
		if i == 1 {
			wantTruth += " p1-t1-1>t2-2"
			devices = " t2-0"
		}
		if _, text, _ := strings.Cut(words(topo, got), "truth "); !strings.HasPrefix(text, wantTruth+devices) {
			t.Errorf("epoch %d: truth %.100s, want %s", i, text, wantTruth+devices)
		}
		// t2-1 was down in the first epoch, so it was not there all the time.
		if n := len(got.Instrumented); n != f.Graph().Devices()-1+i {
			t.Errorf("epoch %d: %d devices instrumented of %d", i, n, f.Graph().Devices())
		}
	}
	again := new(bytes.Buffer)
	if err := Write(again, topo, epochs...); err != nil || !bytes.Equal(again.Bytes(), file.Bytes()) {
		t.Errorf("what was read is written otherwise: %v", err)
	}
}

func TestFabricOptions(t *testing.T) {
	f := fabric(t, middle, 1, func(s *scenario.Scenario) {
		someFaults(s)
		s.AgentsLate = 10 * time.Second
		s.Instrumented = 0
	})
	in := f.Flows(0, 30*time.Second, nil)
	e := FromFabric(f, in, FabricOptions{AllPaths: true, NoTruth: true})
	if e.Truth != nil || len(e.Instrumented) > 0 || len(e.Drops) > 0 {
		t.Error("truth, instrumented devices or drops that should not be")
	}
	if n := float64(len(e.Flows)) / float64(len(in.Flows)); n < 0.6 || n > 0.73 {
		t.Errorf("%.2f of the flows were begun after the agents, want 2/3", n)
	}
	for i := range e.Flows {
		if fl := &e.Flows[i]; fl.Paths() != 1 && fl.Retransmits == 0 {
			t.Fatal("the path of a loss-free flow is not given")
		}
	}
}

func TestWriterNeedsATopology(t *testing.T) {
	if err := NewWriter(io.Discard).Epoch(new(Epoch)); err == nil {
		t.Error("an epoch without a topology is written")
	}
	f := fabric(t, middle, 1, nil)
	if err := WriteFabric(io.Discard, f, 0, FabricOptions{}); err == nil {
		t.Error("epochs of no length are written")
	}
}

// recording is 007's set-up, several epochs of it: what of the paths, and how large.
func recording(b *testing.B, o FabricOptions, epochs int) []byte {
	f := fabric(b, published, 1, func(s *scenario.Scenario) {
		s.Duration = time.Duration(epochs) * 30 * time.Second
		s.Faults = []scenario.Fault{{On: "device p0-t1-0", Kind: "device-loss", Rate: 0.005}}
	})
	var file bytes.Buffer
	if err := WriteFabric(&file, f, 30*time.Second, o); err != nil {
		b.Fatal(err)
	}
	return file.Bytes()
}

func benchmarkRead(b *testing.B, file []byte) {
	b.SetBytes(int64(len(file)))
	b.ReportAllocs()
	flows := 0
	for b.Loop() {
		r := NewReader(bytes.NewReader(file), DefaultLimits())
		flows = 0
		for {
			e, err := r.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				b.Fatal(err)
			}
			flows += len(e.Flows)
		}
	}
	b.ReportMetric(float64(flows), "flows")
	b.ReportMetric(float64(len(file))/1e6, "MB")
}

func BenchmarkRead(b *testing.B) { benchmarkRead(b, recording(b, FabricOptions{}, 4)) }
func BenchmarkReadAllPaths(b *testing.B) {
	benchmarkRead(b, recording(b, FabricOptions{AllPaths: true}, 8))
}

func BenchmarkWrite(b *testing.B) {
	f := fabric(b, published, 1, nil)
	t, err := FromGraph(f.Graph())
	if err != nil {
		b.Fatal(err)
	}
	e := FromFabric(f, f.Flows(0, 30*time.Second, nil), FabricOptions{AllPaths: true})
	var n counter
	for b.Loop() {
		n = 0
		if err := Write(&n, t, e); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(int64(n))
}

type counter int64

func (c *counter) Write(p []byte) (int, error) { *c += counter(len(p)); return len(p), nil }

// From nothing to evidence: generation and conversion of one epoch.
func BenchmarkFromFabric(b *testing.B) {
	f := fabric(b, published, 1, nil)
	var in *flow.Epoch
	for b.Loop() {
		in = f.Flows(0, 30*time.Second, in)
		FromFabric(f, in, FabricOptions{})
	}
}

// The topology file of a fabric and its graph are the same network.
func TestFromTopologyIsTheGraph(t *testing.T) {
	file, err := topology.Clos(middle)
	if err != nil {
		t.Fatal(err)
	}
	got, err := FromTopology(file)
	if err != nil {
		t.Fatal(err)
	}
	want, err := FromGraph(fabric(t, middle, 1, nil).Graph())
	if err != nil {
		t.Fatal(err)
	}
	if got.Nodes() != want.Nodes() || got.Links() != want.Links() || got.Hosts() != want.Hosts() {
		t.Fatalf("%d nodes, %d links, %d hosts", got.Nodes(), got.Links(), got.Hosts())
	}
	for l := range LinkID(want.Links()) {
		if _, ok := got.Component("link " + want.LinkName(l)); !ok {
			t.Errorf("no link %s", want.LinkName(l))
		}
	}
	for n := range NodeID(want.Nodes()) {
		if id, ok := got.Node(want.Name(n)); !ok || got.IsHost(id) != want.IsHost(n) {
			t.Errorf("%s is there %v", want.Name(n), ok)
		}
	}
	file.Links = append(file.Links, &topology.Link{Name: "a>b", From: file.Links[0].From, To: &topology.Interface{Node: want.Name(NodeID(want.Nodes() - 1))}})
	if _, err := FromTopology(file); err == nil {
		t.Error("a host at two switches is let pass")
	}
}
