package sflow

import "net/netip"

// Datagram is the header of a datagram.
type Datagram struct {
	Agent    netip.Addr // who speaks; unauthenticated
	SubAgent uint32     // an agent may number several streams of datagrams
	Sequence uint32     // of the datagram, per agent and sub-agent
	Uptime   uint32     // ms since the agent started
	Samples  uint32     // of any kind
}

// Fields is a set of what a notification told beside its fixed part.
type Fields uint16

// What a notification may tell, by the record that tells it: flow_data of
// enterprise 0 and the format given.
const (
	HasHeader       Fields = 1 << iota // 1 sampled_header
	HasQueue                           // 1036 extended_egress_queue
	HasFunction                        // 1038 extended_function
	HasTransitDelay                    // 1039 extended_transit
	HasQueueDepth                      // 1040 extended_queue_depth
	HasTrap                            // 1041 extended_hw_trap
	HasLinuxReason                     // 1042 extended_linux_reason
	HasTimestamp                       // 1043 extended_timestamp
)

// Drop is one notification: a packet that the agent's device dropped. Slices
// are parts of the datagram and hold while that does.
type Drop struct {
	Sequence    uint32 // per agent, sub-agent and source
	SourceClass uint32 // of the data source: 0 is an ifIndex
	SourceIndex uint32
	Suppressed  uint32 // notifications the agent left out since its start
	Input       uint32 // ifIndex, 0 when not known
	Output      uint32 // ifIndex, 0 when the packet was not dropped on its way out
	Reason      Reason

	Has             Fields
	HeaderProtocol  uint32 // 1 Ethernet, 11 IPv4, 12 IPv6
	FrameLength     uint32 // bytes on the wire, with the check sequence
	Stripped        uint32 // bytes taken off the frame before the header was copied
	Header          []byte
	Queue           uint32
	Function        []byte // kernel symbol
	TransitDelayNs  uint32
	QueueDepthBytes uint32
	TrapGroup, Trap []byte // names of Linux devlink
	LinuxReason     []byte // of enum skb_drop_reason
	TimestampNs     uint64 // since the Unix epoch
}

// Skipped counts what a reader stepped over, over all datagrams.
type Skipped struct {
	Samples   uint64 // of another kind or enterprise
	Records   uint64 // in notifications: unknown, or there already
	Malformed uint64 // notifications whose own lengths were wrong
}

const (
	formatDrop = 5 // discarded_packet

	recordHeader       = 1
	recordQueue        = 1036
	recordFunction     = 1038
	recordTransitDelay = 1039
	recordQueueDepth   = 1040
	recordTrap         = 1041
	recordLinuxReason  = 1042
	recordTimestamp    = 1043
)

// Reader takes datagrams apart, one after the other. Use it as
//
//	if err := r.Reset(b); err != nil { … }
//	for r.Next() { … r.Drop … }
//	if err := r.Err(); err != nil { … }
//
// The zero value is ready. It is for one goroutine.
type Reader struct {
	Datagram Datagram
	Drop     Drop
	Skipped  Skipped

	rest cursor
	left uint32 // samples
	err  Error
}

// Reset begins a datagram: it reads its header and returns an [*Error] when
// that is not sFlow version 5.
func (r *Reader) Reset(b []byte) error {
	r.rest, r.left, r.err = cursor{b: b}, 0, Error{}
	r.Datagram, r.Drop = Datagram{}, Drop{}
	c := &r.rest
	if v := c.u32("version"); !c.failed() && v != 5 {
		c.fail(version, 0, "version", v, 0)
	}
	at := c.at
	switch kind := c.u32("address type"); {
	case c.failed():
	case kind == 1:
		if a := c.fixed(4, "agent address"); a != nil {
			r.Datagram.Agent = netip.AddrFrom4([4]byte(a))
		}
	case kind == 2:
		if a := c.fixed(16, "agent address"); a != nil {
			r.Datagram.Agent = netip.AddrFrom16([16]byte(a)).Unmap()
		}
	default:
		c.fail(address, at, "address type", kind, 0)
	}
	r.Datagram.SubAgent = c.u32("sub-agent id")
	r.Datagram.Sequence = c.u32("sequence number")
	r.Datagram.Uptime = c.u32("uptime")
	r.Datagram.Samples = c.count(8, "number of samples")
	if c.failed() {
		r.err = c.err
		return &r.err
	}
	r.left = r.Datagram.Samples
	return nil
}

// Next goes on to the next notification and puts it into Drop. It is false at
// the end of the datagram, or where its lengths make no sense any more. A
// notification that is broken within its own length is passed over.
func (r *Reader) Next() bool {
	for ; r.left > 0; r.left-- {
		format := r.rest.u32("sample format")
		sample := r.rest.part("sample length")
		if r.rest.failed() {
			r.left = 0
			r.note(r.rest.err)
			return false
		}
		if format != formatDrop {
			r.Skipped.Samples++
			continue
		}
		if r.read(&sample); sample.failed() {
			r.Skipped.Malformed++
			r.note(sample.err)
			continue
		}
		r.left--
		return true
	}
	if n := r.rest.left(); n > 0 {
		r.rest.fail(trailing, r.rest.at, "last sample", 0, n)
		r.note(r.rest.err)
	}
	return false
}

// Err returns the first error since Reset, an [*Error] valid until the next
// Reset, or nil.
func (r *Reader) Err() error {
	if r.err.kind == 0 {
		return nil
	}
	return &r.err
}

func (r *Reader) note(err Error) {
	if r.err.kind == 0 {
		r.err = err
	}
}

// read takes one discarded_packet apart.
func (r *Reader) read(c *cursor) {
	d := &r.Drop
	*d = Drop{
		Sequence:    c.u32("drop sequence number"),
		SourceClass: c.u32("source id class"),
		SourceIndex: c.u32("source id index"),
		Suppressed:  c.u32("drops"),
		Input:       c.u32("input ifindex"),
		Output:      c.u32("output ifindex"),
		Reason:      Reason(c.u32("reason")),
	}
	for n := c.count(8, "number of records"); n > 0; n-- {
		format := c.u32("record format")
		rec := c.part("record length")
		if c.failed() {
			return
		}
		if !d.record(format, &rec) {
			r.Skipped.Records++
		}
		if rec.failed() {
			c.fail(rec.err.kind, 0, rec.err.Field, rec.err.got, rec.err.limit)
			c.err.Offset = rec.err.Offset
			return
		}
	}
}

// record reads one flow_data; false says that it was of no use. Bytes beyond
// those known are a later version's and left alone.
func (d *Drop) record(format uint32, c *cursor) bool {
	var has Fields
	switch format {
	case recordHeader:
		has = HasHeader
	case recordQueue:
		has = HasQueue
	case recordFunction:
		has = HasFunction
	case recordTransitDelay:
		has = HasTransitDelay
	case recordQueueDepth:
		has = HasQueueDepth
	case recordTrap:
		has = HasTrap
	case recordLinuxReason:
		has = HasLinuxReason
	case recordTimestamp:
		has = HasTimestamp
	}
	if has == 0 || d.Has&has != 0 {
		return false
	}
	d.Has |= has
	switch has {
	case HasHeader:
		d.HeaderProtocol = c.u32("header protocol")
		d.FrameLength = c.u32("frame length")
		d.Stripped = c.u32("stripped")
		d.Header = c.opaque("header")
	case HasQueue:
		d.Queue = c.u32("egress queue")
	case HasFunction:
		d.Function = c.opaque("function")
	case HasTransitDelay:
		d.TransitDelayNs = c.u32("transit delay")
	case HasQueueDepth:
		d.QueueDepthBytes = c.u32("queue depth")
	case HasTrap:
		d.TrapGroup = c.opaque("trap group")
		d.Trap = c.opaque("trap name")
	case HasLinuxReason:
		d.LinuxReason = c.opaque("linux reason")
	case HasTimestamp:
		d.TimestampNs = c.u64("timestamp")
	}
	return true
}
