// Package telemetry says what a running walsvc does, to whoever asks over HTTP
// on the admin address:
//
//	/metrics       Prometheus: what Names lists, and what the Go runtime and the process have
//	/healthz       200 while the process answers
//	/readyz        200 while the volume takes appends, otherwise 503 and why
//	/debug/pprof/  profiles, for loopback only: they show memory
//
// Nothing of it costs an append anything. The engine tells of each frame, by
// wal.Events, where its time went; a frame observed is a handful of atomic
// additions, on the goroutine that told the frame's appenders, after it told
// them. Whatever the engine counts itself is asked for when somebody scrapes.
//
// No other package names a metric, and no metric has a log's name or a client's
// as a label: their number is bounded by the code and not by the users.
package telemetry
