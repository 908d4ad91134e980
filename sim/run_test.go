package sim

import (
	"strings"
	"testing"

	"decaf/sim/scenario"
)

// What the kernel fabric cannot honour is an error that names the key.
func TestKeysTheKernelFabricCannotHonour(t *testing.T) {
	const start = "name: x\nfabric: {kind: clos}\nduration: 10s\n"
	for _, c := range []struct{ name, text, want string }{
		{"nothing special", "", ""},
		{"noise is let pass", "noise: 1e-6\n", ""},
		{"fewer agents", "instrumented: 50%\n", "instrumented"},
		{"agents that err", "lying: 10%\n", "lying"},
		{"agents that come late", "agents_late: 2s\n", "agents_late"},
		{"a trace budget", "trace_budget: 1/s\n", ""},
		{"a fault it makes", "faults: [{at: 1s, on: device t2-0, kind: acl}]\n", ""},
		{"a fault it cannot make", "faults: [{at: 1s, on: link t2-0>p0-t1-0, kind: duplex}]\n", "faults[0]"},
		{"a share of a queue", "faults: [{at: 1s, on: link t2-0>p0-t1-0, kind: queue, rate: 5%}]\n", "rate"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := scenario.Parse("x.yaml", []byte(start+c.text))
			if err != nil {
				t.Fatal(err)
			}
			topo, err := s.Fabric.Topology()
			if err != nil {
				t.Fatal(err)
			}
			err = checkKernel(topo, s)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one about %q", err, c.want)
			}
		})
	}
}
