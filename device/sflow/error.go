package sflow

import "fmt"

// Error says what in a datagram was not right, and where.
type Error struct {
	Offset int    // bytes from the beginning of the datagram
	Field  string // in the words of the sFlow specification
	kind   errorKind
	got    uint32
	limit  int
}

type errorKind uint8

const (
	short    errorKind = iota + 1 // limit bytes are left, got are needed
	tooLong                       // a length of got, limit bytes are left
	tooMany                       // a count of got, limit can be there at most
	version                       // version got
	address                       // address type got
	trailing                      // limit bytes after the end
)

func (e *Error) Error() string {
	const check = "the datagram was cut on its way or its sender miscounts: compare it with a capture taken at the sender"
	var what string
	switch e.kind {
	case short:
		what = fmt.Sprintf("needs %d bytes, %d are left: %s", e.got, e.limit, check)
	case tooLong:
		what = fmt.Sprintf("says %d bytes, %d are left: %s", e.got, e.limit, check)
	case tooMany:
		what = fmt.Sprintf("says %d, at most %d can be there: %s", e.got, e.limit, check)
	case version:
		what = fmt.Sprintf("is %d, this reads 5: set the sender to sFlow version 5, and see that nothing but sFlow is sent to this port", e.got)
	case address:
		what = fmt.Sprintf("is %d, want 1 (IPv4) or 2 (IPv6): give the sender an agent address", e.got)
	case trailing:
		what = fmt.Sprintf("is followed by %d more bytes: %s", e.limit, check)
	}
	return fmt.Sprintf("sflow: byte %d: %s %s", e.Offset, e.Field, what)
}
