package service

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// buildDaemon builds the program in testdata/daemon without cgo, as decaf is.
func buildDaemon(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(openDir(t), "daemon")
	cmd := exec.Command("go", "build", "-o", bin, "./testdata/daemon")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return bin
}

// openDir is a folder that every user may read.
func openDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for d := dir; d != "/" && d != "/tmp"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// startDaemon starts it, to die with the test; said are the lines of its log.
func startDaemon(t *testing.T, bin, file string, attr *syscall.SysProcAttr) (*exec.Cmd, <-chan string) {
	t.Helper()
	cmd := exec.Command(bin, "--config", file)
	cmd.Dir = "/"
	cmd.SysProcAttr = attr
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := make(chan string, 1000)
	go func() {
		defer close(said)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			said <- lines.Text()
		}
		_, _ = io.Copy(io.Discard, stderr)
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd, said
}

// hear waits for a line that holds text.
func hear(t *testing.T, said <-chan string, text string) (all string) {
	t.Helper()
	limit := time.After(30 * time.Second)
	for {
		select {
		case line, ok := <-said:
			all += line + "\n"
			if !ok {
				t.Fatalf("ended without saying %q:\n%s", text, all)
			}
			if strings.Contains(line, text) {
				return all
			}
		case <-limit:
			t.Fatalf("never said %q:\n%s", text, all)
		}
	}
}

// threads are the privileges of each thread of a process, and whether it may gain any.
func threads(t *testing.T, pid int) map[string]int {
	t.Helper()
	list, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(list) < 5 { // four sit in the kernel
		t.Fatalf("threads %v, %v", list, err)
	}
	out := map[string]int{}
	for _, name := range list {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // ended
		}
		h, err := parseHeld(text)
		if err != nil {
			t.Fatal(err)
		}
		out[fmt.Sprintf("permitted %v, effective %v, bounding %v, inheritable %v, ambient %v, may gain %t",
			h.permitted, h.effective, h.bounding, h.inheritable, h.ambient, !strings.Contains(string(text), "\nNoNewPrivs:\t1\n"))]++
	}
	return out
}

// Of its privileges a daemon keeps what it needs once it is up, on all threads, and
// nothing that it runs gets others.
func TestPrivilegesAreGivenUp(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: to have privileges to give up")
	}
	bin := buildDaemon(t)
	dir := openDir(t)
	foreign := filepath.Join(dir, "foreign")
	if err := os.Mkdir(foreign, 0o755); err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{foreign, secret} {
		if err := os.Chown(name, 65534, 65534); err != nil {
			t.Fatal(err)
		}
	}
	same := func(set string) string {
		return fmt.Sprintf("permitted %[1]s, effective %[1]s, bounding %[1]s, inheritable none, ambient none, may gain false", set)
	}
	all, err := heldByAll()
	if err != nil {
		t.Fatal(err)
	}
	nobody := &syscall.Credential{Uid: 65534, Gid: 65534}
	for _, tc := range []struct {
		what, yaml string
		attr       *syscall.SysProcAttr
		want       string
		says       string
	}{
		{"nothing is needed", "", nil, same("none"), "left=none"},
		{"some are", fmt.Sprintf("needs: [%d, %d]", CapNetAdmin, CapBPF), nil, same("cap_net_admin cap_bpf"), `left="cap_net_admin cap_bpf"`},
		{"own files", fmt.Sprintf("read: [%s]\nwrite: [%s]", bin, dir), nil, same("none"), "left=none"},
		{"another user's folder", fmt.Sprintf("write: [%s]", foreign), nil, same("cap_dac_override"), "folder=" + foreign},
		{"another user's file", fmt.Sprintf("read: [%s]", secret), nil, same("cap_dac_read_search"), "file=" + secret},
		{"no root", "", &syscall.SysProcAttr{Credential: nobody},
			fmt.Sprintf("permitted none, effective none, bounding %v, inheritable none, ambient none, may gain false", all.bounding), "runs"},
		{"no root, by a service manager's capabilities", fmt.Sprintf("needs: [%d, %d]", CapNetAdmin, CapBPF),
			&syscall.SysProcAttr{Credential: nobody, AmbientCaps: []uintptr{unix.CAP_NET_ADMIN, unix.CAP_CHOWN}},
			fmt.Sprintf("permitted cap_net_admin, effective cap_net_admin, bounding %v, inheritable none, ambient none, may gain false", all.bounding), "left=cap_net_admin"},
	} {
		t.Run(tc.what, func(t *testing.T) {
			file := filepath.Join(openDir(t), "daemon.yaml")
			if err := os.WriteFile(file, []byte("name: a\n"+tc.yaml+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			cmd, said := startDaemon(t, bin, file, tc.attr)
			log := hear(t, said, tc.says)
			var got map[string]int
			within(t, func() bool { got = threads(t, cmd.Process.Pid); return len(got) == 1 && got[tc.want] > 0 }, func() string {
				return fmt.Sprintf("%v, want %s\n%s", got, tc.want, log)
			})
			if tc.attr != nil && tc.attr.AmbientCaps == nil && strings.Contains(log, "privileges") {
				t.Errorf("words about privileges where there are none:\n%s", log)
			}
		})
	}
}

// within waits until done.
func within(t *testing.T, done func() bool, what func() string) {
	t.Helper()
	limit := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-limit:
			t.Fatal(what())
		case <-tick.C:
		}
	}
}

// New settings are taken without the privileges; those that need them are refused,
// and the ones before hold.
func TestPrivilegesAndHangups(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: to have privileges to give up")
	}
	bin := buildDaemon(t)
	file := filepath.Join(t.TempDir(), "daemon.yaml") // root's alone
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(fmt.Sprintf("name: a\nneeds: [%d]\n", CapNetRaw))
	cmd, said := startDaemon(t, bin, file, nil)
	hear(t, said, "left=cap_net_raw")
	for _, step := range []struct{ yaml, says string }{
		{fmt.Sprintf("name: b\nneeds: [%d]\n", CapNetRaw), "name=b"},
		{fmt.Sprintf("name: c\nneeds: [%d, %d]\n", CapNetRaw, CapSysAdmin), "privileges=cap_sys_admin"},
		{"name: d\n", "left=none"},
		{fmt.Sprintf("name: e\nneeds: [%d]\n", CapNetRaw), "privileges=cap_net_raw"},
	} {
		write(step.yaml)
		if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		hear(t, said, step.says)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for line := range said {
		if strings.Contains(line, "name=e") {
			t.Error(line)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func TestNeedsToListen(t *testing.T) {
	for addr, want := range map[string]bool{"": false, "127.0.0.1:0": false, "[::]:443": true, "0.0.0.0:1023": true, ":1024": false, "fd://3": false} {
		if got := len(NeedsToListen(addr)) > 0; got != want {
			t.Errorf("%q: %t", addr, got)
		}
	}
}

// What a kernel may have that is not as today's.
func TestParseHeld(t *testing.T) {
	good := "CapInh:\t0000000000000000\nCapPrm:\t000001ffffffffff\nCapEff:\t0000000000001000\nCapBnd:\t000001ffffffffff\nCapAmb:\t0000000000000000\n"
	h, err := parseHeld([]byte("Name:\tx\n" + good + "NoNewPrivs:\t0\n"))
	if err != nil || h.effective.String() != "cap_net_admin" || !h.permitted.has(40) || h.permitted.has(41) || h.bounding != h.permitted {
		t.Errorf("%+v, %v", h, err)
	}
	for _, bad := range []string{"", good[:50], strings.Replace(good, "0000000000001000", "x", 1)} {
		if _, err := parseHeld([]byte(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
