package gnmi

import (
	"context"
	"errors"
	"net"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// maxDSCP is the largest differentiated services code point (RFC 2474).
const maxDSCP = 63

// mark has what is sent on the caller's connection carry the code point that a
// subscription asks for (gNMI specification, section 3.5.1.2); without one it is
// as it was. A connection has one: that of its last subscription that asked.
func mark(ctx context.Context, qos *gnmipb.QOSMarking) error {
	if qos == nil {
		return nil
	}
	dscp := qos.GetMarking()
	if dscp > maxDSCP {
		return status.Errorf(codes.InvalidArgument, "qos marking %d is no code point: give 0 to %d", dscp, maxDSCP)
	}
	err := errors.New("not a connection of this target")
	if c := caller(ctx).conn; c != nil {
		class := int(dscp) << 2 // before it is congestion notification, which is the kernel's
		if a, ok := c.RemoteAddr().(*net.TCPAddr); ok && a.IP.To4() == nil {
			err = ipv6.NewConn(c).SetTrafficClass(class)
		} else {
			err = ipv4.NewConn(c).SetTOS(class)
		}
	}
	if err != nil {
		return status.Errorf(codes.Unimplemented, "qos marking: packets of this connection cannot be marked: %v: subscribe without qos", err)
	}
	return nil
}

// wired is what is known of a caller, with the connection under its TLS.
type wired struct {
	credentials.AuthInfo
	conn net.Conn
}

// wiredCredentials are credentials by which the connection is found again.
type wiredCredentials struct {
	credentials.TransportCredentials
}

// ServerHandshake implements credentials.TransportCredentials.
func (c wiredCredentials) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := c.TransportCredentials.ServerHandshake(raw)
	return conn, wired{info, raw}, err
}

// Clone implements credentials.TransportCredentials.
func (c wiredCredentials) Clone() credentials.TransportCredentials {
	return wiredCredentials{c.TransportCredentials.Clone()}
}

// caller is what is known of who calls; zero when that is nothing.
func caller(ctx context.Context) wired {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return wired{}
	}
	w, _ := p.AuthInfo.(wired)
	return w
}
