package service

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// held are a thread's capabilities, as /proc/PID/status names them.
type held struct{ inheritable, permitted, effective, bounding, ambient capabilities }

// giveUp takes from all threads of the process, for good, the capabilities that
// are not needed: out of the bounding set, so that no program it may run has them
// either, and out of all others; what is left is not inherited, and nothing that it
// runs gains any (no_new_privs). It returns those that are gone. What cannot be
// given up is said in the log, and the daemon goes on: it is as it was.
func giveUp(n Needs, log *slog.Logger) (given capabilities) {
	was, err := heldByAll()
	if err != nil {
		log.Warn("privileges that are not needed are kept", "error", err)
		return 0
	}
	keep := capabilitySet(n.Capabilities)
	more, err := n.forFiles(was, keep, log)
	if err != nil {
		log.Warn("privileges that are not needed are kept", "error", err)
		return 0
	}
	keep = was.permitted & (keep | more)
	if err := was.reduceTo(keep); err != nil {
		if was.permitted != 0 { // else there was nothing to give up
			log.Warn("privileges that are not needed are kept", "error", err)
		}
		return 0
	}
	if gone := was.permitted &^ keep; gone != 0 {
		log.Info("privileges that are not needed are given up", "left", keep.String())
		if !was.effective.has(capSetPCap) {
			log.Warn("the bounding set stays as it is, for lack of cap_setpcap: what this process runs gains nothing by it all the same (no_new_privs)")
		}
		return gone
	}
	return 0
}

// reduceTo leaves every thread these capabilities, which it had before.
func (h held) reduceTo(keep capabilities) error {
	all := func(what string, trap, a, b, c uintptr) error {
		_, _, errno := syscall.AllThreadsSyscall6(trap, a, b, c, 0, 0, 0)
		switch errno {
		case 0:
			return nil
		case unix.ENOTSUP:
			return errors.New("a program built with cgo cannot reach all of its threads: build it with CGO_ENABLED=0, as `make build` does")
		}
		return fmt.Errorf("%s: %w", what, errno)
	}
	// First, for it can always be done: it tells whether threads can be reached.
	if err := all("set no_new_privs", unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0); err != nil {
		return err
	}
	if h.effective.has(capSetPCap) {
		for c := Capability(0); c < 64; c++ {
			if !h.bounding.has(c) || keep.has(c) {
				continue
			}
			if err := all("take "+c.String()+" out of the bounding set", unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(c), 0); err != nil {
				return err
			}
		}
	}
	// Without inheritable ones there are no ambient ones either (capabilities(7)).
	head, data := capData(keep, keep)
	return all("reduce capabilities", unix.SYS_CAPSET, uintptr(unsafe.Pointer(head)), uintptr(unsafe.Pointer(&data[0])), 0)
}

// capData are capset's arguments for the calling thread, nothing inheritable.
func capData(effective, permitted capabilities) (*unix.CapUserHeader, *[2]unix.CapUserData) {
	return &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &[2]unix.CapUserData{
		{Effective: uint32(effective), Permitted: uint32(permitted)},
		{Effective: uint32(effective >> 32), Permitted: uint32(permitted >> 32)},
	}
}

// heldByAll is what all threads of this process have. That they have the same is
// what it takes to change it for all at once (syscall.AllThreadsSyscall).
func heldByAll() (held, error) {
	list, err := filepath.Glob("/proc/self/task/[0-9]*/status")
	if err != nil || len(list) == 0 {
		return held{}, fmt.Errorf("/proc/self/task does not show the threads of this process (is /proc mounted?): %w", errors.Join(err, fs.ErrNotExist))
	}
	var all held
	first := true
	for _, name := range list {
		text, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // ended since
		}
		if err != nil {
			return held{}, err
		}
		h, err := parseHeld(text)
		if err != nil {
			return held{}, fmt.Errorf("%s: %w", name, err)
		}
		if !first && h != all {
			return held{}, fmt.Errorf("threads of this process differ in their capabilities: %+v and %+v", all, h)
		}
		all, first = h, false
	}
	return all, nil
}

func parseHeld(status []byte) (h held, err error) {
	fields := map[string]*capabilities{"CapInh": &h.inheritable, "CapPrm": &h.permitted, "CapEff": &h.effective, "CapBnd": &h.bounding, "CapAmb": &h.ambient}
	n := 0
	for line := range bytes.Lines(status) {
		name, value, _ := bytes.Cut(line, []byte(":"))
		to, ok := fields[string(name)]
		if !ok {
			continue
		}
		set, err := strconv.ParseUint(string(bytes.TrimSpace(value)), 16, 64)
		if err != nil {
			return held{}, fmt.Errorf("%s: %w", name, err)
		}
		*to = capabilities(set)
		n++
	}
	if n != len(fields) {
		return held{}, fmt.Errorf("%d of the %d sets of capabilities are there", n, len(fields))
	}
	return h, nil
}

// forFiles finds which capabilities it takes to go on using the files, by trying
// on a thread of its own that has but those in keep.
func (n Needs) forFiles(was held, keep capabilities, log *slog.Logger) (more capabilities, err error) {
	if was.effective&^keep&capabilitySet([]Capability{CapDACOverride, CapDACReadSearch}) == 0 {
		return 0, nil
	}
	done := make(chan error)
	go func() {
		// Unlocked only as it was: else the thread ends.
		runtime.LockOSThread()
		if err := setEffective(was, was.effective&keep); err != nil {
			done <- err
			return
		}
		refused := func(name string, mode uint32) bool {
			return errors.Is(unix.Faccessat(unix.AT_FDCWD, name, mode, unix.AT_EACCESS), unix.EACCES)
		}
		for _, name := range n.Write {
			if refused(name, unix.W_OK|unix.X_OK) {
				more |= 1 << CapDACOverride
				log.Warn("keeps a privilege because another user's folder is written to", "folder", name, "privilege", CapDACOverride)
			}
		}
		for _, name := range n.Read {
			if refused(name, unix.R_OK) {
				more |= 1 << CapDACReadSearch
				log.Warn("keeps a privilege because another user's file is read", "file", name, "privilege", CapDACReadSearch)
			}
		}
		err := setEffective(was, was.effective)
		if err == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return more, <-done
}

// setEffective sets the effective capabilities of the calling thread alone.
func setEffective(was held, effective capabilities) error {
	head, data := capData(effective, was.permitted)
	data[0].Inheritable, data[1].Inheritable = uint32(was.inheritable), uint32(was.inheritable>>32)
	if err := unix.Capset(head, &data[0]); err != nil {
		return fmt.Errorf("try without privileges: %w", err)
	}
	return nil
}
