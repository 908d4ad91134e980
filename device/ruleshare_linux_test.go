package device

import (
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// TestFloodOfARule: what the kernel program holds back of a flood is of the class of
// the rule that dropped it: to the packet where one rule drops, and where several
// do and count, but for what came up as records and may have been on its way when the
// last was held back; in the aggregates too.
func TestFloodOfARule(t *testing.T) {
	const each = 4000
	for _, tc := range []struct {
		name   string
		count  bool
		floods map[uint16]int // by port, in turn
	}{
		{"one rule, which does not count", false, map[uint16]int{7001: 5}},
		{"three that count", true, map[uint16]int{7001: 3, 7002: 1, 7003: 2}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := newLab(t)
			l.withoutIPv6()
			truth := map[string]func() uint64{}
			for port, rule := range map[uint16][2]string{7001: {"rate-5", PolicyL3Policer}, 7002: {"guard", PolicyL3DDoS}, 7003: {"", PolicyL3ACL}} {
				var then []expr.Any
				if tc.count {
					then = append(then, &expr.Counter{})
				}
				if rule[0] != "" {
					then = append(then, logged(12, rule[0]))
				}
				if count := l.r.portRule(nftables.ChainHookForward, port, append(then, dropped)...); tc.count {
					truth[rule[1]] = count
				}
			}
			cfg := testConfig()
			cfg.NFLOG = NFLOGConfig{Groups: []uint16{12}, Classes: []NFLOGClass{{"rate-", PolicyL3Policer}, {"guard", PolicyL3DDoS}}}
			cfg.Report.Threshold, cfg.Report.Interval = 100, 200*time.Millisecond
			cfg.Fuse.Events, cfg.Fuse.Queue = 1e9, 1
			a := startAgent(t, l.r, cfg)
			told := sumAggregates(t, dial(t, l.r, a, nil))
			f := frames{from: l.h1.link("eth0").Attrs().HardwareAddr, to: l.r.link("eth1").Attrs().HardwareAddr}
			list, sent := [][]byte{}, uint64(0)
			for port, times := range tc.floods {
				sent += uint64(times * each)
				for range times {
					list = append(list, f.udp4("10.0.1.2", "10.0.2.2", 9, 60, port, func(ip []byte) { ip[22], ip[23] = byte(port>>8), byte(port) }, nil))
				}
			}
			l.h1.sendFrames("eth0", int(sent), func(i int) []byte { return list[i%len(list)] })
			// But for what the machine had no room for on the way in: none, most times.
			total := func() uint64 { return sent - l.r.link("eth1").Attrs().Statistics.RxDropped }
			want := func() map[string]uint64 {
				if !tc.count {
					return map[string]uint64{PolicyL3Policer: total()}
				}
				out := map[string]uint64{}
				for class, count := range truth {
					out[class] = count()
				}
				return out
			}
			counted := func() map[string]uint64 {
				out := map[string]uint64{}
				for _, c := range a.ledger.totals().classes {
					if c.Packets > 0 && c.Name != NoBuffer {
						out[c.Name] = c.Packets
					}
				}
				return out
			}
			all := func() (n uint64) {
				for _, packets := range counted() {
					n += packets
				}
				return n
			}
			within(5*time.Second, func() bool { return all() == total() })
			got := counted()
			if all() != total() || len(got) != len(want()) {
				t.Errorf("counted %v, %d in all; want %v, %d", got, all(), want(), total())
			}
			held, near := a.sources.kernel.(*kernel).tenant.count(countHeld), uint64(0)
			if tc.count {
				near = sent - held
			}
			for class, n := range want() {
				if max(got[class], n)-min(got[class], n) > near {
					t.Errorf("%s: counted %d, want %d", class, got[class], n)
				}
				within(5*time.Second, func() bool { return told.of(class) == got[class] })
				if told := told.of(class); told != got[class] {
					t.Errorf("%s: aggregates tell of %d, want %d", class, told, got[class])
				}
			}
			unknown, crowded := a.sources.shares.counts()
			named, _, _ := a.sources.names.counts(time.Now())
			t.Logf("%v: %d of %d held back, %d named by their logs; %d unknown, %d crowded", counted(), held, sent, named, unknown, crowded)
			if held < sent/2 || crowded != 0 {
				t.Errorf("%d of %d held back, %d crowded", held, sent, crowded)
			}
		})
	}
}
