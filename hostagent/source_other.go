//go:build !linux

package hostagent

import (
	"errors"
	"log/slog"
)

// sources are there on Linux only.
var sources = []sourceOpener{{sourceAuto, func(sourceOptions, *slog.Logger) (source, error) {
	return nil, errors.New("decaf host needs Linux")
}}}
