package device

import (
	"fmt"
	"log/slog"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// maxInterfaces bounds the names kept.
const maxInterfaces = 65536

// interfaces names the interfaces of one network namespace by index. It follows
// changes; the name of an interface that is gone stays known until its index
// is used again, since its last drops may still be on their way.
type interfaces struct {
	log    *slog.Logger
	handle *netlink.Handle

	mu    sync.RWMutex
	names map[uint32]string

	updates chan netlink.LinkUpdate
	done    chan struct{} // closed to end the subscription
	ended   chan struct{} // closed when it has
}

// openInterfaces opens its sockets in the network namespace of the calling
// thread, reads the names there are and follows changes until close.
func openInterfaces(log *slog.Logger) (*interfaces, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	i := &interfaces{
		log: log, handle: h, names: map[uint32]string{},
		updates: make(chan netlink.LinkUpdate, 64), done: make(chan struct{}), ended: make(chan struct{}),
	}
	// Subscribe first, then list: nothing falls between.
	err = netlink.LinkSubscribeWithOptions(i.updates, i.done, netlink.LinkSubscribeOptions{
		ErrorCallback: func(err error) {
			select {
			case <-i.done: // the socket was closed
			default:
				log.Warn("interface changes were missed, names are read again when needed", "error", err)
			}
		},
	})
	if err != nil {
		h.Close()
		return nil, fmt.Errorf("subscribe to interface changes: %w", err)
	}
	go i.follow()
	links, err := h.LinkList()
	if err != nil {
		i.close()
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	for _, l := range links {
		i.set(uint32(l.Attrs().Index), l.Attrs().Name)
	}
	return i, nil
}

func (i *interfaces) set(index uint32, name string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if _, ok := i.names[index]; ok || len(i.names) < maxInterfaces {
		i.names[index] = name
	}
}

// follow takes in changes until the subscription ends, by close or because its
// socket failed: name answers from the kernel then.
func (i *interfaces) follow() {
	defer close(i.ended)
	for u := range i.updates {
		if u.Header.Type == unix.RTM_NEWLINK && u.Link != nil {
			i.set(uint32(u.Attrs().Index), u.Attrs().Name)
		}
	}
}

// close ends the subscription and waits for it.
func (i *interfaces) close() {
	close(i.done)
	<-i.ended
	i.handle.Close()
}

// name returns the name of an interface, "" for index 0, and "if7" for one that
// nobody knows any more.
func (i *interfaces) name(index uint32) string {
	if index == 0 {
		return ""
	}
	i.mu.RLock()
	name, ok := i.names[index]
	i.mu.RUnlock()
	if ok {
		return name
	}
	name = fmt.Sprintf("if%d", index)
	if l, err := i.handle.LinkByIndex(int(index)); err == nil {
		name = l.Attrs().Name
	}
	i.set(index, name)
	return name
}
