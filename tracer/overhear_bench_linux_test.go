package tracer

import (
	"io"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkOverhear measures what it takes of a processor to overhear distances:
// for each packet that comes in, and for each connection opened. Runs with and
// without take turns, and the difference of the medians is told. Everything else
// (both ends, and the way between them) is done by the same process, so that it is
// a few hundredths of the whole: give it -benchtime 900000x.
func BenchmarkOverhear(b *testing.B) {
	for name, do := range map[string]func(b *testing.B, f *fan) func(){
		"packet": func(b *testing.B, f *fan) func() {
			c := f.dial(flowOf(false, 40000))
			b.Cleanup(func() { c.Close() })
			one := make([]byte, 1)
			return func() {
				if _, err := c.Write(one); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(c, one); err != nil {
					b.Fatal(err)
				}
			}
		},
		"connection": func(b *testing.B, f *fan) func() {
			return func() { f.dial(flowOf(false, 0)).(*net.TCPConn).Close() }
		},
	} {
		b.Run(name, func(b *testing.B) {
			f := newFan(b)
			f.echo()
			turn := do(b, f)
			const turns = 30
			took := map[bool][]float64{}
			each := max(b.N/turns/2, 1)
			for i := range 2 * turns {
				overhear := i%2 == 1
				stop := func() {}
				if overhear {
					stop = f.overhearing()
				}
				runtime.GC()
				before := cpuTime(b)
				for range each {
					turn()
				}
				took[overhear] = append(took[overhear], float64(cpuTime(b)-before)/float64(each))
				stop()
			}
			without, with := median(took[false]), median(took[true])
			b.ReportMetric(without, "without-ns")
			b.ReportMetric(with-without, "more-ns")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// cpuTime is what this process has had of processors.
func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(unix.TimevalToNsec(u.Utime) + unix.TimevalToNsec(u.Stime))
}

// echo answers connections at h2 until the benchmark ends.
func (f *fan) echo() {
	var l net.Listener
	f.do("h2", func() (err error) {
		l, err = net.Listen("tcp", flowOf(false, 0).Dst.String())
		return err
	})
	f.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
}

// overhearing runs a tracer at h1 that overhears, until stop.
func (f *fan) overhearing() (stop func()) {
	var t *Tracer
	f.do("h1", func() (err error) {
		t, err = New(testConfig(), func(netip.Addr, netip.Addr) int { return 3 }, slog.New(slog.DiscardHandler))
		return err
	})
	over := make(chan error, 1)
	go func() { over <- t.Run(f.t.Context()) }()
	return func() {
		t.Close()
		if err := <-over; err != nil {
			f.t.Error(err)
		}
	}
}
