package correlator

import (
	"math"
	"testing"

	"decaf/api"
	"decaf/api/decafpb"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// What two intervals of one connection, of 30 s and of 10 s, come to.
func TestPartsAddUp(t *testing.T) {
	t.Parallel()
	type record = decafpb.FlowRecord
	const tooMany = math.MaxUint32
	for _, c := range []struct {
		field      protoreflect.Name
		a, b, want int64
	}{
		{"packets", 100, 7, 107},
		{"retransmits", 3, 4, 7},
		{"timeouts", tooMany, 4, tooMany},
		{"rtt_mean_ns", 1000, 5000, 2000},
		{"rtt_mean_ns", 0, 5000, 5000},
		{"rtt_max_ns", 9000, 5000, 9000},
		{"rtt_min_ns", 400, 300, 300},
		{"rtt_min_ns", 300, 400, 300},
		{"rtt_min_ns", 0, 400, 400},
		{"rtt_min_ns", 400, 0, 400},
		{"rtt_var_ns", 900, 100, 100},
		{"rtt_var_ns", 100, 900, 900},
		{"rtt_var_ns", 100, 0, 100},
		{"cwnd_mean_bytes", 1000, 5000, 2000},
		{"cwnd_delta_bytes", 5000, -7000, -2000},
		{"cwnd_delta_bytes", -1 << 40, -1 << 40, -1 << 41},
		{"cwnd_reductions", 1, 2, 3},
		{"rwnd_mean_bytes", 4000, 8000, 5000},
		{"own_rwnd_mean_bytes", 4000, 8000, 5000},
		{"own_rwnd_mean_bytes", 4000, 0, 4000},
		{"shrunk_flows", 2, 3, 5},
		{"shrunk_flows", tooMany - 1, 3, tooMany},
		{"reorderings", 2, 3, 5},
		{"reorderings", 3, tooMany + 1, tooMany},
		{"zero_window_ns", 10, 20, 30},
		{"zero_window_probes", 4, 3, 4},
		{"zero_window_probes", 3, 4, 4},
		{"duration_ms", 25_000, 35_000, 35_000},
		{"duration_ms", 25_000, 0, 25_000}, // the agent began anew
		{"duration_ms", 0, 60 << 32, 60 << 32},
	} {
		field := (&record{}).ProtoReflect().Descriptor().Fields().ByName(c.field)
		part := func(start, end uint64, n int64) connPart {
			r := &record{StartNs: start, EndNs: end}
			if field.Kind() == protoreflect.Sint64Kind {
				r.ProtoReflect().Set(field, protoreflect.ValueOfInt64(n))
			} else {
				r.ProtoReflect().Set(field, protoreflect.ValueOfUint64(uint64(n)))
			}
			return partOf(r)
		}
		p, q := part(0, 30e9, c.a), part(30e9, 40e9, c.b)
		p.add(&q, false)
		r := &record{}
		p.into(r)
		var got int64
		if v := r.ProtoReflect().Get(field); field.Kind() == protoreflect.Sint64Kind {
			got = v.Int()
		} else {
			got = int64(v.Uint())
		}
		if got != c.want {
			t.Errorf("%s of %d and then %d: %d, want %d", c.field, c.a, c.b, got, c.want)
		}
	}
}

// Whatever a host tells of a connection or a service in one interval is answered as it
// told it, in every field.
func TestNoFieldOfARecordIsDropped(t *testing.T) {
	t.Parallel()
	elsewhere := map[protoreflect.Name]bool{
		"origin": true, "path": true, "received_ns": true, // of the bus, of its traces
	}
	for name, of := range map[string]func(*teller) *decafpb.FlowRecord{
		"connection": func(x *teller) *decafpb.FlowRecord { return x.conn(h0, h1, 4000, stOpen, 130) },
		"service":    func(x *teller) *decafpb.FlowRecord { return x.service(h0, h1, 3, 130) },
	} {
		s, x := tableStore(t, 1<<20)
		told := of(x)
		m := told.ProtoReflect()
		for i := range m.Descriptor().Fields().Len() {
			f := m.Descriptor().Fields().Get(i)
			if elsewhere[f.Name()] || m.Has(f) || f.Name() == "cookie" || f.Name() == "flows" {
				continue
			}
			switch f.Kind() {
			case protoreflect.Uint64Kind:
				m.Set(f, protoreflect.ValueOfUint64(uint64(1000+i)))
			case protoreflect.Uint32Kind:
				m.Set(f, protoreflect.ValueOfUint32(uint32(1000+i)))
			case protoreflect.Sint64Kind:
				m.Set(f, protoreflect.ValueOfInt64(int64(-1000-i)))
			case protoreflect.Int32Kind:
				m.Set(f, protoreflect.ValueOfInt32(int32(i)))
			case protoreflect.BoolKind:
				m.Set(f, protoreflect.ValueOfBool(true))
			case protoreflect.StringKind:
				m.Set(f, protoreflect.ValueOfString(string(f.Name())))
			case protoreflect.EnumKind:
				m.Set(f, protoreflect.ValueOfEnum(1))
			default:
				t.Fatalf("%s: this test knows no %v", f.Name(), f.Kind())
			}
		}
		s.AddFlow(told, 130*second)
		rows := shown(s.connections(api.Range{})).Rows
		if name == "service" {
			rows = shown(s.services(api.Range{})).Rows
		}
		if len(rows) != 1 {
			t.Fatalf("%s: %d rows", name, len(rows))
		}
		for i := range m.Descriptor().Fields().Len() {
			f := m.Descriptor().Fields().Get(i)
			if got := rows[0].ProtoReflect(); !elsewhere[f.Name()] && !got.Get(f).Equal(m.Get(f)) {
				t.Errorf("%s: %s is %v, was told as %v", name, f.Name(), got.Get(f), m.Get(f))
			}
		}
	}
}

// Whose a socket is, the newest record says; 0 is root, and not the same as unknown.
func TestOwnerOfAConnection(t *testing.T) {
	t.Parallel()
	s, x := tableStore(t, 1<<20)
	f := func(want *uint32, end int64, uid *uint32) {
		t.Helper()
		s.AddFlow(with(x.conn(h0, h1, 4000, stOpen, end), func(r *decafpb.FlowRecord) { r.Uid = uid }), end*second)
		got := shown(s.connections(api.Range{})).Rows[0].Uid
		if (got == nil) != (want == nil) || got != nil && *got != *want {
			t.Errorf("after the one of %d s: %v, want %v", end, got, want)
		}
	}
	root, user := proto.Uint32(0), proto.Uint32(1000)
	f(nil, 130, nil)
	f(user, 190, user)
	f(user, 160, root) // late
	f(root, 220, root)
}

// Of a connection that is held in few parts, what is folded is told as of the time
// asked for.
func TestFoldedPartsOverTime(t *testing.T) {
	t.Parallel()
	s, x := tableStore(t, 1<<20)
	const n = 100
	for i := range int64(n) {
		end := 100 + i
		s.AddFlow(with(x.conn(h0, h1, 4000, stOpen, end), func(r *decafpb.FlowRecord) {
			r.StartNs, r.DurationMs, r.RttVarNs, r.RttMinNs = uint64((end-1)*second), uint64(1000*i), uint64(1+i), uint64(1000-i)
			r.CwndDeltaBytes, r.Reorderings, r.ZeroWindowProbes, r.OwnRwndMeanBytes = -i, 1, uint64(n-i), 4096
		}), end*second)
	}
	r := shown(s.connections(api.Range{})).Rows[0]
	if len(r.Parts) > maxParts || r.DurationMs != 1000*(n-1) || r.RttVarNs != n || r.RttMinNs != 1000-(n-1) ||
		r.CwndDeltaBytes != -n*(n-1)/2 || r.Reorderings != n || r.ZeroWindowProbes != n || r.OwnRwndMeanBytes != 4096 {
		t.Errorf("%d parts, %v", len(r.Parts), r)
	}
}
