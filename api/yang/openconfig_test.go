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
	list = append(list, QueueUpdates(QueueLoss{Interface: "eth1", Name: "tbf-1:", DroppedPkts: 6, DroppedOctets: 7, Octets: true}, now)...)
	list = append(list, ACLUpdates("inet filter forward", ACLMixed, []ACLEntry{{SequenceID: 8, Description: "handle 4: acl-12", MatchedPackets: 9, MatchedOctets: 10}}, now)...)
	got := values(t, list)
	for at, want := range map[string]uint64{
		"/interfaces/interface/state/name": 0, "/interfaces/interface/state/counters/in-errors": 1, "/interfaces/interface/state/counters/in-discards": 2,
		"/interfaces/interface/state/counters/in-fcs-errors": 3, "/interfaces/interface/state/counters/out-errors": 4, "/interfaces/interface/state/counters/out-discards": 5,
		"/qos/interfaces/interface/state/interface-id": 0, "/qos/interfaces/interface/output/queues/queue/state/name": 0,
		"/qos/interfaces/interface/output/queues/queue/state/dropped-pkts": 6, "/qos/interfaces/interface/output/queues/queue/state/dropped-octets": 7,
		"/acl/acl-sets/acl-set/state/name": 0, "/acl/acl-sets/acl-set/state/type": 0, "/acl/acl-sets/acl-set/acl-entries/acl-entry/state/sequence-id": 8,
		"/acl/acl-sets/acl-set/acl-entries/acl-entry/state/matched-packets": 9, "/acl/acl-sets/acl-set/acl-entries/acl-entry/state/matched-octets": 10,
		"/acl/acl-sets/acl-set/acl-entries/acl-entry/state/description": 0,
	} {
		if v, ok := got[at]; !ok || v != want {
			t.Errorf("%s is %d (%v), want %d", at, v, ok, want)
		}
	}
	if len(got) != 16 {
		t.Errorf("%d leaves: %v", len(got), got)
	}
	// Octets that are not known are no octets that are 0.
	if got := values(t, QueueUpdates(QueueLoss{Interface: "eth1", Name: "tbf-1:"}, now)); len(got) != 3 {
		t.Errorf("a queue whose octets are not known: %v", got)
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
		"errors/l2/rx/crc-error": "", "errors/l2/rx": "", "errors/l2/tx": "adverse-aggregate", "errors/internal/parity-error": "adverse-aggregate",
		"errors/l3/rx/checksum-error": "invalid-packet", "errors/l3/rx/invalid-packet": "invalid-packet", "errors/l3/tx": "adverse-aggregate",
		"errors/l3/rx/no-route": "packet-processing-aggregate no-route", "errors/l3/rx/ttl-expired": "packet-processing-aggregate", "errors/l3/rx/mtu-exceeded": "packet-processing-aggregate",
		"errors/l3/rx/invalid-label": "packet-processing-aggregate no-label", "errors/l3/rx/invalid-sid": "packet-processing-aggregate",
		"policy/l2/acl": "packet-processing-aggregate acl-drops", "policy/l3/acl": "packet-processing-aggregate acl-drops", "policy/l3/rpf": "packet-processing-aggregate urpf-aggregate",
		"policy/l3/null-route": "packet-processing-aggregate", "policy/l3/policer": "packet-processing-aggregate", "policyx": "adverse-aggregate",
	} {
		for at, v := range values(t, PipelineUpdates("sw1", []ClassCounters{{Name: class, Packets: 7}, {Name: class, Packets: 2}}, 0, time.Unix(1, 0))) {
			name := at[strings.LastIndexByte(at, '/')+1:]
			if name == "name" || name == "type" {
				continue
			}
			if !strings.HasPrefix(at, top) || v != map[bool]uint64{true: 9}[strings.Contains(" "+want+" ", " "+name+" ")] {
				t.Errorf("%s: %s is %d", class, at, v)
			}
		}
	}
}

// What a queue's own counter shows is no congestion of the circuit.
func TestPipelineWithoutQueueDrops(t *testing.T) {
	const at = "/components/component/integrated-circuit/pipeline-counters/drop/state/congestion-aggregate"
	classes := []ClassCounters{{Name: "no-buffer", Packets: 10}}
	for queued, want := range map[uint64]uint64{0: 10, 7: 3, 10: 0, 12: 0} {
		if got := values(t, PipelineUpdates("sw1", classes, queued, time.Unix(1, 0)))[at]; got != want {
			t.Errorf("%d of 10 at queues: %d, want %d", queued, got, want)
		}
	}
	if classes[0].Packets != 10 {
		t.Error("the classes were changed")
	}
}
