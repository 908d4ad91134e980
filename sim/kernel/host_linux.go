package kernel

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxSegment reads a connected socket's segment size, less the options it uses.
func maxSegment(fd uintptr) (int, error) {
	return unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG)
}

// backOff gives a socket the congestion control of the generator. Where it is not
// to be had the namespace's own serves.
func backOff(_, _ string, raw syscall.RawConn) error {
	return raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, congestionControl)
	})
}

// pinProcess keeps all threads of this process on one processor.
func pinProcess(cpu int) error {
	var set unix.CPUSet
	set.Set(cpu)
	if !set.IsSet(cpu) {
		return fmt.Errorf("no processor %d", cpu)
	}
	runtime.GOMAXPROCS(1)
	return eachThread(func(tid int) error {
		if err := unix.SchedSetaffinity(tid, &set); err != nil {
			return fmt.Errorf("pin thread %d to processor %d: %w", tid, cpu, err)
		}
		return nil
	})
}

// preferProcess puts all threads of this process before those of ordinary ones.
// Packets are received in the time of whoever sends; when that waits for the
// processor for some milliseconds, acknowledgements do too, and a tail loss probe
// goes out though nothing was lost. On a machine as busy as seven others per
// processor this made the difference between ten such in a minute and none.
func preferProcess() error {
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_RR, Priority: 1}
	return eachThread(func(tid int) error { return unix.SchedSetAttr(tid, &attr, 0) })
}

// eachThread does something to all threads of this process, and so to those to
// come: they inherit from the thread that makes them.
func eachThread(do func(tid int) error) error {
	done := make(map[int]bool)
	for {
		// Until a pass finds no thread that one not yet treated has made.
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return fmt.Errorf("list threads: %w", err)
		}
		again := false
		for _, task := range tasks {
			tid, err := strconv.Atoi(task.Name())
			if err != nil || done[tid] {
				continue
			}
			again = true
			done[tid] = true
			if err := do(tid); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
		if !again {
			return nil
		}
	}
}
