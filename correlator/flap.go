package correlator

import (
	"fmt"
	"slices"

	"decaf/api/decafpb"
)

// Anomalies are events of devices that are no drops: a class of their own among
// drop events, and records of routes.
const (
	classAnomaly   = "anomaly"
	classRouteFlap = "anomaly/route-flap"
)

// flap is a device's word that its routes come and go.
type flap struct {
	device string
	at     int64 // ns
}

// maxFlaps bounds what is remembered of them.
const maxFlaps = 4096

// AddRoute takes a device's word on a route; only that one flaps is kept: routes
// change for good reasons.
func (s *Store) AddRoute(r *decafpb.RouteEvent) {
	if !s.fresh(recordRoute, r.GetOrigin()) {
		return
	}
	s.stats.Routes++
	if r.GetChange() == decafpb.RouteChange_ROUTE_CHANGE_FLAPPING {
		s.flaps(r.GetOrigin().GetProducer(), int64(r.GetTimeNs()))
	}
}

// flaps notes that a device's routes flap.
func (s *Store) flaps(device string, at int64) {
	if _, ok := s.topo.Device(device); !ok {
		s.stats.Invalid++
		return
	}
	if len(s.flapping) >= maxFlaps {
		s.flapping = slices.Delete(s.flapping, 0, maxFlaps/16)
		s.stats.EvictedFlaps += maxFlaps / 16
	}
	s.flapping = append(s.flapping, flap{device, at})
}

// unsteady adds to candidates that are devices what these said of their routes in
// a window: a reason, and the class where there is no better one.
func (s *Store) unsteady(w *Window, list []Candidate) {
	for i := range list {
		c := &list[i]
		if c.Component.Link != nil || c.Component.host {
			continue
		}
		n := 0
		for _, f := range s.flapping {
			n += btoi(f.device == c.Component.Node && f.at >= w.Start && f.at < w.End)
		}
		if n == 0 {
			continue
		}
		if c.Class == "" {
			c.Class = classRouteFlap
		}
		c.Reasons = append(c.Reasons, fmt.Sprintf("for: it said %d times that routes of it come and go", n))
	}
}
