package hostagent

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"decaf/api/decafpb"
	"decaf/api/packet"
)

// tableTest plays a script to a table. A step is words:
//
//	dump NOW                     a dump begins
//	end                          it ends, and with it the interval
//	news                         the same of a dump of sockets with news alone
//	live|closed COOKIE KEY=…     a sample: to (last byte of the destination),
//	                             opened, packets, bytes, retrans, state
//
// Bytes are a hundred times the packets unless given.
type tableTest struct {
	t     *testing.T
	table *flowTable
	out   []string // of all intervals
}

func (x *tableTest) play(script string) {
	x.t.Helper()
	for line := range strings.Lines(script) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		switch words[0] {
		case "dump":
			var now uint64
			fmt.Sscan(words[1], &now)
			x.table.beginDump(now)
		case "end":
			x.table.endDump(dumpAll)
			x.out = append(x.out, x.take())
		case "news":
			x.table.endDump(dumpChanged)
			x.out = append(x.out, x.take())
		case "live":
			x.table.live(x.sample(words[1:]))
		case "closed":
			x.table.closed(x.sample(words[1:]))
		default:
			x.t.Fatalf("no such step: %s", line)
		}
	}
}

func (x *tableTest) sample(words []string) *flowSample {
	x.t.Helper()
	s := &flowSample{src: netip.MustParseAddrPort("10.0.0.1:1"), dst: netip.MustParseAddrPort("10.0.0.2:2"), state: tcpEstablished}
	fmt.Sscan(words[0], &s.cookie)
	bytes := false
	for _, w := range words[1:] {
		key, value, _ := strings.Cut(w, "=")
		var n uint64
		if _, err := fmt.Sscan(value, &n); err != nil {
			x.t.Fatalf("%s: %v", w, err)
		}
		switch key {
		case "to":
			s.dst = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}), 2)
		case "opened":
			s.opened = n
		case "packets":
			s.packets = uint32(n)
		case "bytes":
			s.bytes, bytes = n, true
		case "retrans":
			s.retransmits = uint32(n)
		case "state":
			s.state = uint8(n)
		default:
			x.t.Fatalf("no such key: %s", w)
		}
	}
	if !bytes {
		s.bytes = uint64(s.packets) * 100
	}
	return s
}

// take shows an interval: "2: 1 flow 10 packets 1000 bytes" for rows by
// destination, "2 lossy …" for flows of their own.
func (x *tableTest) take() string {
	x.t.Helper()
	var parts []string
	x.table.take(5, 7, func(r *decafpb.FlowRecord) {
		if r.StartNs != 5 || r.EndNs != 7 {
			x.t.Errorf("interval %d to %d", r.StartNs, r.EndNs)
		}
		f, err := packet.FlowFromPB(r.GetFlow())
		if err != nil || f.Proto != packet.TCP || f.Src.Addr() != netip.MustParseAddr("10.0.0.1") {
			x.t.Errorf("flow %v, %v", f, err)
		}
		to := f.Dst.Addr().As4()[3]
		if r.GetFlows() > 0 {
			if f.Src.Port() != 0 || f.Dst.Port() != 0 || r.GetRetransmits() != 0 || r.GetPath() != nil {
				x.t.Errorf("row %v", r)
			}
			parts = append(parts, fmt.Sprintf("%d: %d/%d/%d", to, r.GetFlows(), r.GetPackets(), r.GetBytesSent()))
			return
		}
		if f.Src.Port() != 1 || f.Dst.Port() != 2 {
			x.t.Errorf("record without ports: %v", r)
		}
		state := strings.ToLower(strings.TrimPrefix(r.GetState().String(), "STATE_"))
		parts = append(parts, fmt.Sprintf("%d %s: %d/%d/%d", to, state, r.GetPackets(), r.GetBytesSent(), r.GetRetransmits()))
	})
	return strings.Join(parts, ", ")
}

// Each step's rows are flows/packets/bytes, a lossy flow's
// packets/bytes/retransmits.
func TestFlowTable(t *testing.T) {
	f := func(name string, limits flowLimits, script string, stats flowStats, want ...string) {
		t.Helper()
		x := &tableTest{t: t, table: newFlowTable(limits, nil)}
		x.play(script)
		if !slices.Equal(x.out, want) {
			t.Errorf("%s:\n%q, want\n%q", name, x.out, want)
		}
		if x.table.stats != stats {
			t.Errorf("%s: %+v, want %+v", name, x.table.stats, stats)
		}
		if len(x.table.flows) > limits.flows {
			t.Errorf("%s: %d flows, more than %d", name, len(x.table.flows), limits.flows)
		}
	}
	roomy := flowLimits{flows: 100, rows: 100}

	f("a flow opened before the first sight counts from there", roomy, `
		dump 100
		live 1 packets=50
		end
		dump 200
		live 1 packets=57
		end`,
		flowStats{lossFree: 1, packets: 7, unknownStart: 1}, "", "2: 1/7/700")
	f("a new flow counts whole, and each segment once", roomy, `
		dump 100
		end
		dump 200
		live 1 opened=150 packets=5
		end
		dump 300
		live 1 opened=150 packets=9
		end
		dump 400
		live 1 opened=150 packets=9
		end
		closed 1 opened=150 packets=12
		dump 500
		end
		dump 600
		end`,
		flowStats{lossFree: 3, packets: 12}, "", "2: 1/5/500", "2: 1/4/400", "", "2: 1/3/300", "")
	f("a short flow needs no dump", roomy, `
		dump 100
		end
		closed 1 opened=150 packets=4
		closed 2 opened=160 packets=6
		closed 3 opened=160 packets=1 to=3
		dump 200
		end`,
		flowStats{lossFree: 3, packets: 11}, "", "2: 2/10/1000, 3: 1/1/100")
	f("one closed while a dump went on that had not shown it", roomy, `
		dump 100
		end
		dump 200
		end
		closed 1 opened=150 packets=4
		closed 2 opened=201 packets=4
		dump 300
		end`,
		flowStats{lossFree: 2, packets: 8}, "", "", "2: 2/8/800")
	f("one that two dumps have not shown", roomy, `
		dump 100
		end
		dump 200
		end
		dump 300
		end
		closed 1 opened=150 packets=4
		dump 400
		end`,
		flowStats{unknownStart: 1}, "", "", "", "")
	f("one closed that was open before the first sight", roomy, `
		dump 100
		end
		closed 1 packets=4
		dump 200
		end`,
		flowStats{unknownStart: 1}, "", "")
	f("a flow that sends something again is in no row", roomy, `
		dump 100
		end
		dump 200
		live 1 opened=150 packets=5
		live 2 opened=150 packets=5
		end
		dump 300
		live 1 opened=150 packets=9 bytes=800 retrans=1
		live 2 opened=150 packets=6
		end
		closed 1 opened=150 packets=19 bytes=1800 retrans=1
		closed 2 opened=150 packets=8 retrans=2 bytes=600
		dump 400
		end`,
		flowStats{lossFree: 4, packets: 21, lossy: 2}, "", "2: 2/10/1000", "2: 1/1/100, 2 open: 4/300/1", "2: 1/10/1000, 2 closed: 2/0/2")
	f("a flow that was sent a SYN again is lossy, from its first sight", roomy, `
		dump 100
		live 1 state=2 retrans=1
		end
		dump 200
		live 1 state=1 opened=150 retrans=2 packets=3
		end
		dump 300
		live 1 state=1 opened=150 retrans=2 packets=4
		end`,
		flowStats{lossFree: 1, packets: 1, lossy: 2}, "2 open: 0/0/1", "2 open: 3/300/1", "2: 1/1/100")
	f("a receiver is no flow of ours, until it sends", roomy, `
		dump 100
		live 1
		end
		dump 200
		live 1
		end
		dump 300
		live 1 packets=2
		end`,
		flowStats{lossFree: 1, packets: 2}, "", "", "2: 1/2/200")
	f("the kernel's counts wrap", roomy, `
		dump 100
		end
		dump 200
		live 1 opened=150 packets=4294967290 bytes=5000000000000
		end
		dump 300
		live 1 opened=150 packets=4 bytes=5000000001000
		end`,
		flowStats{lossFree: 2, packets: 4294967300}, "", "2: 1/4294967290/5000000000000", "2: 1/10/1000")
	f("a socket connected anew begins at 0", roomy, `
		dump 100
		end
		dump 200
		live 1 opened=150 packets=50
		end
		dump 300
		live 1 opened=250 packets=3
		end
		dump 400
		live 1 opened=350 packets=20 retrans=1 bytes=9000 to=3
		end`,
		flowStats{lossFree: 2, packets: 53, lossy: 1}, "", "2: 1/50/5000", "2: 1/3/300", "3 open: 20/9000/1")
	f("a socket connected anew that was open before the first sight", roomy, `
		dump 100
		live 1 packets=50
		end
		dump 200
		live 1 opened=150 packets=3
		end`,
		flowStats{lossFree: 1, packets: 3, unknownStart: 1}, "", "2: 1/3/300")
	f("a retransmit that could not be sent", roomy, `
		dump 100
		live 1 packets=50 bytes=5000
		end
		dump 200
		live 1 packets=50 bytes=4000 retrans=1
		end
		dump 300
		live 1 packets=52 bytes=5200 retrans=1
		end`,
		flowStats{lossFree: 1, packets: 2, lossy: 1, unknownStart: 1}, "", "2 open: 0/0/1", "2: 1/2/1200")
	f("a dump that shows a socket twice shows one flow", roomy, `
		dump 100
		end
		dump 200
		live 1 opened=150 packets=5
		live 1 opened=150 packets=6
		end
		closed 1 opened=150 packets=7
		dump 300
		end`,
		flowStats{lossFree: 2, packets: 7}, "", "2: 1/6/600", "2: 1/1/100")
	f("a flow that a dump passes over is counted by the next", roomy, `
		dump 100
		end
		dump 200
		live 1 opened=150 packets=5
		end
		dump 300
		end
		dump 400
		live 1 opened=150 packets=9
		end`,
		flowStats{lossFree: 2, packets: 9}, "", "2: 1/5/500", "", "2: 1/4/400")
	f("a flow gone without a last word is forgotten", roomy, `
		dump 100
		end
		dump 200
		live 1 opened=150 packets=5
		live 2 opened=150
		live 3 opened=150 packets=1
		end
		dump 300
		live 3 opened=150 packets=1
		end
		dump 400
		live 3 opened=150 packets=1
		end
		dump 500
		live 1 opened=150 packets=7
		live 3 opened=150 packets=1
		end`,
		flowStats{lossFree: 2, packets: 6, vanished: 1, unknownStart: 1}, "", "2: 2/6/600", "", "", "")
	f("a flow without news is not gone, and what it sent meanwhile counts when it is shown", roomy, `
		dump 100
		end
		dump 200
		live 1 opened=150 packets=5
		live 2 opened=150 packets=1
		end
		dump 300
		news
		dump 400
		live 2 opened=150 packets=3
		news
		dump 500
		news
		dump 600
		live 1 opened=150 packets=7
		live 2 opened=150 packets=3
		end
		dump 700
		closed 1 opened=150 packets=8
		news
		dump 800
		live 2 opened=150 packets=3
		end`,
		flowStats{lossFree: 5, packets: 11}, "", "2: 2/6/600", "", "2: 1/2/200", "", "2: 1/2/200", "2: 1/1/100", "")
	f("one that two dumps of all do not show is gone, whatever came between", roomy, `
		dump 100
		end
		dump 200
		live 1 opened=150 packets=5
		end
		dump 300
		news
		dump 400
		end
		dump 500
		live 1 opened=150 packets=6
		news
		dump 600
		end
		dump 700
		news
		dump 800
		end
		dump 900
		live 1 opened=150 packets=7
		end`,
		flowStats{lossFree: 2, packets: 6, vanished: 1, unknownStart: 1}, "", "2: 1/5/500", "", "", "2: 1/1/100", "", "", "", "")
	f("one without news makes room", flowLimits{flows: 2, rows: 100}, `
		dump 100
		end
		dump 200
		live 1 opened=150 packets=5
		live 2 opened=150 packets=5
		end
		dump 300
		live 1 opened=150 packets=6
		news
		dump 400
		live 1 opened=150 packets=7
		live 3 opened=350 packets=1
		news`,
		flowStats{lossFree: 5, packets: 13, evicted: 1}, "", "2: 2/10/1000", "2: 1/1/100", "2: 2/2/200")
	f("a full table lets those go that send nothing, the longest silent first", flowLimits{flows: 2, rows: 100}, `
		dump 100
		end
		dump 200
		live 1 opened=150 packets=5
		live 2 opened=150 packets=5
		end
		dump 300
		live 1 opened=150 packets=5
		live 2 opened=150 packets=6
		end
		dump 400
		live 1 opened=150 packets=5
		live 2 opened=150 packets=6
		end
		dump 500
		live 3 opened=450 packets=1
		live 2 opened=150 packets=7
		live 1 opened=150 packets=9
		end
		dump 600
		live 3 opened=450 packets=2
		live 2 opened=150 packets=8
		live 1 opened=150 packets=9
		end`,
		flowStats{lossFree: 7, packets: 15, ignored: 2, evicted: 1}, "", "2: 2/10/1000", "2: 1/1/100", "", "2: 2/2/200", "2: 2/2/200")
	f("a table full of active flows ignores others, but for short ones", flowLimits{flows: 1, rows: 100}, `
		dump 100
		end
		dump 200
		live 1 opened=150 packets=5
		live 2 opened=150 packets=3
		end
		closed 3 opened=250 packets=4
		dump 300
		live 1 opened=150 packets=6
		live 2 opened=150 packets=9
		end
		closed 2 opened=150 packets=10
		dump 400
		live 1 opened=150 packets=7
		end`,
		flowStats{lossFree: 4, packets: 11, ignored: 2, unknownStart: 1}, "", "2: 1/5/500", "2: 2/5/500", "2: 1/1/100")
	f("a flow opened a moment ago keeps its place, that it may not count twice", flowLimits{flows: 1, rows: 100}, `
		dump 100
		end
		dump 200
		live 1 opened=200 packets=5
		end
		dump 300
		live 1 opened=200 packets=5
		live 2 opened=290 packets=5
		end
		closed 1 opened=200 packets=5
		dump 400
		live 2 opened=290 packets=6
		end
		dump 500
		live 2 opened=290 packets=8
		end`,
		flowStats{lossFree: 2, packets: 7, ignored: 1, unknownStart: 1}, "", "2: 1/5/500", "", "", "2: 1/2/200")
	f("rows and records are bounded, and begin anew", flowLimits{flows: 100, rows: 1}, `
		dump 100
		end
		closed 1 opened=150 packets=1 to=2
		closed 2 opened=150 packets=1 to=3
		closed 3 opened=150 packets=1 to=2
		closed 4 opened=150 packets=3 retrans=1 to=4
		closed 5 opened=150 packets=4 retrans=1 to=5
		dump 200
		end
		closed 6 opened=250 packets=1 to=3
		dump 300
		end`,
		flowStats{lossFree: 3, packets: 3, lossy: 2, lossyLeftOut: 1, rowsLeftOut: 1}, "", "2: 2/2/200, 4 closed: 3/300/1", "3: 1/1/100")
}

// Whatever comes and goes, what flows sent since they were first seen is
// counted once: rows and records together hold all of it.
func TestFlowTableCountsEachSegmentOnce(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 5))
		table := newFlowTable(flowLimits{flows: 1000, rows: 1000}, nil)
		type socket struct {
			flowSample
			before uint32 // sent before the first sight
		}
		var open []*socket
		var now, cookie, want, got, flows uint64
		newSocket := func(opened uint64) *socket {
			cookie++
			s := &socket{flowSample: flowSample{
				cookie: cookie, connStory: connStory{opened: opened}, state: tcpEstablished,
				src: netip.MustParseAddrPort("10.0.0.1:1"),
				dst: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(rng.IntN(20))}), uint16(cookie)),
			}}
			open = append(open, s)
			return s
		}
		send := func(s *socket) {
			n := uint32(rng.IntN(4))
			s.packets += n
			s.bytes += uint64(n) * 50
			if n > 0 && rng.IntN(10) == 0 {
				s.retransmits++
			}
		}
		for range 50 {
			s := newSocket(0)
			send(s)
			s.before = s.packets
		}
		for step := range 40 {
			table.beginDump(now)
			for _, i := range rng.Perm(len(open)) {
				// Sending goes on, and sockets are opened and closed meanwhile.
				now++
				send(open[i])
				table.live(&open[i].flowSample)
				if rng.IntN(4) == 0 {
					send(newSocket(now))
				}
			}
			table.endDump(dumpAll)
			if step > 0 { // the first only says where all began
				table.take(0, 1, func(r *decafpb.FlowRecord) {
					got += r.GetPackets()
					flows += r.GetFlows()
				})
			} else {
				for _, s := range open {
					if s.opened == 0 {
						s.before = s.packets
					}
				}
				table.take(0, 1, func(r *decafpb.FlowRecord) { got += r.GetPackets() })
			}
			for range rng.IntN(30) {
				now++
				send(newSocket(now))
			}
			open = slices.DeleteFunc(open, func(s *socket) bool {
				now++
				send(s)
				if rng.IntN(5) > 0 {
					return false
				}
				table.closed(&s.flowSample)
				want += uint64(s.packets - s.before)
				return true
			})
		}
		for _, s := range open {
			table.closed(&s.flowSample)
			want += uint64(s.packets - s.before)
		}
		table.take(0, 1, func(r *decafpb.FlowRecord) {
			got += r.GetPackets()
			flows += r.GetFlows()
		})
		if got != want || want == 0 || flows != table.stats.lossFree {
			t.Errorf("seed %d: counted %d of %d packets; %d flows in rows, %d counted", seed, got, want, flows, table.stats.lossFree)
		}
		if len(table.flows) != 0 {
			t.Errorf("seed %d: %d closed flows are still in the table", seed, len(table.flows))
		}
		if s := table.stats; s.vanished+s.ignored+s.evicted+s.rowsLeftOut+s.lossyLeftOut > 0 || s.lossy == 0 {
			t.Errorf("seed %d: %+v", seed, s)
		}
	}
}

func TestUntilIntervalEnd(t *testing.T) {
	f := func(now string, interval, want time.Duration) {
		t.Helper()
		at, err := time.Parse(time.RFC3339Nano, "2026-01-01T"+now+"Z")
		if err != nil {
			t.Fatal(err)
		}
		if got := untilIntervalEnd(at, interval); got != want {
			t.Errorf("%s, every %v: %v, want %v", now, interval, got, want)
		}
	}
	f("00:00:00", 5*time.Second, 5*time.Second)
	f("00:00:01.5", 5*time.Second, 3500*time.Millisecond)
	f("00:00:04.999", 5*time.Second, 5001*time.Millisecond) // woken a little early
	f("00:00:05.001", 5*time.Second, 4999*time.Millisecond) // or late
	f("00:04:00", 5*time.Minute, 6*time.Minute)
}
