package main

import (
	"log/slog"
	"net"
	"os"
)

// notify tells the service manager how it stands (sd_notify), if one listens.
// That it does not get through is no reason not to serve.
func notify(log *slog.Logger, state string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	conn, err := net.Dial("unixgram", path) // "@" for the abstract name space is net's spelling, too
	if err == nil {
		_, err = conn.Write([]byte(state))
		_ = conn.Close() // datagrams are gone once written
	}
	if err != nil {
		log.Warn("service manager not told", "state", state, "err", err)
	}
}
