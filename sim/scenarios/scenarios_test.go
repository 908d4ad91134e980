package scenarios

import (
	"slices"
	"strings"
	"testing"
	"time"

	"decaf/sim/scenario"
	"decaf/topology"
)

func TestNames(t *testing.T) {
	want := []string{"acl", "blackhole", "corrupt", "device-down", "device-loss", "host-slow", "mtu", "no-route", "queue", "quiet",
		"route-flap", "server-reset", "server-slow", "silent-loss-1", "silent-loss-5", "silent-loss-both", "silent-loss-ipv6",
		"syn-blackhole", "ttl-loop"}
	if got := Names(); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for _, name := range []string{"none", "", "../scenarios/acl", "acl.yaml.yaml"} {
		if _, ok := Get(name); ok {
			t.Errorf("%q is there", name)
		}
	}
	if _, ok := Get("acl.yaml"); !ok {
		t.Error("a name with its ending is not found")
	}
}

// Every scenario reads, is named as its file, and can be drawn by any seed: its
// expectations then name the component drawn, its reports' paths go through it.
func TestScenariosHold(t *testing.T) {
	for _, name := range Names() {
		t.Run(name, func(t *testing.T) {
			data, _ := Get(name)
			if d := Description(data); !strings.HasSuffix(d, ".") {
				t.Errorf("description %q", d)
			}
			s, err := scenario.Parse(name+".yaml", data)
			if err != nil {
				t.Fatal(err)
			}
			if s.Name != name {
				t.Errorf("is named %q", s.Name)
			}
			ip := map[string]topology.IP{"silent-loss-ipv6": topology.IPv6, "silent-loss-both": topology.IPBoth}[name]
			if want := (topology.ClosSpec{Site: "sim", Pods: 2, ToRs: 2, T1s: 2, T2s: 2, Hosts: 2, IP: ip}); s.Fabric.ClosSpec != want {
				t.Errorf("fabric %+v", s.Fabric)
			}
			if s.Traffic.ConnectionsPerHost != 10 || s.Traffic.PacketsMin != 1 || s.Traffic.PacketsMax != 100 {
				t.Errorf("traffic %+v", s.Traffic)
			}
			if s.Expect.FalseFindings == nil || *s.Expect.FalseFindings != 0 {
				t.Error("lets false findings pass")
			}
			if name == "quiet" {
				if len(s.Faults) > 0 || s.Duration != 10*time.Minute {
					t.Errorf("%d faults in %v", len(s.Faults), s.Duration)
				}
				return
			}
			within := 10 * time.Second
			if name == "silent-loss-5" {
				within = 5 * time.Second
			}
			if f := s.Faults[0]; s.Expect.Findings[0].By-f.At != within || s.Reports[0].At < f.At+within || s.Reports[0].At > f.At+f.For {
				t.Errorf("times: fault %+v, finding %+v, report %+v", f, s.Expect.Findings[0], s.Reports[0])
			}
			topo, err := s.Fabric.Topology()
			if err != nil {
				t.Fatal(err)
			}
			drawn := make(map[string]bool)
			for seed := range uint64(500) {
				d, err := s.Draw(topo, seed)
				if err != nil {
					t.Fatal(err)
				}
				on := d.Faults[0].On
				drawn[on] = true
				if d.Expect.Findings[0].Component != on || d.Expect.Verdicts[0].Component != on {
					t.Fatalf("%s: expected %+v", on, d.Expect)
				}
				for _, host := range []string{d.Reports[0].Src, d.Reports[0].Dst} {
					if _, ok := topo.Host(host); !ok {
						t.Fatalf("report of %q", host)
					}
				}
			}
			want := map[string]int{
				"silent-loss-1": 48, "silent-loss-5": 48, "silent-loss-ipv6": 48, "silent-loss-both": 48, "corrupt": 32, "queue": 16,
				"acl": 6, "blackhole": 6, "mtu": 6, "device-loss": 6, "ttl-loop": 4, "no-route": 2, "route-flap": 2,
				"device-down": 6, "syn-blackhole": 6, "host-slow": 8, "server-slow": 8, "server-reset": 8,
			}[name]
			if len(drawn) != want {
				t.Errorf("%d components came up, want %d", len(drawn), want)
			}
		})
	}
}
