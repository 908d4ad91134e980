package sim

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"decaf/api"
)

// A run that was killed leaves its directory; the next one sweeps it, and only
// it.
func TestRunDirSweepsTheDeadsOnly(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	mkdir := func(name string) string {
		dir := filepath.Join(os.TempDir(), name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	gone := mkdir(fmt.Sprintf("decaf-run-%d-1", dead.Process.Pid))
	alive := mkdir(fmt.Sprintf("decaf-run-%d-2", os.Getpid()))
	other := mkdir("decaf-run-notes")

	mine, err := newRunDir()
	if err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]bool{gone: false, alive: true, other: true, mine: true} {
		if _, err := os.Stat(dir); (err == nil) != want {
			t.Errorf("%s is there: %v, want %v", dir, err == nil, want)
		}
	}
}

func TestSilentNamesWhoIsMissing(t *testing.T) {
	fresh := func(name string) api.AgentView { return api.AgentView{Name: name, Fresh: true} }
	for _, c := range []struct {
		name   string
		agents []api.AgentView
		err    error
		want   string
	}{
		{"all heard", []api.AgentView{fresh("a"), fresh("b")}, nil, ""},
		{"one not heard", []api.AgentView{fresh("a"), {Name: "b"}}, nil, "b"},
		{"one not known", []api.AgentView{fresh("a")}, nil, "1 agents"},
		{"no service", nil, errors.New("connection refused"), "the service: connection refused"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := silent(c.agents, 2, c.err); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestLastLines(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(file, []byte("one\ntwo\nthree\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := lastLines(file, 2); got != "two | three" {
		t.Errorf("got %q", got)
	}
	if got := lastLines(file, 9); got != "one | two | three" {
		t.Errorf("got %q", got)
	}
}
