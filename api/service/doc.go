// Package service is what every long-running decaf command stands on:
// configuration (config.go, environment.go, duration.go), TLS files and a small certificate
// authority for trials (tls.go, ca.go), what may be served without TLS
// (listen.go), which privileges are given up once all is up
// (capabilities.go), health and metrics endpoints
// (health.go), orderly start and stop (run.go), new settings while it runs
// (reload.go), logging (log.go) and the
// version of the build (version.go).
//
// It knows nothing of evidence, NATS or gNMI: those live in the packages that
// use it. It imports nothing of ours.
//
// The way through it: a command reads its settings with [LoadConfig], makes a
// logger with [Logger], a context with [Signals], describes what it runs as
// [Part]s, and hands them to [RunAll].
package service
