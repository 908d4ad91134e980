package hostagent

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// threadNetNS is the calling thread's network namespace.
const threadNetNS = "/proc/thread-self/ns/net"

// openNetNS opens a network namespace by its file, such as /run/netns/web; no
// name means the calling thread's. It returns its inode number as well, by
// which the kernel's programs know it.
func openNetNS(name string) (*os.File, uint32, error) {
	if name == "" {
		name = threadNetNS
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, 0, fmt.Errorf("find the network namespace to watch (is /proc mounted?): %w", err)
	}
	fi, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, 0, fmt.Errorf("find the network namespace to watch: %w", err)
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		f.Close()
		return nil, 0, errors.New("find the network namespace to watch: no inode number")
	}
	return f, uint32(st.Ino), nil
}
