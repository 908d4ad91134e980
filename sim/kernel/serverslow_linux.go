package kernel

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// A slow server's processes stand still for stallTime of every stallPeriod.
const (
	stallTime   = 900 * time.Millisecond
	stallPeriod = time.Second
)

// serverSlow stops the processes that serve at a host's addresses, again and again.
// The host's kernel goes on: it takes connections and acknowledges data until the
// receive buffer is full and the window closed. Agents on the host serve at the
// management network and are left alone. A process that is a client as well is slow
// at both.
type serverSlow struct {
	space  *space
	procs  []int // descriptors of processes
	before uint64
	last   uint64
	gone   bool
	stop   chan struct{}
	done   chan struct{} // closed when they run and will not be stopped again
}

func (f *Fabric) serverSlow(g *target) (_ effect, err error) {
	n, err := f.node(g.host)
	if err != nil {
		return nil, err
	}
	h, _ := f.topology.Host(g.host)
	e := &serverSlow{space: n.space, stop: make(chan struct{}), done: make(chan struct{})}
	defer func() {
		if err != nil {
			e.release()
		}
	}()
	if e.before, err = e.accepted(); err != nil {
		return nil, err
	}
	listening, err := n.space.listening(h.Addresses)
	if err != nil {
		return nil, err
	}
	f.forgetEnded()
	for _, c := range f.children {
		if c.node != g.host || !holds(c.process.Pid, listening) {
			continue
		}
		fd, err := unix.FcntlInt(uintptr(c.pidfd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("keep process %d: %w", c.process.Pid, err)
		}
		e.procs = append(e.procs, fd)
	}
	if len(e.procs) == 0 {
		return nil, errors.New("no process of the fabric serves at the host's addresses: start the traffic first")
	}
	go e.stall()
	return e, nil
}

// stall stops and continues the processes until stop is closed.
func (e *serverSlow) stall() {
	defer close(e.done)
	timer := time.NewTimer(0)
	defer timer.Stop()
	defer e.signal(unix.SIGCONT)
	for still := true; ; still = !still {
		select {
		case <-e.stop:
			return
		case <-timer.C:
		}
		if still {
			e.signal(unix.SIGSTOP)
			timer.Reset(stallTime)
		} else {
			e.signal(unix.SIGCONT)
			timer.Reset(stallPeriod - stallTime)
		}
	}
}

// signal reaches the processes that still are.
func (e *serverSlow) signal(s unix.Signal) {
	for _, fd := range e.procs {
		_ = unix.PidfdSendSignal(fd, s, nil, 0)
	}
}

// accepted counts connections that came to the host.
func (e *serverSlow) accepted() (uint64, error) { return e.space.netstat("Tcp", "PassiveOpens") }

func (e *serverSlow) read(t *Truth) error {
	if !e.gone {
		now, err := e.accepted()
		if err != nil {
			return err
		}
		e.last = now - e.before
	}
	t.Connections = e.last
	return nil
}

func (e *serverSlow) undo() error {
	close(e.stop)
	<-e.done
	e.release()
	now, err := e.accepted()
	e.last, e.gone = now-e.before, true
	return err
}

func (e *serverSlow) release() {
	for _, fd := range e.procs {
		unix.Close(fd)
	}
}

// listening lists the sockets that TCP servers wait at, at one of the addresses, by
// their numbers.
func (s *space) listening(at []netip.Addr) (inodes []uint64, err error) {
	err = s.do(func() error {
		for _, name := range []string{"tcp", "tcp6"} {
			table, err := os.ReadFile("/proc/thread-self/net/" + name)
			if errors.Is(err, fs.ErrNotExist) {
				continue // a machine without IPv6
			} else if err != nil {
				return fmt.Errorf("list TCP sockets: %w", err)
			}
			for line := range bytes.Lines(table) {
				if inode, ok := listener(line, at); ok {
					inodes = append(inodes, inode)
				}
			}
		}
		return nil
	})
	return inodes, err
}

// listener reads a line of /proc/net/tcp or tcp6: number, local address and port in
// hexadecimal, the address in words as the machine has them in memory, the remote ones, the state,
// and as the tenth field the socket's number.
func listener(line []byte, at []netip.Addr) (inode uint64, ok bool) {
	const listen = "0A"
	f := bytes.Fields(line)
	if len(f) < 10 || string(f[3]) != listen {
		return 0, false
	}
	local, _, _ := bytes.Cut(f[1], []byte(":"))
	var addr [16]byte
	n, err := hex.Decode(addr[:], local[:min(len(local), 2*len(addr))])
	if err != nil || n != 4 && n != 16 {
		return 0, false
	}
	for word := addr[:n]; len(word) > 0; word = word[4:] {
		binary.NativeEndian.PutUint32(word, binary.BigEndian.Uint32(word))
	}
	if a, _ := netip.AddrFromSlice(addr[:n]); !slices.Contains(at, a) {
		return 0, false
	}
	inode, err = strconv.ParseUint(string(f[9]), 10, 64)
	return inode, err == nil
}

// holds says whether a process has one of the sockets open.
func holds(pid int, sockets []uint64) bool {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid)) // none when it has ended
	for _, f := range files {
		var inode uint64
		to, _ := os.Readlink(f)
		if _, err := fmt.Sscanf(to, "socket:[%d]", &inode); err == nil && slices.Contains(sockets, inode) {
			return true
		}
	}
	return false
}
