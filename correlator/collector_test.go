package correlator

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"decaf/api/decafpb"
	"decaf/api/gnmi"
	"decaf/api/service"
	"decaf/api/yang"
	"decaf/topology"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
)

// knowsCollector starts a target that lets in one user by a password, over TLS
// without client certificates, or in plain text.
func knowsCollector(t *testing.T, files *service.TLSFiles) (address string) {
	t.Helper()
	cfg := gnmi.DefaultConfig()
	cfg.Listen = "127.0.0.1:0"
	if files != nil {
		conf, err := files.Server(false)
		must(t, err)
		cfg.TLS = conf
	}
	target, err := gnmi.New(cfg, gnmi.Deps{
		Schema: yang.Schema(), Log: quiet(),
		Login: func(name, password string) (bool, bool) {
			return name == "collector" && password == "se cret", false
		},
		State: func(now time.Time) []*gnmipb.Notification {
			return []*gnmipb.Notification{yang.AgentUpdates(yang.AgentState{BootID: 7}, now)}
		},
	})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = target.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return target.Addr(t.Context()).String()
}

// A device that knows users is collected from by username and password; who does
// not get in is told why. The password is read again with each attempt.
func TestCollectorLogsIn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca, err := service.NewCA(dir)
	must(t, err)
	own, err := ca.Issue("device.sw", "127.0.0.1")
	must(t, err)
	file := func(name, text string) string {
		f := filepath.Join(dir, name)
		must(t, os.WriteFile(f, []byte(text), 0o600))
		return f
	}
	tls := &topology.TLS{CA: own.CA}
	secure, plain := knowsCollector(t, &own), knowsCollector(t, nil)
	right, late := file("right", "se cret\r\n"), file("late", "wrong\n")
	for _, tc := range []struct {
		what string
		gnmi topology.GNMI
		says []string // nil: reached
	}{
		{"by TLS", topology.GNMI{Address: secure, TLS: tls, Username: "collector", PasswordFile: right}, nil},
		{"on loopback in plain text", topology.GNMI{Address: plain, Username: "collector", PasswordFile: right}, nil},
		{"without a login", topology.GNMI{Address: secure, TLS: tls}, []string{"Unauthenticated", "gnmi.username and gnmi.password_file"}},
		{"as a stranger", topology.GNMI{Address: secure, TLS: tls, Username: "x", PasswordFile: right}, []string{"Unauthenticated", "know user x", right}},
		{"by another password", topology.GNMI{Address: secure, TLS: tls, Username: "collector", PasswordFile: late}, []string{"Unauthenticated", "know user collector", late}},
		{"by a file that is not there", topology.GNMI{Address: secure, TLS: tls, Username: "collector", PasswordFile: late + ".gone"}, []string{"gnmi.password_file of user collector", "no such file"}},
		{"by an empty file", topology.GNMI{Address: secure, TLS: tls, Username: "collector", PasswordFile: file("empty", "\n")}, []string{"is empty"}},
		{"by two lines", topology.GNMI{Address: secure, TLS: tls, Username: "collector", PasswordFile: file("two", "a\nb\n")}, []string{"printable ASCII"}},
		{"by a long file", topology.GNMI{Address: secure, TLS: tls, Username: "collector", PasswordFile: file("long", strings.Repeat("x", maxPassword+1))}, []string{"is it the right file"}},
		{"off loopback in plain text", topology.GNMI{Address: "192.0.2.1:9339", Username: "collector", PasswordFile: right}, []string{"gnmi.tls"}},
		{"by TLS to a target in plain text", topology.GNMI{Address: plain, TLS: tls, Username: "collector", PasswordFile: right}, []string{"Unavailable"}},
	} {
		t.Run(tc.what, func(t *testing.T) {
			t.Parallel()
			ends := make(chan error, 1000)
			c := &collector{
				topo: &topology.Topology{Devices: []*topology.Device{{Name: "sw", GNMI: &tc.gnmi}}},
				log:  quiet(), now: time.Now,
				open:    func(string) publisher { return make(chanPublisher, 1000) },
				reached: func(_ string, err error) { ends <- err },
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			done := make(chan struct{})
			go func() { defer close(done); c.run(ctx) }()
			defer func() { cancel(); <-done }()
			next := func() error {
				t.Helper()
				select {
				case err := <-ends:
					return err
				case <-ctx.Done():
					t.Fatal("nothing is told of the device")
					return nil
				}
			}
			err := next()
			if tc.says == nil && err != nil {
				t.Errorf("not reached: %v", err)
			}
			for _, s := range tc.says {
				if err == nil || !strings.Contains(err.Error(), s) {
					t.Errorf("%v does not say %q", err, s)
				}
			}
			if tc.gnmi.PasswordFile != late {
				return
			}
			must(t, os.WriteFile(late, []byte("se cret"), 0o600))
			for err != nil {
				err = next()
			}
		})
	}
}

// What a device leaves out is in the heartbeat that tells of it, by the names that
// `decaf agents` looks for.
func TestHeartbeatTellsWhatADeviceLeftOut(t *testing.T) {
	out := make(chanPublisher, 1)
	c := &collector{log: quiet(), now: func() time.Time { return time.Unix(5, 0) }}
	bad := uint64(2)
	state := yang.AgentState{BootID: 7, Aggregates: 9, AggregatesMerged: 300, DropsMissed: 4, EventsLost: 6}
	must(t, c.take(&topology.Device{Name: "sw"}, out, yang.AgentUpdates(state, time.Unix(4, 0)), &bad))
	h, ok := (<-out).(*decafpb.Heartbeat)
	if !ok {
		t.Fatal("no heartbeat")
	}
	for name, want := range map[string]uint64{"aggregates": 9, "aggregates_merged": 300, counterMissed: 4, "events_lost": 6, "unreadable": 2, counterBoot: 7} {
		if got := h.GetCounters()[name]; got != want {
			t.Errorf("%s %d, want %d", name, got, want)
		}
	}
}
