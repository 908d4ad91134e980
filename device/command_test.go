package device

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"decaf/api/yang"
)

// run runs `decaf device` with these arguments and returns what it prints.
func run(t *testing.T, args ...string) string {
	t.Helper()
	cmd := Command()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetArgs(args)
	if err := cmd.Execute(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// The module can be had without a device, and without its configuration.
func TestPrintsYANG(t *testing.T) {
	if got := run(t, "--yang", "--config", "none.yaml"); got != yang.Text() || !strings.HasPrefix(got, "module decaf-loss {") {
		t.Errorf("%.80s …", got)
	}
}

// The help tells what the fuse allows when nothing is said of it, in the words of a
// configuration file.
func TestHelpTellsTheFusesDefaults(t *testing.T) {
	help := run(t, "--help")
	_, part, _ := strings.Cut(help, "\n  fuse:\n")
	part, _, _ = strings.Cut(part, "\n\n")
	file := filepath.Join(t.TempDir(), "device.yaml")
	// Another budget, lest the defaults be taken for what was read.
	changed := strings.Replace("fuse:\n"+part+"\n", "cpu: 0.25", "cpu: 0.5", 1)
	if err := os.WriteFile(file, []byte("name: r\n"+changed), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := LoadConfig(file)
	if err != nil {
		t.Fatalf("%v\n%s", err, changed)
	}
	want := DefaultConfig().Fuse
	want.CPU = 0.5
	if cfg.Fuse != want {
		t.Errorf("%+v, want %+v", cfg.Fuse, want)
	}
	for _, key := range []string{"cpu", "memory_bytes", "events", "queue", "back_off", "max_back_off"} {
		if !strings.Contains(part, key+":") {
			t.Errorf("no word of fuse.%s", key)
		}
	}
}

// The calls of gnmi_cli that the help shows do what it says.
func TestExamplesOfTheHelp(t *testing.T) {
	dir := t.TempDir()
	if out, err := exec.Command("go", "build", "-o", filepath.Join(dir, "gnmi_cli"), "github.com/openconfig/gnmi/cmd/gnmi_cli").CombinedOutput(); err != nil {
		t.Fatalf("build gnmi_cli: %v\n%s", err, out)
	}
	a, _ := startTold(t, DefaultConfig())
	var calls []string
	for _, block := range strings.Split(clientExamples, "\n  gnmi_cli ")[1:] {
		block, _, _ = strings.Cut(block, "\n\n")
		calls = append(calls, "exec gnmi_cli "+strings.Replace(block, "127.0.0.1:9339", a.Addr(t.Context()).String(), 1))
	}
	shell := func(call string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), "sh", "-c", call)
		cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
		return cmd
	}
	if len(calls) != 5 {
		t.Fatalf("%d calls: %q", len(calls), calls)
	}
	out := lines(t, shell(calls[0]))
	tellOnceSubscribed(t, a)
	for said := ""; !strings.Contains(said, PolicyL3ACL); {
		line, ok := <-out
		if !ok {
			t.Fatalf("no event:\n%s", said)
		}
		said += line + "\n"
	}
	begin := time.Now()
	for _, c := range []struct {
		call string
		want func() string // what is wrong, ""
	}{
		{calls[1], func() string {
			if c := a.setNow().effective; c.settings(NoBuffer).Threshold != 100 || !c.settings(ErrorsL2Tx).Ignore || c.settings(PolicyL3ACL).Threshold != 1000 {
				return fmt.Sprintf("%+v", c.Classes)
			}
			return ""
		}},
		{calls[2], func() string {
			if l := a.setNow().filters.list; len(l) != 1 || l[0].Name != "test-1" || l[0].EndNs < uint64(begin.UnixNano()) {
				return fmt.Sprintf("%+v", l)
			}
			return ""
		}},
		{calls[4], func() string {
			if s := a.setNow(); len(s.filters.list) != 0 || len(s.effective.Classes) != 0 {
				return fmt.Sprintf("%v %+v", slices.Sorted(maps.Keys(s.effective.Classes)), s.filters.list)
			}
			return ""
		}},
	} {
		if out, err := shell(c.call).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", c.call, err, out)
		}
		if wrong := c.want(); wrong != "" {
			t.Errorf("%s: %s", c.call, wrong)
		}
		if c.call == calls[2] {
			if out, err := shell(calls[3]).CombinedOutput(); err != nil || !strings.Contains(string(out), "10.0.9.0/24") || !strings.Contains(string(out), `"errors/l2"`) {
				t.Errorf("%s: %v\n%s", calls[3], err, out)
			}
		}
	}
}
