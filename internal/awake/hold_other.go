//go:build !linux

package awake

import (
	"errors"
	"fmt"
	"io"
)

func hold() (io.Closer, error) {
	return nil, fmt.Errorf("%w: it takes Linux", errors.ErrUnsupported)
}
