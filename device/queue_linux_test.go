package device

import (
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// On an interface of several queues an event has the number of the one that was
// full, as the queues themselves count; of octets such an interface says nothing.
func TestEventOfAQueue(t *testing.T) {
	l := newLab(t)
	l.withoutIPv6()
	const queues = 4
	l.r.must("veth", l.r.nl.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "eth3", NumTxQueues: queues, NumRxQueues: queues}, PeerName: "eth3p",
	}))
	l.r.address("eth3", "10.0.3.1/24")
	l.r.up("eth3")
	l.r.up("eth3p")
	l.r.neighbourSet("eth3", "10.0.3.2")
	index := l.r.link("eth3").Attrs().Index
	root := netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(0x10, 0), Parent: netlink.HANDLE_ROOT}
	l.r.must("mq", l.r.nl.QdiscAdd(&netlink.GenericQdisc{QdiscAttrs: root, QdiscType: "mq"}))
	const rate = 8000 // bytes a second
	for q := range uint16(queues) {
		l.r.must("tbf", l.r.nl.QdiscAdd(&netlink.Tbf{
			QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(0x20+q, 0), Parent: netlink.MakeHandle(0x10, 1+q)},
			Rate:       rate, Limit: 3000, Buffer: netlink.Xmittime(rate, 1600),
		}))
	}
	cfg := testConfig()
	cfg.Counters.Interval = minInterval
	a := startAgent(t, l.r, cfg)
	events := watch(t, dial(t, l.r, a, nil))

	f := frames{from: l.h1.link("eth0").Attrs().HardwareAddr, to: l.r.link("eth1").Attrs().HardwareAddr}
	l.h1.sendFrames("eth0", 600, func(i int) []byte { return f.udp4("10.0.1.2", "10.0.3.2", 9, 300, uint16(i), nil, nil) })
	drops := func() (of [queues]uint64, all uint64) {
		list, err := l.r.nl.QdiscList(l.r.link("eth3"))
		l.r.must("queues", err)
		for _, q := range list {
			if at := q.Attrs(); at.Parent>>16 == 0x10 {
				of[at.Parent&0xffff-1] = uint64(at.Statistics.Queue.Drops)
				all += uint64(at.Statistics.Queue.Drops)
			}
		}
		return of, all
	}
	var told [queues]uint64
	var sum uint64
	deadline := time.After(10 * time.Second)
	for {
		of, all := drops()
		if all > 100 && sum == all {
			if told != of {
				t.Errorf("events by queue %v, the queues dropped %v", told, of)
			}
			break
		}
		select {
		case ev := <-events:
			if ev.Class != NoBuffer || ev.Egress != "eth3" || ev.Ingress != "eth1" || ev.Queue >= queues {
				t.Fatalf("%v", ev)
			}
			told[ev.Queue]++
			sum++
		case <-deadline:
			t.Fatalf("events by queue %v, the queues dropped %v", told, of)
		}
	}
	used := 0
	for _, n := range told {
		if n > 0 {
			used++
		}
	}
	if used < 2 {
		t.Errorf("all drops at one queue: %v", told)
	}
	c := a.Interfaces()
	i := slices.IndexFunc(c, func(c InterfaceCounters) bool { return c.Name == "eth3" })
	if i < 0 || len(c[i].Queues) != queues || slices.ContainsFunc(c[i].Queues, func(q QueueCounters) bool { return q.Octets }) {
		t.Errorf("%+v", c)
	}
}
