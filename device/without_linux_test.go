package device

import (
	"bufio"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// On a kernel without type information the kernel source says so, and what to do;
// the others go on, and the agent ends in order.
func TestProcessWithoutTypeInformation(t *testing.T) {
	n := newNode(t)
	agent := process(t, "name: r\nlisten: 127.0.0.1:0\n")
	// Hidden from this process alone: the mount is in a namespace of its own.
	cmd := exec.Command("unshare", "--mount", "sh", "-c", "mount -t tmpfs none /sys/kernel/btf && exec \"$0\"", agent.Path)
	cmd.Env = agent.Env
	stderr, err := cmd.StderrPipe()
	n.must("pipe", err)
	n.start(cmd)
	said := ""
	for lines := bufio.NewScanner(stderr); !strings.Contains(said, "gNMI target listens") && lines.Scan(); {
		said += lines.Text() + "\n"
	}
	n.must("signal", cmd.Process.Signal(syscall.SIGTERM))
	if err := cmd.Wait(); err != nil {
		t.Errorf("ended with %v, want exit code 0", err)
	}
	for _, want := range []string{"kernel has no type information", "CONFIG_DEBUG_INFO_BTF", "counters+routes"} {
		if !strings.Contains(said, want) {
			t.Errorf("no %q in\n%s", want, said)
		}
	}
}
