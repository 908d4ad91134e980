package gnmi

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"decaf/api/yang"

	"github.com/google/go-cmp/cmp"
	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"github.com/openconfig/gnmi/proto/gnmi_ext"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"
)

func ietf(text string) *gnmipb.TypedValue {
	return &gnmipb.TypedValue{Value: &gnmipb.TypedValue_JsonIetfVal{JsonIetfVal: []byte(text)}}
}

func number(v uint64) *gnmipb.TypedValue {
	return &gnmipb.TypedValue{Value: &gnmipb.TypedValue_UintVal{UintVal: v}}
}

func word(v string) *gnmipb.TypedValue {
	return &gnmipb.TypedValue{Value: &gnmipb.TypedValue_StringVal{StringVal: v}}
}

func update(at string, v *gnmipb.TypedValue) []*gnmipb.Update {
	return []*gnmipb.Update{{Path: path(at), Val: v}}
}

// settings returns what is set, by path.
func (s *state) settings() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]string{}
	for _, l := range s.leaves {
		b, _ := json.Marshal(plain(nil, l.Val, gnmipb.Encoding_JSON))
		out[show(l.Path)] = string(b)
	}
	return out
}

const (
	acl    = "/loss/classes/class[name=policy/l3/acl]"
	aclSet = acl + "/reporting/config"
	filter = "/loss/filters/filter[name=t1]"
)

// Each step is one Set, on what the steps before it left.
func TestSet(t *testing.T) {
	r := newRig(t, nil)
	for _, tc := range []struct {
		what string
		req  *gnmipb.SetRequest
		want map[string]string
	}{
		{"nothing", &gnmipb.SetRequest{}, map[string]string{}},
		{"a leaf makes its entry", &gnmipb.SetRequest{Update: update(aclSet+"/threshold", number(5))},
			map[string]string{acl + "/config/name": `"policy/l3/acl"`, aclSet + "/threshold": "5"}},
		{"a subtree is merged", &gnmipb.SetRequest{Update: update("/loss", ietf(`{"decaf-loss:classes":{"class":[{"name":"policy/l3/acl","reporting":{"config":{"ignore":true}}}]}}`))},
			map[string]string{acl + "/config/name": `"policy/l3/acl"`, aclSet + "/threshold": "5", aclSet + "/ignore": "true"}},
		{"replace leaves nothing of what was", &gnmipb.SetRequest{Replace: update(aclSet, ietf(`{"threshold":"7"}`))},
			map[string]string{acl + "/config/name": `"policy/l3/acl"`, aclSet + "/threshold": "7"}},
		{"delete, replace, update, in this order", &gnmipb.SetRequest{
			Delete:  []*gnmipb.Path{path(aclSet + "/threshold")},
			Replace: append(update("/loss/fuse/config/cpu", number(100)), update("/loss/fuse/config/cpu", number(200))...),
			Update:  append(update(aclSet+"/threshold", number(8)), update("/loss/fuse/config/events", ietf(`"99"`))...),
		}, map[string]string{acl + "/config/name": `"policy/l3/acl"`, aclSet + "/threshold": "8", "/loss/fuse/config/cpu": "200", "/loss/fuse/config/events": "99"}},
		{"an empty entry is its key", &gnmipb.SetRequest{Delete: []*gnmipb.Path{path("/loss/fuse")}, Update: update(filter, ietf(`{}`))},
			map[string]string{acl + "/config/name": `"policy/l3/acl"`, aclSet + "/threshold": "8", filter + "/config/name": `"t1"`}},
		{"an entry goes with its key", &gnmipb.SetRequest{Delete: []*gnmipb.Path{path(filter + "/config/name")}},
			map[string]string{acl + "/config/name": `"policy/l3/acl"`, aclSet + "/threshold": "8"}},
		{"but not while it has more", &gnmipb.SetRequest{Delete: []*gnmipb.Path{path(acl + "/config/name")}},
			map[string]string{acl + "/config/name": `"policy/l3/acl"`, aclSet + "/threshold": "8"}},
		{"what is not there may be deleted", &gnmipb.SetRequest{Delete: []*gnmipb.Path{path(filter), path("/loss/fuse/config/cpu")}},
			map[string]string{acl + "/config/name": `"policy/l3/acl"`, aclSet + "/threshold": "8"}},
		{"a key may be said again", &gnmipb.SetRequest{Update: append(update(filter+"/name", word("t1")), update(filter+"/config/name", word("t1"))...)},
			map[string]string{acl + "/config/name": `"policy/l3/acl"`, aclSet + "/threshold": "8", filter + "/config/name": `"t1"`}},
		{"wildcards delete", &gnmipb.SetRequest{Delete: []*gnmipb.Path{path("/loss/classes/class[name=*]/reporting"), path("/loss/.../config/name")}},
			map[string]string{}},
		{"union_replace replaces everything", &gnmipb.SetRequest{UnionReplace: append(update("/loss/fuse", ietf(`{"config":{"cpu":5}}`)), &gnmipb.Update{
			Path: &gnmipb.Path{Origin: "decaf-loss", Elem: path("/loss").Elem}, Val: ietf(`{"fuse":{"config":{"cpu":5,"queue":6}}}`)})},
			map[string]string{"/loss/fuse/config/cpu": "5", "/loss/fuse/config/queue": "6"}},
		{"the root", &gnmipb.SetRequest{Replace: update("/", ietf(`{"decaf-loss:loss":{"reporting":{"config":{"prefix-length-ipv4":8}}}}`))},
			map[string]string{"/loss/reporting/config/prefix-length-ipv4": "8"}},
	} {
		tc.req.Prefix = &gnmipb.Path{Target: "sw1"}
		resp, err := r.client.Set(t.Context(), tc.req)
		if err != nil {
			t.Errorf("%s: %v", tc.what, err)
			continue
		}
		if n := len(tc.req.Delete) + len(tc.req.Replace) + len(tc.req.Update) + len(tc.req.UnionReplace); len(resp.GetResponse()) != n || resp.GetTimestamp() == 0 || resp.GetPrefix().GetTarget() != "sw1" {
			t.Errorf("%s: %v", tc.what, resp)
		}
		if d := cmp.Diff(tc.want, r.state.settings()); d != "" {
			t.Errorf("%s: %s", tc.what, d)
		}
	}
	// What an answer says of each operation.
	resp, err := r.client.Set(t.Context(), &gnmipb.SetRequest{Prefix: path("/loss/fuse"), Update: update("/config/cpu", number(1)), Delete: []*gnmipb.Path{path("/config/queue")}})
	want := []*gnmipb.UpdateResult{{Path: path("/config/queue"), Op: gnmipb.UpdateResult_DELETE}, {Path: path("/config/cpu"), Op: gnmipb.UpdateResult_UPDATE}}
	if d := cmp.Diff(want, resp.GetResponse(), protocmp.Transform()); err != nil || d != "" {
		t.Errorf("%v: %s", err, d)
	}
}

// Whatever is wrong with a Set, nothing of it holds.
func TestSetRefuses(t *testing.T) {
	r := newRig(t, nil)
	if _, err := r.client.Set(t.Context(), &gnmipb.SetRequest{Update: update("/loss/fuse/config/cpu", number(5))}); err != nil {
		t.Fatal(err)
	}
	good := update(aclSet+"/threshold", number(9))[0]
	with := func(u []*gnmipb.Update) *gnmipb.SetRequest { return &gnmipb.SetRequest{Update: append(u, good)} }
	many := make([]*gnmipb.Update, maxPaths+1)
	for i := range many {
		many[i] = good
	}
	for _, tc := range []struct {
		what string
		req  *gnmipb.SetRequest
		code codes.Code
		says string
	}{
		{"unknown path", with(update("/loss/mood", number(1))), codes.Unimplemented, "no model"},
		{"unknown path deleted", &gnmipb.SetRequest{Delete: []*gnmipb.Path{path("/loss/mood")}}, codes.Unimplemented, "no model"},
		{"state", with(update("/loss/fuse/state/cpu", number(1))), codes.InvalidArgument, "is state"},
		{"state deleted", &gnmipb.SetRequest{Delete: []*gnmipb.Path{path("/loss/events")}}, codes.InvalidArgument, "is state"},
		{"state in a subtree", with(update("/loss/fuse", ietf(`{"state":{"cpu":1}}`))), codes.InvalidArgument, "is state"},
		{"foreign origin", with([]*gnmipb.Update{{Path: &gnmipb.Path{Origin: "cli"}, Val: ietf(`{}`)}}), codes.Unimplemented, "origin"},
		{"wildcard", with(update("/loss/classes/class[name=*]/reporting/config/threshold", number(1))), codes.InvalidArgument, "wildcard"},
		{"no key", with(update("/loss/classes/class/reporting/config/threshold", number(1))), codes.InvalidArgument, "which class"},
		{"wrong key", with(update("/loss/classes/class[id=1]", ietf(`{}`))), codes.InvalidArgument, "no key"},
		{"no value", with(update("/loss/fuse/config/cpu", nil)), codes.InvalidArgument, "no value"},
		{"empty value", with(update("/loss/fuse/config/cpu", &gnmipb.TypedValue{})), codes.InvalidArgument, "no value"},
		//lint:ignore SA1019 that it is refused is the test
		{"old field", with([]*gnmipb.Update{{Path: path("/loss/fuse/config/cpu"), Value: &gnmipb.Value{Value: []byte("1")}}}), codes.InvalidArgument, "deprecated"},
		{"ascii", with(update("/loss/fuse/config/cpu", &gnmipb.TypedValue{Value: &gnmipb.TypedValue_AsciiVal{AsciiVal: "1"}})), codes.Unimplemented, "not supported"},
		{"word for a number", with(update("/loss/fuse/config/cpu", word("x"))), codes.InvalidArgument, "/loss/fuse/config/cpu"},
		{"negative", with(update("/loss/fuse/config/cpu", ietf(`-1`))), codes.InvalidArgument, "/loss/fuse/config/cpu"},
		{"too big", with(update("/loss/fuse/config/cpu", ietf(`4294967296`))), codes.InvalidArgument, "more than"},
		{"outside its range", with(update("/loss/fuse/config/queue", number(1001))), codes.InvalidArgument, "1001"},
		{"no JSON", with(update("/loss/fuse", ietf(`{"config":`))), codes.InvalidArgument, "JSON"},
		{"two JSON values", with(update("/loss/fuse", ietf(`{} {}`))), codes.InvalidArgument, "JSON"},
		{"null", with(update("/loss/fuse", ietf(`null`))), codes.InvalidArgument, "JSON"},
		{"null inside", with(update("/loss", ietf(`{"fuse":null}`))), codes.InvalidArgument, "JSON"},
		{"a list for an object", with(update("/loss", ietf(`{"fuse":[]}`))), codes.InvalidArgument, "JSON"},
		{"an object for a list", with(update("/loss/filters", ietf(`{"filter":{}}`))), codes.InvalidArgument, "JSON"},
		{"a number for a container", with(update("/loss/fuse", number(1))), codes.InvalidArgument, "no leaf"},
		{"unknown member", with(update("/loss/fuse", ietf(`{"config":{"volts":1}}`))), codes.InvalidArgument, "/loss/fuse/config/volts"},
		{"member of another module", with(update("/loss/fuse", ietf(`{"other:config":{}}`))), codes.InvalidArgument, "other:config"},
		{"entry without key", with(update("/loss/filters", ietf(`{"filter":[{"config":{}}]}`))), codes.InvalidArgument, "without its key"},
		{"entry with empty key", with(update("/loss/filters", ietf(`{"filter":[{"name":""}]}`))), codes.InvalidArgument, "empty"},
		{"entry with two names", with(update("/loss/filters", ietf(`{"filter":[{"name":"a","config":{"name":"b"}}]}`))), codes.InvalidArgument, "not the key"},
		{"another name in the value", with(update(filter, ietf(`{"name":"t2"}`))), codes.InvalidArgument, "not that of the path"},
		{"another name", with(update(filter+"/config/name", word("t2"))), codes.InvalidArgument, "not the key"},
		{"another key", with(update(filter+"/name", word("t2"))), codes.InvalidArgument, "not the key"},
		{"key against its pattern", with(update("/loss/classes/class[name=A B]", ietf(`{}`))), codes.InvalidArgument, "pattern"},
		{"union of two values", &gnmipb.SetRequest{UnionReplace: append(update("/loss/fuse/config/cpu", number(1)), update("/loss/fuse/config/cpu", number(2))...)}, codes.InvalidArgument, "two values"},
		{"union and more", &gnmipb.SetRequest{UnionReplace: update("/loss/fuse/config/cpu", number(1)), Update: []*gnmipb.Update{good}}, codes.InvalidArgument, "alone"},
		{"too many", &gnmipb.SetRequest{Update: many}, codes.InvalidArgument, "at most"},
		{"depth", &gnmipb.SetRequest{Extension: []*gnmi_ext.Extension{{Ext: &gnmi_ext.Extension_Depth{}}}}, codes.InvalidArgument, "depth"},
		{"history", &gnmipb.SetRequest{Extension: []*gnmi_ext.Extension{{Ext: &gnmi_ext.Extension_History{}}}}, codes.InvalidArgument, "history"},
		{"commit", &gnmipb.SetRequest{Extension: []*gnmi_ext.Extension{{Ext: &gnmi_ext.Extension_Commit{}}}}, codes.Unimplemented, "commit"},
		{"arbitration", &gnmipb.SetRequest{Extension: []*gnmi_ext.Extension{{Ext: &gnmi_ext.Extension_MasterArbitration{}}}}, codes.Unimplemented, "master_arbitration"},
	} {
		_, err := r.client.Set(t.Context(), tc.req)
		if status.Code(err) != tc.code || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v, want %v with %q", tc.what, err, tc.code, tc.says)
		}
	}
	// What the settings themselves refuse keeps its code; what is no status is
	// an error of ours.
	for _, tc := range []struct {
		refuse error
		code   codes.Code
	}{{status.Error(codes.FailedPrecondition, "not now"), codes.FailedPrecondition}, {errors.New("disk full"), codes.Internal}} {
		r.state.mu.Lock()
		r.state.refuse = tc.refuse
		r.state.mu.Unlock()
		if _, err := r.client.Set(t.Context(), &gnmipb.SetRequest{Update: []*gnmipb.Update{good}}); status.Code(err) != tc.code {
			t.Errorf("%v: %v", tc.refuse, err)
		}
	}
	if d := cmp.Diff(map[string]string{"/loss/fuse/config/cpu": "5"}, r.state.settings()); d != "" || r.state.edits != 1 {
		t.Errorf("after %d edits: %s", r.state.edits, d)
	}
	none := newRigWith(t, nil, func(d *Deps) { d.Settings = nil })
	if _, err := none.client.Set(t.Context(), &gnmipb.SetRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("a target with nothing to set: %v", err)
	}
}

// Who asks for changes sees what is set at once, and that it is gone: no look is
// due for an hour.
func TestSetIsSeen(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Scan, c.Sample = 3600e9, 3600e9 })
	for _, mode := range []gnmipb.SubscriptionMode{gnmipb.SubscriptionMode_ON_CHANGE, gnmipb.SubscriptionMode_TARGET_DEFINED} {
		s := r.subscribe(&gnmipb.SubscriptionList{Encoding: gnmipb.Encoding_PROTO, Subscription: []*gnmipb.Subscription{{Path: path("/loss"), Mode: mode}}})
		s.untilSync()
		if _, err := r.client.Set(t.Context(), &gnmipb.SetRequest{Update: append(update(filter+"/config/dscp", number(46)), update(aclSet+"/ignore", ietf("true"))...)}); err != nil {
			t.Fatal(err)
		}
		got := map[string]bool{}
		for len(got) < 4 {
			n := s.next()
			for _, u := range n.GetUpdate() {
				got[show(absolute(n, u))] = true
			}
		}
		for _, p := range []string{filter + "/config/name", filter + "/config/dscp", acl + "/config/name", aclSet + "/ignore"} {
			if !got[p] {
				t.Errorf("%s: no %s in %v", mode, p, got)
			}
		}
		if _, err := r.client.Set(t.Context(), &gnmipb.SetRequest{Delete: []*gnmipb.Path{path("/loss/filters"), path(acl)}}); err != nil {
			t.Fatal(err)
		}
		// The class is still there, as state: only what was set of it is gone.
		var gone []string
		for _, p := range s.next().GetDelete() {
			gone = append(gone, show(p.GetElem()))
		}
		if want := []string{acl + "/config/name", aclSet + "/ignore", filter}; !slices.Equal(gone, want) {
			t.Errorf("%s: gone %v, want %v", mode, gone, want)
		}
	}
}

// Get tells what is set from what holds.
func TestGetTypes(t *testing.T) {
	r := newRig(t, nil)
	if _, err := r.client.Set(t.Context(), &gnmipb.SetRequest{Update: update("/loss/fuse/config/cpu", number(100))}); err != nil {
		t.Fatal(err)
	}
	schema := yang.Schema()
	for typ, want := range map[gnmipb.GetRequest_DataType][3]bool{ // config, state of settings, other state
		gnmipb.GetRequest_ALL: {true, true, true}, gnmipb.GetRequest_CONFIG: {true, false, false},
		gnmipb.GetRequest_STATE: {false, true, true}, gnmipb.GetRequest_OPERATIONAL: {false, false, true},
	} {
		if typ == gnmipb.GetRequest_ALL {
			continue // below
		}
		for i, p := range []string{"/loss/fuse/config/cpu", "/loss/fuse/state/cpu", "/loss/agent/state/slots"} {
			if got := r.isOf(typ, path(p).Elem); got != want[i] {
				t.Errorf("%s of type %s: %v", p, typ, got)
			}
		}
		resp, err := r.client.Get(t.Context(), &gnmipb.GetRequest{Path: []*gnmipb.Path{path("/")}, Type: typ, Encoding: gnmipb.Encoding_PROTO})
		if err != nil || len(resp.Notification[0].Update) == 0 {
			t.Fatalf("%s: %v, %v", typ, resp, err)
		}
		for _, u := range resp.Notification[0].Update {
			if writable := walk(schema, u.GetPath().GetElem()).Writable; writable != want[0] {
				t.Errorf("%s: %s", typ, show(u.GetPath().GetElem()))
			}
		}
	}
	// Of another type than what is there: nothing, and no error.
	resp, err := r.client.Get(t.Context(), &gnmipb.GetRequest{Path: []*gnmipb.Path{path("/loss/agent")}, Type: gnmipb.GetRequest_CONFIG})
	if err != nil || len(resp.GetNotification()) != 1 || len(resp.Notification[0].Update) != 0 {
		t.Errorf("%v, %v", resp, err)
	}
}

// A tree that is written is read back; what cannot be set is not read.
func TestTreeThereAndBack(t *testing.T) {
	schema, models := yang.Schema(), []*gnmipb.ModelData{yang.Model()}
	const text = `{"decaf-loss:loss":{"filters":{"filter":[{"name":"a/b]c","config":{"end-time":"7","only":false}}]},"fuse":{"config":{"memory":"33554432"}}}}`
	leaves, err := UnmarshalTree(schema, models, []byte(text))
	if err != nil || len(leaves) != 4 {
		t.Fatalf("%v, %v", leaves, err)
	}
	b, err := MarshalTree(schema, leaves)
	if err != nil {
		t.Fatal(err)
	}
	again, err := UnmarshalTree(schema, models, b)
	if d := cmp.Diff(leaves, again, protocmp.Transform()); err != nil || d != "" {
		t.Errorf("%v: %s\n%s", err, d, b)
	}
	for _, bad := range []string{``, `[]`, `{"loss":{"agent":{"state":{"cpu":1}}}}`, `{"loss":1}`, `{"x":{}}`} {
		if _, err := UnmarshalTree(schema, models, []byte(bad)); err == nil {
			t.Errorf("%q is read", bad)
		}
	}
}

// FuzzSet: whatever a client sets, the answer is a status, and what then is set
// can be written and read.
func FuzzSet(f *testing.F) {
	for _, s := range []string{`{"fuse":{"config":{"cpu":5}}}`, `{"filters":{"filter":[{"name":"x","config":{"dscp":3}}]}}`, `{"classes":{"class":[{"name":"policy"}]}}`, `{"decaf-loss:reporting":{"config":{"ignore":true}}}`} {
		f.Add(s)
	}
	schema, models := yang.Schema(), []*gnmipb.ModelData{yang.Model()}
	f.Fuzz(func(t *testing.T, text string) {
		tree := newTree(schema, models, nil)
		if tree.merge(path("/loss").Elem, ietf(text)) != nil {
			return
		}
		b, err := MarshalTree(schema, tree.list())
		if err != nil {
			t.Fatal(err)
		}
		again, err := UnmarshalTree(schema, models, b)
		if err != nil || len(again) != len(tree.leaves) {
			t.Errorf("%q became %s: %d of %d leaves, %v", text, b, len(again), len(tree.leaves), err)
		}
	})
}
