//go:build !linux

package disk

import "time"

func nap(d time.Duration) { <-time.After(d) }
