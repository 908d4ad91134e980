//go:build !linux

package hostagent

import (
	"errors"
	"time"
)

// jiffy fails: there is no such kernel.
func jiffy() (time.Duration, error) {
	return 0, errors.New("the kernel's ticks are known on Linux only")
}
