package service

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
)

// TLSFiles names the PEM files of one end of a mutually authenticated
// connection. CA verifies the peer, Cert and Key prove this end.
type TLSFiles struct {
	CA   string `yaml:"ca"`
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
}

// Server returns the configuration of a listener: TLS 1.2 or later, its own
// certificate, and, with requireClient, a client certificate signed by CA.
// Cert and Key are required; CA only with requireClient.
func (f TLSFiles) Server(requireClient bool) (*tls.Config, error) {
	cert, err := f.pair()
	if err != nil {
		return nil, err
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}}
	if requireClient {
		if c.ClientCAs, err = f.pool(); err != nil {
			return nil, err
		}
		c.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return c, nil
}

// Client returns the configuration of a dialler: TLS 1.2 or later, the server
// verified against CA (or the system's authorities when CA is empty) under
// serverName (or the dialled name when empty), and a client certificate when
// Cert and Key are given.
func (f TLSFiles) Client(serverName string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: serverName}
	var err error
	if f.CA != "" {
		if c.RootCAs, err = f.pool(); err != nil {
			return nil, err
		}
	}
	if f.Cert != "" || f.Key != "" {
		cert, err := f.pair()
		if err != nil {
			return nil, err
		}
		c.Certificates = []tls.Certificate{cert}
	}
	return c, nil
}

func (f TLSFiles) pair() (tls.Certificate, error) {
	if f.Cert == "" || f.Key == "" {
		return tls.Certificate{}, fmt.Errorf("tls needs both cert and key, got cert %q and key %q: name the PEM files of both", f.Cert, f.Key)
	}
	c, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		return c, fmt.Errorf("load tls certificate %s with key %s: %w", f.Cert, f.Key, err)
	}
	return c, nil
}

func (f TLSFiles) pool() (*x509.CertPool, error) {
	if f.CA == "" {
		return nil, fmt.Errorf("tls needs ca to verify the other end: name the PEM file of the authority that signs its certificates")
	}
	pem, err := os.ReadFile(f.CA)
	if err != nil {
		return nil, fmt.Errorf("read tls authority: %w", err)
	}
	p := x509.NewCertPool()
	if !p.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("tls authority %s holds no PEM certificate", f.CA)
	}
	return p, nil
}
