package api

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

// run runs one client verb as main would.
func run(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	root := &cobra.Command{Use: "decaf", SilenceErrors: true}
	root.AddCommand(ClientCommands()...)
	var out, errOut bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&errOut)
	root.SetArgs(args)
	err = root.ExecuteContext(t.Context())
	return out.String(), errOut.String(), err
}

// What each verb prints is a snapshot, in every format.
func TestOutputs(t *testing.T) {
	base := serve(t, newFake(t))
	for _, c := range []struct{ name, args string }{
		{"reports", "reports"}, {"report", "reports r-1"}, {"report-open", "reports r-2"}, {"findings", "findings"}, {"finding", "findings f-1"},
		{"links", "links"}, {"drops", "drops"}, {"paths", "paths"}, {"agent", "agents p1-tor1"}, {"services", "flows --services"},
		{"topology", "topology"}, {"topology-devices", "topology devices"}, {"topology-hosts", "topology hosts"}, {"topology-links", "topology links"},
	} {
		for _, output := range []string{"table", "csv", "json"} {
			t.Run(c.name+"/"+output, func(t *testing.T) {
				out, errOut, err := run(t, append(strings.Fields(c.args), "--server", base, "-o", output)...)
				if err != nil || errOut != "" {
					t.Fatal(err, errOut)
				}
				switch output {
				case "json":
					if !json.Valid([]byte(out)) {
						t.Error("no JSON")
					}
					return // the server's JSON is a snapshot already
				case "csv":
					rows, err := csv.NewReader(strings.NewReader(out)).ReadAll() // checks that every row has every column
					if err != nil || len(rows) < 2 {
						t.Error(err, len(rows))
					}
				}
				golden(t, "out/"+c.name+"."+output, out)
			})
		}
	}
}

// Wide has every column that CSV has, if under a shorter name.
func TestWideHasEveryColumn(t *testing.T) {
	base := serve(t, newFake(t))
	for _, args := range []string{"reports", "findings", "links", "drops", "paths", "flows", "flows --services", "agents", "agents p1-tor1", "topology links"} {
		head := func(output string) (first string) {
			t.Helper()
			out, _, err := run(t, append(strings.Fields(args), "--server", base, "-o", output)...)
			if err != nil {
				t.Fatal(err)
			}
			first, _, _ = strings.Cut(out, "\n")
			return first
		}
		csv, wide, table := strings.Split(head("csv"), ","), head("wide"), head("table")
		columns := regexp.MustCompile(" {2,}").Split(wide, -1)
		if len(columns) != len(csv) {
			t.Errorf("%s: %d columns, CSV has %d:\n%s", args, len(columns), len(csv), wide)
		}
		for _, name := range regexp.MustCompile(" {2,}").Split(table, -1) {
			if args != "agents p1-tor1" && !slices.Contains(columns, name) {
				t.Errorf("%s: wide lacks %s", args, name)
			}
		}
	}
}

// What is not shown is said, and what cannot be asked for too.
func TestFlowsVerb(t *testing.T) {
	base := serve(t, newFake(t))
	for _, output := range []string{"table", "csv", "wide"} {
		out, errOut, err := run(t, "flows", "--server", base, "-o", output)
		if err != nil || errOut != "12 more were forgotten for want of room (tables.max_bytes of the service) since it started, 1 of them with trouble\n" {
			t.Fatal(err, errOut)
		}
		golden(t, "out/flows."+output, out)
	}
	f := func(want string, args ...string) {
		t.Helper()
		_, errOut, err := run(t, append(args, "--server", base)...)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v %s, want an error with %q", args, err, errOut, want)
		}
	}
	f("did you mean p0-tor0-h0?", "flows", "p0-tor0-hO")
	f(`state: there is no "opened"; did you mean open?`, "flows", "--state", "opened")
	f("sort: nothing is sorted by", "flows", "--sort", "colour")
	f(`src: "10.0.0.0/99" is no prefix; write 10.0.0.0/8`, "flows", "--src", "10.0.0.0/99")
	f("write an IPv4 prefix", "flows", "--src", "::ffff:10.0.0.0/95")
	f("leave out --services", "flows", "--services", "--state", "open")
	f("accepts at most 1 arg", "flows", "a", "b")
	f("did you mean p1-tor0?", "agents", "p1-torO")
}

// Agents are shown by how long ago they were heard of, so that no snapshot holds.
func TestAgentsOutput(t *testing.T) {
	base := serve(t, newFake(t))
	out, _, err := run(t, "agents", "--server", base)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"ROLE", "device  p0-tor0", "silent  never", "connection refused"} {
		if !strings.Contains(out, want) {
			t.Errorf("lacks %q:\n%s", want, out)
		}
	}
	out, _, err = run(t, "agents", "--server", base, "-o", "csv")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "out/agents.csv", out)
}

func TestHelp(t *testing.T) {
	for _, c := range ClientCommands() {
		out, _, err := run(t, c.Name(), "--help")
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out, "Examples:") {
			t.Errorf("%s: no examples", c.Name())
		}
		golden(t, "help/"+c.Name()+".txt", out)
	}
}

func TestReportVerb(t *testing.T) {
	backend := newFake(t)
	base := serve(t, backend)
	t.Setenv("DECAF_SERVER", base)
	out, errOut, err := run(t, "report", "p0-tor0-h0", "p1-tor1-h1", "--port", "443", "--from", "-15m", "--to", "-5m", "--says", "ssh froze")
	if err != nil || errOut != "" {
		t.Fatal(err, errOut)
	}
	golden(t, "out/report-filed.table", out)
	r := backend.reports[0]
	if r.DstPort != 443 || r.FromNs != before(15*time.Minute) || r.ToNs != before(5*time.Minute) || r.Says != "ssh froze" {
		t.Errorf("filed %v", r)
	}
}

func TestReportWaits(t *testing.T) {
	base := serve(t, newFake(t)) // whose new reports are final when asked for again
	out, errOut, err := run(t, "report", "p0-tor0-h1", "p1-tor0-h1", "--wait", "--server", base)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out, "device t2-0") || !strings.Contains(out, "final") {
		t.Error(out)
	}
	if errOut != "r-new1 insufficient-evidence\nr-new1 network device t2-0\n" {
		t.Errorf("progress %q", errOut)
	}
}

func TestReportWaitEnds(t *testing.T) {
	backend := newFake(t)
	backend.filed = 5 // r-new6 never becomes final
	out, _, err := run(t, "report", "p0-tor0-h1", "p1-tor0-h1", "--wait", "--wait-at-most", "10ms", "--server", serve(t, backend), "-o", "json")
	if err == nil || !strings.Contains(err.Error(), "not final after 10ms; see it later with `decaf reports r-new6`") {
		t.Error(err)
	}
	if !json.Valid([]byte(out)) {
		t.Error("the verdict so far is not shown")
	}
}

func TestFlagsReachTheServer(t *testing.T) {
	var query string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query = r.URL.Path + "?" + r.URL.RawQuery
		_, _ = w.Write([]byte(`{"items":[],"left_out":0}`))
	}))
	defer srv.Close()
	f := func(want string, args ...string) {
		t.Helper()
		if _, _, err := run(t, append(args, "--server", srv.URL+"/")...); err != nil {
			t.Error(err)
		}
		if query != want {
			t.Errorf("asked %s, want %s", query, want)
		}
	}
	f("/api/v1/links?limit=100&since=-5m&until=now", "links", "--since", "-5m", "--until", "now")
	f("/api/v1/links?limit=100&since=2026-01-31T12%3A00%3A00Z", "links", "--since", "1769860800")
	f("/api/v1/links?limit=100&since=2026-01-31T10%3A00%3A00Z", "links", "--since", "2026-01-31T12:00:00+02:00")
	f("/api/v1/drops?class=policy&component=link+a%3Eb&dst=c&dst_port=2&limit=3&src=d&src_port=1", "drops", "--limit", "3", "--class", "policy", "--component", "link a>b", "--src", "d", "--dst", "c", "--src-port", "1", "--dst-port", "2")
	f("/api/v1/findings?evidence=counts&limit=100", "findings")
	f("/api/v1/findings?limit=100", "findings", "-o", "json")
	f("/api/v1/flows?limit=100&sort=rtt&state=open&trouble=true", "flows", "--trouble", "--sort", "rtt", "--state", "open")
	f("/api/v1/services?host=h&limit=100&port=443&since=-5m&src=10.0.0.0%2F8", "flows", "h", "--services", "--port", "443", "--since", "-5m", "--src", "10.0.0.0/8")
	f("/api/v1/agents?", "agents")
	f("/api/v1/agents/a?", "agents", "a")
	f("/api/v1/reports/a/b?", "reports", "a/b") // escaped on the wire
}

func TestVerbErrorsSayWhatToDo(t *testing.T) {
	base := serve(t, newFake(t))
	web := httptest.NewServer(http.NotFoundHandler())
	defer web.Close()
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	html := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }))
	defer html.Close()
	f := func(want string, args ...string) {
		t.Helper()
		out, _, err := run(t, args...)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", args, err, want)
		}
		if strings.Contains(out, "Usage:") {
			t.Errorf("%v: usage buries the error", args)
		}
	}
	f("no decaf server listens at "+closed.URL+"; start one with `decaf serve`", "links", "--server", closed.URL)
	f("is that a decaf server?", "links", "--server", web.URL)
	f("is that a decaf server of this version?", "links", "--server", html.URL)
	f("write http://host:port", "links", "--server", "localhost:8080")
	f("write http://host:port", "links", "--server", "ftp://localhost")
	f("does not speak TLS", "links", "--server", strings.Replace(base, "http://", "https://", 1))
	f("are for https", "links", "--server", base, "--ca", "ca.pem")
	f("tls:", "links", "--server", "https://127.0.0.1:1", "--ca", "no-such-file.pem")
	f("write table, wide, json or csv", "links", "--server", base, "-o", "xml")
	f("not a time to wait", "links", "--server", base, "--timeout", "0s")
	f(`--since: "lunch" is no time`, "links", "--server", base, "--since", "lunch")
	f("reversed or empty", "links", "--server", base, "--since", "-1m", "--until", "-5m")
	f("limit", "links", "--server", base, "--limit", "0")
	f("bad request: src: no host", "report", "nohost", "p1-tor1-h1", "--server", base)
	f("give two hosts", "report", "p1-tor1-h1", "--server", base)
	f("reversed or empty", "report", "p0-tor0-h0", "p1-tor1-h1", "--from", "-1m", "--to", "-5m", "--server", base)
	f("invalid argument", "report", "a", "b", "--port", "70000", "--server", base)
	f("not found: no report", "reports", "r-99", "--server", base)
	f("did you mean links?", "topology", "linsk", "--server", base)
}

func TestSlowServer(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer srv.Close()
	_, _, err := run(t, "links", "--server", srv.URL, "--timeout", "20ms")
	if err == nil || !strings.Contains(err.Error(), "did not answer in time") {
		t.Error(err)
	}
}

func TestLeftOutIsSaid(t *testing.T) {
	base := serve(t, newFake(t))
	_, errOut, err := run(t, "paths", "--limit", "2", "--server", base)
	if err != nil || !strings.Contains(errOut, "3 more were left out; raise --limit") {
		t.Error(err, errOut)
	}
	_, errOut, err = run(t, "drops", "--server", serve(t, newFake(t).quiet()))
	if err != nil || errOut != "no device drops\n" {
		t.Error(err, errOut)
	}
}

// What a user said must neither steer a terminal nor run in a spreadsheet.
func TestSaysIsInert(t *testing.T) {
	backend := newFake(t)
	backend.reports[0].Says = "\x1b[2Jgone\r\nsecond\u202eline"
	backend.reports[1].Says = `=HYPERLINK("http://evil.example")`
	base := serve(t, backend)
	out, _, err := run(t, "reports", "--server", base)
	if err != nil || strings.ContainsAny(out, "\x1b\r\u202e") || !strings.Contains(out, "\uFFFD[2Jgone  second") {
		t.Errorf("%v %q", err, out)
	}
	out, _, err = run(t, "reports", "--server", base, "-o", "csv")
	if err != nil || !strings.Contains(out, `"'=HYPERLINK(`) {
		t.Errorf("%v %q", err, out)
	}
}
