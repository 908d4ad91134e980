package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"decaf/api/decafpb"
	"decaf/topology"
)

func getJSON(t *testing.T, url string, into any) string {
	t.Helper()
	got := request(t, "GET", url, "", "")
	if got.status != 200 || got.header.Get("Content-Type") != "application/json" {
		t.Fatalf("%s: %d %s %s", url, got.status, got.header.Get("Content-Type"), got.body)
	}
	if into != nil {
		if err := json.Unmarshal([]byte(got.body), into); err != nil {
			t.Fatal(err)
		}
	}
	return got.body
}

// The JSON of every endpoint is a snapshot: changing a name is a decision.
func TestJSONShapes(t *testing.T) {
	base := serve(t, newFake(t))
	for _, path := range []string{"reports", "reports/r-1", "findings", "findings/f-2", "links", "drops", "paths", "flows", "services", "agents", "agents/p1-tor1", "topology"} {
		t.Run(path, func(t *testing.T) {
			body := getJSON(t, base+"/api/v1/"+path, nil)
			var out bytes.Buffer
			if err := json.Indent(&out, []byte(body), "", "  "); err != nil {
				t.Fatal(err)
			}
			if strings.Contains(body, ":null") && path != "reports" {
				t.Error("a null in", path)
			}
			golden(t, "json/"+strings.ReplaceAll(path, "/", "-")+".json", out.String())
		})
	}
}

func TestEmptyListsAreLists(t *testing.T) {
	backend := newFake(t).quiet()
	backend.agents = nil
	base := serve(t, backend)
	for _, path := range []string{"reports", "findings", "links", "drops", "paths", "flows", "services", "agents"} {
		want := `{"items":[],"left_out":0}`
		switch path {
		case "flows", "services":
			want = `{"items":[],"left_out":0,"forgotten":0,"forgotten_trouble":0}`
		case "links":
			want = `{"items":[],"left_out":0,"method":"fused","abstained":[]}`
		}
		if body := getJSON(t, base+"/api/v1/"+path, nil); body != want+"\n" {
			t.Errorf("%s: %s", path, body)
		}
	}
}

func TestLimitSaysWhatIsLeftOut(t *testing.T) {
	backend := newFake(t)
	base := serve(t, backend)
	f := func(path string, items, leftOut int) {
		t.Helper()
		var got List[json.RawMessage]
		getJSON(t, base+"/api/v1/"+path, &got)
		if len(got.Items) != items || got.LeftOut != leftOut {
			t.Errorf("%s: %d items, %d left out; want %d, %d", path, len(got.Items), got.LeftOut, items, leftOut)
		}
	}
	f("paths?limit=2", 2, 3)
	f("paths?limit=5", 5, 0)
	f("links?limit=1", 1, 3) // a backend that does not cut is cut
	f("findings?limit=1", 1, 1)
	f("drops", 4, 0)
	f("flows?limit=2", 2, 3)
	f("services", 2, 0)
	f("agents", 18, 0)
	if backend.asked.Limit != defaultLimit {
		t.Errorf("default limit %d", backend.asked.Limit)
	}
}

func TestRangeReachesTheBackend(t *testing.T) {
	backend := newFake(t)
	base := serve(t, backend)
	f := func(path string, want Range) {
		t.Helper()
		getJSON(t, base+"/api/v1/"+path, nil)
		got := backend.asked
		got.Omitted = nil
		if !got.From.Equal(want.From) || !got.To.Equal(want.To) {
			t.Errorf("%s: %s to %s, want %s to %s", path, got.From, got.To, want.From, want.To)
		}
		got.From, got.To, want.From, want.To = time.Time{}, time.Time{}, time.Time{}, time.Time{}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got %+v\nwant %+v", path, got, want)
		}
	}
	src := prefixes(backend.topo.Hosts[0].Addresses[0].String() + "/32")
	f("links", Range{Limit: 100})
	f("links?since=-5m&until=now&limit=7", Range{From: noon.Add(-5 * time.Minute), To: noon, Limit: 7})
	f("links?since=2026-01-31T11:00:00Z&until=1769860800", Range{From: noon.Add(-time.Hour), To: noon, Limit: 100})
	f("drops?src=p0-tor0-h0&dst=198.51.100.7&dst_port=443", Range{Limit: 100, Flow: FlowFilter{Src: src, Dst: prefixes("198.51.100.7/32"), DstPort: 443}})
	f("drops?src=::ffff:198.51.100.7&src_port=1", Range{Limit: 100, Flow: FlowFilter{Src: prefixes("198.51.100.7/32"), SrcPort: 1}})
	f("drops?component=t2-0&class=policy/", Range{Limit: 100, Component: "device t2-0", Class: "policy"})
	f("paths?component=link+p0-t1-0%3Et2-1", Range{Limit: 100, Component: "link p0-t1-0>t2-1"})
	f("drops?src=10.0.0.7/8&dst=::ffff:10.1.0.0/112", Range{Limit: 100, Flow: FlowFilter{Src: prefixes("10.0.0.0/8"), Dst: prefixes("10.1.0.0/16")}})
	f("flows?host=p0-tor0-h0&port=443&state=failed&trouble=true&sort=zero-window", Range{Limit: 100, Host: "p0-tor0-h0", Port: 443,
		State: decafpb.FlowRecord_STATE_FAILED, Trouble: true, Sort: ByZeroWindow})
	f("flows?component=t2-0&src=&trouble=false&sort=", Range{Limit: 100, Component: "device t2-0"})
	f("services?host=p0-tor0-h0&src=2001:db8::/32&since=-5m", Range{From: noon.Add(-5 * time.Minute), Limit: 100, Host: "p0-tor0-h0", Flow: FlowFilter{Src: prefixes("2001:db8::/32")}})
	f("findings?component=host+p0-tor0-h0", Range{Limit: 100, Component: "host p0-tor0-h0"})
}

func TestEvidenceCounts(t *testing.T) {
	base := serve(t, newFake(t))
	var got List[FindingView]
	getJSON(t, base+"/api/v1/findings?evidence=counts", &got)
	e := got.Items[1].Evidence
	if len(e.Drops)+len(e.Retransmits)+len(e.Paths) != 0 || e.LeftOut != 74+4 || e.Counts.Drops != 40 || len(e.Reasons) != 1 {
		t.Errorf("%+v", e)
	}
}

func TestFileReport(t *testing.T) {
	f := func(name, body string, want func(*ReportView)) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			base := serve(t, newFake(t))
			got := request(t, "POST", base+"/api/v1/reports", "application/json; charset=utf-8", body)
			if got.status != 201 {
				t.Fatalf("%d %s", got.status, got.body)
			}
			var view ReportView
			if err := json.Unmarshal([]byte(got.body), &view); err != nil {
				t.Fatal(err)
			}
			if loc := got.header.Get("Location"); loc != "/api/v1/reports/"+view.ID {
				t.Errorf("location %q", loc)
			}
			if view.Verdict == nil || view.Verdict.Verdict == "" {
				t.Error("no verdict")
			}
			view.Verdict = nil
			expect := ReportView{ID: "r-new1", Src: "p0-tor0-h0", Dst: "p1-tor1-h1", FromNS: before(5 * time.Minute), ToNS: before(0), FiledNS: before(0)}
			want(&expect)
			expect.From, expect.To, expect.Filed = timeText(expect.FromNS), timeText(expect.ToNS), timeText(expect.FiledNS)
			if !reflect.DeepEqual(view, expect) {
				t.Errorf("\n got %+v\nwant %+v", view, expect)
			}
		})
	}
	const ends = `"src":"p0-tor0-h0","dst":"p1-tor1-h1"`
	f("the last five minutes", `{`+ends+`}`, func(*ReportView) {})
	f("ports and words", `{`+ends+`,"src_port":1,"dst_port":65535,"says":" <b>slow</b> "}`, func(r *ReportView) { r.SrcPort, r.DstPort, r.Says = 1, 65535, "<b>slow</b>" })
	f("relative window", `{`+ends+`,"from":"-1h","to":"-30m"}`, func(r *ReportView) { r.FromNS, r.ToNS = before(time.Hour), before(30*time.Minute) })
	f("five minutes before an end", `{`+ends+`,"to":"-30m"}`, func(r *ReportView) { r.FromNS, r.ToNS = before(35*time.Minute), before(30*time.Minute) })
	f("nanoseconds", fmt.Sprintf(`{`+ends+`,"from_ns":%d,"to_ns":%d}`, before(time.Minute)+7, before(0)-1), func(r *ReportView) { r.FromNS, r.ToNS = before(time.Minute)+7, before(0)-1 })
	f("unix seconds", `{`+ends+`,"from":1769860740}`, func(r *ReportView) { r.FromNS = before(time.Minute) })
	f("skewed clock", `{`+ends+`,"to":"2026-01-31T12:00:30Z"}`, func(r *ReportView) { r.FromNS, r.ToNS = before(270*time.Second), before(-30*time.Second) })
	f("address outside", `{"src":"198.51.100.7","dst":"p1-tor1-h1"}`, func(r *ReportView) { r.Src = "198.51.100.7" })
	f("mapped address", `{"src":"::ffff:198.51.100.7","dst":"p1-tor1-h1"}`, func(r *ReportView) { r.Src = "198.51.100.7" })
	f("IPv6 outside", `{"src":"2001:db8::1","dst":"p1-tor1-h1"}`, func(r *ReportView) { r.Src = "2001:db8::1" })
}

func TestHealthAndMetrics(t *testing.T) {
	backend := newFake(t)
	base := serve(t, backend)
	if got := request(t, "GET", base+"/healthz", "", ""); got.status != 200 {
		t.Errorf("healthz %d %s", got.status, got.body)
	}
	if got := request(t, "GET", base+"/readyz", "", ""); got.status != 200 {
		t.Errorf("readyz %d %s", got.status, got.body)
	}
	backend.notReady = Unavailable("evidence is still being read")
	if got := request(t, "GET", base+"/readyz", "", ""); got.status != 503 || !strings.Contains(got.body, "still being read") {
		t.Errorf("readyz %d %s", got.status, got.body)
	}
	getJSON(t, base+"/api/v1/links", nil)
	request(t, "GET", base+"/api/v1/links?limit=0", "", "")
	got := request(t, "GET", base+"/metrics", "", "").body
	for _, want := range []string{`decaf_api_requests_total{path="/api/v1/links",status="200"} 1`, `decaf_api_requests_total{path="/api/v1/links",status="400"} 1`, `decaf_api_request_seconds_count{path="/api/v1/links"} 2`} {
		if !strings.Contains(got, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
}

// A drop and a retransmit of one packet find each other in evidence, and a
// trace shared by several retransmits is listed once.
func TestEvidenceJoins(t *testing.T) {
	f := newFake(t)
	e := NewViews(f.topo).Evidence(f.findings[1].Evidence)
	for _, d := range e.Drops {
		if !d.Matched || d.Component != "device t2-0" || d.TCPSeq == nil {
			t.Errorf("drop %+v", d)
		}
	}
	for _, r := range e.Retransmits {
		if !r.Matched || r.Path != nil {
			t.Errorf("retransmit %+v", r)
		}
	}
	f.paths[1].Flow, f.paths[1].Path = f.paths[0].Flow, f.paths[0].Path
	f.findings[0].Evidence.Retransmits = f.paths[:2]
	e = NewViews(f.topo).Evidence(f.findings[0].Evidence)
	if len(e.Paths) != 1 || e.Paths[0].SeenTimes != 2 {
		t.Errorf("paths %+v", e.Paths)
	}
}

func TestPathLinks(t *testing.T) {
	f := newFake(t)
	v := NewViews(f.topo)
	for _, c := range []struct {
		path int
		want []string
	}{
		{0, []string{"p0-tor0-h0>p0-tor0", "p0-tor0>p0-t1-0", "p0-t1-0>t2-1", "t2-1>p1-t1-0", "p1-t1-0>p1-tor1", "p1-tor1>p1-tor1-h1"}},
		{2, []string{"p0-tor0-h0>p0-tor0", "p0-tor0>p0-t1-0"}},
		{4, []string{}},
	} {
		if got := v.Retransmit(f.paths[c.path]).Path.Links; !slices.Equal(got, c.want) {
			t.Errorf("path %d: %v, want %v", c.path, got, c.want)
		}
	}
}

// Interfaces with an IPv6 address beside the other show both, hosts all they have.
func TestTopologyShowsBothVersions(t *testing.T) {
	backend := newFake(t)
	both, err := topology.Clos(topology.ClosSpec{Pods: 2, ToRs: 2, T1s: 2, T2s: 2, Hosts: 2, IP: topology.IPBoth})
	if err != nil {
		t.Fatal(err)
	}
	backend.topo = both
	base := serve(t, backend)
	var got TopologyView
	getJSON(t, base+"/api/v1/topology", &got)
	for _, l := range got.Links {
		for _, e := range []EndView{l.From, l.To} {
			if a, err := netip.ParsePrefix(e.Address6); err != nil || !a.Addr().Is6() || e.Address == "" {
				t.Errorf("%s: %q beside %q", e.Node, e.Address6, e.Address)
			}
		}
	}
	for _, h := range got.Hosts {
		if len(h.Addresses) != 2 {
			t.Errorf("%s: %v", h.Name, h.Addresses)
		}
	}
	out, _, err := run(t, "topology", "links", "--server", base)
	if err != nil || !strings.Contains(out, "FROM ADDRESS6") || !strings.Contains(out, "fd0a:") {
		t.Errorf("%v: %.300s", err, out)
	}
	out, _, err = run(t, "topology", "links", "--server", serve(t, newFake(t)))
	if err != nil || strings.Contains(out, "ADDRESS6") {
		t.Errorf("%v: %.300s", err, out)
	}
}
