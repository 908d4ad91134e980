package gnmi

import (
	"math"
	"time"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"github.com/openconfig/gnmi/proto/gnmi_ext"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// call names what an extension came with.
type call string

const (
	callCapabilities call = "Capabilities"
	callGet          call = "Get"
	callSet          call = "Set"
	callSubscribe    call = "Subscribe"
)

// extensions are those of a request that the target honours.
type extensions struct {
	depth   int               // levels below each path; 0 is all
	history *gnmi_ext.History // nil: the present
}

// readExtensions refuses those that change what a call means and that the target
// does not do, or not with this call. Others may be passed over (gNMI
// specification, section 2.7.1).
func readExtensions(list []*gnmi_ext.Extension, of call) (extensions, error) {
	var out extensions
	for _, x := range list {
		switch x := x.GetExt().(type) {
		case *gnmi_ext.Extension_Depth:
			if of != callGet && of != callSubscribe {
				return out, status.Errorf(codes.InvalidArgument, "extension depth with %s: it is for Get and Subscribe", of)
			}
			out.depth = int(min(x.Depth.GetLevel(), maxElems))
		case *gnmi_ext.Extension_History:
			if of != callSubscribe {
				return out, status.Errorf(codes.InvalidArgument, "extension history with %s: it is for Subscribe", of)
			}
			out.history = x.History
		case *gnmi_ext.Extension_Commit:
			return out, status.Error(codes.Unimplemented, "extension commit is not supported: what is set holds at once")
		case *gnmi_ext.Extension_ConfigSubscription:
			return out, status.Error(codes.Unimplemented, "extension config_subscription is not supported: subscribe to config containers")
		case *gnmi_ext.Extension_MasterArbitration:
			if of == callSet {
				return out, status.Error(codes.Unimplemented, "extension master_arbitration is not supported: any client that may set, may")
			}
		}
	}
	return out, nil
}

// era is the time whose events a subscription asks for.
type era struct {
	past bool // it is not just the present: state, which has no past, is left out
	from int64
	to   int64 // not part of it
}

// present is the era of a subscription without history.
var present = era{from: math.MinInt64, to: math.MaxInt64}

// open reports whether it goes on after what has happened so far.
func (e era) open() bool { return e.to == math.MaxInt64 }

func (e era) holds(it *item) bool {
	return it.at >= e.from && (e.open() || it.at < e.to)
}

// readHistory tells which events a history request asks for (gNMI history
// extension, section 2.2).
func readHistory(h *gnmi_ext.History, mode gnmipb.SubscriptionList_Mode, now time.Time) (era, error) {
	if h == nil {
		return present, nil
	}
	switch r := h.GetRequest().(type) {
	case *gnmi_ext.History_SnapshotTime:
		switch {
		case mode != gnmipb.SubscriptionList_ONCE:
			return era{}, status.Errorf(codes.InvalidArgument, "a snapshot of the past with mode %s: use ONCE", mode)
		case r.SnapshotTime > now.UnixNano():
			return era{}, status.Error(codes.Unimplemented, "a snapshot of the future: ask when it is there, or look at your clock")
		}
		return era{past: true, from: math.MinInt64, to: r.SnapshotTime + 1}, nil
	case *gnmi_ext.History_Range:
		from, to := r.Range.GetStart(), r.Range.GetEnd()
		switch {
		case mode != gnmipb.SubscriptionList_STREAM:
			return era{}, status.Errorf(codes.InvalidArgument, "a range of the past with mode %s: use STREAM", mode)
		case from > to:
			return era{}, status.Errorf(codes.InvalidArgument, "a range from %d, after its end %d", from, to)
		case from > now.UnixNano():
			return era{}, status.Error(codes.Unimplemented, "a range that begins in the future: ask when it is there, or look at your clock")
		}
		return era{past: to != math.MaxInt64, from: from, to: to}, nil
	}
	return era{}, status.Error(codes.InvalidArgument, "extension history without a snapshot_time or range")
}
