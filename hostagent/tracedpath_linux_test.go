package hostagent

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"decaf/api/decafpb"
)

// A destination that the topology does not have is traced no further than its
// last switch: how far that is its packets tell, of which the agent overhears the
// first. Of a connection older than the agent nothing is known, and two probes at
// most come as far as the host.
func TestNoProbeReachesAHostOutsideTheTopology(t *testing.T) {
	for _, to := range []string{addrB, addrB6} {
		t.Run(to, func(t *testing.T) {
			f := newLab(t).fanned(false)
			old := f.connect(to, false)
			tr := f.tracersFor(t, func(netip.Addr, netip.Addr) int { return 0 })
			rec, _, stop := f.watchWith(f.a, tr, func(c *Config) {})
			defer stop()
			r := f.retransmitOf(t, rec, old, kindTLP, kindRTO)
			if by := switchOn(t, r.GetPath()); by != f.goesBy(old) {
				t.Errorf("path over switch %d, and its packets go over the other", by)
			}
			if n := f.b.tcpCount(t, "InCsumErrors"); n > 2 {
				t.Errorf("%d probes of a connection of unknown distance came to the host", n)
			}

			before := f.b.tcpCount(t, "InErrs")
			p := f.connect(to, false)
			r = f.retransmitOf(t, rec, p, kindTLP, kindRTO)
			if path := r.GetPath(); path.GetStatus() != decafpb.PathStatus_PATH_STATUS_COMPLETE || path.GetDistance() != 2 {
				t.Errorf("path %v, want a complete one over 2 switches", path)
			}
			if n := f.b.tcpCount(t, "InErrs") - before; n != 0 {
				t.Errorf("%d probes came to the host", n)
			}
			if n := f.b.tcpCount(t, "OutRsts"); n != 0 {
				t.Errorf("%d resets", n)
			}
		})
	}
}

// Behind a firewall that drops what is no segment of a connection the agent's
// traces have the path all the same: it knows where the connection stands. What
// the first trace finds out the next ones know.
func TestTracesBehindAStatefulFirewall(t *testing.T) {
	for _, to := range []string{addrB, addrB6} {
		t.Run(to, func(t *testing.T) {
			f := newLab(t).fanned(false)
			f.connect(to, false) // the first SYN may be lost until neighbours are known
			f.mistrust()
			tr := f.tracersFor(t, func(netip.Addr, netip.Addr) int { return 2 })
			rec, _, stop := f.watchWith(f.a, tr, func(c *Config) {})
			defer stop()
			var first uint64
			const flows = 4
			for i := range flows {
				p := f.connect(to, false)
				r := f.retransmitOf(t, rec, p, kindTLP, kindRTO)
				path := r.GetPath()
				if path.GetStatus() != decafpb.PathStatus_PATH_STATUS_COMPLETE || switchOn(t, path) != f.goesBy(p) {
					t.Errorf("flow %d: path %v, want both switches that its packets pass", i, path)
				}
				// What was sent again was all that waited for an acknowledgement.
				if behind := r.GetTcpSeq() - path.GetProbeSeq(); behind == 0 || behind > 4096 {
					t.Errorf("flow %d: probes at sequence %d, the connection is at %d: want an old one", i, path.GetProbeSeq(), r.GetTcpSeq())
				}
				if i == 0 {
					first = tr.own.Stats().Plain
				}
			}
			s := tr.own.Stats() // a flow may be traced anew in another epoch
			if s.Traces < flows || s.PlainNeeded != 1 || first == 0 || s.Plain != first+s.Traces-1 || s.Probes-s.Resent != 2*s.Traces {
				t.Errorf("%+v: want one trace to find out, with %d probes of a right checksum, and one such probe for each after it", s, first)
			}
			for name, want := range map[string]uint64{"InErrs": 0, "OutRsts": 0} {
				if n := f.b.tcpCount(t, name); n != want {
					t.Errorf("%s of the other end: %d", name, n)
				}
			}
		})
	}
}

// Where routers go by the IPv6 flow label, the path is that of the label with
// which the packets were lost: a timeout has the kernel draw another, and what is
// sent from then on, and lost, goes another way.
func TestPathIsThatOfTheFlowLabel(t *testing.T) {
	for name, lateProbe := range map[string]string{"tail loss probe": "3", "timeout": "0"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newLab(t).fanned(true)
			if err := f.a.do(func() error { return os.WriteFile("/proc/sys/net/ipv4/tcp_early_retrans", []byte(lateProbe), 0o644) }); err != nil {
				t.Fatal(err)
			}
			tr := f.tracersFor(t, func(netip.Addr, netip.Addr) int { return 2 })
			rec, _, stop := f.watchWith(f.a, tr, func(c *Config) { c.Epoch = 1000 * time.Hour })
			defer stop()
			var flows [8]pair
			for i := range flows {
				flows[i] = f.connect(addrB6, false)
			}
			used, changed := map[int]bool{}, 0
			var before [len(flows)]int
			for round := range 3 {
				var ways [len(flows)]int
				for i, p := range flows {
					ways[i] = f.goesBy(p)
				}
				for i, r := range f.retransmitsOf(t, rec, flows[:], kindTLP, kindRTO) {
					path := r.GetPath()
					if s := path.GetStatus(); s != decafpb.PathStatus_PATH_STATUS_COMPLETE && s != decafpb.PathStatus_PATH_STATUS_CACHED {
						t.Errorf("path %v", path)
					}
					if at := switchOn(t, path); at != ways[i] {
						t.Errorf("flow %d: %v over switch %d, and its packets were lost on the way over %d", i, r.GetKind(), at, ways[i])
					}
					used[ways[i]] = true
					if round > 0 && before[i] != ways[i] {
						changed++
					}
				}
				before = ways
			}
			if len(used) != 2 {
				t.Errorf("all flows went one way: %v", used)
			}
			if name == "timeout" && changed == 0 {
				t.Error("no flow went another way after a timeout")
			}
		})
	}
}

// What an event says of the flow label is what is on the wire, whatever the
// namespace has labels made of.
func TestFlowLabelIsThatOfThePackets(t *testing.T) {
	for _, auto := range []int{0, 1, 2, 3} {
		for _, ranges := range []int{0, 1} {
			for _, given := range []uint32{0, 0x12345} {
				t.Run(fmt.Sprintf("auto_flowlabels=%d, ranges=%d, given %#x", auto, ranges, given), func(t *testing.T) {
					t.Parallel()
					l := newLab(t)
					if err := l.a.do(func() error {
						for file, value := range map[string]int{"auto_flowlabels": auto, "flowlabel_state_ranges": ranges, "flowlabel_consistency": 0} {
							if err := os.WriteFile("/proc/sys/net/ipv6/"+file, fmt.Append(nil, value), 0o644); err != nil {
								return err
							}
						}
						return nil
					}); err != nil {
						t.Fatal(err)
					}
					labels := newLabels()
					rec, _, stop := l.watchWith(l.a, labels, func(c *Config) {})
					defer stop()
					seen := l.sniff(t, l.a)
					p := l.connectLabelled(addrB6, given)
					loss := l.drop("eth1", longerThan(80)...)
					if _, err := p.client.Write(make([]byte, 100)); err != nil {
						t.Fatal(err)
					}
					rec.wait(t, "a retransmit", ofFlow(p.flow(), kindTLP, kindRTO))
					loss.remove()
					want := seen.label(t, p.flow())
					if got := labels.of(p.flow()); got != want {
						t.Errorf("label %#x, on the wire %#x", got, want)
					}
					if auto%2 == 1 && want == 0 || auto%2 == 0 && want != given || given != 0 && want != given {
						t.Errorf("label %#x on the wire: the test tests something else", want)
					}
				})
			}
		}
	}
}

// A socket that woke the reader a moment before does not again, unless its packets
// are lost with another flow label: then there is another path to trace.
func TestAnotherFlowLabelWakesTheReader(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	if err := l.a.do(func() error { return os.WriteFile("/proc/sys/net/ipv4/tcp_early_retrans", []byte("0"), 0o644) }); err != nil {
		t.Fatal(err)
	}
	k, err := openKernel(kernelOptions{netns: l.a.inum, ringBytes: 1 << 16}, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if err := k.follow(nil); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	events, over := make(chan event, 100), make(chan error, 1)
	go func() { over <- k.Run(ctx, func(e event) { events <- e }, func(err error) { t.Error(err) }) }()
	for _, to := range []string{addrB, addrB6} {
		p := l.connect(to, false)
		loss := l.drop("eth1", longerThan(80)...)
		if _, err := p.client.Write(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		var two []event
		for len(two) < 2 {
			select {
			case e := <-events:
				if e.what == whatRetransmit && e.flow() == p.flow() {
					two = append(two, e)
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("%d timeouts", len(two))
			}
		}
		loss.remove()
		again := time.Duration(two[1].monotonic-two[0].monotonic) >= askAgain
		if want := to == addrB && !again; two[0].quiet || two[1].quiet != want {
			t.Errorf("%s: quiet %v, then %v, %d ns later", to, two[0].quiet, two[1].quiet, two[1].monotonic-two[0].monotonic)
		}
		if another := two[0].label != two[1].label; another != (to == addrB6) {
			t.Errorf("%s: labels %#x and %#x", to, two[0].label, two[1].label)
		}
		if err := read(p.server, 100); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	if err := <-over; err != nil {
		t.Error(err)
	}
}
