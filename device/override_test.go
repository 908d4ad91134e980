package device

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"decaf/api/decafpb"
	"decaf/api/gnmi"
	"decaf/api/yang"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// change sets JSON under /loss.
func change(text string) *gnmipb.SetRequest {
	return &gnmipb.SetRequest{Update: []*gnmipb.Update{{
		Path: &gnmipb.Path{Elem: []*gnmipb.PathElem{{Name: "loss"}}},
		Val:  &gnmipb.TypedValue{Value: &gnmipb.TypedValue_JsonIetfVal{JsonIetfVal: []byte(text)}},
	}}}
}

// forget deletes what is set under /loss/…
func forget(names ...string) *gnmipb.SetRequest {
	p := &gnmipb.Path{Elem: []*gnmipb.PathElem{{Name: "loss"}}}
	for _, n := range names {
		p.Elem = append(p.Elem, &gnmipb.PathElem{Name: n})
	}
	return &gnmipb.SetRequest{Delete: []*gnmipb.Path{p}}
}

func classJSON(class, config string) string {
	return fmt.Sprintf(`{"classes":{"class":[{"name":%q,"reporting":{"config":{%s}}}]}}`, class, config)
}

func filterJSON(name string, end time.Time, config string) string {
	return fmt.Sprintf(`{"filters":{"filter":[{"name":%q,"config":{"end-time":"%d"%s}}]}}`, name, end.UnixNano(), config)
}

// told1 has an agent see a drop of a flow.
func (a *Agent) told1(class string, flow int, tos byte, at time.Time) {
	a.enter(observed{event: &decafpb.DropEvent{Class: class, TimeNs: uint64(at.UnixNano()),
		Packet: &decafpb.Packet{Flow: testFlow(flow).PB(), Header: []byte{0x45, tos}}}, packets: 1, bytes: 100, known: true}, at)
}

// What is set holds from the next drop on: thresholds, what is ignored, of a class
// and of all below it, de-duplication, intervals, the fuse.
func TestSetHoldsAtOnce(t *testing.T) {
	a, c := startTold(t, DefaultConfig())
	now := time.Now()
	events := func(class string, n int) (told uint64) {
		t.Helper()
		before := a.State().Events
		for range n {
			a.told1(class, 1, 0, now)
		}
		return a.State().Events - before
	}
	set := func(req *gnmipb.SetRequest) {
		t.Helper()
		if _, err := c.Set(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	if got := events(NoBuffer, 10); got != 10 {
		t.Fatalf("%d events of 10 before anything is set", got)
	}
	set(change(classJSON(NoBuffer, `"threshold":"4"`)))
	if got := events(NoBuffer, 10); got != 4 {
		t.Errorf("%d events of 10 under a threshold of 4", got)
	}
	// Raised, the events are back at once, and told of.
	set(change(classJSON(NoBuffer, `"threshold":"100","burst":"7"`)))
	if got := events(NoBuffer, 10); got != 7 {
		t.Errorf("%d events of 10 in a burst of 7", got)
	}
	if n := a.State().Transitions; n != 3 {
		t.Errorf("%d transitions: up, back as it was set, up", n)
	}
	set(change(classJSON("errors", `"ignore":true`)))
	set(change(classJSON(ErrorsL2Tx, `"ignore":false`)))
	if below, except := events(ErrorsL3RxTTL, 5), events(ErrorsL2Tx, 5); below != 0 || except != 5 {
		t.Errorf("%d events of an ignored subtree, %d of the class in it that is not", below, except)
	}
	set(change(classJSON(PolicyL3ACL, `"deduplicate-interval":60000`)))
	if got := events(PolicyL3ACL, 5); got != 1 {
		t.Errorf("%d events of one flow", got)
	}
	set(forget("classes"))
	if all := events(NoBuffer, 10) + events(ErrorsL3RxTTL, 5) + events(PolicyL3ACL, 5); all != 20 {
		t.Errorf("%d events of 20 once nothing is set any more", all)
	}
	set(change(`{"reporting":{"config":{"threshold":"0"}}}`))
	if got := events(NoBuffer, 10) + events(Unknown, 10); got != 0 {
		t.Errorf("%d events with a threshold of 0", got)
	}
	set(change(`{"fuse":{"config":{"events":"77","cpu":1500,"queue":250,"memory":"33554432","back-off":2000,"max-back-off":3000}},"reporting":{"config":{"aggregate-interval":250,"hold":0,"prefix-length-ipv4":16,"prefix-length-ipv6":32}}}`))
	a.reporting.Lock()
	b, length, s := a.reporter.fuse.budget, a.reporter.aggregates.length, a.reporter.class(NoBuffer).classSettings
	a.reporting.Unlock()
	if b != (budget{cpu: 1.5, memory: 32 << 20, events: 77, queue: 0.25, backOff: 2 * time.Second, longest: 3 * time.Second}) ||
		length != (prefixLength{16, 32}) || s.Interval != 250*time.Millisecond || s.Hold != 0 {
		t.Errorf("budget %+v, prefixes %+v, class %+v", b, length, s)
	}
	// What was set and what holds are both served.
	resp, err := c.Get(t.Context(), &gnmipb.GetRequest{Encoding: gnmipb.Encoding_JSON, Path: []*gnmipb.Path{
		{Elem: []*gnmipb.PathElem{{Name: "loss"}, {Name: "reporting"}}}, {Elem: []*gnmipb.PathElem{{Name: "loss"}, {Name: "fuse"}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	got := string(resp.Notification[0].Update[0].GetVal().GetJsonVal()) + string(resp.Notification[1].Update[0].GetVal().GetJsonVal())
	want := `{"config":{"aggregate-interval":250,"hold":0,"prefix-length-ipv4":16,"prefix-length-ipv6":32,"threshold":0},` +
		`"state":{"aggregate-interval":250,"burst":0,"deduplicate-interval":0,"hold":0,"ignore":false,"prefix-length-ipv4":16,"prefix-length-ipv6":32,"threshold":0}}` +
		`{"config":{"back-off":2000,"cpu":1500,"events":77,"max-back-off":3000,"memory":33554432,"queue":250},` +
		`"state":{"back-off":2000,"cpu":1500,"events":77,"max-back-off":3000,"memory":33554432,"queue":250}}`
	if got != want {
		t.Errorf("served %s\nwant %s", got, want)
	}
}

// What makes no sense to the agent is refused with a code, and nothing changes.
func TestSetRefusedByTheAgent(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Settings = filepath.Join(t.TempDir(), "device.settings.json")
	a, c := startTold(t, cfg)
	many := `{"filters":{"filter":[`
	for i := range maxFilters + 1 {
		many += fmt.Sprintf(`{"name":"f%d","config":{"end-time":"18446744073709551615"}},`, i)
	}
	many = strings.TrimSuffix(many, ",") + `]}}`
	for _, tc := range []struct {
		text string
		code codes.Code
		says string
	}{
		{classJSON("policy/l9", `"threshold":"1"`), codes.NotFound, "there is no class policy/l9"},
		{`{"fuse":{"config":{"back-off":5000,"max-back-off":2000}}}`, codes.InvalidArgument, "max_back_off is less"},
		{`{"reporting":{"config":{"aggregate-interval":99}}}`, codes.InvalidArgument, "99"},
		{classJSON(NoBuffer, `"deduplicate-interval":50`), codes.InvalidArgument, "50"},
		{filterJSON("t", time.Now().Add(-time.Second), ""), codes.InvalidArgument, "is over"},
		{`{"filters":{"filter":[{"name":"t","config":{"dscp":1}}]}}`, codes.InvalidArgument, "no end-time"},
		{filterJSON("t", time.Now().Add(time.Hour), `,"source-prefix":"10.0.0.1"`), codes.InvalidArgument, "is no prefix"},
		{many, codes.ResourceExhausted, "at most 64"},
		// The test's source cannot be told to hand on more.
		{classJSON(NoBuffer, `"threshold":"1000000"`), codes.FailedPrecondition, "cannot be told otherwise"},
	} {
		_, err := c.Set(t.Context(), change(tc.text))
		if status.Code(err) != tc.code || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v, want %v with %q", tc.text, err, tc.code, tc.says)
		}
	}
	// A directory that is not there: what cannot be kept does not hold.
	a.overrides.file = filepath.Join(t.TempDir(), "gone", "x.json")
	if _, err := c.Set(t.Context(), change(classJSON(NoBuffer, `"threshold":"1"`))); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "cannot be kept") {
		t.Errorf("without its directory: %v", err)
	}
	if now := a.setNow(); len(now.leaves) != 0 || now.effective.settings(NoBuffer).Threshold != 1000 {
		t.Errorf("left: %v", now.leaves)
	}
	if _, err := os.Stat(cfg.Settings); !os.IsNotExist(err) {
		t.Errorf("a file: %v", err)
	}
}

// What was set is there after a restart, over what the file says by then; a
// filter whose end came meanwhile is not. A file that is broken says so.
func TestSetIsKept(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Settings = filepath.Join(t.TempDir(), "device.settings.json")
	_, c := startTold(t, cfg)
	soon := time.Now().Add(time.Hour)
	for _, text := range []string{classJSON(NoBuffer, `"threshold":"5"`), filterJSON("short", soon, ""), filterJSON("long", soon.Add(time.Hour), `,"dscp":46`)} {
		if _, err := c.Set(t.Context(), change(text)); err != nil {
			t.Fatal(err)
		}
	}
	cfg.Name = "r"
	cfg.Report.Burst = 17
	again, err := New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	is := again.setNow()
	if s := is.effective.settings(NoBuffer); s.Threshold != 5 || s.Burst != 17 || len(is.filters.list) != 2 {
		t.Errorf("%+v, %d filters", s, len(is.filters.list))
	}
	// As if it started between the ends of the two filters.
	again.overrides.now = func() time.Time { return soon.Add(time.Minute) }
	if err := again.overrides.load(); err != nil {
		t.Fatal(err)
	}
	if is = again.setNow(); len(is.filters.list) != 1 || is.filters.list[0].Name != "long" || is.effective.settings(NoBuffer).Threshold != 5 {
		t.Errorf("%+v", is.filters.list)
	}
	entries, err := os.ReadDir(filepath.Dir(cfg.Settings))
	if err != nil || len(entries) != 1 {
		t.Errorf("%v, %v: nothing but the file is left", entries, err)
	}
	for _, broken := range []string{"", "{", `{"loss":{"mood":1}}`, `{"loss":{"fuse":{"config":{"cpu":0}}}}`, `{"loss":{"classes":{"class":[{"name":"x"}]}}}`} {
		if err := os.WriteFile(cfg.Settings, []byte(broken), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := New(cfg, nil); err == nil || !strings.Contains(err.Error(), cfg.Settings) || !strings.Contains(err.Error(), "mend it, or remove it") {
			t.Errorf("%q: %v", broken, err)
		}
	}
}

// While a filter is there, what matches has an event each, with its name, whatever
// else is set, and nothing else has; when it ends, subscribers see it go.
func TestFilterForAPathTest(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Settings = filepath.Join(t.TempDir(), "device.settings.json")
	a, c := startTold(t, cfg)
	updates := subscribe(t, c)
	end := time.Now().Add(time.Hour)
	if _, err := c.Set(t.Context(), change(classJSON(NoBuffer, `"threshold":"0"`))); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Set(t.Context(), change(classJSON(Unknown, `"ignore":true`))); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Set(t.Context(), change(filterJSON("path-1", end, `,"dscp":46`))); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for i := range 3 {
		a.told1(NoBuffer, i, 46<<2, now)
		a.told1(Unknown, i, 46<<2, now)
		a.told1(PolicyL3ACL, i, 0, now) // no filter's
	}
	if s := a.State(); s.Events != 6 {
		t.Errorf("%d events of 6 that match", s.Events)
	}
	a.reporting.Lock()
	for _, r := range a.reporter.reporting() {
		if want := map[string]uint64{PolicyL3ACL: 3}[r.Name]; r.Suppressed.Filter != want {
			t.Errorf("%s: %d for want of a filter", r.Name, r.Suppressed.Filter)
		}
	}
	a.reporting.Unlock()
	named, gone := 0, false
	wait := func(what string, holds func() bool) {
		t.Helper()
		timeout := time.After(10 * time.Second)
		for !holds() {
			select {
			case n := <-updates:
				for _, u := range n.GetUpdate() {
					if e := u.GetPath().GetElem(); e[len(e)-1].GetName() == "filter" && u.GetVal().GetStringVal() == "path-1" {
						named++
					}
				}
				for _, d := range n.GetDelete() {
					if e := d.GetElem(); len(e) == 3 && e[2].GetName() == "filter" && e[2].GetKey()["name"] == "path-1" {
						gone = true
					}
				}
			case <-timeout:
				t.Fatalf("not seen: %s", what)
			}
		}
	}
	wait("six events with the filter's name", func() bool { return named == 6 })
	resp, err := c.Get(t.Context(), &gnmipb.GetRequest{Encoding: gnmipb.Encoding_JSON, Path: []*gnmipb.Path{{Elem: []*gnmipb.PathElem{{Name: "loss"}, {Name: "filters"}, {Name: "filter", Key: map[string]string{"name": "path-1"}}, {Name: "state"}}}}})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(resp.Notification[0].Update[0].GetVal().GetJsonVal()), fmt.Sprintf(`{"counters":{"matched":6},"dscp":46,"end-time":%d,"name":"path-1","only":true}`, end.UnixNano()); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if a.overrides.expire(end.Add(-1)) {
		t.Error("it ends before its time")
	}
	if !a.overrides.expire(end) {
		t.Error("it does not end")
	}
	a.target.Changed()
	wait("the filter goes", func() bool { return gone })
	a.told1(PolicyL3ACL, 1, 0, now)
	if s := a.State(); s.Events != 7 {
		t.Errorf("%d events: others come again", s.Events)
	}
	text, err := os.ReadFile(cfg.Settings)
	if err != nil || strings.Contains(string(text), "path-1") || !strings.Contains(string(text), NoBuffer) {
		t.Errorf("kept: %s, %v", text, err)
	}

	// By the clock, too; and one that leaves the others their events.
	if _, err := c.Set(t.Context(), change(filterJSON("path-2", time.Now().Add(300*time.Millisecond), `,"only":false`))); err != nil {
		t.Fatal(err)
	}
	a.told1(PolicyL3ACL, 1, 0, time.Now().Add(time.Hour))
	poll(t, "the filter ends by itself", func() bool { return len(a.setNow().filters.list) == 0 })
	if s := a.State(); s.Events != 8 {
		t.Errorf("%d events", s.Events)
	}
}

// Sets from many clients are taken one after the other, each whole.
func TestSetsOneByOne(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Settings = filepath.Join(t.TempDir(), "device.settings.json")
	a, c := startTold(t, cfg)
	const clients = 20
	done := make(chan error, clients)
	for i := range clients {
		go func() {
			_, err := c.Set(t.Context(), change(fmt.Sprintf(`{"filters":{"filter":[{"name":"a%d","config":{"end-time":"18446744073709551615"}},{"name":"b%d","config":{"end-time":"18446744073709551615"}}]}}`, i, i)))
			done <- err
		}()
	}
	stop := make(chan struct{})
	go func() {
		defer close(stop)
		for i := range 500 {
			a.told1(NoBuffer, i, 0, time.Now())
		}
	}()
	for range clients {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	<-stop
	if n := len(a.setNow().filters.list); n != 2*clients {
		t.Errorf("%d filters of %d", n, 2*clients)
	}
	text, err := os.ReadFile(cfg.Settings)
	if err != nil {
		t.Fatal(err)
	}
	leaves, err := gnmi.UnmarshalTree(yang.Schema(), []*gnmipb.ModelData{yang.Model()}, text)
	if err != nil || len(leaves) != 4*clients {
		t.Errorf("%d leaves kept, %v", len(leaves), err)
	}
}

// Each switch that an agent speaks for has settings of its own.
func TestSettingsFiles(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "device.yaml")
	if err := os.WriteFile(file, []byte("name: r\nusers: [{name: noc, password_file: p, write: true}]\nsflow: {listen: \"127.0.0.1:0\", switches: [{name: leaf1, listen: \"127.0.0.1:0\", agent: 192.0.2.1}]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := LoadConfig(file)
	if err != nil {
		t.Fatal(err)
	}
	if len(cfg.Users) != 1 || cfg.Users[0] != (UserConfig{"noc", "p", true}) {
		t.Errorf("users %+v", cfg.Users)
	}
	if want := filepath.Join(dir, "device.settings.json"); cfg.Settings != want {
		t.Errorf("%s, want %s", cfg.Settings, want)
	}
	if got, want := cfg.of(cfg.SFlow.Switches[0]).Settings, filepath.Join(dir, "device.settings.leaf1.json"); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// The paths that are served of any device, in JSON with the modules' names.
func TestStandardPaths(t *testing.T) {
	a, c := startTold(t, DefaultConfig())
	now := time.Now()
	for i := range 5 {
		a.told1(PolicyL3ACL, i, 0, now)
		a.told1(NoBuffer, i, 0, now)
	}
	resp, err := c.Get(t.Context(), &gnmipb.GetRequest{Encoding: gnmipb.Encoding_JSON_IETF, Path: []*gnmipb.Path{{Elem: []*gnmipb.PathElem{{Name: "components"}, {Name: "component", Key: map[string]string{"name": "r"}}}}}})
	if err != nil {
		t.Fatal(err)
	}
	got := string(resp.Notification[0].Update[0].GetVal().GetJsonIetfVal())
	want := `{"openconfig-platform:integrated-circuit":{"openconfig-platform-pipeline-counters:pipeline-counters":{"drop":{` +
		`"lookup-block":{"state":{"acl-drops":"5","invalid-packet":"0","no-label":"0","no-route":"0"}},` +
		`"state":{"adverse-aggregate":"0","congestion-aggregate":"5","no-route":"0","packet-processing-aggregate":"5","urpf-aggregate":"0"}}}},` +
		`"openconfig-platform:name":"r","openconfig-platform:state":{"name":"r","type":"openconfig-platform-types:INTEGRATED_CIRCUIT"}}`
	if got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	caps, err := c.Capabilities(t.Context(), &gnmipb.CapabilityRequest{})
	if err != nil || len(caps.GetSupportedModels()) != len(yang.Models()) {
		t.Errorf("%v, %v", caps, err)
	}
}

// The password file's line end is no part of the password; nobody gets in without.
func TestUsers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("se cret\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	login, err := newLogin([]UserConfig{{Name: "noc", PasswordFile: file, Write: true}, {Name: "eye", PasswordFile: file}})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, password string
		known, write   bool
	}{
		{"noc", "se cret", true, true}, {"eye", "se cret", true, false}, {"noc", "se cret\r\n", false, false}, {"noc", "", false, false}, {"", "", false, false}, {"x", "se cret", false, false},
	} {
		if known, write := login(tc.name, tc.password); known != tc.known || write != tc.write {
			t.Errorf("%q %q: %v, %v", tc.name, tc.password, known, write)
		}
	}
	if none, err := newLogin(nil); none != nil || err != nil {
		t.Errorf("without users: %v", err)
	}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{empty, empty + ".gone"} {
		if _, err := newLogin([]UserConfig{{Name: "noc", PasswordFile: bad}}); err == nil {
			t.Errorf("%s is taken for a password", bad)
		}
	}
	for says, list := range map[string][]UserConfig{"no name": {{PasswordFile: "x"}}, "twice": {{Name: "a", PasswordFile: "x"}, {Name: "a", PasswordFile: "x"}}, "no password_file": {{Name: "a"}}} {
		if err := validateUsers(list); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
	}
	cfg := DefaultConfig()
	cfg.Name, cfg.Listen, cfg.TLS.Cert, cfg.TLS.Key = "r", "0.0.0.0:9339", "c.pem", "k.pem"
	if err := cfg.Validate(); err == nil {
		t.Error("anyone may call from outside")
	}
	cfg.Users = []UserConfig{{Name: "noc", PasswordFile: file}}
	if err := cfg.Validate(); err != nil {
		t.Error(err)
	}
}

var _ gnmi.Settings = (*overrides)(nil)
