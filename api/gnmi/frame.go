package gnmi

import (
	"slices"
	"sync"

	"decaf/api/yang"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
)

// frame is a SubscribeResponse already marshalled: made once, sent to all who
// ask for the same. It is never changed.
type frame struct{ data mem.BufferSlice }

// newFrame is the frame of these updates of n, and its deletes.
func newFrame(schema *yang.Node, n *gnmipb.Notification, updates []*gnmipb.Update, k frameKey, duplicates uint32) *frame {
	return written(func(b []byte) []byte { return appendResponse(b, schema, n, updates, k, duplicates) })
}

// written is the frame of what write appends.
func written(write func([]byte) []byte) *frame {
	room := rooms.Get().(*[]byte)
	*room = write((*room)[:0])
	f := &frame{mem.BufferSlice{mem.SliceBuffer(slices.Clone(*room))}}
	rooms.Put(room)
	return f
}

// rooms are where frames are made: they are kept no larger than they are.
var rooms = sync.Pool{New: func() any { return new([]byte) }}

// frameKey is what the bytes of a whole event depend on.
type frameKey struct {
	encoding       gnmipb.Encoding
	target, origin string
}

// keyedFrame is the frame of a whole event for those who ask for it that way.
type keyedFrame struct {
	frameKey
	*frame
}

// maxFrames bounds what one event keeps: a target name is the client's choice.
const maxFrames = 4

// whole returns the frame of the whole event. That of one that is packed, to take
// no room, is not kept.
func (it *item) whole(schema *yang.Node, k frameKey) *frame {
	if f := it.made(k); f != nil {
		return f
	}
	if it.n.Load() == nil {
		return it.again(schema, k, 0)
	}
	it.mu.Lock()
	defer it.mu.Unlock()
	if f := it.made(k); f != nil {
		return f
	}
	f := it.again(schema, k, 0)
	if it.n.Load() == nil {
		return f // packed meanwhile
	}
	var have []keyedFrame
	if p := it.frames.Load(); p != nil {
		have = *p
	}
	if len(have) < maxFrames {
		have = append(slices.Clip(have), keyedFrame{k, f})
		it.frames.Store(&have)
	}
	return f
}

// again writes a frame of the whole event; duplicates is how many values of its
// leaves were not sent before.
func (it *item) again(schema *yang.Node, k frameKey, duplicates uint32) *frame {
	if n := it.n.Load(); n != nil {
		return newFrame(schema, n, n.GetUpdate(), k, duplicates)
	}
	return written(func(b []byte) []byte { return appendPacked(b, schema, it, k, duplicates) })
}

// made returns the frame if there is one already.
func (it *item) made(k frameKey) *frame {
	p := it.frames.Load()
	if p == nil {
		return nil
	}
	for i := range *p {
		if have := &(*p)[i]; have.frameKey == k {
			return have.frame
		}
	}
	return nil
}

// codec is gRPC's own protobuf codec, except that it takes a frame as it is.
type codec struct{ encoding.CodecV2 }

func newCodec() encoding.CodecV2 { return codec{encoding.GetCodecV2(grpcproto.Name)} }

// Marshal implements encoding.CodecV2.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if f, ok := v.(*frame); ok {
		return f.data, nil // its buffer counts no references
	}
	return c.CodecV2.Marshal(v)
}
