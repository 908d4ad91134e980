package yang

import (
	"strings"
	"testing"
	"time"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
)

// values returns the numbers of notifications by path, keys left out, and checks
// that the schema has each.
func values(t *testing.T, list []*gnmipb.Notification) map[string]uint64 {
	t.Helper()
	out := map[string]uint64{}
	for _, n := range list {
		for _, u := range n.GetUpdate() {
			at, node := "", Schema()
			for _, e := range append(n.GetPrefix().GetElem(), u.GetPath().GetElem()...) {
				at += "/" + e.GetName()
				if node = node.Child(e.GetName()); node == nil {
					t.Fatalf("no %s in the schema", at)
				}
				for _, k := range node.Keys {
					if e.GetKey()[k] == "" {
						t.Errorf("%s without its key %s", at, k)
					}
				}
			}
			if !node.Leaf() || node.Writable {
				t.Errorf("%s: %+v", at, node)
			}
			out[at] = u.GetVal().GetUintVal()
		}
	}
	return out
}

// The paths are those that a monitoring system subscribes to on any device.
func TestStandardPaths(t *testing.T) {
	now := time.Unix(1, 0)
	list := InterfaceUpdates(InterfaceLoss{Name: "eth1", InErrors: 1, InDiscards: 2, InFCSErrors: 3, OutErrors: 4, OutDiscards: 5}, now)
	list = append(list, QueueUpdates(QueueLoss{Interface: "eth1", Name: "tbf-1:", DroppedPkts: 6}, now))
	got := values(t, list)
	for at, want := range map[string]uint64{
		"/interfaces/interface/state/name": 0, "/interfaces/interface/state/counters/in-errors": 1, "/interfaces/interface/state/counters/in-discards": 2,
		"/interfaces/interface/state/counters/in-fcs-errors": 3, "/interfaces/interface/state/counters/out-errors": 4, "/interfaces/interface/state/counters/out-discards": 5,
		"/qos/interfaces/interface/output/queues/queue/state/dropped-pkts": 6, "/qos/interfaces/interface/output/queues/queue/state/name": 0,
	} {
		if v, ok := got[at]; !ok || v != want {
			t.Errorf("%s is %d (%v), want %d", at, v, ok, want)
		}
	}
	for _, m := range Models() {
		if m.GetName() == "" || m.GetOrganization() == "" || m.GetVersion() == "" {
			t.Errorf("model %v", m)
		}
	}
}

// Each class is counted once, and what is no drop is not.
func TestPipelineOfEachClass(t *testing.T) {
	const top = "/components/component/integrated-circuit/pipeline-counters/drop/"
	for class, want := range map[string]string{
		"no-buffer": "congestion-aggregate", "unknown": "adverse-aggregate", "anomaly/loop": "", "anomaly/route-flap": "",
		"errors/l2/rx/crc-error": "adverse-aggregate", "errors/l2/tx": "adverse-aggregate", "errors/internal/parity-error": "adverse-aggregate",
		"errors/l3/rx/checksum-error": "adverse-aggregate invalid-packet", "errors/l3/rx/invalid-packet": "adverse-aggregate invalid-packet", "errors/l3/tx": "adverse-aggregate",
		"errors/l3/rx/no-route": "packet-processing-aggregate no-route", "errors/l3/rx/ttl-expired": "packet-processing-aggregate", "errors/l3/rx/mtu-exceeded": "packet-processing-aggregate",
		"policy/l2/acl": "packet-processing-aggregate acl-drops", "policy/l3/acl": "packet-processing-aggregate acl-drops", "policy/l3/rpf": "packet-processing-aggregate urpf-aggregate",
		"policy/l3/null-route": "packet-processing-aggregate", "policy/l3/policer": "packet-processing-aggregate", "policyx": "adverse-aggregate",
	} {
		for at, v := range values(t, PipelineUpdates("sw1", []ClassCounters{{Name: class, Packets: 7}, {Name: class, Packets: 2}}, time.Unix(1, 0))) {
			name := at[strings.LastIndexByte(at, '/')+1:]
			if name == "name" {
				continue
			}
			if !strings.HasPrefix(at, top) || v != map[bool]uint64{true: 9}[strings.Contains(" "+want+" ", " "+name+" ")] {
				t.Errorf("%s: %s is %d", class, at, v)
			}
		}
	}
}
