package tracer

import (
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// handClock is a clock that is set by hand.
type handClock struct{ at time.Duration }

func (c *handClock) now() time.Duration { return c.at }

// always is a source of no chance: intervals are all of 1/rate, as of a plain
// token bucket, and the first token of all is at .559/rate.
func always() float64 { return .5 }

const firstPhase = 559 * time.Millisecond // of always, at 1 a second, rounded down

// What a budget says step by step, at two traces at once and one a second.
func TestBudgetByHand(t *testing.T) {
	type step struct {
		at     time.Duration // since the bucket was made
		does   string
		want   int // 1 for a trace that may start, 0 for one that may not
		tokens int // afterwards
	}
	const ms, s = time.Millisecond, time.Second
	for name, steps := range map[string][]step{
		"the burst at once, then one by one": {
			{0, "ask", 1, 1}, {0, "ask", 1, 0}, {0, "ask", 0, 0},
			{firstPhase, "ask", 0, 0}, {firstPhase + ms, "ask", 1, 0}, {firstPhase + ms, "ask", 0, 0},
			{firstPhase + s, "ask", 0, 0}, {firstPhase + s + ms, "ask", 1, 0},
		},
		"no more than the burst is saved": {
			{0, "ask", 1, 1}, {0, "ask", 1, 0}, {time.Hour, "ask", 1, 1}, {time.Hour, "ask", 1, 0}, {time.Hour, "ask", 0, 0},
			// Nobody knows how much of the interval an hour later had gone: it is drawn anew.
			{time.Hour + firstPhase, "ask", 0, 0}, {time.Hour + firstPhase + ms, "ask", 1, 0},
		},
		"tokens go on to come while the bucket is full": {
			{500 * ms, "ask", 1, 1}, {firstPhase + ms, "look", 0, 2},
			// One had no room: of the next only the phase is known, from here on.
			{3 * s, "ask", 1, 1}, {3 * s, "ask", 1, 0}, {3*s + firstPhase, "ask", 0, 0}, {3*s + firstPhase + ms, "ask", 1, 0},
		},
		"what is not urgent leaves half": {
			{0, "spare", 1, 1}, {0, "spare", 0, 1}, {0, "ask", 1, 0}, {0, "spare", 0, 0},
			{firstPhase + ms, "spare", 0, 1}, {firstPhase + s + ms, "spare", 1, 1},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var c handClock
			b := newBudget(1, 2, c.now, always)
			for i, s := range steps {
				c.at = s.at
				got := false
				switch s.does {
				case "ask":
					got = b.allow()
				case "spare":
					_, got = b.spare()
				}
				if tokens := b.tokens(); got != (s.want == 1) || tokens != s.tokens {
					t.Errorf("step %d, %s at %v: %v, %d tokens; want %d, %d tokens", i, s.does, s.at, got, tokens, s.want, s.tokens)
				}
			}
		})
	}
}

// Spent is when the next trace may start, to the nanosecond; so is what spare says.
func TestSpentIsExact(t *testing.T) {
	chance := rand.New(rand.NewPCG(1, 2))
	for _, rate := range []float64{1e-9, .3, 10, 10000} {
		var c handClock
		b := newBudget(rate, 3, c.now, chance.Float64)
		for range 3 {
			if s := b.spent(); s != 0 || !b.allow() {
				t.Fatalf("at %v a second: %v with a full burst", rate, s)
			}
		}
		for range 100 {
			s := b.spent()
			if s <= 0 || s.Seconds() > 1.5/rate {
				t.Fatalf("at %v a second spent for %v", rate, s)
			}
			if wait, ok := b.spare(); ok || wait != s {
				t.Fatalf("at %v a second %v, %v to spare, want in %v", rate, wait, ok, s)
			}
			if c.at > math.MaxInt64-2*s {
				break // some 300 years
			}
			c.at += s - 1
			if got := b.spent(); b.allow() || got != 1 {
				t.Fatalf("at %v a second: a trace 1 ns too early, of which it says %v", rate, got)
			}
			c.at++
			if got := b.spent(); got != 0 || !b.allow() {
				t.Fatalf("at %v a second: no trace after %v, of which it says %v", rate, s, got)
			}
		}
	}
}

// crowd is hosts that all had nothing to trace for a while, and at the time 0 so
// much that they are never done: the times of their traces. Each goes by a clock of
// its own, and knows of no other host.
func crowd(hosts, burst int, rate float64, long time.Duration, chance func(host int) func() float64) (traces [][]time.Duration) {
	for host := range hosts {
		c := handClock{-time.Hour - time.Duration(host)*time.Second}
		b := newBudget(rate, burst, c.now, chance(host))
		var at []time.Duration
		for c.at = 0; c.at < long; c.at += b.spent() {
			for b.allow() {
				at = append(at, c.at)
			}
		}
		traces = append(traces, at)
	}
	return traces
}

// slots counts the traces of all hosts in slices of time, without the burst of each.
func slots(traces [][]time.Duration, burst int, width, long time.Duration) []int {
	n := make([]int, long/width)
	for _, at := range traces {
		for _, x := range at[burst:] {
			n[x/width]++
		}
	}
	return n
}

// poissonMost is what a Poisson variable of a mean is above with a chance below p.
func poissonMost(mean, p float64) int {
	at, above := math.Exp(-mean), 1.0
	for k := 0; ; k++ {
		if above -= at; above < p {
			return k
		}
		at *= mean / float64(k+1)
	}
}

// Hosts that run dry at the same moment do not trace in step: from their first
// token on their traces are as those of hosts that know nothing of each other, and
// more even than that over longer times. Without chance they would all trace in the
// same 10 ms of each 100.
func TestHostsThatRanDryTogether(t *testing.T) {
	const (
		hosts, burst = 100, 20
		rate         = 10.0
		slot         = 10 * time.Millisecond
		long         = 1000 * time.Second
	)
	inStep := slots(crowd(hosts, burst, rate, time.Minute, func(int) func() float64 { return always }), burst, slot, time.Minute)
	for i, n := range inStep {
		if n != 0 && n != hosts {
			t.Fatalf("without chance %d traces in slot %d, want all hosts or none: nothing to hold the rest against", n, i)
		}
	}
	traces := crowd(hosts, burst, rate, long, func(host int) func() float64 {
		return rand.New(rand.NewPCG(7, uint64(host))).Float64
	})
	counts := slots(traces, burst, slot, long)
	most := poissonMost(hosts*rate*slot.Seconds(), .01/float64(len(counts)))
	highest := 0
	for i, n := range counts {
		if highest = max(highest, n); n > most {
			t.Errorf("%d traces in the 10 ms from %v, want at most %d", n, time.Duration(i)*slot, most)
		}
	}
	// The beginning is like the rest: the first tokens come in the first slot, and the
	// first tenth of a second, one token each, is within 5 of Poisson's deviations.
	first := 0
	for _, n := range counts[:10] {
		first += n
	}
	if math.Abs(float64(first)-hosts) > 5*math.Sqrt(hosts) || counts[0] == 0 {
		t.Errorf("%d traces in the first 100 ms, %d of them in the first 10: want about %d and some", first, counts[0], hosts)
	}
	// Those that come at the same moment by chance do not meet again each 100 ms.
	var folded [10]int
	for i, n := range counts {
		folded[i%len(folded)] += n
	}
	for i, n := range folded {
		if mean := hosts * rate * long.Seconds() / float64(len(folded)); math.Abs(float64(n)/mean-1) > .02 {
			t.Errorf("%d traces in slots %d of each tenth of a second, want %.0f within 2 %%", n, i, mean)
		}
	}
	var sum, squares float64
	seconds := slots(traces, burst, time.Second, long)
	for _, n := range seconds {
		sum += float64(n)
		squares += float64(n) * float64(n)
	}
	mean := sum / float64(len(seconds))
	if math.Abs(mean/(hosts*rate)-1) > .01 {
		t.Errorf("%.1f traces a second of all hosts, want %g within 1 %%", mean, hosts*rate)
	}
	variance := squares/float64(len(seconds)) - mean*mean
	if variance > mean/5 {
		t.Errorf("the traces of a second vary by %.0f about %.0f, want a tenth", variance, mean)
	}
	t.Logf("at most %d traces in 10 ms (bound %d, mean 10); %.1f a second, variance %.0f", highest, most, mean, variance)
}

// However it is asked, a host keeps its rate, and its bounds in any time.
func TestBudgetIsKept(t *testing.T) {
	const (
		rate = 10.0
		long = 1000 * time.Second
	)
	for name, ask := range map[string]func(*rand.Rand) time.Duration{
		"each millisecond": func(*rand.Rand) time.Duration { return time.Millisecond },
		"each 30 ms":       func(*rand.Rand) time.Duration { return 30 * time.Millisecond },
		"at random, 100 a second": func(c *rand.Rand) time.Duration {
			return time.Duration(c.ExpFloat64() * 10e6)
		},
		"in crowds": func(c *rand.Rand) time.Duration {
			if c.IntN(2000) == 0 {
				return 20 * time.Second
			}
			return time.Microsecond
		},
		"as few as it allows": func(c *rand.Rand) time.Duration { return 100 * time.Millisecond },
	} {
		for _, burst := range []int{1, 2, 20} {
			t.Run(fmt.Sprintf("%s, burst %d", name, burst), func(t *testing.T) {
				chance := rand.New(rand.NewPCG(3, uint64(burst)))
				var c handClock
				b := newBudget(rate, burst, c.now, chance.Float64)
				var at []time.Duration
				asked := 0
				for c.at < long {
					asked++
					if b.allow() {
						at = append(at, c.at)
					}
					c.at += ask(chance)
				}
				// Four deviations of what comes back in that time.
				if most := float64(burst) + rate*c.at.Seconds() + 4*math.Sqrt(rate*c.at.Seconds()/12); float64(len(at)) > most {
					t.Errorf("%d traces in %v, want at most %.0f", len(at), c.at, most)
				}
				for i := range at {
					for _, n := range []int{1, 2, burst + 1, 2 * burst, 10 * burst} {
						if i+n >= len(at) {
							continue
						}
						d := at[i+n] - at[i]
						if most := float64(burst) + 2*rate*d.Seconds() + 1; float64(n+1) > most+1e-6 {
							t.Fatalf("%d traces within %v, want at most %.2f", n+1, d, most)
						}
					}
				}
				if name == "each millisecond" && math.Abs(float64(len(at))/(rate*long.Seconds())-1) > .01 {
					t.Errorf("%d traces in %v, want %g a second within 1 %%", len(at), long, rate)
				}
				t.Logf("%d of %d in %v", len(at), asked, c.at)
			})
		}
	}
}

// A clock set back neither gives traces nor keeps any back: the wait goes on as it
// was.
func TestBudgetWhenTheClockIsSetBack(t *testing.T) {
	var c handClock
	b := newBudget(1, 2, c.now, always)
	b.allow()
	b.allow()
	left := b.spent()
	for _, to := range []time.Duration{-time.Hour, -time.Hour - 1, -24 * time.Hour} {
		c.at = to
		if got := b.spent(); got != left || b.allow() {
			t.Errorf("set to %v the wait is %v, want still %v", to, got, left)
		}
	}
	c.at += left
	if !b.allow() || b.allow() {
		t.Errorf("not one trace %v after the clock was set back", left)
	}
	c.at = math.MinInt64 / 4
	b.setRate(4)
	if got, want := b.spent(), time.Second/4; got != want {
		t.Errorf("set back and told another rate the wait is %v, want %v", got, want)
	}
}

// A new rate holds from now on: for what is left of the wait, and not for what is
// past.
func TestBudgetTakesAnotherRate(t *testing.T) {
	var c handClock
	b := newBudget(1, 5, c.now, always)
	for range 5 {
		b.allow()
	}
	c.at = b.spent() // and one is back
	b.allow()
	c.at += time.Second / 4
	b.setRate(.1)
	if got, want := b.spent(), 7500*time.Millisecond; got != want {
		t.Errorf("at a tenth of the rate the wait is %v, want %v", got, want)
	}
	c.at += 7500*time.Millisecond + 20*time.Second // two more, at the old rate 27
	b.setRate(1000)
	if n := b.tokens(); n != 3 {
		t.Errorf("%d tokens for the time at the lower rate, want 3", n)
	}
	c.at += time.Second
	if n := b.tokens(); n != 5 {
		t.Errorf("%d tokens, want the burst", n)
	}
	rate, refusal := b.told()
	if rate != 1000 || refusal != "more than 1000 traces per second asked of this host" {
		t.Errorf("%v a second, %q", rate, refusal)
	}
}

// Several who ask at a time get what one would.
func TestBudgetAskedByMany(t *testing.T) {
	const burst, askers = 5000, 4
	start := time.Now()
	b := newBudget(1e-6, burst, func() time.Duration { return time.Since(start) }, rand.Float64)
	var (
		all         sync.WaitGroup
		got, spared atomic.Int64
	)
	for range askers {
		all.Go(func() {
			for range burst {
				if b.allow() {
					got.Add(1)
				}
				if wait, ok := b.spare(); ok {
					spared.Add(1)
				} else if wait <= 0 {
					t.Errorf("nothing to spare, and none to wait for: %v", wait)
				}
				b.spent()
				b.tokens()
				b.told()
				b.setRate(1e-6)
			}
		})
	}
	all.Wait()
	if got, spared := got.Load(), spared.Load(); got+spared != burst || spared > burst/2 || b.tokens() != 0 {
		t.Errorf("%d and %d spared of a burst of %d, %d left; want all of it, half of it at most spared, none left", got, spared, burst, b.tokens())
	}
}

// BenchmarkBudget measures what a retransmit pays to learn whether it may be
// traced, 100 ns after the one before it.
func BenchmarkBudget(b *testing.B) {
	var c handClock
	start := time.Now()
	for _, of := range []struct {
		name  string
		rate  float64
		clock func() time.Duration
	}{
		{"refused", 1e-6, c.now},
		{"10 a second", 10, c.now},
		{"allowed", 1e12, c.now},
		{"10 a second with the clock read", 10, func() time.Duration { return time.Since(start) }},
	} {
		b.Run(of.name, func(b *testing.B) {
			budget := newBudget(of.rate, 50, of.clock, rand.Float64)
			b.ReportAllocs()
			for b.Loop() {
				c.at += 100
				budget.allow()
			}
		})
	}
}
