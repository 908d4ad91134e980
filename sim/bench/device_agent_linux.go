package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"

	"decaf/api/service"
)

// deviceAgent is a process of `decaf device` in r, and a client of it.
type deviceAgent struct {
	*deviceClient
	*process
	dir string
	// dial makes another client, with a connection of its own.
	dial func(...grpc.DialOption) (*deviceClient, error)
}

// deviceClient is a connection to an agent.
type deviceClient struct{ conn *grpc.ClientConn }

func (c *deviceClient) close() { c.conn.Close() }

// agentPort is where it listens, in r's own loopback.
const agentPort = "127.0.0.1:9339"

// startDevice runs an agent with a configuration (beside name, listen and log) and
// waits until it serves, in plain text.
func (n *router) startDevice(ctx context.Context, config string) (*deviceAgent, error) {
	return n.startOver(ctx, config, false)
}

// startOver is startDevice over plain text or mutual TLS.
func (n *router) startOver(ctx context.Context, config string, secure bool) (_ *deviceAgent, err error) {
	a := &deviceAgent{}
	if a.dir, err = os.MkdirTemp("", "decaf-bench-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			a.stop()
		}
	}()
	file := filepath.Join(a.dir, "device.yaml")
	creds := insecure.NewCredentials()
	if secure {
		var files service.TLSFiles
		if files, creds, err = mutual(a.dir); err != nil {
			return nil, err
		}
		config += fmt.Sprintf("tls: {ca: %q, cert: %q, key: %q}\n", files.CA, files.Cert, files.Key)
	}
	text := "name: r\nlisten: " + agentPort + "\nlog: {level: warn}\n" + config
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil, err
	}
	if a.process, err = n.r.start(nil, "device", "--config", file); err != nil {
		return nil, err
	}
	a.dial = func(more ...grpc.DialOption) (*deviceClient, error) {
		conn, err := grpc.NewClient("passthrough:///"+agentPort, append(more,
			grpc.WithTransportCredentials(creds),
			grpc.WithContextDialer(func(ctx context.Context, addr string) (c net.Conn, err error) {
				err = n.r.do(func() (err error) { c, err = (&net.Dialer{}).DialContext(ctx, "tcp", addr); return err })
				return c, err
			}))...)
		return &deviceClient{conn}, err
	}
	if a.deviceClient, err = a.dial(); err != nil {
		return nil, err
	}
	return a, a.serves(ctx, func(ctx context.Context) error {
		_, err := gnmipb.NewGNMIClient(a.conn).Capabilities(ctx, &gnmipb.CapabilityRequest{}, grpc.WaitForReady(true))
		return err
	})
}

// mutual makes, in a directory, what an agent and its client show to each other.
func mutual(dir string) (agent service.TLSFiles, client credentials.TransportCredentials, err error) {
	ca, err := service.NewCA(dir)
	if err != nil {
		return agent, nil, err
	}
	host, _, err := net.SplitHostPort(agentPort)
	if err != nil {
		return agent, nil, err
	}
	if agent, err = ca.Issue("r", host); err != nil {
		return agent, nil, err
	}
	files, err := ca.Issue("collector")
	if err != nil {
		return agent, nil, err
	}
	conf, err := files.Client(host)
	if err != nil {
		return agent, nil, err
	}
	return agent, credentials.NewTLS(conf), nil
}

// stop ends the agent and waits for it.
func (a *deviceAgent) stop() {
	if a.deviceClient != nil {
		a.close()
	}
	if a.process != nil {
		a.process.stop()
	}
	os.RemoveAll(a.dir)
}

func lossPath(under string) *gnmipb.SubscriptionList {
	return &gnmipb.SubscriptionList{
		Encoding:     gnmipb.Encoding_PROTO,
		Subscription: []*gnmipb.Subscription{{Path: &gnmipb.Path{Elem: []*gnmipb.PathElem{{Name: "loss"}, {Name: under}}}}},
	}
}

// watch subscribes to a container under /loss and calls fn with each notification
// and when it came, until ctx ends or fn fails; wait says how it ended. It returns
// when the subscription is in sync.
func (c *deviceClient) watch(ctx context.Context, under string, fn func(*gnmipb.Notification, time.Time) error) (wait func() error, err error) {
	stream, err := gnmipb.NewGNMIClient(c.conn).Subscribe(ctx)
	if err == nil {
		err = stream.Send(&gnmipb.SubscribeRequest{Request: &gnmipb.SubscribeRequest_Subscribe{Subscribe: lossPath(under)}})
	}
	if err != nil {
		return nil, fmt.Errorf("subscribe: %w", err)
	}
	synced, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- func() error {
			for {
				m, err := stream.Recv()
				at := time.Now()
				switch {
				case ctx.Err() != nil:
					return nil
				case err != nil:
					return fmt.Errorf("subscription: %w", err)
				case m.GetSyncResponse():
					close(synced)
				case m.GetUpdate() != nil:
					if err := fn(m.GetUpdate(), at); err != nil {
						return err
					}
				}
			}
		}()
	}()
	select {
	case <-synced:
		return func() error { return <-ended }, nil
	case err := <-ended:
		return nil, err
	case <-time.After(20 * time.Second):
		return nil, errors.New("subscription: no sync_response")
	}
}

// frames is what a client that does not decode receives.
type frames struct{ bytes int }

// byteCodec leaves what is received as bytes.
type byteCodec struct{ encoding.CodecV2 }

func (c byteCodec) Unmarshal(data mem.BufferSlice, v any) error {
	v.(*frames).bytes = data.Len()
	return nil
}

// countFrames subscribes to a container under /loss without decoding what comes
// and calls fn for each message, the first of which is the sync_response.
func (c *deviceClient) countFrames(ctx context.Context, under string, fn func()) (wait func() error, err error) {
	s, err := c.conn.NewStream(ctx, &gnmipb.GNMI_ServiceDesc.Streams[0], gnmipb.GNMI_Subscribe_FullMethodName,
		grpc.ForceCodecV2(byteCodec{encoding.GetCodecV2(grpcproto.Name)}))
	if err == nil {
		err = s.SendMsg(&gnmipb.SubscribeRequest{Request: &gnmipb.SubscribeRequest_Subscribe{Subscribe: lossPath(under)}})
	}
	if err != nil {
		return nil, fmt.Errorf("subscribe: %w", err)
	}
	ended := make(chan error, 1)
	go func() {
		var f frames
		for {
			if err := s.RecvMsg(&f); ctx.Err() != nil {
				ended <- nil
				return
			} else if err != nil {
				ended <- fmt.Errorf("subscription: %w", err)
				return
			}
			fn()
		}
	}()
	return func() error { return <-ended }, nil
}
