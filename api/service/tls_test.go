package service

import (
	"crypto/tls"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMutualTLSBetweenIssuedCertificates(t *testing.T) {
	ca, other := newCA(t), newCA(t)
	server := issue(t, ca, "server", "127.0.0.1", "localhost")
	client := issue(t, ca, "host.a")
	stranger := issue(t, other, "host.a")
	stranger.CA = client.CA
	f := func(what string, server, client TLSFiles, name string, wantCN, says string) {
		t.Helper()
		sc, err := server.Server(true)
		if err != nil {
			t.Fatal(err)
		}
		cc, err := client.Client(name)
		if err != nil {
			t.Fatal(err)
		}
		l, err := tls.Listen("tcp", "127.0.0.1:0", sc)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		cn := make(chan string, 1)
		go func() {
			defer close(cn)
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			if tc := c.(*tls.Conn); tc.Handshake() == nil {
				cn <- tc.ConnectionState().PeerCertificates[0].Subject.CommonName
			}
		}()
		c, err := tls.Dial("tcp", l.Addr().String(), cc)
		if err == nil {
			_, err = c.Read(make([]byte, 1))
			c.Close()
		} else {
			l.Close()
		}
		if err == io.EOF {
			err = nil
		}
		if got := <-cn; got != wantCN {
			t.Errorf("%s: the server saw %q, want %q", what, got, wantCN)
		}
		if says == "" && err != nil || says != "" && (err == nil || !strings.Contains(err.Error(), says)) {
			t.Errorf("%s: error %v, want %q", what, err, says)
		}
	}
	f("both of one authority", server, client, "127.0.0.1", "host.a", "")
	f("by name", server, client, "localhost", "host.a", "")
	f("a name the server does not bear", server, client, "example.net", "", "example.net")
	f("a client of another authority", server, stranger, "127.0.0.1", "", "unknown certificate authority")
	f("a client without a certificate", server, TLSFiles{CA: client.CA}, "127.0.0.1", "", "certificate required")
	f("a server of another authority", issue(t, other, "server", "127.0.0.1"), client, "127.0.0.1", "", "unknown authority")
}

func newCA(t *testing.T) *CA {
	ca, err := NewCA(filepath.Join(t.TempDir(), "ca"))
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func issue(t *testing.T, ca *CA, cn string, sans ...string) TLSFiles {
	f, err := ca.Issue(cn, sans...)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestKeysAreTheOwnersAlone(t *testing.T) {
	f := issue(t, newCA(t), "host.a")
	for _, file := range []string{f.Key, f.Cert, f.CA} {
		i, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		if i.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", file, i.Mode())
		}
	}
}

func TestNamesThatCannotBeFilesAreNotIssued(t *testing.T) {
	ca := newCA(t)
	for _, cn := range []string{"", "../x", "a/b", ".hidden", "a b", strings.Repeat("x", 65)} {
		if _, err := ca.Issue(cn); err == nil {
			t.Errorf("issued %q", cn)
		}
	}
}

func TestTLSFilesSayWhatIsMissing(t *testing.T) {
	good := issue(t, newCA(t), "a")
	junk := filepath.Join(t.TempDir(), "junk.pem")
	if err := os.WriteFile(junk, []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := func(files TLSFiles, says string) {
		t.Helper()
		if _, err := files.Server(true); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("error %v, want %q", err, says)
		}
	}
	f(TLSFiles{}, "both cert and key")
	f(TLSFiles{Cert: good.Cert}, "both cert and key")
	f(TLSFiles{Cert: good.Cert, Key: good.Key}, "needs ca")
	f(TLSFiles{Cert: good.Cert, Key: good.Key, CA: junk}, "no PEM certificate")
	f(TLSFiles{Cert: junk, Key: good.Key, CA: good.CA}, "junk.pem")
	f(TLSFiles{Cert: "nosuch.pem", Key: good.Key, CA: good.CA}, "nosuch.pem")
	if _, err := (TLSFiles{}).Client(""); err != nil {
		t.Errorf("a client needs no files: %v", err)
	}
}

func TestLoopback(t *testing.T) {
	for addr, want := range map[string]bool{
		"127.0.0.1:80": true, "127.9.9.9:80": true, "[::1]:80": true, "localhost:80": true, "127.0.0.1": true, "::1": true,
		"[::ffff:127.0.0.1]:80": true,
		"":                      false, ":80": false, "0.0.0.0:80": false, "[::]:80": false, "192.0.2.1:80": false, "example.net:80": false,
		"localhost.example.net:80": false, "127.0.0.1.example.net:80": false,
	} {
		if got := Loopback(addr); got != want {
			t.Errorf("%q: %v, want %v", addr, got, want)
		}
	}
}
