package tracer

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

// BenchmarkTrace measures a whole trace of three switches, in a running
// process: five-tuple in, path out.
func BenchmarkTrace(b *testing.B) {
	f := newFan(b)
	tr := f.tracerAt("h1", testConfig(), 3)
	epoch := int64(0)
	for name, v6 := range map[string]bool{"ipv4": false, "ipv6": true} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			took := make([]time.Duration, 0, b.N)
			for b.Loop() {
				epoch++
				start := time.Now()
				p := tr.Trace(b.Context(), flowOf(v6, 40000), epoch)
				took = append(took, time.Since(start))
				if status(p) != "complete" {
					b.Fatalf("%s: %s", status(p), p.GetWhy())
				}
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1e3, "p50-us")
			b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1e3, "p99-us")
			b.ReportMetric(0, "ns/op")
		})
	}
	b.Logf("%+v", tr.Stats())
}

// BenchmarkTracesAtOnce measures how many traces a host can make when many flows
// ask at a time and no budget holds them.
func BenchmarkTracesAtOnce(b *testing.B) {
	f := newFan(b)
	tr := f.tracerAt("h1", testConfig(), 3)
	var n atomic.Int64
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := n.Add(1)
			if p := tr.Trace(context.Background(), flowOf(false, uint16(i)), i>>16); status(p) != "complete" {
				b.Errorf("%s: %s", status(p), p.GetWhy())
			}
		}
	})
	b.Logf("%+v", tr.Stats())
}
