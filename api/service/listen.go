package service

import (
	"net"
	"net/netip"
	"strings"
)

// Loopback says whether a listener at addr ("host:port" or a bare host) can
// be reached from this machine only. An empty host means every address, so it
// is not loopback; neither is a name other than localhost, since what it
// resolves to may change.
func Loopback(addr string) bool {
	host := addr
	if h, _, err := net.SplitHostPort(addr); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}
