package sim_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// What each service goes on with, as CapEff of /proc/PID/status has it.
const (
	capNetAdmin  = 1 << unix.CAP_NET_ADMIN
	capNetRaw    = 1 << unix.CAP_NET_RAW
	capSysPtrace = 1 << unix.CAP_SYS_PTRACE
	capSysAdmin  = 1 << unix.CAP_SYS_ADMIN
	capKernel    = 1<<unix.CAP_BPF | 1<<unix.CAP_PERFMON
)

// Each service gives up what it does not need on all of its threads, and with the
// rest comes up again, sources and all, when its configuration is read anew.
func TestServicesGiveUpPrivileges(t *testing.T) {
	bin, dir := decaf(t), t.TempDir()
	file := func(name, text string) string {
		f := filepath.Join(dir, name)
		if err := os.WriteFile(f, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return f
	}
	topo := file("topology.yaml", "site: east\ndevices:\n  - {name: sw}\nhosts:\n  - {name: h, addresses: [10.0.0.2]}\n")
	in := ownNetwork(t)
	const nats = "127.0.0.1:4222" // in a network of the test's own
	serve := startService(t, in, bin, "serve", file("serve.yaml", fmt.Sprintf("topology: %s\ndata: %s\nnats: {listen: %q}\napi: {listen: \"127.0.0.1:0\"}\n", topo, filepath.Join(dir, "data"), nats)))
	serve.hear("api listens", "privileges that are not needed are given up")
	serve.keeps(0)

	for _, tc := range []struct {
		name, command, yaml string
		again               string // a line of the changed configuration
		source              string // what the log says of the sources, each time
		keeps               uint64
	}{
		{"device", "device", "name: sw\nlisten: 127.0.0.1:0\nnflog: {groups: [12]}\nsflow: {listen: \"127.0.0.1:0\", switches: [{name: leaf, listen: \"127.0.0.1:0\", agent: 192.0.2.1}]}\n",
			"ring: 2048\n", "source=tp_btf+nflog+counters+routes", capKernel | capSysAdmin | capNetAdmin},
		{"device for switches", "device", "name: sw\nlisten: 127.0.0.1:0\nkernel: false\ncounters: {interval: 0s}\nroutes: {window: 0s}\nsflow: {listen: \"127.0.0.1:0\", switches: [{name: leaf, listen: \"127.0.0.1:0\", agent: 192.0.2.1}]}\n",
			"ring: 2048\n", "gNMI target listens", 0},
		{"host", "host", "", "heartbeat: 3s\n", "source=tp_btf", capKernel | capSysAdmin | capNetAdmin | capNetRaw},
		{"host of other namespaces", "host", "namespaces: [all]\n", "heartbeat: 3s\n", "source=tp_btf", capKernel | capSysAdmin | capNetAdmin | capNetRaw | capSysPtrace},
		{"host by tracepoints", "host", "source: tracepoint\n", "heartbeat: 3s\n", "source=tracepoint", capKernel | capSysAdmin | capNetAdmin | capNetRaw},
		{"host by perf", "host", "source: perf\n", "heartbeat: 3s\n", "source=perf", capKernel | capSysAdmin | capNetAdmin | capNetRaw},
		{"host by sock_diag", "host", "source: sock_diag\n", "heartbeat: 3s\n", "source=sock_diag", capKernel | capSysAdmin | capNetAdmin | capNetRaw},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.command == "host" {
				tc.yaml += fmt.Sprintf("name: h\nsite: east\ntopology: %s\nnats: {url: \"nats://%s\"}\n", topo, nats)
			}
			name := strings.ReplaceAll(tc.name, " ", "-") + ".yaml"
			s := startService(t, in, bin, tc.command, file(name, tc.yaml))
			s.hear(tc.source, "privileges that are not needed are given up")
			s.keeps(tc.keeps)
			file(name, tc.yaml+tc.again)
			s.signal(syscall.SIGHUP)
			s.hear("the configuration has changed", tc.source)
			s.keeps(tc.keeps)
			s.signal(syscall.SIGTERM)
			for line := range s.said {
				if strings.Contains(line, "level=ERROR") {
					t.Error(line)
				}
			}
			if err := s.cmd.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
	serve.signal(syscall.SIGTERM)
	for range serve.said {
	}
	if err := serve.cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// ownNetwork makes a network namespace with nothing but loopback, and returns what
// runs a function in it, always on the same thread.
func ownNetwork(t *testing.T) (in func(func() error) error) {
	t.Helper()
	work, done := make(chan func() error), make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		for fn := range work {
			done <- fn()
		}
	}()
	t.Cleanup(func() { close(work) })
	in = func(fn func() error) error { work <- fn; return <-done }
	if err := in(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	}); err != nil {
		t.Fatal(err)
	}
	return in
}

// daemon is a service that runs.
type daemon struct {
	t    *testing.T
	cmd  *exec.Cmd
	said chan string
}

func startService(t *testing.T, in func(func() error) error, bin, command, file string) *daemon {
	t.Helper()
	d := &daemon{t: t, cmd: exec.Command(bin, command, "--config", file), said: make(chan string, 1000)}
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // with the thread of in
	stderr, err := d.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := in(d.cmd.Start); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(d.said)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			d.said <- lines.Text()
		}
	}()
	t.Cleanup(func() {
		d.cmd.Process.Kill()
		d.cmd.Wait()
	})
	return d
}

func (d *daemon) signal(s os.Signal) {
	d.t.Helper()
	if err := d.cmd.Process.Signal(s); err != nil {
		d.t.Fatal(err)
	}
}

// hear waits until the log has said all of these, in any order.
func (d *daemon) hear(words ...string) {
	d.t.Helper()
	all, limit := "", time.After(time.Minute)
	for {
		missing := ""
		for _, w := range words {
			if !strings.Contains(all, w) {
				missing = w
			}
		}
		if missing == "" {
			return
		}
		select {
		case line, ok := <-d.said:
			if !ok || strings.Contains(line, "level=ERROR") {
				d.t.Fatalf("no word of %q:\n%s%s", missing, all, line)
			}
			all += line + "\n"
		case <-limit:
			d.t.Fatalf("no word of %q:\n%s", missing, all)
		}
	}
}

// keeps waits until each thread has these capabilities of those that there are, and
// can come by no others.
func (d *daemon) keeps(want uint64) {
	d.t.Helper()
	poll(d.t, 20*time.Second, "privileges", func() error {
		list, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", d.cmd.Process.Pid))
		if err != nil || len(list) == 0 {
			return fmt.Errorf("no threads: %w", err)
		}
		for _, name := range list {
			text, err := os.ReadFile(name)
			if err != nil {
				continue // ended
			}
			for field, value := range map[string]string{
				"CapInh": fmt.Sprintf("%016x", 0), "CapPrm": fmt.Sprintf("%016x", want), "CapEff": fmt.Sprintf("%016x", want),
				"CapBnd": fmt.Sprintf("%016x", want), "CapAmb": fmt.Sprintf("%016x", 0), "NoNewPrivs": "1",
			} {
				if !strings.Contains(string(text), "\n"+field+":\t"+value+"\n") {
					return fmt.Errorf("%s: %s is not %s:\n%s", name, field, value, text)
				}
			}
		}
		return nil
	})
}
