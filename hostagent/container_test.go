package hostagent

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestContainerName(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	f := func(at, want string) {
		t.Helper()
		if got := containerName(at); got != want {
			t.Errorf("%s: %q, want %q", at, got, want)
		}
	}
	f(".", "")
	f("system.slice/docker-"+id+".scope", "0123456789ab")
	f("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-containerd-"+id+".scope", "0123456789ab")
	f("kubepods/burstable/pod1/"+id, "0123456789ab")
	f("kubepods.slice/pod1/crio-"+id+".scope/container", "0123456789ab")
	f("machine.slice/libpod-"+id+".scope", "0123456789ab")
	f("system.slice/nginx.service", "nginx.service")
	f("system.slice/nginx.service/worker", "nginx.service")
	f("user.slice/user-1000.slice/session-2.scope", "session-2.scope")
	f("lxc/web", "web")
}

// A container that starts later is found, and one that nobody knows is asked
// for only now and then.
func TestContainers(t *testing.T) {
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "cgroup.procs"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	c := newContainers([]string{filepath.Join(root, "not there"), root})
	if got := c.name(1 << 60); got != "" {
		t.Errorf("an unknown group is called %q", got)
	}
	dir := filepath.Join(root, "web.service")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	inode := fi.Sys().(*syscall.Stat_t).Ino
	if got := c.name(inode); got != "" {
		t.Errorf("found %q a moment after the last look", got)
	}
	c.read = c.read.Add(-cgroupsEvery)
	if got := c.name(inode); got != "web.service" {
		t.Errorf("called %q, want web.service", got)
	}
	if c.name(0) != "" || c.name(1) != "" {
		t.Error("the root has a name")
	}
}
