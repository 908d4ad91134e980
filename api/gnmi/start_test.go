package gnmi

import (
	"encoding/binary"
	"io"
	"testing"

	"decaf/api/decafpb"
	"decaf/api/yang"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
)

// realAggregate is an aggregate as a device makes it of a flood.
func realAggregate(seq uint64, flows, prefixes int) yang.Aggregate {
	a := yang.Aggregate{LossAggregate: &decafpb.LossAggregate{Origin: &decafpb.Origin{BootId: 9, Seq: seq},
		StartNs: 1_700_000_000_000_000_000 + seq, EndNs: 1_700_000_001_000_000_000 + seq,
		Class: "policy/l3/acl", Ingress: "eth1", Egress: "eth2", Packets: 300_000, Bytes: 30_000_000}, Events: 100, Unattributed: 7}
	for i := range uint32(flows) {
		a.TopFlows = append(a.TopFlows, &decafpb.FlowCount{Packets: 30_000, PacketsError: 3,
			Flow: &decafpb.Flow{Src: binary.BigEndian.AppendUint32(nil, 10<<24+i), Dst: []byte{10, 0, 0, 2}, Protocol: 17, SrcPort: 40_000 + i, DstPort: 53}})
	}
	for i := range uint32(prefixes) {
		a.TopPrefixes = append(a.TopPrefixes, &decafpb.PrefixCount{Packets: 30_000, PacketsError: 3, Source: i%2 == 0,
			Prefix: &decafpb.Prefix{Address: binary.BigEndian.AppendUint32(nil, 10<<24+i<<8), Length: 24}})
	}
	return a
}

// aggregates publishes so many aggregates.
func (r *rig) aggregates(n, flows, prefixes int) {
	for seq := range uint64(n) {
		r.Publish(yang.AggregateUpdates(realAggregate(seq+1, flows, prefixes), seq%uint64(r.cfg.Ring), 9))
	}
}

// An op is a call while the ring is full of the aggregates of a flood, with 10
// flows and 20 prefixes each; cpu-ns is the processor time of target and client,
// which decodes nothing.
func BenchmarkStart(b *testing.B) {
	const once, stream = gnmipb.SubscriptionList_ONCE, gnmipb.SubscriptionList_STREAM
	subscribe := func(mode gnmipb.SubscriptionList_Mode, e gnmipb.Encoding, p string) func(*testing.B, *rig) int {
		return func(b *testing.B, r *rig) int {
			s := r.raw(r.conn, &gnmipb.SubscriptionList{Mode: mode, Encoding: e, Subscription: []*gnmipb.Subscription{
				{Path: path(p), Mode: gnmipb.SubscriptionMode_ON_CHANGE}}})
			bytes := 0
			for {
				var f frames
				if err := s.RecvMsg(&f); err == io.EOF {
					return bytes
				} else if err != nil {
					b.Fatal(err)
				}
				bytes += f.bytes
				if mode == stream && f.bytes == 2 { // sync_response
					return bytes
				}
			}
		}
	}
	get := func(e gnmipb.Encoding, p string) func(*testing.B, *rig) int {
		return func(b *testing.B, r *rig) int {
			var f frames
			if err := r.conn.Invoke(b.Context(), gnmipb.GNMI_Get_FullMethodName, &gnmipb.GetRequest{Encoding: e, Path: []*gnmipb.Path{path(p)}}, &f,
				grpc.ForceCodecV2(byteCodec{encoding.GetCodecV2(grpcproto.Name)}), grpc.MaxCallRecvMsgSize(1<<30)); err != nil {
				b.Fatal(err)
			}
			return f.bytes
		}
	}
	const leaf, all = "/loss/agent/state/name", "/loss"
	for _, c := range []struct {
		name string
		call func(*testing.B, *rig) int
	}{
		{"get/leaf", get(gnmipb.Encoding_JSON, leaf)},
		{"once/leaf", subscribe(once, gnmipb.Encoding_JSON, leaf)},
		{"stream/leaf", subscribe(stream, gnmipb.Encoding_JSON, leaf)},
		{"get/class", get(gnmipb.Encoding_JSON, "/loss/aggregates/aggregate/state/class")},
		{"once/class", subscribe(once, gnmipb.Encoding_JSON, "/loss/aggregates/aggregate/state/class")},
		{"once/all/PROTO", subscribe(once, gnmipb.Encoding_PROTO, all)},
		{"once/all/JSON", subscribe(once, gnmipb.Encoding_JSON, all)},
		{"once/all/JSON_IETF", subscribe(once, gnmipb.Encoding_JSON_IETF, all)},
	} {
		b.Run(c.name, func(b *testing.B) {
			r := newRig(b, func(c *Config) { c.Ring = 1024 })
			r.aggregates(1024, 10, 20)
			bytes := 0
			before := processorTime(b)
			b.ReportAllocs()
			for b.Loop() {
				bytes += c.call(b, r)
			}
			b.ReportMetric(float64(processorTime(b)-before)/float64(b.N), "cpu-ns/op")
			b.ReportMetric(float64(bytes)/float64(b.N), "sent-B/op")
		})
	}
}
