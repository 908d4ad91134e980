// Package scenario reads the files that say what to try on a fabric: its size,
// the traffic, the faults over time, the fault reports and what decaf is
// expected to conclude. One file runs on every kind of fabric.
//
// # What lives here
//
//   - scenario.go: the types, and what follows from them alone
//   - parse.go: the strict YAML form, read by [Load] and [Parse]
//   - unit.go: durations, shares (1%), rates (10/s), ranges (1..100), patterns
//   - kind.go: the fault kinds: what they happen on, what is to blame
//   - random.go: the grammar of "random link" and its like
//   - draw.go: [Scenario.Draw], which replaces what is random or relative
//
// # What does not
//
// Nothing here makes a fault, a packet or a verdict; fabrics do, and the runner
// compares. A key that a fabric cannot honour is that fabric's error.
//
// # The way through
//
// [Load] a file, build its topology with [Fabric.Topology], [Scenario.Draw] with
// a seed, hand the result to a fabric. What has been drawn names real components
// only.
package scenario
