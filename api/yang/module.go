package yang

import (
	_ "embed"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
)

const (
	// Module is the name of the YANG module, which qualifies top-level names
	// in JSON_IETF (RFC 7951, section 4).
	Module = "decaf-loss"
	// Version is the module's openconfig-version.
	Version = "0.5.0"
	// Organization is what Capabilities says of the module's author.
	Organization = "decaf"
)

//go:embed decaf-loss.yang
var text string

// Text returns the YANG module as written.
func Text() string { return text }

// Model is the module as Capabilities lists it.
func Model() *gnmipb.ModelData {
	return &gnmipb.ModelData{Name: Module, Organization: Organization, Version: Version}
}
