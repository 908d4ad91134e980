package topology

import (
	"bytes"
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

func TestCommandsFailClearly(t *testing.T) {
	for want, args := range map[string][]string{
		"standard input:1: unknown key \"sites\"; did you mean \"site\"?": {"check", "-"},
		"gone.yaml: no such file or directory":                            {"check", "gone.yaml"},
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
