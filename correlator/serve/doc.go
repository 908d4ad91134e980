// Package serve wires the service process, `decaf serve`: NATS (embedded
// unless a URL is given), the correlator, and the API with its page. Start
// order is that; stop order the reverse. It concludes nothing of its own.
//
// # Without a topology file
//
// With topology: learned, surveys of the hosts' agents tell of the network
// (learning.go). At the start that is what was in use before (learned.json in the data
// directory), else what the stored surveys show, else nothing. Hosts whose agents are
// heard of are of the network before any survey shows them, so that they can be told to
// survey.
//
// While the service runs it goes on with what surveys show by then, once that has been
// the same for half a minute, or differed for five, at most once a minute, and down to
// once in ten where it goes on changing (settling.go). Devices keep their names; a link
// that no survey shows any more stays for as long as a survey counts, two days, since
// walks go around a link just when it is at fault ([topology.Lasting]).
//
// A correlator does not change its topology: the next one follows it, on the same
// connection to NATS, and takes up findings, reports, surveys and evidence as after a
// restart. The API stays where it is (live.go): until the next correlator has read all
// that, the one before answers by what it knew, and reports wait. Its counters at
// /metrics begin at 0 again. An open finding of what the new topology does not have ends
// and says so.
//
// No device of a learned topology has a gNMI target, so evidence is that of hosts alone.
// The embedded NATS lets in every host with a certificate of the site's authority, as no
// file lists them; each of them has a say in what the network looks like. An address is
// the first host's that surveys from it, for as long as that counts: another that claims
// it is left out and counted.
package serve
