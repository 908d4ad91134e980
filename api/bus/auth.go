package bus

import (
	"crypto/subtle"
	"log/slog"

	"github.com/nats-io/nats-server/v2/server"
)

// auth decides who a client of the embedded server is.
//
//   - This process itself: by a token drawn when the server started; it may
//     do everything.
//   - Over TLS: by the common name of its certificate, which the TLS handshake
//     has verified against the authority.
//   - Over plain TCP, which is served on loopback only: by the user name it
//     gives. Programs on one machine are trusted to say who they are, but not
//     to be admin.
type auth struct {
	site  string
	token string
	tls   bool
	may   func(role, name string) bool
	log   *slog.Logger
}

// Check implements server.Authentication.
func (a *auth) Check(c server.ClientAuthentication) bool {
	if c.Kind() != server.CLIENT {
		return false
	}
	opts := c.GetOpts()
	if opts.Token != "" {
		if subtle.ConstantTimeCompare([]byte(opts.Token), []byte(a.token)) != 1 {
			return a.refuse(c, "", "wrong token")
		}
		c.RegisterUser(&server.User{Username: "in-process"})
		return true
	}
	name := opts.Username
	if a.tls {
		state := c.GetTLSConnectionState()
		if state == nil || len(state.VerifiedChains) == 0 {
			return a.refuse(c, name, "no verified client certificate")
		}
		name = state.PeerCertificates[0].Subject.CommonName
	}
	role, id, err := parseName(name)
	if err != nil {
		return a.refuse(c, name, err.Error())
	}
	if role == RoleAdmin && !a.tls {
		return a.refuse(c, name, "admin needs tls with a client certificate")
	}
	if a.may != nil && !a.may(role, id) {
		return a.refuse(c, name, "not known at this site")
	}
	p, err := permissions(a.site, role, id)
	if err != nil {
		return a.refuse(c, name, err.Error())
	}
	c.RegisterUser(&server.User{Username: name, Permissions: p})
	return true
}

func (a *auth) refuse(c server.ClientAuthentication, name, why string) bool {
	remote := ""
	if r := c.RemoteAddress(); r != nil {
		remote = r.String()
	}
	a.log.Warn("nats client refused", "name", name, "remote", remote, "why", why)
	return false
}
