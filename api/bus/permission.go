package bus

import (
	"fmt"
	"strings"

	"github.com/nats-io/nats-server/v2/server"
)

// Roles of a connection, the part before the first dot of its name.
const (
	RoleHost      = "host"      // an agent on a server: speaks for itself only
	RoleCollector = "collector" // dials devices and speaks for them
	RoleAdmin     = "admin"     // may do everything: the correlator, tools
)

// parseName takes a connection's name apart: "host.p0-tor0-h0".
func parseName(name string) (role, id string, err error) {
	role, id, ok := strings.Cut(name, ".")
	if !ok || !token.MatchString(id) {
		return "", "", fmt.Errorf("%q is no name of a client: write host.<name>, collector.<name> or admin.<name>", name)
	}
	switch role {
	case RoleHost, RoleCollector, RoleAdmin:
		return role, id, nil
	}
	return "", "", fmt.Errorf("%q: role %q is unknown: write host.<name>, collector.<name> or admin.<name>", name, role)
}

// inboxPrefix is where answers to a client go. Nobody but the client itself
// may listen there.
func inboxPrefix(role, id string) string { return "_INBOX." + role + "." + id }

// configSubject is the subject of a host's configuration in BucketAgentConfig.
func configSubject(id string) string { return "$KV." + BucketAgentConfig + "." + id }

// permissions says what a client may do. nil means everything.
//
// A host reads its configuration by a direct get of its own key and hears of
// changes by listening to that key: it needs no consumer, whose deliver
// subject could point anywhere.
func permissions(site, role, id string) (*server.Permissions, error) {
	allow := func(publish []string, subscribe ...string) *server.Permissions {
		return &server.Permissions{
			Publish:   &server.SubjectPermission{Allow: publish},
			Subscribe: &server.SubjectPermission{Allow: append(subscribe, inboxPrefix(role, id)+".>")},
		}
	}
	switch role {
	case RoleHost:
		return allow([]string{
			Subject(site, RecordRetransmit, id),
			Subject(site, RecordFlow, id),
			Subject(site, RecordExchange, id),
			Subject(site, RecordHeartbeat, id),
			Subject(site, RecordSurvey, id),
			"$JS.API.DIRECT.GET.KV_" + BucketAgentConfig + "." + configSubject(id),
		}, configSubject(id)), nil
	case RoleCollector:
		return allow([]string{
			Subject(site, RecordDrop, "*"),
			Subject(site, RecordAggregate, "*"),
			Subject(site, RecordRoute, "*"),
			Subject(site, RecordHeartbeat, "*"),
			"$JS.API.DIRECT.GET.KV_" + BucketTopology + ".$KV." + BucketTopology + ".>",
		}, "$KV."+BucketTopology+".>"), nil
	case RoleAdmin:
		return nil, nil
	}
	return nil, fmt.Errorf("role %q is unknown", role)
}
