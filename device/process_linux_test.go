package device

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"decaf/api/packet"
	"decaf/api/service"

	"github.com/google/nftables"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// TestMain makes this binary `decaf device` when a test starts it again as a
// process of its own.
func TestMain(m *testing.M) {
	if reason, err := strconv.ParseUint(os.Getenv("TEST_DEVICE_HOLD"), 10, 32); err == nil {
		if holdShared(uint32(reason)) != nil {
			os.Exit(1)
		}
		return
	}
	file := os.Getenv("TEST_DEVICE_CONFIG")
	if file == "" {
		os.Exit(m.Run())
	}
	cmd := Command()
	cmd.SetArgs([]string{"--config", file})
	if cmd.Execute() != nil {
		os.Exit(1)
	}
}

// process prepares `decaf device` with a configuration.
func process(t *testing.T, yaml string) *exec.Cmd {
	t.Helper()
	file := filepath.Join(t.TempDir(), "device.yaml")
	if err := os.WriteFile(file, []byte(yaml), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "TEST_DEVICE_CONFIG="+file)
	return cmd
}

// start starts a command in the node; it dies with the test.
func (n *node) start(cmd *exec.Cmd) {
	n.t.Helper()
	started, end := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		err := netns.Set(n.ns)
		if err == nil {
			// The death signal follows the thread, so it stays.
			cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			err = cmd.Start()
		}
		started <- err
		<-end
	}()
	n.must("start "+cmd.Path, <-started)
	n.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		close(end)
	})
}

func TestProcessEndsInOrderOnSIGTERM(t *testing.T) {
	n := newNode(t)
	cmd := process(t, "name: r\nlisten: 127.0.0.1:0\n")
	stderr, err := cmd.StderrPipe()
	n.must("pipe", err)
	begin := time.Now()
	n.start(cmd)
	lines := bufio.NewScanner(stderr)
	for lines.Scan() && !strings.Contains(lines.Text(), "gNMI target listens") {
	}
	t.Logf("listens %s after its start", time.Since(begin).Round(time.Millisecond))
	n.must("signal", cmd.Process.Signal(syscall.SIGTERM))
	rest, _ := io.ReadAll(stderr)
	if err := cmd.Wait(); err != nil {
		t.Errorf("ended with %v, want exit code 0:\n%s", err, rest)
	}
}

func TestProcessWithoutPrivilegesSaysWhatToDo(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: to give privileges up")
	}
	dir := t.TempDir()
	// Somewhere that nobody can read.
	for d := dir; d != "/" && d != "/tmp"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	binary, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "device.test"), binary, 0o755); err != nil {
		t.Fatal(err)
	}
	const why = "run as root, or give the binary cap_bpf, cap_perfmon"
	unprivileged := func(more string) *exec.Cmd {
		file := filepath.Join(dir, "device.yaml")
		if err := os.WriteFile(file, []byte("name: r\nlisten: 127.0.0.1:0\n"+more), 0o644); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "device.test"))
		cmd.Env = append(os.Environ(), "TEST_DEVICE_CONFIG="+file)
		cmd.Dir = dir
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		return cmd
	}
	out, err := unprivileged("counters: {interval: 0s}\n").CombinedOutput()
	if err == nil || !strings.Contains(string(out), why) {
		t.Errorf("%v:\n%s", err, out)
	}
	if strings.Contains(string(out), "goroutine") {
		t.Errorf("a stack trace:\n%s", out)
	}
	// The sources that need no privileges go on.
	cmd := unprivileged("")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := ""
	for lines := bufio.NewScanner(stderr); !strings.Contains(said, "gNMI target listens") && lines.Scan(); {
		said += lines.Text() + "\n"
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	rest, _ := io.ReadAll(stderr)
	if err := cmd.Wait(); err != nil {
		t.Errorf("ended with %v, want exit code 0", err)
	}
	if !strings.Contains(said, why) || !strings.Contains(said, "counters+routes") {
		t.Errorf("it does not say what runs, and why not the rest:\n%s%s", said, rest)
	}
}

// TestGNMIClient has gnmi_cli, built from this module's tools, subscribe to an
// agent over mutual TLS and see a drop.
func TestGNMIClient(t *testing.T) {
	l := newLab(t)
	cli := filepath.Join(t.TempDir(), "gnmi_cli")
	if out, err := exec.Command("go", "build", "-o", cli, "github.com/openconfig/gnmi/cmd/gnmi_cli").CombinedOutput(); err != nil {
		t.Fatalf("build gnmi_cli: %v\n%s", err, out)
	}
	ca, err := service.NewCA(t.TempDir())
	l.r.must("authority", err)
	server, err := ca.Issue("r", "127.0.0.1")
	l.r.must("server certificate", err)
	client, err := ca.Issue("collector.test")
	l.r.must("client certificate", err)
	cfg := testConfig()
	cfg.TLS = server
	a := startAgent(t, l.r, cfg)
	l.r.portRule(nftables.ChainHookForward, 7001, dropped)

	args := []string{"-address", a.Addr(t.Context()).String(), "-ca_crt", client.CA,
		"-query", "/loss", "-query_type", "streaming", "-display_type", "single"}

	// Without a certificate of its own it is turned away.
	refused := exec.Command(cli, append(args, "-timeout", "2s")...)
	var out bytes.Buffer
	refused.Stdout, refused.Stderr = &out, &out
	l.r.start(refused)
	if err := refused.Wait(); err == nil || strings.Contains(out.String(), "loss/agent") {
		t.Errorf("a client without a certificate: %v:\n%s", err, out.String())
	}

	cmd := exec.Command(cli, append(args, "-client_crt", client.Cert, "-client_key", client.Key)...)
	stdout, err := cmd.StdoutPipe()
	l.r.must("pipe", err)
	cmd.Stderr = t.Output()
	l.r.start(cmd)
	lines := make(chan string, 1024)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(stdout); s.Scan(); {
			lines <- s.Text()
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	want := map[string]bool{"policy/l3/acl": false, "3.735928559e+09": false, "eth1": false, "eth2": false, "10.0.2.2": false, "nft_do_chain": false}
	missing := len(want)
	sent := false
	for missing > 0 {
		select {
		case line, ok := <-lines:
			if !ok {
				t.Fatalf("gnmi_cli ended")
			}
			if !sent && strings.HasPrefix(line, "loss/agent/state") {
				sent = true // it is subscribed
				p := packet.Probe{Flow: packet.Flow{Src: addrPort("10.0.1.2:40000"), Dst: addrPort("10.0.2.2:7001"), Proto: unix.IPPROTO_TCP}, TTL: 9, Seq: 0xdeadbeef, ID: 1}
				b, err := p.Marshal(nil)
				l.h1.must("probe", err)
				l.h1.sendRaw(b)
			}
			if !strings.HasPrefix(line, "loss/events/event/") {
				continue
			}
			t.Log(line)
			// loss/events/event/1/state/class, {Deprecated TypedValue_JsonVal policy/l3/acl}
			value := strings.TrimSuffix(line[strings.LastIndex(line, " ")+1:], "}")
			if had, ok := want[value]; ok && !had {
				want[value] = true
				missing--
			}
		case <-ctx.Done():
			t.Fatalf("gnmi_cli did not show all of the drop: %v", want)
		}
	}
}

// TestIgnoredInterface: what a management interface drops is no loss of the
// device's.
func TestIgnoredInterface(t *testing.T) {
	l := newLab(t)
	cfg := testConfig()
	cfg.IgnoreInterfaces = []string{"eth1"}
	a := startAgent(t, l.r, cfg)
	events := watch(t, dial(t, l.r, a, nil))
	l.r.portRule(nftables.ChainHookPrerouting, 7001, dropped)
	before := a.State().DropsIgnored
	send := func(from *node, src, dst string) packet.Flow {
		p := packet.Probe{Flow: packet.Flow{Src: addrPort(src), Dst: addrPort(dst), Proto: unix.IPPROTO_TCP}, TTL: 9, Seq: 1, ID: 1}
		b, err := p.Marshal(nil)
		from.must("probe", err)
		from.sendRaw(b)
		return p.Flow
	}
	send(l.h1, "10.0.1.2:40000", "10.0.2.2:7001")
	other := send(l.h2, "10.0.2.2:40000", "10.0.1.2:7001")
	for ev := range events {
		f, err := packet.FlowFromPB(ev.GetPacket().GetFlow())
		if err == nil && f == other {
			break
		}
		if ev.Ingress == "eth1" || ev.Egress == "eth1" {
			t.Errorf("event from an ignored interface: %v", ev)
		}
	}
	if got := a.State().DropsIgnored; got <= before {
		t.Errorf("%d drops ignored, %d before", got, before)
	}
}

// TestOtherNamespace: what another namespace of the machine drops is not seen.
func TestOtherNamespace(t *testing.T) {
	l := newLab(t)
	agents := map[*node]*Agent{l.r: startAgent(t, l.r, testConfig()), l.h2: startAgent(t, l.h2, testConfig())}
	events := watch(t, dial(t, l.r, agents[l.r], nil))
	l.r.portRule(nftables.ChainHookForward, 7001, dropped)
	p := packet.Probe{Flow: packet.Flow{Src: addrPort("10.0.1.2:40000"), Dst: addrPort("10.0.2.2:7001"), Proto: unix.IPPROTO_TCP}, TTL: 9, Seq: 1, ID: 1}
	b, err := p.Marshal(nil)
	l.h1.must("probe", err)
	l.h1.sendRaw(b)
	next(t, events, p.Flow)
	for _, c := range agents[l.h2].ledger.totals().classes {
		if c.Name == PolicyL3ACL {
			t.Errorf("h2 saw what r dropped: %+v", c)
		}
	}
}
