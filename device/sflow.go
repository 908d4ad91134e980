package device

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"decaf/device/sflow"
)

// SFlowConfig makes an agent speak for switches that send sFlow drop
// notifications.
type SFlowConfig struct {
	// Listen is the UDP address that the switches send to, "host:port"; sFlow's
	// own port is 6343. Empty switches the source off.
	Listen string `yaml:"listen"`
	// Switches are all that is listened to: what others send is refused and
	// counted. sFlow has no authentication and a sender's address can be forged:
	// let only the management network reach this port.
	Switches []SwitchConfig `yaml:"switches"`
}

// SwitchConfig is one switch, which appears as a device of its own.
type SwitchConfig struct {
	// Name of the device, as in the topology.
	Name string `yaml:"name"`
	// Listen is where the gNMI target that speaks for it listens.
	Listen string `yaml:"listen"`
	// Agent is the agent address that the switch puts into its datagrams.
	Agent netip.Addr `yaml:"agent"`
	// From are the addresses that its datagrams may come from; none is the
	// agent address alone.
	From []netip.Prefix `yaml:"from"`
	// Interfaces are its interfaces' names by ifIndex. One that is not here is
	// called "if7".
	Interfaces map[uint32]string `yaml:"interfaces"`
	// IgnoreInterfaces lists interfaces of it whose drops are left out.
	IgnoreInterfaces []string `yaml:"ignore_interfaces"`
}

const (
	maxSwitches         = 1024
	maxSwitchInterfaces = 65536
)

// Validate says what is wrong with the configuration and what to do about it.
func (c *SFlowConfig) Validate() error {
	if c.Listen == "" {
		if len(c.Switches) > 0 {
			return errors.New("sflow: switches without listen: give the UDP address that they send to, such as 192.0.2.10:6343")
		}
		return nil
	}
	if _, err := net.ResolveUDPAddr("udp", c.Listen); err != nil {
		return fmt.Errorf("sflow: listen %s: %w: give an address and a port, such as 192.0.2.10:6343", c.Listen, err)
	}
	switch n := len(c.Switches); {
	case n == 0:
		return errors.New("sflow: no switches: name each switch and its agent address, all others are refused")
	case n > maxSwitches:
		return fmt.Errorf("sflow: %d switches: at most %d, start another agent for the rest", n, maxSwitches)
	}
	names, listens, agents := map[string]bool{}, map[string]string{}, map[netip.Addr]string{}
	for _, s := range c.Switches {
		agent := s.Agent.Unmap()
		switch {
		case !nameRE.MatchString(s.Name):
			return fmt.Errorf("sflow: switch name %q: use letters, digits, _ and -, and begin with a letter or digit", s.Name)
		case names[s.Name]:
			return fmt.Errorf("sflow: two switches are named %s: give each the name that it has in the topology", s.Name)
		case s.Listen == "":
			return fmt.Errorf("sflow: switch %s: listen is empty: give the address of its gNMI target, such as 127.0.0.1:9340", s.Name)
		case listens[s.Listen] != "" && !strings.HasSuffix(s.Listen, ":0"):
			return fmt.Errorf("sflow: switches %s and %s both listen on %s: give each a port of its own", listens[s.Listen], s.Name, s.Listen)
		case !agent.IsValid() || agent.IsUnspecified():
			return fmt.Errorf("sflow: switch %s: no agent address: give the one that the switch puts into its datagrams", s.Name)
		case agents[agent] != "":
			return fmt.Errorf("sflow: switches %s and %s have the same agent address %s: set another on one of them", agents[agent], s.Name, agent)
		case len(s.Interfaces) > maxSwitchInterfaces:
			return fmt.Errorf("sflow: switch %s: %d interfaces: at most %d", s.Name, len(s.Interfaces), maxSwitchInterfaces)
		}
		names[s.Name], listens[s.Listen], agents[agent] = true, s.Name, s.Name
		for _, p := range s.From {
			if !p.IsValid() {
				return fmt.Errorf("sflow: switch %s: from has a prefix that is none: write it as 192.0.2.0/24", s.Name)
			}
		}
		for index, name := range s.Interfaces {
			if index == 0 || name == "" {
				return fmt.Errorf("sflow: switch %s: interface %d named %q: an ifIndex begins with 1 and a name is not empty", s.Name, index, name)
			}
		}
	}
	return nil
}

// sflowBuffer is what the kernel may hold for us of a burst: some 3,000 full
// datagrams. What it cannot hold shows as a hole in a switch's numbers.
const sflowBuffer = 4 << 20

// sflowListener takes in the datagrams of all switches.
type sflowListener struct {
	log      *slog.Logger
	conn     *net.UDPConn
	switches map[netip.Addr]*sflowSwitch // by agent address; fixed
	reader   sflow.Reader                // of run
	ended    chan struct{}               // closed when run has returned
	refused  complaint
	broken   complaint

	// Datagrams that belong to no switch.
	notSFlow atomic.Uint64 // the header made no sense
	strange  atomic.Uint64 // of an agent that is not on the list
	spoofed  atomic.Uint64 // of one that is, from where it may not come
}

// openSFlow opens the listener's socket in the network namespace of the
// calling thread.
func openSFlow(cfg SFlowConfig, log *slog.Logger) (*sflowListener, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	l := newSFlowListener(cfg, log)
	addr, err := net.ResolveUDPAddr("udp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("sflow: %w", err)
	}
	if l.conn, err = net.ListenUDP("udp", addr); err != nil {
		return nil, fmt.Errorf("sflow: %w: give an address of this machine and a port that no other collector has", err)
	}
	if err := l.conn.SetReadBuffer(sflowBuffer); err != nil {
		log.Warn("sflow has a small receive buffer and may lose bursts", "error", err)
	}
	return l, nil
}

// newSFlowListener is all of it but the socket.
func newSFlowListener(cfg SFlowConfig, log *slog.Logger) *sflowListener {
	l := &sflowListener{log: log, switches: map[netip.Addr]*sflowSwitch{}, ended: make(chan struct{})}
	classes := newSflowClassifier(newClassifier(rules))
	for _, s := range cfg.Switches {
		l.switches[s.Agent.Unmap()] = newSFlowSwitch(s, classes, l.ended, log)
	}
	return l
}

// device returns the source of one switch, by its configured name.
func (l *sflowListener) device(name string) (*sflowSwitch, bool) {
	for _, s := range l.switches {
		if s.name == name {
			return s, true
		}
	}
	return nil, false
}

// addr is where it listens.
func (l *sflowListener) addr() netip.AddrPort {
	return l.conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

// run hands on what the switches send until ctx ends. It can be called once.
func (l *sflowListener) run(ctx context.Context) error {
	defer close(l.ended)
	defer l.conn.Close()
	defer context.AfterFunc(ctx, func() { l.conn.SetReadDeadline(time.Unix(1, 0)) })()
	buf := make([]byte, 1<<16) // the largest UDP datagram
	for {
		n, from, err := l.conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			if ctx.Err() != nil && errors.Is(err, os.ErrDeadlineExceeded) {
				return nil
			}
			return fmt.Errorf("sflow: read on %s: %w", l.addr(), err)
		}
		l.datagram(buf[:n], from.Addr(), time.Now())
	}
}

// datagram takes in what came from an address.
func (l *sflowListener) datagram(b []byte, from netip.Addr, now time.Time) {
	from = from.Unmap().WithZone("")
	if err := l.reader.Reset(b); err != nil {
		l.notSFlow.Add(1)
		if n, due := l.broken.make(now); due {
			l.log.Warn("datagrams that are no sFlow were left out", "count", n, "last_from", from, "error", err)
		}
		return
	}
	agent := l.reader.Datagram.Agent
	s, listed := l.switches[agent]
	if !listed || !s.mayComeFrom(from) {
		count, why := &l.strange, "the agent is not on the list: if it is one of your switches add it to sflow.switches"
		if listed {
			count, why = &l.spoofed, "the agent's datagrams may not come from there: if it is the switch itself add the address to its from"
		}
		count.Add(1)
		if n, due := l.refused.make(now); due {
			l.log.Warn("sFlow datagrams were refused", "count", n, "last_from", from, "last_agent", agent, "why", why)
		}
		return
	}
	s.datagram(&l.reader, now)
}

// complaintEvery is how often the same complaint is logged.
const complaintEvery = 10 * time.Second

// complaint spares the log: it is made at once, then at most every so often,
// with the count of what was held back.
type complaint struct {
	next time.Time
	held uint64
}

func (c *complaint) make(now time.Time) (count uint64, due bool) {
	c.held++
	if now.Before(c.next) && c.next.Sub(now) <= complaintEvery { // a clock set back counts as due
		return 0, false
	}
	count, c.held, c.next = c.held, 0, now.Add(complaintEvery)
	return count, true
}
