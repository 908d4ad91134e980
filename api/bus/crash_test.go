package bus

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"decaf/api/service"
)

// TestMain doubles as a NATS server process that a test can kill.
func TestMain(m *testing.M) {
	if dir := os.Getenv("DECAF_TEST_NATS_DIR"); dir != "" {
		if err := serveUntilKilled(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func serveUntilKilled(dir string) error {
	s, err := StartServer(ServerConfig{
		Site: "east", Dir: dir, Listen: os.Getenv("DECAF_TEST_NATS_LISTEN"), MaxBytes: 256 * mib,
		TLS: &service.TLSFiles{
			CA: os.Getenv("DECAF_TEST_NATS_CA"), Cert: os.Getenv("DECAF_TEST_NATS_CERT"), Key: os.Getenv("DECAF_TEST_NATS_KEY"),
		},
	}, quiet())
	if err != nil {
		return err
	}
	defer s.Stop()
	c, err := Connect(context.Background(), ConnConfig{Server: s, Site: "east"}, quiet())
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.EnsureStreams(context.Background()); err != nil {
		return err
	}
	fmt.Println(s.URL())
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	<-stop.Done()
	return nil
}

// child is a NATS server process.
type child struct {
	cmd *exec.Cmd
	url string
}

func startChild(t *testing.T, dir, listen string, files service.TLSFiles) *child {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "DECAF_TEST_NATS_DIR="+dir, "DECAF_TEST_NATS_LISTEN="+listen,
		"DECAF_TEST_NATS_CA="+files.CA, "DECAF_TEST_NATS_CERT="+files.Cert, "DECAF_TEST_NATS_KEY="+files.Key)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = dieWithParent()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &child{cmd: cmd}
	t.Cleanup(c.kill)
	r := bufio.NewReader(out)
	line, err := r.ReadString('\n')
	if err != nil {
		t.Fatalf("server process did not start: %v", err)
	}
	c.url = strings.TrimSpace(line)
	go io.Copy(io.Discard, r)
	return c
}

func (c *child) kill() {
	if c.cmd.ProcessState == nil {
		c.cmd.Process.Kill()
		c.cmd.Wait()
	}
}

// crashSite is a server process, an agent and a reader, all over TLS.
type crashSite struct {
	dir   string
	files service.TLSFiles
	child *child
	p     *Publisher
	got   *sink
	n     int
}

func newCrashSite(t *testing.T) *crashSite {
	ca, err := service.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	issue := func(cn string, sans ...string) *service.TLSFiles {
		f, err := ca.Issue(cn, sans...)
		if err != nil {
			t.Fatal(err)
		}
		return &f
	}
	s := &crashSite{dir: t.TempDir() + "/store", files: *issue("server", "127.0.0.1")}
	s.child = startChild(t, s.dir, "127.0.0.1:0", s.files)
	agent := connect(t, ConnConfig{URL: s.child.url, Name: "host.h", TLS: issue("host.h")})
	reader := connect(t, ConnConfig{URL: s.child.url, Name: "admin.x", TLS: issue("admin.x")})
	s.got = consume(t, reader, time.Time{})
	s.p = NewPublisher(agent, "h", PublisherOptions{MaxRecords: 10})
	t.Cleanup(func() { closePublisher(t, s.p) })
	return s
}

func (s *crashSite) publish(n int) {
	for range n {
		s.n++
		s.p.Publish(retransmit(uint32(s.n)))
	}
}

func (s *crashSite) allStored(t *testing.T) {
	t.Helper()
	eventually(t, "all stored", func() bool { return s.p.Stats().Stored == uint64(s.n) })
}

func (s *crashSite) restart(t *testing.T) {
	t.Helper()
	s.child = startChild(t, s.dir, strings.TrimPrefix(s.child.url, "tls://"), s.files)
}

// A server process killed without warning, again and again while records flow:
// a reader that lives through it all sees each record once and in order, and
// so does one that reads the store afterwards.
func TestNothingIsLostWhenTheServerIsKilled(t *testing.T) {
	s := newCrashSite(t)
	for range 4 {
		stored := s.p.Stats().Stored
		s.publish(500)
		eventually(t, "some stored", func() bool { return s.p.Stats().Stored > stored })
		s.child.kill()
		s.publish(500)
		s.restart(t)
	}
	s.allStored(t)
	eventually(t, "all read", func() bool { return len(s.got.of(RecordRetransmit, "h")) >= s.n })
	inOrder(t, s.got.of(RecordRetransmit, "h"), s.n)
	s.readAfterwards(t)
}

func (s *crashSite) readAfterwards(t *testing.T) {
	t.Helper()
	s.child.cmd.Process.Signal(syscall.SIGTERM)
	s.child.cmd.Wait()
	again := consume(t, connect(t, ConnConfig{Server: startServer(t, ServerConfig{Dir: s.dir})}), time.Time{})
	eventually(t, "all in the store", func() bool { return len(again.of(RecordRetransmit, "h")) >= s.n })
	inOrder(t, again.of(RecordRetransmit, "h"), s.n)
}

// A machine that loses power loses what was acknowledged and not yet synced.
// Played with a copy of the store: records are acknowledged and read after the
// copy is taken, the server is killed, and comes back with the copy. Its
// publisher brings them back; the reader, who has seen them, sees them once.
func TestNothingAcknowledgedIsLostWithTheServersLastSeconds(t *testing.T) {
	s := newCrashSite(t)
	s.publish(200)
	s.allStored(t)
	copied := t.TempDir() + "/copy"
	if err := os.CopyFS(copied, os.DirFS(s.dir)); err != nil {
		t.Fatal(err)
	}
	s.publish(300)
	s.allStored(t)
	eventually(t, "all read", func() bool { return len(s.got.of(RecordRetransmit, "h")) == 500 })
	s.child.kill()
	s.dir = copied
	s.publish(100)
	s.restart(t)
	s.allStored(t)
	eventually(t, "all read", func() bool { return len(s.got.of(RecordRetransmit, "h")) >= 600 })
	inOrder(t, s.got.of(RecordRetransmit, "h"), 600)
	if st := s.p.Stats(); st.Resent == 0 {
		t.Errorf("nothing was sent again: %+v", st)
	}
	s.readAfterwards(t)
}
