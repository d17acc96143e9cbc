//go:build unix

package wsplugin

import (
	"io"
	"os"
	"sync"
	"syscall"
)

// processStderr returns the stderr of this process by another descriptor: Go ends a process that
// writes to descriptor 2 when nobody reads it any more.
var processStderr = sync.OnceValue(func() io.Writer {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	fd, err := syscall.Dup(2)
	if err != nil {
		return io.Discard // this process has none
	}
	syscall.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "stderr")
})
