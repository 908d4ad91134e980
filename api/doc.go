// Package api is what people and programs see of decaf: the HTTP API under
// /api/v1, the plain page at /, and the client verbs of the command line. It
// is written against Backend, an interface it declares itself and that the
// correlator satisfies; it concludes nothing and stores nothing.
//
// The way through it: backend.go says what is asked of the correlator, range.go
// of which part of the evidence (time, component, flow), problem.go in which
// words errors are told. server.go listens, routes.go sends each request to
// its handler in handlers.go, query.go reads and checks what came with it, and
// view.go turns the records of decafpb into the JSON that is served and that
// the client reads back; connection.go does all of this for connections and
// services. page.go, connectionpage.go and page/ render the same views as HTML,
// picture.go lays out the paths. client.go fetches the views for the command
// line: verbs.go has its commands, columns.go, connectioncolumns.go, leftout.go,
// table.go and show.go what they print.
//
// What does not live here: evidence, votes and verdicts (correlator), the wire
// schema (api/decafpb), the message bus (api/bus), configuration, TLS files
// and health (api/service).
package api
