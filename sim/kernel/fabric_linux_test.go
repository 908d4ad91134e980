package kernel

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"decaf/sim/scenario"
	"decaf/topology"
)

// standard is the fabric and traffic that scenarios use most.
var (
	standard        = topology.ClosSpec{Pods: 2, ToRs: 2, T1s: 2, T2s: 2, Hosts: 2}
	dual            = topology.ClosSpec{Pods: 2, ToRs: 2, T1s: 2, T2s: 2, Hosts: 2, IP: topology.IPBoth}
	standardTraffic = scenario.Traffic{ConnectionsPerHost: 10, PacketsMin: 1, PacketsMax: 100, Pattern: scenario.Pattern{Kind: "uniform"}}
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: network namespaces")
	}
}

func TestCheck(t *testing.T) {
	needRoot(t)
	if err := Check(); err != nil {
		t.Error(err)
	}
}

func build(t *testing.T, spec topology.ClosSpec) *Fabric {
	t.Helper()
	needRoot(t)
	top, err := topology.Clos(spec)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	f, err := Build(t.Context(), top, Options{Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d nodes, %d directed links built in %v", len(top.Devices)+len(top.Hosts), len(top.Links), time.Since(began))
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return f
}

// eventually polls until what holds or time is up.
func eventually(t *testing.T, limit time.Duration, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
		<-tick.C
	}
}

// traffic is the traffic children of a fabric.
type traffic struct {
	cmds  []*exec.Cmd
	outs  []*bytes.Buffer
	hosts []string
}

func startTraffic(t *testing.T, f *Fabric, tr scenario.Traffic) *traffic {
	t.Helper()
	all := &traffic{}
	for _, h := range f.Topology().Hosts {
		args, err := TrafficArgs(f.Topology(), tr, h.Name, 1)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("/proc/self/exe", args...)
		cmd.Env = append(os.Environ(), childMode+"=traffic")
		out := new(bytes.Buffer)
		cmd.Stdout, cmd.Stderr = out, os.Stderr
		if err := f.Start(h.Name, cmd); err != nil {
			t.Fatal(err)
		}
		all.cmds, all.outs, all.hosts = append(all.cmds, cmd), append(all.outs, out), append(all.hosts, h.Name)
	}
	t.Cleanup(func() { // after a test that failed half-way
		for _, c := range all.cmds {
			c.Process.Kill()
			c.Wait()
		}
	})
	return all
}

// stop ends the traffic in order and gives the sum of what it came to.
func (tr *traffic) stop(t *testing.T) TrafficStats {
	t.Helper()
	for _, c := range tr.cmds {
		c.Process.Signal(syscall.SIGTERM)
	}
	var sum TrafficStats
	for i, c := range tr.cmds {
		if err := c.Wait(); err != nil {
			t.Errorf("traffic of %s: %v", tr.hosts[i], err)
			continue
		}
		var s TrafficStats
		if err := json.Unmarshal(tr.outs[i].Bytes(), &s); err != nil {
			t.Errorf("traffic of %s: %v in %q", tr.hosts[i], err, tr.outs[i])
		}
		sum.Started += s.Started
		sum.Connected += s.Connected
		sum.Completed += s.Completed
		sum.Failed += s.Failed
		sum.Skipped += s.Skipped
		sum.SentPackets += s.SentPackets
		sum.SentBytes += s.SentBytes
		sum.Accepted += s.Accepted
		sum.ReceivedBytes += s.ReceivedBytes
	}
	tr.cmds = nil
	return sum
}

// counter sums a kernel counter over the fabric's hosts or devices.
func counter(t *testing.T, f *Fabric, nodes []string, group, name string) uint64 {
	t.Helper()
	var sum uint64
	for _, n := range nodes {
		err := f.Do(n, func() error {
			v, err := netstat(group, name)
			sum += v
			return err
		})
		if err != nil {
			t.Fatalf("%s: %v", n, err)
		}
	}
	return sum
}

func hostNames(f *Fabric) (names []string) {
	for _, h := range f.Topology().Hosts {
		names = append(names, h.Name)
	}
	return names
}

func links(t *testing.T, f *Fabric) map[string]Counters {
	t.Helper()
	c, err := f.LinkCounters()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// serve echoes nothing: it accepts and reads connections to node until the test
// ends.
func serve(t *testing.T, f *Fabric, host string) netip.AddrPort {
	t.Helper()
	return serveAt(t, f, ipv4, host)
}

// serveAt is serve at the host's address of a version.
func serveAt(t *testing.T, f *Fabric, v version, host string) netip.AddrPort {
	t.Helper()
	var ln net.Listener
	err := f.Do(host, func() (err error) {
		ln, err = net.Listen("tcp", netip.AddrPortFrom(address(f, v, host), 0).String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				// One whose other end was reset would wait for long.
				defer context.AfterFunc(t.Context(), func() { c.SetDeadline(time.Now()) })()
				io.Copy(io.Discard, c)
				c.Close()
			})
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return netip.MustParseAddrPort(ln.Addr().String())
}

// dial connects from a host. Dialing is done on raw sockets of the standard
// library made inside, since the runtime may move a goroutine while it waits.
func dial(f *Fabric, host string, to netip.AddrPort, timeout time.Duration) (conn net.Conn, err error) {
	err = f.Do(host, func() (err error) {
		conn, err = net.DialTimeout("tcp", to.String(), timeout)
		return err
	})
	return conn, err
}

func TestFabricBuildsSettingsInsideOnly(t *testing.T) {
	needRoot(t)
	rootLinks := linkNames(t)
	rootSettings := settingsNow(t)
	f := build(t, standard)
	if got := linkNames(t); !slices.Equal(got, rootLinks) {
		t.Errorf("links of the caller's namespace: %v, were %v", got, rootLinks)
	}
	if got := settingsNow(t); !maps.Equal(got, rootSettings) {
		t.Errorf("sysctls of the caller's namespace: %v, were %v", got, rootSettings)
	}
	seeds := make(map[string]string)
	for _, d := range f.Topology().Devices {
		err := f.Do(d.Name, func() error {
			for _, s := range everywhere() {
				if got, err := readSysctl(s.path); err == nil && got != s.value {
					// The CPU mask is printed in the width of the machine.
					if s.path == "core/rps_default_mask" && strings.TrimLeft(strings.ReplaceAll(got, ",", ""), "0") == s.value {
						continue
					}
					t.Errorf("%s: %s is %q, want %q", d.Name, s.path, got, s.value)
				}
			}
			seed, err := readSysctl("ipv4/fib_multipath_hash_seed")
			if other, taken := seeds[seed]; taken {
				t.Errorf("%s and %s hash alike", d.Name, other)
			}
			seeds[seed] = d.Name
			if got, _ := readSysctl("ipv4/conf/" + ManagementInterface + "/forwarding"); got != "0" {
				t.Errorf("%s forwards management packets", d.Name)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func linkNames(t *testing.T) (names []string) {
	t.Helper()
	list, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range list {
		names = append(names, l.Attrs().Name)
	}
	return names
}

func settingsNow(t *testing.T) map[string]string {
	t.Helper()
	now := make(map[string]string)
	for _, s := range append(everywhere(), forwarding(1)...) {
		now[s.path], _ = readSysctl(s.path)
	}
	return now
}

func TestFabricOfFortyNodes(t *testing.T) {
	// 3 pods of 2 ToRs, 2 T1s and 8 hosts, and 4 T2s.
	f := build(t, topology.ClosSpec{Pods: 3, ToRs: 2, T1s: 2, T2s: 4, Hosts: 4})
	if n := len(f.nodes) - 1; n != MaxNodes {
		t.Fatalf("%d nodes, meant %d", n, MaxNodes)
	}
	to := serve(t, f, "p2-tor1-h3")
	conn, err := dial(f, "p0-tor0-h0", to, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func TestBuildRefusesWhatItCannotBuild(t *testing.T) {
	cable := func(a, b, aAddr, bAddr string) []topology.Cable {
		return []topology.Cable{{
			A: topology.Interface{Node: "s", Name: a, Addr: netip.MustParsePrefix(aAddr)},
			B: topology.Interface{Node: "h", Name: b, Addr: netip.MustParsePrefix(bAddr)},
		}}
	}
	f := func(want string, host string, cables []topology.Cable) {
		t.Helper()
		top, err := topology.New("x", []*topology.Device{{Name: "s"}},
			[]*topology.Host{{Name: "h", Addresses: []netip.Addr{netip.MustParseAddr(host)}}}, cables)
		if err != nil {
			t.Fatalf("topology: %v", err)
		}
		_, err = Build(t.Context(), top, Options{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
	f("no link has an address of that version", "2001:db8::1", cable("eth1", "eth0", "10.0.0.0/31", "10.0.0.1/31"))
	f("1 to 15 characters", "10.0.0.1", cable("a-very-long-name", "eth0", "10.0.0.0/31", "10.0.0.1/31"))
	f("keeps this name", "10.0.0.1", cable("mgmt0", "eth0", "10.0.0.0/31", "10.0.0.1/31"))
	f("management network", "198.18.5.1", cable("eth1", "eth0", "198.18.5.0/31", "198.18.5.1/31"))
}

func TestManagementReachesAllNodesAndNoneEachOther(t *testing.T) {
	f := build(t, standard)
	a, b := f.Topology().Devices[0].Name, f.Topology().Hosts[0].Name
	for _, node := range []string{a, b} {
		var ln net.Listener
		err := f.Do(node, func() (err error) {
			ln, err = net.Listen("tcp", netip.AddrPortFrom(f.ManagementAddr(node), 0).String())
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		to := netip.MustParseAddrPort(ln.Addr().String())
		conn, err := dial(f, "", to, 5*time.Second)
		if err != nil {
			t.Errorf("management to %s: %v", node, err)
		} else {
			conn.Close()
		}
		other := a
		if node == a {
			other = b
		}
		if conn, err := dial(f, other, to, 200*time.Millisecond); err == nil {
			conn.Close()
			t.Errorf("%s reaches %s over the management network", other, node)
		}
	}
}

func TestEveryLinkCarriesFlows(t *testing.T) {
	f := build(t, standard)
	tr := startTraffic(t, f, standardTraffic)
	const enough = 50 // packets; a SYN and its answer would be fewer
	eventually(t, 30*time.Second, "every link carries packets", func() bool {
		c := links(t, f)
		if len(c) != len(f.Topology().Links) {
			t.Fatalf("counters of %d links, want %d", len(c), len(f.Topology().Links))
		}
		for _, n := range c {
			if n.Packets < enough {
				return false
			}
		}
		return true
	})
	s := tr.stop(t)
	if s.Completed == 0 || s.Failed > 0 || s.Skipped > 0 {
		t.Errorf("traffic %+v", s)
	}
	if s.ReceivedBytes != s.SentBytes || s.SentBytes != s.SentPackets*1448 {
		t.Errorf("sent %d bytes in %d packets of 1448, received %d", s.SentBytes, s.SentPackets, s.ReceivedBytes)
	}
}

func TestNothingStaysAfterClose(t *testing.T) {
	needRoot(t)
	before := linkNames(t)
	f := build(t, standard)
	cmd := exec.Command("cat") // lives until its input ends
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := f.Start(f.Topology().Hosts[0].Name, cmd); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Apply(scenario.Fault{On: "link " + f.Topology().Links[0].Name, Kind: "silent-loss"}); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Apply(scenario.Fault{On: "device " + f.Topology().Devices[0].Name, Kind: "acl"}); err != nil {
		t.Fatal(err)
	}
	inodes := make(map[uint64]bool)
	for _, n := range f.nodes {
		inodes[n.Inode] = true
	}
	if held := holders(inodes); len(held) == 0 {
		t.Fatal("no namespace found while the fabric is there: the check is blind")
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("a child outlived its fabric")
	}
	if held := holders(inodes); len(held) > 0 {
		t.Errorf("namespaces are still held by %v", held)
	}
	if after := linkNames(t); !slices.Equal(before, after) {
		t.Errorf("links %v, were %v", after, before)
	}
	if err := f.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	if err := f.Start("", exec.Command("true")); err == nil {
		t.Error("a closed fabric starts processes")
	}
	if err := f.Do("", func() error { return nil }); err == nil {
		t.Error("a closed fabric can be entered")
	}
	if _, err := f.LinkCounters(); err == nil {
		t.Error("a closed fabric counts")
	}
	if _, err := f.Apply(scenario.Fault{On: "link " + f.Topology().Links[0].Name, Kind: "silent-loss"}); err == nil {
		t.Error("a closed fabric takes faults")
	}
}

// holders finds threads inside namespaces and files that keep them.
func holders(inodes map[uint64]bool) (found []string) {
	for _, pattern := range []string{"/proc/[0-9]*/task/*/ns/net", "/proc/[0-9]*/fd/*"} {
		paths, _ := filepath.Glob(pattern)
		for _, p := range paths {
			to, err := os.Readlink(p)
			var inode uint64
			if err == nil && strings.HasPrefix(to, "net:[") {
				fmt.Sscanf(to, "net:[%d]", &inode)
			}
			if inodes[inode] {
				found = append(found, p)
			}
		}
	}
	return found
}

// holdFabric is a process that holds a fabric with a child in it, and says which
// namespaces and which process these are.
func holdFabric() {
	top, err := topology.Clos(standard)
	if err == nil {
		var f *Fabric
		if f, err = Build(context.Background(), top, Options{}); err == nil {
			cmd := exec.Command("cat")
			if _, err = cmd.StdinPipe(); err == nil {
				if err = f.Start(top.Hosts[0].Name, cmd); err == nil {
					fmt.Print(cmd.Process.Pid)
					for _, n := range f.nodes {
						fmt.Print(" ", n.Inode)
					}
					fmt.Println()
					io.Copy(io.Discard, os.Stdin)
				}
			}
		}
	}
	fmt.Fprintln(os.Stderr, "holder:", err)
	os.Exit(1)
}

func TestNothingStaysAfterKill(t *testing.T) {
	needRoot(t)
	holder := exec.Command("/proc/self/exe")
	holder.Env = append(os.Environ(), childMode+"=holder")
	holder.Stderr = os.Stderr
	in, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	defer holder.Wait()
	defer holder.Process.Kill()
	var pid int
	inodes := make(map[uint64]bool)
	if _, err := fmt.Fscan(out, &pid); err != nil {
		t.Fatal(err)
	}
	for range standardNodes + 1 {
		var inode uint64
		if _, err := fmt.Fscan(out, &inode); err != nil {
			t.Fatal(err)
		}
		inodes[inode] = true
	}
	if len(holders(inodes)) == 0 {
		t.Fatal("no namespace found while the fabric is there: the check is blind")
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	holder.Process.Kill()
	holder.Wait()
	if !(child{pidfd: pidfd}).ended(5000) {
		t.Error("the child outlived the process that held its fabric")
	}
	eventually(t, 5*time.Second, "the namespaces are gone", func() bool { return len(holders(inodes)) == 0 })
}

const standardNodes = 18
