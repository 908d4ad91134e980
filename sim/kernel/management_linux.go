package kernel

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

const bridgeName = "mgmt"

// firstManagementMAC keeps hardware addresses apart from those of the fabric's
// links.
const firstManagementMAC = 1 << 24

// managementAddr numbers the management network: 0 is the management namespace,
// 1 and on are nodes.
func managementAddr(n int) netip.Addr {
	a := management.Addr().As4()
	a[2], a[3] = byte((n+1)>>8), byte(n+1)
	return netip.AddrFrom4(a)
}

func managementMAC(n int) []byte { return hardwareAddr(firstManagementMAC + uint32(n)) }

// buildBridge makes the bridge in the management namespace.
func buildBridge(s *space) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = bridgeName
	attrs.MTU = mtu
	attrs.HardwareAddr = managementMAC(0)
	snooping := false
	if err := s.rt.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}); err != nil {
		return fmt.Errorf("make the management bridge: %w", err)
	}
	return nil
}

// portName is the bridge's port to node n.
func portName(n int) string { return fmt.Sprintf("port%d", n) }

// connectBridge attaches the ports of nodes 1 to n and brings all up. Ports are
// isolated: nodes reach the management namespace and never each other, so no
// packet of the fabric can find a way round it.
func connectBridge(s *space, n int) error {
	index, err := s.indexes()
	if err != nil {
		return err
	}
	bridge := index[bridgeName]
	if err := s.raise(bridge, netip.PrefixFrom(managementAddr(0), management.Bits())); err != nil {
		return fmt.Errorf("management bridge: %w", err)
	}
	for i := 1; i <= n; i++ {
		port := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index[portName(i)], Name: portName(i)}}
		if err := s.rt.LinkSetMasterByIndex(port, bridge); err != nil {
			return fmt.Errorf("attach management port %d: %w", i, err)
		}
		if err := s.rt.LinkSetIsolated(port, true); err != nil {
			return fmt.Errorf("isolate management port %d: %w", i, err)
		}
		if err := s.raise(port.Index); err != nil {
			return fmt.Errorf("management port %d: %w", i, err)
		}
		if err := s.pin(bridge, managementAddr(i), managementMAC(i)); err != nil {
			return err
		}
	}
	return nil
}

// connectNode brings up a node's side of the management network. Nothing is
// forwarded to or from it, and no route but its own subnet leads there.
func connectNode(s *space, index map[string]int, n int) error {
	i := index[ManagementInterface]
	if err := s.raise(i, netip.PrefixFrom(managementAddr(n), management.Bits())); err != nil {
		return fmt.Errorf("%s: %w", ManagementInterface, err)
	}
	if err := s.pin(i, managementAddr(0), managementMAC(0)); err != nil {
		return fmt.Errorf("%s: %w", ManagementInterface, err)
	}
	return nil
}
