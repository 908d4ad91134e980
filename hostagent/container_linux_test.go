package hostagent

import (
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"decaf/api/decafpb"
)

const inContainer = "DECAF_TEST_CONNECT_TO"

// A retransmit names the container that sends it: processes in real control
// groups, called as container runtimes call theirs.
func TestRetransmitsNameTheirContainer(t *testing.T) {
	if to := os.Getenv(inContainer); to != "" {
		connectAndWait(t, to)
		return
	}
	l := newLab(t)
	root := cgroupRoot(t)
	rec, _ := l.watch(l.a, tracerFunc(complete))
	ln := l.listen()
	id := func(digit string) string { return strings.Repeat(digit+"123456789abcde", 5)[:64] }
	groups := map[string]string{ // by container
		"a123456789ab": "docker-" + id("a") + ".scope",
		"b123456789ab": "kubepods.slice/kubepods-pod1.slice/cri-containerd-" + id("b") + ".scope",
		"web-1":        `machine.slice/systemd-nspawn@web\x2d1.service/payload`,
	}
	// All before the first process: the agent looks for new ones now and then, and
	// on a busy machine a SYN may be sent again.
	for _, group := range groups {
		if err := os.MkdirAll(filepath.Join(root, group), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, group := range groups {
		startIn(t, l.a, filepath.Join(root, group), addrB+":"+portOf(ln))
	}
	for range groups {
		c, err := ln.AcceptTCP()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		// What comes is lost from here on: each is told to send now.
		if _, err := c.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
		if err := read(c, 1); err != nil {
			t.Fatal(err)
		}
	}
	f := l.drop("eth1", longerThan(80)...)
	defer f.remove()
	for name := range groups {
		rec.wait(t, "a retransmit of "+name, func(r *decafpb.Retransmit) bool { return r.GetContainer() == name })
	}
	for _, r := range rec.all() {
		if !r.GetUndone() && groups[r.GetContainer()] == "" {
			t.Errorf("record without one of them: %v", r)
		}
	}
}

// connectAndWait is what the process in a control group does: it answers the
// first byte, then sends until its standard input ends.
func connectAndWait(t *testing.T, to string) {
	c, err := net.DialTimeout("tcp", to, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := read(c.(*net.TCPConn), 1); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	go func() {
		for c.SetWriteDeadline(time.Time{}) == nil {
			if _, err := c.Write(make([]byte, 1000)); err != nil {
				return
			}
		}
	}()
	io.Copy(io.Discard, os.Stdin)
}

// cgroupRoot is a control group of the test's own, in version 2.
func cgroupRoot(t *testing.T) string {
	t.Helper()
	for _, root := range cgroupRoots {
		if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); err != nil {
			continue
		}
		dir, err := os.MkdirTemp(root, "decaf-test-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { removeGroups(t, dir) })
		return dir
	}
	t.Skip("needs control groups of version 2")
	return ""
}

// removeGroups removes control groups, the innermost first, once the last
// process of each is gone.
func removeGroups(t *testing.T, dir string) {
	t.Helper()
	subs, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, sub := range subs {
		if sub.IsDir() {
			removeGroups(t, filepath.Join(dir, sub.Name()))
		}
	}
	until(t, "control group "+dir+" is empty", func() bool { return syscall.Rmdir(dir) == nil })
}

// startIn starts this test again in a process in a control group and a network
// namespace, until the end of the test.
func startIn(t *testing.T, s *space, group, to string) {
	t.Helper()
	dir, err := os.Open(group)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), inContainer+"="+to)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.do(cmd.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("in %s: %v: %s", group, err, &out)
		}
	})
}
