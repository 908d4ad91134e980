package gnmi

import (
	"context"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// specVersion is the version of the gNMI specification the target follows.
const specVersion = "0.10.0"

// Capabilities implements gnmi.GNMI.
func (t *Target) Capabilities(_ context.Context, req *gnmipb.CapabilityRequest) (*gnmipb.CapabilityResponse, error) {
	if _, err := readExtensions(req.GetExtension(), callCapabilities); err != nil {
		return nil, err
	}
	return &gnmipb.CapabilityResponse{
		SupportedModels:    t.deps.Models,
		SupportedEncodings: encodings,
		GNMIVersion:        specVersion,
	}, nil
}

// checkModels holds the models a client limits itself to against ours (gNMI
// specification, section 2.6.2).
func (t *Target) checkModels(use []*gnmipb.ModelData) error {
	for _, m := range use {
		if !known(m.GetName(), t.deps.Models) {
			return status.Errorf(codes.Unimplemented, "model %q is not supported: Capabilities lists the models", m.GetName())
		}
	}
	return nil
}

// checkOrigin accepts the origins under which the models are served. What is
// left empty means openconfig (gNMI specification, section 2.2.2.1).
func (t *Target) checkOrigin(origin string) error {
	if origin == "" || origin == "openconfig" || known(origin, t.deps.Models) {
		return nil
	}
	return status.Errorf(codes.Unimplemented, "origin %q is not supported: use openconfig or leave it out", origin)
}

// origin returns the origin of a request and checks it: of prefix and path
// only one may say.
func (t *Target) origin(prefix, path *gnmipb.Path) (string, error) {
	o := prefix.GetOrigin()
	if p := path.GetOrigin(); p != "" {
		if o != "" && o != p {
			return "", status.Errorf(codes.InvalidArgument, "prefix has origin %q, path %q: give one", o, p)
		}
		o = p
	}
	return o, t.checkOrigin(o)
}
