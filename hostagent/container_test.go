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
	f("lxc.payload.web", "web")
	f("lxc.payload.web/system.slice/nginx.service", "web")
	f("docker/"+id, "0123456789ab")
	f("user.slice/user-1000.slice/user@1000.service/user.slice/docker-"+id+".scope", "0123456789ab")
	f("user.slice/user-1000.slice/user@1000.service/user.slice/libpod-"+id+".scope/container", "0123456789ab")
	f("default/"+id, "0123456789ab") // containerd alone
	f("system.slice/kubepods-burstable-pod1.slice:cri-containerd:"+id, "0123456789ab")
	f("docker/"+strings.Repeat("f", 64)+"/kubelet.slice/kubepods.slice/cri-containerd-"+id+".scope", "0123456789ab") // a node in a container
	f("machine.slice/systemd-nspawn@web.service/payload", "web")
	f("machine.slice/systemd-nspawn@web\\x2d1.service/payload/system.slice", "web-1")
	f("machine.slice/machine-web.scope/payload", "web")
	f("machine.slice/machine-qemu\\x2d1\\x2ddb.scope/libvirt", "qemu-1-db")
	f("system.slice/docker-"+id[:63]+".scope", "docker-"+id[:63]+".scope") // no id
	f("system.slice/machine-.scope", "machine-.scope")
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
