package bus

import (
	"bytes"
	"fmt"

	"decaf/api/decafpb"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

const (
	// compressAbove is the encoded size from which a batch is compressed.
	compressAbove = 1 << 10
	// cutBytes cuts a batch before it has its full number of records.
	cutBytes = 128 << 10
	// maxRecordBytes is the largest single record taken.
	maxRecordBytes = 256 << 10
	// maxBatchBytes bounds a batch once decompressed; a batch of ours is at
	// most cutBytes + maxRecordBytes.
	maxBatchBytes = 1 << 20
	// maxBatchRecords bounds what a batch of very small records can grow to
	// in memory.
	maxBatchRecords = 10_000
)

// zstdMagic begins every zstd frame (RFC 8878, section 3.1.1). No encoded
// Batch begins with it: 0x28 would be field 5 as a varint, and field 5 is not
// one. So a payload says by itself whether it is compressed.
var zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}

// appendRecord appends m, of type kinds[k], to the encoding of a Batch: a
// Batch is its records' encodings one after the other.
func appendRecord(buf []byte, k int, m proto.Message) ([]byte, error) {
	buf = protowire.AppendTag(buf, kinds[k].field, protowire.BytesType)
	buf = protowire.AppendVarint(buf, uint64(proto.Size(m)))
	return proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(buf, m)
}

// codec compresses and decompresses batches. Safe for concurrent use.
type codec struct {
	enc *zstd.Encoder
	dec *zstd.Decoder
}

func newCodec() (*codec, error) {
	// One encoder's worth of memory, small windows: batches are small, and
	// an agent shares its machine with the work it watches.
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithWindowSize(256<<10), zstd.WithLowerEncoderMem(true), zstd.WithEncoderCRC(true))
	if err != nil {
		return nil, fmt.Errorf("zstd encoder: %w", err)
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxBatchBytes),
		zstd.WithDecoderMaxWindow(maxBatchBytes), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, fmt.Errorf("zstd decoder: %w", err)
	}
	return &codec{enc, dec}, nil
}

func (c *codec) close() {
	c.enc.Close()
	c.dec.Close()
}

// pack returns the payload of an encoded Batch.
func (c *codec) pack(raw []byte) []byte {
	if len(raw) <= compressAbove {
		return raw
	}
	return c.enc.EncodeAll(raw, make([]byte, 0, len(raw)/3))
}

// unpack decodes and validates a payload. It takes at most a small multiple of
// maxBatchBytes of memory, whatever the payload is.
func (c *codec) unpack(payload []byte) (*decafpb.Batch, error) {
	raw := payload
	if bytes.HasPrefix(payload, zstdMagic) {
		var err error
		if raw, err = c.dec.DecodeAll(payload, nil); err != nil {
			return nil, fmt.Errorf("decompress batch: %w", err)
		}
	}
	if len(raw) > maxBatchBytes {
		return nil, fmt.Errorf("batch of %d bytes is above the limit of %d", len(raw), maxBatchBytes)
	}
	n, err := countRecords(raw)
	if err != nil {
		return nil, fmt.Errorf("decode batch: %w", err)
	}
	if n > maxBatchRecords {
		return nil, fmt.Errorf("batch of %d records is above the limit of %d", n, maxBatchRecords)
	}
	b := new(decafpb.Batch)
	if err := proto.Unmarshal(raw, b); err != nil {
		return nil, fmt.Errorf("decode batch: %w", err)
	}
	eachRecord(b, func(k int, m evidence) bool {
		if err = validRecord(m); err != nil {
			err = fmt.Errorf("%s record: %w", kinds[k].record, err)
		}
		return err == nil
	})
	if err != nil {
		return nil, err
	}
	return b, nil
}

// countRecords counts the top-level fields of an encoded Batch without
// allocating for them.
func countRecords(raw []byte) (int, error) {
	n := 0
	for ; len(raw) > 0; n++ {
		_, _, size := protowire.ConsumeField(raw)
		if size < 0 {
			return 0, protowire.ParseError(size)
		}
		raw = raw[size:]
	}
	return n, nil
}

// speaksFor returns nil if b holds only records of the given type made by
// producer, as the subject it was published on says. Subjects are what NATS
// permissions guard, so this is what keeps one agent from speaking in
// another's name.
func speaksFor(b *decafpb.Batch, record, producer string) error {
	var err error
	eachRecord(b, func(k int, m evidence) bool {
		switch o := m.GetOrigin(); {
		case kinds[k].record != record:
			err = fmt.Errorf("a %s record among %s records", kinds[k].record, record)
		case o.GetProducer() != producer:
			err = fmt.Errorf("a record of %q from %q", o.GetProducer(), producer)
		}
		return err == nil
	})
	return err
}
