package device

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"decaf/api/packet"
	"decaf/api/service"
	"decaf/api/yang"
	"decaf/device/sflow/sflowtest"

	"github.com/VictoriaMetrics/metrics"
	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// twoLeaves is a configuration with two switches that send from loopback.
func twoLeaves() Config {
	cfg := DefaultConfig()
	cfg.Name, cfg.Listen = "r", "127.0.0.1:0"
	cfg.Fuse.CPU, cfg.Fuse.MemoryBytes = 1024, 1<<40 // the process is the test's too
	cfg.SFlow.Listen = "127.0.0.1:0"
	for i, name := range []string{"leaf1", "leaf2"} {
		cfg.SFlow.Switches = append(cfg.SFlow.Switches, SwitchConfig{
			Name: name, Listen: "127.0.0.1:0", Agent: netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}),
			From:       []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
			Interfaces: map[uint32]string{1: "swp1", 9: "mgmt0"}, IgnoreInterfaces: []string{"mgmt0"},
		})
	}
	return cfg
}

// startFleet opens and runs what Serve does until the test ends.
func startFleet(t *testing.T, f *fleet) {
	t.Helper()
	if err := f.open(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- service.RunAll(ctx, f.log, f.parts()...) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		f.close()
	})
}

// sendSFlow sends a datagram with one notification.
func (f *fleet) sendSFlow(t *testing.T, agent netip.Addr, seq uint32, d sflowtest.Drop) {
	t.Helper()
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(f.listener.addr()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	d.Sequence = seq
	if _, err := c.Write(sflowtest.Datagram{Agent: agent, Sequence: seq, Uptime: seq, Samples: [][]byte{d.Sample()}}.Bytes()); err != nil {
		t.Fatal(err)
	}
}

// A notification over UDP is an event at the gNMI target of its switch, over
// mutual TLS, and of no other.
func TestSwitchesAreDevices(t *testing.T) {
	ca, err := service.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cfg := twoLeaves()
	cfg.Kernel = false
	if cfg.TLS, err = ca.Issue("leaves", "127.0.0.1"); err != nil {
		t.Fatal(err)
	}
	files, err := ca.Issue("collector.test")
	if err != nil {
		t.Fatal(err)
	}
	f, err := newFleet(cfg, sflowLog(t))
	if err != nil {
		t.Fatal(err)
	}
	if f.own != nil {
		t.Fatal("this device has no source and an agent")
	}
	startFleet(t, f)
	updates := make([]<-chan *gnmipb.Notification, 2)
	for i, a := range f.switches {
		conf, err := files.Client("127.0.0.1")
		if err != nil {
			t.Fatal(err)
		}
		conn, err := grpc.NewClient(a.Addr(t.Context()).String(), grpc.WithTransportCredentials(credentials.NewTLS(conf)))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		updates[i] = subscribe(t, gnmipb.NewGNMIClient(conn))
		s, _ := f.listener.device(a.cfg.Name)
		poll(t, a.cfg.Name+" is observed", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.handle != nil })
	}
	for i, seq := range []uint32{1, 1} {
		flow := fmt.Sprintf("10.0.0.1:%d>10.0.0.2:80", 40001+i)
		h := frame(t, flow, 0xdeadbeef)
		agent := cfg.SFlow.Switches[i].Agent
		f.sendSFlow(t, agent, seq, sflowtest.Drop{Input: 9, Reason: 257}) // of an interface that is left out
		f.sendSFlow(t, agent, seq+2, sflowtest.Drop{Input: 1, Reason: 258, Drops: 7, Records: [][]byte{sflowtest.Header(1, uint32(len(h)), 0, h)}})
	}
	for i, name := range []string{"leaf1", "leaf2"} {
		timeout := time.After(10 * time.Second)
		for found := false; !found; {
			select {
			case n := <-updates[i]:
				ev, is, err := yang.DecodeEvent(n)
				if err != nil {
					t.Fatal(err)
				}
				if !is {
					continue
				}
				got, err := packet.FlowFromPB(ev.GetPacket().GetFlow())
				if err != nil || int(got.Src.Port()) != 40001+i || ev.GetPacket().GetTcpSeq() != 0xdeadbeef {
					t.Errorf("%s: packet %v, %v", name, ev.GetPacket(), err)
				}
				if ev.Class != PolicyL3ACL || ev.Reason != "acl" || ev.Source != "sflow" || ev.Ingress != "swp1" || ev.Origin.GetSeq() != 1 {
					t.Errorf("%s: %v", name, ev)
				}
				found = true
			case <-timeout:
				t.Fatalf("%s: no event", name)
			}
		}
		// One number was left out, and seven notifications held back by the switch
		// itself: lost, and no load of ours that the fuse would have to cut.
		a := f.switches[i]
		a.look(time.Now())
		a.look(time.Now())
		s := a.State()
		if s.Name != name || s.EventSource != "sflow" || s.Events != 1 || s.EventsLost != 1+7 || s.DropsIgnored != 1 || s.Fuse != "full" {
			t.Errorf("%s: %+v", name, s)
		}
	}
	if f.switches[0].ledger.bootID == f.switches[1].ledger.bootID {
		t.Error("two devices share a boot id")
	}
	var out bytes.Buffer
	set := metrics.NewSet()
	for _, a := range f.switches {
		a.Describe(set)
		s, _ := f.listener.device(a.cfg.Name)
		s.describe(set)
	}
	f.listener.describe(set)
	set.WritePrometheus(&out)
	for _, want := range []string{
		`decaf_device_events{device="leaf1"} 1`, `decaf_device_dropped_packets{device="leaf2",class="policy/l3/acl"} 1`,
		`decaf_device_sflow_notifications{device="leaf2"} 2`, `decaf_device_sflow_suppressed{device="leaf1"} 7`, `decaf_device_sflow_refused{why="spoofed"} 0`,
		`decaf_device_subscribers{device="leaf1"} 1`, `decaf_device_subscribers_ended{device="leaf2"} 0`,
	} {
		if !strings.Contains(out.String(), want+"\n") {
			t.Errorf("no %s in\n%s", want, out.String())
		}
	}
}

// Where this device can see nothing its switches are spoken for, and it does not
// pass for one that drops nothing.
func TestSwitchesOfABlindDevice(t *testing.T) {
	f, err := newFleet(twoLeaves(), sflowLog(t))
	if err != nil {
		t.Fatal(err)
	}
	f.own.open = func() (*sources, error) { return nil, fmt.Errorf("%w: no such thing", errNoSource) }
	startFleet(t, f)
	for _, a := range f.switches {
		conn, err := grpc.NewClient(a.Addr(t.Context()).String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		subscribe(t, gnmipb.NewGNMIClient(conn)) // fails unless in sync
	}
	<-f.blind.Done()
	if f.own.listening() == nil {
		t.Error("the device that sees nothing listens")
	}
}

// Without switches it is the end.
func TestBlindDeviceEnds(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Name, cfg.Listen = "r", "127.0.0.1:0"
	f, err := newFleet(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	f.own.open = func() (*sources, error) { return nil, fmt.Errorf("%w: no such thing", errNoSource) }
	if err := service.RunAll(t.Context(), f.log, f.parts()...); err == nil || !strings.Contains(err.Error(), "no such thing") {
		t.Errorf("ended with %v", err)
	}
}

// A socket that is taken keeps the switches out, not this device.
func TestSFlowSocketIsTaken(t *testing.T) {
	taken, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	cfg := twoLeaves()
	cfg.SFlow.Listen = taken.LocalAddr().String()
	f, err := newFleet(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.open(); err != nil || f.listener != nil || len(f.switches) != 0 {
		t.Errorf("%v, %d switches", err, len(f.switches))
	}
	cfg.Kernel = false
	if f, err = newFleet(cfg, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	if err := f.open(); err == nil || !strings.Contains(err.Error(), "a port that no other collector has") {
		t.Errorf("without a source of its own: %v", err)
	}
}
