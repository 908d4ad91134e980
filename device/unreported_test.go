package device

import (
	"slices"
	"strings"
	"testing"
	"time"

	"decaf/api/decafpb"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
)

// What a device does not tell of, it says so of: one row per way to be silent.
func TestUnreported(t *testing.T) {
	yes, none, long, short := true, 0.0, time.Minute, time.Second
	for _, c := range []struct {
		name string
		set  func(*Config)
		fuse map[string]level
		only bool
		want []string
	}{
		{"all is told", func(*Config) {}, nil, false, nil},
		{"a class is ignored", func(c *Config) { c.Classes = map[string]ClassConfig{PolicyL3ACL: {Ignore: &yes}} }, nil, false, []string{PolicyL3ACL}},
		{"a subtree is", func(c *Config) { c.Classes = map[string]ClassConfig{"policy/l2": {Ignore: &yes}} }, nil, false, []string{PolicyL2ACL}},
		{"an anomaly is", func(c *Config) { c.Classes = map[string]ClassConfig{"anomaly": {Ignore: &yes}} }, nil, false, nil},
		{"a class's fuse: aggregates tell", func(*Config) {}, map[string]level{NoBuffer: aggregatesOnly}, false, nil},
		{"a class's fuse: counters only", func(*Config) {}, map[string]level{NoBuffer: countersOnly}, false, []string{NoBuffer}},
		{"a class's fuse: off", func(*Config) {}, map[string]level{NoBuffer: off}, false, []string{NoBuffer}},
		{"the agent's fuse says it itself", func(*Config) {}, map[string]level{"": off}, false, nil},
		{"no events, and aggregates at once", func(c *Config) { c.Classes = map[string]ClassConfig{NoBuffer: {Threshold: &none, Interval: &short}} }, nil, false, nil},
		{"no events, and late aggregates", func(c *Config) { c.Classes = map[string]ClassConfig{NoBuffer: {Threshold: &none, Interval: &long}} }, nil, false, []string{NoBuffer}},
		{"events, and late aggregates", func(c *Config) { c.Classes = map[string]ClassConfig{NoBuffer: {Interval: &long}} }, nil, false, nil},
		{"sampled, and late aggregates", func(c *Config) { c.Classes = map[string]ClassConfig{NoBuffer: {Interval: &long}} }, map[string]level{"": sampled}, false, []string{NoBuffer}},
		{"events of a path test only, and late aggregates", func(c *Config) { c.Classes = map[string]ClassConfig{NoBuffer: {Interval: &long}} }, nil, true, []string{NoBuffer}},
	} {
		cfg := DefaultConfig()
		c.set(&cfg)
		r := newReporter(cfg.settings, newAggregates(defaultAggregates().Open, prefixLength{24, 48}, time.Unix(0, 0)), newFuse(cfg.Fuse.budget()))
		r.only = func(time.Time) bool { return c.only }
		for class, l := range c.fuse {
			r.fuse.wires[class] = &wire{level: l}
		}
		if got := r.unreported(time.Unix(9, 0)); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// An agent says over gNMI what it does not tell of, and how much it told of without
// interfaces.
func TestAgentSaysWhatItDoesNotTell(t *testing.T) {
	ignore := true
	cfg := DefaultConfig()
	cfg.Classes = map[string]ClassConfig{PolicyL3ACL: {Ignore: &ignore}}
	a, c := startTold(t, cfg)
	got, err := c.Get(t.Context(), &gnmipb.GetRequest{Path: []*gnmipb.Path{{Elem: []*gnmipb.PathElem{{Name: "loss"}, {Name: "agent"}, {Name: "state"}, {Name: "unreported"}}}}, Encoding: gnmipb.Encoding_JSON_IETF})
	if err != nil {
		t.Fatal(err)
	}
	if text := string(got.GetNotification()[0].GetUpdate()[0].GetVal().GetJsonIetfVal()); text != `["policy/l3/acl"]` {
		t.Errorf("told %s", text)
	}
	if s := a.State(); !slices.Equal(s.Unreported, []string{PolicyL3ACL}) || s.Fuse != "full" {
		t.Errorf("%+v", s)
	}
	now := time.Now()
	for i := range defaultAggregates().Open + 3 {
		a.enter(observed{event: &decafpb.DropEvent{Class: NoBuffer, Ingress: "eth" + strings.Repeat("1", i+1)}, packets: 2, bytes: 100, known: true}, now)
	}
	if s := a.State(); s.AggregatesMerged != 6 {
		t.Errorf("%d packets merged, want 6", s.AggregatesMerged)
	}
}
