package correlator

import "slices"

// Classes of losses that no device told of.
const (
	// classSilent: each device that would have seen them tells of all that it drops,
	// and told of nothing.
	classSilent = "silent"
	// classUnknown: nobody would have told, or it is not known yet whether a queue
	// overflows or the link is at fault.
	classUnknown = "unknown"
)

// unseen says whether a class says of losses that no device told why: of open findings
// of earlier runs it may be "".
func unseen(class string) bool { return class == "" || class == classUnknown || class == classSilent }

// classUnseen gives candidates that have no class one.
func classUnseen(w *Window, list []Candidate) {
	for i := range list {
		c := &list[i]
		if c.Class != "" {
			continue
		}
		c.Class = classUnknown
		devices := slices.DeleteFunc(c.Component.devices(), func(name string) bool {
			_, is := w.Topo.Device(name)
			return !is
		})
		deaf := func(name string) bool { return !slices.Contains(w.Watching, name) }
		if !c.undecided && len(c.Drops) == 0 && len(devices) > 0 && !slices.ContainsFunc(devices, deaf) {
			c.Class = classSilent
		}
	}
}
