package hostagent

import (
	"encoding/binary"
	"log/slog"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// stories loads the programs that write stories for a namespace and returns a
// reader of the story of a connection.
func (l *lab) stories(t *testing.T, s *space) func(net.Conn) connStory {
	t.Helper()
	k, err := openKernel(kernelOptions{netns: s.inum, ringBytes: 1 << 16}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	if len(k.missing) > 0 {
		t.Logf("missing: %v", k.missing)
	}
	return func(c net.Conn) connStory {
		t.Helper()
		raw, err := c.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, csBytes)
		var lerr error
		if err := raw.Control(func(fd uintptr) { lerr = k.stories.Lookup(uint32(fd), &b) }); err != nil {
			t.Fatal(err)
		}
		if lerr != nil {
			return connStory{}
		}
		return decodeStory(b, nil)
	}
}

// A connection's story says who opened it, when, for whom, and how often it had
// to send less.
func TestStory(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	storyA, storyB := l.stories(t, l.a), l.stories(t, l.b)
	before, err := monotonic()
	if err != nil {
		t.Fatal(err)
	}
	p := l.connect(addrB, false)
	name := comm(t)
	a, b := storyA(p.client), storyB(p.server)
	if a.inbound || a.opened < before || a.began < before || a.began > a.opened {
		t.Errorf("asking end: %+v, want it outbound, begun and then opened after %d", a, before)
	}
	if !b.inbound || b.opened < before {
		t.Errorf("answering end: %+v, want it inbound, opened after %d", b, before)
	}
	// The answering end has its name from the listener.
	for _, s := range []connStory{a, b} {
		if s.process != name || s.pid != uint32(os.Getpid()) {
			t.Errorf("process %q, %d, want %q, %d", s.process, s.pid, name, os.Getpid())
		}
	}
	if a.reductions != 0 || a.err != 0 || a.resetsReceived != 0 {
		t.Errorf("%+v: want nothing to have happened", a)
	}

	// A timeout reduces the window, once however often it fires.
	f := l.drop("eth1")
	p.client.Write(make([]byte, 100))
	until(t, "the window is reduced", func() bool { return storyA(p.client).reductions > 0 })
	until(t, "a second timeout", func() bool { return f.dropped() >= 4 })
	f.remove()
	if n := storyA(p.client).reductions; n != 1 {
		t.Errorf("%d reductions, want 1", n)
	}
	if err := read(p.server, 100); err != nil {
		t.Fatal(err)
	}

	// A reset, seen from both sides.
	p.server.SetLinger(0)
	raw, _ := p.server.SyscallConn()
	dup := -1
	raw.Control(func(fd uintptr) { dup, _ = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) })
	defer unix.Close(dup)
	unix.Shutdown(dup, unix.SHUT_RDWR)
	p.server.Close()
	unix.Close(dup)
	p.client.SetReadDeadline(time.Now().Add(5 * time.Second))
	p.client.Read(make([]byte, 1))
	until(t, "the reset is noted", func() bool {
		p.client.Write([]byte("x"))
		return storyA(p.client).resetsReceived == 1
	})
	if s := storyA(p.client); s.err != int32(unix.ECONNRESET) && s.err != int32(unix.EPIPE) {
		t.Errorf("error %d, want a reset", s.err)
	}
}

// One that nobody answers has begun, is not opened, and says why it ended.
func TestStoryOfRefusedConnection(t *testing.T) {
	l := newLab(t)
	story := l.stories(t, l.a)
	var fd int
	if err := l.a.do(func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		unix.Connect(fd, &unix.SockaddrInet4{Port: 1, Addr: [4]byte{10, 2, 0, 1}})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "refused")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s := story(c)
	if s.opened != 0 || s.began == 0 || s.resetsReceived != 1 || s.before != tcpSynSent {
		t.Errorf("%+v: want begun, not opened, one reset, closed in SYN_SENT", s)
	}
}

func TestDecodeStory(t *testing.T) {
	b := make([]byte, csBytes)
	ne := binary.NativeEndian
	ne.PutUint64(b[csOpened:], 1001)
	ne.PutUint64(b[csBegan:], 900)
	ne.PutUint32(b[csPID:], 7)
	ne.PutUint32(b[csError:], uint32(unix.ETIMEDOUT))
	ne.PutUint32(b[csResetsSent:], 2)
	ne.PutUint32(b[csResetsReceived:], 3)
	ne.PutUint32(b[csReductions:], 4)
	b[csBefore] = tcpEstablished
	copy(b[csComm:], "a\xffb\x00rest")
	want := connStory{
		opened: 1000, inbound: true, began: 900, pid: 7, process: "a?b", err: int32(unix.ETIMEDOUT),
		before: tcpEstablished, resetsSent: 2, resetsReceived: 3, reductions: 4,
	}
	if got := decodeStory(b, nil); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// Each tracepoint the programs want is there on this kernel.
func TestTracepoints(t *testing.T) {
	needKernel(t)
	spec := kernelTypes(t)
	for name, want := range map[string]int{
		"tcp_retransmit_skb": 2, "tcp_retransmit_synack": 2, "inet_sock_set_state": 3, "inet_sk_error_report": 1,
		"tcp_receive_reset": 1, "tcp_send_reset": 2, "tcp_destroy_sock": 1, "tcp_cong_state_set": 2, "kfree_skb": 3,
	} {
		if n, err := tracepointArgs(spec, name); err != nil || n < want {
			t.Errorf("%s: %d arguments, %v; want %d at least", name, n, err, want)
		}
	}
}
