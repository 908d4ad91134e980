package service

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
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

// ValidListen says what is wrong with an address to listen on.
func ValidListen(addr string) error {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("listen %s: give an address and a port, such as 127.0.0.1:8080 or [::1]:8080", addr)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return fmt.Errorf("listen %s: %q is no port: give a number from 1 to 65535, or 0 for any that is free", addr, port)
	}
	return nil
}
