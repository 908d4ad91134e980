// Package kernel builds a fabric out of Linux network namespaces: real TCP, real
// forwarding with equal-cost multipath, real drops.
//
// What lives here:
//
//   - the fabric (fabric_linux.go): one anonymous namespace per device and host
//     (namespace_linux.go), a veth pair per cable (cable_linux.go), host routes
//     over all shortest paths (routes.go, routes_linux.go), the sysctls that make
//     a probe take the path of the flow it stands for (sysctl_linux.go), and an
//     out-of-band management network (management_linux.go);
//   - faults (fault.go), each with the truth about what it took from a counter that
//     is not decaf's own. Of packets on a link (wire_linux.go): silent-loss, corrupt
//     (corrupt_linux.go), and for a whole device device-loss and syn-blackhole
//     (wires_linux.go). Of queues (queue_linux.go): queue, host-slow. Of a device's
//     filter and routes: acl, no-route, route-flap, and by a detour (detour_linux.go)
//     blackhole, ttl-loop and mtu. Of its power: device-down. Of servers: server-slow,
//     server-reset. In each one's file it says which devices see it and as what;
//   - traffic: many short TCP connections (traffic.go says who talks to whom,
//     generator.go talks).
//
// What does not: scenarios and when a fault starts and ends (package scenario and
// package sim), agents, and anything that reads evidence.
//
// A fabric speaks what its topology's links have addresses of: IPv4, IPv6 or both. The
// kernel chooses among equal paths by the same five fields for both, never by IPv6's flow
// label; faults take packets of either, and what a fault is told to match of one takes
// none of the other. The management network is IPv4.
//
// Nothing here touches the namespace of the caller: namespaces have no name and
// no file, they end with the process that holds them, and so do their links,
// routes, queues and tables. Child processes are killed with their parent.
//
// The way through it: [Build] a topology, [Fabric.Start] processes in its nodes,
// [Fabric.Apply] faults, [Active.Stop] them and read [Active.Truth],
// [Fabric.Close].
package kernel
