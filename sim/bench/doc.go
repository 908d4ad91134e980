// Package bench measures the agents on the kernel fabric: what they see, how
// soon, and what that costs the machine they run on. It is `decaf sim bench`.
//
// What lives here: bench.go (what a benchmark is, how its figures are printed)
// and one file for each benchmark. Each compares within one run, agent off and
// on in turn, since figures of two runs on one machine differ by more than what
// is looked for. What does not: targets. A benchmark prints what it measured and
// fails only when it could not measure.
package bench
