package device

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// with adds to counters of a reading.
func (p portReading) with(values map[counter]uint64) portReading {
	for c, v := range values {
		p.counts[c] += v
	}
	return p
}

// readAll takes in readings a second apart, and returns what is told by then: where
// the kernel tells of drops, too, the agent has heard it up to the reading before.
func readAll(r *rises, now ...portReading) []rise {
	at := time.Unix(int64(r.readings)+1, 0)
	r.read(at, now)
	if r.kernel {
		at = at.Add(-time.Second)
	}
	out := r.settle(at)
	for i := range out {
		out[i].at, out[i].name = time.Time{}, ""
	}
	return out
}

func TestRisesByClass(t *testing.T) {
	eth := portReading{index: 3, name: "eth0", queues: []queueReading{{handle: 0x80010000, parent: queueRoot, kind: "tbf", drops: 100}}}
	for name, tc := range map[string]struct {
		values map[counter]uint64
		drops  uint32
		want   []rise
	}{
		"nothing": {},
		"crc": {map[counter]uint64{rxErrors: 3, rxCRC: 3}, 0,
			[]rise{{class: ErrorsL2RxCRC, reason: "rx_crc_errors", index: 3, ingress: true, packets: 3}}},
		"frame and length": {map[counter]uint64{rxErrors: 5, rxFrame: 2, rxLength: 3}, 0, []rise{
			{class: ErrorsL2RxFrame, reason: "rx_length_errors", index: 3, ingress: true, packets: 3},
			{class: ErrorsL2RxFrame, reason: "rx_frame_errors", index: 3, ingress: true, packets: 2}}},
		"errors beside those": {map[counter]uint64{rxErrors: 5, rxCRC: 2}, 0, []rise{
			{class: "errors/l2/rx", reason: "rx_errors", index: 3, ingress: true, packets: 3},
			{class: ErrorsL2RxCRC, reason: "rx_crc_errors", index: 3, ingress: true, packets: 2}}},
		"a driver that counts a missed packet everywhere": {map[counter]uint64{rxErrors: 4, rxFIFO: 4, rxOver: 4, rxMissed: 4}, 0,
			[]rise{{class: NoBuffer, reason: "rx_missed_errors", index: 3, ingress: true, packets: 4}}},
		"received and dropped": {map[counter]uint64{rxDropped: 7}, 0,
			[]rise{{class: Unknown, reason: "rx_dropped", index: 3, ingress: true, packets: 7}}},
		"sending": {map[counter]uint64{txErrors: 1, txDropped: 2}, 0, []rise{
			{class: NoBuffer, reason: "tx_dropped", index: 3, packets: 2},
			{class: ErrorsL2Tx, reason: "tx_errors", index: 3, packets: 1}}},
		"queue": {nil, 9, []rise{{class: NoBuffer, reason: "tbf_drops", index: 3, packets: 9}}},
	} {
		r := newRises(false, 10)
		if got := readAll(r, eth); got != nil {
			t.Fatalf("%s: the first reading says %v", name, got)
		}
		next := eth.with(tc.values)
		next.queues = []queueReading{{handle: 0x80010000, parent: queueRoot, kind: "tbf", drops: 100 + tc.drops}}
		if got := readAll(r, next); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %+v, want %+v", name, got, tc.want)
		}
		if got := readAll(r, next); got != nil {
			t.Errorf("%s: told twice: %+v", name, got)
		}
	}
}

// Every class of the table is one, and every part has a side of an interface.
func TestPartsTable(t *testing.T) {
	reasons := map[string]bool{}
	for _, p := range parts {
		if p.class != "errors/l2/rx" && !slices.Contains(Classes(), p.class) {
			t.Errorf("%s: %q is no class", p.reason, p.class)
		}
		if p.side != receiving && p.side != sending || p.of == nil || reasons[p.reason] {
			t.Errorf("%+v", p)
		}
		reasons[p.reason] = true
	}
	for reason := range queueReasons {
		if v := newClassifier(rules).classify(reason, "", 0); v.class != NoBuffer {
			t.Errorf("%s counts as a queue's and is of class %q", reason, v.class)
		}
	}
}

// With the kernel telling of drops too, a packet that both count is told of once,
// whichever comes first, and one that only a counter has is told of.
func TestRisesOnlyOnce(t *testing.T) {
	q := func(drops uint32) portReading {
		return portReading{index: 3, name: "eth0", queues: []queueReading{{handle: 1 << 16, parent: queueRoot, kind: "pfifo", drops: drops}}}
	}
	type step struct {
		drops     uint32 // of the queue, as read
		explained uint64 // by the kernel since the last reading
		want      uint64
	}
	for name, steps := range map[string][]step{
		"the kernel tells at once":               {{0, 0, 0}, {10, 10, 0}, {10, 0, 0}, {10, 0, 0}},
		"it tells late":                          {{0, 0, 0}, {10, 0, 0}, {10, 10, 0}, {10, 0, 0}},
		"it tells before the reading":            {{0, 0, 0}, {0, 4, 0}, {10, 6, 0}, {10, 0, 0}},
		"some before and some after":             {{0, 0, 0}, {5, 5, 0}, {10, 3, 0}, {12, 4, 0}, {12, 0, 0}, {12, 0, 0}},
		"the hardware dropped":                   {{0, 0, 0}, {10, 0, 0}, {10, 0, 10}, {10, 0, 0}},
		"both did":                               {{0, 0, 0}, {10, 7, 0}, {10, 0, 3}, {10, 0, 0}},
		"the kernel tells of what is no queue's": {{0, 0, 0}, {0, 50, 0}, {0, 0, 0}, {0, 0, 0}, {10, 0, 0}, {10, 0, 10}},
		"the counter wraps":                      {{1<<32 - 4, 0, 0}, {6, 0, 0}, {6, 0, 10}},
		"the counter falls":                      {{1000, 0, 0}, {3, 0, 0}, {3, 0, 0}, {5, 0, 0}, {5, 0, 2}},
	} {
		r := newRises(true, 10)
		for i, s := range steps {
			r.explain(queueing, 3, s.explained, 0)
			var got uint64
			for _, x := range readAll(r, q(s.drops)) {
				got += x.packets
			}
			if got != s.want {
				t.Errorf("%s: reading %d tells of %d packets, want %d", name, i, got, s.want)
			}
		}
	}
}

// While the agent has not heard what the kernel had to say nothing is told, however
// long that takes; what comes then is held against all.
func TestRisesWaitForTheKernel(t *testing.T) {
	q := func(drops uint32) []portReading {
		return []portReading{{index: 3, name: "eth0", queues: []queueReading{{handle: 1 << 16, parent: queueRoot, kind: "pfifo", drops: drops}}}}
	}
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	r := newRises(true, 10)
	r.read(at(0), q(0))
	for i := 1; i <= 3*maxWaiting; i++ {
		r.read(at(i), q(uint32(10*i)))
		if got := r.settle(at(0)); got != nil {
			t.Fatalf("reading %d: %+v", i, got)
		}
	}
	if len(r.waiting) != maxWaiting {
		t.Errorf("%d readings wait", len(r.waiting))
	}
	r.explain(queueing, 3, 30*maxWaiting-5, 0) // all but five
	got := r.settle(at(3 * maxWaiting))
	if len(got) != 1 || got[0].packets != 5 || !got[0].at.Equal(at(3*maxWaiting)) || got[0].name != "eth0" || len(r.waiting) != 0 {
		t.Errorf("%+v", got)
	}
}

// What a veth could not send its other end had no room for, and that end's kernel
// says so; without the kernel's word it is told of.
func TestRisesOfAVeth(t *testing.T) {
	for kernel, want := range map[bool]int{true: 0, false: 1} {
		r := newRises(kernel, 10)
		p := portReading{index: 3, kind: "veth"}
		readAll(r, p)
		p = p.with(map[counter]uint64{txDropped: 4})
		got := append(readAll(r, p), readAll(r, p)...)
		if len(got) != want {
			t.Errorf("kernel %v: %+v", kernel, got)
		}
	}
}

// A drop that no rule knows is of the side that it was on: the driver's.
func TestCountedOn(t *testing.T) {
	for _, tc := range []struct {
		reason, function, class string
		in, out                 uint32
		side                    side
		index                   uint32
	}{
		{"QDISC_DROP", "", NoBuffer, 2, 3, queueing, 3},
		{"FQ_FLOW_LIMIT", "", NoBuffer, 0, 3, queueing, 3},
		{"TC_INGRESS", "", PolicyL3ACL, 2, 0, filtering, 2},
		{"TC_EGRESS", "", PolicyL3ACL, 2, 3, filtering, 3},
		{"CPU_BACKLOG", "", NoBuffer, 2, 0, receiving, 2},
		{"UNHANDLED_PROTO", "", ErrorsL3RxInvalid, 2, 0, receiving, 2},
		{"NOT_SPECIFIED", "", Unknown, 2, 3, sending, 3},
		{"NOT_SPECIFIED", "", ErrorsL2Tx, 2, 3, sending, 3},
		{"NOT_SPECIFIED", "", Unknown, 2, 0, receiving, 2},
		{"NETFILTER_DROP", "", PolicyL3ACL, 2, 3, noSide, 0},
		{"IP_INHDR", "", ErrorsL3RxTTL, 2, 3, noSide, 0},
		{"IP_TUNNEL_ECN", "vxlan_rcv", ErrorsL3RxInvalid, 4, 0, receiving, 4},
		{"PKT_TOO_SMALL", "vxlan_rcv", ErrorsL3RxInvalid, 4, 0, receiving, 4},
		{"PKT_TOO_SMALL", "ip_rcv_core", ErrorsL3RxInvalid, 4, 0, noSide, 0},
		{"VXLAN_VNI_NOT_FOUND", "vxlan_rcv", ErrorsL3RxInvalid, 2, 0, noSide, 0},
		{"SOCKET_RCVBUFF", "", NoBuffer, 2, 0, noSide, 0},
	} {
		if s, i := countedOn(tc.reason, tc.function, tc.class, tc.in, tc.out); s != tc.side || i != tc.index {
			t.Errorf("%s %s: %d of %d", tc.reason, tc.class, s, i)
		}
	}
}

// Of many queues each is told of by itself; the classes of a discipline are in
// its own count; a filter's drops are a filter's.
func TestRisesOfQueues(t *testing.T) {
	queues := func(n uint32) []queueReading {
		return []queueReading{
			{handle: 0x10000, parent: queueRoot, kind: "mq", drops: 3 * n},
			{handle: 0, parent: 0x10001, kind: "fq_codel", drops: n},
			{handle: 0x20000, parent: 0x10002, kind: "htb", drops: 2 * n},
			{handle: 0x30000, parent: 0x20007, kind: "pfifo", drops: 2 * n},
			{handle: 0xffff0000, parent: queueIngress, kind: "clsact", drops: 5 * n},
		}
	}
	r := newRises(false, 10)
	readAll(r, portReading{index: 3, queues: queues(10)})
	got := readAll(r, portReading{index: 3, queues: queues(11)})
	want := []rise{
		{class: NoBuffer, reason: "fq_codel_drops", index: 3, queue: 0, packets: 1},
		{class: NoBuffer, reason: "htb_drops", index: 3, queue: 1, packets: 2},
		{class: PolicyL3ACL, reason: "clsact_drops", index: 3, ingress: true, packets: 5},
	}
	if !slices.Equal(got, want) {
		t.Errorf("%+v", got)
	}
	c := r.counters()
	if len(c) != 1 || c[0].OutDiscards != 33 || len(c[0].Queues) != 2 || c[0].Queues[1].Queue != 1 || c[0].Queues[1].DroppedPkts != 22 {
		t.Errorf("%+v", c)
	}
}

// Interfaces that come, go, are renamed, or are too many.
func TestRisesOfInterfaces(t *testing.T) {
	r := newRises(false, 2)
	a, b, c := portReading{index: 1, name: "a"}, portReading{index: 2, name: "b"}, portReading{index: 3, name: "c"}
	readAll(r, a, b.with(map[counter]uint64{rxCRC: 1000})) // b counted before we came
	if got := readAll(r, a, b.with(map[counter]uint64{rxCRC: 1000}), c); got != nil || r.leftOut != 1 {
		t.Errorf("%v, %d left out", got, r.leftOut)
	}
	// One list lacks b, as one may that changed while it was made.
	if got := readAll(r, a); got != nil {
		t.Errorf("%v", got)
	}
	if got := readAll(r, a, b.with(map[counter]uint64{rxCRC: 1004, rxErrors: 4})); len(got) != 1 || got[0].packets != 4 {
		t.Errorf("%v", got)
	}
	a.name = "uplink"
	readAll(r, a)
	if got := r.counters(); got[0].Name != "uplink" {
		t.Errorf("%+v", got)
	}
	for range forgetAfter {
		readAll(r, a)
	}
	if len(r.ports) != 1 {
		t.Errorf("%d interfaces", len(r.ports))
	}
	// b is back, anew: what it counts now is not of ours.
	if got := readAll(r, a, b.with(map[counter]uint64{rxCRC: 5000})); got != nil {
		t.Errorf("%v", got)
	}
}

func TestSourceSettings(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"":                    func(*Config) {},
		"counters: interval":  func(c *Config) { c.Counters.Interval = time.Millisecond },
		"routes: window":      func(c *Config) { c.Routes.Window = time.Millisecond },
		"routes: changes 1":   func(c *Config) { c.Routes.Changes = 1 },
		"routes: changes 101": func(c *Config) { c.Routes.Changes = 101 },
		"no source of drops":  func(c *Config) { c.Kernel, c.Counters.Interval = false, 0 },
	} {
		c := DefaultConfig()
		c.Name = "r"
		change(&c)
		err := c.Validate()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v", want, err)
		}
	}
	c := DefaultConfig()
	c.Name, c.Kernel, c.Counters.Interval, c.Routes.Window = "r", true, 0, 0
	if err := c.Validate(); err != nil {
		t.Errorf("both off: %v", err)
	}
	if s := c.of(SwitchConfig{Name: "s"}); s.Counters.Interval != 0 || s.Routes.Window != 0 {
		t.Errorf("a switch has counters of this machine: %+v", s)
	}
}
