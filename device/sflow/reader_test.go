package sflow_test

import (
	"encoding/hex"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"decaf/device/sflow"
	"decaf/device/sflow/sflowtest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var agent = netip.MustParseAddr("192.0.2.1")

// read takes a whole datagram apart, copying each notification.
func read(b []byte) (r sflow.Reader, drops []sflow.Drop, err error) {
	if err := r.Reset(b); err != nil {
		return r, nil, err
	}
	for r.Next() {
		drops = append(drops, r.Drop)
	}
	return r, drops, r.Err()
}

func datagram(samples ...[]byte) []byte {
	return sflowtest.Datagram{Agent: agent, SubAgent: 2, Sequence: 3, Uptime: 4000, Samples: samples}.Bytes()
}

// A datagram typed in by hand from the structures of the specification, so that
// encoder and decoder cannot both be wrong in the same way.
func TestDatagramByHand(t *testing.T) {
	b, err := hex.DecodeString(strings.Join(strings.Fields(`
		00000005 00000001 c0000201 00000007 0000002a 00015f90 00000001
		00000005 00000058
		  00000064 00000000 00000005 00000009 00000003 00000004 00000102 00000002
		  00000001 00000024
		    00000001 00000052 00000004 00000012
		      020000000002 020000000001 0800 4500 0040 0000
		  0000040c 00000004 00000006
	`), ""))
	if err != nil {
		t.Fatal(err)
	}
	r, drops, err := read(b)
	if err != nil {
		t.Fatal(err)
	}
	if want := (sflow.Datagram{Agent: agent, SubAgent: 7, Sequence: 42, Uptime: 90000, Samples: 1}); r.Datagram != want {
		t.Errorf("header %+v, want %+v", r.Datagram, want)
	}
	want := []sflow.Drop{{
		Sequence: 100, SourceIndex: 5, Suppressed: 9, Input: 3, Output: 4, Reason: 258,
		Has: sflow.HasHeader | sflow.HasQueue, HeaderProtocol: 1, FrameLength: 82, Stripped: 4,
		Header: []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 0x40}, Queue: 6,
	}}
	if d := cmp.Diff(want, drops, cmpopts.EquateEmpty()); d != "" {
		t.Error(d)
	}
}

func TestRecords(t *testing.T) {
	header := []byte{1, 2, 3, 4, 5}
	for _, c := range []struct {
		name    string
		record  []byte
		want    sflow.Drop
		skipped uint64
	}{
		{"1 sampled header, padded", sflowtest.Header(1, 1518, 4, header), sflow.Drop{Has: sflow.HasHeader, HeaderProtocol: 1, FrameLength: 1518, Stripped: 4, Header: header}, 0},
		{"1036 egress queue", sflowtest.Queue(7), sflow.Drop{Has: sflow.HasQueue, Queue: 7}, 0},
		{"1038 function", sflowtest.Function("ip_forward"), sflow.Drop{Has: sflow.HasFunction, Function: []byte("ip_forward")}, 0},
		{"1039 transit delay", sflowtest.TransitDelay(1500), sflow.Drop{Has: sflow.HasTransitDelay, TransitDelayNs: 1500}, 0},
		{"1040 queue depth", sflowtest.QueueDepth(65536), sflow.Drop{Has: sflow.HasQueueDepth, QueueDepthBytes: 65536}, 0},
		{"1041 hardware trap", sflowtest.Trap("acl_drops", "ingress_flow_action_drop"), sflow.Drop{Has: sflow.HasTrap, TrapGroup: []byte("acl_drops"), Trap: []byte("ingress_flow_action_drop")}, 0},
		{"1042 linux reason", sflowtest.LinuxReason("NETFILTER_DROP"), sflow.Drop{Has: sflow.HasLinuxReason, LinuxReason: []byte("NETFILTER_DROP")}, 0},
		{"1043 timestamp", sflowtest.Timestamp(1_700_000_000_123_456_789), sflow.Drop{Has: sflow.HasTimestamp, TimestampNs: 1_700_000_000_123_456_789}, 0},
		{"a longer one of a later version", sflowtest.Record(1036, []byte{0, 0, 0, 7, 9, 9, 9, 9}), sflow.Drop{Has: sflow.HasQueue, Queue: 7}, 0},
		{"1001 extended switch is of no use", sflowtest.Record(1001, make([]byte, 16)), sflow.Drop{}, 1},
		{"another enterprise", sflowtest.Record(4413<<12|1036, make([]byte, 4)), sflow.Drop{}, 1},
		{"format 0", sflowtest.Record(0, nil), sflow.Drop{}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			// Between two others, which show that it was stepped over exactly.
			s := sflowtest.Drop{Sequence: 11, Class: 12, Index: 13, Drops: 14, Input: 15, Output: 16, Reason: 257,
				Records: [][]byte{sflowtest.Record(9999, nil), c.record, sflowtest.Record(9999, []byte{1})}}.Sample()
			r, drops, err := read(datagram(s, s))
			if err != nil {
				t.Fatal(err)
			}
			c.want.Sequence, c.want.SourceClass, c.want.SourceIndex, c.want.Suppressed = 11, 12, 13, 14
			c.want.Input, c.want.Output, c.want.Reason = 15, 16, 257
			if d := cmp.Diff([]sflow.Drop{c.want, c.want}, drops, cmpopts.EquateEmpty()); d != "" {
				t.Error(d)
			}
			if want := (sflow.Skipped{Records: 2 * (2 + c.skipped)}); r.Skipped != want {
				t.Errorf("skipped %+v, want %+v", r.Skipped, want)
			}
		})
	}
}

func TestReaderSkips(t *testing.T) {
	drop := sflowtest.Drop{Sequence: 1, Reason: 258}.Sample()
	twice := sflowtest.Drop{Sequence: 2, Records: [][]byte{sflowtest.Queue(1), sflowtest.Queue(2)}}.Sample()
	r, drops, err := read(datagram(
		sflowtest.Sample(1, make([]byte, 40)),        // flow sample
		sflowtest.Sample(2, make([]byte, 13)),        // counter sample, padded
		drop,                                         //
		sflowtest.Sample(8800<<12|5, []byte("mine")), // format 5 of somebody else
		twice,
	))
	if err != nil {
		t.Fatal(err)
	}
	if len(drops) != 2 || drops[0].Sequence != 1 || drops[1].Sequence != 2 || drops[1].Queue != 1 {
		t.Errorf("notifications %+v, want 1 and 2, the latter with queue 1", drops)
	}
	if want := (sflow.Skipped{Samples: 3, Records: 1}); r.Skipped != want {
		t.Errorf("skipped %+v, want %+v", r.Skipped, want)
	}
}

func TestIPv6Agent(t *testing.T) {
	for _, a := range []string{"2001:db8::1", "::ffff:192.0.2.1"} {
		r, _, err := read(sflowtest.Datagram{Agent: netip.MustParseAddr(a)}.Bytes())
		if want := netip.MustParseAddr(a).Unmap(); err != nil || r.Datagram.Agent != want {
			t.Errorf("%s read as %s, %v; want %s", a, r.Datagram.Agent, err, want)
		}
	}
}

// Lengths that lie, wherever they stand, end what they govern and nothing else.
func TestBadInput(t *testing.T) {
	good := sflowtest.Drop{Sequence: 77}.Sample()
	// put overwrites 4 bytes.
	put := func(b []byte, at int, v ...byte) []byte { copy(b[at:], v); return b }
	huge := []byte{0xff, 0xff, 0xff, 0xff}
	one := func(records ...[]byte) []byte { return sflowtest.Drop{Records: records}.Sample() }
	for _, c := range []struct {
		name  string
		bytes []byte
		want  string // of the error
		drops int    // read all the same
		bad   uint64 // counted as malformed
	}{
		{"nothing", nil, "byte 0: version needs 4 bytes, 0 are left", 0, 0},
		{"three bytes", []byte{0, 0, 0}, "byte 0: version needs 4 bytes, 3 are left", 0, 0},
		{"version 4", put(datagram(good), 0, 0, 0, 0, 4), "byte 0: version is 4, this reads 5: set the sender to sFlow version 5", 0, 0},
		{"NetFlow 9", put(datagram(good), 0, 0, 9, 0, 1), "version is 589825", 0, 0},
		{"no agent address", put(datagram(good), 4, 0, 0, 0, 0), "byte 4: address type is 0, want 1 (IPv4) or 2 (IPv6)", 0, 0},
		{"half an agent address", datagram()[:10], "byte 8: agent address needs 4 bytes, 2 are left", 0, 0},
		{"half a header", datagram()[:22], "byte 20: uptime needs 4 bytes, 2 are left", 0, 0},
		{"more samples than bytes", put(datagram(good), 24, huge...), "byte 24: number of samples says 4294967295, at most 5 can be there", 0, 0},
		{"one sample too many", put(datagram(good), 24, 0, 0, 0, 2), "byte 68: sample format needs 4 bytes, 0 are left", 1, 0},
		{"one sample too few", put(datagram(good, good), 24, 0, 0, 0, 1), "byte 68: last sample is followed by 40 more bytes", 1, 0},
		{"sample beyond the end", put(datagram(good, good), 28+40+4, huge...), "byte 72: sample length says 4294967295 bytes, 32 are left", 1, 0},
		{"sample cut off", datagram(good, good)[:28+40+20], "byte 72: sample length says 32 bytes, 12 are left", 1, 0},
		{"notification shorter than its fixed part", datagram(sflowtest.Sample(5, make([]byte, 20)), good), "byte 56: output ifindex needs 4 bytes, 0 are left", 1, 1},
		{"more records than bytes", datagram(put(one(), 36, huge...), good), "byte 64: number of records says 4294967295, at most 0 can be there", 1, 1},
		{"record beyond its sample", datagram(put(one(sflowtest.Queue(1)), 44, 0, 0, 0, 8), good), "byte 72: record length says 8 bytes, 4 are left", 1, 1},
		{"record shorter than its structure", datagram(one(sflowtest.Record(1043, make([]byte, 4))), good), "byte 76: timestamp needs 8 bytes, 4 are left", 1, 1},
		{"header beyond its record", datagram(put(one(sflowtest.Header(1, 64, 0, make([]byte, 64))), 60, huge...), good), "byte 88: header says 4294967295 bytes, 64 are left", 1, 1},
		{"string beyond its record", datagram(put(one(sflowtest.Function("f")), 48, 0, 0, 0, 200), good), "byte 76: function says 200 bytes, 4 are left", 1, 1},
		{"trap without its name", datagram(one(sflowtest.Record(1041, []byte{0, 0, 0, 0})), good), "byte 80: trap name needs 4 bytes, 0 are left", 1, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, drops, err := read(c.bytes)
			var bad *sflow.Error
			if !errors.As(err, &bad) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			if len(drops) != c.drops || r.Skipped.Malformed != c.bad {
				t.Errorf("%d notifications and %d malformed, want %d and %d", len(drops), r.Skipped.Malformed, c.drops, c.bad)
			}
			for _, d := range drops {
				if d.Sequence != 77 {
					t.Errorf("notification %d is not the good one", d.Sequence)
				}
			}
		})
	}
}

// Some senders leave out the padding at the very end; nothing is lost by it.
func TestLastPaddingMissing(t *testing.T) {
	b := datagram(sflowtest.Drop{Records: [][]byte{sflowtest.Function("f")}}.Sample())
	b = b[:len(b)-3]
	b[28+7] -= 3      // the sample
	b[28+8+32+7] -= 3 // the record
	_, drops, err := read(b)
	if err != nil || len(drops) != 1 || string(drops[0].Function) != "f" {
		t.Errorf("%+v, %v; want one notification with function f", drops, err)
	}
}

// Whatever is cut off, what was whole before the cut is read.
func TestEveryCut(t *testing.T) {
	whole := datagram(
		sflowtest.Drop{Sequence: 1, Records: [][]byte{sflowtest.Header(1, 64, 4, make([]byte, 61)), sflowtest.Trap("g", "t")}}.Sample(),
		sflowtest.Drop{Sequence: 2, Records: [][]byte{sflowtest.LinuxReason("NO_SOCKET")}}.Sample(),
	)
	for n := range len(whole) {
		_, drops, err := read(whole[:n])
		if err == nil && n < len(whole)-3 { // 3 are padding
			t.Fatalf("%d of %d bytes: no error", n, len(whole))
		}
		for i, d := range drops {
			if d.Sequence != uint32(i+1) {
				t.Fatalf("%d of %d bytes: notification %d has sequence %d", n, len(whole), i, d.Sequence)
			}
		}
	}
}

func TestReaderAllocatesNothing(t *testing.T) {
	good := datagram(sflowtest.Drop{Records: [][]byte{sflowtest.Header(1, 64, 4, make([]byte, 61)), sflowtest.Trap("g", "t")}}.Sample())
	bad := good[:len(good)-8]
	var r sflow.Reader
	if n := testing.AllocsPerRun(100, func() {
		for _, b := range [][]byte{good, bad, good[:5]} {
			if r.Reset(b) != nil {
				continue
			}
			for r.Next() {
				_ = r.Drop.Frame()
			}
			_ = r.Err()
		}
	}); n != 0 {
		t.Errorf("%v allocations for three datagrams, want none", n)
	}
}

// FuzzReader: no datagram makes it panic, read outside, or go on for ever, and
// what a notification holds lies within the datagram.
func FuzzReader(f *testing.F) {
	all := [][]byte{sflowtest.Header(1, 64, 4, make([]byte, 61)), sflowtest.Queue(1), sflowtest.Function("f"), sflowtest.TransitDelay(1),
		sflowtest.QueueDepth(2), sflowtest.Trap("g", "t"), sflowtest.LinuxReason("NO_SOCKET"), sflowtest.Timestamp(3), sflowtest.Record(9<<12|9, nil)}
	f.Add(datagram(sflowtest.Drop{Sequence: 1, Reason: 258, Records: all}.Sample(), sflowtest.Sample(1, make([]byte, 32))))
	for _, r := range all {
		f.Add(datagram(sflowtest.Drop{Records: [][]byte{r}}.Sample()))
	}
	f.Add(sflowtest.Datagram{Agent: netip.IPv6Loopback()}.Bytes())
	f.Add([]byte{0, 0, 0, 5, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, drops, err := read(b)
		if err != nil && (!strings.HasPrefix(err.Error(), "sflow: byte ") || strings.Contains(err.Error(), "%!")) {
			t.Fatalf("error %q does not say where", err)
		}
		if n := uint64(len(drops)) + r.Skipped.Samples + r.Skipped.Malformed; n > uint64(len(b)/8) || err == nil && n != uint64(r.Datagram.Samples) {
			t.Fatalf("%d samples of %d in %d bytes", n, r.Datagram.Samples, len(b))
		}
		for _, d := range drops {
			held := len(d.Header) + len(d.Function) + len(d.TrapGroup) + len(d.Trap) + len(d.LinuxReason)
			fr := d.Frame()
			if held > len(b) || len(fr.Network) > len(d.Header) || fr.Length > d.FrameLength || d.Reason.String() == "" {
				t.Fatalf("notification %+v of %d bytes, frame %+v", d, len(b), fr)
			}
		}
	})
}
