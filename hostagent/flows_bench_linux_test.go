package hostagent

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"decaf/api/bus"
	"decaf/api/decafpb"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

const asSink = "DECAF_TEST_SINK"

// BenchmarkFlowInterval is what the end of an interval costs with that many
// open connections, all of which sent something in it: from the list of the
// sockets to the records. cpu_ms is processor time, pct_core its share of
// one core at the default interval.
func BenchmarkFlowInterval(b *testing.B) {
	if os.Getenv(asSink) != "" {
		sinkProcess(b)
		return
	}
	for _, conns := range []int{1000, 19000} { // a process may hold 20,000 files on many machines
		b.Run(strconv.Itoa(conns), func(b *testing.B) {
			l := newLab(b)
			if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 20000, Max: 20000}); err != nil {
				b.Fatal(err)
			}
			cfg := DefaultConfig()
			cfg.Flows.MaxRows = conns
			rec := newRecorder()
			a := New(cfg, Deps{Publisher: rec})
			k, err := openKernel(kernelOptions{netns: l.a.inum, ringBytes: cfg.RingBytes, flows: true}, a.log)
			if err != nil {
				b.Fatal(err)
			}
			defer k.Close()
			port := l.startSink()
			clients := make([]*net.TCPConn, conns)
			for i := range clients {
				if clients[i], err = l.dial(addrB, port, false, 10*time.Second); err != nil {
					b.Fatal(err)
				}
			}
			c := newFlowCounter(a, k.flows)
			interval := func() error {
				if err := k.flows.Wait(time.Now(), c.closed, c.broken); err != nil {
					return err
				}
				if err := c.dump(time.Now(), false); err != nil {
					return err
				}
				c.publish(time.Now(), false)
				return nil
			}
			// Of the thread, as the machine may have other work.
			var used unix.Rusage
			cpu := func() (d time.Duration) {
				if err := unix.Getrusage(unix.RUSAGE_THREAD, &used); err != nil {
					b.Error(err)
				}
				return time.Duration(used.Utime.Nano() + used.Stime.Nano())
			}
			var spent time.Duration
			err = l.a.do(func() error {
				for b.Loop() {
					b.StopTimer()
					for _, conn := range clients {
						if _, err := conn.Write([]byte{0}); err != nil {
							return err
						}
					}
					spent -= cpu()
					b.StartTimer()
					if err := interval(); err != nil {
						return err
					}
					b.StopTimer()
					spent += cpu()
					b.StartTimer()
				}
				b.StopTimer()
				return nil
			})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(spent.Seconds()*1000/float64(b.N), "cpu_ms/op")
			b.ReportMetric(float64(spent)/float64(b.N)/float64(cfg.Flows.Interval)*100, "pct_core")
			// A window may have held some back. Answers come so late that TCP
			// probes some tails: those flows have records of their own.
			until(b, "all that was sent is counted", func() bool {
				if err := l.a.do(interval); err != nil {
					b.Fatal(err)
				}
				var sent, counted uint64
				for _, conn := range clients {
					sent += uint64(tcpInfo(b, conn).Data_segs_out)
				}
				for _, r := range rec.flows() {
					if r.GetCookie() == 0 && r.GetFlow().GetDstPort() == 0 || r.GetCookie() != 0 && r.GetRetransmits() > 0 {
						counted += r.GetPackets()
					}
				}
				return counted == sent
			})
		})
	}
}

// BenchmarkFlowConnection is what a connection costs in the kernel's programs,
// those that write its story and those that sample it.
func BenchmarkFlowConnection(b *testing.B) {
	l := newLab(b)
	k, err := openKernel(kernelOptions{netns: l.a.inum, ringBytes: 1 << 20, flows: true}, testLog(b))
	if err != nil {
		b.Fatal(err)
	}
	defer k.Close()
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		b.Fatal(err)
	}
	defer stats.Close()
	port := l.sink(100).Addr().(*net.TCPAddr).Port
	samples := 0
	for b.Loop() {
		l.talkTo(addrB, port, 1000)
		if err := k.flows.Wait(time.Now(), func(*flowSample) { samples++ }, func(err error) { b.Error(err) }); err != nil {
			b.Fatal(err)
		}
	}
	spent, _ := spentOn(b, append(k.links, k.flows.links...), "")
	if samples < b.N/2 {
		b.Errorf("%d last samples of %d connections", samples, b.N)
	}
	b.ReportMetric(float64(spent)/float64(b.N), "bpf_ns/op")
}

// BenchmarkPeaks is what the highest round-trip times cost in the kernel's programs
// for each packet that a receives, with 100 answers of 64 KiB each in an op.
func BenchmarkPeaks(b *testing.B) {
	for _, peaks := range []string{peaksAll, peaksReductions} {
		b.Run(peaks, func(b *testing.B) {
			l := newLab(b)
			k, err := openKernel(kernelOptions{netns: l.a.inum, ringBytes: 1 << 20, flows: true, peaks: peaks}, testLog(b))
			if err != nil {
				b.Fatal(err)
			}
			defer k.Close()
			stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
			if err != nil {
				b.Fatal(err)
			}
			defer stats.Close()
			p := l.connect(addrB, false)
			const answer = 64 << 10
			go func() {
				for buf := make([]byte, 1); ; {
					if _, err := p.server.Read(buf); err != nil {
						return
					}
					if _, err := p.server.Write(make([]byte, answer)); err != nil {
						return
					}
				}
			}()
			from, runsFrom := spentOn(b, k.flows.links, "decaf_flow_peak")
			received := tcpInfo(b, p.client).Segs_in
			for b.Loop() {
				for range 100 {
					if _, err := p.client.Write([]byte("?")); err != nil {
						b.Fatal(err)
					}
					if err := read(p.client, answer); err != nil {
						b.Fatal(err)
					}
				}
			}
			spent, runs := spentOn(b, k.flows.links, "decaf_flow_peak")
			spent, runs = spent-from, runs-runsFrom
			packets := float64(tcpInfo(b, p.client).Segs_in - received)
			b.ReportMetric(float64(spent)/packets, "bpf_ns/packet")
			b.ReportMetric(float64(spent)/float64(max(runs, 1)), "bpf_ns/run") // of packets put together by GRO
			b.ReportMetric(packets/float64(b.N), "packets/op")
			b.ReportMetric(100*spent.Seconds()/b.Elapsed().Seconds(), "pct_core")
		})
	}
}

// spentOn is the time spent in programs, all or those of a name, and how often
// they ran.
func spentOn(b *testing.B, links []link.Link, name string) (d time.Duration, runs uint64) {
	b.Helper()
	for _, at := range links {
		info, err := at.Info()
		if err != nil {
			b.Fatal(err)
		}
		p, err := ebpf.NewProgramFromID(info.Program)
		if err != nil {
			b.Fatal(err)
		}
		what, err1 := p.Info()
		s, err2 := p.Stats()
		p.Close()
		if err := errors.Join(err1, err2); err != nil {
			b.Fatal(err)
		}
		if name == "" || what.Name == name {
			d, runs = d+s.Runtime, runs+s.RunCount
		}
	}
	return d, runs
}

// startSink starts a process in b that accepts and holds connections until the
// test ends, and returns its port.
func (l *lab) startSink() int {
	l.t.Helper()
	cmd := exec.CommandContext(l.t.Context(), os.Args[0], "-test.run=^$", "-test.bench=^BenchmarkFlowInterval$", "-test.benchtime=1x")
	cmd.Env = append(os.Environ(), asSink+"=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	if err := l.b.do(cmd.Start); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if _, after, ok := strings.Cut(lines.Text(), "sink at "); ok {
			port, err := strconv.Atoi(after)
			if err != nil {
				l.t.Fatal(err)
			}
			go io.Copy(io.Discard, out)
			return port
		}
	}
	l.t.Fatal("the sink process did not start")
	return 0
}

func sinkProcess(b *testing.B) {
	ln, err := net.Listen("tcp", ":0")
	if err != nil {
		b.Fatal(err)
	}
	var held []net.Conn
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			held = append(held, c)
		}
	}()
	fmt.Printf("\nsink at %d\n", ln.Addr().(*net.TCPAddr).Port)
	io.Copy(io.Discard, os.Stdin)
}

// BenchmarkFlowRows is what rows cost on their way to NATS: bytes stored per
// row, as sent, and time to hand an interval's rows to the publisher.
func BenchmarkFlowRows(b *testing.B) {
	for _, rows := range []int{100, 1000, 16000} {
		b.Run(strconv.Itoa(rows), func(b *testing.B) {
			cfg := bus.DefaultServerConfig()
			cfg.Listen, cfg.Dir, cfg.Site = "127.0.0.1:0", b.TempDir(), "lab"
			srv, err := bus.StartServer(cfg, testLog(b))
			if err != nil {
				b.Fatal(err)
			}
			defer srv.Stop()
			conn, err := bus.Connect(b.Context(), bus.ConnConfig{Server: srv, Site: "lab"}, testLog(b))
			if err != nil {
				b.Fatal(err)
			}
			defer conn.Close()
			if err := conn.EnsureStreams(b.Context()); err != nil {
				b.Fatal(err)
			}
			pub := bus.NewPublisher(conn, "a", bus.PublisherOptions{})
			table := newFlowTable(flowLimits{flows: 1, rows: rows}, nil)
			table.beginDump(1)
			table.endDump(dumpAll)
			start := time.Now().UnixNano()
			for b.Loop() {
				b.StopTimer()
				for i := range rows {
					n := uint32(1 + i*i%997)
					table.closed(&flowSample{
						cookie: uint64(i), connStory: connStory{opened: 1}, packets: n, bytes: uint64(n) * 1448, state: tcpEstablished,
						src: netip.MustParseAddrPort("10.0.0.1:1"),
						dst: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 12), byte(i >> 4), byte(2 + i%16)}), 2),
					})
				}
				b.StartTimer()
				table.take(start, start+5e9, func(r *decafpb.FlowRecord) { pub.Publish(r) })
				start += 5e9
			}
			until(b, "NATS has stored all rows", func() bool { return pub.Stats().Waiting == 0 })
			s := pub.Stats()
			if s.Stored != uint64(rows*b.N) {
				b.Errorf("%+v, want %d records stored", s, rows*b.N)
			}
			b.ReportMetric(float64(s.Bytes)/float64(s.Stored), "B/row")
			b.ReportMetric(float64(s.Bytes)/float64(b.N)/5, "B/s_at_5s")
			if err := pub.Close(b.Context()); err != nil {
				b.Error(err)
			}
		})
	}
}
