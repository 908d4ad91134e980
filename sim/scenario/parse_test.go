package scenario

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"decaf/topology"
)

// The form of the design document, as it stands there.
const example = `name: silent-spine-link
fabric: {kind: clos, pods: 2, tors: 2, t1: 2, t2: 2, hosts: 2}
traffic: {connections_per_host: 10/s, packets: 1..100, pattern: uniform}   # or skew(0.8, 0.25), hot(p0-tor0, 0.5)
noise: 1e-6
duration: 40s
faults:
  - {at: 10s, for: 20s, on: link p0-t1-0>t2-1, kind: silent-loss, rate: 1%}
reports:
  - {at: 25s, src: p0-tor0-h0, dst: p1-tor1-h1, says: "ssh froze"}
expect:
  findings: [{component: link p0-t1-0>t2-1, from: 10s, by: 20s}]
  verdicts: [{report: 0, verdict: network, component: link p0-t1-0>t2-1}]
  false_findings: 0
`

func TestExampleOfTheDesign(t *testing.T) {
	got, err := Parse("example.yaml", []byte(example))
	if err != nil {
		t.Fatal(err)
	}
	none := 0
	want := &Scenario{
		Name:     "silent-spine-link",
		Fabric:   Fabric{Kind: "clos", ClosSpec: topology.ClosSpec{Site: "sim", Pods: 2, ToRs: 2, T1s: 2, T2s: 2, Hosts: 2}},
		Traffic:  Traffic{ConnectionsPerHost: 10, PacketsMin: 1, PacketsMax: 100, Pattern: Pattern{Kind: "uniform"}},
		Noise:    1e-6,
		Duration: 40 * time.Second,
		Faults:   []Fault{{At: 10 * time.Second, For: 20 * time.Second, On: "link p0-t1-0>t2-1", Kind: "silent-loss", Rate: 0.01}},
		Reports:  []Report{{At: 25 * time.Second, Src: "p0-tor0-h0", Dst: "p1-tor1-h1", Says: "ssh froze"}},
		Expect: Expect{
			Findings:      []ExpectFinding{{Component: "link p0-t1-0>t2-1", From: 10 * time.Second, By: 20 * time.Second}},
			Verdicts:      []ExpectVerdict{{Report: 0, Verdict: "network", Component: "link p0-t1-0>t2-1"}},
			FalseFindings: &none,
		},
		Instrumented: 1,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
}

func TestEveryKey(t *testing.T) {
	got, err := Parse("all.yaml", []byte(`
name: all.keys_of-a.scenario
fabric:
  kind: clos
  pods: 1
  tors: 3
  t1: 2
  t2: 0
  hosts: 1
traffic: {ip: both, connections_per_host: 600/m, packets: 7, pattern: skew(80%, 0.25)}
duration: 1h30m
seed: 18446744073709551615
instrumented: 90%
lying: 10%
agents_late: 5s
trace_budget: 30/m
faults:
  - {at: 0s, for: 10s, every: 20s, on: random fabric link, kind: queue}
  - at: 1m
    on: device   p0-t1-0
    kind: acl
    rate: 0.5
    match: {src: p0-tor0-h0, dst: 10.0.1.0/24, port: 80}
reports:
  - {at: 2m, src: through fault 0, dst: through   fault 0}
  - {at: 2m, src: 192.0.2.7, dst: p0-tor1-h0, src_port: 1234, dst_port: 80}
expect:
  findings:
    - {component: fault 1, class: policy/l3/acl}
  verdicts:
    - {report: 1, verdict: outside}
    - {report: 0, verdict: network, component: fault 0, class: no-buffer}
  false_findings: 2
`))
	if err != nil {
		t.Fatal(err)
	}
	two := 2
	want := &Scenario{
		Name:         "all.keys_of-a.scenario",
		Fabric:       Fabric{Kind: "clos", ClosSpec: topology.ClosSpec{Site: "sim", Pods: 1, ToRs: 3, T1s: 2, T2s: 0, Hosts: 1, IP: topology.IPBoth}},
		Traffic:      Traffic{ConnectionsPerHost: 10, PacketsMin: 7, PacketsMax: 7, Pattern: Pattern{Kind: "skew", Args: []string{"80%", "0.25"}, Share: 0.8, ToRs: 0.25}},
		Duration:     90 * time.Minute,
		Seed:         1<<64 - 1,
		Instrumented: 0.9,
		Lying:        0.1,
		AgentsLate:   5 * time.Second,
		TraceBudget:  0.5,
		Faults: []Fault{
			{For: 10 * time.Second, Every: 20 * time.Second, On: "random fabric link", Kind: "queue", Rate: 1},
			{At: time.Minute, On: "device p0-t1-0", Kind: "acl", Rate: 0.5, Match: Match{Src: "p0-tor0-h0", Dst: "10.0.1.0/24", Port: 80}},
		},
		Reports: []Report{
			{At: 2 * time.Minute, Src: "through fault 0", Dst: "through fault 0"},
			{At: 2 * time.Minute, Src: "192.0.2.7", Dst: "p0-tor1-h0", SrcPort: 1234, DstPort: 80},
		},
		Expect: Expect{
			Findings: []ExpectFinding{{Component: "fault 1", Class: "policy/l3/acl"}},
			Verdicts: []ExpectVerdict{
				{Report: 1, Verdict: "outside"},
				{Report: 0, Verdict: "network", Component: "fault 0", Class: "no-buffer"},
			},
			FalseFindings: &two,
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
}

func TestDefaults(t *testing.T) {
	got, err := Parse("f", []byte("name: n\nfabric: {kind: clos}\nduration: 1s"))
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Name, want.Duration = "n", time.Second
	if !reflect.DeepEqual(got, want) || got.Expect.FalseFindings != nil || got.Instrumented != 1 {
		t.Errorf("got %+v", got)
	}
}

// Each case changes the example at one place; the mistake and its line follow.
func TestMistakesInFiles(t *testing.T) {
	const fault = "{at: 10s, for: 20s, on: link p0-t1-0>t2-1, kind: silent-loss, rate: 1%}"
	for _, c := range []struct{ old, new, want string }{
		{"noise:", "nosie:", `s.yaml:4: unknown key "nosie"; did you mean "noise"?`},
		{"connections_per_host: 10/s", "connections_per_hots: 10/s", `s.yaml:3: unknown key "connections_per_hots"; did you mean "connections_per_host"?`},
		{"rate: 1%", "rat: 1%", `s.yaml:7: unknown key "rat"; did you mean "rate"?`},
		{"by: 20s", "until: 20s", `s.yaml:11: unknown key "until"; known here: component, class, from, by`},
		{"name: silent-spine-link\n", "\n", `s.yaml:2: name is missing`},
		{"silent-spine-link", "a b", `s.yaml:1: name "a b": use letters, digits, -, _ and . only`},
		{"duration: 40s\n", "\n", `s.yaml:1: duration is missing`},
		{"duration: 40s", "duration: 0s", `s.yaml:5: duration must be above 0`},
		{"duration: 40s", "duration: 40", `s.yaml:5: duration: "40" is no duration: write it like 40s, 500ms or 1h30m`},
		{"duration: 40s", "duration: 8d", `s.yaml:5: duration: 8d is more than the longest time, 7d`},
		{"kind: clos", "kind: tree", `s.yaml:2: fabric kind "tree" is not known; use clos`},
		{"kind: clos, ", "", `s.yaml:2: kind is missing`},
		{"pods: 2", "pods: two", `s.yaml:2: pods must be a whole number, not "two"`},
		{"pods: 2", "pods: 0", `s.yaml:2: pods is 0: give 1 to 1024`},
		{"t2: 2", "t2: 0", `s.yaml:2: fabric: clos: 2 pods but no t2 to join them: give t2 at least 1`},
		{"10/s", "10", `s.yaml:3: connections_per_host: "10" is no rate: write it like 10/s, at most 1000000/s`},
		{"pattern: uniform}", "ip: 5}", `s.yaml:3: ip: "5" is no version of the Internet Protocol: write 4, 6 or both`},
		{"1..100", "100..1", `s.yaml:3: packets: 100..1 runs backwards; did you mean 1..100?`},
		{"1..100", "many", `s.yaml:3: packets: "many" is no range: write it like 1..100`},
		{"1..100", "0..5", `s.yaml:3: packets: 0..5 is not within 1..1000000`},
		{"uniform}", "unifrom}", `s.yaml:3: pattern: "unifrom" is no pattern: write uniform, skew(0.8, 0.25) or hot(p0-tor0, 0.5)`},
		{"uniform}", "skew(0.8)}", `s.yaml:3: pattern: "skew(0.8)" is no pattern`},
		{"uniform}", "skew(2, 0.5)}", `s.yaml:3: pattern: 2 is not within 0 and 100%`},
		{"uniform}", "skew(0.8, 0)}", `s.yaml:3: pattern: skew towards no ToR at all`},
		{"uniform}", "hot(p0-tor9, 0.5)}", `s.yaml:3: pattern: no tor is named "p0-tor9"; did you mean "p0-tor0"?`},
		{"uniform}", "hot(p0-t1-0, 0.5)}", `s.yaml:3: pattern: no tor is named "p0-t1-0"`},
		{"1e-6", "2", `s.yaml:4: noise: 2 is not within 0 and 100%`},
		{"1e-6", "NaN", `s.yaml:4: noise: "NaN" is no share: write it like 1%, 0.01 or 1e-6`},
		{"noise: 1e-6", "seed: -1", `s.yaml:4: seed: seed "-1" is no whole number`},
		{"noise: 1e-6", "trace_budget: 0/s", `s.yaml:4: trace_budget must be above 0`},
		{"at: 10s, for", "at: 40s, for", `s.yaml:7: at: the fault starts at 40s, when the run of 40s is over`},
		{"at: 10s, for", "for", `s.yaml:7: at is missing`},
		{"for: 20s", "for: 0s", `s.yaml:7: for must be above 0`},
		{"for: 20s", "for: 20s, every: 20s", `s.yaml:7: every: the fault comes again after 20s but stays for 20s`},
		{"for: 20s", "every: 20s", `s.yaml:7: every: a fault that comes again needs for`},
		{"for: 20s", "for: 1ms, every: 2ms", `s.yaml:7: every: the fault comes more than 10000 times in the run`},
		{"kind: silent-loss, ", "", `s.yaml:7: kind is missing`},
		{"kind: silent-loss", "kind: silent-los", `s.yaml:7: fault kind "silent-los" is not known; did you mean "silent-loss"?`},
		{"kind: silent-loss", "kind: fire", `s.yaml:7: fault kind "fire" is not known; known: silent-loss, corrupt,`},
		{"kind: silent-loss", "kind: acl", `s.yaml:7: on: acl happens on a device, not on a link`},
		{"on: link p0-t1-0>t2-1, ", "", `s.yaml:7: on is missing`},
		{"on: link p0-t1-0>t2-1", "on: p0-t1-0>t2-1", `s.yaml:7: on: "p0-t1-0>t2-1": write link a>b, device d, host h, or random …`},
		{"on: link p0-t1-0>t2-1", "on: link p0-t1-0>t2-7", `s.yaml:7: on: no link is named "p0-t1-0>t2-7"; did you mean "p0-t1-0>t2-0"?`},
		{"on: link p0-t1-0>t2-1", "on: random", `s.yaml:7: on: random what?`},
		{"on: link p0-t1-0>t2-1", "on: random t3", `s.yaml:7: on: "random t3": "t3" is not known here`},
		{"on: link p0-t1-0>t2-1", "on: random device", `s.yaml:7: on: silent-loss happens on a link, not on a device`},
		{"on: link p0-t1-0>t2-1", "on: random tor>t2 link", `s.yaml:7: on: "random tor>t2 link": the fabric has none`},
		{"on: link p0-t1-0>t2-1", "on: random or link", `s.yaml:7: on: "random or link": join alternatives by or`},
		{"on: link p0-t1-0>t2-1, kind: silent-loss", "on: random device or host, kind: acl", `s.yaml:7: on: acl happens on a device, but host p0-tor0-h0 may be drawn`},
		{"rate: 1%", "rate: 0", `s.yaml:7: rate must be above 0; leave the fault out instead`},
		{"rate: 1%", "rate: 101%", `s.yaml:7: rate: 101% is not within 0 and 100%`},
		{"rate: 1%", "rate: '1 percent'", `s.yaml:7: rate: "1 percent" is no share`},
		{"rate: 1%", "match: {port: 70000}", `s.yaml:7: port is 70000: give 1 to 65535`},
		{"rate: 1%", "match: {src: nobody}", `s.yaml:7: match src: no host named "nobody" in the topology (a host's name, an address or a prefix is meant)`},
		{fault, "{at: [1], on: {a: b}, kind: silent-loss}", `s.yaml:7: at must be a single value, not a list`},
		{fault, "oops", `s.yaml:7: faults[0] must be a mapping (key: value), not a single value`},
		{fault, "", `s.yaml:7: faults[0] is empty`},
		{"at: 25s", "at: 41s", `s.yaml:9: at: the report comes at 41s, when the run of 40s is over`},
		{"src: p0-tor0-h0", "src: p0-tor0-h9", `s.yaml:9: src: no host named "p0-tor0-h9" in the topology; did you mean "p0-tor0-h0"?`},
		{"dst: p1-tor1-h1", "dst: p1-tor1", `s.yaml:9: dst: "p1-tor1" is a device, not a host`},
		{"dst: p1-tor1-h1", "dst: through fault 1", `s.yaml:9: dst: "fault 1": there are 1 faults, counted from 0`},
		{"dst: p1-tor1-h1", "dst: through it", `s.yaml:9: dst: "through it": write through fault and its number`},
		{"component: link p0-t1-0>t2-1, from", "component: fault 3, from", `s.yaml:11: component: "fault 3": there are 1 faults, counted from 0`},
		{"component: link p0-t1-0>t2-1, from", "component: fault one, from", `s.yaml:11: component: "fault one": write fault and its number, counted from 0`},
		{"component: link p0-t1-0>t2-1, from", "component: device x, from", `s.yaml:11: component: no device is named "x" in this fabric`},
		{"component: link p0-t1-0>t2-1, from", "class: Foo, component: fault 0, from", `s.yaml:11: class "Foo": write it like no-buffer or policy/l3/acl`},
		{"from: 10s, by: 20s", "from: 20s, by: 10s", `s.yaml:11: by: 10s is before from: 20s`},
		{"by: 20s", "by: 50s", `s.yaml:11: by: 50s is after the end of the run, 40s`},
		{"report: 0", "report: 1", `s.yaml:12: report is 1: give 0 to 0`},
		{"verdict: network", "verdict: netwrok", `s.yaml:12: verdict "netwrok" is not known; did you mean "network"?`},
		{"false_findings: 0", "false_findings: none", `s.yaml:13: false_findings must be a whole number, not "none"`},
	} {
		t.Run(c.new, func(t *testing.T) {
			if !strings.Contains(example, c.old) {
				t.Fatalf("%q is not in the example", c.old)
			}
			_, err := Parse("s.yaml", []byte(strings.Replace(example, c.old, c.new, 1)))
			if err == nil || !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
			if err != nil && strings.Count(err.Error(), "\n") > 1 {
				t.Errorf("one mistake brings too many messages:\n%v", err)
			}
		})
	}
}

func TestUnits(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"40s": 40 * time.Second, "1h30m": 90 * time.Minute, "0.5s": 500 * time.Millisecond, "250ms": 250 * time.Millisecond, "1d": 24 * time.Hour, "1w": 7 * 24 * time.Hour, "0s": 0,
	} {
		if got, err := parseDuration(text); err != nil || got != want {
			t.Errorf("%s: got %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "s", "-1s", "1", "1i", "99999999y", "18446744073709551616s", "1s-2s", "1 s", "1e3s", "1s5", strings.Repeat("1ms", 99)} {
		if got, err := parseDuration(text); err == nil {
			t.Errorf("%q: got %v", text, got)
		}
	}
	for text, want := range map[string]float64{"1%": 0.01, "0.01": 0.01, "1e-6": 1e-6, "100%": 1, "0": 0, "1 %": 0.01, ".5": 0.5} {
		if got, err := parseShare(text); err != nil || got != want {
			t.Errorf("%s: got %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "%", "-1%", "1.1", "101%", "inf", "nan", "0x1p-3", "1_0%", "1%%"} {
		if got, err := parseShare(text); err == nil {
			t.Errorf("%q: got %v", text, got)
		}
	}
	for text, want := range map[string]float64{"10/s": 10, "60/m": 1, "1800/h": 0.5, "0/s": 0, "2.5 / s": 2.5} {
		if got, err := parseRate(text); err != nil || got != want {
			t.Errorf("%s: got %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"10", "/s", "10/", "10/d", "-1/s", "1e9/s", "10/s/s"} {
		if got, err := parseRate(text); err == nil {
			t.Errorf("%q: got %v", text, got)
		}
	}
}

func TestPatternsReadAsWritten(t *testing.T) {
	// In a flow mapping the comma would end the value; it is put together again.
	for _, text := range []string{"skew(0.8, 0.25)", "hot(p0-tor0, 0.5)", "uniform"} {
		s, err := Parse("f", []byte(strings.Replace(example, "uniform}", text+"}", 1)))
		if err != nil {
			t.Errorf("%s: %v", text, err)
		} else if got := s.Traffic.Pattern.String(); got != text {
			t.Errorf("got %s, want %s", got, text)
		}
	}
}

func TestWindows(t *testing.T) {
	const s = time.Second
	for _, c := range []struct {
		fault Fault
		want  []Window
	}{
		{Fault{At: 5 * s}, []Window{{5 * s, 40 * s}}},
		{Fault{At: 5 * s, For: 10 * s}, []Window{{5 * s, 15 * s}}},
		{Fault{At: 35 * s, For: 10 * s}, []Window{{35 * s, 40 * s}}},
		{Fault{At: 5 * s, For: 5 * s, Every: 15 * s}, []Window{{5 * s, 10 * s}, {20 * s, 25 * s}, {35 * s, 40 * s}}},
		{Fault{At: 40 * s}, nil},
	} {
		if got := c.fault.Windows(40 * s); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%+v: got %v, want %v", c.fault, got, c.want)
		}
	}
}

func TestKinds(t *testing.T) {
	for _, kind := range Kinds() {
		switch on := HappensOn(kind); on {
		case "link", "device", "host":
		default:
			t.Errorf("%s happens on %q", kind, on)
		}
	}
	for _, word := range strings.Fields("silent-loss corrupt queue acl blackhole no-route ttl-loop mtu duplex route-flap device-down device-loss host-slow server-slow server-reset syn-blackhole") {
		if HappensOn(word) == "" {
			t.Errorf("%s is not known", word)
		}
	}
}

func TestMatchPrefixes(t *testing.T) {
	topo, err := Default().Fabric.Topology()
	if err != nil {
		t.Fatal(err)
	}
	src, dst, err := Match{Src: "p0-tor0-h1", Dst: "10.1.0.7/24"}.Prefixes(topo)
	if err != nil || len(src) != 1 || src[0].String() != "10.0.0.3/32" || len(dst) != 1 || dst[0].String() != "10.1.0.0/24" {
		t.Errorf("got %v %v %v", src, dst, err)
	}
	src, dst, err = Match{Dst: "10.0.0.1"}.Prefixes(topo)
	if err != nil || src != nil || dst[0].String() != "10.0.0.1/32" {
		t.Errorf("got %v %v %v", src, dst, err)
	}
	if _, _, err := (Match{Dst: "nobody"}).Prefixes(topo); err == nil || !strings.HasPrefix(err.Error(), `match dst: no host named "nobody"`) {
		t.Errorf("got %v", err)
	}
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.yaml")
	if err := os.WriteFile(path, []byte(example), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := Load(path); err != nil || s.Name != "silent-spine-link" {
		t.Errorf("got %v, %v", s, err)
	}
	if _, err := Load(path + "x"); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("got %v", err)
	}
	if _, err := Parse("f", make([]byte, maxBytes+1)); err == nil || !strings.Contains(err.Error(), "f: more than") {
		t.Errorf("got %v", err)
	}
}

// Whatever is accepted can be drawn or says why not, and what was drawn names
// real components only.
func FuzzParse(f *testing.F) {
	f.Add([]byte(example))
	f.Add([]byte("name: n\nfabric: {kind: clos, pods: 1, tors: 1, t1: 0, t2: 0, hosts: 3}\nduration: 1m\nfaults: [{at: 1s, on: random host, kind: host-slow}]\nreports: [{at: 2s, src: through fault 0, dst: through fault 0}]"))
	f.Add([]byte("name: n\nfabric: {kind: clos}\nduration: 1m\ntraffic: {pattern: skew(1%, 0.5)}\nfaults:\n - {at: 1s, for: 1s, every: 2s, on: random t2 or t1, kind: acl, match: {dst: 10.0.0.0/8}}\nexpect: {findings: [{component: fault 0}]}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Parse("f", data)
		if err != nil {
			return
		}
		topo, err := s.Fabric.Topology()
		if err != nil {
			t.Fatalf("accepted a fabric that cannot be built: %v", err)
		}
		d, err := s.Draw(topo, s.Seed)
		if err != nil {
			return
		}
		for _, f := range d.Faults {
			kind, name, ok := SplitComponent(f.Component())
			if !ok || HappensOn(f.Kind) != kind {
				t.Fatalf("drew %q for %s", f.On, f.Kind)
			}
			if err := (&reader{t: topo}).component(kind + " " + name); err != nil {
				t.Fatal(err)
			}
			if n := len(f.Windows(d.Duration)); n < 1 || n > maxWindows+1 {
				t.Fatalf("%d windows", n)
			}
		}
	})
}
