package hostagent

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"decaf/api/bus"
	"decaf/api/decafpb"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const inNamespace = "DECAF_TEST_IN_NAMESPACE"

// inOwnNamespace runs the test again in a process of its own that has a network
// namespace of its own, and says in which of the two this is.
func inOwnNamespace(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inNamespace) != "" {
		return true
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
	return false
}

// site is a real NATS server, the connection of an admin to it, and what agents
// of the site "lab" publish there.
type site struct {
	srv  *bus.Server
	conn *bus.Conn
	rec  *recorder
	log  *slog.Logger
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{rec: newRecorder(), log: testLog(t)}
	cfg := bus.DefaultServerConfig()
	cfg.Listen, cfg.Dir, cfg.Site = "127.0.0.1:0", t.TempDir(), "lab"
	var err error
	if s.srv, err = bus.StartServer(cfg, s.log); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.srv.Stop)
	if s.conn, err = bus.Connect(t.Context(), bus.ConnConfig{Server: s.srv, Site: "lab"}, s.log); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.conn.Close)
	if err := s.conn.EnsureStreams(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	consumed := make(chan error, 1)
	go func() {
		consumed <- s.conn.Consume(ctx, time.Now(), func(b *decafpb.Batch) {
			for _, r := range b.GetRetransmits() {
				s.rec.Publish(r)
			}
			for _, h := range b.GetHeartbeats() {
				s.rec.Publish(h)
			}
			for _, f := range b.GetFlows() {
				s.rec.Publish(f)
			}
		})
	}()
	t.Cleanup(func() {
		stop()
		if err := <-consumed; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	return s
}

// The whole agent, as `decaf host` runs it: kernel, real tracer, real NATS. It
// runs in a process of its own, since the agent watches the network namespace
// of its process.
func TestServe(t *testing.T) {
	needKernel(t)
	if !inOwnNamespace(t) {
		return
	}
	l := labAround(t)
	site := newSite(t)
	rec, log := site.rec, site.log
	topo := filepath.Join(t.TempDir(), "lab.yaml")
	if err := os.WriteFile(topo, []byte(labTopologyText), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := DefaultConfig()
	cfg.Name, cfg.Site, cfg.Topology, cfg.NATS.URL = "a", "lab", topo, site.srv.URL()
	cfg.IgnoreInterfaces = []string{"lo"}
	cfg.Listen = "127.0.0.1:9100" // the namespace is this test's own
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	began := time.Now()
	go func() { served <- Serve(ctx, cfg, log) }()
	// Who is told that it is ready finds what it counts, too.
	until(t, "ready", func() bool { return answers("http://"+cfg.Listen+"/readyz", `"status":"ok"`) })
	if !answers("http://"+cfg.Listen+"/metrics", "decaf_host_segments 0") {
		t.Error("the agent says it is ready before it counts")
	}
	until(t, "the first heartbeat", func() bool { return len(rec.beats()) > 0 })
	t.Logf("start to first heartbeat received: %v", time.Since(began))

	for _, c := range []struct{ to, hop string }{{addrB, "10.1.0.254"}, {addrB6, "fd00:1::fe"}} {
		p := l.connect(c.to, false)
		f := l.drop("eth1", longerThan(80)...) // the data, not the probes
		if _, err := p.client.Write(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		r := rec.wait(t, "the probe of "+c.to, isFlow(p.flow(), kindTLP))
		path := r.GetPath()
		if path.GetStatus() != decafpb.PathStatus_PATH_STATUS_COMPLETE || len(path.GetHops()) != 1 || path.GetProbeSeq() == 0 {
			t.Fatalf("path %v, want the router's answer", path)
		}
		if hop, _ := netip.AddrFromSlice(path.GetHops()[0].GetAddress()); hop != netip.MustParseAddr(c.hop) {
			t.Errorf("hop %v, want %v", hop, c.hop)
		}
		o := r.GetOrigin()
		if o.GetProducer() != "a" || o.GetBootId() == 0 || o.GetSeq() == 0 {
			t.Errorf("origin %v", o)
		}
		t.Logf("event to end of trace: %v", time.Duration(path.GetStartNs()+path.GetTookNs()-r.GetTimeNs()))
		rec.wait(t, "the timeout of "+c.to, isFlow(p.flow(), kindRTO))
		f.remove()
	}
	stop()
	if err := <-served; err != nil {
		t.Errorf("serve: %v", err)
	}
	// So do the records of flows: both connections lost what they sent, some of
	// it in another interval maybe.
	until(t, "the records of flows", func() bool {
		retransmits := uint64(0)
		for _, r := range rec.flows() {
			if r.GetOrigin().GetProducer() != "a" || r.GetFlows() == 0 && r.GetFlow().GetDstPort() == 0 {
				t.Fatalf("record %v", r)
			}
			retransmits += r.GetRetransmits()
		}
		return retransmits >= 4
	})
	// The last heartbeat says it all, and was sent before Serve returned.
	until(t, "the last heartbeat", func() bool {
		beats := rec.beats()
		h := beats[len(beats)-1]
		return h.GetCounters()[countRecords] >= 4 && h.GetCounters()["traces"] >= 2
	})
}

// answers reports whether a page is there and holds a text.
func answers(url, text string) bool {
	r, err := http.Get(url)
	if err != nil {
		return false
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	return err == nil && r.StatusCode == http.StatusOK && strings.Contains(string(b), text)
}

// labAround is a lab whose host a is this process's own namespace.
func labAround(t *testing.T) *lab {
	t.Helper()
	fd, err := unix.Open("/proc/self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	ns, inum, err := openNetNS("")
	if err != nil {
		t.Fatal(err)
	}
	ns.Close()
	l := &lab{t: t, a: &space{fd: fd, inum: inum}, r: newSpace(t), b: newSpace(t)}
	if err := l.wire(); err != nil {
		t.Fatal(err)
	}
	return l
}

// Networks of an interface named follow its addresses, and a missing interface
// is no error.
func TestIgnoredInterfaces(t *testing.T) {
	l := newLab(t)
	err := l.a.do(func() error {
		g := newIgnored([]string{"eth0", "mgmt0"}, []netip.Prefix{netip.MustParsePrefix("198.18.0.0/16")}, testLog(t))
		has := func(want string, yes bool) {
			t.Helper()
			found := false
			for _, p := range *g.refresh() {
				found = found || p.String() == want
			}
			if found != yes {
				t.Errorf("%s ignored: %v, want %v, in %v", want, found, yes, *g.refresh())
			}
		}
		has("198.18.0.0/16", true)
		has("10.1.0.0/24", true)
		has("192.0.2.0/24", false)
		eth, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		addr, err := netlink.ParseAddr("192.0.2.9/24")
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(eth, addr); err != nil {
			return err
		}
		has("192.0.2.0/24", true)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
