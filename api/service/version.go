package service

import (
	"runtime/debug"
	"strings"
)

// Version names this build, for --version and heartbeats: the module's
// version when it has one, else the commit it was built from ("devel-1a2b3c4d",
// with "-dirty" for uncommitted changes), else "devel".
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	return version(info)
}

func version(info *debug.BuildInfo) string {
	// "v0.0.0-2026…+dirty" is what Go makes up from the commit; the commit
	// alone is shorter and says as much.
	if v := info.Main.Version; v != "" && v != "(devel)" && !strings.HasPrefix(v, "v0.0.0-") {
		return v
	}
	var rev, dirty string
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			rev = s.Value
		case "vcs.modified":
			if s.Value == "true" {
				dirty = "-dirty"
			}
		}
	}
	if rev == "" {
		return "devel"
	}
	if len(rev) > 8 {
		rev = rev[:8]
	}
	return "devel-" + rev + dirty
}
