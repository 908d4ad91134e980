package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"unicode/utf8"

	"decaf/api/decafpb"
)

type answered struct {
	status int
	header http.Header
	body   string
}

func request(t *testing.T, method, url, contentType, body string, header ...string) answered {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answered{resp.StatusCode, resp.Header, string(b)}
}

// wantProblem checks that an answer is RFC 9457's, whole and with the words.
func wantProblem(t *testing.T, got answered, status int, words string) {
	t.Helper()
	if got.status != status {
		t.Errorf("status %d, want %d: %s", got.status, status, got.body)
	}
	if ct := got.header.Get("Content-Type"); ct != "application/problem+json" {
		t.Errorf("content type %q: %s", ct, got.body)
	}
	var p problem
	if err := json.Unmarshal([]byte(got.body), &p); err != nil {
		t.Fatalf("body is no problem: %v: %s", err, got.body)
	}
	if p.Status != status || p.Title == "" || p.Detail == "" || p.Type != "about:blank" || !strings.HasPrefix(p.Instance, "/") {
		t.Errorf("problem is not whole: %+v", p)
	}
	if !strings.Contains(p.Detail, words) {
		t.Errorf("detail %q does not say %q", p.Detail, words)
	}
	for _, bad := range []string{"goroutine", ".go:", "hunter2"} {
		if strings.Contains(got.body, bad) {
			t.Errorf("body leaks %q: %s", bad, got.body)
		}
	}
}

func TestBadQueriesAreProblems(t *testing.T) {
	base := serve(t, newFake(t))
	f := func(path string, status int, words string) {
		t.Helper()
		t.Run(path, func(t *testing.T) { wantProblem(t, request(t, "GET", base+path, "", ""), status, words) })
	}
	f("/api/v1/nothing", 404, "there is nothing at /api/v1/nothing")
	f("/nothing", 404, "there is nothing")
	f("/api/v1/reports/r-99", 404, `no report "r-99"; `+"`decaf reports` lists them")
	f("/api/v1/reports/"+strings.Repeat("x", 400), 404, "no report")
	f("/api/v1/findings/f-99", 404, `no finding "f-99"`)
	f("/api/v1/findings?since=-1m&until=-5m", 400, "the time window is reversed or empty: since (2026-01-31T11:59:00Z) is not before until (2026-01-31T11:55:00Z); swap them")
	f("/api/v1/drops?since=now&until=now", 400, "reversed or empty")
	f("/api/v1/drops?since=yesterdayish", 400, `"yesterdayish" is no time; write -5m`)
	f("/api/v1/drops?since=-1e99y", 400, "is no time")
	f("/api/v1/links?limit=0", 400, "not a number from 1 to 10000")
	f("/api/v1/links?limit=10001", 400, "not a number from 1 to 10000")
	f("/api/v1/links?limit=-3", 400, "limit")
	f("/api/v1/links?limit=ten", 400, "limit")
	f("/api/v1/links?limt=3", 400, `unknown parameter "limt"; did you mean limit?`)
	f("/api/v1/links?src=p0-tor0-h0", 400, `unknown parameter "src"; known are since, until, limit`)
	f("/api/v1/links?limit=3&limit=4", 400, "limit is given 2 times")
	f("/api/v1/links?limit=%zz", 400, "cannot be read")
	f("/api/v1/agents?limit=3", 400, "unknown parameter")
	f("/api/v1/topology?x=1", 400, "unknown parameter")
	f("/api/v1/reports?evidence=some", 400, "neither full nor counts")
	f("/api/v1/drops?src=p0-tor0-h9", 400, "did you mean p0-tor0-h")
	f("/api/v1/drops?src=10.0.0.999", 400, "is no address")
	f("/api/v1/drops?src_port=70000", 400, "not a port from 1 to 65535")
	f("/api/v1/drops?component=link+a%3Eb", 400, `the topology has no "link a>b"`)
	f("/api/v1/drops?component=router+t2-0", 400, "neither a link, a device nor a host")
}

func TestBadReportsAreProblems(t *testing.T) {
	backend := newFake(t)
	base := serve(t, backend)
	f := func(name, body string, status int, words string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			wantProblem(t, request(t, "POST", base+"/api/v1/reports", "application/json", body), status, words)
		})
	}
	const ends = `"src":"p0-tor0-h0","dst":"p1-tor1-h1"`
	f("empty", "", 400, "not JSON")
	f("no JSON", "src=a", 400, "not JSON")
	f("an array", "[]", 400, "one JSON object")
	f("two objects", "{} {}", 400, "not JSON")
	f("no UTF-8", "{\"says\":\"\xff\"}", 400, "not UTF-8")
	f("no source", `{"dst":"p1-tor1-h1"}`, 400, "src is missing")
	f("no destination", `{"src":"p1-tor1-h1"}`, 400, "dst is missing")
	f("misspelt field", `{`+ends+`,"form":"-5m"}`, 400, `unknown field "form"; did you mean from?`)
	f("wrong type", `{"src":7,"dst":"p1-tor1-h1"}`, 400, "src: a number is not what belongs there")
	f("unknown host", `{"src":"p0-tor0-h7","dst":"p1-tor1-h1"}`, 400, "did you mean p0-tor0-h0?")
	f("host of another world", `{"src":"mainframe","dst":"p1-tor1-h1"}`, 400, "`decaf topology` lists the hosts")
	f("wrong address", `{"src":"10.0.0.256","dst":"p1-tor1-h1"}`, 400, "is no address")
	f("multicast", `{"src":"224.0.0.1","dst":"p1-tor1-h1"}`, 400, "not the address of a host")
	f("zone", `{"src":"fe80::1%eth0","dst":"p1-tor1-h1"}`, 400, "not the address of a host")
	f("a device", `{"src":"t2-0","dst":"p1-tor1-h1"}`, 400, "t2-0 is a device; a report is about two hosts")
	f("a device's address", fmt.Sprintf(`{"src":%q,"dst":"p1-tor1-h1"}`, backend.topo.Links[0].To.Addr.Addr()), 400, "is an address of device")
	f("same host", `{"src":"p0-tor0-h0","dst":"p0-tor0-h0"}`, 400, "same host")
	f("same host by address", fmt.Sprintf(`{"src":"p0-tor0-h0","dst":%q}`, backend.topo.Hosts[0].Addresses[0]), 400, "same host")
	f("port too high", `{`+ends+`,"dst_port":65536}`, 400, "dst_port: 65536 is not a port")
	f("port negative", `{`+ends+`,"src_port":-1}`, 400, "src_port: -1 is not a port")
	f("port broken", `{`+ends+`,"src_port":1.5}`, 400, "src_port")
	f("reversed window", `{`+ends+`,"from":"-1m","to":"-5m"}`, 400, "reversed or empty")
	f("reversed in ns", `{`+ends+`,"from_ns":1769860800000000000,"to_ns":1769860700000000000}`, 400, "reversed or empty")
	f("empty window", `{`+ends+`,"from":"now","to":"now"}`, 400, "reversed or empty")
	f("from after now", `{`+ends+`,"from":"2026-01-31T12:00:01Z"}`, 400, "reversed or empty")
	f("future", `{`+ends+`,"to":"2026-01-31T13:00:00Z"}`, 400, "lies in the future")
	f("before 1970", `{`+ends+`,"to":"1970-01-01T00:00:01Z"}`, 400, "before 1970")
	f("negative ns", `{`+ends+`,"from_ns":-5}`, 400, "not a time after 1970")
	f("time twice", `{`+ends+`,"from":"-5m","from_ns":1769860700000000000}`, 400, "both given")
	f("time no time", `{`+ends+`,"from":"soon"}`, 400, `"soon" is no time`)
	f("time an object", `{`+ends+`,"from":{}}`, 400, "is no time")
	f("says too long", `{`+ends+`,"says":"`+strings.Repeat("x", maxSays+1)+`"}`, 400, "says: 2001 characters are too many")
	f("body too large", `{`+ends+`,"says":"`+strings.Repeat("x", maxBody)+`"}`, 413, "at most 65536 bytes")
	if backend.filed != 0 {
		t.Errorf("%d bad reports were filed", backend.filed)
	}

	t.Run("form instead of JSON", func(t *testing.T) {
		wantProblem(t, request(t, "POST", base+"/api/v1/reports", "application/x-www-form-urlencoded", "src=a"), 415, "application/json")
	})
	t.Run("no content type", func(t *testing.T) {
		wantProblem(t, request(t, "POST", base+"/api/v1/reports", "", "{}"), 415, "application/json")
	})
}

func TestWrongMethodsAreProblems(t *testing.T) {
	base := serve(t, newFake(t))
	for _, path := range []string{"reports", "reports/r-1", "findings", "findings/f-1", "links", "drops", "paths", "agents", "topology"} {
		got := request(t, "DELETE", base+"/api/v1/"+path, "", "")
		wantProblem(t, got, 405, "does not take DELETE")
		if allow := got.header.Get("Allow"); !strings.Contains(allow, "GET, HEAD") {
			t.Errorf("%s: allow %q", path, allow)
		}
		if got := request(t, "HEAD", base+"/api/v1/"+path, "", ""); got.status != 200 || got.body != "" {
			t.Errorf("HEAD %s: %d %q", path, got.status, got.body)
		}
	}
	if got := request(t, "OPTIONS", base+"/api/v1/reports", "", ""); got.status != 204 || got.header.Get("Allow") != "GET, HEAD, OPTIONS, POST" {
		t.Errorf("OPTIONS: %d %q", got.status, got.header.Get("Allow"))
	}
}

func TestOtherSitesMayNotFile(t *testing.T) {
	backend := newFake(t)
	base := serve(t, backend)
	for _, path := range []string{"/api/v1/reports", "/reports"} {
		got := request(t, "POST", base+path, "application/json", `{"src":"p0-tor0-h0","dst":"p1-tor1-h1"}`, "Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example")
		wantProblem(t, got, 403, "another site")
	}
	if backend.filed != 0 {
		t.Error("filed")
	}
}

// A site that makes its own name lead to loopback gets nothing.
func TestOtherNamesAreRefused(t *testing.T) {
	s := newServer(t, Config{Names: []string{"noc.example"}})
	for host, status := range map[string]int{
		"localhost": 200, "LOCALHOST:8080": 200, "decaf.localhost": 200, "127.0.0.1:1": 200, "[::1]:8080": 200, "[::1]": 200, "192.0.2.1": 200, "noc.example:80": 200,
		"evil.example": 421, "evil.example:8080": 421, "localhost.evil.example": 421, "": 421,
	} {
		for _, path := range []string{"/", "/api/v1/links", "/metrics"} {
			r := httptest.NewRequest("GET", path, nil)
			r.Host = host
			w := httptest.NewRecorder()
			s.Handler().ServeHTTP(w, r)
			if w.Code != status {
				t.Errorf("%s of %q: %d, want %d", path, host, w.Code, status)
			}
		}
	}
}

func FuzzDecodeReport(f *testing.F) {
	topo := clos(f)
	for _, s := range []string{"", "{}", `{"src":"p0-tor0-h0","dst":"p1-tor1-h1"}`, `{"src":"p0-tor0-h0","dst":"198.51.100.1","from":"-5m","to":"now","says":"x","dst_port":443}`,
		`{"src":"p0-tor0-h0","dst":"2001:db8::1","from_ns":1769860700000000000}`, `{"src":"p0-tor0-h0","SRC":7,"src":null}`, `{"from":1e999}`, `{"from_ns":9223372036854775807,"src":"10.0.0.1","dst":"10.0.0.9"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		r := httptest.NewRequest("POST", "/api/v1/reports", bytes.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		req, err := decodeReport(httptest.NewRecorder(), r)
		if err == nil {
			var report *decafpb.FaultReport
			if report, err = req.report(topo, noon); err == nil {
				if report.FromNs >= report.ToNs || report.Src == "" || report.Dst == "" || report.SrcPort > 65535 || report.DstPort > 65535 || !utf8.ValidString(report.Says) {
					t.Errorf("accepted %v", report)
				}
				return
			}
		}
		if e := asError(err); e.Status < 400 || e.Status >= 500 {
			t.Errorf("%v is told as %d", err, e.Status)
		}
	})
}

func TestBackendErrors(t *testing.T) {
	f := func(name string, err error, status int, words string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			backend := newFake(t)
			backend.err = err
			base := serve(t, backend)
			for _, path := range []string{"reports", "reports/r-1", "findings", "findings/f-1", "links", "drops", "paths", "agents"} {
				wantProblem(t, request(t, "GET", base+"/api/v1/"+path, "", ""), status, words)
			}
			got := request(t, "POST", base+"/api/v1/reports", "application/json", `{"src":"p0-tor0-h0","dst":"p1-tor1-h1"}`)
			wantProblem(t, got, status, words)
			if status == 503 && got.header.Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
		})
	}
	f("its words stay inside", errBus, 500, "its log says why")
	f("unavailable", fmt.Errorf("put: %w", Unavailable("the bus is away; the report was not stored, send it again")), 503, "send it again")
	f("refused", BadRequest("no such window"), 400, "no such window")
	f("wrong status", &Error{Status: 200, Title: "odd", Detail: "odd detail"}, 500, "odd detail")
}

func TestPanicShowsNoStack(t *testing.T) {
	backend := newFake(t)
	backend.panics = true
	base := serve(t, backend)
	wantProblem(t, request(t, "GET", base+"/api/v1/agents", "", ""), 500, "its log says why")
}

func TestErrorIs(t *testing.T) {
	err := fmt.Errorf("look up: %w", NotFound("no report %q", "r"))
	if !errors.Is(err, ErrNotFound) || errors.Is(err, ErrBadRequest) || !errors.Is(BadRequest("x"), ErrBadRequest) || !errors.Is(Unavailable("x"), ErrUnavailable) {
		t.Error("errors.Is does not tell the kinds apart")
	}
	if errors.Is(ErrNotFound, NotFound("this one")) {
		t.Error("an error with words is one occurrence, not a kind")
	}
}
