package kernel

import (
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"decaf/topology"
)

// The queue fault's shape: far more than the traffic's mean of 3 to 6 Mbit/s on a
// link, but a queue that holds little more than one initial window (10 segments,
// RFC 6928), so that slow start's next rounds and bursts that meet overflow it. At
// 10 connections a second per host of 1 to 100 packets on the standard fabric it
// lost 3.4 to 5.5 % on core links, 4.5 to 5.8 % on a link to a host and 4.4 to
// 7.4 % on one from a host.
const (
	queueRate  = 50_000_000 / 8 // bytes per second
	queueBurst = 2 * 1514       // bytes that pass at once
	queueLimit = 12 * 1514      // bytes that wait
)

// queue is a queue with a slow drain at a link's sending end. Devices say no-buffer of
// what does not fit.
type queue struct {
	space   *space
	tbf     *netlink.Tbf
	last    Counters
	drops   uint64
	waiting uint32 // packets in the queue
	gone    bool
}

func (f *Fabric) queue(g *target) (effect, error) { return f.shape(g.link, queueRate, queueLimit) }

// shape puts a queue at a link's sending end that lets out rate bytes per second and
// holds limit bytes.
func (f *Fabric) shape(l *topology.Link, rate uint64, limit uint32) (*queue, error) {
	n, err := f.node(l.From.Node)
	if err != nil {
		return nil, err
	}
	q := &queue{space: n.space, tbf: &netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: n.index[l.From.Name],
			Handle:    netlink.MakeHandle(1, 0),
			Parent:    netlink.HANDLE_ROOT,
		},
		Rate:   rate,
		Limit:  limit,
		Buffer: netlink.Xmittime(rate, queueBurst),
	}}
	// Not replaced: another fault's queue has to stay.
	err = n.space.rt.QdiscAdd(q.tbf)
	if errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("link %s has a fault of its queue already (queue, host-slow); one at a time", l.Name)
	}
	if err != nil {
		return nil, fmt.Errorf("add a queue to %s: %w", l.From, err)
	}
	return q, nil
}

func (q *queue) read(t *Truth) error {
	if !q.gone {
		if err := q.count(); err != nil {
			return err
		}
	}
	t.Packets, t.Seen = q.drops, q.last.Packets+q.drops
	return nil
}

func (q *queue) count() error {
	dev := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: q.tbf.LinkIndex}}
	var list []netlink.Qdisc
	var err error
	for range 5 { // a listing during which something changed is taken again
		if list, err = q.space.rt.QdiscList(dev); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("read the queue's counters: %w", err)
	}
	for _, d := range list {
		a := d.Attrs()
		if a.Handle != q.tbf.Handle || a.Statistics == nil || a.Statistics.Queue == nil || a.Statistics.Basic == nil {
			continue
		}
		// The kernel's drops are 32 bits, more than any run makes.
		q.drops = uint64(a.Statistics.Queue.Drops)
		q.waiting = a.Statistics.Queue.Qlen
		q.last = Counters{Packets: uint64(a.Statistics.Basic.Packets), Bytes: a.Statistics.Basic.Bytes}
		return nil
	}
	return errors.New("read the queue's counters: the queue is gone")
}

// drainRate and drainTime let what still waits through before the queue goes: a
// queue that is removed drops what it holds.
const (
	drainRate = 10_000_000_000 / 8 // bytes per second
	drainTime = 200 * time.Millisecond
)

func (q *queue) undo() error {
	open := *q.tbf
	open.Rate, open.Limit = drainRate, max(open.Limit, 1<<20)
	open.Buffer = netlink.Xmittime(drainRate, 1<<20)
	err := q.space.rt.QdiscChange(&open)
	// Packets wait for the timer that the slow drain set, a few milliseconds.
	for deadline := time.Now().Add(drainTime); err == nil && time.Now().Before(deadline); {
		if err = q.count(); q.waiting == 0 {
			break
		}
		runtime.Gosched()
	}
	if e := q.space.rt.QdiscDel(q.tbf); e != nil {
		return fmt.Errorf("remove the queue: %w", e)
	}
	q.gone = true
	return err
}
