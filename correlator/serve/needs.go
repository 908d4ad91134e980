package serve

import (
	"decaf/api/service"
)

// needs are those of a service that runs: no privileges, but its folder, and what
// it reads again: its own certificates, and with each attempt to reach a device the
// certificates and the password for that.
func needs(c Config, s *Service) service.Needs {
	n := service.Needs{
		Capabilities: service.NeedsToListen(c.NATS.Listen, c.API.Listen),
		Write:        []string{c.Data},
	}
	if c.Topology != Learned {
		n.Read = append(n.Read, c.Topology)
	}
	for _, t := range []*service.TLSFiles{c.NATS.TLS, c.API.TLS} {
		if t != nil {
			n.Read = append(n.Read, t.Files()...)
		}
	}
	if s == nil {
		return n
	}
	seen := map[string]bool{"": true} // a network has few of them
	for _, d := range s.topo.Devices {
		if d.GNMI == nil {
			continue
		}
		names := []string{d.GNMI.PasswordFile}
		if t := d.GNMI.TLS; t != nil {
			names = append(names, t.CA, t.Cert, t.Key)
		}
		for _, name := range names {
			if !seen[name] {
				seen[name] = true
				n.Read = append(n.Read, name)
			}
		}
	}
	return n
}
