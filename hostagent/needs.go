package hostagent

import (
	"path/filepath"

	"decaf/api/service"
)

// needs are those of an agent that runs, whatever source it has. Its programs in
// the kernel take cap_bpf and cap_perfmon, and its traces cap_net_raw, for namespaces
// come and go and sources are opened again. To look up in the kernel what a NAT made
// of a flow, and when sockets are closed, takes cap_net_admin. Packets are sent from
// a thread that enters their namespace, the agent's own too: cap_sys_admin. To find
// the namespaces of other processes takes cap_sys_ptrace.
func needs(c Config) service.Needs {
	n := service.Needs{
		Capabilities: append(service.NeedsToListen(c.Listen), service.CapBPF, service.CapPerfmon, service.CapNetRaw, service.CapNetAdmin, service.CapSysAdmin),
		Read:         []string{c.Topology},
	}
	if len(c.Namespaces) > 0 {
		n.Capabilities = append(n.Capabilities, service.CapSysPtrace)
	}
	for _, t := range []*service.TLSFiles{c.NATS.TLS, c.Trace.Balancer.TLS} {
		if t != nil {
			n.Read = append(n.Read, t.Files()...)
		}
	}
	if c.Survey.File != "" {
		n.Write = append(n.Write, filepath.Dir(c.Survey.File))
	}
	return n
}
