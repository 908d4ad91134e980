package tracer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"decaf/api/packet"
)

// BenchmarkTrace measures a whole trace of three switches, in a running
// process: five-tuple in, path out.
func BenchmarkTrace(b *testing.B) {
	f := newFan(b)
	tr := f.tracerAt("h1", testConfig(), 3)
	for name, v6 := range map[string]bool{"ipv4": false, "ipv6": true} {
		b.Run(name, func(b *testing.B) { benchmarkTraces(b, tr, flowOf(v6, 40000)) })
	}
	b.Logf("%+v", tr.Stats())
}

// BenchmarkTranslatedTrace measures the same of a connection that this host gives
// another source port, alone on its network and among a thousand neighbours.
func BenchmarkTranslatedTrace(b *testing.B) {
	for _, neighbours := range []int{0, 1000} {
		f := newFan(b)
		f.handle("h1", func(h *netlink.Handle) error {
			l, err := h.LinkByName("eth0")
			for i := range neighbours {
				err = errors.Join(err, h.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT,
					IP: addr4(200, i/250, i%250).AsSlice(), HardwareAddr: macAddr{2, 1}.mac()}))
			}
			return err
		})
		f.serve(false)
		f.translatePorts(false, 50000, 60000)
		tr := f.tracerAt("h1", testConfig(), 3)
		c := f.dial(flowOf(false, 40000))
		b.Run(fmt.Sprint(neighbours, " neighbours"), func(b *testing.B) { benchmarkTraces(b, tr, flowOf(false, 40000)) })
		c.Close()
	}
}

var benchEpoch int64

// benchmarkTraces traces a flow again and again.
func benchmarkTraces(b *testing.B, tr *Tracer, flow packet.Flow) {
	b.ReportAllocs()
	took := make([]time.Duration, 0, b.N)
	for b.Loop() {
		benchEpoch++
		start := time.Now()
		p := tr.Trace(b.Context(), flow, benchEpoch)
		took = append(took, time.Since(start))
		if status(p) != "complete" {
			b.Fatalf("%s: %s", status(p), p.GetWhy())
		}
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1e3, "p50-us")
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1e3, "p99-us")
	b.ReportMetric(0, "ns/op")
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
