package bus

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"decaf/api/service"

	"github.com/nats-io/nats.go"
)

// A site with TLS: an authority, a server, and certificates by name.
type site struct {
	t      *testing.T
	ca     *service.CA
	server *Server
}

func newSite(t *testing.T, cfg ServerConfig) *site {
	ca, err := service.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	files, err := ca.Issue("server", "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Listen, cfg.TLS = "127.0.0.1:0", &files
	s := &site{t: t, ca: ca, server: startServer(t, cfg)}
	inProcess(t, s.server)
	return s
}

func (s *site) files(cn string) *service.TLSFiles {
	f, err := s.ca.Issue(cn)
	if err != nil {
		s.t.Fatal(err)
	}
	return &f
}

// raw is a bare client with the certificate of cn: what an attacker who has
// taken over that machine could use.
func (s *site) raw(cn string) *nats.Conn {
	s.t.Helper()
	c, err := s.files(cn).Client("")
	if err != nil {
		s.t.Fatal(err)
	}
	nc, err := nats.Connect(s.server.URL(), nats.Secure(c), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(nc.Close)
	return nc
}

func TestEachRoleMayDoWhatItNeedsAndNoMore(t *testing.T) {
	s := newSite(t, ServerConfig{})
	// Per role, subjects it may publish on (p) and listen to (l); every
	// subject of the table that a role does not name it may not.
	subjects := []string{
		"decaf.east.retransmit.a", "decaf.east.flow.a", "decaf.east.exchange.a", "decaf.east.heartbeat.a", "decaf.east.survey.a",
		"decaf.east.survey.b", "decaf.east.retransmit.b", "decaf.east.heartbeat.b", "decaf.west.retransmit.a",
		"decaf.east.drop.t2-0", "decaf.east.aggregate.t2-0", "decaf.east.route.t2-0", "decaf.east.heartbeat.t2-0",
		"decaf.east.drop.a", "decaf.east.other.a",
		"$KV.findings.1", "$KV.reports.1", "$KV.agent_config.a", "$KV.agent_config.b", "$KV.topology.east",
		"$JS.API.STREAM.DELETE.evidence_east", "$JS.API.STREAM.PURGE.evidence_east", "$JS.API.STREAM.CREATE.mine",
		"$JS.API.CONSUMER.CREATE.evidence_east", "$JS.API.STREAM.MSG.GET.evidence_east",
		"$JS.API.DIRECT.GET.KV_agent_config.$KV.agent_config.a", "$JS.API.DIRECT.GET.KV_agent_config.$KV.agent_config.b",
		"$JS.API.DIRECT.GET.KV_findings.$KV.findings.1", "$JS.API.DIRECT.GET.KV_topology.$KV.topology.east",
		"$SYS.REQ.SERVER.PING", "_INBOX.host.a.1", "_INBOX.host.b.1", "_INBOX.collector.c.1", "anything",
	}
	wild := []string{">", "decaf.>", "decaf.east.*.a", "_INBOX.>", "_INBOX.host.>", "$KV.>", "$JS.>"}
	f := func(cn string, publish, listen []string) {
		t.Helper()
		may := func(list []string) map[string]bool {
			m := map[string]bool{}
			for _, x := range list {
				m[x] = true
			}
			return m
		}
		mayPublish, mayListen := may(publish), may(listen)
		nc := s.raw(cn)
		refused := func(what string) bool {
			if err := nc.Flush(); err != nil {
				t.Fatalf("%s: %s: %v", cn, what, err)
			}
			err := nc.LastError()
			return err != nil && strings.Contains(err.Error(), fmt.Sprintf("%q", strings.TrimPrefix(strings.TrimPrefix(what, "publish "), "listen ")))
		}
		for _, x := range subjects {
			if err := nc.Publish(x, nil); err != nil {
				t.Fatal(err)
			}
			if got := !refused("publish " + x); got != mayPublish[x] {
				t.Errorf("%s may publish on %s: %v, want %v", cn, x, got, mayPublish[x])
			}
		}
		nc = s.raw(cn)
		for _, x := range append(subjects, wild...) {
			if strings.HasPrefix(x, "$JS.API") || strings.HasPrefix(x, "$SYS") {
				continue
			}
			sub, err := nc.SubscribeSync(x)
			if err != nil {
				t.Fatal(err)
			}
			if got := !refused("listen " + x); got != mayListen[x] {
				t.Errorf("%s may listen to %s: %v, want %v", cn, x, got, mayListen[x])
			}
			sub.Unsubscribe()
		}
	}
	f("host.a",
		[]string{"decaf.east.retransmit.a", "decaf.east.flow.a", "decaf.east.exchange.a", "decaf.east.heartbeat.a", "decaf.east.survey.a",
			"$JS.API.DIRECT.GET.KV_agent_config.$KV.agent_config.a"},
		[]string{"_INBOX.host.a.1", "$KV.agent_config.a"})
	f("collector.c",
		[]string{"decaf.east.drop.t2-0", "decaf.east.aggregate.t2-0", "decaf.east.route.t2-0", "decaf.east.heartbeat.t2-0",
			"decaf.east.drop.a", "decaf.east.heartbeat.a", "decaf.east.heartbeat.b",
			"$JS.API.DIRECT.GET.KV_topology.$KV.topology.east"},
		[]string{"_INBOX.collector.c.1", "$KV.topology.east"})
}

// The whole way over TLS: agents publish as themselves, an admin reads.
func TestAgentsPublishAsThemselvesOverTLS(t *testing.T) {
	s := newSite(t, ServerConfig{})
	admin := connect(t, ConnConfig{URL: s.server.URL(), Name: "admin.x", TLS: s.files("admin.x")})
	got := consume(t, admin, time.Time{})
	a := connect(t, ConnConfig{URL: s.server.URL(), Name: "host.a", TLS: s.files("host.a")})
	p := NewPublisher(a, "a", PublisherOptions{})
	p.Publish(retransmit(1))
	closePublisher(t, p)
	c := connect(t, ConnConfig{URL: s.server.URL(), Name: "collector.c", TLS: s.files("collector.c")})
	q := NewPublisher(c, "t2-0", PublisherOptions{})
	q.Publish(oneOfEach()[0])
	closePublisher(t, q)
	eventually(t, "both", func() bool { return got.records() == 2 })

	// The same agent under another's name: nothing gets through, nothing is
	// counted as stored, and its own connection goes on working.
	forger := NewPublisher(a, "b", PublisherOptions{})
	forger.Publish(retransmit(1))
	p = NewPublisher(a, "a", PublisherOptions{})
	p.Publish(retransmit(2))
	closePublisher(t, p)
	eventually(t, "the honest one", func() bool { return got.records() == 3 })
	if st := forger.Stats(); st.Stored != 0 {
		t.Errorf("an agent published as another: %+v", st)
	}
	if n := len(got.of(RecordRetransmit, "b")); n != 0 {
		t.Errorf("%d records of b came", n)
	}
	ctx, cancel := contextEnded()
	defer cancel()
	if err := forger.Close(ctx); err == nil {
		t.Error("closing the forger says nothing of what was not stored")
	}
}

func TestAgentReadsItsOwnSettings(t *testing.T) {
	s := newSite(t, ServerConfig{})
	admin := connect(t, ConnConfig{Server: s.server})
	kv, err := admin.KV(BucketAgentConfig)
	if err != nil {
		t.Fatal(err)
	}
	a := connect(t, ConnConfig{URL: s.server.URL(), Name: "host.a", TLS: s.files("host.a")})
	if v, rev, err := a.AgentConfig(t.Context(), "a"); err != nil || rev != 0 || v != nil {
		t.Errorf("none stored: %q, %d, %v", v, rev, err)
	}
	want, err := kv.Put(t.Context(), "a", []byte("trace: {rate: 5}"))
	if err != nil {
		t.Fatal(err)
	}
	if v, rev, err := a.AgentConfig(t.Context(), "a"); err != nil || rev != want || string(v) != "trace: {rate: 5}" {
		t.Errorf("got %q, %d, %v, want revision %d", v, rev, err, want)
	}
	if err := kv.Delete(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if v, rev, err := a.AgentConfig(t.Context(), "a"); err != nil || rev != 0 || v != nil {
		t.Errorf("deleted: %q, %d, %v", v, rev, err)
	}
}

func TestWhoIsNotLetIn(t *testing.T) {
	s := newSite(t, ServerConfig{MayConnect: func(role, name string) bool { return role != RoleHost || name == "a" }})
	other, err := service.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := other.Issue("host.a")
	if err != nil {
		t.Fatal(err)
	}
	foreign.CA = s.files("host.a").CA // trusts the server, is not trusted by it
	plain := startServer(t, ServerConfig{Listen: "127.0.0.1:0"})
	try := func(what, url string, files *service.TLSFiles, in bool, opts ...nats.Option) {
		t.Helper()
		if files != nil {
			c, err := files.Client("")
			if err != nil {
				t.Fatal(err)
			}
			opts = append(opts, nats.Secure(c))
		}
		nc, err := nats.Connect(url, opts...)
		if err == nil {
			// With TLS 1.3 a client learns that its certificate was refused
			// only when it reads.
			err = nc.Flush()
			nc.Close()
		}
		if (err == nil) != in {
			t.Errorf("%s: let in %v, want %v (%v)", what, err == nil, in, err)
		}
	}
	url := s.server.URL()
	try("a host that is known", url, s.files("host.a"), true)
	try("a host that is not", url, s.files("host.b"), false)
	try("an admin", url, s.files("admin.x"), true)
	try("an unknown role", url, s.files("device.t2-0"), false)
	try("a name without a role", url, s.files("a"), false)
	try("a name with wildcards cannot be issued, one with dots", url, s.files("host.a.b"), false)
	try("no certificate", url, &service.TLSFiles{CA: foreign.CA}, false)
	try("a certificate of another authority", url, &foreign, false)
	try("no tls", strings.Replace(url, "tls://", "nats://", 1), nil, false, nats.UserInfo("host.a", ""))
	try("a user name that the certificate does not bear", url, s.files("host.b"), false, nats.UserInfo("host.a", ""))
	try("a wrong token", url, s.files("host.a"), false, nats.Token("guess"))
	try("plain on loopback: a host", plain.URL(), nil, true, nats.UserInfo("host.a", ""))
	try("plain on loopback: an admin", plain.URL(), nil, false, nats.UserInfo("admin.x", ""))
	try("plain on loopback: nobody", plain.URL(), nil, false)
	try("plain on loopback: a wrong token", plain.URL(), nil, false, nats.Token("guess"))
}

func TestNamesOfClients(t *testing.T) {
	f := func(name string, ok bool) {
		t.Helper()
		if _, _, err := parseName(name); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
	f("host.p0-tor0-h0", true)
	f("collector.c", true)
	f("admin.x", true)
	f("", false)
	f("host", false)
	f("host.", false)
	f("host.*", false)
	f("host.>", false)
	f("host.a b", false)
	f("host.a.b", false)
	f("root.a", false)
}
