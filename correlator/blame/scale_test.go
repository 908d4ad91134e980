package blame

import (
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// large is a Clos of three tiers with a million directed links: 294,912 hosts,
// 6144 ToRs, 2048 T1s and 848 T2s in 16 planes, 10 million flows.
func large() setup {
	s := paper()
	s.pods, s.tors, s.t1, s.t2, s.hosts, s.planes = 128, 48, 16, 53, 48, true
	s.connections, s.links = 34, 10
	return s
}

// BenchmarkScale measures the way from evidence to result for 10 million flows
// over a million links, loss-free ones counted on the way in. It takes a minute
// and gigabytes, hence only on request: BLAME_SCALE=1. BLAME_PROFILE names a
// file for a CPU profile of what is timed alone. BLAME_SCALE=small is a tenth.
func BenchmarkScale(b *testing.B) {
	size := os.Getenv("BLAME_SCALE")
	if size == "" {
		b.Skip("takes a minute and gigabytes: BLAME_SCALE=1 go test -run '^$' -bench '^BenchmarkScale$' -benchtime 1x")
	}
	s := large()
	if size == "small" {
		s.pods = 13
	}
	start := time.Now()
	n, err := build(s)
	if err != nil {
		b.Fatal(err)
	}
	built := time.Since(start)

	type flow struct {
		src, dst int32
		packets  uint8
	}
	var flows []flow
	r := rand.New(rand.NewPCG(1000, 7))
	f := draw(n, s, r)
	f.clean = func(src, dst int32, packets int) { flows = append(flows, flow{src, dst, uint8(packets)}) }
	e := f.observe(r)
	debug.FreeOSMemory()
	resetPeak()
	if name := os.Getenv("BLAME_PROFILE"); name != "" {
		out, err := os.Create(name)
		if err != nil {
			b.Fatal(err)
		}
		defer out.Close()
		if err := pprof.StartCPUProfile(out); err != nil {
			b.Fatal(err)
		}
		defer pprof.StopCPUProfile()
	}

	before := processorTime()
	var counted, inferred time.Duration
	var result Result
	runs := 0.0
	for b.Loop() {
		runs++
		start = time.Now()
		e.whole.Tally = NewTally(n)
		for _, f := range flows {
			e.whole.Tally.Add(f.src, f.dst, float64(f.packets))
		}
		counted += time.Since(start)
		start = time.Now()
		result = Infer(n, e.whole, Options{})
		inferred += time.Since(start)
	}
	b.ReportMetric(float64(n.Links()), "links")
	b.ReportMetric(float64(len(flows)+len(e.whole.Lossy)), "flows")
	b.ReportMetric(float64(len(e.whole.Lossy)), "lossy")
	b.ReportMetric(built.Seconds(), "network-s")
	b.ReportMetric(counted.Seconds()/runs, "count-s")
	b.ReportMetric(inferred.Seconds()/runs, "infer-s")
	b.ReportMetric((processorTime()-before).Seconds()/runs, "processor-s")
	if peak, ok := peakMemory(); ok {
		b.ReportMetric(peak/(1<<30), "peak-GiB")
	}
	runtime.KeepAlive(flows)
	right := 0
	for _, c := range result.Components {
		if slices.Contains(f.truth, c.Component) {
			right++
		}
	}
	b.ReportMetric(ratio(right, len(result.Components)), "precision")
	b.ReportMetric(ratio(right, len(f.truth)), "recall")
}

// processorTime is what the process took of all cores: more than the time on
// one core, as it has the garbage collector's in it, and the same on a busy
// machine.
func processorTime() time.Duration {
	var use syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &use); err != nil {
		return 0
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}

// resetPeak makes the kernel count the peak of resident memory from now on,
// where it can (proc(5), clear_refs).
func resetPeak() { _ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) }

// peakMemory is the most memory that was resident, in bytes, on Linux.
func peakMemory() (float64, bool) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(status)) {
		var kib float64
		if _, err := fmt.Sscanf(line, "VmHWM: %f kB", &kib); err == nil {
			return kib * 1024, true
		}
	}
	return 0, false
}
