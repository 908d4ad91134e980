package gnmi

import (
	"crypto/tls"
	"errors"
	"testing"

	"decaf/api/service"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	rpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
)

// Each call says who calls; whoever may not set may still read.
func TestLogin(t *testing.T) {
	r := newRigWith(t, nil, func(d *Deps) {
		d.Login = func(name, password string) (bool, bool) {
			return password == name+"!" && (name == "reader" || name == "writer"), name == "writer"
		}
	})
	for _, tc := range []struct {
		what      string
		md        metadata.MD
		read, set codes.Code
	}{
		{"nobody", nil, codes.Unauthenticated, codes.Unauthenticated},
		{"no password", metadata.Pairs("username", "reader"), codes.Unauthenticated, codes.Unauthenticated},
		{"a wrong one", metadata.Pairs("username", "reader", "password", "x"), codes.Unauthenticated, codes.Unauthenticated},
		{"a stranger", metadata.Pairs("username", "x", "password", "x!"), codes.Unauthenticated, codes.Unauthenticated},
		{"two names", metadata.Pairs("username", "reader", "username", "writer", "password", "writer!"), codes.Unauthenticated, codes.Unauthenticated},
		{"a reader", metadata.Pairs("username", "reader", "password", "reader!"), codes.OK, codes.PermissionDenied},
		{"a writer", metadata.Pairs("username", "writer", "password", "writer!"), codes.OK, codes.OK},
	} {
		ctx := metadata.NewOutgoingContext(t.Context(), tc.md)
		if _, err := r.client.Capabilities(ctx, &gnmipb.CapabilityRequest{}); status.Code(err) != tc.read {
			t.Errorf("%s, capabilities: %v", tc.what, err)
		}
		if _, err := r.client.Get(ctx, &gnmipb.GetRequest{Path: []*gnmipb.Path{path("/loss")}}); status.Code(err) != tc.read {
			t.Errorf("%s, get: %v", tc.what, err)
		}
		if _, err := r.client.Set(ctx, &gnmipb.SetRequest{}); status.Code(err) != tc.set {
			t.Errorf("%s, set: %v", tc.what, err)
		}
		s, err := r.client.Subscribe(ctx)
		if err != nil {
			t.Fatal(err)
		}
		s.Send(&gnmipb.SubscribeRequest{Request: &gnmipb.SubscribeRequest_Subscribe{Subscribe: &gnmipb.SubscriptionList{Subscription: []*gnmipb.Subscription{{}}}}})
		if _, err := s.Recv(); status.Code(err) != tc.read {
			t.Errorf("%s, subscribe: %v", tc.what, err)
		}
		reflection, err := rpb.NewServerReflectionClient(r.conn).ServerReflectionInfo(ctx)
		if err != nil {
			t.Fatal(err)
		}
		reflection.Send(&rpb.ServerReflectionRequest{MessageRequest: &rpb.ServerReflectionRequest_ListServices{}})
		if _, err := reflection.Recv(); status.Code(err) != tc.read {
			t.Errorf("%s, reflection: %v", tc.what, err)
		}
	}
}

// TLS 1.2 at least, and never plain text beside it; who has no certificate may
// read where the target asks for none, and not set.
func TestTLS(t *testing.T) {
	ca, err := service.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	files, err := ca.Issue("sw1", "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	certified, err := ca.Issue("collector.test")
	if err != nil {
		t.Fatal(err)
	}
	client := func(f service.TLSFiles, change func(*tls.Config)) credentials.TransportCredentials {
		c, err := f.Client("127.0.0.1")
		if err != nil {
			t.Fatal(err)
		}
		if change != nil {
			change(c)
		}
		return credentials.NewTLS(c)
	}
	nameless := service.TLSFiles{CA: certified.CA}
	old := func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }
	for _, mutual := range []bool{true, false} {
		conf, err := files.Server(mutual)
		if err != nil {
			t.Fatal(err)
		}
		if !mutual {
			// As by an operator who asks for certificates and does without.
			conf.ClientAuth = tls.VerifyClientCertIfGiven
			with, err := files.Server(true)
			if err != nil {
				t.Fatal(err)
			}
			conf.ClientCAs = with.ClientCAs
		}
		conf.MinVersion = tls.VersionTLS10 // the target knows better
		r := newRig(t, func(c *Config) { c.TLS = conf })
		noCertificate, noSet := codes.Unavailable, codes.Unavailable
		if !mutual {
			noCertificate, noSet = codes.OK, codes.PermissionDenied
		}
		for _, tc := range []struct {
			what      string
			creds     credentials.TransportCredentials
			read, set codes.Code
		}{
			{"certified", client(certified, nil), codes.OK, codes.OK},
			{"TLS 1.2", client(certified, func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }), codes.OK, codes.OK},
			{"TLS 1.1", client(certified, old), codes.Unavailable, codes.Unavailable},
			{"without a certificate", client(nameless, nil), noCertificate, noSet},
			{"plain text", insecure.NewCredentials(), codes.Unavailable, codes.Unavailable},
		} {
			c := gnmipb.NewGNMIClient(r.dial(tc.creds, grpc.WithNoProxy()))
			if _, err := c.Capabilities(t.Context(), &gnmipb.CapabilityRequest{}); status.Code(err) != tc.read {
				t.Errorf("mutual %v, %s: %v", mutual, tc.what, err)
			}
			if _, err := c.Set(t.Context(), &gnmipb.SetRequest{}); status.Code(err) != tc.set {
				t.Errorf("mutual %v, %s, set: %v", mutual, tc.what, err)
			}
		}
		if err := r.stop(); err != nil {
			t.Error(errors.Unwrap(err))
		}
	}
}
