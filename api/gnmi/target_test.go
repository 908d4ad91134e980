package gnmi

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"decaf/api/decafpb"
	"decaf/api/yang"

	"github.com/google/go-cmp/cmp"
	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"github.com/openconfig/gnmi/proto/gnmi_ext"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	rpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"
)

// state is what the target under test serves beside events.
type state struct {
	mu      sync.Mutex
	classes map[string]uint64
	leaves  []Leaf
	edits   int
	refuse  error // of the next Edit
}

// Edit is what a Set leaves, held against the model.
func (s *state) Edit(_ context.Context, change func([]Leaf) ([]Leaf, error)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	leaves, err := change(s.leaves)
	if err != nil {
		return err
	}
	text, err := MarshalTree(yang.Schema(), leaves)
	if err != nil {
		return err
	}
	if _, err := yang.ParseSettings(text); err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	if s.refuse != nil {
		return s.refuse
	}
	s.leaves = leaves
	s.edits++
	return nil
}

func (s *state) set(class string, packets uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.classes[class] = packets
}

func (s *state) remove(class string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.classes, class)
}

func (s *state) notifications(now time.Time) []*gnmipb.Notification {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []*gnmipb.Notification{yang.AgentUpdates(yang.AgentState{Name: "sw1", BootID: 9, Slots: 8}, now)}
	for _, name := range []string{"no-buffer", "policy/l3/acl"} {
		if n, ok := s.classes[name]; ok {
			out = append(out, yang.ClassUpdates(yang.ClassCounters{Name: name, Packets: n}, now))
		}
	}
	return append(out, Notifications(s.leaves, now)...)
}

// rig is a target over a real connection.
type rig struct {
	*Target
	t      testing.TB
	state  *state
	conn   *grpc.ClientConn
	client gnmipb.GNMIClient
	stop   func() error // ends the target and returns what Run did
}

func newRig(t testing.TB, change func(*Config)) *rig { return newRigWith(t, change, nil) }

func newRigWith(t testing.TB, change func(*Config), deps func(*Deps)) *rig {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Listen, cfg.Ring = "127.0.0.1:0", 8
	cfg.MinSample, cfg.Sample, cfg.Scan = 5*time.Millisecond, 10*time.Millisecond, 5*time.Millisecond
	if change != nil {
		change(&cfg)
	}
	r := &rig{t: t, state: &state{classes: map[string]uint64{"policy/l3/acl": 3}}}
	var err error
	d := Deps{Schema: yang.Schema(), Models: []*gnmipb.ModelData{yang.Model()}, State: r.state.notifications, Settings: r.state}
	if deps != nil {
		deps(&d)
	}
	r.Target, err = New(cfg, d)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	r.stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(10*time.Second + r.cfg.Drain):
			return fmt.Errorf("target does not end")
		}
	})
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Error(err)
		}
	})
	if cfg.TLS == nil {
		r.conn = r.dial(insecure.NewCredentials())
		r.client = gnmipb.NewGNMIClient(r.conn)
	}
	return r
}

// dial connects to the target.
func (r *rig) dial(creds credentials.TransportCredentials, more ...grpc.DialOption) *grpc.ClientConn {
	r.t.Helper()
	conn, err := grpc.NewClient(r.Addr(r.t.Context()).String(), append(more, grpc.WithTransportCredentials(creds))...)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	return conn
}

// event publishes the drop event of a sequence number.
func (r *rig) event(seq uint64, class string) {
	ev := &decafpb.DropEvent{
		Origin: &decafpb.Origin{BootId: 9, Seq: seq}, TimeNs: 1000 + seq, Class: class,
		Packet: &decafpb.Packet{Ttl: 64, Header: []byte{0x45, 0xff}},
	}
	r.Publish(yang.EventUpdates(ev, seq%uint64(r.cfg.Ring), 9))
}

// path reads /a/b[k=v]/c.
func path(s string) *gnmipb.Path {
	p := &gnmipb.Path{}
	depth, start := 0, 0
	var parts []string
	s = strings.Trim(s, "/")
	for i := range len(s) {
		switch {
		case s[i] == '[':
			depth++
		case s[i] == ']':
			depth--
		case s[i] == '/' && depth == 0:
			parts = append(parts, s[start:i])
			start = i + 1
		}
	}
	if s != "" {
		parts = append(parts, s[start:])
	}
	for _, part := range parts {
		name, keys, _ := strings.Cut(part, "[")
		e := &gnmipb.PathElem{Name: name}
		for keys != "" {
			var kv string
			kv, keys, _ = strings.Cut(keys, "]")
			k, v, _ := strings.Cut(strings.TrimPrefix(kv, "["), "=")
			if e.Key == nil {
				e.Key = map[string]string{}
			}
			e.Key[k] = v
		}
		p.Elem = append(p.Elem, e)
	}
	return p
}

func TestCapabilities(t *testing.T) {
	r := newRig(t, nil)
	got, err := r.client.Capabilities(t.Context(), &gnmipb.CapabilityRequest{})
	if err != nil {
		t.Fatal(err)
	}
	want := &gnmipb.CapabilityResponse{
		SupportedModels:    []*gnmipb.ModelData{{Name: "decaf-loss", Organization: "decaf", Version: yang.Version}},
		SupportedEncodings: []gnmipb.Encoding{gnmipb.Encoding_JSON, gnmipb.Encoding_JSON_IETF, gnmipb.Encoding_PROTO},
		GNMIVersion:        specVersion,
	}
	if d := cmp.Diff(want, got, protocmp.Transform()); d != "" {
		t.Error(d)
	}
}

func TestReflection(t *testing.T) {
	r := newRig(t, nil)
	s, err := rpb.NewServerReflectionClient(r.conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(&rpb.ServerReflectionRequest{MessageRequest: &rpb.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	m, err := s.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, svc := range m.GetListServicesResponse().GetService() {
		names = append(names, svc.GetName())
	}
	if !slices.Contains(names, "gnmi.gNMI") {
		t.Errorf("services %v", names)
	}
}

func TestNewRefuses(t *testing.T) {
	deps := Deps{Schema: yang.Schema()}
	for _, tc := range []struct {
		what  string
		cfg   Config
		deps  Deps
		wrong string
	}{
		{"plain text off loopback", Config{Listen: "0.0.0.0:9339"}, deps, "will not listen on 0.0.0.0:9339 in plain text"},
		{"plain text everywhere", Config{Listen: ":9339"}, deps, "in plain text"},
		{"no schema", Config{}, Deps{}, "no schema"},
		{"negative ring", Config{Ring: -1}, deps, "ring -1"},
		{"gathered for too long", Config{Gather: time.Minute}, deps, "gathered for 1m0s"},
		{"drained backwards", Config{Drain: -1}, deps, "sent for -1ns"},
		{"sample too short", Config{MinSample: time.Second, Sample: time.Millisecond}, deps, "sample interval 1ms"},
	} {
		if _, err := New(tc.cfg, tc.deps); err == nil || !strings.Contains(err.Error(), tc.wrong) {
			t.Errorf("%s: %v, want %q", tc.what, err, tc.wrong)
		}
	}
	r := newRig(t, nil)
	second, err := New(Config{Listen: r.Addr(t.Context()).String()}, deps)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "is another agent running") {
		t.Errorf("address in use: %v", err)
	}
}

// TestStatusCodes walks the ways a Get or Subscribe can be wrong.
func TestStatusCodes(t *testing.T) {
	r := newRig(t, nil)
	r.event(1, "no-buffer")
	deep := strings.Repeat("/a", maxElems+1)
	for _, tc := range []struct {
		what string
		path *gnmipb.Path
		code codes.Code // of both
	}{
		{"unknown path", path("/bgp/neighbors"), codes.Unimplemented},
		{"unknown leaf", path("/loss/agent/state/mood"), codes.Unimplemented},
		{"unknown key", path("/loss/events/event[color=red]"), codes.InvalidArgument},
		{"key on a container", path("/loss[name=x]"), codes.InvalidArgument},
		{"nameless element", &gnmipb.Path{Elem: []*gnmipb.PathElem{{Name: "loss"}, {}}}, codes.InvalidArgument},
		{"empty key", &gnmipb.Path{Elem: []*gnmipb.PathElem{{Name: "loss", Key: map[string]string{"": ""}}}}, codes.InvalidArgument},
		{"too deep", path(deep), codes.InvalidArgument},
		{"too many ...", path("/.../.../..."), codes.InvalidArgument},
		{"foreign origin", &gnmipb.Path{Origin: "cli", Elem: path("/loss").Elem}, codes.Unimplemented},
		//lint:ignore SA1019 that it is refused is the test
		{"old form", &gnmipb.Path{Element: []string{"loss"}}, codes.InvalidArgument},
	} {
		_, err := r.client.Get(t.Context(), &gnmipb.GetRequest{Path: []*gnmipb.Path{tc.path}})
		if status.Code(err) != tc.code {
			t.Errorf("get %s: %v, want %v", tc.what, err, tc.code)
		}
		_, err = r.subscribe(&gnmipb.SubscriptionList{Subscription: []*gnmipb.Subscription{{Path: tc.path}}}).Recv()
		if status.Code(err) != tc.code {
			t.Errorf("subscribe %s: %v, want %v", tc.what, err, tc.code)
		}
	}

	for _, tc := range []struct {
		what string
		req  *gnmipb.GetRequest
		code codes.Code
	}{
		{"no path", &gnmipb.GetRequest{}, codes.InvalidArgument},
		{"absent entry", &gnmipb.GetRequest{Path: []*gnmipb.Path{path("/loss/events/event[slot=7]")}}, codes.NotFound},
		{"one absent of two", &gnmipb.GetRequest{Path: []*gnmipb.Path{path("/loss"), path("/loss/events/event[slot=7]")}}, codes.NotFound},
		{"encoding", &gnmipb.GetRequest{Path: []*gnmipb.Path{path("/")}, Encoding: gnmipb.Encoding_BYTES}, codes.Unimplemented},
		{"type", &gnmipb.GetRequest{Path: []*gnmipb.Path{path("/")}, Type: 77}, codes.InvalidArgument},
		{"model", &gnmipb.GetRequest{Path: []*gnmipb.Path{path("/")}, UseModels: []*gnmipb.ModelData{{Name: "openconfig-bgp"}}}, codes.Unimplemented},
		{"own model", &gnmipb.GetRequest{Path: []*gnmipb.Path{path("/")}, UseModels: []*gnmipb.ModelData{yang.Model()}}, codes.OK},
		{"history", &gnmipb.GetRequest{Path: []*gnmipb.Path{path("/")}, Extension: []*gnmi_ext.Extension{{Ext: &gnmi_ext.Extension_History{}}}}, codes.InvalidArgument},
		{"two origins", &gnmipb.GetRequest{Prefix: &gnmipb.Path{Origin: "openconfig"}, Path: []*gnmipb.Path{{Origin: "decaf-loss"}}}, codes.InvalidArgument},
	} {
		if _, err := r.client.Get(t.Context(), tc.req); status.Code(err) != tc.code {
			t.Errorf("get %s: %v, want %v", tc.what, err, tc.code)
		}
	}

	one := func(s *gnmipb.Subscription) *gnmipb.SubscriptionList {
		s.Path = path("/loss")
		return &gnmipb.SubscriptionList{Subscription: []*gnmipb.Subscription{s}}
	}
	for _, tc := range []struct {
		what string
		list *gnmipb.SubscriptionList
		code codes.Code
	}{
		{"no subscription", &gnmipb.SubscriptionList{}, codes.InvalidArgument},
		{"list mode", &gnmipb.SubscriptionList{Mode: 9, Subscription: []*gnmipb.Subscription{{}}}, codes.InvalidArgument},
		{"mode", one(&gnmipb.Subscription{Mode: 9}), codes.InvalidArgument},
		{"interval with TARGET_DEFINED", one(&gnmipb.Subscription{SampleInterval: 1e9}), codes.InvalidArgument},
		{"interval too short", one(&gnmipb.Subscription{Mode: gnmipb.SubscriptionMode_SAMPLE, SampleInterval: 1}), codes.InvalidArgument},
		{"heartbeat too short", one(&gnmipb.Subscription{Mode: gnmipb.SubscriptionMode_ON_CHANGE, HeartbeatInterval: 1}), codes.InvalidArgument},
		{"interval of centuries", one(&gnmipb.Subscription{Mode: gnmipb.SubscriptionMode_SAMPLE, SampleInterval: 1 << 63}), codes.InvalidArgument},
		{"marking", &gnmipb.SubscriptionList{Qos: &gnmipb.QOSMarking{Marking: 64}, Subscription: []*gnmipb.Subscription{{}}}, codes.InvalidArgument},
		{"encoding", &gnmipb.SubscriptionList{Encoding: gnmipb.Encoding_ASCII, Subscription: []*gnmipb.Subscription{{}}}, codes.Unimplemented},
		{"model", &gnmipb.SubscriptionList{UseModels: []*gnmipb.ModelData{{Name: "x"}}, Subscription: []*gnmipb.Subscription{{}}}, codes.Unimplemented},
		{"too many", &gnmipb.SubscriptionList{Subscription: make([]*gnmipb.Subscription, maxPaths+1)}, codes.InvalidArgument},
	} {
		for i := range tc.list.Subscription {
			if tc.list.Subscription[i] == nil {
				tc.list.Subscription[i] = &gnmipb.Subscription{}
			}
		}
		if _, err := r.subscribe(tc.list).Recv(); status.Code(err) != tc.code {
			t.Errorf("subscribe %s: %v, want %v", tc.what, err, tc.code)
		}
	}

	s, err := r.client.Subscribe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(&gnmipb.SubscribeRequest{Request: &gnmipb.SubscribeRequest_Poll{}}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); status.Code(err) != codes.InvalidArgument {
		t.Errorf("poll first: %v", err)
	}
	for what, second := range map[string]*gnmipb.SubscribeRequest{
		"a second list": {Request: &gnmipb.SubscribeRequest_Subscribe{Subscribe: &gnmipb.SubscriptionList{}}},
		"poll":          {Request: &gnmipb.SubscribeRequest_Poll{Poll: &gnmipb.Poll{}}},
		"nothing":       {},
	} {
		s := r.subscribe(one(&gnmipb.Subscription{}))
		s.untilSync()
		if err := s.Send(second); err != nil {
			t.Fatal(err)
		}
		for {
			if _, err := s.Recv(); err != nil {
				if status.Code(err) != codes.InvalidArgument {
					t.Errorf("%s in a stream: %v", what, err)
				}
				break
			}
		}
	}
}

// A valid path without data stays open.
func TestSubscribeToAbsent(t *testing.T) {
	r := newRig(t, nil)
	s := r.subscribe(&gnmipb.SubscriptionList{Encoding: gnmipb.Encoding_PROTO, Subscription: []*gnmipb.Subscription{{Path: path("/loss/events/event[slot=2]")}}})
	if got := s.untilSync(); len(got) != 0 {
		t.Errorf("before anything happened: %v", got)
	}
	r.event(1, "no-buffer")
	r.event(2, "no-buffer")
	ev, _, err := yang.DecodeEvent(s.next())
	if err != nil || ev.GetOrigin().GetSeq() != 2 {
		t.Errorf("%v, %v", ev, err)
	}
}

func TestGet(t *testing.T) {
	r := newRig(t, nil)
	r.event(1, "no-buffer")
	r.event(2, "policy/l3/acl")
	get := func(e gnmipb.Encoding, paths ...string) *gnmipb.GetResponse {
		t.Helper()
		req := &gnmipb.GetRequest{Prefix: &gnmipb.Path{Target: "sw1"}, Encoding: e}
		for _, p := range paths {
			req.Path = append(req.Path, path(p))
		}
		resp, err := r.client.Get(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range resp.GetNotification() {
			if n.GetPrefix().GetTarget() != "sw1" || n.GetTimestamp() == 0 {
				t.Errorf("target %q, timestamp %d", n.GetPrefix().GetTarget(), n.GetTimestamp())
			}
			for _, u := range n.GetUpdate() {
				if wild(u.GetPath().GetElem()) {
					t.Errorf("wildcard in the answer: %v", u.GetPath())
				}
			}
		}
		return resp
	}
	text := func(u *gnmipb.Update) string {
		return show(u.GetPath().GetElem()) + " " + string(u.GetVal().GetJsonVal()) + string(u.GetVal().GetJsonIetfVal())
	}
	for _, tc := range []struct {
		encoding gnmipb.Encoding
		path     string
		want     []string
	}{
		{gnmipb.Encoding_JSON, "/loss/classes", []string{`/loss/classes {"class":[{"name":"policy/l3/acl","state":{"bytes":0,"events":0,"name":"policy/l3/acl","packets":3}}]}`}},
		{gnmipb.Encoding_JSON_IETF, "/loss/classes", []string{`/loss/classes {"decaf-loss:class":[{"name":"policy/l3/acl","state":{"bytes":"0","events":"0","name":"policy/l3/acl","packets":"3"}}]}`}},
		{gnmipb.Encoding_JSON, "/loss/classes/class[name=policy/l3/acl]/state/packets", []string{`/loss/classes/class[name=policy/l3/acl]/state/packets 3`}},
		{gnmipb.Encoding_JSON_IETF, "/decaf-loss:loss/classes/class/state/packets", []string{`/loss/classes/class[name=policy/l3/acl]/state/packets "3"`}},
		{gnmipb.Encoding_JSON, "/loss/events/event[slot=*]/state/class", []string{
			`/loss/events/event[slot=1]/state/class "no-buffer"`, `/loss/events/event[slot=2]/state/class "policy/l3/acl"`}},
		{gnmipb.Encoding_JSON_IETF, "/loss/events/event[slot=1]", []string{
			`/loss/events/event[slot=1] {"decaf-loss:slot":"1","decaf-loss:state":{"boot-id":"9","class":"no-buffer","packet":{"header":"Rf8=","ttl":64},"sequence":"1","slot":"1","time":"1001"}}`}},
		{gnmipb.Encoding_JSON, "/.../packets", []string{`/loss/classes/class[name=policy/l3/acl]/state/packets 3`}},
		{gnmipb.Encoding_JSON, "/loss/*/state/slots", []string{`/loss/agent/state/slots 8`}},
	} {
		resp := get(tc.encoding, tc.path)
		var got []string
		for _, u := range resp.Notification[0].Update {
			got = append(got, text(u))
		}
		if d := cmp.Diff(tc.want, got); d != "" {
			t.Errorf("%s in %s: %s", tc.path, tc.encoding, d)
		}
	}

	if n := len(get(gnmipb.Encoding_JSON, "/loss/agent", "/loss/classes", "/").Notification); n != 3 {
		t.Errorf("%d notifications for three paths", n)
	}
	all := get(gnmipb.Encoding_PROTO, "/").Notification[0]
	seen := map[string]*gnmipb.TypedValue{}
	for _, u := range all.Update {
		seen[show(u.Path.Elem)] = u.Val
	}
	if v := seen["/loss/events/event[slot=2]/state/packet/header"].GetBytesVal(); !slices.Equal(v, []byte{0x45, 0xff}) {
		t.Errorf("header %v of %v", v, all)
	}
	if v := seen["/loss/classes/class[name=policy/l3/acl]/state/packets"].GetUintVal(); v != 3 {
		t.Errorf("packets %d", v)
	}
	none, err := r.client.Get(t.Context(), &gnmipb.GetRequest{Path: []*gnmipb.Path{path("/loss")}, Type: gnmipb.GetRequest_CONFIG})
	if err != nil || len(none.Notification) != 1 || len(none.Notification[0].Update) != 0 {
		t.Errorf("configuration: %v, %v", none, err)
	}
}

// subscription is an open Subscribe call.
type subscription struct {
	gnmipb.GNMI_SubscribeClient
	t testing.TB
}

func (r *rig) subscribe(list *gnmipb.SubscriptionList) *subscription {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 20*time.Second)
	r.t.Cleanup(cancel)
	s, err := r.client.Subscribe(ctx)
	if err == nil {
		err = s.Send(&gnmipb.SubscribeRequest{Request: &gnmipb.SubscribeRequest_Subscribe{Subscribe: list}})
	}
	if err != nil && err != io.EOF { // io.EOF: refused already, Recv says why
		r.t.Fatal(err)
	}
	return &subscription{s, r.t}
}

// untilSync returns what comes before sync_response.
func (s *subscription) untilSync() []*gnmipb.Notification {
	s.t.Helper()
	var out []*gnmipb.Notification
	for {
		m, err := s.Recv()
		if err != nil {
			s.t.Fatal(err)
		}
		if m.GetSyncResponse() {
			return out
		}
		out = append(out, m.GetUpdate())
	}
}

func (s *subscription) next() *gnmipb.Notification {
	s.t.Helper()
	m, err := s.Recv()
	if err != nil {
		s.t.Fatal(err)
	}
	if m.GetUpdate() == nil {
		s.t.Fatalf("want an update, got %v", m)
	}
	return m.GetUpdate()
}

// sequences returns those of the events among notifications.
func sequences(t *testing.T, list []*gnmipb.Notification) []uint64 {
	t.Helper()
	var out []uint64
	for _, n := range list {
		if ev, is, err := yang.DecodeEvent(n); err != nil {
			t.Error(err)
		} else if is {
			out = append(out, ev.Origin.Seq)
		}
	}
	return out
}

func TestOnce(t *testing.T) {
	r := newRig(t, nil)
	for seq := range uint64(10) { // two more than the ring holds
		r.event(seq+1, "no-buffer")
	}
	for _, e := range encodings {
		s := r.subscribe(&gnmipb.SubscriptionList{Mode: gnmipb.SubscriptionList_ONCE, Encoding: e, Prefix: &gnmipb.Path{Target: "sw1"},
			Subscription: []*gnmipb.Subscription{{Path: path("/loss")}}})
		got := s.untilSync()
		if _, err := s.Recv(); err != io.EOF {
			t.Errorf("after sync: %v", err)
		}
		if d := cmp.Diff([]uint64{3, 4, 5, 6, 7, 8, 9, 10}, sequences(t, got)); d != "" {
			t.Errorf("%s: %s", e, d)
		}
		for _, n := range got {
			if n.GetPrefix().GetTarget() != "sw1" {
				t.Errorf("target %q", n.GetPrefix().GetTarget())
			}
		}
		if _, is, err := yang.DecodeAgent(got[0]); !is || err != nil {
			t.Errorf("first is not the agent: %v, %v", got[0], err)
		}
		if c, is, err := yang.DecodeClass(got[1]); !is || err != nil || c.Packets != 3 {
			t.Errorf("second is not the class: %v, %v", got[1], err)
		}
	}
}

func TestPoll(t *testing.T) {
	r := newRig(t, nil)
	s := r.subscribe(&gnmipb.SubscriptionList{Mode: gnmipb.SubscriptionList_POLL, Encoding: gnmipb.Encoding_PROTO,
		Subscription: []*gnmipb.Subscription{{Path: path("/loss/events")}}})
	for round := range uint64(3) {
		if got := sequences(t, s.untilSync()); uint64(len(got)) != round {
			t.Errorf("round %d: %v", round, got)
		}
		r.event(round+1, "no-buffer")
		if err := s.Send(&gnmipb.SubscribeRequest{Request: &gnmipb.SubscribeRequest_Poll{Poll: &gnmipb.Poll{}}}); err != nil {
			t.Fatal(err)
		}
	}
	s.untilSync()
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); err != io.EOF {
		t.Errorf("after the client ended: %v", err)
	}
}

// However events and subscriptions interleave, each subscriber sees each event
// once and in order.
func TestStreamJoinsRingAndLive(t *testing.T) {
	const events, subscribers = 400, 8
	r := newRig(t, func(c *Config) { c.Ring = 1024 })
	var wg sync.WaitGroup
	for range subscribers {
		wg.Go(func() {
			s := r.subscribe(&gnmipb.SubscriptionList{Encoding: gnmipb.Encoding_PROTO, Subscription: []*gnmipb.Subscription{
				{Path: path("/loss/events")}, {Path: path("/loss/events/event/state")}, // twice, sent once
			}})
			want := uint64(1)
			for want <= events {
				m, err := s.Recv()
				if err != nil {
					t.Error(err)
					return
				}
				if m.GetSyncResponse() {
					continue
				}
				ev, is, err := yang.DecodeEvent(m.GetUpdate())
				if err != nil || !is || ev.Origin.Seq != want || !m.GetUpdate().GetAtomic() || m.GetUpdate().GetTimestamp() != int64(1000+want) {
					t.Errorf("%v, %v, %v; want event %d", m, is, err, want)
					return
				}
				want++
			}
		})
	}
	for seq := range uint64(events) {
		r.event(seq+1, "no-buffer")
	}
	wg.Wait()
	if s := r.Stats(); s.Published != events || s.Lost != 0 {
		t.Errorf("%+v", s)
	}
}

func TestStreamUpdatesOnly(t *testing.T) {
	r := newRig(t, nil)
	r.event(1, "no-buffer")
	s := r.subscribe(&gnmipb.SubscriptionList{UpdatesOnly: true, Encoding: gnmipb.Encoding_PROTO, Subscription: []*gnmipb.Subscription{
		{Path: path("/loss"), Mode: gnmipb.SubscriptionMode_ON_CHANGE}}})
	if got := s.untilSync(); len(got) != 0 {
		t.Errorf("before sync: %v", got)
	}
	r.event(2, "no-buffer")
	if got := sequences(t, []*gnmipb.Notification{s.next()}); !slices.Equal(got, []uint64{2}) {
		t.Errorf("%v", got)
	}
}

// Who subscribes to some leaves of an event gets those leaves.
func TestStreamSomeLeaves(t *testing.T) {
	r := newRig(t, nil)
	s := r.subscribe(&gnmipb.SubscriptionList{Encoding: gnmipb.Encoding_PROTO, Subscription: []*gnmipb.Subscription{
		{Path: path("/loss/events/event[slot=*]/state/class")}, {Path: path("/loss/events/event/state/packet/ttl")}}})
	s.untilSync()
	r.event(1, "no-buffer")
	n := s.next()
	var got []string
	for _, u := range n.GetUpdate() {
		got = append(got, show(absolute(n, u)))
	}
	want := []string{"/loss/events/event[slot=1]/state/class", "/loss/events/event[slot=1]/state/packet/ttl"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// Wildcards find what they cover, of our module and of the standard ones, and are
// not in the answers.
func TestSubscribeWildcards(t *testing.T) {
	r := newRigWith(t, nil, func(d *Deps) {
		own := d.State
		d.State = func(now time.Time) []*gnmipb.Notification {
			return append(own(now), yang.InterfaceUpdates(yang.InterfaceLoss{Name: "eth1", InErrors: 4}, now)...)
		}
	})
	r.event(1, "no-buffer")
	r.event(2, "no-buffer")
	for _, tc := range []struct {
		path string
		want []string
	}{
		{"/loss/events/event[slot=*]/state/class", []string{"/loss/events/event[slot=1]/state/class", "/loss/events/event[slot=2]/state/class"}},
		{"/loss/events/*/state/class", []string{"/loss/events/event[slot=1]/state/class", "/loss/events/event[slot=2]/state/class"}},
		{"/.../packets", []string{acl + "/state/packets"}},
		{"/*/*/state/slots", []string{"/loss/agent/state/slots"}},
		{"/loss/.../name", []string{"/loss/agent/state/name", acl + "/state/name"}},
		{"/interfaces/interface[name=*]/.../in-errors", []string{"/interfaces/interface[name=eth1]/state/counters/in-errors"}},
		{"/*/interface[name=eth1]/state/counters/in-errors", []string{"/interfaces/interface[name=eth1]/state/counters/in-errors"}},
		{"/interfaces/interface[name=eth2]/...", nil},
	} {
		for _, mode := range []gnmipb.SubscriptionList_Mode{gnmipb.SubscriptionList_ONCE, gnmipb.SubscriptionList_STREAM} {
			s := r.subscribe(&gnmipb.SubscriptionList{Mode: mode, Encoding: gnmipb.Encoding_PROTO, Subscription: []*gnmipb.Subscription{
				{Path: path(tc.path), Mode: gnmipb.SubscriptionMode_SAMPLE}}})
			got := map[string]bool{}
			add := func(n *gnmipb.Notification) {
				for _, u := range n.GetUpdate() {
					got[show(absolute(n, u))] = true
				}
			}
			for _, n := range s.untilSync() {
				add(n)
			}
			if mode == gnmipb.SubscriptionList_STREAM { // and again, after the first interval
				for range tc.want {
					add(s.next())
				}
			}
			if d := cmp.Diff(tc.want, sortedKeys(got)); d != "" {
				t.Errorf("%s %s: %s", mode, tc.path, d)
			}
		}
	}
}

// TARGET_DEFINED: events come as they happen, state again and again.
func TestTargetDefined(t *testing.T) {
	r := newRig(t, nil)
	s := r.subscribe(&gnmipb.SubscriptionList{Subscription: []*gnmipb.Subscription{{Path: path("/loss")}}})
	s.untilSync()
	r.event(1, "no-buffer")
	r.state.set("policy/l3/acl", 4)
	events, agents, counted := 0, 0, false
	for events < 1 || agents < 3 || !counted {
		n := s.next()
		if _, is, _ := yang.DecodeEvent(n); is {
			events++
		} else if _, is, _ := yang.DecodeAgent(n); is {
			agents++
		} else if c, is, _ := yang.DecodeClass(n); is {
			counted = counted || c.Packets == 4
		}
	}
	if events != 1 {
		t.Errorf("%d events", events)
	}
}

// ON_CHANGE of state: only leaves that changed, and deletes of those gone.
func TestOnChangeOfState(t *testing.T) {
	r := newRig(t, nil)
	s := r.subscribe(&gnmipb.SubscriptionList{Encoding: gnmipb.Encoding_PROTO, Subscription: []*gnmipb.Subscription{
		{Path: path("/loss/classes"), Mode: gnmipb.SubscriptionMode_ON_CHANGE}}})
	if got := s.untilSync(); len(got) != 1 {
		t.Errorf("before sync: %v", got)
	}
	r.state.set("policy/l3/acl", 4)
	n := s.next()
	if len(n.GetUpdate()) != 1 || show(absolute(n, n.Update[0])) != "/loss/classes/class[name=policy/l3/acl]/state/packets" || n.Update[0].GetVal().GetUintVal() != 4 {
		t.Errorf("%v", n)
	}
	r.state.remove("policy/l3/acl")
	if n = s.next(); len(n.GetDelete()) != 1 || show(n.Delete[0].GetElem()) != "/loss/classes/class[name=policy/l3/acl]" || len(n.GetUpdate()) != 0 {
		t.Errorf("%v", n)
	}
}

// suppress_redundant leaves out what is as before; heartbeat_interval says it
// all the same.
func TestSampleSuppressRedundant(t *testing.T) {
	r := newRig(t, nil)
	leaf := path("/loss/classes/class/state/packets")
	s := r.subscribe(&gnmipb.SubscriptionList{Encoding: gnmipb.Encoding_PROTO, Subscription: []*gnmipb.Subscription{
		{Path: leaf, Mode: gnmipb.SubscriptionMode_SAMPLE, SuppressRedundant: true}}})
	s.untilSync()
	for v := uint64(4); v < 8; v++ {
		r.state.set("policy/l3/acl", v)
		if got := s.next().GetUpdate()[0].GetVal().GetUintVal(); got != v {
			t.Errorf("%d, want %d", got, v)
		}
	}
	s = r.subscribe(&gnmipb.SubscriptionList{Encoding: gnmipb.Encoding_PROTO, Subscription: []*gnmipb.Subscription{
		{Path: leaf, Mode: gnmipb.SubscriptionMode_SAMPLE, SuppressRedundant: true, HeartbeatInterval: uint64(20 * time.Millisecond)}}})
	s.untilSync()
	for range 3 {
		if got := s.next().GetUpdate()[0].GetVal().GetUintVal(); got != 7 {
			t.Errorf("%d, want 7", got)
		}
	}
}

// SAMPLE of events: the whole ring each time.
func TestSampleEvents(t *testing.T) {
	r := newRig(t, nil)
	r.event(1, "no-buffer")
	s := r.subscribe(&gnmipb.SubscriptionList{Encoding: gnmipb.Encoding_PROTO, Subscription: []*gnmipb.Subscription{
		{Path: path("/loss/events"), Mode: gnmipb.SubscriptionMode_SAMPLE, SampleInterval: uint64(10 * time.Millisecond)}}})
	s.untilSync()
	for range 3 {
		if got := sequences(t, []*gnmipb.Notification{s.next()}); !slices.Equal(got, []uint64{1}) {
			t.Errorf("%v", got)
		}
	}
}

// A subscriber that does not read costs a bounded queue, holds up nobody, and
// is told when it reads again.
func TestSlowSubscriber(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Queue, c.MaxLost = 64, 1000 })
	slow := r.subscribe(&gnmipb.SubscriptionList{Subscription: []*gnmipb.Subscription{{Path: path("/loss/events")}}})
	slow.untilSync()
	seq := uint64(0)
	for end := time.Now().Add(20 * time.Second); r.Stats().Ended == 0; {
		if time.Now().After(end) {
			t.Fatalf("never ended: %+v", r.Stats())
		}
		seq++
		r.event(seq, "no-buffer")
	}
	if s := r.Stats(); s.Lost <= 1000 || s.Lost > seq {
		t.Errorf("%+v after %d events", s, seq)
	}
	fast := r.subscribe(&gnmipb.SubscriptionList{Encoding: gnmipb.Encoding_PROTO, UpdatesOnly: true, Subscription: []*gnmipb.Subscription{{Path: path("/loss/events")}}})
	fast.untilSync()
	r.event(seq+1, "no-buffer")
	if got := sequences(t, []*gnmipb.Notification{fast.next()}); !slices.Equal(got, []uint64{seq + 1}) {
		t.Errorf("%v", got)
	}
	for {
		if _, err := slow.Recv(); err != nil {
			if status.Code(err) != codes.ResourceExhausted {
				t.Errorf("the slow one: %v", err)
			}
			return
		}
	}
}

func TestSubscriberLimit(t *testing.T) {
	r := newRig(t, func(c *Config) { c.MaxSubscribers = 1 })
	list := &gnmipb.SubscriptionList{Subscription: []*gnmipb.Subscription{{Path: path("/loss")}}}
	first := r.subscribe(list)
	first.untilSync()
	if _, err := r.subscribe(list).Recv(); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("the second: %v", err)
	}
}

// Whoever reads gets all that was published before the end, and then is told of
// it.
func TestStopDrains(t *testing.T) {
	const events = 2000
	r := newRig(t, func(c *Config) { c.Queue, c.Drain, c.Gather = events, time.Minute, time.Second })
	var subscribers []*subscription
	for _, e := range encodings {
		c := gnmipb.NewGNMIClient(r.dial(insecure.NewCredentials()))
		s, err := c.Subscribe(t.Context())
		if err == nil {
			err = s.Send(&gnmipb.SubscribeRequest{Request: &gnmipb.SubscribeRequest_Subscribe{Subscribe: &gnmipb.SubscriptionList{
				Encoding: e, Subscription: []*gnmipb.Subscription{{Path: path("/loss/events")}}}}})
		}
		if err != nil {
			t.Fatal(err)
		}
		subscribers = append(subscribers, &subscription{s, t})
		subscribers[len(subscribers)-1].untilSync()
	}
	for seq := range uint64(events) {
		r.event(seq+1, "no-buffer")
	}
	stopped := make(chan error, 1)
	go func() { stopped <- r.stop() }()
	for i, s := range subscribers {
		for want := uint64(1); want <= events; want++ {
			if ev, _, err := yang.DecodeEvent(s.next()); err != nil || ev.Origin.Seq != want {
				t.Fatalf("subscriber %d: %v, %v, want event %d", i, ev, err, want)
			}
		}
		if _, err := s.Recv(); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "target is stopping") {
			t.Errorf("subscriber %d: %v", i, err)
		}
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if s := r.Stats(); s.Lost != 0 || s.Ended != 0 || s.Subscribers != 0 {
		t.Errorf("%+v", s)
	}
	if _, err := r.client.Capabilities(t.Context(), &gnmipb.CapabilityRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("after the end: %v", err)
	}
}

// At its end the target waits no longer than it is told to for who does not read.
func TestStop(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Drain = 100 * time.Millisecond })
	list := &gnmipb.SubscriptionList{Subscription: []*gnmipb.Subscription{{Path: path("/loss/events")}}}
	reading := r.subscribe(list)
	reading.untilSync()
	deaf := r.subscribe(list)
	deaf.untilSync()
	silent, err := r.client.Subscribe(t.Context()) // and never says what it wants
	if err != nil {
		t.Fatal(err)
	}
	for seq := range uint64(2000) { // more than flow control lets through
		r.event(seq+1, "no-buffer")
	}
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	for {
		if _, err := reading.Recv(); err != nil {
			if status.Code(err) != codes.Unavailable {
				t.Errorf("reading: %v", err)
			}
			break
		}
	}
	if _, err := silent.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("silent: %v", err)
	}
	if n := r.Stats().Subscribers; n != 0 {
		t.Errorf("%d subscribers after the end", n)
	}
}
