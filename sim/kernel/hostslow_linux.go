package kernel

import "errors"

// hostRate is what a slow host sends at, in bytes per second. The traffic of
// scenarios, 10 connections a second of 50 packets, needs three quarters of it, so
// connections take many times as long and still end.
const hostRate = 8_000_000 / 8

// hostQueue is what waits of that, in bytes: far more than TCP lets each connection
// put there (tcp_limit_output_bytes), so nothing is lost.
const hostQueue = 16 << 20

// hostSlow lets a host send slowly all that it sends, without losing any. What it
// answers as a server is late too, but short.
type hostSlow struct {
	space  *space
	queues []*queue
	before uint64 // connections it had opened
	last   uint64
	gone   bool
}

func (f *Fabric) hostSlow(g *target) (_ effect, err error) {
	n, err := f.node(g.host)
	if err != nil {
		return nil, err
	}
	e := &hostSlow{space: n.space}
	if e.before, err = e.opened(); err != nil {
		return nil, err
	}
	for _, l := range f.topology.LinksFrom(g.host) {
		q, err := f.shape(l, hostRate, hostQueue)
		if err != nil {
			return nil, errors.Join(err, e.undo())
		}
		e.queues = append(e.queues, q)
	}
	return e, nil
}

// opened counts connections that the host asked for, its agent's too.
func (e *hostSlow) opened() (uint64, error) { return e.space.netstat("Tcp", "ActiveOpens") }

func (e *hostSlow) read(t *Truth) error {
	var errs []error
	t.Packets, t.Seen = 0, 0
	for _, q := range e.queues {
		var one Truth
		errs = append(errs, q.read(&one))
		t.Packets += one.Packets
		t.Seen += one.Seen
	}
	if !e.gone {
		now, err := e.opened()
		errs = append(errs, err)
		e.last = now - e.before
	}
	t.Connections = e.last
	return errors.Join(errs...)
}

func (e *hostSlow) undo() error {
	now, err := e.opened()
	e.last, e.gone = now-e.before, true
	errs := []error{err}
	for _, q := range e.queues {
		errs = append(errs, q.undo())
	}
	return errors.Join(errs...)
}
