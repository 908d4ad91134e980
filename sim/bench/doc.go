// Package bench measures the agents on the kernel fabric: what they see, how
// soon, and what that costs the machine they run on. It is `decaf sim bench`.
//
// What lives here: bench.go (what a benchmark is, its options), figures.go (what
// it measured, how that is printed), target.go (what figures are held against),
// parts.go (its parts in turn, and how long is left), statistics.go, growth.go (what
// it means that memory is flat), and one or more files for each benchmark. Each
// compares within one run, agent off and on in turn, since figures of two runs on one
// machine differ by more than what is looked for. A benchmark fails only when it could
// not measure: a target that is missed is shown, and no failure, since a busy machine
// misses it too.
package bench
