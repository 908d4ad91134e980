package api

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/html"

	"decaf/api/decafpb"
)

func getPage(t *testing.T, url string, status int) string {
	t.Helper()
	got := request(t, "GET", url, "", "")
	if got.status != status || got.header.Get("Content-Type") != "text/html; charset=utf-8" {
		t.Fatalf("%s: %d %s %s", url, got.status, got.header.Get("Content-Type"), got.body)
	}
	policy := got.header.Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"} {
		if !strings.Contains(policy, want) {
			t.Errorf("policy %q lacks %q", policy, want)
		}
	}
	if strings.Contains(policy, "unsafe") || got.header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("headers %v", got.header)
	}
	checkHTML(t, got.body)
	return got.body
}

// checkHTML holds what every page has to: nothing that the policy forbids or
// that loads from elsewhere, ids that are unique, and one on each live part.
// It returns the page's skeleton: its markup without the words, elements and
// the names of their attributes, as a browser would read them.
func checkHTML(t *testing.T, body string) string {
	t.Helper()
	if strings.Contains(body, "ZgotmplZ") || strings.Contains(body, "<no value>") || strings.Contains(body, "%!") {
		t.Error("page holds a value the template refused")
	}
	seen := make(map[string]bool)
	inScript := false
	var out strings.Builder
	for z := html.NewTokenizer(strings.NewReader(body)); ; {
		kind := z.Next()
		token := z.Token()
		switch kind {
		case html.ErrorToken:
			if !errors.Is(z.Err(), io.EOF) {
				t.Fatal(z.Err())
			}
			return out.String()
		case html.TextToken:
			if inScript && strings.TrimSpace(token.Data) != "" {
				t.Errorf("inline script %q", token.Data)
			}
		case html.StartTagToken, html.SelfClosingTagToken, html.EndTagToken:
			inScript = kind == html.StartTagToken && token.Data == "script"
			fmt.Fprintf(&out, "%s %s", token.Type, token.Data)
			id, live := "", false
			for _, a := range token.Attr {
				fmt.Fprintf(&out, " %s", a.Key)
				switch {
				case a.Key == "style", strings.HasPrefix(a.Key, "on"), token.Data == "style":
					t.Errorf("<%s> has %s=%q", token.Data, a.Key, a.Val)
				case a.Key == "href", a.Key == "src", a.Key == "action":
					if !strings.HasPrefix(a.Val, "/") || strings.HasPrefix(a.Val, "//") {
						t.Errorf("%s of <%s> leads to %q", a.Key, token.Data, a.Val)
					}
				case a.Key == "data-live":
					live = true
				case a.Key == "id":
					if id = a.Val; seen[id] {
						t.Errorf("id %s twice", id)
					}
					seen[id] = true
				}
			}
			if live && id == "" {
				t.Errorf("live <%s> without id", token.Data)
			}
			out.WriteByte('\n')
		}
	}
}

func wantAll(t *testing.T, body string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(body, w) {
			t.Errorf("page does not say %q", w)
		}
	}
}

func TestOverview(t *testing.T) {
	body := getPage(t, serve(t, newFake(t))+"/", 200)
	wantAll(t, body,
		"Packets are being lost at link p0-t1-0&gt;t2-1", "it hurt 31 flows of 4 hosts", "2 of 18 agents are silent",
		`<a href="/findings/f-2">link p0-t1-0&gt;t2-1</a>`, `width="124" height="10"`, // 62 % of 200
		"policy/l3/acl", "eth2 → eth4", "p0-tor0-h1:40020 &gt; p1-tor0-h1:7000 tcp", "sent again", "10.1.0.0/16",
		`<option value="p0-tor0-h0">10.0.0.1</option>`, `<a href="/reports/r-2">`, "9 of 10 fresh", "12 records", "never heard of",
		"&gt; 99.9 %", "Or link p0-t1-0&gt;t2-0: the evidence cannot tell.", "or 1 more",
		"Not told", "link t2-1&gt;p1-t1-0: too few losses to tell from noise", "<td class=\"n\">31 %</td>")
}

func TestOverviewStates(t *testing.T) {
	f := func(name, level, headline string, change func(*fake)) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			backend := newFake(t).quiet()
			change(backend)
			wantAll(t, getPage(t, serve(t, backend)+"/", 200), `class="banner `+level+`"`, "<h1>"+headline+"</h1>")
		})
	}
	f("all well", "ok", "No open finding", func(*fake) {})
	f("silence takes the green away", "warn", "No open finding", func(b *fake) { b.agents[0].Fresh = false })
	f("no agents", "warn", "No open finding, and no agent to make one", func(b *fake) { b.agents = nil })
	f("starting", "warn", "Not ready yet", func(b *fake) { b.notReady = Unavailable("reading evidence") })
	f("failing", "warn", "Findings are not available", func(b *fake) { b.err = errBus })
	f("resolved", "ok", "No open finding", func(b *fake) {
		b.findings = []*decafpb.Finding{{Id: "x", Component: "host h", FromNs: 1, ResolvedNs: 2}}
	})
	f("two at once", "bad", "Packets are being lost at 2 places", func(b *fake) {
		b.findings = []*decafpb.Finding{{Id: "x", Component: "host h"}, {Id: "y", Component: "host i"}}
	})
}

func TestFailingBackendLeaksNothing(t *testing.T) {
	backend := newFake(t)
	backend.err = errBus
	if body := getPage(t, serve(t, backend)+"/", 200); strings.Contains(body, "hunter2") {
		t.Error("page shows the backend's own words")
	}
	getPage(t, serve(t, backend)+"/reports/r-1", 500)
}

// What a user said, or a device, never becomes markup: with an attack in every
// field that a page shows, the page's skeleton is the one it has with "words".
func TestWordsAreNeverMarkup(t *testing.T) {
	skeletons := func(words string) (out [6]string) {
		backend := newFake(t)
		r := backend.reports[1]
		r.Says, r.Src = words, words
		r.Verdict.Component, r.Verdict.Class, r.Verdict.Finding = words, words, words
		r.Verdict.Evidence.Reasons = []string{words}
		r.Verdict.Evidence.Drops[0].Class, r.Verdict.Evidence.Drops[0].Ingress = words, words
		r.Verdict.Evidence.Retransmits[0].Path.Why = words
		backend.findings[0].Component, backend.findings[0].Hosts, backend.findings[0].Id = words, []string{words}, words
		backend.agents[0].Error, backend.agents[0].Gaps, backend.agents[0].Name = words, 1, words
		backend.links[0].Link = words
		backend.untold = []string{words}
		backend.findings[0].Equivalent, r.Verdict.Equivalent = []string{words}, []string{words}
		row := backend.flows.Rows[0]
		row.Process, row.Container, row.Origin.Producer = words, words, words
		row.Path.Hops[1].Address = nil
		backend.findings[0].Component = "device p0-tor0" // on its way
		flows := serve(t, backend)
		backend.findings[0].Component = words
		base := serve(t, backend)
		query := "?component=link+p0-tor0-h0%3Ep0-tor0&src=" + url.QueryEscape(words)
		got := request(t, "GET", flows+"/flows"+query, "", "")
		out[4] = checkHTML(t, got.body)
		out[5] = checkHTML(t, getPage(t, flows+"/flows", 200))
		for i, path := range []string{"/", "/reports/r-1", "/findings/f-1"} {
			out[i] = checkHTML(t, getPage(t, base+path, 200))
		}
		form := url.Values{"src": {words}, "dst": {words}, "says": {words}, "from": {words}, "dst_port": {words}}
		got = request(t, "POST", base+"/reports", "application/x-www-form-urlencoded", form.Encode())
		if got.status != 400 {
			t.Errorf("form: %d", got.status)
		}
		out[3] = checkHTML(t, got.body)
		return out
	}
	harmless := skeletons("words")
	for _, attack := range []string{
		`<script>alert(1)</script>`, `"><img src=x onerror=alert(1)>`, `' onmouseover='alert(1)`, `" autofocus onfocus="alert(1)`, `</title><script>alert(1)</script>`,
		`<svg onload=alert(1)>`, `javascript:alert(1)`, `{{.Report}}`, `</textarea><script>`, "\u2028</script>", "<!--", "&lt;script&gt;", "\x00<b>", "a\"'`><b>",
	} {
		t.Run(attack, func(t *testing.T) {
			for i, got := range skeletons(attack) {
				if got != harmless[i] {
					t.Errorf("page %d: markup changed:\n%s", i, cmp.Diff(harmless[i], got))
				}
			}
		})
	}
}

func TestFormFilesAReport(t *testing.T) {
	backend := newFake(t)
	base := serve(t, backend)
	form := url.Values{"src": {"p0-tor0-h0"}, "dst": {"p1-tor1-h1"}, "from": {"-10m"}, "to": {"now"}, "src_port": {""}, "dst_port": {"443"}, "says": {"ssh froze"}}
	got := request(t, "POST", base+"/reports", "application/x-www-form-urlencoded", form.Encode(), "Sec-Fetch-Site", "same-origin")
	if got.status != 303 || got.header.Get("Location") != "/reports/r-new1" {
		t.Fatalf("%d %s %s", got.status, got.header.Get("Location"), got.body)
	}
	r := backend.reports[0]
	if r.DstPort != 443 || r.Says != "ssh froze" || r.FromNs != before(10*time.Minute) {
		t.Errorf("filed %v", r)
	}
}

func TestFormErrorKeepsTheInput(t *testing.T) {
	f := func(words string, form url.Values) {
		t.Helper()
		backend := newFake(t)
		got := request(t, "POST", serve(t, backend)+"/reports", "application/x-www-form-urlencoded", form.Encode())
		if got.status != 400 || backend.filed != 0 {
			t.Errorf("%s: %d, %d filed", words, got.status, backend.filed)
		}
		checkHTML(t, got.body)
		wantAll(t, got.body, words, `role="alert"`)
		for _, v := range form {
			wantAll(t, got.body, `value="`+v[0]+`"`)
		}
	}
	f("did you mean p0-tor0-h0?", url.Values{"src": {"p0-tor0-hO"}, "dst": {"p1-tor1-h1"}, "says": {"slow"}})
	f("reversed", url.Values{"src": {"p0-tor0-h0"}, "dst": {"p1-tor1-h1"}, "from": {"-1m"}, "to": {"-9m"}})
	f("not a port", url.Values{"src": {"p0-tor0-h0"}, "dst": {"p1-tor1-h1"}, "dst_port": {"http"}})
}

func TestReportPage(t *testing.T) {
	base := serve(t, newFake(t))
	body := getPage(t, base+"/reports/r-2", 200)
	wantAll(t, body, "The network lost packets, at link p0-t1-0&gt;t2-1", "not final", `data-refresh="1000"`, "“ssh froze”", "3 traces, 1 of them partial",
		`<g class="edge blamed">`, "hop 3 silent", `<span class="hit">p0-t1-0&gt;t2-1</span>`)
	if strings.Count(body, "<figure") != 1 {
		t.Error("the way back is drawn though it has nothing to show")
	}
	body = getPage(t, base+"/reports/r-1", 200)
	wantAll(t, body, "at device t2-0", "Class of the drops: policy/l3/acl", "· final", `data-refresh="0"`, `class="node device blamed dropping"`, "✕ 1 drop", "saw it", "39 records counted but not listed")
	wantAll(t, getPage(t, base+"/reports/none", 404), "no report")
	wantAll(t, getPage(t, base+"/findings/f-2", 200), "31 flows", "62 % of all", "6 s after the first evidence",
		`aria-label="probability &gt; 99.9 %"`, "the agent of t2-1 was not heard")
	wantAll(t, getPage(t, base+"/findings/f-1", 200), "Cannot be told from", "link p0-t1-0&gt;t2-0", "probability <b>97 %</b>")
	getPage(t, base+"/findings/none", 404)
}

func TestEveryVerdictHasItsSentence(t *testing.T) {
	for _, verdict := range []string{"", "network", "source-host", "destination-host", "server", "application", "outside", "not-network", "insufficient-evidence", "new-one"} {
		backend := newFake(t)
		backend.reports = []*decafpb.FaultReport{{Id: "r", Src: "198.51.100.1", Dst: "p0-tor0-h0"}}
		if verdict != "" {
			backend.reports[0].Verdict = &decafpb.Verdict{Verdict: verdict}
		}
		a := answerOf(NewViews(nil).Report(backend.reports[0]))
		if a.Headline == "" || !strings.Contains("bad warn ok", a.Level) {
			t.Errorf("%q: %+v", verdict, a)
		}
		base := serve(t, backend)
		getPage(t, base+"/reports/r", 200)
		getPage(t, base+"/", 200)
	}
}

func TestConnectionsPage(t *testing.T) {
	backend := newFake(t)
	base := serve(t, backend)
	body := getPage(t, base+"/flows", 200)
	wantAll(t, body, "p0-tor0-h0:40000 &gt; p1-tor1-h1:7000", `<span class="tag failed">failed</span> <small>ETIMEDOUT</small>`,
		`<a class="tag open" href="/findings/f-2" title="at fault when this connection had trouble">link p0-t1-0&gt;t2-1</a>`, "p0-tor0 › p0-t1-0 › t2-1 › p1-t1-0 › p1-tor1",
		"1.2 %", "1 received", "7.4 s", "12 more were forgotten", `data-refresh="5000"`,
		// What the table has no room for.
		`title="3 timeouts, had arrived already: 1, found to arrive out of order: 5">64<`, `title="lowest 80 µs, they differ by 40 µs">410 µs<`,
		`title="over the time shown -14 kB, reduced: 17">58 kB<`, `title="this end&#39;s own 66 kB">3.1 MB<`, `title="probes in a row without an answer: 5">7.4 s<`,
		`title="user 0">iperf3<`, `title="docker/3f1b2c9d0e1f">worker `, `title="2026-01-31T11:59:20Z to 2026-01-31T12:00:00Z, established for 39 s">40 s<`,
		// Of the 52 of the last interval the one before has a quarter.
		`<rect class="quiet" x="0" y="15"`, `<rect class="fill" x="33" y="12" width="32" height="4">`, `<rect class="fill" x="66" y="0" width="33" height="16">`,
		// .41 and 3.2 ms on a scale of six powers of ten from 10 µs.
		`<rect class="range" x="54" y="3" width="30"`)
	// The finding came after its trouble, or was over before.
	for _, change := range []func(*decafpb.Finding){
		func(f *decafpb.Finding) { f.FromNs = before(-time.Second) },
		func(f *decafpb.Finding) {
			f.FromNs, f.LastNs, f.ResolvedNs = before(3*time.Minute), before(61*time.Second), before(50*time.Second)
		},
	} {
		later := newFake(t)
		change(later.findings[0])
		if strings.Contains(getPage(t, serve(t, later)+"/flows", 200), "at fault when") {
			t.Errorf("%v is laid to a finding of another time", later.findings[0])
		}
	}
	if strings.Count(body, `class="spark"`) != 1 {
		t.Error("what was told of once has a history")
	}
	body = getPage(t, base+"/flows?host=p0-tor0-h0&trouble=true&since=-10m&until=-5m&state=open&sort=rtt", 200)
	wantAll(t, body, "Connections of p0-tor0-h0", "The agent of p0-tor0-h0 is fresh.", "It left out: table_records_left_out=4.", `value="-10m"`, `<option selected>open</option>`,
		` checked`, `data-refresh="0"`, `href="/api/v1/flows?host=p0-tor0-h0&amp;since=-10m&amp;sort=rtt&amp;state=open&amp;trouble=true&amp;until=-5m"`,
		`href="/services?host=p0-tor0-h0&amp;since=-10m&amp;sort=rtt&amp;trouble=true&amp;until=-5m"`)
	if r := backend.askedFlows; r.Host != "p0-tor0-h0" || !r.Trouble || r.Sort != ByRTT || r.State != decafpb.FlowRecord_STATE_OPEN {
		t.Errorf("asked %+v", r)
	}
	wantAll(t, getPage(t, base+"/flows?host=p1-tor0-h0&state=nowhere", 400), "there is no &#34;nowhere&#34;", `value="p1-tor0-h0"`)
	wantAll(t, getPage(t, base+"/services?host=p0-tor1-h1", 200), "p0-tor0-h0 &gt; p1-tor1-h1:7000", "The agent of p0-tor1-h1 is heard of 3 min ago",
		`href="/flows?src=10.0.0.1&amp;dst=10.1.1.3&amp;port=7000"`, `title="over the time shown -120 kB, connections whose window shrank: 4">58 kB<`)
	wantAll(t, getPage(t, serve(t, newFake(t).quiet())+"/flows", 200), "Nothing of the kind.")
	wantAll(t, getPage(t, base+"/findings/f-2", 200), `href="/flows?component=link%20p0-t1-0%3et2-1&amp;since=2026-01-31T11%3a58%3a30Z"`)
	wantAll(t, getPage(t, base+"/", 200), `<a href="/flows?host=p0-tor0-h0" class="dot fresh"`)
}

func TestAssets(t *testing.T) {
	base := serve(t, newFake(t))
	for path, kind := range map[string]string{"/page.css": "text/css; charset=utf-8", "/page.js": "text/javascript; charset=utf-8", "/icon.svg": "image/svg+xml"} {
		if got := request(t, "GET", base+path, "", ""); got.status != 200 || got.header.Get("Content-Type") != kind || got.body == "" {
			t.Errorf("%s: %d %s", path, got.status, got.header.Get("Content-Type"))
		}
	}
}
