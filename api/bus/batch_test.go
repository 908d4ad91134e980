package bus

import (
	"bytes"
	"strings"
	"testing"

	"decaf/api/decafpb"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
)

func testCodec(t testing.TB) *codec {
	c, err := newCodec()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.close)
	return c
}

// The table of record types is the schema's: each names a field of Batch, in
// order, and every field of Batch is in it.
func TestKindsAreTheFieldsOfBatch(t *testing.T) {
	fields := new(decafpb.Batch).ProtoReflect().Descriptor().Fields()
	if fields.Len() != len(kinds) {
		t.Fatalf("%d kinds, Batch has %d fields", len(kinds), fields.Len())
	}
	for i, m := range oneOfEach() {
		f := fields.ByNumber(kinds[i].field)
		if f == nil || f.Message().FullName() != m.ProtoReflect().Descriptor().FullName() {
			t.Errorf("kind %s: field %d is not %T", kinds[i].record, kinds[i].field, m)
		}
		if k := kindOf(m); k != i {
			t.Errorf("%T is kind %d, want %d", m, k, i)
		}
		if rec := string(f.Name()); strings.TrimSuffix(rec, "s") != kinds[i].record {
			t.Errorf("subject token %q for field %q", kinds[i].record, rec)
		}
		if !token.MatchString(kinds[i].record) {
			t.Errorf("%q is no subject token", kinds[i].record)
		}
		setOrigin(m, &decafpb.Origin{Producer: "h", BootId: 1, Seq: 1})
		raw, err := appendRecord(nil, i, m)
		if err != nil {
			t.Fatal(err)
		}
		b, err := testCodec(t).unpack(raw)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		eachRecord(b, func(k int, got evidence) bool {
			n++
			if k != i || !proto.Equal(got, m) {
				t.Errorf("%s came back as kind %d: %v", kinds[i].record, k, got)
			}
			return true
		})
		if n != 1 {
			t.Errorf("%s: %d records came back", kinds[i].record, n)
		}
	}
	if kindOf(&decafpb.Batch{}) != -1 || kindOf(nil) != -1 {
		t.Error("what is no record has a kind")
	}
}

func TestBatchesComeBackEqual(t *testing.T) {
	c := testCodec(t)
	for _, n := range []int{1, 2, 10, 500} {
		var raw []byte
		want := new(decafpb.Batch)
		for i := range n {
			m := withOrigin(retransmit(uint32(i)), "h", uint64(i+1))
			want.Retransmits = append(want.Retransmits, m)
			var err error
			if raw, err = appendRecord(raw, 4, m); err != nil {
				t.Fatal(err)
			}
		}
		payload := c.pack(raw)
		if compressed := bytes.HasPrefix(payload, zstdMagic); compressed != (len(raw) > compressAbove) {
			t.Errorf("%d bytes compressed: %v", len(raw), compressed)
		}
		got, err := c.unpack(payload)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got, protocmp.Transform()); d != "" {
			t.Errorf("%d records: %s", n, d)
		}
		t.Logf("%d records: %d bytes, %d as sent", n, len(raw), len(payload))
	}
}

func TestUnpackRefusesBombs(t *testing.T) {
	c := testCodec(t)
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer enc.Close()
	f := func(what string, payload []byte, says string) {
		t.Helper()
		b, err := c.unpack(payload)
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, %v; want an error that says %q", what, b, err, says)
		}
	}
	bomb := enc.EncodeAll(make([]byte, 200<<20), nil)
	f("200 MiB of zeros", bomb, "decompress")
	many := bytes.Repeat([]byte{0x0a, 0x00}, maxBatchRecords+1)
	f("too many empty records", many, "above the limit")
	f("the same compressed", enc.EncodeAll(many, nil), "above the limit")
	f("too long", make([]byte, maxBatchBytes+1), "above the limit")
	f("cut short", bomb[:len(bomb)/2], "decompress")
	f("an empty record", []byte{0x0a, 0x00}, "no origin")
}

func FuzzUnpack(f *testing.F) {
	c := testCodec(f)
	for i, m := range oneOfEach() {
		setOrigin(m, &decafpb.Origin{Producer: "h", BootId: 1, Seq: 1})
		raw, err := appendRecord(nil, i, m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
		f.Add(c.enc.EncodeAll(raw, nil))
		f.Add(raw[:len(raw)/2])
	}
	f.Add([]byte(nil))
	f.Add(zstdMagic)
	f.Add(bytes.Repeat([]byte{0x0a, 0x00}, 100))
	f.Fuzz(func(t *testing.T, payload []byte) {
		b, err := c.unpack(payload)
		if (b == nil) != (err != nil) {
			t.Fatalf("batch %v and error %v", b, err)
		}
		if err != nil {
			return
		}
		// What was taken can be sent on, and is then the same.
		var raw []byte
		eachRecord(b, func(k int, m evidence) bool {
			if err := validRecord(m); err != nil {
				t.Fatal(err)
			}
			raw, err = appendRecord(raw, k, m)
			if err != nil {
				t.Fatal(err)
			}
			return true
		})
		again, err := c.unpack(c.pack(raw))
		if err != nil {
			t.Fatal(err)
		}
		again.ProtoReflect().SetUnknown(b.ProtoReflect().GetUnknown())
		if !proto.Equal(again, b) {
			t.Fatal("not the same after encoding it again")
		}
	})
}

func TestSubjectsComeBack(t *testing.T) {
	f := func(subject, record, producer string, ok bool) {
		t.Helper()
		r, p, k := parseSubject(subject, "east")
		if k != ok || ok && (r != record || p != producer) {
			t.Errorf("%s: %q, %q, %v", subject, r, p, k)
		}
	}
	f(Subject("east", RecordDrop, "t2-0"), "drop", "t2-0", true)
	f("decaf.west.drop.t2-0", "", "", false)
	f("decaf.east.drop", "", "", false)
	f("decaf.east.drop.", "", "", false)
	f("decaf.east.drop.a.b", "", "", false)
	f("decaf.east..a", "", "", false)
}
