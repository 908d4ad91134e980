package hostagent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"decaf/api/decafpb"
	"decaf/api/packet"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Lesser sources see what happens in a second network namespace too, from the time
// it is there: what is sent again, the number of its namespace, and how connections
// end.
func TestLesserSourcesWatchNamespaces(t *testing.T) {
	for _, source := range lesser {
		t.Run(source, func(t *testing.T) {
			t.Parallel()
			untilRight(t, source, func() ([]string, uint64) { return watchesNamespaces(t, source) })
		})
	}
}

// untilRight does what a tracepoint tells of, and again if it is told wrong: while a
// program runs another on the same processor does not, which is counted, and what a
// program of somebody else's so missed nobody's perf event sees, uncounted
// (perf_trace_run_bpf_submit): other tests have some.
func untilRight(t *testing.T, source string, do func() (wrong []string, lost uint64)) {
	t.Helper()
	wrong, lost := do()
	for range 3 {
		if len(wrong) == 0 || lost == 0 && source != sourcePerf {
			break
		}
		t.Logf("again, for %d events were lost: %v", lost, wrong)
		wrong, lost = do()
	}
	for _, w := range wrong {
		t.Error(w)
	}
}

func watchesNamespaces(t *testing.T, source string) (wrong []string, lost uint64) {
	l := newLab(t)
	name := filepath.Join(t.TempDir(), "b")
	rec, a, stop := l.watchWith(l.a, tracerFunc(complete), func(c *Config) {
		c.Source, c.Namespaces, c.Heartbeat = source, []string{name, "decaf-test-nowhere"}, 50*time.Millisecond
		c.Flows.Interval, c.Tables.Interval = 200*time.Millisecond, 5*time.Minute
	})
	linkTo(t, l.b.file(), name)
	beats := a.Counters()[countHeartbeats]
	until(t, "it is followed", func() bool { return a.Counters()[countHeartbeats] >= beats+2 })

	p := l.connect(addrB, false)
	f := l.drop("eth2")
	if _, err := p.server.Write(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	r := rec.wait(t, "a retransmit of b", ofFlow(p.flow().Reverse(), kindTLP, kindRTO))
	server := pair{client: p.server}
	if r.GetCookie() != server.cookie(t) || r.GetPath().GetStatus() != decafpb.PathStatus_PATH_STATUS_SKIPPED || !strings.Contains(r.GetPath().GetWhy(), "another network namespace") {
		t.Errorf("%v, want cookie %d, the path skipped, and why", r, server.cookie(t))
	}
	f.remove()
	if err := read(p.client, 100); err != nil {
		t.Fatal(err)
	}
	intervals := a.Counters()[countFlowIntervals]
	until(t, "a look", func() bool { return a.Counters()[countFlowIntervals] > intervals+1 })
	p.client.SetLinger(0)
	p.client.Close()
	p.server.SetReadDeadline(time.Now().Add(10 * time.Second))
	io.ReadAll(p.server)
	p.server.Close()
	stop()
	a1, b1 := recordOf(t, rec, p.flow()), recordOf(t, rec, p.flow().Reverse())
	want := [2]toldEnd{{decafpb.FlowRecord_STATE_TERMINATED, 0, 0, 1}, {decafpb.FlowRecord_STATE_TERMINATED, unix.ECONNRESET, 1, 0}}
	if source == sourceDiag {
		want = [2]toldEnd{{state: decafpb.FlowRecord_STATE_CLOSED}, {state: decafpb.FlowRecord_STATE_CLOSED}}
	}
	for i, r := range []*decafpb.FlowRecord{a1, b1} {
		got := toldEnd{r.GetState(), unix.Errno(r.GetError()), r.GetResetsReceived(), r.GetResetsSent()}
		if got != want[i] {
			wrong = append(wrong, fmt.Sprintf("%+v, want %+v: %v", got, want[i], r))
		}
	}
	if b1.GetBytesSent() != 100 || b1.GetRetransmits() == 0 || a1.GetBytesReceived() != 100 && source == sourceDiag {
		t.Errorf("%v and %v, want 100 bytes sent and received", b1, a1)
	}
	if n := a.Counters(); n[countFlowBroken]+n[countBroken]+n[countFlowLost]+n[countFlowDumpFailed] != 0 {
		t.Error(n)
	}
	return wrong, a.Counters()[countLostRing]
}

// Of two connections with the same addresses and ports in two network namespaces it
// is the one that did it that is said to have sent again, and to have been reset.
func TestSameFlowInTwoNamespaces(t *testing.T) {
	for _, source := range lesser {
		t.Run(source, func(t *testing.T) {
			t.Parallel()
			untilRight(t, source, func() ([]string, uint64) { return tellsTwins(t, source) })
		})
	}
}

func tellsTwins(t *testing.T, source string) (wrong []string, lost uint64) {
	l, m := newLab(t), newLab(t)
	name := filepath.Join(t.TempDir(), "m")
	linkTo(t, m.a.file(), name)
	rec, a, stop := l.watchWith(l.a, tracerFunc(complete), func(c *Config) {
		c.Source, c.Namespaces = source, []string{name}
		c.Flows.Interval, c.Tables.Interval = 200*time.Millisecond, 5*time.Minute
	})
	one, other := l.connectPorts(40000, 5000), m.connectPorts(40000, 5000)
	if one.flow() != other.flow() {
		t.Fatalf("%v and %v", one.flow(), other.flow())
	}
	cookies := [2]uint64{one.cookie(t), other.cookie(t)}
	f := m.drop("eth1")
	if _, err := other.client.Write(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"first", "second"} {
		r := rec.wait(t, "the "+kind+" retransmit", ofFlow(other.flow(), kindTLP, kindRTO))
		if r.GetCookie() != cookies[1] || !strings.Contains(r.GetPath().GetWhy(), "another network namespace") {
			t.Errorf("%v, want cookie %d of the other namespace", r, cookies[1])
		}
	}
	f.remove()
	if err := read(other.server, 100); err != nil {
		t.Fatal(err)
	}
	intervals := a.Counters()[countFlowIntervals]
	until(t, "a look", func() bool { return a.Counters()[countFlowIntervals] > intervals+1 })
	other.server.SetLinger(0)
	other.server.Close()
	other.client.SetReadDeadline(time.Now().Add(10 * time.Second))
	io.ReadAll(other.client)
	// Both sockets are given back at the same time.
	other.client.Close()
	one.client.Close()
	one.server.Close()
	stop()
	want := [2]toldEnd{{state: decafpb.FlowRecord_STATE_CLOSED}, {decafpb.FlowRecord_STATE_TERMINATED, unix.ECONNRESET, 1, 0}}
	if source == sourceDiag {
		want[1] = want[0]
	}
	found := [2]int{}
	for _, r := range rec.flows() {
		for i, cookie := range cookies {
			if r.GetCookie() != cookie {
				continue
			}
			found[i]++
			got := toldEnd{r.GetState(), unix.Errno(r.GetError()), r.GetResetsReceived(), r.GetResetsSent()}
			if got != want[i] {
				wrong = append(wrong, fmt.Sprintf("connection %d: %+v, want %+v: %v", i, got, want[i], r))
			}
		}
	}
	if found != [2]int{1, 1} {
		t.Errorf("%v records of each, want one", found)
	}
	return wrong, a.Counters()[countLostRing]
}

// connectPorts connects a to b with ports that are given.
func (l *lab) connectPorts(from, to int) pair {
	l.t.Helper()
	var ln net.Listener
	if err := l.b.do(func() (err error) {
		ln, err = net.Listen("tcp", ":"+strconv.Itoa(to))
		return err
	}); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { ln.Close() })
	var client net.Conn
	if err := l.a.do(func() (err error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(addrA), Port: from}, Timeout: 5 * time.Second}
		client, err = d.Dial("tcp", net.JoinHostPort(addrB, strconv.Itoa(to)))
		return err
	}); err != nil {
		l.t.Fatal(err)
	}
	server, err := ln.Accept()
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { client.Close(); server.Close() })
	return pair{client.(*net.TCPConn), server.(*net.TCPConn)}
}

// A network namespace that cannot be opened ends no agent: it is counted, and told
// once.
func TestLesserSourcesTellWhatTheyDoNotWatch(t *testing.T) {
	for _, source := range lesser {
		t.Run(source, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			file := filepath.Join(t.TempDir(), "none")
			if err := os.WriteFile(file, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			log := new(said)
			cfg := DefaultConfig()
			cfg.Name, cfg.Site, cfg.Source, cfg.Namespaces, cfg.Heartbeat = "a", "lab", source, []string{file}, 20*time.Millisecond
			cfg.Flows.Enabled = false
			rec := newRecorder()
			a := New(cfg, Deps{Log: slog.New(slog.NewTextHandler(log, nil)), Publisher: rec, Tracer: tracerFunc(complete), Topology: l.topo, NetNS: l.a.file()})
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- a.Run(ctx) }()
			defer func() {
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			}()
			beats := func(more uint64) {
				t.Helper()
				before := a.Counters()[countHeartbeats]
				until(t, "it is looked at again", func() bool { return a.Counters()[countHeartbeats] >= before+more })
			}
			beats(5)
			if n := a.Counters()[countUnwatched]; n != 1 || log.lines("are not watched") != 1 || log.lines(file) != 1 {
				t.Errorf("%d namespaces are not watched, want 1, told once:\n%s", n, log)
			}
			// Its own is.
			p := l.connect(addrB, false)
			f := l.drop("eth1")
			if _, err := p.client.Write(make([]byte, 100)); err != nil {
				t.Fatal(err)
			}
			rec.wait(t, "a retransmit", ofFlow(p.flow(), kindTLP, kindRTO))
			f.remove()

			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
			linkTo(t, l.b.file(), file)
			beats(5)
			if n := a.Counters()[countUnwatched]; n != 0 || log.lines("watched again") != 1 || log.lines("are not watched") != 1 {
				t.Errorf("%d namespaces are not watched, want none, told once:\n%s", n, log)
			}
		})
	}
}

// said is what a log says.
type said struct {
	mu   sync.Mutex
	text strings.Builder
}

func (s *said) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// lines counts those with a word in them.
func (s *said) lines(with string) (n int) {
	for line := range strings.Lines(s.String()) {
		if strings.Contains(line, with) {
			n++
		}
	}
	return n
}

// Of more network namespaces than can be watched those that are named are, and how
// many are not is counted.
func TestDiagSpacesAreBounded(t *testing.T) {
	dir := t.TempDir()
	own := &diagSpace{inum: 1}
	d := diagSpaces{own: own, of: map[uint32]*diagSpace{1: own}, watch: watchedSpaces{all: true}, others: &flowSpaces{}}
	for i := range maxDiagSpaces - 3 {
		d.watch.named = append(d.watch.named, namedSpace{uint32(2 + i), "named"})
	}
	var last uint32
	for i := range 5 {
		file := filepath.Join(dir, strconv.Itoa(i))
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		d.others.names = append(d.others.names, file)
		inum, err := netNSOf(file)
		if err != nil || inum < 2*maxDiagSpaces {
			t.Fatalf("inode number %d, %v", inum, err)
		}
		last = inum
	}
	d.of[last] = &diagSpace{inum: last}
	want, left := d.wanted()
	if len(want) != maxDiagSpaces || left != 3 {
		t.Fatalf("%d wanted, %d left", len(want), left)
	}
	named := want[1 : maxDiagSpaces-2]
	if want[0] != (namedSpace{1, ""}) || !slices.Equal(named, d.watch.named) || want[maxDiagSpaces-2].inum != last {
		t.Errorf("%v first, %v last, want the agent's own, those that are named, and the one that is watched", want[:2], want[maxDiagSpaces-3:])
	}
}

// A network namespace that is left is asked for no socket any more.
func TestLeftNamespaceIsNotAsked(t *testing.T) {
	own, other := &diagSpace{inum: 1}, &diagSpace{inum: 2}
	addr := netip.MustParseAddr("10.0.0.1")
	d := diagSpaces{own: own, of: map[uint32]*diagSpace{1: own, 2: other}, locals: map[netip.Addr][]*diagSpace{addr: {other}}}
	third := &diagSpace{inum: 3}
	d.of[3] = third
	if err := d.follow(watchedSpaces{named: []namedSpace{{3, "three"}}}); err != nil {
		t.Fatal(err)
	}
	if at := d.where(addr); len(at) != 2 || slices.Contains(at, other) {
		t.Errorf("asked in %v, want both that are left", at)
	}
}

// A network namespace that is watched goes with its last process, named or not: no
// socket of a lesser source keeps it.
func TestLesserSourcesLetNamespacesGo(t *testing.T) {
	for _, source := range lesser {
		for _, all := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, all %v", source, all), func(t *testing.T) {
				t.Parallel()
				l := newLab(t)
				child := exec.Command("sleep", "1000")
				child.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
				if err := child.Start(); err != nil {
					t.Fatal(err)
				}
				end := func() {
					child.Process.Kill()
					child.Wait()
				}
				t.Cleanup(end)
				h, err := netlink.NewHandleAt(netns.NsHandle(l.a.fd))
				if err != nil {
					t.Fatal(err)
				}
				defer h.Close()
				attrs := netlink.NewLinkAttrs()
				attrs.Name = "toward"
				if err := h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth9", PeerNamespace: netlink.NsPid(child.Process.Pid)}); err != nil {
					t.Fatal(err)
				}
				outside, err := h.LinkByName("toward")
				if err != nil {
					t.Fatal(err)
				}
				addr, err := netlink.ParseAddr("10.9.0.2/24")
				if err != nil {
					t.Fatal(err)
				}
				if err := errors.Join(h.AddrAdd(outside, addr), h.LinkSetUp(outside)); err != nil {
					t.Fatal(err)
				}
				defer l.a.dropTCP(t, nftables.ChainHookInput)()
				file := fmt.Sprintf("/proc/%d/ns/net", child.Process.Pid)
				names := []string{file}
				if all {
					names = []string{allNamespaces}
				}
				rec, _, stop := l.watchWith(l.a, tracerFunc(complete), func(c *Config) { c.Source, c.Namespaces = source, names })
				defer stop()

				// Nobody answers there, so a SYN is sent again.
				ns, inum, err := openNetNS(file)
				if err != nil {
					t.Fatal(err)
				}
				inside := &space{fd: int(ns.Fd()), inum: inum}
				if err := inside.do(func() error {
					link, err := netlink.LinkByName("eth9")
					if err != nil {
						return err
					}
					addr, err := netlink.ParseAddr("10.9.0.1/24")
					if err != nil {
						return err
					}
					if err := netlink.AddrAdd(link, addr); err != nil {
						return err
					}
					if err := netlink.LinkSetUp(link); err != nil {
						return err
					}
					if c, err := net.DialTimeout("tcp", "10.9.0.2:80", 3500*time.Millisecond); err == nil {
						c.Close()
						return fmt.Errorf("somebody answers")
					}
					return nil
				}); err != nil {
					t.Fatal(err)
				}
				ns.Close()
				rec.wait(t, "a retransmit there", func(r *decafpb.Retransmit) bool {
					f, err := packet.FlowFromPB(r.GetFlow())
					return err == nil && f.Dst.String() == "10.9.0.2:80" && r.GetKind() == kindSYN
				})
				end()
				until(t, "the namespace is gone, and the other end of its device", func() bool {
					_, err := h.LinkByName("toward")
					return err != nil
				})
				if _, err := os.Stat(file); err == nil {
					t.Error("the process is still there")
				}
			})
		}
	}
}
