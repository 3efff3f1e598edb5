package awake

import (
	"errors"
	"io"
	"os"
)

// device takes a request of latency, in microseconds, that counts while it is open
// (Documentation/power/pm_qos_interface.rst).
const device = "/dev/cpu_dma_latency"

func hold() (io.Closer, error) {
	f, err := os.OpenFile(device, os.O_WRONLY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, errors.Join(err, errors.ErrUnsupported)
	}
	if err != nil {
		return nil, err
	}
	if _, err := f.Write(make([]byte, 4)); err != nil { // an int32 of the machine's: zero has no order of bytes
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
