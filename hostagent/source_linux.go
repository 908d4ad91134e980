package hostagent

import "log/slog"

// sources in the order they are tried.
var sources = []sourceOpener{
	{sourceBTF, func(o sourceOptions, log *slog.Logger) (source, error) { return openKernel(o.kernelOptions, log) }},
	{sourceTracepoint, func(o sourceOptions, _ *slog.Logger) (source, error) {
		return openDiag(o, openTracepoints, sourceTracepoint)
	}},
	{sourcePerf, func(o sourceOptions, _ *slog.Logger) (source, error) { return openDiag(o, openPerf, sourcePerf) }},
	{sourceDiag, func(o sourceOptions, _ *slog.Logger) (source, error) { return openDiag(o, nil, sourceDiag) }},
}
