package topology

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// run executes `topology` with arguments and standard input.
func run(t *testing.T, stdin string, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	cmd := Command()
	cmd.SetArgs(args)
	cmd.SetIn(strings.NewReader(stdin))
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SilenceErrors = true
	err := cmd.Execute()
	return out.String(), err
}

func TestClosCommandFeedsCheckCommand(t *testing.T) {
	text, err := run(t, "", "clos", "--pods", "2", "--tors", "2", "--t1", "2", "--t2", "2", "--hosts", "2", "--site", "lab")
	if err != nil {
		t.Fatal(err)
	}
	out, err := run(t, text, "check", "-")
	want := `site       lab
devices    10  (4 tor, 4 t1, 2 t2)
with gNMI  0
hosts      8
links      48  (directed; 16 of them to or from hosts)
addresses  48

What votes alone (007, Theorem 2) are sure to find between switches, given enough flows:
  up to 2 bad links at once, 1..100 packets a connection; all bad links rank first
  while no good link loses more than
    bad links  if they lose 1%  if they lose 0.1%  if they lose 0.05%  alpha
            1          2.9e-05            2.9e-06             1.4e-06    3.5
            2          1.7e-05            1.7e-06             8.3e-07      6
  a guide only, the proof does not cover this fabric: it has as many tors in a pod as t2 in all (2): more tors are needed
Traces: at most 50 per second from each host, so that no switch answers more than 100 per second.
`
	if err != nil || out != want {
		t.Errorf("got %v\n%s\nwant\n%s", err, out, want)
	}
	file := filepath.Join(t.TempDir(), "fabric.yaml")
	if out, err := run(t, "", "clos", "--site", "lab", "--file", file); err != nil || out != "" {
		t.Fatalf("%v %s", err, out)
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != text {
		t.Errorf("the file differs from standard output: %v", err)
	}
}

func TestCheckCommandWarns(t *testing.T) {
	out, err := run(t, `
devices: [{name: a}, {name: b}, {name: lonely}, {name: c}]
hosts: [{name: h1}, {name: h2, addresses: [10.0.0.1]}, {name: h3, addresses: [10.0.0.2]}, {name: h4, addresses: [10.0.0.4]}]
links:
  - {a: "a:e1", b: "h1:eth0"}
  - {a: "a:e2", b: "b:e1"}
  - {a: "c:e1", b: "h2:eth0"}
`, "check", "-")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"devices    4  (4 no tier)\n",
		"warning: 3 without a link, so on no path: lonely, h3, h4\n",
		"warning: 1 that the first linked host cannot reach: h2\n",
		"warning: 1 without an address, so no flow can be told to be theirs: h1\n",
		"warning: 6 without an address, so traced paths cannot name them: a:e1, h1:eth0, a:e2, b:e1, c:e1 and 1 more\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
}

func TestCheckCommandSaysWhyNothingIsKnown(t *testing.T) {
	for want, stdin := range map[string]string{
		"  does not apply: not a regular Clos: no switch has hosts":                                                                  "devices: [{name: a}]\n",
		"  does not apply: the theorem compares links within and between pods, and there is one pod\nTraces: at most 100 per second": "devices: [{name: a}, {name: b}]\nhosts: [{name: h}]\nlinks: [{a: a:1, b: h:1}, {a: a:2, b: b:1}]\n",
	} {
		if out, err := run(t, stdin, "check", "-"); err != nil || !strings.Contains(out, want) {
			t.Errorf("got %v, want %q in:\n%s", err, want, out)
		}
	}
}

func TestCheckCommandAsJSON(t *testing.T) {
	text, err := run(t, "", "clos", "--pods", "4", "--tors", "20", "--t1", "8", "--t2", "10", "--hosts", "40")
	if err != nil {
		t.Fatal(err)
	}
	out, err := run(t, text, "check", "-", "--json", "--packets", "50..200", "--icmp", "50")
	if err != nil {
		t.Fatal(err)
	}
	var s summary
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	d := s.Detection
	// 10·79/(20·3) = 13.2 bad links; 50/800 · 8 traces.
	if s.Links != 8320 || s.HostLinks != 6400 || s.Addresses != 8320 || len(s.Tiers) != 3 || len(s.Warnings) != 0 ||
		!d.Applies || d.MaxBad != 13 || len(d.Outside) != 0 || d.PacketsMin != 50 || d.PacketsMax != 200 || d.Traces.PerHost != .5 {
		t.Errorf("%+v", s)
	}
	// 1 − .99⁵⁰ over α(1)·200, α(1) = 20·79·3/(790 − 60).
	want := (1 - math.Pow(.99, 50)) / (20 * 79 * 3. / 730 * 200)
	if got := d.Bounds[0]; got.BadLinks != 1 || got.Good[0].BadRate != .01 || !near(got.Good[0].GoodRate, want) {
		t.Errorf("first bound %+v, want %g", got, want)
	}
	if !strings.Contains(out, `"warnings": []`) {
		t.Errorf("no list of warnings:\n%s", out)
	}
}

func TestCommandsFailClearly(t *testing.T) {
	for want, args := range map[string][]string{
		"standard input:1: unknown key \"sites\"; did you mean \"site\"?": {"check", "-"},
		"gone.yaml: no such file or directory":                            {"check", "gone.yaml"},
		`--packets is "9..3": give fewest..most, such as 1..100`:          {"check", "-", "--packets", "9..3"},
		"--icmp is 0: give the ICMP replies":                              {"check", "-", "--icmp", "0"},
		"accepts 1 arg(s), received 0":                                    {"check"},
		"clos: 3 pods but no t2 to join them: give t2 at least 1":         {"clos", "--pods", "3", "--t2", "0"},
		"write topology: open ":                                           {"clos", "--file", filepath.Join(t.TempDir(), "no", "dir")},
	} {
		out, err := run(t, "sites: x\n", args...)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(out, "Usage:") {
			t.Errorf("%v: got %v, want %q\n%s", args, err, want, out)
		}
	}
}
