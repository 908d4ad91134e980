package tracer

import (
	"fmt"
	"math"
	"sync"
	"time"
)

// budget is how many traces this host may start: a token bucket, one token a
// trace. It is safe for concurrent use; the clock and the source of chance are the
// maker's.
//
// What a token of 007's bound protects is the ICMP answers of switches, which are
// many hosts' to share (007, NSDI 2018, theorem 1), and hosts lose packets
// together: a link dies, and all that used it trace what they lost until their
// bursts are gone, within moments of each other. Were tokens to come back one per
// 1/rate, all of these would from then on trace in step, at the same switches, and
// the bound would hold on average only: 100 hosts at 10/s ask for 100 answers within
// a moment of each 100 ms, and for none in the rest. So tokens come back at random
// moments, each so long after the one before:
//
//   - whether the bucket is full or not, as a process that goes on by itself and
//     began at a random moment of an interval. So the first token after the burst
//     comes back at a moment of each host's own, and hosts that ran dry together ask
//     for rate times hosts in any slice of time, from the first on.
//   - uniform between half and one and a half of 1/rate, so that hosts that meet at a
//     moment by chance do not meet at the next. Exponential intervals would do that as
//     well, but bound nothing, and the traces of all hosts together would vary from
//     second to second as Poisson's do, with their mean for variance: of these it is a
//     tenth at 10/s.
//
// In any time t there are burst + rate·t traces on average, and burst + 2·rate·t + 1
// at most. What is there of the burst is given at once: a path is worth most when it
// is asked for right after the loss, and retransmits are spread by their own timers.
//
// So is the beginning of an epoch, when every flow may be traced anew: its next
// retransmit asks for that, whenever it comes, and no host gives more than its burst.
// Epochs begin everywhere at the same time, on purpose. They are the correlator's,
// which holds the records of all hosts in one against each other: were one to begin
// elsewhere on each host, records of this one would carry paths of that before,
// after routes changed.
type budget struct {
	clock  func() time.Duration // since any moment
	random func() float64       // uniform in [0, 1)
	burst  int

	mu      sync.Mutex
	rate    float64 // tokens per second
	refusal string
	have    int           // tokens
	next    time.Duration // when one more comes back
	last    time.Duration // when that was looked at
}

// newBudget gives a full one. rate is more than 0, burst at least 1.
func newBudget(rate float64, burst int, clock func() time.Duration, random func() float64) *budget {
	b := &budget{clock: clock, random: random, burst: burst, have: burst, last: clock()}
	b.set(rate)
	b.next = b.last + b.phase()
	return b
}

// update gives back the tokens due by now. The lock is held: so looks at the clock
// come in order, and one further back than the last means that the clock was set.
// Then the wait goes on as it was.
func (b *budget) update() (now time.Duration) {
	now = b.clock()
	if now < b.last {
		b.next -= b.last - now
	}
	b.last = now
	for b.have < b.burst && b.next <= now {
		b.have++
		b.next += b.interval()
	}
	if b.next <= now {
		// There was no room for that token, nor for who knows how many more.
		b.next = now + b.phase()
	}
	return now
}

// interval draws the time from one token to the next.
func (b *budget) interval() time.Duration { return b.means(.5 + b.random()) }

// phase draws the time to the next token from a moment that has nothing to do with
// the last one: the rest, from a point anywhere in it, of the interval which that
// moment falls in. Longer ones are hit more often, so the density of their length x,
// in means, is x.
func (b *budget) phase() time.Duration {
	return b.means(math.Sqrt(.25+2*b.random()) * b.random())
}

// means is n times the mean time between two tokens. None is longer than what leaves
// room to add.
func (b *budget) means(n float64) time.Duration {
	return time.Duration(min(n/b.rate*float64(time.Second), math.MaxInt64/4))
}

// allow takes a token, if there is one.
func (b *budget) allow() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.update()
	if b.have == 0 {
		return false
	}
	b.have--
	return true
}

// spare takes a token if more than half of the burst is there, rounded down, for
// what is not urgent. Otherwise it says for how long nothing can change.
func (b *budget) spare() (wait time.Duration, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.update()
	if b.have <= b.burst/2 {
		return b.next - now, false
	}
	b.have--
	return 0, true
}

// spent is the time until there is a token again; 0: there is one.
func (b *budget) spent() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.update()
	if b.have > 0 {
		return 0
	}
	return b.next - now
}

// tokens is how many traces may start at once.
func (b *budget) tokens() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.update()
	return b.have
}

// setRate changes the rate from now on: what is left of the wait for the next
// token becomes longer or shorter with all others.
func (b *budget) setRate(perSecond float64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.update()
	left := (b.next - now).Seconds() * b.rate
	b.set(perSecond)
	b.next = now + b.means(left)
}

// set also words what is said of each trace refused, of which there may be
// thousands a second.
func (b *budget) set(perSecond float64) {
	b.rate = perSecond
	b.refusal = fmt.Sprintf("more than %g traces per second asked of this host", perSecond)
}

// told is the rate, and what is said of a trace that there is no token for.
func (b *budget) told() (perSecond float64, refusal string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.rate, b.refusal
}
