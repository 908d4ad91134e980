// Package sflow decodes sFlow version 5 datagrams, for the drop notifications
// in them: discarded packet samples, enterprise 0 format 5
// (https://sflow.org/sflow_version_5.txt, https://sflow.org/sflow_drops.txt).
//
// It does no I/O, allocates nothing per datagram, and believes no length or
// count before it was held against the bytes that are there. What it has no use
// for (flow and counter samples, other enterprises, unknown records) is skipped
// and counted.
//
// The way through it: cursor.go reads numbers, opaque data and strings as XDR
// has them (RFC 4506) or says in an Error of error.go where that failed;
// reader.go takes a datagram apart into notifications; frame.go finds the IP
// header in the sampled header of one; reason.go names the reasons.
//
// What a reason means for us, a class, is the device package's to say. Package
// sflowtest writes datagrams.
package sflow
