package gnmi

import (
	"context"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Set implements gnmi.GNMI: nothing in the model is configuration yet.
func (t *Target) Set(context.Context, *gnmipb.SetRequest) (*gnmipb.SetResponse, error) {
	return nil, status.Error(codes.Unimplemented, "the model of this target has state only: there is nothing to set")
}
