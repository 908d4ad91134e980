package kernel

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// threadNetNS is the network namespace of the calling thread.
const threadNetNS = "/proc/thread-self/ns/net"

// space is an anonymous network namespace. A thread that lives as long as the
// space stays inside it: a parent-death signal follows the thread that started
// the child, not the process, so children have to be started from that thread.
type space struct {
	mu    sync.RWMutex // of fd, which close takes away
	fd    int
	inode uint64
	// rt is a route netlink socket inside. Not to be used after close: a closed
	// handle opens another socket wherever the calling thread is.
	rt *netlink.Handle

	jobs chan func()
	done chan struct{}
}

// newSpace makes a namespace and its thread.
func newSpace() (*space, error) {
	s := &space{fd: -1, jobs: make(chan func()), done: make(chan struct{})}
	ready := make(chan error, 1)
	onOwnThread(func() { s.live(ready) })
	if err := <-ready; err != nil {
		<-s.done
		return nil, err
	}
	var err error
	if s.rt, err = netlink.NewHandleAt(netns.NsHandle(s.fd), unix.NETLINK_ROUTE); err != nil {
		s.close()
		return nil, fmt.Errorf("open a netlink socket in a new network namespace: %w", err)
	}
	return s, nil
}

// live is the life of the space's thread.
func (s *space) live(ready chan<- error) {
	defer close(s.done)
	home, err := unix.Open(threadNetNS, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		ready <- fmt.Errorf("open %s: %w", threadNetNS, err)
		return
	}
	defer unix.Close(home)
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		if errors.Is(err, unix.EPERM) {
			err = fmt.Errorf("%w (run as root, or with CAP_SYS_ADMIN and CAP_NET_ADMIN)", err)
		}
		ready <- fmt.Errorf("make a network namespace: %w", err)
		return
	}
	// The thread ends soon after this function, not with it: leave the namespace
	// at once, so that it is gone when close returns.
	defer unix.Setns(home, unix.CLONE_NEWNET)
	fd, err := unix.Open(threadNetNS, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		ready <- fmt.Errorf("open the new network namespace: %w", err)
		return
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		ready <- fmt.Errorf("read the number of the new network namespace: %w", err)
		return
	}
	s.fd, s.inode = fd, st.Ino
	ready <- nil
	for job := range s.jobs {
		job()
	}
}

// onResident runs fn on the space's own thread. Not to be called from fn.
func (s *space) onResident(fn func() error) error {
	res := make(chan error, 1)
	s.jobs <- func() { res <- fn() }
	return <-res
}

// do runs fn on a thread that is inside the space for that time.
func (s *space) do(fn func() error) error {
	runtime.LockOSThread()
	home, err := unix.Open(threadNetNS, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open %s: %w", threadNetNS, err)
	}
	if err := s.enter(); err != nil {
		unix.Close(home)
		runtime.UnlockOSThread()
		return fmt.Errorf("enter the network namespace: %w", err)
	}
	// Deferred: fn may end its goroutine, as testing's FailNow does.
	defer func() {
		// A thread that cannot come back stays locked, so the runtime ends it with
		// its goroutine rather than hand it to another.
		if unix.Setns(home, unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		unix.Close(home)
	}()
	return fn()
}

// enter moves the calling thread into the space.
func (s *space) enter() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.fd < 0 {
		return errors.New("the fabric is closed")
	}
	return unix.Setns(s.fd, unix.CLONE_NEWNET)
}

// close ends the thread; the namespace ends with its last process.
func (s *space) close() {
	close(s.jobs)
	<-s.done
	if s.rt != nil {
		s.rt.Close()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd >= 0 {
		unix.Close(s.fd)
		s.fd = -1
	}
}

// onOwnThread runs body in a goroutine on an operating system thread that no
// other goroutine gets and that ends with body. Never the process's first thread:
// the runtime cannot end that one, it would hold a namespace for ever.
func onOwnThread(body func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			started := make(chan struct{})
			go func() { // elsewhere, since this goroutine holds the first thread
				runtime.LockOSThread()
				close(started)
				body()
			}()
			<-started
			runtime.UnlockOSThread()
			return
		}
		body()
	}()
}
