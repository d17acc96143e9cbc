//go:build !unix

package wsplugin

import (
	"io"
	"os"
)

// processStderr returns the stderr of this process.
func processStderr() io.Writer { return os.Stderr }
