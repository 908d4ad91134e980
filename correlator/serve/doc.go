// Package serve wires the service process, `decaf serve`: NATS (embedded
// unless a URL is given), the correlator, and the API with its page. Start
// order is that; stop order the reverse. It holds no logic of its own.
package serve
