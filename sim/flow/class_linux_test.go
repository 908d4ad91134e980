package flow

import (
	"slices"
	"testing"

	"decaf/device"
)

// The fabric's devices speak of the classes that real ones do.
func TestClassesAreTheDevices(t *testing.T) {
	for _, k := range kinds {
		if k.class != "" && !slices.Contains(device.Classes(), k.class) {
			t.Errorf("%s: no device knows the class %s", k.name, k.class)
		}
		if (k.class == "") != (k.reason == "") {
			t.Errorf("%s: class %q, reason %q", k.name, k.class, k.reason)
		}
	}
}
