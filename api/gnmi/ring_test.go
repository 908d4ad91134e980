package gnmi

import (
	"fmt"
	"testing"

	"decaf/api/yang"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/protobuf/proto"
)

// Large events of some time ago are kept as bytes, and are what they were to who
// asks for them.
func TestRingPacksLargeEvents(t *testing.T) {
	event := func(number, updates int) *gnmipb.Notification {
		n := &gnmipb.Notification{Timestamp: int64(number), Prefix: &gnmipb.Path{Elem: []*gnmipb.PathElem{
			{Name: "loss"}, {Name: "aggregates"}, {Name: "aggregate", Key: map[string]string{"slot": fmt.Sprint(number)}},
		}}}
		for i := range updates {
			n.Update = append(n.Update, &gnmipb.Update{
				Path: &gnmipb.Path{Elem: []*gnmipb.PathElem{{Name: "state"}, {Name: fmt.Sprint("leaf", i)}}},
				Val:  &gnmipb.TypedValue{Value: &gnmipb.TypedValue_UintVal{UintVal: uint64(number)}},
			})
		}
		return n
	}
	const room, published = 100, 250
	for _, c := range []struct {
		what    string
		updates int
		packed  int // of those that are held
	}{
		{"few leaves", packUpdates - 1, 0},
		{"many", packUpdates, room - packAfter},
	} {
		r := newRings(room)
		for i := range published {
			it := newItem(event(i, c.updates))
			it.whole(yang.Schema(), frameKey{})
			r.add(it)
		}
		packed := 0
		for i, it := range r.all() {
			number := published - room + i
			if it.n.Load() == nil {
				packed++
				if it.made(frameKey{}) != nil {
					t.Errorf("%s: event %d is packed, and its frame is kept", c.what, number)
				}
			}
			if !proto.Equal(it.notification(), event(number, c.updates)) || it.at != int64(number) {
				t.Errorf("%s: event %d is not what it was", c.what, number)
			}
			if it.n.Load() == nil && len(it.whole(yang.Schema(), frameKey{}).data.Materialize()) == 0 {
				t.Errorf("%s: event %d has no frame", c.what, number)
			}
		}
		if packed != c.packed {
			t.Errorf("%s: %d packed, want %d", c.what, packed, c.packed)
		}
	}
}
