package device

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"decaf/api/packet"

	"github.com/VictoriaMetrics/metrics"
	"github.com/google/nftables"
)

// sendTo sends a packet from h1 through the router; port is its source's.
func (l *lab) sendTo(dst string, port uint16, ttl uint8) packet.Flow {
	l.h1.t.Helper()
	p := packet.Probe{Flow: packet.Flow{Src: addrPort(fmt.Sprintf("10.0.1.2:%d", port)), Dst: addrPort(dst), Proto: packet.TCP}, TTL: ttl, Seq: uint32(port), ID: port}
	b, err := p.Marshal(nil)
	l.h1.must("probe", err)
	l.h1.sendRaw(b)
	return p.Flow
}

// What both the kernel and the firewall's log tell of is one event, with the
// rule's prefix for its reason and the kernel's word for where.
func TestRuleNamesTheKernelsDrop(t *testing.T) {
	l := newLab(t)
	l.r.portRule(nftables.ChainHookForward, 7001, logged(12, "acl-12: "), dropped)
	l.r.portRule(nftables.ChainHookForward, 7002, logged(12, "rate-5"), dropped)
	l.r.portRule(nftables.ChainHookForward, 7003, dropped) // no log
	l.r.portRule(nftables.ChainHookPrerouting, 7004, logged(12, "seen"))
	cfg := testConfig()
	cfg.NFLOG = NFLOGConfig{Groups: []uint16{12}, Classes: []NFLOGClass{{"rate-", PolicyL3Policer}}}
	a := startAgent(t, l.r, cfg)
	events := watch(t, dial(t, l.r, a, nil))

	type about struct{ class, reason, source, function string }
	want := map[packet.Flow]about{}
	const each = 20
	for i := range uint16(each) {
		want[l.sendTo("10.0.2.2:7001", 40000+i, 9)] = about{PolicyL3ACL, "acl-12", "nflog", "nft_do_chain"}
		want[l.sendTo("10.0.2.2:7002", 41000+i, 9)] = about{PolicyL3Policer, "rate-5", "nflog", "nft_do_chain"}
		want[l.sendTo("10.0.2.2:7003", 42000+i, 9)] = about{PolicyL3ACL, netfilterDrop, "kernel", "nft_do_chain"}
		// Logged and accepted, then dropped for something else.
		want[l.sendTo("10.0.2.2:7004", 43000+i, 1)] = about{ErrorsL3RxTTL, "IP_INHDR", "kernel", "ip_forward"}
	}
	times := map[packet.Flow]int{}
	last := l.sendTo("10.0.2.2:7003", 50000, 9)
	for ev := range events {
		f, err := packet.FlowFromPB(ev.GetPacket().GetFlow())
		if err != nil {
			continue
		}
		if w, ours := want[f]; ours {
			times[f]++
			if got := (about{ev.Class, ev.Reason, ev.Source, ev.Function}); got != w {
				t.Errorf("%v: %+v, want %+v", f, got, w)
			}
			if ev.Ingress != "eth1" || ev.Egress != "eth2" {
				t.Errorf("%v: in %q, out %q", f, ev.Ingress, ev.Egress)
			}
		}
		if f == last {
			break
		}
	}
	for f := range want {
		if times[f] != 1 {
			t.Errorf("%v: %d events", f, times[f])
		}
	}
	counted := map[string]uint64{}
	for _, c := range a.ledger.totals().classes {
		counted[c.Name] = c.Packets
	}
	if counted[PolicyL3Policer] != each || counted[PolicyL3ACL] != 2*each+1 || counted[ErrorsL3RxTTL] != each {
		t.Errorf("counted %v", counted)
	}
	if s := a.State(); s.EventSource != "tp_btf+nflog+counters+routes" || s.EventsLost != 0 {
		t.Errorf("%+v", s)
	}
	// What is left is the log of what was let through.
	if named, alone, crowded := a.sources.names.counts(time.Now().Add(time.Minute)); named != 2*each || alone != each || crowded != 0 {
		t.Errorf("%d named, %d alone, %d crowded; want %d, %d, 0", named, alone, crowded, 2*each, each)
	}
	var out bytes.Buffer
	set := metrics.NewSet()
	a.Describe(set)
	set.WritePrometheus(&out)
	if want := fmt.Sprintf("decaf_device_nflog_named{device=\"r\"} %d\n", 2*each); !strings.Contains(out.String(), want) {
		t.Errorf("no %s in\n%s", want, out.String())
	}
}

// Without the kernel source what is logged is what was dropped.
func TestRulesAlone(t *testing.T) {
	l := newLab(t)
	l.r.portRule(nftables.ChainHookForward, 7001, logged(12, "acl-12"), dropped)
	cfg := testConfig()
	cfg.Kernel, cfg.NFLOG.Groups, cfg.Counters.Interval, cfg.Routes.Window = false, []uint16{12}, 0, 0
	a := startAgent(t, l.r, cfg)
	events := watch(t, dial(t, l.r, a, nil))
	ev := next(t, events, l.sendTo("10.0.2.2:7001", 40000, 9))
	if ev.Class != PolicyL3ACL || ev.Reason != "acl-12" || ev.Source != "nflog" || ev.Function != "" || ev.Ingress != "eth1" || ev.Egress != "eth2" {
		t.Errorf("%v", ev)
	}
	if s := a.State(); s.EventSource != "nflog" || s.Events != 1 {
		t.Errorf("%+v", s)
	}
}

// A group that another program reads: the log says why, and the kernel's drops
// are told of all the same.
func TestKernelWithoutRules(t *testing.T) {
	l := newLab(t)
	l.r.readNFLOG(NFLOGConfig{Groups: []uint16{12}})
	l.r.portRule(nftables.ChainHookForward, 7001, logged(12, "acl-12"), dropped)
	cfg := testConfig()
	cfg.NFLOG.Groups = []uint16{12}
	a := startAgent(t, l.r, cfg)
	events := watch(t, dial(t, l.r, a, nil))
	if ev := next(t, events, l.sendTo("10.0.2.2:7001", 40000, 9)); ev.Reason != netfilterDrop || ev.Source != "kernel" {
		t.Errorf("%v", ev)
	}
	if s := a.State(); s.EventSource != "tp_btf+counters+routes" {
		t.Errorf("%+v", s)
	}
	var log bytes.Buffer
	cfg.Kernel, cfg.Counters.Interval = false, 0
	l.r.must("alone", l.r.do(func() error {
		_, err := openSources(&cfg, nil, slog.New(slog.NewTextHandler(&log, nil)))
		if err == nil || !strings.Contains(err.Error(), "no drops can be seen") || !strings.Contains(err.Error(), "another program reads this group") {
			t.Errorf("with no source left: %v", err)
		}
		return nil
	}))
	l.r.must("beside", l.r.do(func() error {
		cfg.Kernel = true
		s, err := openSources(&cfg, nil, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			return err
		}
		s.close()
		return nil
	}))
	if !strings.Contains(log.String(), "does not run") || !strings.Contains(log.String(), "another program reads this group") {
		t.Errorf("the log does not say why:\n%s", log.String())
	}
}
