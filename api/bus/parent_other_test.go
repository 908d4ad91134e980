//go:build !linux

package bus

import "syscall"

// dieWithParent has no counterpart here: a test that is killed leaves its child.
func dieWithParent() *syscall.SysProcAttr { return nil }
