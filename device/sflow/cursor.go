package sflow

import "encoding/binary"

// cursor reads XDR (RFC 4506) from a part of a datagram. The first thing that
// is not there sets err; everything after that reads as zero.
type cursor struct {
	b    []byte
	base int // offset of b in the datagram
	at   int
	err  Error // err.kind is 0 while all is well
}

func (c *cursor) left() int { return len(c.b) - c.at }

func (c *cursor) failed() bool { return c.err.kind != 0 }

func (c *cursor) fail(kind errorKind, at int, field string, got uint32, limit int) {
	if !c.failed() {
		c.err = Error{Offset: c.base + at, Field: field, kind: kind, got: got, limit: limit}
	}
	c.at = len(c.b)
}

func (c *cursor) u32(field string) uint32 {
	if c.left() < 4 {
		c.fail(short, c.at, field, 4, c.left())
		return 0
	}
	v := binary.BigEndian.Uint32(c.b[c.at:])
	c.at += 4
	return v
}

func (c *cursor) u64(field string) uint64 {
	if c.left() < 8 {
		c.fail(short, c.at, field, 8, c.left())
		return 0
	}
	v := binary.BigEndian.Uint64(c.b[c.at:])
	c.at += 8
	return v
}

// fixed returns the next n bytes, a multiple of 4.
func (c *cursor) fixed(n int, field string) []byte {
	if c.left() < n {
		c.fail(short, c.at, field, uint32(n), c.left())
		return nil
	}
	v := c.b[c.at : c.at+n : c.at+n]
	c.at += n
	return v
}

// opaque returns bytes that stand behind their length, and steps over the
// padding to a multiple of 4. The last padding may be missing: some senders
// leave it out, and nothing is lost by it.
func (c *cursor) opaque(field string) []byte {
	start := c.at
	n := c.u32(field)
	if c.failed() {
		return nil
	}
	if uint64(n) > uint64(c.left()) {
		c.fail(tooLong, start, field, n, c.left())
		return nil
	}
	v := c.b[c.at : c.at+int(n) : c.at+int(n)]
	c.at += min(c.left(), (int(n)+3)&^3)
	return v
}

// count reads how many elements follow, each of at least size bytes.
func (c *cursor) count(size int, field string) uint32 {
	start := c.at
	n := c.u32(field)
	if most := c.left() / size; !c.failed() && uint64(n) > uint64(most) {
		c.fail(tooMany, start, field, n, most)
		return 0
	}
	return n
}

// part reads opaque data as a cursor of its own, which knows where it stands.
func (c *cursor) part(field string) cursor {
	start := c.at
	b := c.opaque(field)
	return cursor{b: b, base: c.base + start + 4}
}
