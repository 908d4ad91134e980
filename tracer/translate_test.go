package tracer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"decaf/api/packet"
)

func tcpFlow(src, dst string) packet.Flow {
	return packet.Flow{Src: netip.MustParseAddrPort(src), Dst: netip.MustParseAddrPort(dst), Proto: packet.TCP}
}

// ctReplyTo is what the kernel answers to a question: both directions.
func ctReplyTo(orig, reply packet.Flow, seq uint32) []byte {
	b := conntrackQuestion(nil, orig, seq)
	binary.NativeEndian.PutUint16(b[4:], ctNew)
	second := conntrackQuestion(nil, reply, seq)[netlinkHdr+4:]
	binary.NativeEndian.PutUint16(second[2:], nested|ctReply)
	b = append(b, second...)
	b = attribute(b, 3, []byte{0, 0, 0, 1}) // CTA_STATUS
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	return b
}

func TestConntrackMessages(t *testing.T) {
	for _, c := range []struct{ f, orig, reply, want packet.Flow }{
		{ // not translated
			tcpFlow("10.0.0.1:5", "10.0.0.2:80"), tcpFlow("10.0.0.1:5", "10.0.0.2:80"), tcpFlow("10.0.0.2:80", "10.0.0.1:5"),
			tcpFlow("10.0.0.1:5", "10.0.0.2:80"),
		}, { // source translated
			tcpFlow("172.17.0.2:5", "10.0.0.2:80"), tcpFlow("172.17.0.2:5", "10.0.0.2:80"), tcpFlow("10.0.0.2:80", "192.0.2.1:1024"),
			tcpFlow("192.0.2.1:1024", "10.0.0.2:80"),
		}, { // destination translated: a service address
			tcpFlow("10.0.0.1:5", "10.96.0.1:443"), tcpFlow("10.0.0.1:5", "10.96.0.1:443"), tcpFlow("10.0.3.7:8443", "10.0.0.1:5"),
			tcpFlow("10.0.0.1:5", "10.0.3.7:8443"),
		}, { // the answering end of a connection that came in to a published port
			tcpFlow("172.17.0.2:80", "198.51.100.1:5"), tcpFlow("198.51.100.1:5", "192.0.2.1:8080"), tcpFlow("172.17.0.2:80", "198.51.100.1:5"),
			tcpFlow("192.0.2.1:8080", "198.51.100.1:5"),
		}, { // IPv6
			tcpFlow("[fd00::1]:5", "[fd00::2]:80"), tcpFlow("[fd00::1]:5", "[fd00::2]:80"), tcpFlow("[fd00::3]:81", "[fd00::1]:5"),
			tcpFlow("[fd00::1]:5", "[fd00::3]:81"),
		},
	} {
		orig, reply, err := conntrackAnswer(ctReplyTo(c.orig, c.reply, 7), 7)
		if err != nil || orig != c.orig || reply != c.reply {
			t.Errorf("%s, %s, %v: want %s, %s", orig, reply, err, c.orig, c.reply)
		}
		if wire := onWire(c.f, orig, reply); wire != c.want {
			t.Errorf("%s goes out as %s, want %s", c.f, wire, c.want)
		}
	}
	good := ctReplyTo(tcpFlow("10.0.0.1:5", "10.0.0.2:80"), tcpFlow("10.0.0.2:80", "10.0.0.1:5"), 7)
	if _, _, err := conntrackAnswer(good, 8); !errors.Is(err, errOther) {
		t.Errorf("the answer to another question: %v", err)
	}
	refusal := make([]byte, 36)
	binary.NativeEndian.PutUint32(refusal, 36)
	binary.NativeEndian.PutUint16(refusal[4:], 2)
	binary.NativeEndian.PutUint32(refusal[8:], 7)
	notFound := int32(-2)
	binary.NativeEndian.PutUint32(refusal[16:], uint32(notFound))
	var number errConntrack
	if _, _, err := conntrackAnswer(refusal, 7); !errors.As(err, &number) || number != 2 {
		t.Errorf("no such connection: %v", err)
	}
	for n := range good {
		if _, _, err := conntrackAnswer(good[:n], 7); err == nil {
			t.Errorf("%d of %d bytes pass", n, len(good))
		}
	}
}

func FuzzConntrackAnswer(f *testing.F) {
	f.Add(ctReplyTo(tcpFlow("10.0.0.1:5", "10.0.0.2:80"), tcpFlow("10.0.0.2:80", "10.0.0.1:5"), 7))
	f.Add(ctReplyTo(tcpFlow("[fd00::1]:5", "[fd00::2]:80"), tcpFlow("[fd00::2]:80", "[fd00::1]:5"), 7))
	f.Fuzz(func(t *testing.T, b []byte) {
		orig, reply, err := conntrackAnswer(b, 7)
		if err == nil && (!orig.Src.IsValid() || !reply.Dst.IsValid()) {
			t.Errorf("%s, %s", orig, reply)
		}
	})
}

const ipvsConnections = `Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData
TCP C0A80101 9C40 0A600001 01BB 0A000307 20FB ESTABLISHED     899
TCP C0A80101 9C41 0A600001 01BB 0A000308 01BB ESTABLISHED     899
TCP C0A80101 9C42 0A600001 01BB 0A000309 01BB ESTABLISHED     899
TCP C0A80101 9C43 0A600001 01BB 0A00030A 01BB ESTABLISHED     899
UDP C0A80101 9C40 0A600001 01BB 0A00030B 01BB UDP             299
TCP C0A80101 9C44 0A600002 1F90 0A00030C 1F90 ESTABLISHED     899
TCP C0A80101 9C45 0A600003 1F90 0A00030D 1F90 ESTABLISHED     899
TCP fd00:0000:0000:0000:0000:0000:0000:0001 9C40 fd00:0000:0000:0000:0000:0000:0000:0096 0050 fd00:0000:0000:0000:0000:0000:0000:0003 1F90 ESTABLISHED 899
broken line
TCP zz 9C40
`

const ipvsServices = `IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  0A600001:01BB rr
  -> 0A000307:20FB      Masq    1      1          0
  -> 0A000308:01BB      Route   1      1          0
  -> 0A000309:01BB      Tunnel  1      1          0
UDP  0A600001:01BB rr
  -> 0A00030A:01BB      Masq    1      1          0
TCP  [fd00:0000:0000:0000:0000:0000:0000:0096]:0050 rr
  -> [fd00:0000:0000:0000:0000:0000:0000:0003]:1F90      Masq    1      1          0
TCP  0A600002:0000 rr persistent 360
  -> 0A00030C:0000      Masq    1      1          0
`

const ipvsMarked = ipvsServices + `FWM  00000001 rr
  -> 0A00030D:1F90      Masq    1      1          0
`

func ipvsOf(files map[string]string) ipvs {
	return ipvs{open: func(name string) (io.ReadCloser, error) {
		text, ok := files[name]
		if !ok {
			return nil, fs.ErrNotExist
		}
		return io.NopCloser(strings.NewReader(text)), nil
	}}
}

func TestIPVS(t *testing.T) {
	v := ipvsOf(map[string]string{"ip_vs_conn": ipvsConnections, "ip_vs": ipvsServices})
	for _, c := range []struct{ flow, want packet.Flow }{
		{tcpFlow("192.168.1.1:40000", "10.96.0.1:443"), tcpFlow("192.168.1.1:40000", "10.0.3.7:8443")},
		{tcpFlow("192.168.1.1:40001", "10.96.0.1:443"), tcpFlow("192.168.1.1:40001", "10.96.0.1:443")}, // same packet, other next hop
		{tcpFlow("192.168.1.1:40009", "10.96.0.1:443"), tcpFlow("192.168.1.1:40009", "10.96.0.1:443")}, // not its business
		{tcpFlow("[fd00::1]:40000", "[fd00::96]:80"), tcpFlow("[fd00::1]:40000", "[fd00::3]:8080")},
		{tcpFlow("192.168.1.1:40004", "10.96.0.2:8080"), tcpFlow("192.168.1.1:40004", "10.0.3.12:8080")}, // a service of all ports
	} {
		if got, err := v.Translate(t.Context(), c.flow); err != nil || got != c.want {
			t.Errorf("%s: %s, %v; want %s", c.flow, got, err, c.want)
		}
	}
	for port, reason := range map[string]string{"40002": ReasonTunnel, "40003": ReasonUnknown} {
		if _, err := v.Translate(t.Context(), tcpFlow("192.168.1.1:"+port, "10.96.0.1:443")); reasonOf(err) != reason {
			t.Errorf("port %s: %v", port, err)
		}
	}
	marked := tcpFlow("192.168.1.1:40005", "10.96.0.3:8080")
	if got, err := ipvsOf(map[string]string{"ip_vs_conn": ipvsConnections, "ip_vs": ipvsMarked}).Translate(t.Context(), marked); err != nil || got.Dst.String() != "10.0.3.13:8080" {
		t.Errorf("by firewall mark: %s, %v", got, err)
	}
	// A service's own word on how a server is reached counts, wherever it stands.
	for name, services := range map[string]string{
		"before": "TCP 0A600001:01BB rr\n-> 0A000307:20FB Masq\nFWM 00000001 rr\n-> 0A000307:20FB Route\nTCP 0A600001:0000 rr\n-> 0A000307:20FB Tunnel\n",
		"after":  "FWM 00000001 rr\n-> 0A000307:20FB Route\nTCP 0A600001:0000 rr\n-> 0A000307:20FB Tunnel\nTCP 0A600001:01BB rr\n-> 0A000307:20FB Masq\n",
	} {
		f := tcpFlow("192.168.1.1:40000", "10.96.0.1:443")
		if got, err := ipvsOf(map[string]string{"ip_vs_conn": ipvsConnections, "ip_vs": services}).Translate(t.Context(), f); err != nil || got.Dst.String() != "10.0.3.7:8443" {
			t.Errorf("its own service %s others: %s, %v", name, got, err)
		}
	}
	// A flow to no service of its costs no look at all connections.
	without := ipvs{open: func(name string) (io.ReadCloser, error) {
		if name == "ip_vs_conn" {
			t.Error("the connections are read")
		}
		return v.open(name)
	}}
	if got, err := without.Translate(t.Context(), marked); err != nil || got != marked {
		t.Errorf("no service: %s, %v", got, err)
	}
	if got, err := ipvsOf(nil).Translate(t.Context(), tcpFlow("192.168.1.1:40000", "10.96.0.1:443")); err != nil || got.Dst.Port() != 443 {
		t.Errorf("unloaded: %s, %v", got, err)
	}
}

func FuzzIPVS(f *testing.F) {
	f.Add(ipvsConnections, ipvsServices)
	flow := tcpFlow("192.168.1.1:40000", "10.96.0.1:443")
	f.Fuzz(func(t *testing.T, connections, services string) {
		got, err := ipvsOf(map[string]string{"ip_vs_conn": connections, "ip_vs": services}).Translate(t.Context(), flow)
		if err == nil && (got.Src != flow.Src || !got.Dst.IsValid()) {
			t.Errorf("%s", got)
		}
	})
}

// serveBalancer starts a load balancer and gives one that asks it.
func serveBalancer(t *testing.T, change func(*BalancerConfig), answer http.HandlerFunc) *balancer {
	t.Helper()
	s := httptest.NewServer(answer)
	t.Cleanup(s.Close)
	cfg := DefaultBalancer()
	cfg.URL, cfg.Client = s.URL+"/connections?pool=a", s.Client()
	cfg.Networks = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}
	if change != nil {
		change(&cfg)
	}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	return newBalancer(cfg)
}

func TestBalancerAnswers(t *testing.T) {
	flow := tcpFlow("192.168.1.1:40000", "10.96.0.1:443")
	for name, c := range map[string]struct {
		status int
		body   string
		want   packet.Flow
		reason string
	}{
		"destination":         {200, `{"dst":"10.0.3.7","dst_port":8443}`, tcpFlow("192.168.1.1:40000", "10.0.3.7:8443"), ""},
		"both ends":           {200, `{"src":"192.0.2.1","src_port":1024,"dst":"10.0.3.7","x":1}`, tcpFlow("192.0.2.1:1024", "10.0.3.7:443"), ""},
		"nothing changed":     {200, `{}`, flow, ""},
		"unknown connection":  {404, `{"error":"no such connection"}`, flow, ReasonUnknown},
		"broken balancer":     {500, `oops`, flow, ReasonAnswer},
		"no JSON":             {200, `<html>`, flow, ReasonAnswer},
		"no address":          {200, `{"dst":"backend-7"}`, flow, ReasonAnswer},
		"port of five digits": {200, `{"dst_port":65536}`, flow, ReasonAnswer},
		"port 0":              {200, `{"dst_port":0}`, flow, ReasonAnswer},
		"endless":             {200, strings.Repeat(" ", maxBalancerAnswer) + `{}`, flow, ReasonAnswer},
	} {
		t.Run(name, func(t *testing.T) {
			b := serveBalancer(t, nil, func(w http.ResponseWriter, r *http.Request) {
				q := r.URL.Query()
				if q.Get("pool") != "a" || q.Get("src") != "192.168.1.1" || q.Get("src_port") != "40000" || q.Get("dst") != "10.96.0.1" || q.Get("dst_port") != "443" || q.Get("protocol") != "tcp" {
					t.Errorf("asked %s", r.URL)
				}
				w.WriteHeader(c.status)
				io.WriteString(w, c.body)
			})
			got, err := b.Translate(t.Context(), flow)
			if got != c.want || (err != nil) != (c.reason != "") || err != nil && reasonOf(err) != c.reason {
				t.Errorf("%s, %v; want %s, %q", got, err, c.want, c.reason)
			}
		})
	}
}

func TestBalancerIsAskedLittle(t *testing.T) {
	var asked atomic.Int64
	b := serveBalancer(t, func(c *BalancerConfig) { c.MaxCached = 2 }, func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		io.WriteString(w, `{"dst":"10.0.3.7"}`)
	})
	now := time.Unix(0, 0)
	b.now = func() time.Time { return now }
	ask := func(src string) {
		t.Helper()
		if _, err := b.Translate(t.Context(), tcpFlow(src, "10.96.0.1:443")); err != nil {
			t.Error(err)
		}
	}
	ask("192.168.1.1:1")
	ask("192.168.1.1:1")
	if n := asked.Load(); n != 1 {
		t.Errorf("asked %d times for one flow", n)
	}
	if got, err := b.Translate(t.Context(), tcpFlow("192.168.1.1:1", "10.0.0.1:443")); err != nil || got.Dst.Addr() != netip.MustParseAddr("10.0.0.1") || asked.Load() != 1 {
		t.Errorf("asked about an address that is none of its own: %s, %v", got, err)
	}
	now = now.Add(b.cfg.Keep)
	ask("192.168.1.1:1")
	ask("192.168.1.1:2")
	ask("192.168.1.1:3")
	ask("192.168.1.1:1") // pushed out by the others
	if n := asked.Load(); n != 5 || len(b.known) != 2 || b.order.Len() != 2 {
		t.Errorf("asked %d times, %d known", n, len(b.known))
	}
}

func TestBalancerThatIsSlow(t *testing.T) {
	release := make(chan struct{})
	b := serveBalancer(t, func(c *BalancerConfig) { c.Timeout, c.MaxAsking = 20*time.Millisecond, 1 }, func(http.ResponseWriter, *http.Request) { <-release })
	defer close(release)
	flow := tcpFlow("192.168.1.1:1", "10.96.0.1:443")
	if _, err := b.Translate(t.Context(), flow); reasonOf(err) != ReasonTimeout {
		t.Error(err)
	}
	b.asking <- struct{}{} // a question is under way
	if _, err := b.Translate(t.Context(), tcpFlow("192.168.1.1:2", "10.96.0.1:443")); reasonOf(err) != ReasonTimeout || !strings.Contains(err.Error(), "under way already") {
		t.Error(err)
	}
	if _, err := b.Translate(t.Context(), flow); reasonOf(err) != ReasonTimeout || strings.Contains(err.Error(), "under way") {
		t.Errorf("a failure is asked for again at once: %v", err)
	}
}

func TestBalancerConfig(t *testing.T) {
	good := DefaultBalancer()
	good.URL, good.Networks = "https://lb.example/x", []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for want, change := range map[string]func(*BalancerConfig){
		"want http://":        func(c *BalancerConfig) { c.URL = "lb.example" },
		"name those":          func(c *BalancerConfig) { c.Networks = nil },
		"balancer timeout 0s": func(c *BalancerConfig) { c.Timeout = 0 },
		"cached 0":            func(c *BalancerConfig) { c.MaxCached = 0 },
	} {
		c := good
		change(&c)
		cfg := DefaultConfig()
		cfg.Translate.Balancer = &c
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// rewriter is a Translator of a test.
type rewriter func(packet.Flow) (packet.Flow, error)

func (r rewriter) Translate(_ context.Context, f packet.Flow) (packet.Flow, error) { return r(f) }

func TestTranslatorsFollowEachOther(t *testing.T) {
	to := func(dst string) rewriter {
		return func(f packet.Flow) (packet.Flow, error) { f.Dst = netip.MustParseAddrPort(dst); return f, nil }
	}
	flow := tcpFlow("192.168.1.1:1", "10.96.0.1:443")
	got, err := translators{to("10.97.0.1:1"), to("10.98.0.1:2")}.resolve(t.Context(), flow)
	if err != nil || got.Dst.String() != "10.98.0.1:2" {
		t.Errorf("%s, %v", got, err)
	}
	if got, err := (translators)(nil).resolve(t.Context(), flow); err != nil || got != flow {
		t.Errorf("%s, %v", got, err)
	}
	fails := rewriter(func(f packet.Flow) (packet.Flow, error) { return f, fmt.Errorf("x: %w", context.DeadlineExceeded) })
	if _, err := (translators{fails}).resolve(t.Context(), flow); reasonOf(err) != ReasonTimeout || !strings.Contains(err.Error(), flow.String()) {
		t.Error(err)
	}
	if _, err := (translators{to("[fd00::1]:1")}).resolve(t.Context(), flow); reasonOf(err) != ReasonAnswer {
		t.Errorf("another address family: %v", err)
	}
}
