// Package sim tries decaf out on fabrics that it builds itself.
//
// A scenario file (package scenario) says what fabric, what traffic, which
// faults when, what users report, and what is expected of decaf. Run (run.go)
// plays it: a Lab (lab.go) brings up the fabric and, as separate processes, one
// agent per device and host, the traffic, and the service that correlates; the
// run then asks that service over HTTP, as any user would, and holds the answers
// against the expectations (expect.go) and against the fabric's own truth
// (truth.go). The demo (demo.go) is a lab whose faults go round for ever.
//
// Replay (replaying.go) puts recorded evidence to the methods of inference instead;
// packages flow and replay make and read such recordings without a kernel.
//
// What does not live here: the agents, the correlator, the API. Nothing in sim
// hands them anything that a real network would not.
package sim
