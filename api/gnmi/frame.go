package gnmi

import (
	"decaf/api/yang"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// frame is a SubscribeResponse already marshalled: made once, sent to all who
// ask for the same. It is never changed.
type frame struct{ data []byte }

// frameKey is what the bytes of a whole event depend on.
type frameKey struct {
	encoding       gnmipb.Encoding
	target, origin string
}

// maxFrames bounds what one event keeps: a target name is the client's choice.
const maxFrames = 4

// whole returns the frame of the whole event.
func (it *item) whole(schema *yang.Node, k frameKey) (*frame, error) {
	it.mu.Lock()
	defer it.mu.Unlock()
	if f := it.frames[k]; f != nil {
		return f, nil
	}
	f, err := marshal(encodeNotification(schema, it.n, it.n.GetUpdate(), k, 0))
	if err != nil {
		return nil, err
	}
	if it.frames == nil {
		it.frames = map[frameKey]*frame{}
	}
	if len(it.frames) < maxFrames {
		it.frames[k] = f
	}
	return f, nil
}

func marshal(n *gnmipb.Notification) (*frame, error) {
	b, err := proto.Marshal(&gnmipb.SubscribeResponse{Response: &gnmipb.SubscribeResponse_Update{Update: n}})
	if err != nil {
		return nil, err
	}
	return &frame{b}, nil
}

// codec is gRPC's own protobuf codec, except that it takes a frame as it is.
type codec struct{ encoding.CodecV2 }

func newCodec() encoding.CodecV2 { return codec{encoding.GetCodecV2(grpcproto.Name)} }

// Marshal implements encoding.CodecV2.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if f, ok := v.(*frame); ok {
		return mem.BufferSlice{mem.SliceBuffer(f.data)}, nil
	}
	return c.CodecV2.Marshal(v)
}
