package gnmi

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Login tells whether a user has that password, and may set. It must take as
// long for a wrong one as for the right one.
type Login func(name, password string) (known, write bool)

// writer is the context key of whether a user may set.
type writer struct{}

// enter checks who calls, by the metadata username and password of each call
// (gNMI authentication specification). Without a login all may who came through
// TLS.
func (t *Target) enter(ctx context.Context) (context.Context, error) {
	if t.deps.Login == nil {
		return ctx, nil
	}
	md, _ := metadata.FromIncomingContext(ctx)
	one := func(key string) string {
		if v := md.Get(key); len(v) == 1 {
			return v[0]
		}
		return ""
	}
	name, password := one("username"), one("password")
	if name == "" {
		return nil, status.Error(codes.Unauthenticated, "who calls? Give metadata username and password, once each")
	}
	known, write := t.deps.Login(name, password)
	if !known {
		t.deps.Log.Warn("gNMI login refused", "user", name)
		return nil, status.Error(codes.Unauthenticated, "no such user, or another password")
	}
	return context.WithValue(ctx, writer{}, write), nil
}

// mayWrite says why a caller may not set, or nil.
func (t *Target) mayWrite(ctx context.Context) error {
	if t.deps.Login != nil {
		if write, _ := ctx.Value(writer{}).(bool); !write {
			return status.Error(codes.PermissionDenied, "this user may read, not set")
		}
		return nil
	}
	if t.cfg.TLS == nil {
		return nil // loopback
	}
	if info, ok := caller(ctx).AuthInfo.(credentials.TLSInfo); ok && len(info.State.VerifiedChains) > 0 {
		return nil
	}
	return status.Error(codes.PermissionDenied, "to set, call with a client certificate that the target's authority signed")
}

func (t *Target) enterUnary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	ctx, err := t.enter(ctx)
	if err != nil {
		return nil, err
	}
	return next(ctx, req)
}

func (t *Target) enterStream(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if _, err := t.enter(s.Context()); err != nil {
		return err
	}
	return next(srv, s)
}
