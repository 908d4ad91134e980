package api

import (
	"context"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"decaf/api/decafpb"
	"decaf/topology"
)

// Learned is a fan of one switch between two hosts, walked one way.
func (f *fake) Learned(_ context.Context, ip int) (Learned, error) {
	if err := f.fails(); err != nil {
		return Learned{}, err
	}
	a, b := netip.MustParseAddr("10.1.0.0"), netip.MustParseAddr("10.2.0.1")
	out := Learned{IP: 4, OtherIP: 2, Hosts: map[netip.Addr]string{a: "h1", b: "h2"}}
	if ip == 6 {
		out.IP, out.Why = 6, "none of 0 walks"
		return out, nil
	}
	walk := topology.Walk{Src: a, Dst: b, Hops: []netip.Addr{netip.MustParseAddr("10.1.0.1")}}
	out.Surveys = []*decafpb.Survey{{
		Origin: &decafpb.Origin{Producer: "h1"}, TimeNs: 1e18, Src: a.AsSlice(), Dst: b.AsSlice(), DstPort: 443,
		Flows: 6, Probes: 12, Confidence: 95, Complete: true,
		Nodes: []*decafpb.SurveyNode{{Address: walk.Hops[0].AsSlice()}}, Walks: []*decafpb.SurveyWalk{{Hops: []uint32{1}, Flows: 6}},
	}}
	out.Walks = 1
	top, learning, err := topology.Learn("lab", []topology.Walk{walk}, out.Hosts)
	if err != nil {
		return out, err
	}
	out.Topology, out.Learning = top, learning
	out.Compared = &topology.Comparison{Pairs: 1, Seen: 3, Unknown: []topology.Step{{From: "h1", Addr: walk.Hops[0], Walks: 1}}, Unseen: f.topo.Links[:1]}
	return out, nil
}

func TestLearned(t *testing.T) {
	f := newFake(t)
	ts := serve(t, f)
	get := func(path string) (int, string) {
		t.Helper()
		resp, err := http.Get(ts + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	for path, want := range map[string]string{
		"?format=xml":       "write json or yaml",
		"?ip=5":             "write 4 or 6",
		"?formt=yaml":       "did you mean format",
		"?ip=6&format=yaml": "nothing could be learned: none of 0 walks",
		"?format=yaml":      "# 1 device, 2 hosts and 4 directed links learned from 1 path of 1 survey over IPv4",
		"":                  `"confidence":95`,
		"?ip=6":             `"missing":["none of 0 walks","no survey came yet`,
		"?format=json&ip=4": `"unknown":[{"step":"h1>10.1.0.1","walks":1}]`,
	} {
		status, text := get("/api/v1/topology/learned" + path)
		if !strings.Contains(text, want) {
			t.Errorf("%s: %d %s\nwant %s", path, status, text, want)
		}
	}
	// The file is one.
	_, text := get("/api/v1/topology/learned?format=yaml")
	top, err := topology.Parse("learned", []byte(text))
	if err != nil || len(top.Links) != 4 {
		t.Errorf("%v\n%s", err, text)
	}
}

func TestLearnVerb(t *testing.T) {
	f := newFake(t)
	ts := serve(t, f)
	file := filepath.Join(t.TempDir(), "learned.yaml")
	for _, c := range []struct {
		args []string
		want []string
	}{
		{nil, []string{"at each node of these no next hop was missed with 95 % probability", "missing: 1 pair was walked one way only", "--compare lists them", "h2:443"}},
		{[]string{"--compare"}, []string{"not in it: h1>10.1.0.1, on 1 path", "not walked: " + f.topo.Links[0].Name}},
		{[]string{"--file", "-"}, []string{"# 1 device", "devices:\n"}},
		{[]string{"--file", file}, []string{"2 surveys are of the other version"}},
		{[]string{"--output", "csv"}, []string{"host,from,to", "h1,h1,h2:443"}},
		{[]string{"--output", "json"}, []string{`"file": `}},
	} {
		out, _, err := run(t, append([]string{"topology", "learn", "--server", ts}, c.args...)...)
		for _, want := range c.want {
			if err != nil || !strings.Contains(out, want) {
				t.Errorf("%v: %v, no %q in\n%s", c.args, err, want, out)
			}
		}
	}
	if _, err := topology.Load(file); err != nil {
		t.Error(err)
	}
	for args, want := range map[string]string{"--ip=5": "write 4 or 6", "--ip=6 --file=x": "x is not written"} {
		if _, _, err := run(t, append([]string{"topology", "learn", "--server", ts}, strings.Fields(args)...)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", args, err)
		}
	}
	if _, err := os.Stat("x"); err == nil {
		t.Error("x was written")
	}
}
