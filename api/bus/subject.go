package bus

import (
	"regexp"
	"strings"
)

// Record types, the third token of a subject.
const (
	RecordDrop       = "drop"
	RecordAggregate  = "aggregate"
	RecordRoute      = "route"
	RecordFlow       = "flow"
	RecordRetransmit = "retransmit"
	RecordExchange   = "exchange"
	RecordHeartbeat  = "heartbeat"
	RecordSurvey     = "survey"
)

// token is what sites and producers may be called: one subject token, with
// nothing in it that NATS or a file system reads a meaning into.
var token = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,126}$`)

// Subject is where records of one type from one producer are published:
// decaf.<site>.<record>.<producer>.
func Subject(site, record, producer string) string {
	return "decaf." + site + "." + record + "." + producer
}

// parseSubject undoes Subject for subjects of site.
func parseSubject(subject, site string) (record, producer string, ok bool) {
	rest, ok := strings.CutPrefix(subject, "decaf."+site+".")
	if !ok {
		return "", "", false
	}
	record, producer, ok = strings.Cut(rest, ".")
	return record, producer, ok && token.MatchString(record) && token.MatchString(producer)
}
