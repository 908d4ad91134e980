package yang

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"decaf/api/yang/model"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"github.com/openconfig/goyang/pkg/yang"
)

// ParseSettings takes what the module allows and says where it does not.
func TestParseSettings(t *testing.T) {
	got, err := ParseSettings([]byte(`{"decaf-loss:loss":{
		"reporting":{"config":{"threshold":"500","ignore":false,"prefix-length-ipv4":16}},
		"fuse":{"config":{"cpu":100,"memory":"33554432"}},
		"classes":{"class":[{"name":"policy/l3/acl","config":{"name":"policy/l3/acl"},"reporting":{"config":{"deduplicate-interval":10000}}}]},
		"filters":{"filter":[{"name":"t1","config":{"name":"t1","source-port":0,"dscp":46,"end-time":"18446744073709551615"}}]}}}`))
	if err != nil {
		t.Fatal(err)
	}
	c, f := got.Class["policy/l3/acl"], got.Filter["t1"]
	if *got.Reporting.Threshold != 500 || *got.Reporting.PrefixLengthIpv4 != 16 || got.Reporting.Hold != nil || *got.Fuse.Cpu != 100 || *got.Fuse.Memory != 32<<20 {
		t.Errorf("reporting %+v, fuse %+v", got.Reporting, got.Fuse)
	}
	if *c.Reporting.DeduplicateInterval != 10000 || *f.SourcePort != 0 || *f.Dscp != 46 || *f.EndTime != 1<<64-1 || f.Only != nil {
		t.Errorf("class %+v, filter %+v", c.Reporting, f)
	}
	if empty, err := ParseSettings([]byte(`{}`)); err != nil || empty == nil || len(empty.Filter) != 0 {
		t.Errorf("nothing set: %v, %v", empty, err)
	}
	for what, text := range map[string]string{
		"no JSON":               `{`,
		"an unknown leaf":       `{"decaf-loss:loss":{"fuse":{"config":{"volts":1}}}}`,
		"of the wrong type":     `{"decaf-loss:loss":{"fuse":{"config":{"cpu":"x"}}}}`,
		"outside the range":     `{"decaf-loss:loss":{"reporting":{"config":{"aggregate-interval":99}}}}`,
		"between two ranges":    `{"decaf-loss:loss":{"reporting":{"config":{"deduplicate-interval":50}}}}`,
		"against the pattern":   `{"decaf-loss:loss":{"classes":{"class":[{"name":"A b","config":{"name":"A b"}}]}}}`,
		"too long":              `{"decaf-loss:loss":{"filters":{"filter":[{"name":"` + strings.Repeat("x", 65) + `"}]}}}`,
		"of two names":          `{"decaf-loss:loss":{"filters":{"filter":[{"name":"a","config":{"name":"b"}}]}}}`,
		"state":                 `{"decaf-loss:loss":{"fuse":{"state":{"cpu":100}}}}`,
		"a range of code point": `{"decaf-loss:loss":{"filters":{"filter":[{"name":"a","config":{"name":"a","dscp":64}}]}}}`,
	} {
		if _, err := ParseSettings([]byte(text)); err == nil {
			t.Errorf("%s is taken", what)
		}
	}
}

// Each leaf of what holds has its place, and only what a filter was given.
func TestSettingUpdates(t *testing.T) {
	names := func(n *gnmipb.Notification) (out []string) {
		for _, u := range n.GetUpdate() {
			out = append(out, u.GetPath().GetElem()[0].GetName())
		}
		return out
	}
	dscp := uint8(0)
	list := FilterUpdates(Filter{Name: "t1", Source: netip.MustParsePrefix("10.0.0.0/8"), DSCP: &dscp, EndNs: 7, Matched: 3}, time.Unix(0, 5))
	if got := names(list[0]); !slices.Equal(got, []string{"name", "source-prefix", "dscp", "only", "end-time"}) {
		t.Errorf("a filter has %v", got)
	}
	if got := list[1]; got.GetTimestamp() != 5 || got.GetUpdate()[0].GetVal().GetUintVal() != 3 {
		t.Errorf("its counters: %v", got)
	}
	schema := Schema()
	for _, n := range append(list, GeneralUpdates(General{}, time.Unix(0, 5)), FuseUpdates(FuseSettings{}, time.Unix(0, 5))) {
		at := schema
		for _, e := range n.GetPrefix().GetElem() {
			if at = at.Child(e.GetName()); at == nil {
				t.Fatalf("no %v in the schema", n.GetPrefix())
			}
		}
		for _, name := range names(n) {
			if at.Child(name) == nil {
				t.Errorf("no %s in %v", name, n.GetPrefix())
			}
		}
	}
}

func TestNative(t *testing.T) {
	js := func(s string) *gnmipb.TypedValue {
		return &gnmipb.TypedValue{Value: &gnmipb.TypedValue_JsonIetfVal{JsonIetfVal: []byte(s)}}
	}
	for _, tc := range []struct {
		typ  Type
		in   string
		want any // nil: refused
	}{
		{Uint64, `"18446744073709551615"`, uint64(1<<64 - 1)}, {Uint64, `7`, uint64(7)}, {Uint64, `-1`, nil}, {Uint64, `1.5`, nil},
		{Uint, `4294967295`, uint64(1<<32 - 1)}, {Uint, `4294967296`, nil}, {Uint, `true`, nil},
		{Bool, `true`, true}, {Bool, `false`, false}, {Bool, `"true"`, nil}, {Bool, `1`, nil},
		{String, `"x"`, "x"}, {String, `1`, nil}, {Strings, `["a","b"]`, 2}, {Strings, `"a"`, nil}, {Binary, `"AQI="`, "\x01\x02"}, {Binary, `"!"`, nil},
	} {
		got, err := Native(tc.typ, js(tc.in))
		var is any
		switch v := got.GetValue().(type) {
		case *gnmipb.TypedValue_UintVal:
			is = v.UintVal
		case *gnmipb.TypedValue_BoolVal:
			is = v.BoolVal
		case *gnmipb.TypedValue_StringVal:
			is = v.StringVal
		case *gnmipb.TypedValue_BytesVal:
			is = string(v.BytesVal)
		case *gnmipb.TypedValue_LeaflistVal:
			is = len(v.LeaflistVal.GetElement())
		}
		if is != tc.want || (err == nil) != (tc.want != nil) {
			t.Errorf("type %d of %s: %v, %v, want %v", tc.typ, tc.in, is, err, tc.want)
		}
	}
	if v, err := Native(Bool, &gnmipb.TypedValue{Value: &gnmipb.TypedValue_BoolVal{BoolVal: true}}); err != nil || !v.GetBoolVal() {
		t.Errorf("%v, %v", v, err)
	}
}

// The generated structs know every leaf that can be set, and no other: they are
// of the module as it is now.
func TestModelIsTheModule(t *testing.T) {
	var known func(n *Node, at string, e *yang.Entry)
	known = func(n *Node, at string, e *yang.Entry) {
		for _, c := range n.Children {
			if sub := e.Dir[c.Name]; c.Writable && sub == nil {
				t.Errorf("%s/%s is not in the structs: go generate ./api/yang/...", at, c.Name)
			} else if sub != nil && !sub.ReadOnly() {
				if !c.Writable && !(c.Name == "agent" && at == "/loss") { // it has state alone
					t.Errorf("%s/%s is in the structs and cannot be set", at, c.Name)
				}
				known(c, at+"/"+c.Name, sub)
			}
		}
		for name := range e.Dir {
			if n.Child(name) == nil {
				t.Errorf("%s/%s is in the structs alone: go generate ./api/yang/...", at, name)
			}
		}
	}
	known(Schema().Child("loss"), "/loss", model.SchemaTree["Loss"])
}
