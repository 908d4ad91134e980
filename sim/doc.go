// Package sim tries decaf out on fabrics that it builds itself.
//
// A scenario file (package scenario) says what fabric, what traffic, which
// faults when, what users report, and what is expected of decaf. [Run] (run.go)
// plays it, asks decaf what it found as any user would, and holds the answers
// against the expectations (expect.go) and against the fabric's own truth
// (truth.go). It knows no fabric: it plays on a stage (fabric.go), of which there
// are three.
//
//   - kernel_stage.go, in real time: a [Lab] (lab.go) of network namespaces with, as
//     separate processes, one agent per device and host, the traffic, and the
//     service, which is asked over HTTP (client.go)
//   - virtual.go, on a clock of its own: the records of package flow given to the
//     correlator's engine, in one goroutine and with nothing random but by the seed
//   - live.go, package flow's records in real time: published by every host on a
//     NATS connection of its own, told by every device over gNMI, to the real
//     service
//
// The demo (demo.go) is the first or the last of these with faults that go round for
// ever.
//
// # Recordings
//
// record.go writes what agents said in a run as epochs of evidence, the truth beside
// it for scoring (package replay). Replay (replaying.go) puts such evidence, ours or
// anyone's, to the methods of inference.
//
// # What does not live here
//
// The agents, the correlator, the API. Nothing in sim hands them anything that a real
// network would not.
package sim
