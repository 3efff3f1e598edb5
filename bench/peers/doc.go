// Command peers measures walsvc beside other logs that make every append durable
// before they acknowledge it, each configured for that and at its best.
//
// One load generator, that of internal/bench, drives all of them: callers that
// each wait for their own append, or one that goes on while at most a window is
// unacknowledged. See README.md in the directory above for the method, and each
// subject's file for how it is configured and why.
//
//	go run ./peers -walsvc ../bin/walsvc
//	go run ./peers -walsvc ../bin/walsvc -only redis,pebble -rounds 9 -out /tmp/peers
package main
