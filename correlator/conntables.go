package correlator

import (
	"decaf/api/decafpb"
	"decaf/api/packet"
)

// connTables are what hosts tell of their connections, for people to look at: one by
// one, and summed up per service. A host tells the same in several ways, and what
// says the most is kept: of its connections those with a cookie, and of its sums
// those with a service's port. One whose tables are switched off names no cookies and
// no services, but still each connection that sent something again, and rows of
// loss-free ones.
type connTables struct {
	single, services *connTable
	ways             map[int32]*toldWays
}

// toldWays is when a host last told of something in the ways that say the most, ns.
type toldWays struct{ cookie, service int64 }

// tablesPause is for how long a host that told in those ways is taken to do so
// still, ns: twice the longest interval of its tables.
const tablesPause = 600e9

func newConnTables(l StoreLimits) connTables {
	return connTables{
		single: newConnTable(l.TableBytes - l.TableBytes/4), services: newConnTable(l.TableBytes / 4),
		ways: make(map[int32]*toldWays),
	}
}

// add takes a record of a host.
func (t *connTables) add(host int32, flow packet.Flow, r *decafpb.FlowRecord) {
	w := t.ways[host]
	if w == nil {
		w = new(toldWays)
		t.ways[host] = w
	}
	end := int64(r.GetEndNs())
	switch row := flow.Src.Port() == 0 && flow.Dst.Port() == 0; {
	case r.GetFlows() == 0 && r.GetCookie() != 0:
		w.cookie = max(w.cookie, end)
		t.single.add(host, flow, r)
	case r.GetFlows() == 0:
		if row || w.cookie != 0 && end-w.cookie < tablesPause {
			return
		}
		t.single.add(host, flow, r)
	case !row:
		w.service = max(w.service, end)
		t.services.add(host, flow, r)
	case !t.summed(host, end):
		t.services.add(host, flow, r)
	}
}

// summed says whether a host sums up its services at a moment, so that its rows tell
// nothing more.
func (t *connTables) summed(host int32, at int64) bool {
	w := t.ways[host]
	return w != nil && w.service != 0 && at-w.service < tablesPause
}

func (t *connTables) prune(old int64) {
	t.single.prune(old)
	t.services.prune(old)
}
