package hostagent

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// enterNetNS moves the calling thread, which must be locked, into a network
// namespace. It does nothing where that is the thread's own.
func enterNetNS(ns *os.File, inode uint32) error {
	own, at, err := openNetNS("")
	if err != nil {
		return err
	}
	own.Close()
	if at == inode {
		return nil
	}
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return needsPrivilege("enter the network namespace to watch", fmt.Errorf("setns: %w", err))
	}
	return nil
}
