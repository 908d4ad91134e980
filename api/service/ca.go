package service

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"time"
)

// caLifetime is how long the certificates of a [CA] hold: longer than any
// trial, short enough that a forgotten key is worth little.
const caLifetime = 30 * 24 * time.Hour

// fileCN is what a common name may be, since it becomes a file name.
var fileCN = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$`)

// CA is a certificate authority for one demo, simulation or test: ECDSA P-256
// keys, everything it issues in one directory, readable by its owner only. It
// is no replacement for a site's own authority.
type CA struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewCA makes a certificate authority whose certificate is dir/ca.pem. The
// authority's key is never written.
func NewCA(dir string) (*CA, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory for certificates: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make authority key: %w", err)
	}
	t, err := template("decaf authority of one run")
	if err != nil {
		return nil, err
	}
	t.IsCA = true
	t.BasicConstraintsValid = true
	t.MaxPathLenZero = true
	t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	t.ExtKeyUsage = nil
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("sign authority certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse authority certificate: %w", err)
	}
	ca := &CA{dir: dir, cert: cert, key: key}
	return ca, writePEM(ca.file(), "CERTIFICATE", der)
}

// Issue writes dir/<cn>.pem and dir/<cn>.key, good for servers and clients
// alike, and returns them with the authority's file. sans are the names and
// addresses a server is dialled by; a client needs none. cn may hold letters,
// digits, dot, dash and underscore. Issuing the same cn again replaces it.
func (ca *CA) Issue(cn string, sans ...string) (TLSFiles, error) {
	if !fileCN.MatchString(cn) {
		return TLSFiles{}, fmt.Errorf("issue certificate: %q is no usable name: use letters, digits, dot, dash and underscore", cn)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return TLSFiles{}, fmt.Errorf("make key of %s: %w", cn, err)
	}
	t, err := template(cn)
	if err != nil {
		return TLSFiles{}, err
	}
	for _, s := range sans {
		if ip := net.ParseIP(s); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, s)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, ca.cert, &key.PublicKey, ca.key)
	if err != nil {
		return TLSFiles{}, fmt.Errorf("sign certificate of %s: %w", cn, err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return TLSFiles{}, fmt.Errorf("encode key of %s: %w", cn, err)
	}
	f := TLSFiles{CA: ca.file(), Cert: filepath.Join(ca.dir, cn+".pem"), Key: filepath.Join(ca.dir, cn+".key")}
	if err := writePEM(f.Cert, "CERTIFICATE", der); err != nil {
		return TLSFiles{}, err
	}
	return f, writePEM(f.Key, "PRIVATE KEY", keyDER)
}

func (ca *CA) file() string { return filepath.Join(ca.dir, "ca.pem") }

func template(cn string) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("draw certificate serial: %w", err)
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: cn, Organization: []string{"decaf"}},
		// An hour back, for machines whose clocks are behind ours.
		NotBefore:   now.Add(-time.Hour),
		NotAfter:    now.Add(caLifetime),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, nil
}

func writePEM(file, kind string, der []byte) error {
	b := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	// Written aside and renamed, so that a reader never sees half a file.
	tmp, err := os.CreateTemp(filepath.Dir(file), ".pem-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	_, err = tmp.Write(b) // CreateTemp's mode is 0600
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), file)
	}
	if err != nil {
		os.Remove(tmp.Name())
		return fmt.Errorf("write %s: %w", file, err)
	}
	return nil
}
