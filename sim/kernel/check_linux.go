package kernel

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// needed are the capabilities that a fabric and the agents on it take.
var needed = []struct {
	bit  int
	name string
}{
	{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"},
	{unix.CAP_NET_RAW, "CAP_NET_RAW"},
	{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN"},
}

// Check says what this process lacks to build a fabric and watch it, and how to
// get it; nil if nothing.
func Check() error {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return fmt.Errorf("find out what this process may do: %w", err)
	}
	_, rest, ok := strings.Cut(string(status), "CapEff:")
	line, _, _ := strings.Cut(rest, "\n")
	caps, err := strconv.ParseUint(strings.TrimSpace(line), 16, 64)
	if !ok || err != nil {
		return errors.New("find out what this process may do: /proc/self/status has no CapEff")
	}
	var missing []string
	for _, c := range needed {
		if caps&(1<<c.bit) == 0 {
			missing = append(missing, c.name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("the kernel fabric needs root, to make network namespaces and load eBPF programs (missing: %s): run it with sudo",
			strings.Join(missing, ", "))
	}
	if _, err := os.Stat("/sys/kernel/btf/vmlinux"); err != nil {
		return errors.New("the agents need the kernel's type information: boot a kernel built with CONFIG_DEBUG_INFO_BTF=y, so that /sys/kernel/btf/vmlinux is there")
	}
	return nil
}
