package gnmi

import (
	"context"
	"net"
	"slices"
	"sync"
	"testing"

	"decaf/api/yang"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// accepted keeps the connections that a listener accepted.
type accepted struct {
	net.Listener
	mu    sync.Mutex
	conns []net.Conn
}

func (l *accepted) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.mu.Lock()
		l.conns = append(l.conns, c)
		l.mu.Unlock()
	}
	return c, err
}

// last is the connection that was accepted last.
func (l *accepted) last() net.Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.conns[len(l.conns)-1]
}

// The flags of a list hold in every mode: packets carry the code point that was
// asked for, in plain text and over TLS, IPv4 and IPv6; what may be aggregated,
// nothing of this module, comes leaf by leaf all the same.
func TestListFlags(t *testing.T) {
	server, client := mutual(t)
	addresses := []string{"127.0.0.1:0", "[::1]:0"}
	if l, err := net.Listen("tcp", addresses[1]); err != nil {
		t.Logf("not over IPv6, which is not here: %v", err)
		addresses = addresses[:1]
	} else {
		l.Close()
	}
	for _, listen := range addresses {
		for _, secure := range []bool{false, true} {
			cfg, creds := Config{Listen: listen}, insecure.NewCredentials()
			if secure {
				cfg.TLS, creds = server, client
			}
			st := &state{classes: map[string]uint64{"no-buffer": 1}}
			target, err := New(cfg, Deps{Schema: yang.Schema(), Models: yang.Models(), State: st.notifications})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := target.Listen(t.Context()); err != nil {
				t.Fatal(err)
			}
			l := &accepted{Listener: target.listener}
			target.listener = l
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- target.Run(ctx) }()
			marked := func() int {
				t.Helper()
				var class int
				if c := l.last(); listen[0] == '[' {
					class, err = ipv6.NewConn(c).TrafficClass()
				} else {
					class, err = ipv4.NewConn(c).TOS()
				}
				if err != nil {
					t.Fatal(err)
				}
				return class >> 2
			}
			r := &rig{Target: target, t: t}
			for _, mode := range []gnmipb.SubscriptionList_Mode{gnmipb.SubscriptionList_ONCE, gnmipb.SubscriptionList_POLL, gnmipb.SubscriptionList_STREAM} {
				// The certificate is for 127.0.0.1.
				conn := r.dial(creds, grpc.WithAuthority("127.0.0.1"))
				var paths [2][]string
				for i, flags := range []*gnmipb.SubscriptionList{{}, {Qos: &gnmipb.QOSMarking{Marking: 46}, AllowAggregation: true, UseModels: []*gnmipb.ModelData{yang.Model()}}} {
					flags.Mode, flags.Encoding, flags.Subscription = mode, gnmipb.Encoding_PROTO, []*gnmipb.Subscription{{Path: path("/loss/classes")}}
					s, err := gnmipb.NewGNMIClient(conn).Subscribe(ctx)
					if err == nil {
						err = s.Send(&gnmipb.SubscribeRequest{Request: &gnmipb.SubscribeRequest_Subscribe{Subscribe: flags}})
					}
					if err != nil {
						t.Fatal(err)
					}
					for _, n := range (&subscription{s, t}).untilSync() {
						for _, u := range n.GetUpdate() {
							paths[i] = append(paths[i], show(absolute(n, u)))
						}
					}
					if got, want := marked(), int(flags.GetQos().GetMarking()); got != want {
						t.Errorf("%s, TLS %v, %s: packets are marked %d, want %d", listen, secure, mode, got, want)
					}
				}
				if len(paths[0]) < 3 || !slices.Equal(paths[0], paths[1]) {
					t.Errorf("%s, %s: %v without flags, %v with", listen, mode, paths[0], paths[1])
				}
				conn.Close()
			}
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	}
}
