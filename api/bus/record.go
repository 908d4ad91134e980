package bus

import (
	"decaf/api/decafpb"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// A kind is one record type: its subject token and its field in Batch.
type kind struct {
	record string
	field  protowire.Number
}

// kinds lists every record type; a record type's index here is used
// throughout the package.
var kinds = [...]kind{
	{RecordDrop, 1},
	{RecordAggregate, 2},
	{RecordRoute, 3},
	{RecordFlow, 4},
	{RecordRetransmit, 5},
	{RecordExchange, 6},
	{RecordHeartbeat, 7},
	{RecordSurvey, 8},
}

// evidence is any record: all have an origin.
type evidence interface {
	proto.Message
	GetOrigin() *decafpb.Origin
}

// kindOf returns the index of m's type in kinds, or -1 if m is no record or a
// nil one.
func kindOf(m proto.Message) int {
	switch m := m.(type) {
	case *decafpb.DropEvent:
		return unlessNil(m == nil, 0)
	case *decafpb.LossAggregate:
		return unlessNil(m == nil, 1)
	case *decafpb.RouteEvent:
		return unlessNil(m == nil, 2)
	case *decafpb.FlowRecord:
		return unlessNil(m == nil, 3)
	case *decafpb.Retransmit:
		return unlessNil(m == nil, 4)
	case *decafpb.Exchange:
		return unlessNil(m == nil, 5)
	case *decafpb.Heartbeat:
		return unlessNil(m == nil, 6)
	case *decafpb.Survey:
		return unlessNil(m == nil, 7)
	}
	return -1
}

func unlessNil(isNil bool, i int) int {
	if isNil {
		return -1
	}
	return i
}

// setOrigin gives m, a record, an origin.
func setOrigin(m proto.Message, o *decafpb.Origin) {
	switch m := m.(type) {
	case *decafpb.DropEvent:
		m.Origin = o
	case *decafpb.LossAggregate:
		m.Origin = o
	case *decafpb.RouteEvent:
		m.Origin = o
	case *decafpb.FlowRecord:
		m.Origin = o
	case *decafpb.Retransmit:
		m.Origin = o
	case *decafpb.Exchange:
		m.Origin = o
	case *decafpb.Heartbeat:
		m.Origin = o
	case *decafpb.Survey:
		m.Origin = o
	}
}

// eachRecord calls f for every record of b with the index of its type, until
// f returns false.
func eachRecord(b *decafpb.Batch, f func(kind int, m evidence) bool) {
	for _, m := range b.GetDrops() {
		if !f(0, m) {
			return
		}
	}
	for _, m := range b.GetAggregates() {
		if !f(1, m) {
			return
		}
	}
	for _, m := range b.GetRoutes() {
		if !f(2, m) {
			return
		}
	}
	for _, m := range b.GetFlows() {
		if !f(3, m) {
			return
		}
	}
	for _, m := range b.GetRetransmits() {
		if !f(4, m) {
			return
		}
	}
	for _, m := range b.GetExchanges() {
		if !f(5, m) {
			return
		}
	}
	for _, m := range b.GetHeartbeats() {
		if !f(6, m) {
			return
		}
	}
	for _, m := range b.GetSurveys() {
		if !f(7, m) {
			return
		}
	}
}

// setReceived gives the records that have none the time they were received, in
// ns UTC.
func setReceived(b *decafpb.Batch, ns uint64) {
	set := func(at *uint64) {
		if *at == 0 {
			*at = ns
		}
	}
	for _, m := range b.GetDrops() {
		set(&m.ReceivedNs)
	}
	for _, m := range b.GetAggregates() {
		set(&m.ReceivedNs)
	}
	for _, m := range b.GetRoutes() {
		set(&m.ReceivedNs)
	}
	for _, m := range b.GetFlows() {
		set(&m.ReceivedNs)
	}
	for _, m := range b.GetRetransmits() {
		set(&m.ReceivedNs)
	}
	for _, m := range b.GetExchanges() {
		set(&m.ReceivedNs)
	}
	for _, m := range b.GetHeartbeats() {
		set(&m.ReceivedNs)
	}
	for _, m := range b.GetSurveys() {
		set(&m.ReceivedNs)
	}
}
