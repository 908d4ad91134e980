package serve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"decaf/api"
	"decaf/api/agentconfig"
	"decaf/api/bus"
	"decaf/api/decafpb"
	"decaf/topology"
)

// network is one that no file describes, with agents on its hosts.
type network struct {
	t      *testing.T
	truth  *topology.Topology
	server string
	agents map[string]*bus.Publisher
	cookie uint64
}

func newNetwork(t *testing.T, server string) *network {
	t.Helper()
	truth, err := topology.Clos(topology.ClosSpec{Site: "default", Pods: 2, ToRs: 2, T1s: 2, T2s: 2, Hosts: 2})
	if err != nil {
		t.Fatal(err)
	}
	return &network{t: t, truth: truth, server: server, agents: make(map[string]*bus.Publisher)}
}

// agent is a host's connection, as the host itself.
func (n *network) agent(host string) *bus.Publisher {
	n.t.Helper()
	if n.agents[host] == nil {
		conn, err := bus.Connect(n.t.Context(), bus.ConnConfig{URL: n.server, Name: "host." + host, Site: n.truth.Site}, slog.New(slog.DiscardHandler))
		if err != nil {
			n.t.Fatal(err)
		}
		n.agents[host] = bus.NewPublisher(conn, host, bus.PublisherOptions{})
		n.t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_ = n.agents[host].Close(ctx)
			conn.Close()
		})
	}
	return n.agents[host]
}

func hopsOf(p topology.Path) (out [][]byte) {
	for _, l := range p[:len(p)-1] {
		out = append(out, l.To.Addr.Addr().AsSlice())
	}
	return out
}

// survey has every host look for all paths to every other; those over a link that
// takes is false for are not found.
func (n *network) survey(takes func(*topology.Link) bool) {
	for _, a := range n.truth.Hosts {
		for _, b := range n.truth.Hosts {
			if a == b {
				continue
			}
			s := &decafpb.Survey{
				TimeNs: uint64(time.Now().UnixNano()), Src: a.Addresses[0].AsSlice(), Dst: b.Addresses[0].AsSlice(), DstPort: 443, Confidence: 99, Complete: true,
			}
			for _, p := range n.truth.Paths(a.Name, b.Name) {
				if !slices.ContainsFunc(p, func(l *topology.Link) bool { return !takes(l) }) {
					w := &decafpb.SurveyWalk{Flows: 1}
					for _, hop := range hopsOf(p) {
						s.Nodes = append(s.Nodes, &decafpb.SurveyNode{Address: hop})
						w.Hops = append(w.Hops, uint32(len(s.Nodes)))
					}
					s.Walks = append(s.Walks, w)
				}
			}
			n.agent(a.Name).Publish(s)
		}
	}
}

// lose has connections of all hosts over a link lose packets there.
func (n *network) lose(on *topology.Link) {
	at := time.Now()
	for i, a := range n.truth.Hosts {
		for j, b := range n.truth.Hosts {
			for _, p := range n.truth.Paths(a.Name, b.Name) {
				if a == b || !slices.Contains(p, on) {
					continue
				}
				n.cookie++
				path := &decafpb.Path{Status: decafpb.PathStatus_PATH_STATUS_COMPLETE, Distance: uint32(len(p) - 1), StartNs: uint64(at.UnixNano()), ProbeSeq: 7, ProbeId: 64}
				for k, hop := range hopsOf(p) {
					path.Hops = append(path.Hops, &decafpb.Hop{Ttl: uint32(k + 1), Status: decafpb.HopStatus_HOP_STATUS_ANSWERED, Address: hop})
				}
				n.agent(a.Name).Publish(&decafpb.Retransmit{
					TimeNs: uint64(at.UnixNano()), Cookie: n.cookie, Segments: 1, TcpSeq: 1000, TcpEndSeq: 2448, TcpFlags: 1 << 4,
					Kind: decafpb.RetransmitKind_RETRANSMIT_KIND_FAST, Path: path,
					Flow: &decafpb.Flow{Src: a.Addresses[0].AsSlice(), Dst: b.Addresses[0].AsSlice(), SrcPort: uint32(20000 + n.cookie), DstPort: uint32(5000 + 10*i + j), Protocol: 6},
				})
			}
		}
	}
}

func (n *network) link(from, to string) *topology.Link {
	n.t.Helper()
	l := n.truth.LinkBetween(from, to)
	if len(l) != 1 {
		n.t.Fatalf("%d links from %s to %s", len(l), from, to)
	}
	return l[0]
}

// learned is a configuration without a file.
func learned(t *testing.T) Config {
	cfg := DefaultConfig()
	cfg.Topology, cfg.Data = Learned, filepath.Join(t.TempDir(), "data")
	cfg.API.Listen, cfg.NATS.Listen = "127.0.0.1:0", "127.0.0.1:0"
	return cfg
}

// hasten makes the service look and settle at a test's pace.
func hasten(s *Service) {
	s.learning.every = 20 * time.Millisecond
	s.learning.Quiet, s.learning.Pace = 300*time.Millisecond, 300*time.Millisecond
}

// A network of which no file tells: its hosts connect, are told to survey, and what they
// find is the network. A link of it that loses packets silently is named; while it is
// out of use it stays; a report filed before anything was known is still there, and
// after a restart all of it is.
func TestTheNetworkIsLearned(t *testing.T) {
	t.Parallel()
	cfg := learned(t)
	s, client, url, stop := startService(t, cfg, hasten)
	n := newNetwork(t, s.server.URL())
	for _, h := range n.truth.Hosts {
		n.agent(h.Name).Publish(&decafpb.Heartbeat{TimeNs: uint64(time.Now().UnixNano()), Role: "host", Version: "test", Source: "tp_btf"})
	}
	seen := func(c *api.Client) (v api.TopologyView) {
		t.Helper()
		if _, err := c.Get(t.Context(), "topology", nil, &v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	poll(t, "in use are all hosts", func() error {
		if v := seen(client); len(v.Hosts) != len(n.truth.Hosts) || len(v.Links) != 0 || v.Site != "default" {
			return fmt.Errorf("%d hosts and %d links of site %q", len(v.Hosts), len(v.Links), v.Site)
		}
		return nil
	})
	if _, err := s.live.Set(t.Context(), agentconfig.Scope{}, []agentconfig.Change{{Key: "survey", Value: "10m,10.0.0.2:443,99%"}}); err != nil {
		t.Fatal(err)
	}
	for _, h := range n.truth.Hosts {
		if v, err := s.live.Get(t.Context(), agentconfig.Scope{Host: h.Name}); err != nil || v.Revision == 0 || v.Told == nil {
			t.Errorf("%s is told nothing: %+v, %v", h.Name, v, err)
		}
	}
	report := func(c *api.Client, src, dst, says string) *api.ReportView {
		t.Helper()
		r, _, err := c.FileReport(t.Context(), api.ReportRequest{Src: src, Dst: dst, Says: says})
		if err != nil {
			t.Fatal(err)
		}
		return &r
	}
	early := report(client, n.truth.Hosts[0].Name, n.truth.Hosts[7].Name, "before anything is known")

	n.survey(func(*topology.Link) bool { return true })
	whole := func(c *api.Client) error {
		v := seen(c)
		if len(v.Links) != len(n.truth.Links) || len(v.Devices) != len(n.truth.Devices) || len(v.Hosts) != len(n.truth.Hosts) {
			return fmt.Errorf("%d links, %d devices and %d hosts", len(v.Links), len(v.Devices), len(v.Hosts))
		}
		return nil
	}
	poll(t, "in use is what was surveyed", func() error { return whole(client) })
	names := seen(client)
	bad := n.link("p0-t1-0", "t2-1")
	find := func(c *api.Client) (f api.FindingView, err error) {
		var list api.List[api.FindingView]
		if _, err := c.Get(t.Context(), "findings", nil, &list); err != nil {
			return f, err
		}
		name := ""
		for _, l := range names.Links {
			if l.To.Address == bad.To.Addr.String() {
				name = "link " + l.Name
			}
		}
		if len(list.Items) == 0 {
			return f, fmt.Errorf("nothing is named; it ought to be %s", name)
		}
		if f = list.Items[0]; len(list.Items) > 1 || f.Component != name {
			t.Fatalf("named are %+v, want %s", list.Items, name)
		}
		return f, nil
	}
	n.lose(bad)
	var found api.FindingView
	poll(t, "the link is named", func() (err error) {
		found, err = find(client)
		return err
	})
	var links api.LinksView
	if _, err := client.Get(t.Context(), "links", nil, &links); err != nil || len(links.Abstained) == 0 || !strings.Contains(links.Abstained[0], "from 56 surveys by 8 hosts") || !strings.Contains(links.Abstained[0], "that of hosts alone") {
		t.Errorf("of the topology it is said: %q, %v", links.Abstained, err)
	}
	if bound, err := s.live.Get(t.Context(), agentconfig.Scope{}); err != nil || bound.TraceBound == 0 {
		t.Errorf("the bound of traces is %g, want that of the Clos: %v", bound.TraceBound, err)
	}

	// A host more connects: another correlator goes on. Meanwhile traffic goes around the
	// link, which stays.
	n.survey(func(l *topology.Link) bool { return l != bad && l != n.truth.Reverse(bad) })
	late := n.agent("latecomer")
	late.Publish(&decafpb.Heartbeat{TimeNs: uint64(time.Now().UnixNano()), Role: "host", Version: "test", Source: "tp_btf"})
	poll(t, "the host that came late is in use", func() error {
		v := seen(client)
		if len(v.Hosts) != len(n.truth.Hosts)+1 {
			return fmt.Errorf("%d hosts", len(v.Hosts))
		}
		if len(v.Links) != len(names.Links) {
			t.Fatalf("%d links, want %d", len(v.Links), len(names.Links))
		}
		return nil
	})
	kept := func(c *api.Client) {
		t.Helper()
		if again, _, err := c.Report(t.Context(), early.ID); err != nil || again.Says != early.Says {
			t.Errorf("of the early report is left %+v, %v", again, err)
		}
		if f, err := find(c); err != nil || f.ID != found.ID {
			t.Errorf("of the finding is left %s, want %s: %v", f.ID, found.ID, err)
		}
	}
	kept(client)
	metrics := metricsOf(t, url)
	for _, want := range []string{"decaf_surveys_held 56", "decaf_topology_links 48", "decaf_nats_up 1", "decaf_tallies_total"} {
		if n := strings.Count(metrics, want); n != 1 {
			t.Errorf("/metrics has %q %d times", want, n)
		}
	}
	stop()

	// No look is due here: it starts with what was in use, names and all.
	_, client, _, _ = startService(t, cfg, func(s *Service) { s.learning.every = time.Hour })
	again := seen(client)
	if len(again.Hosts) != len(n.truth.Hosts)+1 || !slices.EqualFunc(again.Links, names.Links, func(a, b api.TopoLinkView) bool { return a.Name == b.Name }) {
		t.Errorf("after a restart %d hosts and %d links", len(again.Hosts), len(again.Links))
	}
	kept(client)
}

// With the file gone, surveys that are stored tell of the network at once.
func TestStoredSurveysTellOfTheNetwork(t *testing.T) {
	t.Parallel()
	cfg := learned(t)
	cfg.Site = "lab"
	s, _, _, stop := startService(t, cfg, hasten)
	n := newNetwork(t, s.server.URL())
	n.truth.Site = "lab"
	n.survey(func(*topology.Link) bool { return true })
	poll(t, "all are held", func() error {
		if held := s.live.now.Load().Surveys().Held; held != 56 {
			return fmt.Errorf("%d surveys", held)
		}
		return nil
	})
	stop()
	if err := os.RemoveAll(filepath.Join(cfg.Data, "learned.json")); err != nil {
		t.Fatal(err)
	}
	_, client, _, _ := startService(t, cfg, func(s *Service) { s.learning.every = 20 * time.Millisecond }) // and settles as always
	poll(t, "in use is what was surveyed before", func() error {
		var v api.TopologyView
		if _, err := client.Get(t.Context(), "topology", nil, &v); err != nil || len(v.Links) != len(n.truth.Links) {
			return fmt.Errorf("%d links, %v", len(v.Links), err)
		}
		return nil
	})
}

// lines is a log to be read while it is written.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) count(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), what)
}

// Where nothing can be made of surveys that is said, once, and not that the topology is
// theirs. One that begins at a switch stops nothing, and that is said too.
func TestWhatSurveysDoNotTellIsSaid(t *testing.T) {
	t.Parallel()
	var log lines
	s, client, _, _ := startService(t, learned(t), func(s *Service) {
		hasten(s)
		s.learning.log = slog.New(slog.NewTextHandler(&log, nil))
	})
	n := newNetwork(t, s.server.URL())
	a, b := n.truth.Hosts[0], n.truth.Hosts[7]
	for range 2 {
		n.agent(a.Name).Publish(&decafpb.Survey{
			TimeNs: uint64(time.Now().UnixNano()), Src: a.Addresses[0].AsSlice(), Dst: b.Addresses[0].AsSlice(), DstPort: 443, Walks: []*decafpb.SurveyWalk{{Flows: 1, Hops: []uint32{0}}},
		})
	}
	poll(t, "told of", func() error {
		if log.count("none of 1 walks") != 1 {
			return errors.New("nothing is said")
		}
		return nil
	})
	var links api.LinksView
	poll(t, "said where it is from", func() error {
		if _, err := client.Get(t.Context(), "links", nil, &links); err != nil || len(links.Abstained) == 0 || !strings.Contains(links.Abstained[0], "from no survey yet") {
			return fmt.Errorf("%q, %v", links.Abstained, err)
		}
		return nil
	})

	n.survey(func(*topology.Link) bool { return true })
	path := n.truth.Paths(a.Name, b.Name)[0]
	hops := hopsOf(path)
	n.agent("liar").Publish(&decafpb.Survey{
		TimeNs: uint64(time.Now().UnixNano()), Src: hops[2], Dst: b.Addresses[0].AsSlice(), DstPort: 443,
		Nodes: []*decafpb.SurveyNode{{Address: hops[3]}, {Address: hops[4]}}, Walks: []*decafpb.SurveyWalk{{Flows: 1, Hops: []uint32{1, 2}}},
	})
	poll(t, "in use is what was surveyed", func() error {
		if log.count("walks are left out") == 0 {
			return errors.New("the liar is believed")
		}
		var v api.TopologyView
		if _, err := client.Get(t.Context(), "topology", nil, &v); err != nil || len(v.Links) != len(n.truth.Links) || len(v.Devices) != len(n.truth.Devices) {
			return fmt.Errorf("%d links and %d devices, %v", len(v.Links), len(v.Devices), err)
		}
		return nil
	})
	if n := log.count("nothing can be made of surveys"); n != 1 {
		t.Errorf("that nothing can be learned is said %d times", n)
	}
}

// What a crash leaves of a file half written does not stay.
func TestHalfAFileDoesNotStay(t *testing.T) {
	dir := t.TempDir()
	l, err := newLearning("lab", dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(l.file+".new", make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	l.write()
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 || left[0].Name() != filepath.Base(l.file) {
		t.Fatalf("%v, %v", left, err)
	}
	text, err := os.ReadFile(l.file)
	if err != nil {
		t.Fatal(err)
	}
	if kept, err := topology.DecodeLasting(l.file, text); err != nil || kept.Topology.Site != "lab" {
		t.Errorf("%v", err)
	}
}
