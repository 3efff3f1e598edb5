package main

import (
	"log/slog"
	"math"
	"syscall"

	"github.com/walsvc/walsvc/internal/limits"
)

// connectionsWithin returns how many connections there may be of most, so that they
// leave the volume the files that it has to open: each is a file of the process, too,
// and clients that use all of them up would poison the volume.
func connectionsWithin(most int, log *slog.Logger) int {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		log.Warn("limit of open files not known", "err", err)
		return most
	}
	left := leftForConnections(uint64(files.Cur)) //nolint:unconvert // it is signed on some systems
	if left < most {
		log.Warn("fewer connections than max-connections: the limit of open files (ulimit -n) leaves no room for more", "connections", left, "max_connections", most, "open_files", files.Cur)
	}
	return min(left, most)
}

// leftForConnections returns how many connections leave limits.ReservedFiles of so
// many files, and one at least: who else would find out.
func leftForConnections(files uint64) int {
	return int(min(max(files, limits.ReservedFiles+1)-limits.ReservedFiles, math.MaxInt32))
}
