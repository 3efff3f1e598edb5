//go:build !linux

package disk

import "errors"

// Locate returns errors.ErrUnsupported.
func Locate(string) (*Place, error) { return nil, errors.ErrUnsupported }

// CountersOf returns nothing.
func CountersOf(BlockDevice) (Counters, bool) { return Counters{}, false }

// Shutdown returns errors.ErrUnsupported.
func Shutdown(string) error { return errors.ErrUnsupported }

// Remount returns errors.ErrUnsupported.
func Remount(*Place) error { return errors.ErrUnsupported }
