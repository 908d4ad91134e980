package device

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxInterfaces bounds the names kept.
const maxInterfaces = 65536

// interfaces names the interfaces of one network namespace by index. It follows
// changes; the name of an interface that is gone stays known until its index
// is used again, since its last drops may still be on their way.
type interfaces struct {
	log     *slog.Logger
	changes *rtnetlink
	done    chan struct{} // closed to end
	ended   chan struct{} // closed when it has

	listing sync.Mutex
	lister  *lister

	mu    sync.RWMutex
	names map[uint32]string
}

// openInterfaces opens its sockets in the network namespace of the calling
// thread, reads the names there are and follows changes until close.
func openInterfaces(log *slog.Logger) (*interfaces, error) {
	// Listen first, then list: nothing falls between.
	changes, err := openRtnetlink(unix.RTNLGRP_LINK)
	if err != nil {
		return nil, fmt.Errorf("follow interfaces: %w", err)
	}
	list, err := openLister(unix.NETLINK_ROUTE)
	if err != nil {
		changes.close()
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	i := &interfaces{
		log: log, changes: changes, lister: list, names: map[uint32]string{},
		done: make(chan struct{}), ended: make(chan struct{}),
	}
	if err := i.list(); err != nil {
		changes.close()
		list.close()
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	go i.follow()
	return i, nil
}

// openNames is openInterfaces for those who only want the names.
func openNames(log *slog.Logger) (name func(uint32) string, done func(), err error) {
	i, err := openInterfaces(log)
	if err != nil {
		return nil, nil, err
	}
	return i.name, i.close, nil
}

func (i *interfaces) set(index uint32, name string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if _, ok := i.names[index]; ok || len(i.names) < maxInterfaces {
		i.names[index] = name
	}
}

// list reads the names there are.
func (i *interfaces) list() error {
	i.listing.Lock()
	defer i.listing.Unlock()
	// A list that something changed under is mended by the change.
	_, err := i.lister.list(unix.RTM_GETLINK, linkRequest(), func(_ nlHeader, body []byte) {
		if l, err := parseLink(body); err == nil {
			i.set(l.index, l.name)
		}
	})
	return err
}

// follow takes in changes until close.
func (i *interfaces) follow() {
	defer close(i.ended)
	for {
		err := i.changes.receive(time.Time{}, func(h nlHeader, body []byte) {
			if h.kind != unix.RTM_NEWLINK {
				return
			}
			if l, err := parseLink(body); err == nil {
				i.set(l.index, l.name)
			}
		})
		select {
		case <-i.done:
			return
		default:
		}
		switch {
		case err == nil:
		case errors.Is(err, errMissed):
			if err := i.list(); err != nil {
				i.log.Warn("changes of interfaces were missed, names may be old", "error", err)
			}
		default:
			i.log.Warn("names of interfaces are followed no more", "error", err)
			return
		}
	}
}

// close ends it and waits for it.
func (i *interfaces) close() {
	close(i.done)
	i.changes.close()
	<-i.ended
	i.lister.close()
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
	// It may be newer than what was read of the changes.
	if err := i.list(); err == nil {
		i.mu.RLock()
		name, ok = i.names[index]
		i.mu.RUnlock()
		if ok {
			return name
		}
	}
	name = fmt.Sprintf("if%d", index)
	i.set(index, name)
	return name
}

// linkRequest asks for interfaces: a struct ifinfomsg of no family.
func linkRequest() []byte { return make([]byte, unix.SizeofIfInfomsg) }

// linkMessage is what is used of an RTM_NEWLINK.
type linkMessage struct {
	index uint32
	flags uint32 // IFF_…
	name  string
	kind  string // of a virtual one: "veth"; "" of hardware
	stats []byte // struct rtnl_link_stats64, nil when there are none
}

// parseLink takes a message about an interface apart. Slices are parts of it.
func parseLink(b []byte) (linkMessage, error) {
	if len(b) < unix.SizeofIfInfomsg {
		return linkMessage{}, errNetlinkShort
	}
	ne := binary.NativeEndian
	l := linkMessage{index: ne.Uint32(b[4:]), flags: ne.Uint32(b[8:])}
	err := attributes(b[unix.SizeofIfInfomsg:], func(kind uint16, v []byte) bool {
		switch kind {
		case unix.IFLA_IFNAME:
			l.name = cString(v)
		case unix.IFLA_STATS64:
			l.stats = v
		case unix.IFLA_LINKINFO:
			return attributes(v, func(kind uint16, v []byte) bool {
				if kind == unix.IFLA_INFO_KIND {
					l.kind = cString(v)
				}
				return true
			}) == nil
		}
		return true
	})
	return l, err
}
